//! Textual inversions in folders: each file is a word of its own.

use super::Store;
use super::list::walk;
use crate::error::{Error, Result};
use crate::lora::Embedding;
use crate::picture::Format;
use std::path::{Path, PathBuf};

/// The name of the folders.
const FOLDER: &str = "embeddings";
/// Extensions of files of vectors.
const EXTENSIONS: [&str; 3] = ["safetensors", "pt", "bin"];
/// What the name of a picture ends in that only shows what another file does.
const PREVIEW: &str = ".preview";

/// A textual inversion that prompts can call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EmbeddingEntry {
    /// Its word.
    pub name: String,
    /// Its file.
    pub path: PathBuf,
}

impl Store {
    /// The folders that are searched for textual inversions, in order, whether they exist or not: `embeddings` in the
    /// current folder and in the user's, beside the program, and beside and in every folder of models.
    pub fn embedding_folders(&self) -> Vec<PathBuf> {
        let beside = |folder: &PathBuf| folder.parent().map(|parent| parent.join(FOLDER));
        let loras = self.lora_folders().iter().filter_map(beside);
        let models = self
            .folders()
            .iter()
            .flat_map(|folder| [beside(folder), Some(folder.join(FOLDER))].into_iter().flatten());
        let mut folders: Vec<PathBuf> = Vec::new();
        for folder in loras.chain(models) {
            if !folders.contains(&folder) {
                folders.push(folder);
            }
        }
        folders
    }

    /// Every textual inversion in the folders, sorted by word; of several with one word the first folder's counts.
    /// Pictures count when one is in them.
    pub fn embeddings(&self) -> Vec<EmbeddingEntry> {
        let mut found: Vec<EmbeddingEntry> = Vec::new();
        let mut seen = Vec::new();
        for folder in self.embedding_folders() {
            let identity = folder.canonicalize().unwrap_or_else(|_| folder.clone());
            if seen.contains(&identity) {
                continue;
            }
            seen.push(identity);
            let mut here = Vec::new();
            walk(&folder, &mut |path, _, name| {
                let entry = word(path, name).map(|name| EmbeddingEntry { name, path: path.into() });
                let taken = entry.is_some();
                here.extend(entry);
                taken
            });
            here.sort_by(|a: &EmbeddingEntry, b| (&a.name, &a.path).cmp(&(&b.name, &b.path)));
            for entry in here {
                let known = |other: &EmbeddingEntry| other.name.eq_ignore_ascii_case(&entry.name);
                if !found.iter().any(known) {
                    found.push(entry);
                }
            }
        }
        found.sort_by(|a, b| a.name.cmp(&b.name));
        found
    }

    /// The textual inversion called `name`, or the file of this path.
    ///
    /// # Errors
    /// [`Error::NotFound`] with the folders that were searched.
    pub fn embedding(&self, name: &str) -> Result<PathBuf> {
        if Path::new(name).is_file() {
            return Ok(name.into());
        }
        let all = self.embeddings();
        let is_it = |entry: &&EmbeddingEntry| entry.name.eq_ignore_ascii_case(name);
        if let Some(entry) = all.iter().find(is_it) {
            return Ok(entry.path.clone());
        }
        let near = crate::suggest::did_you_mean(name, all.iter().map(|entry| entry.name.as_str()));
        let folders: Vec<String> =
            self.embedding_folders().iter().map(|path| path.display().to_string()).collect();
        let hint = format!("{near}; searched in {}", folders.join(", "));
        Err(Error::NotFound { what: "embedding", name: name.to_owned(), hint, how: None })
    }
}

/// The word of the file `path`; `None` for what is no textual inversion.
fn word(path: &Path, name: &str) -> Option<String> {
    let (stem, extension) = name.rsplit_once('.')?;
    let is_file = || std::fs::metadata(path).is_ok_and(|about| about.is_file() && about.len() > 0);
    if EXTENSIONS.contains(&extension.to_lowercase().as_str()) {
        return is_file().then(|| stem.to_owned());
    }
    let picture = Format::of(path).is_some() && !stem.ends_with(PREVIEW);
    (picture && is_file()).then(|| Embedding::open(path).ok().map(|found| found.word)).flatten()
}
