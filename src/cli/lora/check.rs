//! `colora lora check`: whether a LoRA is whole and fits a model.

use crate::app::SCHEMA;
use crate::app::base::{Base, adapter};
use crate::cli::flags::lossy;
use crate::cli::setup;
use crate::cli::style::{result_json, result_line, value};
use crate::error::Error;
use crate::lora::{Apply, LoraStack, Overlay, StackEntry, Strength};
use anyhow::Result;
use clap::ValueHint;
use std::sync::Arc;

/// What `colora lora check` accepts.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A name, a file or a folder
    #[arg(value_name = "LORA", value_parser = lossy(), value_hint = ValueHint::AnyPath)]
    lora: String,
    /// The model that it should fit [default: the standard ones]
    #[arg(short, long, value_name = "MODEL", value_parser = lossy(), value_hint = ValueHint::AnyPath)]
    model: Option<String>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Keys of a file in words.
fn listed(keys: &[String]) -> String {
    keys.iter().map(|key| value(key)).collect::<Vec<_>>().join(", ")
}

/// Runs `colora lora check`: every number is read, and every change computed once.
pub(super) fn run(args: &Args) -> Result<()> {
    let setup = setup()?;
    let (file, other) = adapter(&setup.store, &args.lora)?;
    if let Some(other) = other {
        let why = format!("{other}; `colora lora add` writes a card anew");
        return Err(Error::corrupt(file.path(), why).into());
    }
    let (base, lora) = Base::fitting(&setup.store, args.model.as_deref(), &file)?;
    let lora = Arc::new(lora);
    let entry = StackEntry { lora: lora.clone(), strength: Strength::default() };
    let stack = LoraStack::new(vec![entry]);
    let source = base.source.clone();
    let overlay = Overlay::compose(source, &base.names, &stack, Apply::Merge, |_| true)?;
    lora.inversions().iter().try_for_each(|word| word.check())?;
    let report = lora.report();
    let warnings: Vec<&String> = report.warnings.iter().chain(overlay.warnings()).collect();
    if args.json {
        let value = serde_json::json!({
            "schema": SCHEMA, "event": "check", "name": lora.name(), "base": base.name,
            "changed": overlay.changed(), "keys": report.keys, "used": report.used,
            "unmatched": report.unmatched, "reasons": report.reasons, "warnings": warnings,
        });
        result_json(&value.to_string())?;
    } else if report.unmatched.is_empty() {
        let mut lines = vec![format!(
            "{}: fits {}; {} of {} keys used, {} weights change",
            lora.name(),
            base.name,
            report.used,
            report.keys,
            overlay.changed()
        )];
        lines.extend(warnings.iter().map(|warning| format!("warning: {warning}")));
        lines.iter().try_for_each(|line| result_line(&value(line)))?;
    }
    if report.unmatched.is_empty() {
        return Ok(());
    }
    let count = report.unmatched.len();
    let groups = report.reasons.iter().map(|(why, keys)| format!("{why}: {}", listed(keys)));
    let groups = groups.chain(report.diagnosis.clone()).collect::<Vec<_>>().join("; ");
    let why = format!("{count} keys fit nothing in {}: {groups}", base.name);
    Err(Error::corrupt(file.path(), why).into())
}
