//! What pictures of other programs say, against the programs' own reading. The vectors are made by
//! `goldens/records/make_metadata_vectors.py` and `make_foreign_metadata.py`.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod support;

use colora::app::record::{self, ImageRecord};
use colora::lora::LoraRef;
use colora::picture::Parameters;
use colora::prompt::{PromptSyntax, extract_tags};
use colora::sampling::Schedule;
use serde_json::{Map, Value};
use std::path::Path;
use support::golden;

fn json(name: &str) -> Value {
    let text = std::fs::read_to_string(golden(&format!("records/{name}"))).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// A PNG of one pixel with these texts.
fn png(path: &Path, texts: &Map<String, Value>) {
    let file = std::fs::File::create(path).unwrap();
    let mut encoder = png::Encoder::new(file, 512, 768);
    encoder.set_color(png::ColorType::Grayscale);
    for (keyword, text) in texts {
        let text = text.as_str().unwrap().to_owned();
        encoder.add_itxt_chunk(keyword.clone(), text).unwrap();
    }
    let mut writer = encoder.write_header().unwrap();
    writer.write_image_data(&vec![7; 512 * 768]).unwrap();
}

/// The LoRAs of a record in the order of its prompt and then of its list.
fn loras(record: &ImageRecord) -> Vec<Value> {
    let tags = extract_tags(&record.request.prompt).unwrap().tags;
    let tags = tags.iter().map(|tag| LoraRef::parse_tag(&tag.body).unwrap());
    let number = |weight: Option<f32>| (f64::from(weight.unwrap()) * 1e4).round() / 1e4;
    let row = |lora: LoraRef| serde_json::json!([lora.name, number(lora.unet), number(lora.text)]);
    tags.chain(record.request.loras.clone()).map(row).collect()
}

#[test]
fn pictures_of_other_programs_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.png");
    let rows = json("foreign_metadata.json");
    assert_eq!(rows.as_array().unwrap().len(), 15);
    for row in rows.as_array().unwrap() {
        let kind = row["kind"].as_str().unwrap();
        png(&path, row["png_text"].as_object().unwrap());
        let found = record::read(&path).unwrap_or_else(|error| panic!("{kind}: {error}"));
        compare(kind, &found, &row["expected"]);
    }
}

fn compare(kind: &str, found: &ImageRecord, expected: &Value) {
    let request = &found.request;
    println!("{kind}: {request:?}, not followed: {:?}", found.ignored);
    let prompt = expected.get("prompt_a1111").unwrap_or(&expected["prompt"]);
    assert_eq!(request.prompt, prompt.as_str().unwrap(), "{kind}");
    if kind == "novelai" {
        assert_eq!(request.negative_prompt, "(fog:0.9524), lowres");
    } else {
        assert_eq!(request.negative_prompt, expected["negative"].as_str().unwrap(), "{kind}");
    }
    assert_eq!(request.steps.unwrap() as u64, expected["steps"].as_u64().unwrap(), "{kind}");
    assert_eq!(request.guidance_scale, expected["cfg"].as_f64(), "{kind}");
    assert_eq!(request.seed, expected["seed"].as_u64(), "{kind}");
    let size = serde_json::json!([request.width.unwrap(), request.height.unwrap()]);
    assert_eq!(size, expected["size"], "{kind}");
    assert_eq!(request.sampler.unwrap().spec().label, expected["sampler"], "{kind}");
    if let Some(schedule) = expected.get("schedule") {
        let schedule: Schedule = schedule.as_str().unwrap().parse().unwrap();
        assert_eq!(request.schedule, Some(schedule), "{kind}");
    }
    assert_eq!(found.unknown_sampler, None, "{kind}");
    assert_eq!(found.model.as_deref(), expected.get("model").and_then(Value::as_str), "{kind}");
    let float = |value: &Value| value.as_f64().map_or(value.clone(), Value::from);
    let row = |row: &Value| row.as_array().unwrap().iter().map(float).collect::<Value>();
    let expected_loras: Vec<Value> =
        expected["loras"].as_array().unwrap().iter().map(row).collect();
    assert_eq!(loras(found), expected_loras, "{kind}");
    if let Some(skip) = expected.get("clip_skip") {
        assert_eq!(request.clip_skip.map(|n| n as u64), skip.as_u64(), "{kind}");
    }
    if let Some(other) = expected.get("prompt_2") {
        assert_eq!(found.parameters.get("text_l"), other.as_str(), "{kind}");
    }
    if let Some(vae) = expected.get("vae") {
        assert_eq!(found.parameters.get("VAE"), vae.as_str(), "{kind}");
    }
    let syntax = match expected.get("syntax").and_then(Value::as_str) {
        Some("comfy" | "swarm") => PromptSyntax::Comfy,
        Some("compel") => "compel".parse().unwrap_or(PromptSyntax::Plain),
        _ => PromptSyntax::A1111,
    };
    assert_eq!(request.prompt_syntax, Some(syntax), "{kind}");
    if let Some(hashes) = expected.get("hashes") {
        let has = |name: &str, hash: &Value| {
            found.hashes.iter().any(|found| found.name == name && hash == &found.hash)
        };
        assert!(has("dreamy_v2", &hashes["model"]) && has("ink", &hashes["lora:ink"]), "{kind}");
        assert!(has("ink", &"0123456789ab".into()), "{kind}");
    }
}

/// What colora reads in another way than A1111: a line is settings when it begins with `Steps:`, whatever its number
/// of fields; a prompt that only looks like settings stays a prompt; JSON without quotes is one value; an empty value
/// is one; sizes of two passes and hypernetworks are not made up from old fields.
const DIFFERENT: [&str; 11] = [
    "two fields are no settings",
    "prompt that looks like settings",
    "steps not last",
    "empty value",
    "empty value at the end",
    "json object",
    "civitai",
    "old hires",
    "old hires of itself",
    "hypernet",
    "semicolons",
];

#[test]
fn lines_are_read_as_a1111_reads_them() {
    let vectors = json("metadata_vectors.json");
    let mut different = Vec::new();
    for row in vectors["texts"].as_array().unwrap() {
        let name = row["name"].as_str().unwrap();
        let found = Parameters::parse(row["text"].as_str().unwrap());
        let mut fields: Vec<(String, String)> = Vec::new();
        for (name, value) in &found.fields {
            match fields.iter_mut().find(|(known, _)| known == name) {
                Some((_, known)) => known.clone_from(value),
                None => fields.push((name.clone(), value.clone())),
            }
        }
        let expected = row["fields"].as_object().unwrap();
        let mut theirs: Vec<(String, String)> = Vec::new();
        for key in row["fields_in_order"].as_array().unwrap() {
            let key = key.as_str().unwrap();
            let Value::String(value) = &expected[key] else { continue };
            match (key.strip_suffix("-1"), key.strip_suffix("-2")) {
                (Some(key), _) => theirs.push((key.to_owned(), value.clone())),
                (_, Some(_)) => {
                    let (_, sides) = theirs.last_mut().unwrap();
                    *sides = format!("{sides}x{value}");
                }
                _ => theirs.push((key.to_owned(), value.clone())),
            }
        }
        let same = found.prompt == row["prompt"].as_str().unwrap()
            && found.negative_prompt == row["negative"].as_str().unwrap()
            && fields == theirs;
        if !same {
            println!("{name}: {found:?}\n  {theirs:?} {} {}", row["prompt"], row["negative"]);
            different.push(name);
        }
    }
    assert_eq!(different, DIFFERENT);
}

/// Values are quoted where A1111 quotes them, and where it should: it loses empty values.
#[test]
fn values_are_quoted_as_a1111_quotes_them() {
    let vectors = json("metadata_vectors.json");
    for pair in vectors["quote"].as_array().unwrap() {
        let (value, quoted) = (pair[0].as_str().unwrap(), pair[1].as_str().unwrap());
        let mut parameters = Parameters::default();
        parameters.push("Steps", 1);
        parameters.push("Value", value);
        let text = parameters.render();
        if !["", "tab\tx"].contains(&value) {
            assert_eq!(text, format!("Steps: 1, Value: {quoted}"));
        }
        assert_eq!(Parameters::parse(&text).get("Value"), Some(value));
    }
    for pair in vectors["unquote"].as_array().unwrap() {
        let (quoted, value) = (pair[0].as_str().unwrap(), pair[1].as_str().unwrap());
        let found = Parameters::parse(&format!("Steps: 1, Value: {quoted}"));
        // A comma ends what is not quoted.
        let value = if quoted.starts_with('\'') { "'a" } else { value };
        assert_eq!(found.get("Value"), Some(value), "{quoted}");
    }
}
