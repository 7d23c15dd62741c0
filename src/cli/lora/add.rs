//! `colora lora add`.

use crate::cli::style::{Talk, result_path};
use crate::cli::{interrupt, setup};
use crate::error::Error;
use crate::lora::spec::check_weight;
use crate::pipeline::Cancel;
use crate::store::{Card, NewLora};
use anyhow::Result;
use clap::ValueHint;
use std::path::PathBuf;

/// What `colora lora add` accepts.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The file goes into the first folder of LoRAs that exists (`colora doctor` lists them), a card
with its SHA-256 beside it.")]
pub(super) struct Args {
    /// A file of weights
    #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
    file: PathBuf,
    /// Its name from now on, e.g. styles/ink [default: the file's]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// A word that calls its effect; may be repeated
    #[arg(long, value_name = "WORD")]
    trigger: Vec<String>,
    /// Recommended weight; 1 is as trained
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    weight: Option<f32>,
    /// A name for people
    #[arg(long, value_name = "TEXT")]
    title: Option<String>,
    /// Its licence
    #[arg(long, value_name = "TEXT", alias = "license")]
    licence: Option<String>,
    /// Where it came from
    #[arg(long, value_name = "TEXT")]
    source: Option<String>,
    /// The folder to put it in
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    to: Option<PathBuf>,
    /// Link to the file instead of copying it
    #[arg(long)]
    link: bool,
    /// Overwrite a LoRA of the same name
    #[arg(long)]
    force: bool,
}

/// Runs `colora lora add`.
pub(super) fn run(args: Args, talk: Talk) -> Result<()> {
    let Args { file, name, trigger, weight, title, licence, source, to, link, force } = args;
    let weight = weight.map(check_weight).transpose().map_err(|error| match error {
        Error::BadRequest { value, why, .. } => Error::bad_request("weight", value, why),
        other => other,
    })?;
    let card = Card { title, trigger_words: trigger, weight, licence, source, ..Card::default() };
    let cancel = Cancel::new();
    interrupt::install(&cancel)?;
    let new = NewLora { file, name, to, link, force, card };
    let path = setup()?.store.add_lora(&new, &cancel)?;
    talk.say(&format!("card: {}", Card::path(&path).display()));
    result_path(&path)
}
