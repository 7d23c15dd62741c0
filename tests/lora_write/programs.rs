//! The verbs of `colora lora` from outside.
#![cfg(feature = "cli")]

use super::support::golden;
use super::zoo::{Base, zoo};
use colora::family::ModelParts;
use colora::lora::{Apply, LoraRef, LoraStack, Overlay, StackEntry, Strength};
use colora::weights::WeightSource;
use colora::{Cancel, DTypeChoice, DeviceChoice, Event, Pipeline, Request};
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;

/// Runs the program in `folder`.
fn run(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_colora"));
    command.args(["lora"]).args(arguments).current_dir(folder).env_clear();
    for name in ["HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME"] {
        command.env(name, folder.join(".home"));
    }
    command.output().unwrap()
}

/// Runs to success and returns stdout.
fn result(folder: &Path, arguments: &[&str]) -> String {
    let output = run(folder, arguments);
    let talk = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{arguments:?}: {talk}");
    String::from_utf8(output.stdout).unwrap()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn pixels(parts: ModelParts, loras: Vec<LoraRef>) -> Vec<u8> {
    let options = Pipeline::options().device(DeviceChoice::Cpu).dtype(Some(DTypeChoice::F32));
    let pipeline = options.over(parts).unwrap();
    let request = Request {
        loras,
        prompt: "a lighthouse".into(),
        width: Some(64),
        height: Some(64),
        steps: Some(2),
        seed: Some(3),
        ..Request::default()
    };
    let plan = pipeline.plan(&request, 0).unwrap();
    let mut bytes = Vec::new();
    let sink = &mut |image: colora::Generated| {
        bytes = image.picture.bytes().to_vec();
        Ok(())
    };
    pipeline.generate(&plan, &|_: &Event| {}, &Cancel::new(), sink).unwrap();
    bytes
}

#[test]
fn a_merged_checkpoint_holds_the_overlays_bits_and_draws() {
    for (model, lora) in [("sd15", "sd15-lcm-like"), ("sd2", "sd2-kohya"), ("sdxl", "sdxl-kohya")] {
        let folder = tempfile::tempdir().unwrap();
        let file = zoo(&format!("good/{lora}.safetensors"));
        let (weighted, base) = (format!("{}:0.7", text(&file)), golden(model));
        let arguments =
            ["merge", &weighted, "--checkpoint", "-m", text(&base), "-o", "m.safetensors"];
        assert_eq!(
            result(folder.path(), &[&arguments[..], &["--dtype", "f32"]].concat()),
            "m.safetensors\n"
        );
        let made = Base::open(&folder.path().join("m.safetensors"));
        let base = Base::named(model);
        let lora = Arc::new(base.load(&file).unwrap());
        let strength = Strength { unet: 0.7, text: 0.7, ..Strength::default() };
        let stack = LoraStack::new(vec![StackEntry { lora, strength }]);
        let names = &base.dictionary;
        let overlay =
            Overlay::compose(base.source.clone(), names, &stack, Apply::Merge, |_| true).unwrap();
        assert!(overlay.changed() > 5);
        let sites = overlay.sites();
        assert_eq!(made.source.sites(), sites, "{model}");
        for site in sites {
            let shape = overlay.shape(&site).unwrap();
            let (ours, theirs) = (overlay.get_f32(&site, &shape).unwrap(), made.weight(&site));
            let bits = |v: Vec<f32>| v.into_iter().map(f32::to_bits).collect::<Vec<_>>();
            assert!(bits(ours) == bits(theirs), "{model}: {site}");
        }
        let lora = LoraRef { unet: Some(0.7), text: Some(0.7), ..LoraRef::new(text(&file)) };
        let plain = pixels(Base::named(model).parts, Vec::new());
        let with = pixels(base.parts, vec![lora]);
        let merged = pixels(made.parts, Vec::new());
        assert!(merged == with, "{model}: the merged model draws as base and LoRA do");
        assert!(merged != plain, "{model}: the LoRA changes the picture");
    }
}

#[test]
fn verbs_print_paths_or_json_and_never_overwrite() {
    let folder = tempfile::tempdir().unwrap();
    let (base, file) = (golden("sd15"), zoo("good/sd15-kohya.safetensors"));
    let (base, file) = (text(&base), text(&file));
    let at = folder.path();
    let convert = ["convert", file, "--to", "diffusers", "-m", base, "-o", "d.safetensors"];
    assert_eq!(result(at, &convert), "d.safetensors\n");
    let again = run(at, &convert);
    assert_eq!(again.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&again.stderr).contains("--force"));
    let merge = ["merge", file, "d.safetensors:0.5", "-m", base, "-o", "m.safetensors", "--json"];
    let json: serde_json::Value = serde_json::from_str(&result(at, &merge)).unwrap();
    assert_eq!((json["schema"].as_u64(), json["event"].as_str()), (Some(1), Some("merged")));
    let resize = ["resize", "m.safetensors", "--rank", "2", "-m", base, "-o", "r.safetensors"];
    let output = run(at, &resize);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "r.safetensors\n");
    assert!(String::from_utf8_lossy(&output.stderr).contains("keep"), "{output:?}");
    let checkpoint = ["merge", file, "--checkpoint", "-m", base, "-o", "whole.safetensors"];
    result(at, &checkpoint);
    let extract = ["extract", base, "whole.safetensors", "--rank", "4", "-o", "e.safetensors"];
    assert_eq!(result(at, &extract), "e.safetensors\n");
    let missing = run(at, &["resize", "none", "--rank", "2", "-m", base, "-o", "x.safetensors"]);
    assert_eq!(missing.status.code(), Some(4));
    let kind = zoo("good/sd15-lyco-loha.safetensors");
    let refused = run(at, &["convert", text(&kind), "--to", "peft", "-m", base, "-o", "p"]);
    assert_eq!(refused.status.code(), Some(5), "{refused:?}");
    assert!(!at.join("p").exists());
}

#[test]
fn merging_keeps_words_and_refuses_what_a_file_cannot_say() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let (base, plain) = (golden("sd15"), zoo("good/sd15-kohya.safetensors"));
    let bundle = zoo("good/sd15-bundle.safetensors");
    let (base, plain, bundle) = (text(&base), text(&plain), text(&bundle));
    let names = |file: &str| {
        let lora = Base::named("sd15").load(&at.join(file)).unwrap();
        lora.inversions().iter().map(|word| word.token.clone()).collect::<Vec<_>>()
    };
    result(at, &["merge", plain, bundle, "-m", base, "-o", "m.safetensors"]);
    assert_eq!(names("m.safetensors"), ["old-star", "params", "single"]);
    result(at, &["resize", "m.safetensors", "--rank", "1", "-m", base, "-o", "r.safetensors"]);
    assert_eq!(names("r.safetensors"), ["old-star", "params", "single"]);
    // The same words with other vectors: which of them are kept is said.
    let both =
        ["merge", bundle, "r.safetensors", "-m", base, "-o", "b.safetensors", "--dtype", "f16"];
    let said = |output: &Output| String::from_utf8_lossy(&output.stderr).into_owned();
    let output = run(at, &both);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(said(&output).matches("brings the word").count(), 3, "{}", said(&output));
    let whole = ["merge", bundle, "--checkpoint", "-m", base, "-o", "w.safetensors"];
    let output = run(at, &whole);
    assert!(said(&output).contains("3 words (textual inversions) are left out"), "{output:?}");
    let windowed = format!("{plain}:0.5:steps=0..0.5");
    for end in [&[][..], &["--checkpoint"]] {
        let arguments = [&["merge", &windowed, "-m", base, "-o", "x.safetensors"], end].concat();
        let output = run(at, &arguments);
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert!(said(&output).contains("leave the window out"), "{output:?}");
    }
    assert!(!at.join("x.safetensors").exists());
}
