//! The words of a picture's record, which are a stranger's: nothing is opened, and nothing downloaded, before it was
//! checked where they lead.

use super::choice::ModelChoice;
use super::locate::{Found, Missing, Search};
use super::reach::{Reach, Way, What};
use super::record::{self, ImageRecord};
use crate::error::Result;
use crate::lora::LoraRef;
use crate::pipeline::Cancel;
use crate::prompt::extract_tags;
use crate::store::{Hashing, Store};
use serde::Serialize;
use std::path::{Path, PathBuf};

/// The record of a picture, of which nothing may be opened yet.
#[derive(Debug)]
pub struct UncheckedRecord {
    record: ImageRecord,
    path: PathBuf,
}

/// A record that was checked.
#[derive(Debug)]
pub struct CheckedRecord {
    /// The record; its names lead from the current folder to what the picture means.
    pub record: ImageRecord,
    /// What is used because the picture names it.
    pub named: NamedByPicture,
}

/// What is used because a picture names it.
#[derive(Debug, Clone, Default, Serialize)]
pub struct NamedByPicture {
    /// The picture.
    picture: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    refiner: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    vae: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    loras: Vec<String>,
}

/// A word of a picture that leads out of reach.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Beyond {
    /// What it names.
    pub what: What,
    /// The word.
    pub word: String,
    /// Where it leads.
    pub way: Way,
}

/// Which words of a record are used at all: the caller's own take the place of the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Used {
    /// The model's.
    pub model: bool,
    /// The refiner's.
    pub refiner: bool,
    /// The VAE's.
    pub vae: bool,
    /// Those of the LoRAs.
    pub loras: bool,
    /// Those in the tags of the prompt.
    pub tags: bool,
}

impl Used {
    /// All of them.
    pub const ALL: Used = Used { model: true, refiner: true, vae: true, loras: true, tags: true };
}

impl NamedByPicture {
    fn note(&mut self, what: What, word: &str) {
        match what {
            What::Model => self.model = Some(word.to_owned()),
            What::Refiner => self.refiner = Some(word.to_owned()),
            What::Vae => self.vae = Some(word.to_owned()),
            What::Lora | What::Tag => self.loras.push(word.to_owned()),
        }
    }
}

impl UncheckedRecord {
    /// Reads the record of the picture at `path`.
    ///
    /// # Errors
    /// As [`record::read`].
    pub fn read(path: &Path) -> Result<Self> {
        Ok(Self { record: record::read(path)?, path: path.to_path_buf() })
    }

    /// The record, to be shown.
    pub fn shown(&self) -> &ImageRecord {
        &self.record
    }

    /// Puts the files of the store in the place of the words that are `used`: the file with the hash that the picture
    /// has of it, under any name; without a hash the one with the last part of its name. Returns what is not there.
    ///
    /// Only files in the user's own folders are looked at.
    ///
    /// # Errors
    /// [`Error::Cancelled`](crate::Error::Cancelled).
    pub fn locate(
        &mut self,
        store: &Store,
        used: Used,
        cancel: &Cancel,
        progress: Hashing<'_>,
    ) -> Result<Vec<Missing>> {
        let hashes = std::mem::take(&mut self.record.hashes);
        let reach = Reach::new(store, &self.path);
        let search = Search { store, reach: &reach, hashes: &hashes, cancel, progress };
        let mut missing = Vec::new();
        let mut failed = None;
        each_word(&mut self.record, used, &mut |what, word| match search.find(what, word) {
            Ok(Found::Word) => word.to_owned(),
            Ok(Found::File(path)) => path,
            Ok(Found::Missing(lack)) => {
                missing.push(lack);
                word.to_owned()
            }
            Err(error) => {
                failed = Some(error);
                word.to_owned()
            }
        });
        self.record.hashes = hashes;
        failed.map_or(Ok(missing), Err)
    }

    /// The record, to be shown as a command: names of what is in reach lead there.
    pub fn into_command(self, store: &Store) -> ImageRecord {
        let reach = Reach::new(store, &self.path);
        let mut record = self.record;
        each_word(&mut record, Used::ALL, &mut |what, word| match reach.way(what, word) {
            Way::Open(found) => found,
            Way::Away | Way::Beyond => word.to_owned(),
        });
        record
    }

    /// The record for use, and those of its words that lead out of reach.
    ///
    /// In reach are the user's folders of models and LoRAs and what lies beside the picture, of what is on the hub that
    /// which is here already, and every word that `is_own`: the user's settings say it as well. Whoever uses the record
    /// although something is out of reach trusts the picture.
    pub fn check(
        self,
        store: &Store,
        used: Used,
        is_own: &dyn Fn(What, &str) -> bool,
    ) -> (CheckedRecord, Vec<Beyond>) {
        let Self { mut record, path } = self;
        let reach = Reach::new(store, &path);
        let mut beyond = Vec::new();
        let picture = path.to_string_lossy().into_owned();
        let mut named = NamedByPicture { picture, ..NamedByPicture::default() };
        each_word(&mut record, used, &mut |what, word| {
            let own = is_own(what, word);
            let way = if own { Way::Open(word.to_owned()) } else { reach.way(what, word) };
            let found = match way {
                Way::Open(found) => found,
                way => {
                    beyond.push(Beyond { what, word: word.to_owned(), way });
                    reach.trusted(word)
                }
            };
            named.note(what, &found);
            found
        });
        (CheckedRecord { record, named }, beyond)
    }

    /// The record for use by someone who trusts the picture: every word leads where the picture means.
    pub fn trusted(self, store: &Store, used: Used) -> CheckedRecord {
        let Self { mut record, path } = self;
        let reach = Reach::new(store, &path);
        let picture = path.to_string_lossy().into_owned();
        let mut named = NamedByPicture { picture, ..NamedByPicture::default() };
        each_word(&mut record, used, &mut |what, word| {
            let found = reach.trusted(word);
            named.note(what, &found);
            found
        });
        CheckedRecord { record, named }
    }
}

/// Replaces each word of a record that is `used` by what `found` makes of it.
fn each_word(record: &mut ImageRecord, used: Used, found: &mut dyn FnMut(What, &str) -> String) {
    let Used { model, refiner, vae, loras, tags } = used;
    // Of older pictures and those of other programs only the model's name is known.
    let ModelChoice { model: name, vae: file, quantize, dtype } = record.made_with();
    let mut word = |what: What, used: bool, word: Option<String>| match word {
        Some(word) if used && !word.is_empty() => Some(found(what, &word)),
        word => word,
    };
    let (name, file) = (word(What::Model, model, name), word(What::Vae, vae, file));
    match &mut record.made_with {
        Some(known) => *known = ModelChoice { model: name, vae: file, quantize, dtype },
        None => record.model = name,
    }
    if refiner && let Some(name) = &mut record.request.refiner {
        *name = found(What::Refiner, name);
    }
    if loras {
        for lora in &mut record.request.loras {
            lora.name = found(What::Lora, &lora.name);
        }
    }
    if tags {
        record.request.prompt = retagged(&record.request.prompt, found);
    }
}

/// `prompt` with other names in its `<lora:…>` tags. What cannot be read is refused when it is planned.
fn retagged(prompt: &str, found: &mut dyn FnMut(What, &str) -> String) -> String {
    let tags = extract_tags(prompt).map(|found| found.tags).unwrap_or_default();
    let mut text = String::with_capacity(prompt.len());
    let mut at = 0;
    for tag in tags {
        let Ok(mut lora) = LoraRef::parse_tag(&tag.body) else { continue };
        let name = found(What::Tag, &lora.name);
        if name != lora.name && !name.contains(['<', '>', '\n', '\r']) {
            lora.name = name;
            text = text + &prompt[at..tag.span.start] + &format!("<lora:{lora}>");
            at = tag.span.end;
        }
    }
    text + &prompt[at..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_tags_are_replaced() {
        let mut seen = Vec::new();
        let mut found = |what: What, word: &str| {
            seen.push((what, word.to_owned()));
            if word == "ink" { "a/ink.pt".to_owned() } else { word.to_owned() }
        };
        let prompt = "a <lora:ink:0.5:1>, b \\<lora:x:1> <lyco:oil> <lora:ink:nan>";
        let text = retagged(prompt, &mut found);
        assert_eq!(
            text,
            "a <lora:a/ink.pt:unet=1,text=0.5>, b \\<lora:x:1> <lyco:oil> <lora:ink:nan>"
        );
        assert_eq!(seen, [(What::Tag, "ink".to_owned()), (What::Tag, "oil".to_owned())]);
        let lora = LoraRef::parse_tag("a/ink.pt:unet=1,text=0.5").unwrap();
        assert_eq!((lora.unet, lora.text), (Some(1.0), Some(0.5)));
    }
}
