//! `colora model`: what there is, what it is made of, downloads, and smaller copies.

use super::flags::ProgressKind;
use super::flags::lossy;
use super::interrupt;
use super::progress::Progress;
use super::setup;
use super::style::{Talk, bytes, result_json, result_line, result_path, value};
use crate::app::{SCHEMA, open_found};
use crate::family::{Converted, ModelParts, Summary, quantise};
use crate::lora::write::check_free;
use crate::pipeline::{Cancel, DeviceChoice, Pipeline};
use crate::starter;
use crate::store::{Entry, HubId, Model, STARTER};
use crate::weights::{Placement, Quantisation};
use anyhow::Result;
use clap::{Subcommand, ValueHint};
use std::path::PathBuf;

/// What `colora model` accepts.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  colora model list
  colora model inspect dreamshaper
  colora model pull hub:owner/name
  colora model convert dreamshaper --quantize q8_0 -o dreamshaper-q8.safetensors")]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// List the models that --model can name
    List {
        /// Print one JSON object a model
        #[arg(long)]
        json: bool,
    },
    /// Show what a model is made of
    Inspect {
        /// A name, a file, a folder or hub:owner/name
        #[arg(value_name = "MODEL", value_parser = lossy(), default_value = STARTER, value_hint = ValueHint::AnyPath)]
        model: String,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Download a model into the shared cache, or bring it up to date
    Pull {
        /// hub:owner/name, with @revision or /file if wanted
        #[arg(value_name = "MODEL")]
        model: String,
    },
    /// Write a model as one file with a UNet of 8 or 4 bits a number
    Convert {
        /// A name, a file (safetensors, GGUF, ckpt), a folder or hub:owner/name
        #[arg(value_name = "MODEL", value_parser = lossy(), value_hint = ValueHint::AnyPath)]
        model: String,
        /// q8_0 (half of f16, hardly to be told from it) or q4_0 (a quarter)
        #[arg(long, value_name = "KIND")]
        quantize: Quantisation,
        /// The file to write
        #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
        output: PathBuf,
        /// Overwrite the file
        #[arg(long)]
        force: bool,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
}

/// Runs `colora model`.
pub(super) fn run(args: Args, talk: Talk) -> Result<()> {
    match args.verb {
        Verb::List { json } => list(json, talk),
        Verb::Inspect { model, json } => inspect(&model, json, talk),
        Verb::Pull { model } => pull(&model, talk),
        Verb::Convert { model, quantize, output, force, json } => {
            let written = convert(&model, quantize, &output, force, talk)?;
            let path = output.display().to_string();
            if json {
                let Converted { quantised, plain, bytes } = written;
                let value = serde_json::json!({
                    "schema": SCHEMA, "event": "converted", "path": path, "kind": quantize.name(),
                    "quantised": quantised, "plain": plain, "bytes": bytes,
                });
                return result_json(&value.to_string());
            }
            result_path(&output)
        }
    }
}

fn list(json: bool, talk: Talk) -> Result<()> {
    let store = setup()?.store;
    let entries = store.list();
    for error in store.unreadable() {
        talk.warn_of(&error);
    }
    let width = entries.iter().map(|e| e.name.chars().count()).max().unwrap_or(0);
    for entry in &entries {
        if json {
            let entry = serde_json::to_value(entry)?;
            result_json(&listed(entry).to_string())?;
        } else {
            result_line(&row(entry, width))?;
        }
    }
    Ok(())
}

/// An entry of a list as an object of ours.
pub(super) fn listed(entry: serde_json::Value) -> serde_json::Value {
    let mut value = serde_json::json!({ "schema": SCHEMA, "event": "listed" });
    if let (Some(object), serde_json::Value::Object(entry)) = (value.as_object_mut(), entry) {
        object.extend(entry);
    }
    value
}

fn row(entry: &Entry, width: usize) -> String {
    let size = entry.bytes.map(bytes).unwrap_or_default();
    let path = entry.path.as_ref().map(|p| p.display().to_string()).unwrap_or_default();
    let line = format!("{:width$}  {:11}  {size:>8}  {path}", entry.name, entry.kind);
    value(line.trim_end()).into_owned()
}

fn inspect(name: &str, json: bool, talk: Talk) -> Result<()> {
    let cancel = Cancel::new();
    interrupt::install(&cancel)?;
    let progress = Progress::new(ProgressKind::Auto, talk, json);
    let model = setup()?.store.resolve(name, &cancel, &|t| progress.transfer(t))?;
    progress.finish();
    let pipeline = open_found(Pipeline::options().device(DeviceChoice::Cpu), model)?;
    let summary = pipeline.summary();
    if json {
        let value = serde_json::json!({
            "schema": SCHEMA, "event": "model", "model": pipeline.model_name(), "summary": summary,
        });
        return result_json(&value.to_string());
    }
    result_line(&text(&summary))
}

fn convert(
    name: &str,
    kind: Quantisation,
    output: &std::path::Path,
    force: bool,
    talk: Talk,
) -> Result<Converted> {
    check_free(output, force)?;
    let cancel = Cancel::new();
    interrupt::install(&cancel)?;
    let progress = Progress::new(ProgressKind::Auto, talk, false);
    let model = setup()?.store.resolve(name, &cancel, &|t| progress.transfer(t))?;
    progress.finish();
    let parts = match model {
        Model::Starter => starter::open(Placement::default(), None)?,
        Model::Files(path) => ModelParts::open(&path, Placement::default(), None)?,
    };
    let written = quantise(&parts, kind, output, force, &cancel)?;
    let Converted { quantised, plain, bytes: size } = written;
    let size = bytes(size);
    talk.say(&format!("{quantised} weights in {kind}, {plain} tensors in floats, {size}"));
    Ok(written)
}

fn pull(name: &str, talk: Talk) -> Result<()> {
    let id: HubId = name.strip_prefix("hub:").unwrap_or(name).parse()?;
    let cancel = Cancel::new();
    interrupt::install(&cancel)?;
    let progress = Progress::new(ProgressKind::Auto, talk, false);
    let path = setup()?.store.pull(&id, &cancel, &|t| progress.transfer(t));
    progress.finish();
    result_path(&path?)
}

/// A summary for people.
fn text(summary: &Summary) -> String {
    let Summary { name, family, prediction, in_channels, .. } = summary;
    let Summary { default_size: size, default_steps: steps, default_guidance: guidance, .. } =
        summary;
    let purpose = match in_channels {
        8 => ", edits by instruction",
        9 => ", inpainting",
        _ => "",
    };
    let mut lines = vec![
        format!("{}: {family}, {prediction:?} prediction{purpose}", value(name)),
        format!("defaults: {size}, {steps} steps, guidance {guidance}"),
    ];
    lines.extend(summary.distilled.map(|distilled| format!("made for {distilled}")));
    lines.extend(summary.notes.iter().cloned());
    lines.extend(summary.components.iter().map(|part| {
        let (name, tensors) = (&part.name, part.tensors);
        let (size, types) = (bytes(part.bytes), part.dtypes.join(", "));
        let parameters = part.parameters as f64 / 1e6;
        format!(
            "  {name:14}  {tensors:5} tensors  {parameters:8.1} M parameters  {size:>8}  {types}"
        )
    }));
    lines.join("\n")
}
