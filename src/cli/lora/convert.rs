//! `colora lora convert`.

use super::open;
use crate::app::SCHEMA;
use crate::cli::flags::lossy;
use crate::cli::setup;
use crate::cli::style::{Talk, result_json, result_path};
use crate::lora::write::{ConvertOptions, FileDtype, Format, convert};
use anyhow::Result;
use clap::ValueHint;
use std::path::PathBuf;

/// What `colora lora convert` accepts.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  colora lora convert ink.safetensors --to diffusers -o ink-diffusers.safetensors
  colora lora convert ink.safetensors --to peft --component unet -o ink-unet/
  colora lora convert pytorch_lora_weights.safetensors --to kohya -m sdxl -o ink.safetensors")]
pub(super) struct Args {
    /// The LoRA: a file, or a folder of PEFT
    #[arg(value_name = "LORA", value_parser = lossy(), value_hint = ValueHint::AnyPath)]
    lora: String,
    /// Whose names: kohya (every tool), diffusers, peft (a folder)
    #[arg(long, value_name = "FORMAT")]
    to: Format,
    /// The model that it was made for
    #[arg(short, long, value_name = "MODEL", value_parser = lossy(), value_hint = ValueHint::AnyPath)]
    model: Option<String>,
    /// Write only unet, text_encoder or text_encoder_2
    #[arg(long, value_name = "PART")]
    component: Option<String>,
    /// Float type: f32, f16 or bf16 [default: as it is]
    #[arg(long, value_name = "TYPE")]
    dtype: Option<FileDtype>,
    /// The file to write, for peft the folder
    #[arg(short, long, value_name = "PATH", value_hint = ValueHint::AnyPath)]
    output: PathBuf,
    /// Replace what is there
    #[arg(long)]
    force: bool,
    /// Print one JSON object instead of the path
    #[arg(long)]
    json: bool,
}

/// Runs `colora lora convert`.
pub(super) fn run(args: &Args, talk: Talk) -> Result<()> {
    let cancel = open::cancel()?;
    let setup = setup()?;
    let base = open::base(&setup, args.model.as_deref(), talk, &cancel)?;
    let lora = open::adapter(&setup.store, &args.lora, &base, talk)?;
    let options = ConvertOptions {
        format: args.to,
        component: args.component.clone(),
        precision: args.dtype,
        force: args.force,
        cancel,
    };
    let done = convert(&lora, &base.names, &args.output, &options)?;
    for warning in &done.warnings {
        talk.say(&format!("warning: {warning}"));
    }
    let path = done.path.display().to_string();
    if args.json {
        let value = serde_json::json!({
            "schema": SCHEMA, "event": "converted", "path": path, "format": args.to.name(),
            "tensors": done.tensors, "modules": done.modules, "warnings": done.warnings,
        });
        return result_json(&value.to_string());
    }
    result_path(&done.path)
}
