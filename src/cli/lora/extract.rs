//! `colora lora extract`.

use super::open;
use crate::app::SCHEMA;
use crate::cli::flags::lossy;
use crate::cli::setup;
use crate::cli::style::{Talk, result_json, result_path, say};
use crate::error::Error;
use crate::lora::write::{ExtractOptions, Extracted, FileDtype, extract};
use anyhow::Result;
use clap::ValueHint;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Time between two lines of progress.
const OFTEN: Duration = Duration::from_secs(5);

/// What `colora lora extract` accepts.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  colora lora extract sd15 dreamshaper --rank 64 -o dreamshaper-lora.safetensors
  colora lora extract sd15 tuned --rank 32 --conv-rank 8 --full-norms -o tuned-lora.safetensors")]
pub(super) struct Args {
    /// The model that was the beginning
    #[arg(value_name = "BASE", value_parser = lossy(), value_hint = ValueHint::AnyPath)]
    base: String,
    /// The model that it became
    #[arg(value_name = "TUNED", value_parser = lossy(), value_hint = ValueHint::AnyPath)]
    tuned: String,
    /// Rank of linear layers and 1×1 convolutions
    #[arg(long, value_name = "N")]
    rank: usize,
    /// Rank of larger convolutions; 0 leaves them out [default: --rank]
    #[arg(long, value_name = "N")]
    conv_rank: Option<usize>,
    /// Leave modules out in which no number differs by more than this
    #[arg(long, value_name = "X", default_value_t = 0.0, allow_negative_numbers = true)]
    threshold: f32,
    /// Write differences of norms and biases too, whole
    #[arg(long)]
    full_norms: bool,
    /// Float type: f32, f16 or bf16 [default: f16]
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

/// Runs `colora lora extract`.
pub(super) fn run(args: &Args, talk: Talk) -> Result<()> {
    let cancel = open::cancel()?;
    let setup = setup()?;
    let base = open::base(&setup, Some(&args.base), talk, &cancel)?;
    let tuned = open::base(&setup, Some(&args.tuned), talk, &cancel)?;
    let (family, found) = (base.parts()?.family, tuned.parts()?.family);
    if family != found {
        return Err(Error::WrongFamily {
            path: args.tuned.clone().into(),
            expected: format!("{} as {}", family, args.base),
            found: found.to_string(),
            hint: None,
        }
        .into());
    }
    let options = ExtractOptions {
        rank: args.rank,
        conv_rank: args.conv_rank.unwrap_or(args.rank),
        threshold: args.threshold,
        full_norms: args.full_norms,
        precision: args.dtype.unwrap_or(FileDtype::F16),
        force: args.force,
        cancel: cancel.clone(),
    };
    let said = Mutex::new(Instant::now());
    let tell = |done: usize, all: usize| {
        if cancel.is_cancelled() {
            return Err(Error::Cancelled);
        }
        // One thread that prints is enough.
        let Ok(mut said) = said.try_lock() else { return Ok(()) };
        if !talk.quiet && said.elapsed() >= OFTEN {
            *said = Instant::now();
            say(&format!("extracting: {done} of {all} modules"));
        }
        Ok(())
    };
    let (from, to) = (&*base.source, &*tuned.source);
    let done = extract(from, to, &base.names, &args.output, &options, &tell);
    let done = done.map_err(|error| match error {
        // The library does not get the name by which the user chose the model.
        Error::BadRequest { field: "tuned", why, .. } => {
            Error::bad_request("tuned", &args.tuned, why)
        }
        other => other,
    })?;
    report(&done, args, talk)
}

fn report(done: &Extracted, args: &Args, talk: Talk) -> Result<()> {
    for part in &done.components {
        talk.say(&open::kept(part));
    }
    if done.equal > 0 {
        talk.say(&format!("{} modules do not differ", done.equal));
    }
    if let Some(first) = done.left_out.first() {
        let count = done.left_out.len();
        let how = if args.full_norms { "" } else { "; --full-norms keeps norms and biases" };
        talk.say(&format!("left out: {count} tensors that differ, as {first}{how}"));
    }
    let path = args.output.display().to_string();
    if args.json {
        let mut value = serde_json::json!({ "schema": SCHEMA, "event": "extracted", "path": path });
        value["report"] = serde_json::to_value(done)?;
        return result_json(&value.to_string());
    }
    result_path(&args.output)
}
