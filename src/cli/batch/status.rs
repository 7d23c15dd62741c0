//! `colora batch status`: how far a batch is.

use super::queue;
use super::speak::time;
use crate::app::SCHEMA;
use crate::batch::{self, Row, State};
use crate::cli::style::{block, bytes, excerpt, result_json, result_line};
use crate::error::Error;
use anyhow::Result;
use clap::ValueHint;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// Kinds of failures that are shown.
const MOST: usize = 10;

const EXAMPLES: &str = "\
Examples:
  colora batch status prompts-pictures
  colora batch status prompts-pictures --csv > jobs.csv
  watch colora batch status prompts-pictures

It reads the list and the logs, and may be called while workers are at work.";

/// What `colora batch status` accepts.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Folder of the batch
    #[arg(value_name = "FOLDER", value_hint = ValueHint::DirPath, required_unless_present = "queue")]
    folder: Option<PathBuf>,
    /// Database that hands the jobs out: postgres://USER@HOST/DATABASE
    #[arg(long, value_name = "URL", env = "COLORA_QUEUE", hide_env_values = true)]
    queue: Option<String>,
    /// The batch of the database [default: all]
    #[arg(long, value_name = "NAME", requires = "queue")]
    batch: Option<String>,
    /// One JSON object on stdout
    #[arg(long, conflicts_with = "csv")]
    json: bool,
    /// A table of all jobs on stdout
    #[arg(long, conflicts_with = "queue")]
    csv: bool,
}

/// Runs `colora batch status`.
pub(super) fn run(args: &Args) -> Result<()> {
    match (&args.folder, &args.queue) {
        (Some(folder), _) => of_folder(folder, args),
        (None, Some(queue)) => queue::status(queue, args.batch.as_deref(), args.json),
        (None, None) => {
            Err(Error::bad_request("folder", "", "expected the folder of a batch").into())
        }
    }
}

fn of_folder(folder: &Path, args: &Args) -> Result<()> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    if args.csv {
        result_line("id,line,state,file,seed,seconds,attempt,code,error")?;
    }
    let mut printed = Ok(());
    let mut rows = |row: Row| {
        if args.csv && printed.is_ok() {
            printed = result_line(&line(&row));
        }
        // Nobody reads the rest.
        if printed.is_ok() { Ok(()) } else { Err(Error::Cancelled) }
    };
    let state = batch::status(folder, now, &mut rows);
    printed?;
    let state = state?;
    match (args.csv, args.json) {
        (true, _) => Ok(()),
        (_, true) => {
            let mut value = serde_json::json!({"schema": SCHEMA, "event": "batch-status"});
            if let (Some(map), serde_json::Value::Object(fields)) =
                (value.as_object_mut(), serde_json::to_value(&state)?)
            {
                map.extend(fields);
            }
            result_json(&value.to_string())
        }
        _ => result_line(block(&words(&state)).trim_end()),
    }
}

/// A job as a line of CSV.
fn line(row: &Row) -> String {
    let quoted = |text: &str| format!("\"{}\"", text.replace('"', "\"\""));
    let number = |number: Option<String>| number.unwrap_or_default();
    [
        row.id.clone(),
        row.line.to_string(),
        row.state.to_owned(),
        row.file.as_deref().map(quoted).unwrap_or_default(),
        number(row.seed.map(|seed| seed.to_string())),
        number(row.seconds.map(|seconds| format!("{seconds:.3}"))),
        row.attempt.to_string(),
        number(row.code.map(|code| code.to_string())),
        row.error.as_deref().map(quoted).unwrap_or_default(),
    ]
    .join(",")
}

/// The state for people.
fn words(state: &State) -> String {
    let State { jobs, done, failed, open, .. } = state;
    let mut text = format!("{jobs} jobs: {done} done, {failed} failed, {open} open");
    text += &format!("\n{} of pictures", bytes(state.bytes));
    if let (Some(each), Some(left)) = (state.seconds_each, state.seconds_left) {
        let workers = match state.workers {
            0 => "nobody is at work".to_owned(),
            1 => "one worker".to_owned(),
            many => format!("{many} workers"),
        };
        text += &format!("\n{each:.1} s a picture, {workers}; {} left", time(left));
    }
    if state.unreadable > 0 {
        text += &format!("\n{} lines of the logs are torn or damaged", state.unreadable);
    }
    for failed in state.errors.iter().take(MOST) {
        let lines: Vec<String> = failed.lines.iter().map(ToString::to_string).collect();
        let more = if failed.jobs > lines.len() { ", …" } else { "" };
        let (jobs, code, lines) = (failed.jobs, failed.code, lines.join(", "));
        text += &format!(
            "\nfailed {jobs} times, code {code} (lines {lines}{more}): {}",
            excerpt(&failed.message)
        );
    }
    if state.errors.len() > MOST {
        text += &format!("\nand {} other kinds of failures", state.errors.len() - MOST);
    }
    text
}
