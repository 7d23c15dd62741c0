//! What the driver of mutations found (`tests/mutations.rs`), each in its smallest form.

use crate::support::{draw, golden};
use colora::family::ModelParts;
use colora::lora::{AdapterFile, Dictionary, Lora, ReadOptions};
use colora::weights::{Checkpoint, CheckpointFile, Placement, Site};
use colora::{Error, Pipeline, Request};
use std::fs;
use std::path::{Path, PathBuf};

/// A copy of a folder of `tests`, with `from` replaced by `to` in one of its files.
fn changed(good: &Path, file: &str, from: &str, to: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("copy");
    let mut open = vec![PathBuf::new()];
    while let Some(inside) = open.pop() {
        fs::create_dir_all(copy.join(&inside)).unwrap();
        for item in fs::read_dir(good.join(&inside)).unwrap() {
            let path = inside.join(item.unwrap().file_name());
            if good.join(&path).is_dir() {
                open.push(path);
            } else {
                fs::copy(good.join(&path), copy.join(&path)).unwrap();
            }
        }
    }
    let text = fs::read_to_string(copy.join(file)).unwrap();
    assert!(text.contains(from), "{file}: {text}");
    fs::write(copy.join(file), text.replace(from, to)).unwrap();
    (folder, copy)
}

/// Of two tensors of one name in a header the last one counted, without a word.
#[test]
fn a_name_that_stands_twice_is_refused() {
    let entry = r#""a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}"#;
    let header = format!("{{{entry},{entry}}}");
    let bytes = [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &[0; 4]].concat();
    let error = colora::weights::CheckpointFile::from_vec(bytes, "x.safetensors").unwrap_err();
    assert!(error.to_string().contains("`a` stands twice"), "{error}");
    assert_eq!(error.fault().exit_code(), 3);
}

/// Weights of whole numbers were drawn with.
#[test]
fn weights_of_whole_numbers_are_refused() {
    let header = r#"{"w":{"dtype":"I16","shape":[2],"data_offsets":[0,4]}}"#;
    let bytes = [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &[7; 4]].concat();
    let file = CheckpointFile::from_vec(bytes, "x.safetensors").unwrap();
    let mut model = Checkpoint::new("x", Placement::default());
    let part = colora::weights::names::Part::Whole;
    let error = model.insert(Site::new("unet.conv_in.weight"), &file, "w", part).unwrap_err();
    assert!(error.to_string().contains("x.safetensors: `w` holds whole numbers"), "{error}");
    model.insert(Site::new("text_encoder.position_ids"), &file, "w", part).unwrap();
}

/// The kinds of an autoencoder's levels were not looked at.
#[test]
fn autoencoders_of_other_blocks_are_refused() {
    for kind in ["DownEncoderBlock2D", "UpDecoderBlock2D"] {
        let (_folder, path) = changed(&golden("sd15"), "vae/config.json", kind, "AttnBlock2D");
        let error = ModelParts::open(&path, Placement::default(), None).unwrap_err();
        assert_eq!(error.fault().exit_code(), 5, "{error}");
        assert!(error.to_string().contains("AttnBlock2D"), "{error}");
    }
}

/// Two tokenizers of different lengths ended in an internal error.
#[test]
fn towers_that_read_different_lengths_are_refused() {
    let file = "tokenizer_2/tokenizer_config.json";
    let (_folder, path) =
        changed(&golden("sdxl"), file, "\"model_max_length\": 77", "\"model_max_length\": 9");
    let pipeline = Pipeline::options().device("cpu".parse().unwrap()).open(&path);
    let request = Request { prompt: "x".into(), steps: Some(1), ..Request::default() };
    let plan = pipeline.as_ref().map(|pipeline| pipeline.plan(&request, 0).unwrap());
    let drawn = pipeline.as_ref().unwrap().generate(
        plan.as_ref().unwrap(),
        &|_: &colora::Event| {},
        &colora::Cancel::new(),
        &mut |_| Ok(()),
    );
    let error = drawn.unwrap_err();
    assert_eq!(error.fault().exit_code(), 3, "{error}");
    assert!(error.to_string().contains("tokenizer_2") && error.to_string().contains("9 tokens"));
    // The good one draws.
    let good = Pipeline::options().device("cpu".parse().unwrap()).open(golden("sdxl")).unwrap();
    draw(&good, &Request { width: Some(64), height: Some(64), ..request });
}

/// Magnitudes that the configuration denies were used without a word.
#[test]
fn magnitudes_without_use_dora_are_refused() {
    let good =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/zoo/good/sd15-peftfolder-rslora-dora");
    let (_folder, path) =
        changed(&good, "adapter_config.json", "\"use_dora\": true", "\"use_dora\": false");
    let parts = ModelParts::open(&golden("sd15"), Placement::default(), None).unwrap();
    let names = Dictionary::new(&*parts.source, parts.family.to_string());
    let read = |path: &Path| -> Result<Lora, Error> {
        Lora::resolve(AdapterFile::open(path)?, &names, ReadOptions::default())
    };
    read(&good).unwrap();
    let error = read(&path).unwrap_err();
    assert!(error.to_string().contains("use_dora is false"), "{error}");
    assert_eq!(error.fault().exit_code(), 3);
}

/// A text encoder without the layer that is asked for blamed the request's clip_skip.
#[test]
fn towers_without_the_layer_that_counts_are_refused() {
    let file = "text_encoder_2/config.json";
    let text = fs::read_to_string(golden("sdxl").join(file)).unwrap();
    let config: serde_json::Value = serde_json::from_str(&text).unwrap();
    let layers = format!("\"num_hidden_layers\": {}", config["num_hidden_layers"]);
    let (_folder, path) = changed(&golden("sdxl"), file, &layers, "\"num_hidden_layers\": 1");
    let error = ModelParts::open(&path, Placement::default(), None).unwrap_err();
    assert_eq!(error.fault().exit_code(), 3, "{error}");
    assert!(error.to_string().contains("text_encoder_2"), "{error}");
}
