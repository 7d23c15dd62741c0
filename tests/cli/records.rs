//! Records as they are written and read: formats, hashes, files under other names, `verify`.

use super::support::copy_folder;
use super::world::{MODEL, World};
use serde_json::Value;
use std::fs;

const SMALL: [&str; 8] = ["-W", "64", "-H", "64", "-s", "1", "--seed", "3"];
/// A model of one file and a LoRA for it.
const SINGLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens/single/sd15.safetensors");

fn drawn(more: &[&str]) -> Vec<&'static str> {
    let mut all: Vec<&'static str> = SMALL.to_vec();
    all.extend(more.iter().map(|word| &*Box::leak(word.to_string().into_boxed_str())));
    all
}

#[test]
fn jpeg_and_webp_carry_records() {
    let world = World::new();
    world.run(&drawn(&["-o", "x.png", "a café, 猫"]));
    for name in ["x.jpg", "x.webp"] {
        world.run(&drawn(&["-o", name, "a café, 猫"]));
        let [ours, theirs] = ["x.png", name].map(|name| {
            let json = world.run(&["inspect", "--json", name]);
            serde_json::from_str::<Value>(&json).unwrap()
        });
        assert_eq!(ours["request"], theirs["request"]);
        assert_eq!(ours["parameters"], theirs["parameters"]);
        assert!(world.run(&["verify", name]).contains(": equal"), "{name}");
    }
    assert_eq!(world.pixels("x.png"), world.pixels("x.webp"));
    world.run(&["--from", "x.jpg", "-o", "again.png"]);
    assert_eq!(world.pixels("x.png"), world.pixels("again.png"));
}

#[test]
fn files_are_found_by_their_hashes() {
    let world = World::new();
    fs::create_dir_all(world.path("models")).unwrap();
    fs::copy(SINGLE, world.path("models/one.safetensors")).unwrap();
    let config =
        |name: &str| copy_folder(MODEL.as_ref(), &world.path(&format!("models/{name}.config")));
    config("one");
    config("other");
    world.run(&drawn(&["-m", "one", "-o", "x.png", "a fox"]));
    let shown = world.run(&["inspect", "x.png"]);
    let line = |name: &str| shown.lines().find(|line| line.starts_with(name)).unwrap().to_owned();
    assert!(line("Model hash").split_whitespace().last().unwrap().len() == 10, "{shown}");
    assert!(line("Hashes").contains("{\"model\":\""), "{shown}");
    fs::rename(world.path("models/one.safetensors"), world.path("models/other.safetensors"))
        .unwrap();
    world.run(&["--from", "x.png", "-o", "again.png"]);
    assert_eq!(world.pixels("x.png"), world.pixels("again.png"));
    assert!(world.run(&["verify", "x.png"]).contains(": equal"));
    fs::remove_file(world.path("models/other.safetensors")).unwrap();
    let error = world.fail(4, &["--from", "x.png", "-o", "y.png"]);
    assert!(error.contains("the model `one` with the hash") && error.contains("-m"), "{error}");
    // Of the same name, and another file.
    let other = SINGLE.replace(".safetensors", ".ckpt");
    fs::copy(other, world.path("models/one.ckpt")).unwrap();
    let output = world.command(&["--from", "x.png", "-o", "y.png"]).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && said.contains("another file than the picture's"), "{said}");
}

#[test]
fn pictures_are_verified() {
    let world = World::new();
    world.run(&drawn(&["-o", "x.png", "a fox"]));
    world.run(&drawn(&["-o", "y.png", "--no-metadata", "a fox"]));
    assert_eq!(world.run(&["verify", "x.png"]), "x.png: equal\n");
    let json: Value = serde_json::from_str(&world.run(&["verify", "--json", "x.png"])).unwrap();
    assert_eq!((&json["verdict"], &json["same"]), (&"equal".into(), &true.into()));
    assert!(world.fail(3, &["verify", "y.png"]).contains("no settings"));
    // The record of one picture over the pixels of another.
    let record = colora::picture::png::read_texts(world.path("x.png")).unwrap();
    world.run(&drawn(&["-o", "z.png", "--no-metadata", "another thing"]));
    let pixels = colora::Picture::open(world.path("z.png")).unwrap();
    world.write("z.png", colora::picture::png::encode(&pixels, &record).unwrap());
    let output = world.command(&["verify", "x.png", "y.png", "z.png"]).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(7), "{said}");
    let lines: Vec<&str> = said.lines().collect();
    assert!(lines[0] == "x.png: equal" && lines[1].contains("no settings"), "{said}");
    assert!(lines[2].starts_with("z.png: differs: by up to"), "{said}");
}

/// A stranger's graph names files anywhere: none is opened, and no host is asked.
#[test]
fn graphs_of_strangers_open_nothing() {
    let world = World::new();
    world.write("secret/key.safetensors", "x");
    // What lies beside a picture is in reach; this is not.
    world.write("strange/note.txt", "");
    let secret = world.path("secret/key.safetensors");
    let secret = secret.to_str().unwrap();
    for (model, lora) in [
        (secret, "ink"),
        ("hub:o/n", "ink"),
        ("x", secret),
        ("x", "hub:o/n"),
        ("../secret/key.safetensors", "ink"),
    ] {
        let graph = serde_json::json!({
            "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": model}},
            "2": {"class_type": "LoraLoader", "inputs": {"lora_name": lora, "strength_model": 1.0, "strength_clip": 1.0, "model": ["1", 0], "clip": ["1", 1]}},
            "3": {"class_type": "CLIPTextEncode", "inputs": {"text": "a fox", "clip": ["2", 1]}},
            "4": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64}},
            "5": {"class_type": "KSampler", "inputs": {"seed": 3, "steps": 1, "cfg": 1.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0, "model": ["2", 0], "positive": ["3", 0], "negative": ["3", 0], "latent_image": ["4", 0]}},
            "6": {"class_type": "SaveImage", "inputs": {"images": ["5", 0]}},
        });
        let path = world.path("strange/x.png");
        let mut encoder = png::Encoder::new(fs::File::create(&path).unwrap(), 1, 1);
        encoder.add_itxt_chunk("prompt".into(), graph.to_string()).unwrap();
        encoder.write_header().unwrap().write_image_data(&[7]).unwrap();
        for verb in [&["--from", "strange/x.png", "-o", "y.png"][..], &["verify", "strange/x.png"]]
        {
            let output = world.command(verb).output().unwrap();
            let said = String::from_utf8(output.stderr).unwrap();
            let refused = [Some(2), Some(4)].contains(&output.status.code());
            assert!(refused, "{model} {lora}: {said}");
            assert!(!said.contains("is no safetensors") && !said.contains("header"), "{said}");
        }
    }
}

/// A word of a file draws another picture, in either prompt and syntax; without it nothing changes.
#[test]
fn embeddings_are_called_by_their_words() {
    let world = World::new();
    let draw = |name: &str, more: &[&str]| {
        world.run(&[&drawn(&["-g", "3", "-o", name])[..], more].concat());
        world.pixels(name)
    };
    let plain = draw("a.png", &["a wug"]);
    let width = 32; // of the tiny model
    let values: Vec<u8> =
        (0..2 * width).flat_map(|i| ((i % 7) as f32 / 3.0 - 1.0).to_le_bytes()).collect();
    let view =
        safetensors::tensor::TensorView::new(safetensors::Dtype::F32, vec![2, width], &values);
    let bytes = safetensors::serialize([("emb_params", view.unwrap())], None).unwrap();
    world.write("wug.safetensors", &bytes);
    assert_eq!(draw("b.png", &["a wug"]), plain, "a file in no folder of embeddings");
    world.run(&["embedding", "add", "wug.safetensors"]);
    assert!(world.run(&["embedding", "list"]).starts_with("wug  2 vectors of 32"));
    let called = draw("c.png", &["a WUG"]);
    assert_ne!(called, plain);
    assert_eq!(draw("d.png", &["--prompt-syntax", "comfy", "a embedding:wug"]), called);
    assert_ne!(draw("e.png", &["-N", "wug", "a cat"]), draw("f.png", &["a cat"]));
    let shown = world.run(&["inspect", "c.png"]);
    assert!(
        shown.lines().any(|line| line.starts_with("TI hashes") && line.contains("wug: ")),
        "{shown}"
    );
    assert!(
        world.run(&["verify", "c.png", "d.png", "e.png"]).lines().all(|l| l.ends_with(": equal"))
    );
    world.fail(2, &["embedding", "add", "wug.safetensors"]);
}
