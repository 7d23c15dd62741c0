//! `--from`: the settings of a picture, and the question whether what it names may be used.

use super::flags::Flags;
use super::style::{Talk, say, value};
use super::warnings;
use crate::app::{Beyond, CheckedRecord, Setup, UncheckedRecord, Used, Way, What};
use crate::error::{Error, Result};
use crate::plain;
use std::io::{BufRead, IsTerminal, Read};
use std::path::Path;

/// Longest answer to a question, in bytes.
const MAX_ANSWER: u64 = 256;

/// The record of the picture at `path`, of which no name leads where it may not.
///
/// # Errors
/// What reading it gives, [`Error::Unsupported`] for a sampler that colora does not have, and
/// [`Error::BadRequest`] naming what lies out of reach and how to go on.
pub(super) fn record(
    path: &Path,
    flags: &Flags,
    setup: &Setup,
    talk: Talk,
) -> Result<CheckedRecord> {
    let unchecked = UncheckedRecord::read(path)?;
    let chosen = flags.request.sets("sampler") && flags.request.sets("schedule");
    if let Some(sampler) = unchecked.shown().unknown_sampler.as_ref().filter(|_| !chosen) {
        return Err(Error::unsupported(
            format!("the sampler `{}` of {}", value(sampler), plain::path(path)),
            "choose with --sampler and --schedule",
        ));
    }
    warnings::of_record(unchecked.shown(), talk);
    let used = Used {
        model: flags.model.is_none(),
        refiner: !flags.request.sets("refiner"),
        vae: flags.vae.is_none(),
        loras: !flags.request.sets("loras"),
        tags: flags.prompt.is_none(),
    };
    if flags.trust_picture {
        return Ok(unchecked.trusted(&setup.store, used));
    }
    let config = &setup.settings.config;
    let is_own = |what: What, word: &str| match what {
        What::Model => config.model.as_deref() == Some(word),
        What::Vae => config.vae.as_deref() == Some(Path::new(word)),
        What::Refiner | What::Lora | What::Tag => false,
    };
    let (record, beyond) = unchecked.check(&setup.store, used, &is_own);
    if beyond.is_empty() || is_trusted(path, &beyond, flags, talk) {
        return Ok(record);
    }
    Err(refusal(path, &beyond))
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
fn is_trusted(path: &Path, beyond: &[Beyond], flags: &Flags, talk: Talk) -> bool {
    let input = std::io::stdin();
    let reads_prompt = flags.prompt.as_deref() == Some("-");
    if talk.quiet || reads_prompt || !input.is_terminal() || !std::io::stderr().is_terminal() {
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
