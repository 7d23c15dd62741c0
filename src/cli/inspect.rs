//! `colora inspect`: the settings stored in a picture.

use super::generate::as_command;
use super::made_with::MadeWith;
use super::output::SCHEMA;
use super::recipe::{self, Recipe};
use super::style::{Talk, block, result_json, result_line, value};
use super::{settings, store};
use crate::lora::{Apply, Method};
use crate::pipeline::Request;
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
    /// A PNG picture, of colora or of another program
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
    let told = recipe::read(&args.image)?;
    if args.as_command {
        if let Some(warning) = told.shown().warning() {
            talk.say(&warning);
        }
        return result_line(&as_command(&told.into_command(&store(&settings()?))));
    }
    let recipe = told.shown();
    if args.json {
        return result_json(&json(recipe, &args.image)?);
    }
    if let Some(warning) = recipe.warning() {
        talk.say(&warning);
    }
    result_line(&text(recipe))
}

fn json(recipe: &Recipe, path: &Path) -> Result<String> {
    let fields: serde_json::Map<String, serde_json::Value> =
        recipe.parameters.fields.iter().map(|(k, v)| (k.clone(), v.clone().into())).collect();
    Ok(serde_json::to_string(&serde_json::json!({
        "schema": SCHEMA,
        "event": "settings",
        "path": path.to_string_lossy(),
        "model": recipe.model,
        "made_with": recipe.made_with,
        "request": recipe.request,
        "parameters": fields,
        "unknown_sampler": recipe.unknown_sampler,
        "not_followed": recipe.ignored,
    }))?)
}

/// The recipe for people: lines of a prompt after the first are indented, every other value is one line.
fn text(recipe: &Recipe) -> String {
    let prompt = |text: &str| block(text).replace('\n', "\n  ");
    let mut lines = vec![prompt(&recipe.request.prompt)];
    if !recipe.request.negative_prompt.is_empty() {
        lines.push(format!("\nNegative prompt:\n{}", prompt(&recipe.request.negative_prompt)));
    }
    lines.push(String::new());
    let shown =
        |(name, text): &(String, String)| (value(name).into_owned(), value(text).into_owned());
    let mut rows: Vec<(String, String)> = recipe.parameters.fields.iter().map(shown).collect();
    rows.extend(more(recipe).into_iter().map(|(name, text)| shown(&(name.to_owned(), text))));
    let width = rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    lines.extend(rows.iter().map(|(name, value)| format!("{name:width$}  {value}")));
    lines.join("\n").trim_end().to_owned()
}

/// What other programs have no words for.
fn more(recipe: &Recipe) -> Vec<(&'static str, String)> {
    let Request { loras, lora_method: method, apply, tile, .. } = &recipe.request;
    let mut rows: Vec<_> = loras.iter().map(|lora| ("LoRA", lora.to_string())).collect();
    let default = Method::default();
    rows.extend(Some(method).filter(|m| **m != default).map(|m| ("LoRA method", m.to_string())));
    rows.extend(Some(apply).filter(|a| **a != Apply::Auto).map(|a| ("Apply", a.to_string())));
    rows.extend(tile.filter(|tile| *tile).map(|_| ("Tile", "yes".to_owned())));
    let MadeWith { model, vae, quantize, dtype } = recipe.made_with.clone().unwrap_or_default();
    let model = model.filter(|model| recipe.model.as_ref() != Some(model));
    let named =
        [("Model given", model), ("VAE given", vae), ("Quantize", quantize), ("Dtype", dtype)];
    rows.extend(named.into_iter().filter_map(|(name, word)| Some((name, word?))));
    rows
}
