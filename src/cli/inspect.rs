//! Floor 7. `colora inspect`: the settings stored in a picture.

use super::generate::as_command;
use super::output::SCHEMA;
use super::recipe::{self, Recipe};
use super::style::{clean, result_line};
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
pub(super) fn run(args: &Args) -> Result<()> {
    let recipe = recipe::read(&args.image)?;
    if args.as_command {
        result_line(&as_command(&recipe.located(&args.image)))
    } else if args.json {
        result_line(&json(&recipe, &args.image)?)
    } else {
        result_line(&clean(&text(&recipe)))
    }
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
    }))?)
}

fn text(recipe: &Recipe) -> String {
    let mut lines = vec![recipe.request.prompt.clone()];
    if !recipe.request.negative_prompt.is_empty() {
        lines.push(format!("\nNegative prompt:\n{}", recipe.request.negative_prompt));
    }
    lines.push(String::new());
    let width = recipe.parameters.fields.iter().map(|(name, _)| name.chars().count()).max();
    let width = width.unwrap_or(0);
    lines.extend(recipe.parameters.fields.iter().map(|(k, v)| format!("{k:width$}  {v}")));
    lines.join("\n").trim_end().to_owned()
}
