//! Checkpoints in every form give the same model, and hostile files give clear errors.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod support;

use colora::family::{Family, ModelParts};
use colora::sampling::PredictionKind;
use colora::weights::{CheckpointFile, Placement, Site, WeightSource};
use colora::{Cancel, Error, Fault, Pipeline, Plan, Request};
use std::path::{Path, PathBuf};
use support::{copy_folder, golden};

fn open(path: &Path) -> colora::Result<ModelParts> {
    ModelParts::open(path, Placement::default(), None)
}

/// A copy of a single-file checkpoint beside the configs of the model it came from: the small models
/// have widths that shapes alone do not explain.
fn single(folder: &Path, file: &str, model: &str) -> PathBuf {
    let target = folder.join(Path::new(file).file_name().unwrap());
    std::fs::copy(golden(file), &target).unwrap();
    copy_configs(&golden(model), &target.with_extension("config"));
    target
}

fn copy_configs(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy_configs(&path, &target);
        } else if path.extension().is_some_and(|e| e == "json" || e == "txt") {
            std::fs::copy(path, target).unwrap();
        }
    }
}

fn pixels(parts: ModelParts) -> Vec<u8> {
    let pipeline = Pipeline::options().over(parts).unwrap();
    let request = Request {
        prompt: "a lighthouse!".into(),
        negative_prompt: "fog".into(),
        width: Some(72),
        height: Some(64),
        steps: Some(3),
        seed: Some(5),
        ..Request::default()
    };
    let plan: Plan = pipeline.plan(&request, 0).unwrap();
    let mut bytes = Vec::new();
    let silent = |_: &colora::Event| {};
    pipeline
        .generate(&plan, &silent, &Cancel::new(), &mut |image| {
            bytes = image.picture.bytes().to_vec();
            Ok(())
        })
        .unwrap();
    bytes
}

#[test]
fn single_files_draw_the_same_bytes_as_folders() {
    let temp = tempfile::tempdir().unwrap();
    for (file, model, family) in [
        ("single/sd15.safetensors", "sd15", Family::Sd1),
        ("single/sd15.ckpt", "sd15", Family::Sd1),
        ("single/sd2.safetensors", "sd2", Family::Sd2),
        ("single/sdxl.safetensors", "sdxl", Family::Sdxl),
    ] {
        let folder = open(&golden(model)).unwrap();
        let alone =
            open(&single(temp.path(), file, model)).unwrap_or_else(|e| panic!("{file}: {e}"));
        assert_eq!((folder.family, alone.family), (family, family), "{file}");
        assert!(pixels(folder) == pixels(alone), "{file} draws other pixels than {model}/");
    }
}

#[test]
fn every_site_of_a_folder_is_in_its_single_file_with_its_shape() {
    let temp = tempfile::tempdir().unwrap();
    for model in ["sd15", "sd2", "sdxl"] {
        let folder = open(&golden(model)).unwrap();
        let file = format!("single/{model}.safetensors");
        let alone = open(&single(temp.path(), &file, model)).unwrap();
        let wanted: Vec<Site> = folder.source.sites();
        assert!(wanted.len() > 900, "{model} has only {} sites", wanted.len());
        for site in wanted {
            let shape = folder.source.shape(&site).unwrap();
            let elements = |s: Vec<usize>| s.iter().product::<usize>();
            let theirs = alone.source.shape(&site).unwrap_or_else(|| panic!("{model}: no {site}"));
            assert_eq!(elements(theirs), elements(shape), "{model}: {site}");
        }
    }
}

#[test]
fn sd2_files_predict_v_unless_their_name_says_otherwise() {
    let temp = tempfile::tempdir().unwrap();
    // Without configs beside them the widths of the small models make no sense, but the prediction
    // is decided before; so only the message about widths may come.
    let target = temp.path().join("my-sd2.safetensors");
    std::fs::copy(golden("single/sd2.safetensors"), &target).unwrap();
    let error = open(&target).unwrap_err();
    assert_eq!(error.fault(), Fault::Unsupported, "{error}");
    let parts = open(&golden("sd2")).unwrap();
    assert_eq!(parts.scheduler.prediction_type, PredictionKind::V);
}

#[test]
fn another_vae_takes_the_place_of_the_own_one() {
    let own = open(&golden("sd15")).unwrap();
    let other =
        ModelParts::open(&golden("sd15"), Placement::default(), Some(&golden("sd2"))).unwrap();
    assert!(pixels(own) != pixels(other));
    let wrong = golden("bad/only_lora.safetensors");
    let error = ModelParts::open(&golden("sd15"), Placement::default(), Some(&wrong)).unwrap_err();
    assert!(error.to_string().contains("LoRA"), "{error}");
    assert!(error.to_string().contains("expected a VAE"), "{error}");
}

#[test]
fn hostile_files_are_refused_with_their_reason() {
    let mut seen = 0;
    for entry in std::fs::read_dir(golden("bad")).unwrap() {
        let path = entry.unwrap().path();
        let Err(error) = open(&path) else { panic!("{} was opened", path.display()) };
        let fault = error.fault();
        assert!(
            matches!(fault, Fault::File | Fault::Unsupported | Fault::Resource),
            "{}: {fault:?}: {error}",
            path.display()
        );
        seen += 1;
    }
    assert!(seen >= 50, "only {seen} hostile files");
    for (file, fragment) in [
        ("bomb_system_zip.ckpt", "posix.system"),
        ("bomb_eval_raw.ckpt", "__builtin__.eval"),
        ("empty.safetensors", "empty"),
        ("page.safetensors", "web page"),
        ("pointer.safetensors", "git-lfs pointer"),
        ("truncated_data.safetensors", "expected 77 bytes, have 74"),
        ("header_length_terabyte.safetensors", "1099511627776"),
        ("offsets_overlap.safetensors", "invalid offset"),
        ("family_flux.safetensors", "Flux"),
        ("family_sd3.safetensors", "SD 3"),
        ("flux-folder", "Flux"),
        ("only_lora.safetensors", "a LoRA"),
        ("only_vae.safetensors", "`vae`"),
        ("only_controlnet.safetensors", "ControlNet"),
        ("only_embedding.safetensors", "textual inversion"),
        ("empty-folder", "`unet` is missing"),
        ("zip_bomb.ckpt", "compressed"),
    ] {
        let error = open(&golden("bad").join(file)).unwrap_err().to_string();
        assert!(error.contains(fragment), "{file}: {error}");
    }
}

#[test]
fn a_folder_without_one_of_its_parts_says_which() {
    for part in ["unet", "vae", "text_encoder", "scheduler", "tokenizer"] {
        let temp = tempfile::tempdir().unwrap();
        copy_folder(&golden("sd15"), temp.path());
        std::fs::remove_dir_all(temp.path().join(part)).unwrap();
        // Vocabularies are read when the first text is encoded.
        let error = open(temp.path())
            .and_then(|parts| parts.text_towers(&*parts.source).map(drop))
            .unwrap_err();
        assert!(error.to_string().contains(part), "{part}: {error}");
        assert!(matches!(error.fault(), Fault::File | Fault::NotFound), "{part}: {error}");
    }
}

#[test]
fn shards_outside_of_their_folder_are_not_opened() {
    let temp = tempfile::tempdir().unwrap();
    copy_folder(&golden("sd15"), temp.path());
    let unet = temp.path().join("unet");
    std::fs::remove_file(unet.join("diffusion_pytorch_model.safetensors")).unwrap();
    let index =
        r#"{"weight_map": {"conv_in.weight": "../vae/diffusion_pytorch_model.safetensors"}}"#;
    std::fs::write(unet.join("diffusion_pytorch_model.safetensors.index.json"), index).unwrap();
    let error = open(temp.path()).unwrap_err();
    assert!(matches!(error, Error::Corrupt { .. }), "{error}");
    assert!(error.to_string().contains("outside"), "{error}");
}

#[test]
fn damaged_bytes_never_panic() {
    let temp = tempfile::tempdir().unwrap();
    for name in [
        "pickles/zip.ckpt",
        "pickles/legacy.ckpt",
        "pickles/zip_trainer.ckpt",
        "bad/header_twice.safetensors",
    ] {
        let bytes = std::fs::read(golden(name)).unwrap();
        let path = temp.path().join("damaged");
        let check = |damaged: &[u8]| {
            std::fs::write(&path, damaged).unwrap();
            if let Ok(file) = CheckpointFile::open(&path) {
                let names: Vec<String> = file.names().map(str::to_owned).collect();
                for tensor in names {
                    let _ = file.read_f32(&tensor, None);
                }
            }
        };
        for sixteenth in 0..16 {
            check(&bytes[..bytes.len() * sixteenth / 16]);
        }
        for position in (0..bytes.len()).step_by(bytes.len() / 250 + 1) {
            for flip in [0x01, 0x80, 0xff] {
                let mut damaged = bytes.clone();
                damaged[position] ^= flip;
                check(&damaged);
            }
        }
    }
}

#[test]
fn good_pickles_hold_what_torch_wrote() {
    let expected = CheckpointFile::open(golden("pickles/expected.safetensors")).unwrap();
    let mut compared = 0;
    for entry in std::fs::read_dir(golden("pickles")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "safetensors") {
            continue;
        }
        let file = CheckpointFile::open(&path).unwrap_or_else(|e| panic!("{e}"));
        for name in file.names().filter(|name| expected.info(name).is_some()) {
            let (ours, theirs) = (file.read_f32(name, None), expected.read_f32(name, None));
            assert_eq!(ours.unwrap(), theirs.unwrap(), "{}: {name}", path.display());
            compared += 1;
        }
    }
    assert!(compared >= 14, "only {compared} tensors were compared");
}
