//! `colora embedding`: textual inversions in files of their own.

use super::style::{Talk, result_json, result_line, result_path, value};
use super::{interrupt, setup};
use crate::app::SCHEMA;
use crate::atomic_file;
use crate::error::Error;
use crate::lora::Embedding;
use anyhow::Result;
use clap::{Subcommand, ValueHint};
use serde_json::json;
use std::path::{Path, PathBuf};

/// What `colora embedding` accepts.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  colora embedding add EasyNegative.safetensors
  colora embedding list
  colora -N \"EasyNegative, blurry\" \"a portrait\"            the word alone calls it, as in A1111
  colora --prompt-syntax comfy \"a cat, (embedding:style:1.2)\"")]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// List the embeddings that prompts can call
    List {
        /// Print one JSON object an embedding
        #[arg(long)]
        json: bool,
    },
    /// Show what an embedding holds
    Inspect {
        /// Its word, or a file
        #[arg(value_name = "NAME")]
        name: String,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Copy an embedding into the first folder of embeddings
    Add {
        /// A .safetensors, .pt or .bin file, or a picture that holds one
        #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
        file: PathBuf,
        /// The word that calls it from now on [default: the file's name]
        #[arg(long, value_name = "WORD")]
        name: Option<String>,
        /// Overwrite an embedding of the same name
        #[arg(long)]
        force: bool,
    },
}

/// Runs `colora embedding`.
pub(super) fn run(args: Args, talk: Talk) -> Result<()> {
    match args.verb {
        Verb::List { json } => list(json, talk),
        Verb::Inspect { name, json } => inspect(&name, json),
        Verb::Add { file, name, force } => add(&file, name, force),
    }
}

fn list(json: bool, talk: Talk) -> Result<()> {
    let store = setup()?.store;
    let all = store.embeddings();
    for entry in &all {
        let found = Embedding::open(&entry.path);
        let about = match &found {
            Ok(found) => shapes(found),
            Err(error) => format!("cannot be used: {error}"),
        };
        if json {
            let line = json!({ "schema": SCHEMA, "event": "embedding", "name": entry.name,
                "path": entry.path.to_string_lossy(), "tables": found.ok().map(|found| found.shapes()) });
            result_json(&line.to_string())?;
        } else {
            result_line(&format!("{}  {about}", value(&entry.name)))?;
        }
    }
    if all.is_empty() {
        let folders: Vec<String> =
            store.embedding_folders().iter().map(|path| path.display().to_string()).collect();
        talk.say(&format!("no embeddings in {}", folders.join(", ")));
    }
    Ok(())
}

/// The vectors in words.
fn shapes(embedding: &Embedding) -> String {
    let table = |&(count, width): &(usize, usize)| {
        let s = if count == 1 { "" } else { "s" };
        format!("{count} vector{s} of {width} ({})", made_for(width))
    };
    embedding.shapes().iter().map(table).collect::<Vec<_>>().join(" and ")
}

/// The models whose text encoders are so wide.
fn made_for(width: usize) -> &'static str {
    match width {
        768 => "SD 1.x, or SDXL's first encoder",
        1024 => "SD 2.x",
        1280 => "SDXL's second encoder",
        _ => "another model",
    }
}

fn inspect(name: &str, json: bool) -> Result<()> {
    let path = setup()?.store.embedding(name)?;
    let found = Embedding::open(&path)?;
    found.check()?;
    if json {
        let line = json!({ "schema": SCHEMA, "event": "embedding", "name": found.word,
            "path": path.to_string_lossy(), "tables": found.shapes() });
        return result_json(&line.to_string());
    }
    result_line(&format!("Word     {}", value(&found.word)))?;
    result_line(&format!("File     {}", value(&path.to_string_lossy())))?;
    result_line(&format!("Vectors  {}", shapes(&found)))
}

fn add(file: &Path, name: Option<String>, force: bool) -> Result<()> {
    let cancel = crate::pipeline::Cancel::new();
    interrupt::install(&cancel)?;
    let found = Embedding::open(file)?;
    found.check()?;
    let word = name.unwrap_or_else(|| found.word.clone());
    let plain =
        !word.is_empty() && !word.starts_with('.') && !word.contains(['/', '\\', ':', '\0']);
    if !plain || word.chars().any(char::is_control) {
        let why = "expected a word that can be the name of a file";
        return Err(Error::bad_request("name", word, why).into());
    }
    let folders = setup()?.store.embedding_folders();
    let there = folders.iter().find(|folder| folder.is_dir());
    let folder = there.or(folders.first()).cloned().unwrap_or_default();
    let end = file.extension().unwrap_or_default().to_string_lossy().into_owned();
    let target = folder.join(format!("{word}.{end}"));
    atomic_file::make_folder(&folder)?;
    let mut source = crate::input::open(file)?;
    atomic_file::write(&target, force, atomic_file::Care::Lasting, |to| {
        std::io::copy(&mut source, to).map(drop).map_err(|error| Error::write(&target, error))
    })?;
    result_path(&target)
}
