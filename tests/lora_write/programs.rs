//! The verbs of `colora lora` from outside.
#![cfg(feature = "cli")]

use super::support::golden;
use super::zoo::{Base, zoo};
use colora::lora::{Apply, LoraStack, Overlay, StackEntry, Strength};
use colora::weights::WeightSource;
use colora::{Cancel, Event, Pipeline, Request};
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

fn pixels(pipeline: &Pipeline) -> Vec<u8> {
    let request = Request {
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
        let plain = pixels(&Pipeline::options().over(base.parts).unwrap());
        let merged = pixels(&Pipeline::options().over(made.parts).unwrap());
        assert!(plain != merged, "{model}: the adapters change the picture");
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
