//! Which file is which, and files that change while they are used.

use crate::support::{copy_folder, draw, golden};
use colora::lora::{AdapterFile, LoraRef};
use colora::{Cancel, Error, Event, Pipeline, Request};
use std::path::{Path, PathBuf};

fn lora(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("loras").join(name)
}

fn request(loras: &[&Path]) -> Request {
    let named = |path: &&Path| LoraRef::new(path.display().to_string());
    Request {
        prompt: "a red apple".into(),
        width: Some(64),
        height: Some(64),
        steps: Some(1),
        seed: Some(1),
        loras: loras.iter().map(named).collect(),
        ..Request::default()
    }
}

fn starter() -> Pipeline {
    Pipeline::options().device("cpu".parse().unwrap()).open_starter().unwrap()
}

/// `bytes` with every number between the places changed at which a sampled hash would have looked: the
/// beginning, the middle and the end of each tensor.
fn between_samples(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let length = u64::from_le_bytes(*bytes.first_chunk().unwrap()) as usize;
    let header: serde_json::Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    for (name, tensor) in header.as_object().unwrap() {
        if name == "__metadata__" {
            continue;
        }
        let offset = |i: usize| tensor["data_offsets"][i].as_u64().unwrap() as usize;
        let (low, high) =
            (offset(0) + 600, usize::midpoint(offset(0), offset(1)).saturating_sub(300));
        for place in (low..high).skip(1).step_by(2) {
            bytes[8 + length + place] ^= 0x80;
        }
    }
    bytes
}

/// A campaign of forged files: a LoRA that differed in a third of its bytes was drawn as the first one.
#[test]
fn a_forged_lora_is_another_lora() {
    let folder = tempfile::tempdir().unwrap();
    let forged = folder.path().join("forged.safetensors");
    let gold = lora("gold.safetensors");
    std::fs::write(&forged, between_samples(&std::fs::read(&gold).unwrap())).unwrap();
    let print = |path: &Path| AdapterFile::open(path).unwrap().fingerprint().unwrap();
    assert_ne!(print(&gold), print(&forged));
    let pipeline = starter();
    let first = draw(&pipeline, &request(&[&gold]));
    let second = draw(&pipeline, &request(&[&forged]));
    assert_ne!(first.bytes(), second.bytes());
    let both = draw(&pipeline, &request(&[&gold, &forged]));
    assert_eq!(both.bytes(), draw(&pipeline, &request(&[&forged, &gold])).bytes());
    assert_ne!(both.bytes(), draw(&pipeline, &request(&[&gold, &gold])).bytes());
}

/// The same server: a LoRA that was replaced, in place or by another of its name, went on being the old one.
#[test]
fn a_replaced_lora_is_the_new_one_at_the_next_request() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.safetensors");
    let gold = std::fs::read(lora("gold.safetensors")).unwrap();
    let other = between_samples(&gold);
    let pipeline = starter();
    let drawn = |bytes: &[u8], renamed: bool| {
        if renamed {
            let new = folder.path().join("new");
            std::fs::write(&new, bytes).unwrap();
            std::fs::rename(&new, &path).unwrap();
        } else {
            std::fs::write(&path, bytes).unwrap();
        }
        draw(&pipeline, &request(&[&path])).bytes().to_vec()
    };
    let (a, b) = (drawn(&gold, false), drawn(&other, false));
    assert_ne!(a, b);
    assert_eq!(drawn(&gold, true), a);
    assert_eq!(drawn(&other, true), b);
    assert_eq!(drawn(&gold, false), a);
}

/// `cp new old` over a model in use: the process died by SIGBUS, and a server with it.
#[cfg(unix)]
#[test]
fn a_model_that_shrinks_while_it_is_read_is_an_error_that_names_it() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model");
    copy_folder(&golden("sd15"), &model);
    let unet = model.join("unet/diffusion_pytorch_model.safetensors");
    let whole = std::fs::read(&unet).unwrap();
    let open = || Pipeline::options().device("cpu".parse().unwrap()).open(&model).unwrap();
    let pipeline = open();
    let plan = pipeline.plan(&request(&[]), 0).unwrap();
    let shrink = |event: &Event| {
        if matches!(event, Event::Loading { component: "UNet" }) {
            let file = std::fs::File::options().write(true).open(&unet).unwrap();
            file.set_len(whole.len() as u64 / 3).unwrap();
        }
    };
    let drawn = pipeline.generate(&plan, &shrink, &Cancel::new(), &mut |_| Ok(()));
    let error = drawn.unwrap_err();
    assert_eq!(error.fault().exit_code(), 3, "{error}");
    assert!(error.to_string().contains("diffusion_pytorch_model.safetensors"), "{error}");
    assert!(matches!(error, Error::Corrupt { .. }), "{error:?}");
    // The process lives, and draws from the file that is there when it is opened again.
    std::fs::write(&unet, &whole).unwrap();
    let expected = Pipeline::options().device("cpu".parse().unwrap()).open(golden("sd15")).unwrap();
    let picture = draw(&open(), &request(&[]));
    assert_eq!(picture.bytes(), draw(&expected, &request(&[])).bytes());
}
