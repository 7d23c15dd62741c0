//! Floor 7. `colora model`: what there is, what it is made of, and downloads.

use super::generate::open_found;
use super::interrupt;
use super::output::SCHEMA;
use super::progress::{Progress, ProgressKind};
use super::style::{Talk, bytes, clean, result_line};
use super::{settings, store};
use crate::error::Error;
use crate::pipeline::{Cancel, DeviceChoice, Pipeline};
use crate::store::{Entry, HubId, STARTER};
use anyhow::Result;
use clap::{Subcommand, ValueHint};
use serde_json::Value;

/// What `colora model` accepts.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  colora model list
  colora model inspect dreamshaper
  colora model pull hub:owner/name")]
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
        #[arg(value_name = "MODEL", default_value = STARTER, value_hint = ValueHint::AnyPath)]
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
}

/// Runs `colora model`.
pub(super) fn run(args: Args, talk: Talk) -> Result<()> {
    match args.verb {
        Verb::List { json } => list(json),
        Verb::Inspect { model, json } => inspect(&model, json, talk),
        Verb::Pull { model } => pull(&model, talk),
    }
}

fn list(json: bool) -> Result<()> {
    let entries = store(&settings()?).list();
    let width = entries.iter().map(|e| e.name.chars().count()).max().unwrap_or(0);
    for entry in &entries {
        let line = if json { serde_json::to_string(entry)? } else { row(entry, width) };
        result_line(&line)?;
    }
    Ok(())
}

fn row(entry: &Entry, width: usize) -> String {
    let size = entry.bytes.map(bytes).unwrap_or_default();
    let path = entry.path.as_ref().map(|p| p.display().to_string()).unwrap_or_default();
    let line = format!("{:width$}  {:11}  {size:>8}  {path}", entry.name, entry.kind);
    clean(line.trim_end()).replace('\n', "\u{fffd}")
}

fn inspect(name: &str, json: bool, talk: Talk) -> Result<()> {
    let cancel = Cancel::new();
    interrupt::install(&cancel)?;
    let progress = Progress::new(ProgressKind::Auto, talk, json);
    let model = store(&settings()?).resolve(name, &cancel, &|t| progress.transfer(t))?;
    progress.finish();
    let pipeline = open_found(Pipeline::options().device(DeviceChoice::Cpu), model)?;
    let summary = serde_json::to_value(pipeline.summary())?;
    if json {
        let value = serde_json::json!({
            "schema": SCHEMA, "event": "model", "model": pipeline.model_name(), "summary": summary,
        });
        return result_line(&value.to_string());
    }
    result_line(pipeline.model_name())?;
    result_line(&clean(lines(&summary, 1).trim_end()))
}

fn pull(name: &str, talk: Talk) -> Result<()> {
    let id: HubId = name.strip_prefix("hub:").unwrap_or(name).parse()?;
    let cancel = Cancel::new();
    interrupt::install(&cancel)?;
    let progress = Progress::new(ProgressKind::Auto, talk, false);
    let path = store(&settings()?).pull(&id, &cancel, &|t| progress.transfer(t));
    progress.finish();
    let path = path?;
    if path.as_os_str().is_empty() {
        return Err(Error::Internal("a download without a path".into()).into());
    }
    result_line(&path.display().to_string())
}

/// JSON as indented lines for people.
fn lines(value: &Value, depth: usize) -> String {
    let indent = "  ".repeat(depth);
    let Value::Object(map) = value else { return format!("{indent}{}\n", scalar(value)) };
    let width = map.keys().map(String::len).max().unwrap_or(0);
    map.iter()
        .filter(|(_, value)| !value.is_null())
        .map(|(key, value)| {
            let key = key.replace('_', " ");
            match value {
                Value::Object(_) => format!("{indent}{key}\n{}", lines(value, depth + 1)),
                Value::Array(items) if items.iter().any(Value::is_object) => {
                    let items: String = items.iter().map(|item| lines(item, depth + 1)).collect();
                    format!("{indent}{key}\n{items}")
                }
                _ => format!("{indent}{key:width$}  {}\n", scalar(value)),
            }
        })
        .collect()
}

fn scalar(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(scalar).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summaries_are_readable() {
        let value = serde_json::json!({
            "family": "sd1", "pixel_count": 3, "none": null, "parts": ["a", "b"], "unet": {"x": true},
        });
        assert_eq!(lines(&value, 0), "family       sd1\npixel count  3\nparts        a, b\nunet\n  x  true\n");
    }
}
