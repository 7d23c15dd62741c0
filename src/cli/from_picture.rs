//! `--from`: the settings of a picture, and the question whether what it names may be used.

use super::flags::Flags;
use super::style::{Talk, say, value};
use super::warnings;
use crate::app::record::Subject;
use crate::app::{Beyond, CheckedRecord, Missing, Setup, UncheckedRecord, Used, Way, What};
use crate::error::{Error, Result};
use crate::pipeline::Cancel;
use crate::plain;
use std::io::{BufRead, IsTerminal, Read};
use std::path::Path;

/// Longest answer to a question, in bytes.
const MAX_ANSWER: u64 = 256;

/// Says of a large file that its hash is computed.
pub(super) fn hashing(file: &Path, done: u64, total: u64, talk: Talk) {
    const LARGE: u64 = 256 << 20;
    if done == 0 && total > LARGE {
        talk.say(&format!("computing the hash of {}, once", file.display()));
    }
}

/// What the caller decides beside the picture.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ask {
    /// Which words of the picture are used at all.
    pub(super) used: Used,
    /// Whether sampler and schedule are the caller's.
    pub(super) chosen: bool,
    /// Whether every word is used, wherever it leads.
    pub(super) trusts: bool,
    /// Whether a question may be asked.
    pub(super) asks: bool,
}

impl Ask {
    /// As the flags of `generate` have it.
    pub(super) fn of(flags: &Flags) -> Self {
        Self {
            used: Used {
                model: flags.model.is_none(),
                refiner: !flags.request.sets("refiner"),
                vae: flags.vae.is_none(),
                loras: !flags.request.sets("loras"),
                tags: flags.prompt.is_none(),
            },
            chosen: flags.request.sets("sampler") && flags.request.sets("schedule"),
            trusts: flags.trust_picture,
            asks: flags.prompt.as_deref() != Some("-"),
        }
    }
}

/// The record of the picture at `path`, of which no name leads where it may not; files are found by their hashes.
///
/// # Errors
/// What reading it gives, [`Error::Unsupported`] for a sampler that colora does not have, [`Error::NotFound`] for
/// files that are not here, and [`Error::BadRequest`] naming what lies out of reach and how to go on.
pub(super) fn record(path: &Path, ask: Ask, setup: &Setup, talk: Talk) -> Result<CheckedRecord> {
    let mut unchecked = UncheckedRecord::read(path)?;
    if let Some(sampler) = unchecked.shown().unknown_sampler.as_ref().filter(|_| !ask.chosen) {
        return Err(Error::unsupported(
            format!("the sampler `{}` of {}", value(sampler), plain::path(path)),
            "choose with --sampler and --schedule",
        ));
    }
    warnings::of_record(unchecked.shown(), Some(&setup.store), talk);
    let progress = |file: &Path, done: u64, total: u64| hashing(file, done, total, talk);
    let missing = unchecked.locate(&setup.store, ask.used, &Cancel::new(), &progress)?;
    if ask.trusts {
        return Ok(unchecked.trusted(&setup.store, ask.used));
    }
    let missing = told_of_others(missing, talk);
    // One that is known by its name alone is named by whoever looks for it.
    if missing.len() > 1 || missing.iter().any(|file| file.hash.is_some()) {
        return Err(not_here(path, &missing));
    }
    let config = &setup.settings.config;
    let is_own = |what: What, word: &str| match what {
        What::Model => config.model.as_deref() == Some(word),
        What::Vae => config.vae.as_deref() == Some(Path::new(word)),
        What::Refiner | What::Lora | What::Tag => false,
    };
    let (record, beyond) = unchecked.check(&setup.store, ask.used, &is_own);
    if beyond.is_empty() || ask.asks && is_trusted(path, &beyond, talk) {
        return Ok(record);
    }
    Err(refusal(path, &beyond))
}

/// Says which files have the names of the picture's and other contents; returns those that have not.
fn told_of_others(missing: Vec<Missing>, talk: Talk) -> Vec<Missing> {
    let (others, missing): (Vec<_>, Vec<_>) = missing.into_iter().partition(|file| file.other);
    for file in others {
        let (name, hash) = (value(&file.name), file.hash.unwrap_or_default());
        let kind = kind(file.subject);
        talk.say(&format!(
            "warning: the picture will differ: the {kind} `{name}` here is another file than the picture's, which has the \
             hash {hash}"
        ));
    }
    missing
}

fn kind(subject: Subject) -> &'static str {
    match subject {
        Subject::Model => "model",
        Subject::Lora => "LoRA",
        Subject::Embedding => "embedding",
    }
}

/// The error for files that a picture was made with and that are not here.
fn not_here(path: &Path, missing: &[Missing]) -> Error {
    let word = |file: &Missing| {
        let hash =
            file.hash.as_ref().map_or(String::new(), |hash| format!(" with the hash {hash}"));
        format!("the {} `{}`{hash}", kind(file.subject), value(&file.name))
    };
    let words: Vec<String> = missing.iter().map(word).collect();
    let hint = format!(
        "; it was made with {}, which the folders of models and LoRAs do not hold under any name; put them there, or take \
         others with -m, -l and a prompt of your own",
        words.join(" and ")
    );
    let name = plain::path(path).to_string();
    Error::NotFound { what: "file of the picture", name, hint, how: None }
}

/// The flag that takes another.
fn other(what: What) -> &'static str {
    match what {
        What::Model => "-m",
        What::Refiner => "--refiner",
        What::Vae => "--vae",
        What::Lora => "-l",
        What::Tag => "a prompt of your own",
    }
}

/// What a picture names and that is out of reach, in words.
fn words(beyond: &[Beyond]) -> Vec<String> {
    let place = |what: What| match what {
        What::Vae => "which does not lie beside the picture",
        _ => "which lies neither in a folder of models or LoRAs nor beside the picture",
    };
    let word = |Beyond { what, word, way }: &Beyond| {
        let place = if *way == Way::Away { "which is not downloaded" } else { place(*what) };
        format!("the {} `{}`, {place}", what.name(), value(word))
    };
    beyond.iter().map(word).collect()
}

fn refusal(path: &Path, beyond: &[Beyond]) -> Error {
    let mut others: Vec<&str> = Vec::new();
    for Beyond { what, .. } in beyond {
        if !others.contains(&other(*what)) {
            others.push(other(*what));
        }
    }
    let why = format!(
        "the picture names {}; --trust-picture uses it all the same, {} another instead",
        words(beyond).join(" and "),
        others.join(" or ")
    );
    Error::bad_request("from", path.display(), why)
}

/// Asks on a terminal whether what is out of reach may be used.
fn is_trusted(path: &Path, beyond: &[Beyond], talk: Talk) -> bool {
    let input = std::io::stdin();
    if talk.quiet || !input.is_terminal() || !std::io::stderr().is_terminal() {
        return false;
    }
    talk.say(&format!("{} names", value(&path.to_string_lossy())));
    for word in words(beyond) {
        talk.say(&format!("  {word}"));
    }
    say("Use it all the same? [y/N]");
    let mut answer = String::new();
    let read = input.lock().take(MAX_ANSWER).read_line(&mut answer);
    read.is_ok() && matches!(answer.trim(), "y" | "Y" | "yes" | "Yes")
}
