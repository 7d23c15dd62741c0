//! `colora lora inspect`: what a LoRA is, without running anything.

use crate::app::SCHEMA;
use crate::app::base::{Base, adapter};
use crate::cli::flags::lossy;
use crate::cli::setup;
use crate::cli::style::{bytes, result_json, result_line, value};
use crate::lora::{AdapterFile, Block, Inversion, Lora, ModuleInfo};
use crate::weights::Component;
use crate::weights::names::UNetNames;
use anyhow::Result;
use clap::ValueHint;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What `colora lora inspect` accepts.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A name, a file or a folder
    #[arg(value_name = "LORA", value_parser = lossy(), value_hint = ValueHint::AnyPath)]
    lora: String,
    /// Look at it against this model instead of the standard ones
    #[arg(short, long, value_name = "MODEL", value_parser = lossy(), value_hint = ValueHint::AnyPath)]
    model: Option<String>,
    /// Print one JSON object with every module
    #[arg(long)]
    json: bool,
}

/// Widest bar, in characters.
const BAR: usize = 32;
/// Most trigger words that are shown.
const WORDS: usize = 8;
/// Most keys that are shown of those that fit nothing for one reason.
const KEYS: usize = 5;

/// Runs `colora lora inspect`.
pub(super) fn run(args: &Args) -> Result<()> {
    let setup = setup()?;
    let (file, other) = adapter(&setup.store, &args.lora)?;
    let (base, lora) = Base::fitting(&setup.store, args.model.as_deref(), &file)?;
    let modules = lora.describe(&*base.source)?;
    lora.inversions().iter().try_for_each(|word| word.check())?;
    if args.json {
        return result_json(&as_json(&file, &lora, &base, &modules)?.to_string());
    }
    let mut lines = text(&file, &lora, &base, &modules)?;
    lines.extend(other.map(|other| format!("warning: {other}")));
    lines.iter().try_for_each(|line| result_line(&value(line)))
}

fn as_json(file: &AdapterFile, lora: &Lora, base: &Base, modules: &[ModuleInfo]) -> Result<Value> {
    let hashes = file.hashes()?;
    let words: Vec<_> = lora
        .inversions()
        .iter()
        .map(|word| json!({ "token": word.token, "vectors": word.len() }))
        .collect();
    Ok(json!({
        "schema": SCHEMA, "event": "lora", "name": lora.name(), "path": file.path().to_string_lossy(),
        "base": base.name, "family": base.names.family(),
        "sha256": hashes.sha256, "auto_v2": hashes.auto_v2(), "auto_v3": hashes.auto_v3(),
        "trigger_words": triggers(file), "distilled": file.distilled(), "embeddings": words, "report": lora.report(),
        "modules": modules, "metadata": file.metadata(),
    }))
}

fn text(
    file: &AdapterFile,
    lora: &Lora,
    base: &Base,
    modules: &[ModuleInfo],
) -> Result<Vec<String>> {
    let hashes = file.hashes()?;
    let size = file.tensor_file().byte_len();
    let unet = modules.iter().filter(|m| Component::of(&m.module) == Component::UNet).count();
    let mut lines = vec![
        format!("{}: {} for {}", lora.name(), kinds(modules, lora.inversions()), base.name),
        format!("file      {}  {}  {}", file.path().display(), bytes(size), dtypes(modules)),
        format!(
            "hashes    AutoV2 {}  AutoV3 {}",
            hashes.auto_v2(),
            hashes.auto_v3().unwrap_or("-")
        ),
        format!("modules   {} in the UNet, {} in text encoders", unet, modules.len() - unet),
        format!("rank      {}", spread(modules.iter().filter_map(|m| m.rank.map(|r| r as f32)))),
        format!("scale     {} (alpha / rank)", spread(modules.iter().map(|m| m.scale))),
    ];
    let words = triggers(file);
    if !words.is_empty() {
        lines.push(format!("triggers  {}", words.join(", ")));
    }
    for word in lora.inversions() {
        lines.push(format!("new word  {} ({} vectors)", word.token, word.len()));
    }
    lines.extend(file.distilled().map(|distilled| format!("made for  {distilled}")));
    let metadata = file.metadata();
    for (label, key) in
        [("title", "modelspec.title"), ("trained", "ss_network_module"), ("on", "ss_sd_model_name")]
    {
        lines.extend(metadata.get(key).map(|value| format!("{label:8}  {value}")));
    }
    lines.push("blocks    modules and the norm of their change".to_owned());
    lines.extend(chart(modules, base.names.names()));
    lines.extend(report(lora));
    Ok(lines)
}

/// Kinds with how often they occur.
fn kinds(modules: &[ModuleInfo], words: &[Arc<Inversion>]) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for module in modules {
        *counts.entry(&module.kind).or_default() += 1;
    }
    let mut counts: Vec<_> = counts.into_iter().collect();
    counts.sort_by_key(|(kind, count)| (std::cmp::Reverse(*count), *kind));
    match counts[..] {
        [] if words.is_empty() => "nothing that changes a weight".to_owned(),
        [] => "new words alone".to_owned(),
        [(kind, _)] => kind.to_owned(),
        _ => {
            let part = |(kind, count): &(&str, usize)| format!("{count} {kind}");
            counts.iter().map(part).collect::<Vec<_>>().join(", ")
        }
    }
}

fn dtypes(modules: &[ModuleInfo]) -> String {
    let mut types: Vec<&str> = modules.iter().map(|m| m.dtype.as_str()).collect();
    types.sort_unstable();
    types.dedup();
    types.join(", ")
}

/// One value, or the smallest and the largest.
fn spread(values: impl Iterator<Item = f32>) -> String {
    let mut values: Vec<f32> = values.collect();
    values.sort_by(f32::total_cmp);
    match (values.first(), values.last()) {
        (Some(low), Some(high)) if low == high => format!("{low}"),
        (Some(low), Some(high)) => format!("{low} to {high}"),
        _ => "-".to_owned(),
    }
}

/// A line a block, with a bar as long as its share of the largest norm.
fn chart(modules: &[ModuleInfo], names: &UNetNames) -> Vec<String> {
    let mut blocks: BTreeMap<(usize, String), (usize, f64)> = BTreeMap::new();
    for module in modules {
        let entry = blocks.entry(label(&module.module, names)).or_default();
        entry.0 += 1;
        entry.1 += f64::from(module.norm.unwrap_or(0.0)).powi(2);
    }
    let known = modules.iter().any(|module| module.norm.is_some());
    let weight = |(count, squares): &(usize, f64)| {
        if known { squares.sqrt() } else { *count as f64 }
    };
    let largest = blocks.values().map(weight).fold(f64::MIN_POSITIVE, f64::max);
    let line = |((_, label), block): (&(usize, String), &(usize, f64))| {
        let bar = "█".repeat((weight(block) / largest * BAR as f64).round() as usize);
        let norm = if known { format!("  {:.3}", block.1.sqrt()) } else { String::new() };
        format!("  {label:6}  {:4}{norm:>9}  {bar}", block.0)
    };
    blocks.iter().map(line).map(|line| line.trim_end().to_owned()).collect()
}

/// The name of a module's block, with its place in the list.
fn label(module: &str, names: &UNetNames) -> (usize, String) {
    match Block::of(module, names) {
        Some(Block::Base) => (0, "text".to_owned()),
        Some(Block::In(n)) => (100 + n, format!("IN{n:02}")),
        Some(Block::Mid) => (200, "M00".to_owned()),
        Some(Block::Out(n)) => (300 + n, format!("OUT{n:02}")),
        None => (400, "other".to_owned()),
    }
}

/// What did not fit, and what is worth a warning.
fn report(lora: &Lora) -> Vec<String> {
    let report = lora.report();
    let mut lines = vec![format!("keys      {} of {} used", report.used, report.keys)];
    for (why, keys) in &report.reasons {
        lines.push(format!("  unmatched  {} ({why})", keys.len()));
        lines.extend(keys.iter().take(KEYS).map(|key| format!("    {key}")));
        if keys.len() > KEYS {
            lines.push(format!("    and {} more", keys.len() - KEYS));
        }
    }
    lines.extend(report.warnings.iter().map(|warning| format!("warning: {warning}")));
    lines
}

/// Trigger words that the trainer wrote down, the most frequent first.
pub(super) fn triggers(file: &AdapterFile) -> Vec<String> {
    let metadata = file.metadata();
    let phrase = metadata.get("modelspec.trigger_phrase").filter(|text| !text.is_empty());
    let mut words: Vec<String> = phrase.into_iter().cloned().collect();
    let tags = metadata.get("ss_tag_frequency").and_then(|text| serde_json::from_str(text).ok());
    let Some(Value::Object(folders)) = tags else { return words };
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    for (tag, count) in folders.values().filter_map(Value::as_object).flatten() {
        *counts.entry(tag.trim().to_owned()).or_default() += count.as_u64().unwrap_or(0);
    }
    let mut counts: Vec<(String, u64)> = counts.into_iter().collect();
    counts.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(&b.0)));
    words.extend(counts.into_iter().map(|(tag, _)| tag).take(WORDS));
    words.dedup();
    words
}
