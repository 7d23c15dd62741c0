//! `colora verify`: pictures are drawn again from their records and compared.

use super::from_picture::{self, Ask};
use super::hints;
use super::style::{Talk, result_json, result_line, value};
use super::{interrupt, setup, threads};
use crate::app::{self, Event, Pool, SCHEMA, Setup, UncheckedRecord, Used, Verdict};
use crate::error::{Error, Result};
use crate::pipeline::{Cancel, DeviceChoice};
use clap::ValueHint;
use serde_json::json;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

/// What `colora verify` accepts.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  colora verify fox.png
  colora verify --tolerance 0 out/*.png       equal to the last bit
  colora verify --json fox.png | jq .verdict

Nothing but the picture decides how it is drawn: its record, not settings files. A JPEG file is compared
as that format holds it. Exit code 7: some pictures differ, or could not be drawn again.")]
pub(super) struct Args {
    /// PNG, JPEG or WebP pictures with settings in them
    #[arg(value_name = "PICTURE", required = true, value_hint = ValueHint::FilePath)]
    pictures: Vec<PathBuf>,
    /// The largest difference of a channel, of 255, that counts as the same picture
    #[arg(long, value_name = "N", default_value_t = 2)]
    tolerance: u8,
    /// Use every model, VAE and LoRA that a picture names, wherever it lies, and download it
    #[arg(long)]
    trust_picture: bool,
    /// auto, cpu, cuda, cuda:1 or metal [default: auto]
    #[arg(long, value_name = "DEVICE")]
    device: Option<DeviceChoice>,
    /// Worker threads on the CPU [default: one a core]
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Print one JSON object a picture
    #[arg(long)]
    json: bool,
}

/// What came of one picture.
struct Outcome {
    verdict: Verdict,
    /// Why the pictures may differ.
    reasons: Vec<String>,
}

/// Runs `colora verify`.
pub(super) fn run(args: &Args, talk: Talk) -> anyhow::Result<()> {
    let setup = setup()?;
    threads::limit(args.threads.or(setup.settings.config.threads), talk)?;
    let cancel = Cancel::new();
    interrupt::install(&cancel)?;
    let pool = Pool::cancelled_by(setup.store.clone(), &cancel);
    let (mut failed, of) = (0, args.pictures.len());
    for path in &args.pictures {
        match verified(args, path, &setup, &pool, talk, &cancel) {
            Ok(outcome) => {
                failed += usize::from(!outcome.verdict.is_within(args.tolerance));
                print(args, path, &outcome)?;
            }
            Err(error) if of == 1 || matches!(error, Error::Cancelled) => return Err(error.into()),
            Err(error) => {
                failed += 1;
                let error = hints::of_error(&error).clone();
                if args.json {
                    let line = json!({ "schema": SCHEMA, "event": "verified",
                        "path": path.to_string_lossy(), "verdict": "failed", "error": error });
                    result_json(&line.to_string())?;
                } else {
                    result_line(&format!("{}: {error}", value(&path.to_string_lossy())))?;
                }
            }
        }
    }
    if failed > 0 { Err(Error::Pictures { failed, of }.into()) } else { Ok(()) }
}

/// Draws one picture again.
fn verified(
    args: &Args,
    path: &Path,
    setup: &Setup,
    pool: &Pool,
    talk: Talk,
    cancel: &Cancel,
) -> Result<Outcome> {
    let ask = Ask { used: Used::ALL, chosen: false, trusts: args.trust_picture, asks: true };
    let shown = UncheckedRecord::read(path)?;
    let checked = from_picture::record(path, ask, setup, talk)?;
    let mut job = app::job_of(&checked, path)?;
    job.device = args.device;
    let observer = |event: &Event<'_>| {
        if let Event::Hashing { file, done, total } = event {
            from_picture::hashing(file, *done, *total, talk);
        }
        ControlFlow::Continue(())
    };
    let (verdict, device) = app::verify(pool, &job, path, &observer, cancel)?;
    let reasons = if verdict == Verdict::Equal { Vec::new() } else { reasons(&shown, &device) };
    Ok(Outcome { verdict, reasons })
}

/// What about the record explains that pictures differ.
fn reasons(record: &UncheckedRecord, device: &str) -> Vec<String> {
    let record = record.shown();
    let mut reasons = Vec::new();
    let own = env!("CARGO_PKG_VERSION");
    match (record.program, record.version.as_deref()) {
        (Some("colora"), Some(version)) if version != own => {
            reasons.push(format!("it was made by colora {version}, this is {own}"));
        }
        (Some(program), _) if program != "colora" => {
            reasons.push(format!("it was made by {program}"));
        }
        _ => {}
    }
    if let Some(theirs) = record.drawn_on.as_deref().filter(|theirs| *theirs != device) {
        reasons.push(format!("it was drawn on {theirs}, now on {device}"));
    }
    if !record.ignored.is_empty() {
        let names: Vec<_> = record.ignored.iter().map(|name| value(name)).collect();
        reasons.push(format!("not followed: {}", names.join(", ")));
    }
    reasons
}

fn print(args: &Args, path: &Path, outcome: &Outcome) -> anyhow::Result<()> {
    let Outcome { verdict, reasons } = outcome;
    if args.json {
        let mut line = json!({ "schema": SCHEMA, "event": "verified", "path": path.to_string_lossy(),
            "same": verdict.is_within(args.tolerance), "tolerance": args.tolerance, "reasons": reasons });
        if let (Some(line), serde_json::Value::Object(more)) =
            (line.as_object_mut(), serde_json::to_value(verdict)?)
        {
            line.extend(more);
        }
        return result_json(&line.to_string());
    }
    let words = match verdict {
        Verdict::Equal => "equal".to_owned(),
        Verdict::Differs(difference) if verdict.is_within(args.tolerance) => {
            format!("within {}/255", difference.largest)
        }
        Verdict::Differs(difference) => {
            let place = difference.at.map_or(String::new(), |[x, y]| format!(" at {x},{y}"));
            format!(
                "differs: by up to {}/255{place}, on average {:.2}/255, in {:.1} % of the pixels",
                difference.largest,
                difference.mean,
                100.0 * difference.part
            )
        }
        Verdict::Sizes { stored: [w, h], drawn: [x, y] } => {
            format!("differs: the file has {w}x{h} pixels, what was drawn {x}x{y}")
        }
    };
    let why = if reasons.is_empty() { String::new() } else { format!(" ({})", reasons.join("; ")) };
    result_line(&format!("{}: {words}{why}", value(&path.to_string_lossy())))
}
