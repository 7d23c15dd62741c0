//! Configs of models: settings that are followed or refused by name, errors that name their file, and models that
//! were made for few steps.

use super::support::{copy_folder, draw, golden};
use colora::family::ModelParts;
use colora::models::Vae;
use colora::sampling::{Sampler, Schedule};
use colora::weights::{Placement, Scope};
use colora::{Error, Fault, Picture, Pipeline, Request};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

fn copy(model: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    copy_folder(&golden(model), folder.path());
    folder
}

fn open(folder: &Path) -> colora::Result<ModelParts> {
    ModelParts::open(folder, Placement::default(), None)
}

fn json_of(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

/// Changes fields of a config; null takes them away.
fn change(folder: &Path, file: &str, changes: &Value) {
    let mut config = json_of(&folder.join(file));
    for (field, value) in changes.as_object().unwrap() {
        match value {
            Value::Null => drop(config.as_object_mut().unwrap().remove(field)),
            value => config[field] = value.clone(),
        }
    }
    fs::write(folder.join(file), config.to_string()).unwrap();
}

const SCHEDULER: &str = "scheduler/scheduler_config.json";

fn request(sampler: Sampler, schedule: Schedule) -> Request {
    Request {
        prompt: "a cat".into(),
        width: Some(64),
        height: Some(64),
        steps: Some(4),
        guidance_scale: Some(7.5),
        sampler: Some(sampler),
        schedule: Some(schedule),
        seed: Some(1),
        ..Request::default()
    }
}

/// These settings were ignored without a word: up to 221 of 255 levels off. The pictures are diffusers' 0.42.
#[test]
fn settings_of_schedulers_are_followed() {
    let (discrete, karras) = (Schedule::Discrete, Schedule::Karras);
    for (name, changes, sampler, schedule) in [
        (
            "sd15-karras-limits",
            json!({"sigma_min": 0.1, "sigma_max": 10.0, "use_karras_sigmas": true}),
            Sampler::Euler,
            karras,
        ),
        (
            "sd15-offset-0",
            json!({"steps_offset": 0, "timestep_spacing": "leading"}),
            Sampler::Euler,
            discrete,
        ),
        ("sd15-offset-missing", json!({"steps_offset": null}), Sampler::Ddim, discrete),
        // The pipeline of SD 1.x takes this away again.
        (
            "sd15-offset-missing",
            json!({"steps_offset": 7, "clip_sample": true}),
            Sampler::Ddim,
            discrete,
        ),
        ("sd15-thresholding", json!({"thresholding": true}), Sampler::DpmPp2m, discrete),
        ("sdxl-clip-sample", json!({"clip_sample": true}), Sampler::Ddim, discrete),
        ("sdxl-clip-sample", json!({"clip_sample": null}), Sampler::Ddim, discrete),
    ] {
        let folder = copy(name.split('-').next().unwrap());
        change(folder.path(), SCHEDULER, &changes);
        let pipeline = Pipeline::open(folder.path()).unwrap();
        let drawn = draw(&pipeline, &request(sampler, schedule));
        let root = golden("").parent().unwrap().join("trust/scheduler");
        let expected = Picture::open(root.join(format!("{name}.png"))).unwrap();
        let pairs = drawn.bytes().iter().zip(expected.bytes());
        let worst = pairs.map(|(ours, theirs)| ours.abs_diff(*theirs)).max().unwrap();
        println!("{name} {changes}: {worst}/255");
        assert!(worst <= 2, "{name} {changes}: {worst}/255");
    }
}

#[test]
fn what_a_sampler_does_not_build_is_refused_by_name() {
    for changes in [
        json!({"algorithm_type": "sde-dpmsolver++"}),
        json!({"solver_order": 3}),
        json!({"solver_type": "adams"}),
    ] {
        let folder = copy("sd15");
        change(folder.path(), SCHEDULER, &changes);
        let pipeline = Pipeline::open(folder.path()).unwrap();
        let plan = |sampler| pipeline.plan(&request(sampler, Schedule::Discrete), 0);
        let error = plan(Sampler::DpmPp2m).unwrap_err();
        assert_eq!(error.fault(), Fault::Unsupported, "{error}");
        let key = changes.as_object().unwrap().keys().next().unwrap();
        assert!(error.to_string().contains(key), "{error}");
        assert!(error.to_string().contains("scheduler_config.json: "), "{error}");
        assert!(plan(Sampler::Euler).is_ok() && plan(Sampler::Ddim).is_ok());
    }
}

/// Opens a model and builds its networks.
fn build(folder: &Path) -> colora::Result<()> {
    let parts = open(folder)?;
    Vae::new(&Scope::new(&*parts.source, "vae"), &parts.vae)?;
    let pipeline = Pipeline::options().over(parts)?;
    let plan = pipeline.plan(&request(Sampler::Euler, Schedule::Discrete), 0)?;
    pipeline.steps(&plan, 0).map(drop)
}

/// 560 mutated configs of a campaign gave errors that named no file, or the folder alone.
#[test]
fn errors_of_configs_name_their_file() {
    let values = [
        json!(-1),
        json!(0),
        json!(70),
        json!(0.5),
        json!(1e30),
        json!(1_000_000_000_000u64),
        json!("x"),
        json!({"nested": 1}),
        json!([]),
    ];
    let (mut refused, mut bad) = (0, Vec::new());
    for (model, files) in [
        ("sd15", vec!["unet", "vae", "text_encoder", "scheduler"]),
        ("sdxl", vec!["unet", "text_encoder_2"]),
    ] {
        let folder = copy(model);
        for part in files {
            let name = if part == "scheduler" { "scheduler_config.json" } else { "config.json" };
            let path = folder.path().join(part).join(name);
            let whole = json_of(&path);
            for field in whole.as_object().unwrap().keys() {
                for value in &values {
                    let mut config = whole.clone();
                    config[field] = value.clone();
                    fs::write(&path, config.to_string()).unwrap();
                    let Err(error) = build(folder.path()) else { continue };
                    refused += 1;
                    if let Some(why) = unclear(&error, folder.path()) {
                        bad.push(format!("{model}/{part}: {field} = {value}: {why}: {error}"));
                    }
                }
            }
            fs::write(&path, whole.to_string()).unwrap();
        }
    }
    println!("{refused} refused");
    assert!(bad.is_empty(), "{}", bad.join("\n"));
    assert!(refused > 200);
}

/// What is amiss with an error about a config in `folder`: it begins with a file of it, its own or one that does
/// not go with it.
fn unclear(error: &Error, folder: &Path) -> Option<&'static str> {
    if !matches!(error.fault(), Fault::File | Fault::Unsupported) {
        return Some("somebody else's fault");
    }
    let said = error.to_string();
    let inside = said.strip_prefix(&format!("{}/", folder.display()));
    let file = inside.and_then(|rest| rest.split_once(": ")).map(|(file, _)| file);
    file.is_none_or(|file| !folder.join(file).is_file()).then_some("no file")
}

#[test]
fn objects_inside_configs_are_named_or_rightly_ignored() {
    let folder = copy("sd15");
    let whole = open(folder.path()).unwrap().scheduler;
    change(folder.path(), SCHEDULER, &json!({"a_custom_thing": {"beta_start": 1}, "list": [{}]}));
    change(folder.path(), "unet/config.json", &json!({"another": {"in_channels": 9}}));
    assert_eq!(open(folder.path()).unwrap().scheduler, whole);
    change(folder.path(), SCHEDULER, &json!({"beta_end": {"value": 0.012}}));
    let error = open(folder.path()).unwrap_err();
    assert!(matches!(error, Error::Corrupt { .. }), "{error}");
    assert!(error.to_string().contains("scheduler_config.json: `beta_end`: "), "{error}");
    // As transformers reads it: the tower stands inside the config of a whole CLIP.
    let folder = copy("sd15");
    let path = folder.path().join("text_encoder/config.json");
    let outer = json!({"architectures": ["CLIPModel"], "model_type": "clip", "text_config": json_of(&path)});
    fs::write(&path, outer.to_string()).unwrap();
    build(folder.path()).unwrap();
    change(
        folder.path(),
        "unet/config.json",
        &json!({"quantization_config": {"quant_method": "gguf"}}),
    );
    let error = open(folder.path()).unwrap_err();
    assert_eq!(error.fault(), Fault::Unsupported, "{error}");
    assert!(error.to_string().contains("unet/config.json: quantization_config (gguf)"), "{error}");
}

/// Runs the program; returns both streams.
#[cfg(feature = "cli")]
fn colora(arguments: &[&str], folder: &Path) -> (String, String) {
    let home = folder.join(".home");
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_colora"));
    command.args(arguments).current_dir(folder).env_clear().env("HOME", home);
    let output = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    let (out, err) = (text(output.stdout), text(output.stderr));
    assert!(output.status.success(), "{arguments:?}: {err}");
    (out, err)
}

/// Such models were drawn in 25 steps at guidance 7.5 by another sampler, and negative prompts did nothing,
/// without a word.
#[cfg(feature = "cli")]
#[test]
fn models_made_for_few_steps_say_so() {
    let folder = copy("sd15");
    fs::remove_dir_all(folder.path().join("unet")).unwrap();
    copy_folder(&golden("variants/lcm"), &folder.path().join("unet"));
    change(folder.path(), SCHEDULER, &json!({"_class_name": "LCMScheduler"}));
    let work = tempfile::tempdir().unwrap();
    let model = folder.path().to_str().unwrap();
    let (out, _) = colora(&["model", "inspect", model], work.path());
    for word in [
        "8 steps, guidance 8",
        "made for 4 to 8 steps, guidance 3 to 13 (LCM)",
        "the negative prompt does not act",
    ] {
        assert!(out.contains(word), "{word}: {out}");
    }
    let draw = |more: &[&str]| {
        let mut arguments = vec!["-m", model, "--size", "64x64", "-S", "1", "--dry-run"];
        arguments.extend(more);
        arguments.push("a cat");
        colora(&arguments, work.path()).1
    };
    let said = draw(&[]);
    assert!(!said.contains("LCM") && !said.contains("negative"), "{said}");
    // The sampler of consistency models is not built.
    let class = "CMStochasticIterativeScheduler";
    change(folder.path(), SCHEDULER, &json!({ "_class_name": class }));
    let said = draw(&[]);
    assert!(said.contains(&format!("{class}, which is not built; lcm takes its place")), "{said}");
    let said = draw(&["-s", "25", "--guidance", "1", "-N", "blurry"]);
    assert!(said.contains("made by LCM for 4 to 8 steps and a guidance of 3 to 13"), "{said}");
    assert!(said.contains("the negative prompt does not act: the network"), "{said}");
}

#[cfg(feature = "cli")]
#[test]
fn a_negative_prompt_without_guidance_is_said_not_to_act() {
    let work = tempfile::tempdir().unwrap();
    let model = golden("sd15");
    let model = model.to_str().unwrap();
    for (guidance, said) in [("1", true), ("2", false)] {
        let arguments = ["-m", model, "--guidance", guidance, "-N", "blurry", "--dry-run", "a cat"];
        let (_, err) = colora(&arguments, work.path());
        assert_eq!(err.contains("the negative prompt does not act at guidance 1"), said, "{err}");
    }
}

#[test]
fn a_turbo_model_is_drawn_as_one() {
    let folder = copy("sdxl");
    change(folder.path(), SCHEDULER, &json!({"timestep_spacing": "trailing"}));
    assert_eq!(open(folder.path()).unwrap().distilled, None);
    fs::write(folder.path().join("README.md"), "---\ntags: [sdxl]\n---\n# My Turbo XL\n").unwrap();
    let parts = open(folder.path()).unwrap();
    assert_eq!((parts.distilled.unwrap().method, parts.defaults.steps), ("Turbo", 4));
    assert_eq!(parts.defaults.sampler, Sampler::EulerA);
    assert_eq!(parts.defaults.schedule, Schedule::Discrete);
    assert!((parts.defaults.guidance_scale - 1.0).abs() < 1e-12);
    // What its author recommends goes before.
    fs::write(folder.path().join("colora.toml"), "default_steps = 6\n").unwrap();
    assert_eq!(open(folder.path()).unwrap().defaults.steps, 6);
    fs::write(folder.path().join("colora.toml"), "default_sampler = \"magic\"\n").unwrap();
    let error = open(folder.path()).unwrap_err();
    assert_eq!(error.fault(), Fault::File, "{error}");
    assert!(error.to_string().contains("colora.toml: sampler = magic"), "{error}");
}
