//! `colora inspect`: the settings stored in a picture.

use super::as_command::as_command;
use super::style::{Talk, block, result_json, result_line, value};
use super::{setup, warnings};
use crate::app::record::ImageRecord;
use crate::app::{ModelChoice, SCHEMA, UncheckedRecord};
use crate::pipeline::fields::FIELDS;
use anyhow::Result;
use clap::ValueHint;
use std::path::{Path, PathBuf};

/// What `colora inspect` accepts.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  colora inspect fox.png
  colora inspect --as-command fox.png      the command that makes it again
  colora inspect --json fox.png | jq .request.seed")]
pub(super) struct Args {
    /// A PNG, JPEG or WebP picture, of colora or of another program
    #[arg(value_name = "IMAGE", value_hint = ValueHint::FilePath)]
    image: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Print the command that makes the picture again
    #[arg(long, conflicts_with = "json")]
    as_command: bool,
}

/// Runs `colora inspect`.
pub(super) fn run(args: &Args, talk: Talk) -> Result<()> {
    let unchecked = UncheckedRecord::read(&args.image)?;
    if args.as_command {
        warnings::of_record(unchecked.shown(), None, talk);
        return result_line(&as_command(&unchecked.into_command(&setup()?.store)));
    }
    let record = unchecked.shown();
    if args.json {
        return result_json(&json(record, &args.image)?);
    }
    warnings::of_record(record, None, talk);
    result_line(&text(record))
}

fn json(record: &ImageRecord, path: &Path) -> Result<String> {
    let fields: serde_json::Map<String, serde_json::Value> =
        record.parameters.fields.iter().map(|(k, v)| (k.clone(), v.clone().into())).collect();
    Ok(serde_json::to_string(&serde_json::json!({
        "schema": SCHEMA,
        "event": "settings",
        "path": path.to_string_lossy(),
        "model": record.model,
        "made_with": record.made_with,
        "request": record.request,
        "parameters": fields,
        "unknown_sampler": record.unknown_sampler,
        "not_followed": record.ignored,
    }))?)
}

/// The record for people: lines of a prompt after the first are indented, every other value is one line.
fn text(record: &ImageRecord) -> String {
    let prompt = |text: &str| block(text).replace('\n', "\n  ");
    let mut lines = vec![prompt(&record.request.prompt)];
    if !record.request.negative_prompt.is_empty() {
        lines.push(format!("\nNegative prompt:\n{}", prompt(&record.request.negative_prompt)));
    }
    lines.push(String::new());
    let shown =
        |(name, text): &(String, String)| (value(name).into_owned(), value(text).into_owned());
    let mut rows: Vec<(String, String)> = record.parameters.fields.iter().map(shown).collect();
    rows.extend(more(record).into_iter().map(|(name, text)| shown(&(name.to_owned(), text))));
    let width = rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    lines.extend(rows.iter().map(|(name, value)| format!("{name:width$}  {value}")));
    lines.join("\n").trim_end().to_owned()
}

/// What other programs have no words for.
fn more(record: &ImageRecord) -> Vec<(&'static str, String)> {
    let mut rows = Vec::new();
    for (field, title) in FIELDS.iter().filter_map(|field| Some((field, field.title?))) {
        let texts = field.texts(&record.request).into_iter();
        rows.extend(texts.filter_map(|text| match text.as_str() {
            "true" => Some((title, "yes".to_owned())),
            "false" => None,
            _ => Some((title, text)),
        }));
    }
    let choice = record.made_with.clone().unwrap_or_default();
    let ModelChoice { model, vae, quantize, dtype } = choice;
    let model = model.filter(|model| record.model.as_ref() != Some(model));
    let named =
        [("Model given", model), ("VAE given", vae), ("Quantize", quantize), ("Dtype", dtype)];
    rows.extend(named.into_iter().filter_map(|(name, word)| Some((name, word?))));
    rows
}
