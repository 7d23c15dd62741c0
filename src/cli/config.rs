//! `colora config`: what is set, where, and how to begin.

use super::style::{result_json, result_line, result_path, value as shown};
use super::{env, setup};
use crate::app::SCHEMA;
use crate::atomic_file::{self, Care, make_folder};
use crate::config::{files, keys, template, user_file};
use crate::error::Error;
use anyhow::Result;
use clap::Subcommand;
use std::io::Write;
use std::path::Path;

/// What `colora config` accepts.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Precedence: flags, COLORA_* variables, ./colora.toml, the user's file, the model's defaults.")]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Print what is set
    Show {
        /// Say where each value came from
        #[arg(long)]
        origin: bool,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Print the files that are read, the strongest last
    Path,
    /// Write a file with every key as a comment
    Init {
        /// Write ./colora.toml instead of the user's file
        #[arg(long)]
        local: bool,
        /// Overwrite the file
        #[arg(long)]
        force: bool,
    },
}

/// Runs `colora config`.
pub(super) fn run(args: &Args) -> Result<()> {
    match args.verb {
        Verb::Show { origin, json } => show(origin, json),
        Verb::Path => files(Path::new("."), &env).iter().try_for_each(|f| result_path(f)),
        Verb::Init { local, force } => init(local, force),
    }
}

fn show(origin: bool, json: bool) -> Result<()> {
    let settings = setup()?.settings;
    if json {
        let value = |key| settings.entries().find(|(k, ..)| *k == key).map(|(_, value, _)| value);
        let config = keys().map(|key| Ok((key.to_owned(), serde_json::to_value(value(key))?)));
        let config: serde_json::Map<_, _> = config.collect::<Result<_>>()?;
        let origins: serde_json::Map<String, serde_json::Value> = settings
            .entries()
            .map(|(key, _, from)| (key.to_owned(), from.to_string().into()))
            .collect();
        let mut value = serde_json::json!({
            "schema": SCHEMA, "event": "config", "config": config,
        });
        if origin {
            value["origin"] = origins.into();
        }
        return result_json(&value.to_string());
    }
    settings.entries().try_for_each(|(key, value, from)| {
        let from = if origin { format!("  # {from}") } else { String::new() };
        result_line(&shown(&format!("{key} = {value}{from}")))
    })
}

fn init(local: bool, force: bool) -> Result<()> {
    let path = if local { Some(crate::config::LOCAL_FILE.into()) } else { user_file(&env) };
    let Some(path) = path else {
        return Err(Error::unsupported(
            "a user's settings file",
            "set XDG_CONFIG_HOME or use --local",
        )
        .into());
    };
    if let Some(folder) = path.parent().filter(|f| !f.as_os_str().is_empty()) {
        make_folder(folder)?;
    }
    atomic_file::write(&path, force, Care::Lasting, |file| {
        file.write_all(template().as_bytes()).map_err(|e| Error::write(&path, e))
    })?;
    result_path(&path)
}
