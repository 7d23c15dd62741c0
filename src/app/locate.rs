//! The files that a picture was made with, among the user's own: by hash under any name, or else by name.

use super::named_hash::{NamedHash, Subject};
use super::reach::{Reach, Way, What};
use crate::error::Result;
use crate::pipeline::Cancel;
use crate::store::{Hashing, STARTER, Store, Wanted, actual};
use serde::Serialize;
use std::path::{Path, PathBuf};

/// A file that a picture was made with and that is not in the folders of models and LoRAs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Missing {
    /// What it is.
    pub subject: Subject,
    /// What the picture calls it.
    pub name: String,
    /// A hash of it, when the picture has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hash: Option<String>,
    /// Whether a file of this name is here, with another hash.
    pub other: bool,
}

/// Where a word of a picture leads among the user's files.
pub(super) enum Found {
    /// The word itself is right, or means no file of the folders.
    Word,
    /// This file is meant.
    File(String),
    /// None.
    Missing(Missing),
}

/// Looks for files among the user's.
pub(super) struct Search<'a> {
    pub(super) store: &'a Store,
    pub(super) reach: &'a Reach<'a>,
    pub(super) hashes: &'a [NamedHash],
    pub(super) cancel: &'a Cancel,
    pub(super) progress: Hashing<'a>,
}

impl Search<'_> {
    /// Where `word` leads.
    ///
    /// # Errors
    /// [`Error::Cancelled`](crate::Error::Cancelled).
    pub(super) fn find(&self, what: What, word: &str) -> Result<Found> {
        let subject = match what {
            What::Model if word != STARTER => Subject::Model,
            What::Lora | What::Tag => Subject::Lora,
            _ => return Ok(Found::Word),
        };
        let near = matches!(self.reach.way(what, word), Way::Open(found) if actual(Path::new(&found)).exists());
        if near || word.starts_with("hub:") {
            return Ok(Found::Word);
        }
        let named = self.named(subject, word);
        let last = last_part(word);
        let text = |path: PathBuf| path.to_str().map(str::to_owned);
        let mut hashes = self.hashes.iter().filter(|known| {
            known.subject == subject
                && (subject == Subject::Model || stem(&known.name) == stem(word))
        });
        let Some(first) = hashes.clone().next() else {
            // What stands beside the picture is found later, and so is what is a path.
            let of_last = || self.named(subject, last).filter(|_| last != word).and_then(text);
            let bare = last == word;
            return Ok(match (named, of_last()) {
                (None, Some(path)) => Found::File(path),
                (None, None) if bare => Found::Missing(Missing::new(subject, word)),
                _ => Found::Word,
            });
        };
        if let Some(path) = named.as_ref().or(self.named(subject, last).as_ref()) {
            let own = self.store.hashes(path, self.cancel, self.progress);
            self.cancel.check()?;
            if own.is_ok_and(|own| hashes.clone().any(|known| own.has(&known.hash))) {
                let other_word = named.is_none().then(|| text(path.clone())).flatten();
                return Ok(other_word.map_or(Found::Word, Found::File));
            }
        }
        for known in hashes.by_ref() {
            let wanted = Wanted { hash: &known.hash, name: word };
            let found = match subject {
                Subject::Model => self.store.model_by_hash(wanted, self.cancel, self.progress)?,
                _ => self.store.lora_by_hash(wanted, self.cancel, self.progress)?,
            };
            if let Some(path) = found.and_then(text) {
                return Ok(Found::File(path));
            }
        }
        let lack = Missing::new(subject, word);
        Ok(Found::Missing(Missing {
            hash: Some(first.hash.clone()),
            other: named.is_some(),
            ..lack
        }))
    }

    /// The file of this name in the user's folders.
    fn named(&self, subject: Subject, name: &str) -> Option<PathBuf> {
        match subject {
            Subject::Model => self.store.named(name).ok(),
            _ => self.store.lora_named(name).ok(),
        }
    }
}

impl Missing {
    fn new(subject: Subject, name: &str) -> Self {
        Self { subject, name: name.to_owned(), hash: None, other: false }
    }
}

/// A name without folders, whichever system they are of.
fn last_part(name: &str) -> &str {
    name.rsplit(['/', '\\']).next().unwrap_or(name)
}

/// A name without folders and extension.
fn stem(name: &str) -> &str {
    let last = last_part(name);
    let ends = [".safetensors", ".ckpt", ".pt", ".bin", ".gguf"];
    ends.iter().find_map(|end| last.strip_suffix(end)).unwrap_or(last)
}
