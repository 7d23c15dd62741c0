//! `colora lora merge --checkpoint`: a whole model with adapters in it.

use super::merge::Args;
use super::open;
use crate::app::SCHEMA;
use crate::app::base::Base;
use crate::atomic_file::{Together, put};
use crate::cli::setup;
use crate::cli::style::{Talk, result_json, result_path};
use crate::error::{Error, Result};
use crate::family::{ModelParts, held_files};
use crate::input;
use crate::lora::write::{CheckpointOptions, FileDtype, Metadata, check_free, checkpoint_among};
use crate::lora::{Apply, Overlay};
use crate::sampling::PredictionKind;
use crate::starter;
use crate::weights::{Component, Placement};
use candle_core::DType;
use std::fs;
use std::path::{Path, PathBuf};

/// Longest configuration or vocabulary that is copied, in bytes.
const MAX_SETTINGS: u64 = 64 << 20;

/// Folders of the diffusers layout in which settings and vocabularies lie.
const PARTS: [&str; 10] = [
    "unet",
    "vae",
    "scheduler",
    "text_encoder",
    "text_encoder_2",
    "tokenizer",
    "tokenizer_2",
    "feature_extractor",
    "image_encoder",
    "safety_checker",
];
/// Words in CLIP's vocabulary, which single files leave out.
const CLIP_WORDS: usize = 49408;

/// Writes the model of `args` with its LoRAs in it.
pub(super) fn run(args: &Args, talk: Talk) -> anyhow::Result<()> {
    let method = args.mix(args.law()?)?;
    let setup = setup()?;
    check_free(&args.output, args.force)?;
    let folder = args.output.with_extension("config");
    let mut both = Together::beside(&args.output, args.force)?;
    both.check(&args.output, false)?;
    both.check(&folder, true)?;
    check_settings(&folder)?;
    let cancel = open::cancel()?;
    let base = open::base(&setup, args.model.as_deref(), talk, &cancel)?;
    let precision = args.dtype.unwrap_or(own_precision(base.parts()?));
    let dtype = match precision {
        FileDtype::F32 => DType::F32,
        FileDtype::F16 => DType::F16,
        FileDtype::Bf16 => DType::BF16,
    };
    // Merged weights lie in memory in the type in which they are written.
    let base = base.read_as(dtype);
    let parts = base.parts()?;
    let stack = args.stack(&setup, &base, method, talk)?;
    let words = stack.words().used.len();
    if words > 0 {
        talk.say(&format!(
            "warning: {words} words (textual inversions) are left out; a checkpoint has no place for them"
        ));
    }
    let everything = |_: Component| true;
    let overlay =
        Overlay::compose(base.source.clone(), &base.names, &stack, Apply::Merge, everything)?;
    for warning in overlay.warnings() {
        talk.say(&format!("warning: {warning}"));
    }
    let options = CheckpointOptions {
        towers: parts.family.towers(),
        precision,
        metadata: notes(parts, &stack.entries.len().to_string()),
        force: args.force,
        cancel: cancel.clone(),
    };
    let (staged, tensors) = checkpoint_among(&mut both, &overlay, &args.output, &options)?;
    let sidecar = describe(&base, &staged, &folder, &mut both)?;
    both.commit()?;
    if sidecar {
        talk.say(&format!("{} describes it; keep it beside the file", folder.display()));
    }
    let path = args.output.display().to_string();
    if args.json {
        let value = serde_json::json!({
            "schema": SCHEMA, "event": "merged", "path": path, "tensors": tensors,
            "changed": overlay.changed(), "config": sidecar,
        });
        return result_json(&value.to_string());
    }
    result_path(&args.output)
}

/// The float type of the model's UNet, where it has only one.
fn own_precision(parts: &ModelParts) -> FileDtype {
    let types = parts.source.inventory(Component::UNet).dtypes;
    match types.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["F16"] => FileDtype::F16,
        ["BF16"] => FileDtype::Bf16,
        _ => FileDtype::F32,
    }
}

fn notes(parts: &ModelParts, count: &str) -> Metadata {
    let prediction = match parts.scheduler.prediction_type {
        PredictionKind::V => "v",
        _ => "epsilon",
    };
    let note = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    Metadata::from([
        note("format", "pt"),
        note("modelspec.prediction_type", prediction),
        note("colora.operation", &format!("merge {count} LoRAs into {}", parts.name)),
        note("colora.version", env!("CARGO_PKG_VERSION")),
    ])
}

/// Puts the model's settings beside the file `staged` when the file alone would be another model; whether
/// that was needed. Without need, older settings go.
fn describe(base: &Base, staged: &Path, folder: &Path, both: &mut Together) -> Result<bool> {
    let words = |parts: &ModelParts| parts.text.iter().all(|text| text.vocab_size == CLIP_WORDS);
    let alone = ModelParts::open(staged, Placement::default(), None);
    let parts = base.parts()?;
    if words(parts) && alone.is_ok_and(|alone| same(&alone, parts)) {
        if folder.is_dir() {
            both.remove(folder);
        }
        return Ok(false);
    }
    let inside = both.folder(folder)?;
    match base.path() {
        None => {
            for (path, bytes) in starter::settings() {
                put(&inside.join(path), bytes)?;
            }
        }
        Some(path) if path.is_dir() => copy(path, &inside)?,
        Some(path) => {
            for (name, text) in held_files(path)? {
                put(&inside.join(name), text.as_bytes())?;
            }
            copy(&path.with_extension("config"), &inside)?;
        }
    }
    ModelParts::open(staged, Placement::default(), None)?;
    Ok(true)
}

/// Refuses to replace a folder of settings in which something else lies.
fn check_settings(folder: &Path) -> Result<()> {
    let foreign = |path: &Path| {
        let why = format!(
            "it holds {}, which is no setting of a model and would be lost; move it away, or choose another name",
            path.display()
        );
        Err(Error::bad_request("output", folder.display(), why))
    };
    for path in items(folder)? {
        let name = path.file_name().unwrap_or_default();
        if path.is_dir() && PARTS.iter().any(|part| name == *part) {
            for path in items(&path)? {
                if !is_setting(&path, true) {
                    return foreign(&path);
                }
            }
        } else if !is_setting(&path, false) {
            return foreign(&path);
        }
    }
    Ok(())
}

/// Whether the file is a setting or a vocabulary of the diffusers layout.
fn is_setting(path: &Path, in_part: bool) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let text = [".json", ".txt"].iter().any(|end| name.ends_with(end));
    let known = if in_part {
        text && !name.ends_with(".index.json")
    } else {
        ["model_index.json", "colora.toml"].contains(&&*name)
    };
    known && path.is_file()
}

/// What lies in a folder; nothing when there is none.
fn items(folder: &Path) -> Result<Vec<PathBuf>> {
    let read = match fs::read_dir(folder) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        read => read.map_err(|e| Error::io(folder, e))?,
    };
    read.map(|item| item.map(|item| item.path()).map_err(|e| Error::io(folder, e))).collect()
}

/// Whether two models differ in nothing but weights and vocabularies.
fn same(a: &ModelParts, b: &ModelParts) -> bool {
    let noise = |parts: &ModelParts| format!("{:?} {:?}", parts.scheduler, parts.defaults);
    (a.family, &a.unet, &a.text, &a.vae) == (b.family, &b.unet, &b.text, &b.vae)
        && noise(a) == noise(b)
        && a.force_zeros_for_empty_prompt == b.force_zeros_for_empty_prompt
}

/// Copies settings and vocabularies of the diffusers layout, no weights.
fn copy(from: &Path, to: &Path) -> Result<()> {
    let one = |path: &Path, to: PathBuf| {
        put(&to, &input::bytes(path, MAX_SETTINGS, "a configuration or vocabulary")?)
    };
    for path in items(from)?.iter().filter(|path| is_setting(path, false)) {
        one(path, to.join(path.file_name().unwrap_or_default()))?;
    }
    for part in PARTS.iter().filter(|part| from.join(part).is_dir()) {
        for path in items(&from.join(part))?.iter().filter(|path| is_setting(path, true)) {
            one(path, to.join(part).join(path.file_name().unwrap_or_default()))?;
        }
    }
    Ok(())
}
