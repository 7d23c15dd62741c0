//! What is refused and why, and how models are found.

use super::support::copy_folder;
use super::world::{MODEL, World, failed, json};
use serde_json::Value;
use std::fs;
use std::path::Path;

#[test]
fn nonsense_is_refused_before_anything_runs() {
    let world = World::new();
    for (arguments, part) in [
        (&["-s0", "x"][..], "steps = 0"),
        (&["-W", "510", "x"], "504 or 512"),
        (&["--size", "64x0", "x"], "multiple of 8"),
        (&["-H", "99999992", "x"], "at most 8192"),
        (&["-g", "0.5", "x"], "--guidance"),
        (&["-g", "NaN", "x"], "guidance_scale"),
        (&["--reuse", "0", "x"], "--reuse"),
        (&["--merge-tokens", "0.9", "x"], "--merge-tokens"),
        (&["--guidance-interval", "0.9..0.1", "x"], "--guidance-interval"),
        (&["-n0", "x"], "count = 0"),
        (&["-n99999", "x"], "count"),
        (&["--clip-skip", "99", "x"], "layers"),
        (&["--size", "7", "x"], "try 8\n"),
        (&["--guidance", "-1", "x"], "guidance_scale = -1"),
        (&["--merge-tokens", "-1", "x"], "merge_tokens = -1"),
        (&["--sampler", "eulr", "x"], "euler"),
        (&["--seed", "1.5", "x"], "random"),
        (&["--device", "tpu", "x"], "expected auto, cpu"),
        (&["--dtype", "fp8", "x"], "bf16"),
        (&["--threads", "0", "x"], "threads = 0"),
        (&["--size", "64x64", "-W", "64", "x"], "cannot be used with"),
        (&["a", "red", "fox"], "unexpected argument"),
        (&["--no-such-flag", "x"], "--no-such-flag"),
        (&["generate"], "PROMPT"),
        (&["inspct", "x.png"], "did you mean `colora inspect`"),
    ] {
        let code = if arguments[0] == "-H" { 6 } else { 2 };
        let error = world.fail(code, arguments);
        assert!(error.contains(part), "{arguments:?}: {error}");
        assert!(!error.contains("panicked"), "{error}");
    }
    assert!(world.files().is_empty());
}

#[test]
fn devices_that_this_build_has_not_are_explained() {
    let world = World::new();
    let devices = [("cuda", cfg!(feature = "cuda")), ("metal", cfg!(feature = "metal"))];
    for (name, _) in devices.into_iter().filter(|(_, built)| !built) {
        let error = world.fail(5, &["--device", name, "-s1", "-o", "x.png", "x"]);
        assert!(error.contains(&format!("--features {name}")), "{error}");
        let output =
            world.command(&["-s1", "-o", "x.png", "x"]).env("COLORA_DEVICE", name).output();
        failed(&output.unwrap(), 5);
    }
    assert!(world.files().is_empty());
}

#[test]
fn without_arguments_a_short_help() {
    let world = World::new();
    let error = world.fail(2, &[]);
    assert_eq!(error.matches("  colora").count(), 3, "{error}");
}

#[test]
fn models_are_found_or_explained() {
    let world = World::new();
    world.write("models/fox.safetensors", "garbage");
    world.write("other/fox.ckpt", "garbage");
    let error = world.fail(4, &["-m", "fxo", "x"]);
    assert!(error.contains("error: no model named `fxo`\n"), "{error}");
    assert!(error.contains("hint: did you mean `fox`? Searched in ./models"), "{error}");
    world.fail(4, &["-m", "./nothing.safetensors", "x"]);
    let error = world.fail(3, &["-m", "fox", "-o", "x.png", "x"]);
    assert!(error.contains("fox.safetensors"), "{error}");
    let list = world.run(&["model", "list"]);
    assert!(list.starts_with("starter") && list.contains("fox      safetensors"), "{list}");
    let first = world.run(&["model", "list", "--json"]);
    let first: Value = serde_json::from_str(first.lines().next().unwrap()).unwrap();
    assert_eq!(first["name"], "starter");
    assert_eq!((&first["schema"], &first["event"]), (&1.into(), &"listed".into()));
    let ambiguous =
        world.command(&["-m", "fox", "x"]).env("COLORA_MODELS", "other").output().unwrap();
    let error = failed(&ambiguous, 4);
    assert!(error.contains("single model") && error.contains("fox.ckpt"), "{error}");
    assert_eq!(world.files(), ["models", "other"]);
}

#[test]
fn garbage_models_are_the_files_fault() {
    let world = World::new();
    let bad = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/bad");
    let mut tried = 0;
    for item in fs::read_dir(bad).unwrap() {
        let path = item.unwrap().path();
        let output = world.command(&["-s1", "-m", path.to_str().unwrap(), "x"]).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        let code = output.status.code();
        // 5: a family that exists but is not supported; 4: a folder that is no model at all.
        assert!(matches!(code, Some(3..=5)), "{}: {code:?} {error}", path.display());
        assert!(error.starts_with("error: ") && !error.contains("panicked"), "{error}");
        tried += 1;
    }
    assert!(tried > 5 && world.files().is_empty());
    world.write("noise.safetensors", [0xa5; 4096]);
    world.fail(3, &["-m", "noise.safetensors", "x"]);
    world.fail(3, &["model", "inspect", "noise.safetensors"]);
}

#[test]
fn a_model_in_the_shared_cache_needs_no_network() {
    let world = World::new();
    let repo = world.path("hf/hub/models--o--tiny");
    let commit = "0123456789abcdef0123456789abcdef01234567";
    copy_folder(Path::new(MODEL), &repo.join("snapshots").join(commit));
    world.write("hf/hub/models--o--tiny/refs/main", commit);
    let run = |name: &str| {
        let mut command = world.command(&["--dry-run", "--json", "-m", name, "x"]);
        command.env("HF_HOME", world.path("hf")).env("HF_HUB_OFFLINE", "1").output().unwrap()
    };
    let found = run("hub:o/tiny");
    assert!(found.status.success(), "{}", String::from_utf8_lossy(&found.stderr));
    let missing = run("hub:o/other");
    let code = if cfg!(feature = "hub") { 4 } else { 5 };
    let error = failed(&missing, code);
    assert!(error.contains(if code == 4 { "HF_HUB_OFFLINE" } else { "--features hub" }), "{error}");
    assert!(world.fail(2, &["-m", "hub:nonsense", "x"]).contains("owner/name"));
}

#[test]
fn models_can_be_looked_into() {
    let world = World::new();
    let text = world.run(&["model", "inspect", MODEL]);
    assert!(text.starts_with("sd15: SD 1.x") && text.contains("unet"), "{text}");
    let value = json(&world.run(&["model", "inspect", "--json", MODEL]));
    assert_eq!((&value["event"], &value["model"]), (&"model".into(), &"sd15".into()));
    assert!(value["summary"]["components"].as_array().unwrap().len() >= 3);
}

#[test]
fn the_starter_and_the_doctor_are_well() {
    let world = World::new();
    let value = json(&world.run(&["doctor", "--json"]));
    assert_eq!((&value["starter"], &value["devices"][0]), (&"ok".into(), &"cpu".into()));
    assert!(world.run(&["doctor"]).contains("\nstarter   ok"));
    assert_eq!(value["models"][0]["exists"], false);
    assert!(value["models"][0]["path"].as_str().unwrap().ends_with("models"));
    if cfg!(target_os = "linux") {
        assert!(value["memory"]["total"].as_u64().unwrap() > 1 << 20);
        assert!(world.run(&["doctor"]).contains(" free of "));
    }
    assert!(world.run(&["doctor"]).contains("models (not there)"));
    world.run(&["-m", "starter", "-s1", "-o", "x.png", "x"]);
    assert_eq!(world.files(), ["x.png"]);
}
