//! `colora lora resize`.

use super::open;
use crate::app::SCHEMA;
use crate::cli::flags::lossy;
use crate::cli::setup;
use crate::cli::style::{Talk, result_json, result_path};
use crate::lora::write::{FileDtype, ResizeOptions, Resized, resize};
use anyhow::Result;
use clap::ValueHint;
use std::path::PathBuf;

/// What `colora lora resize` accepts.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  colora lora resize ink.safetensors --rank 8 -o ink-8.safetensors
  colora lora resize ink.safetensors --energy 0.95 --rank 32 -o ink-small.safetensors")]
pub(super) struct Args {
    /// The LoRA
    #[arg(value_name = "LORA", value_parser = lossy(), value_hint = ValueHint::AnyPath)]
    lora: String,
    /// The model that it was made for
    #[arg(short, long, value_name = "MODEL", value_parser = lossy(), value_hint = ValueHint::AnyPath)]
    model: Option<String>,
    /// Largest rank
    #[arg(long, value_name = "N", required_unless_present = "energy")]
    rank: Option<usize>,
    /// Share of the change's energy that has to stay, e.g. 0.95: ranks differ by module
    #[arg(long, value_name = "SHARE")]
    energy: Option<f64>,
    /// Float type: f32, f16 or bf16 [default: as it is]
    #[arg(long, value_name = "TYPE")]
    dtype: Option<FileDtype>,
    /// The file to write
    #[arg(short, long, value_name = "PATH", value_hint = ValueHint::FilePath)]
    output: PathBuf,
    /// Replace what is there
    #[arg(long)]
    force: bool,
    /// Print one JSON object instead of the path
    #[arg(long)]
    json: bool,
}

/// Runs `colora lora resize`.
pub(super) fn run(args: &Args, talk: Talk) -> Result<()> {
    let cancel = open::cancel()?;
    let setup = setup()?;
    let base = open::base(&setup, args.model.as_deref(), talk, &cancel)?;
    let lora = open::adapter(&setup.store, &args.lora, &base, talk)?;
    let options = ResizeOptions {
        rank: args.rank,
        energy: args.energy,
        precision: args.dtype,
        force: args.force,
        cancel,
    };
    let done = resize(&lora, &base.names, &args.output, &options)?;
    let path = args.output.display().to_string();
    if args.json {
        let mut value = serde_json::json!({ "schema": SCHEMA, "event": "resized", "path": path });
        value["report"] = serde_json::to_value(&done)?;
        return result_json(&value.to_string());
    }
    table(&done).lines().for_each(|line| talk.say(line));
    result_path(&args.output)
}

/// A line a module, and one a component.
fn table(done: &Resized) -> String {
    let width = done.modules.iter().map(|row| row.module.len()).max().unwrap_or(0);
    let mut lines = vec![format!("{:width$}  rank   now  kept", "module")];
    lines.extend(done.modules.iter().map(|row| {
        let share = row.energy * 100.0;
        format!("{:width$}  {:4}  {:4}  {share:.1} %", row.module, row.old, row.new)
    }));
    lines.extend(done.components.iter().map(open::kept));
    lines.join("\n")
}
