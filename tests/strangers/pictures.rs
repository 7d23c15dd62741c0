//! Pictures whose records are meant to hurt: each is read or refused at once, with little memory, and opens nothing.

use colora::app::record;
use colora::picture::{Embedded, Place};
use std::time::{Duration, Instant};

fn keyword(name: &str) -> Place {
    Place::Keyword(name.to_owned())
}

/// Reads texts, and says whether they were refused.
fn refused(texts: Vec<(Place, String)>) -> bool {
    let begin = Instant::now();
    let found = record::read_texts(&Embedded::of(texts));
    assert!(begin.elapsed() < Duration::from_secs(20), "{:?}", begin.elapsed());
    !matches!(found, Some(Ok(_)))
}

/// A graph of `count` nodes, each linked to the one before by `inputs`, in a circle.
fn circle(count: usize, inputs: &[&str]) -> String {
    let mut nodes = serde_json::Map::new();
    for id in 0..count {
        let mut own = serde_json::Map::new();
        for input in inputs {
            own.insert((*input).to_owned(), serde_json::json!([((id + 1) % count).to_string(), 0]));
        }
        let node = serde_json::json!({ "class_type": "KSampler", "inputs": own });
        nodes.insert(id.to_string(), node);
    }
    serde_json::Value::from(nodes).to_string()
}

#[test]
fn graphs_without_end_are_left() {
    let sampler =
        ["positive", "negative", "model", "latent_image", "steps", "seed", "cfg", "sampler_name"];
    for count in [1, 2, 3, 5000] {
        // Whatever is said of it, it is said soon.
        let _ = refused(vec![(keyword("prompt"), circle(count, &sampler))]);
        let _ = refused(vec![(keyword("prompt"), circle(count, &["value", "text", "images"]))]);
    }
    assert!(refused(vec![(keyword("prompt"), circle(10_001, &["model"]))]));
}

#[test]
fn deep_and_long_texts_are_refused() {
    let deep = format!("{{\"prompt\": {}1{}}}", "[".repeat(100_000), "]".repeat(100_000));
    for place in ["parameters", "prompt", "invokeai_metadata", "sd-metadata", "workflow"] {
        assert!(refused(vec![(keyword(place), deep.clone())]), "{place}");
    }
    let novel =
        vec![(keyword("Software"), "NovelAI".to_owned()), (keyword("Comment"), deep.clone())];
    assert!(refused(novel));
    // Long lines are read in a time that grows with their length.
    let fields = "Steps: 1, ".repeat(200_000);
    assert!(!refused(vec![(keyword("parameters"), format!("x\n{fields}"))]));
    let braces = format!("{{\"prompt\": \"{}\", \"uc\": \"\"}}", "{[".repeat(100_000));
    let novel = vec![(keyword("Software"), "NovelAI".to_owned()), (keyword("Comment"), braces)];
    let _ = refused(novel);
}

#[test]
fn xml_that_grows_is_no_record() {
    let mut entities = String::from("<!DOCTYPE x [<!ENTITY a \"aaaaaaaaaa\">");
    for (name, of) in [("b", "a"), ("c", "b"), ("d", "c"), ("e", "d"), ("f", "e"), ("g", "f")] {
        entities.push_str(&format!("<!ENTITY {name} \"{}\">", format!("&{of};").repeat(10)));
    }
    let xml = format!("{entities}]><x><UserComment>&g;</UserComment></x>");
    assert!(refused(vec![(Place::Xmp, xml)]));
    let file = "<!DOCTYPE x [<!ENTITY f SYSTEM \"file:///etc/passwd\">]><x><UserComment>&f;</UserComment></x>";
    assert!(refused(vec![(Place::Xmp, file.to_owned())]));
    assert!(refused(vec![(Place::Xmp, "<x>".repeat(20_000))]));
}

#[test]
fn exif_that_points_anywhere_is_read_without_harm() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.jpg");
    let picture = colora::Picture::new(8, 8, vec![77; 192]).unwrap();
    let texts = colora::picture::Texts { parameters: Some("a fox\nSteps: 1".into()), colora: None };
    let bytes = colora::picture::Format::Jpeg.encode(&picture, &texts).unwrap();
    for at in 0..bytes.len().min(200) {
        for value in [0, 0xff, 0x80] {
            let mut other = bytes.clone();
            other[at] = value;
            std::fs::write(&path, &other).unwrap();
            let _ = record::read(&path);
        }
        std::fs::write(&path, &bytes[..at]).unwrap();
        let _ = record::read(&path);
    }
}
