//! Floor 7. `colora lora merge --checkpoint`: a whole model with adapters in it.

use super::merge::Args;
use super::open::{self, Base};
use crate::cli::output::SCHEMA;
use crate::cli::style::{Talk, result_json, result_line};
use crate::error::{Error, Result};
use crate::family::{ModelParts, held_files};
use crate::input;
use crate::lora::write::{CheckpointOptions, Metadata, Precision, check_free, checkpoint};
use crate::lora::{Apply, Method, Overlay};
use crate::sampling::PredictionKind;
use crate::starter;
use crate::weights::Placement;
use candle_core::DType;
use std::fs;
use std::path::Path;

/// Longest configuration or vocabulary that is copied, in bytes.
const MAX_SETTINGS: u64 = 64 << 20;

/// Words in CLIP's vocabulary, which single files leave out.
const CLIP_WORDS: usize = 49408;

/// Writes the model of `args` with its LoRAs, put together by `method`.
pub(super) fn run(args: &Args, method: Method, talk: Talk) -> anyhow::Result<()> {
    check_free(&args.output, args.force)?;
    let cancel = open::cancel()?;
    let first = open::base(args.model.as_deref(), Placement::default(), talk, &cancel)?;
    let precision = args.dtype.unwrap_or_else(|| own_precision(&first.parts));
    let dtype = match precision {
        Precision::F32 => DType::F32,
        Precision::F16 => DType::F16,
        Precision::Bf16 => DType::BF16,
    };
    // Merged weights lie in memory in the type in which they are written.
    let placement = Placement { dtype, ..Placement::default() };
    let base = open::base(args.model.as_deref(), placement, talk, &cancel)?;
    let stack = args.stack(&base, method, talk)?;
    let words = stack.words().used.len();
    if words > 0 {
        talk.say(&format!(
            "warning: {words} words (textual inversions) are left out; a checkpoint has no place for them"
        ));
    }
    let everything = |_: &str| true;
    let overlay =
        Overlay::compose(base.source.clone(), &base.names, &stack, Apply::Merge, everything)?;
    for warning in overlay.warnings() {
        talk.say(&format!("warning: {warning}"));
    }
    let options = CheckpointOptions {
        towers: base.parts.family.towers(),
        precision,
        metadata: notes(&base.parts, &stack.entries.len().to_string()),
        force: args.force,
        cancel: cancel.clone(),
    };
    let tensors = checkpoint(&overlay, &args.output, &options)?;
    let sidecar = describe(&base, &args.output)?;
    if sidecar {
        let folder = args.output.with_extension("config");
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
    result_line(&path)
}

/// The float type of the model's UNet, where it has only one.
fn own_precision(parts: &ModelParts) -> Precision {
    let types = parts.source.inventory("unet").dtypes;
    match types.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["F16"] => Precision::F16,
        ["BF16"] => Precision::Bf16,
        _ => Precision::F32,
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

/// Copies the model's settings beside the file when the file alone would be another model; whether
/// that was needed.
fn describe(base: &Base, file: &Path) -> Result<bool> {
    let words = |parts: &ModelParts| parts.text.iter().all(|text| text.vocab_size == CLIP_WORDS);
    let alone = ModelParts::open(file, Placement::default(), None);
    if words(&base.parts) && alone.is_ok_and(|parts| same(&parts, &base.parts)) {
        return Ok(false);
    }
    let folder = file.with_extension("config");
    match &base.path {
        None => {
            for (path, bytes) in starter::settings() {
                write(&folder.join(path), bytes)?;
            }
        }
        Some(path) if path.is_dir() => copy(path, &folder)?,
        Some(path) => {
            for (name, text) in held_files(path)? {
                write(&folder.join(name), text.as_bytes())?;
            }
            copy(&path.with_extension("config"), &folder)?;
        }
    }
    ModelParts::open(file, Placement::default(), None)?;
    Ok(true)
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
    let Ok(entries) = fs::read_dir(from) else { return Ok(()) };
    for entry in entries {
        let path = entry.map_err(|e| Error::io(from, e))?.path();
        let target = to.join(path.file_name().unwrap_or_default());
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let settings = [".json", ".txt", ".toml"].iter().any(|end| name.ends_with(end));
        if path.is_dir() {
            copy(&path, &target)?;
        } else if settings && !name.ends_with(".index.json") {
            write(&target, &input::bytes(&path, MAX_SETTINGS, "a configuration or vocabulary")?)?;
        }
    }
    Ok(())
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let folder = path.parent().unwrap_or(path);
    fs::create_dir_all(folder).map_err(|e| Error::write(folder, e))?;
    fs::write(path, bytes).map_err(|e| Error::write(path, e))
}
