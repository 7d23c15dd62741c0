//! The files that pictures are made with, by name and hash, for their records.

use super::choice::ModelChoice;
use super::named_hash::{NamedHash, Subject};
use crate::error::{Error, Result};
use crate::lora::{AdapterFile, Embedding, Hashes};
use crate::pipeline::{Cancel, Plan};
use crate::store::{Hashing, Model, STARTER, Store};
use std::path::Path;

/// Letters of a LoRA's hash that A1111 shows.
const SHOWN: usize = 12;
/// What wrong hashes of LoRAs begin with: the hash of nothing.
const OF_NOTHING: &str = "e3b0c44298fc";

/// The files that pictures are made with.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UsedFiles {
    /// The device that draws.
    pub(super) device: Option<String>,
    /// The model, when it is one file.
    pub(super) model: Option<UsedFile>,
    /// The LoRAs in the order of the plan.
    pub(super) loras: Vec<UsedFile>,
    /// The textual inversions whose words stand in the prompts.
    pub(super) embeddings: Vec<UsedFile>,
}

/// A file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct UsedFile {
    /// Its name without extension.
    pub(super) name: String,
    pub(super) hashes: Hashes,
    /// The hash that A1111 shows of a LoRA.
    pub(super) shown: String,
}

impl UsedFiles {
    /// Finds and hashes the model of `choice`, and the LoRAs and embeddings of `plan`. A file that cannot be read has no hash: the pictures are
    /// made without.
    ///
    /// # Errors
    /// [`Error::Cancelled`].
    pub(super) fn find(
        store: &Store,
        choice: &ModelChoice,
        plan: &Plan,
        cancel: &Cancel,
        progress: Hashing<'_>,
    ) -> Result<Self> {
        let hashed = |path: &Path| match store.hashes(path, cancel, progress) {
            Err(Error::Cancelled) => Err(Error::Cancelled),
            found => Ok(found.ok()),
        };
        let mut found = Self::default();
        let name = choice.model.as_deref().unwrap_or(STARTER);
        if let Ok(Model::Files(path)) = store.resolve(name, cancel, &|_| ())
            && path.is_file()
        {
            found.model = hashed(&path)?.map(|hashes| UsedFile::new(&path, hashes, None));
        }
        for lora in &plan.loras {
            let Ok(lora) = store.lora(&lora.name, cancel, &|_| ()) else { continue };
            let noted = AdapterFile::open(&lora.path).ok();
            let noted = noted.and_then(|file| file.metadata().get("sshs_model_hash").cloned());
            let hashes = hashed(&lora.path)?;
            found.loras.extend(hashes.map(|hashes| UsedFile::new(&lora.path, hashes, noted)));
        }
        let prompts = [&plan.prompt, &plan.negative_prompt].map(|text| text.to_lowercase());
        for entry in store.embeddings() {
            if !prompts.iter().any(|text| calls(text, &entry.name.to_lowercase())) {
                continue;
            }
            if let Some(hashes) =
                hashed(&entry.path)?.filter(|_| Embedding::open(&entry.path).is_ok())
            {
                let file = UsedFile::new(&entry.path, hashes.clone(), Some(hashes.sha256));
                found.embeddings.push(UsedFile { name: entry.name, ..file });
            }
        }
        Ok(found)
    }

    /// The hashes for colora's own record.
    pub(super) fn named(&self) -> Vec<NamedHash> {
        let named = |subject: Subject, file: &UsedFile| NamedHash {
            subject,
            name: file.name.clone(),
            hash: file.hashes.sha256.clone(),
        };
        let model = self.model.iter().map(|file| named(Subject::Model, file));
        let loras = self.loras.iter().map(|file| named(Subject::Lora, file));
        let words = self.embeddings.iter().map(|file| named(Subject::Embedding, file));
        model.chain(loras).chain(words).collect()
    }
}

/// Whether `word` stands in `text`, not as a part of a longer one.
fn calls(text: &str, word: &str) -> bool {
    let letter = |c: Option<char>| c.is_some_and(char::is_alphabetic);
    text.match_indices(word).any(|(at, _)| {
        let ends = [word.chars().next(), word.chars().next_back()].map(letter);
        let before = ends[0] && letter(text[..at].chars().next_back());
        let behind = ends[1] && letter(text[at + word.len()..].chars().next());
        !before && !behind
    })
}

impl UsedFile {
    /// `noted`: the hash that a LoRA's trainer wrote into it, which A1111 takes.
    pub(super) fn new(path: &Path, hashes: Hashes, noted: Option<String>) -> Self {
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let is_hash = |hash: &String| {
            hash.len() >= SHOWN
                && hash.bytes().all(|b| b.is_ascii_hexdigit())
                && !hash.starts_with(OF_NOTHING)
        };
        let own = || hashes.tensors.clone().unwrap_or_else(|| hashes.sha256.clone());
        let mut shown = noted.filter(is_hash).unwrap_or_else(own).to_lowercase();
        shown.truncate(SHOWN);
        Self { name, hashes, shown }
    }
}
