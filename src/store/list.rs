//! What lies in folders of models.

use super::STARTER;
use crate::error::Error;
use crate::weights::Component;
use serde::{Serialize, Serializer};
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// What a model is stored as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Built into colora.
    Starter,
    /// One `.safetensors` file.
    Safetensors,
    /// One `.ckpt` file.
    Ckpt,
    /// One `.gguf` file.
    Gguf,
    /// A folder with a component each.
    Diffusers,
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Kind::Starter => "built in",
            Kind::Safetensors => "safetensors",
            Kind::Ckpt => "ckpt",
            Kind::Gguf => "gguf",
            Kind::Diffusers => "diffusers",
        })
    }
}

/// A model that can be named.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// What to pass to `--model`.
    pub name: String,
    /// How it is stored.
    pub kind: Kind,
    /// Bytes on disk.
    pub bytes: Option<u64>,
    /// File or folder; `None` for the starter.
    #[serde(serialize_with = "lossy_or_none")]
    pub path: Option<PathBuf>,
}

/// A path as JSON can hold it: bytes that are no UTF-8 become U+FFFD.
pub(super) fn lossy<S: Serializer>(path: &Path, to: S) -> Result<S::Ok, S::Error> {
    path.to_string_lossy().serialize(to)
}

#[allow(clippy::ref_option)] // serde's shape
fn lossy_or_none<S: Serializer>(path: &Option<PathBuf>, to: S) -> Result<S::Ok, S::Error> {
    path.as_ref().map(|path| path.to_string_lossy()).serialize(to)
}

/// How deep folders are searched: their own files and two levels below.
const DEPTH: usize = 3;
/// Most files and folders that are looked at in one search.
const LIMIT: usize = 10_000;

impl Entry {
    pub(super) fn starter() -> Self {
        Self { name: STARTER.to_owned(), kind: Kind::Starter, bytes: None, path: None }
    }

    /// Whether `name` means this model: its name, its last part, or either with the extension.
    pub(super) fn is_called(&self, name: &str) -> bool {
        let file = self.path.as_deref().filter(|_| self.kind != Kind::Diffusers);
        is_called(&self.name, file, name)
    }
}

/// Whether `name` means what is listed as `listed`: this name, its last part, or either with the
/// extension of `file`.
pub(super) fn is_called(listed: &str, file: Option<&Path>, name: &str) -> bool {
    let extension = file.and_then(Path::extension).and_then(|e| e.to_str());
    let bare = extension.and_then(|e| name.strip_suffix(e)?.strip_suffix('.')).unwrap_or(name);
    listed == name || listed == bare || listed.rsplit('/').next() == Some(bare)
}

/// The models in `folder`, sorted by name; an unreadable folder holds none.
pub(super) fn scan(folder: &Path) -> Vec<Entry> {
    let mut found = Vec::new();
    walk(folder, &mut |path, prefix, name| {
        let Some((stem, kind)) = kind_of(path, name) else { return false };
        let (bytes, path) = (Some(size(path, DEPTH)), Some(path.to_path_buf()));
        found.push(Entry { name: format!("{prefix}{stem}"), kind, bytes, path });
        true
    });
    found.sort_by(|a: &Entry, b| (&a.name, &a.path).cmp(&(&b.name, &b.path)));
    found
}

/// What [`walk`] calls with path, prefix (`sub/` in sub-folders) and file name, both with U+FFFD for what is
/// no UTF-8; returns whether the entry was taken, so that a folder is not entered.
pub(super) type Visit<'a> = &'a mut dyn FnMut(&Path, &str, &str) -> bool;

/// Shows the visible files and folders of `folder` and of some levels below to `visit`.
pub(super) fn walk(folder: &Path, visit: Visit<'_>) {
    descend(folder, "", DEPTH, &mut LIMIT.clone(), visit);
}

fn descend(folder: &Path, prefix: &str, depth: usize, budget: &mut usize, visit: Visit<'_>) {
    let Ok(items) = fs::read_dir(folder) else { return };
    for path in items.flatten().map(|item| item.path()) {
        let Some(name) = path.file_name().map(|name| name.to_string_lossy()) else { continue };
        if *budget == 0 {
            return;
        }
        *budget -= 1;
        if name.starts_with('.') {
            continue;
        }
        if !visit(&path, prefix, &name) && depth > 1 && path.is_dir() {
            descend(&path, &format!("{prefix}{name}/"), depth - 1, budget, visit);
        }
    }
}

/// The folders among `folder` and those that [`walk`] enters that are there and cannot be read, with the reasons.
pub(super) fn unreadable(folder: &Path) -> Vec<Error> {
    let mut found = Vec::new();
    look_for_unreadable(folder, DEPTH, &mut LIMIT.clone(), &mut found);
    found
}

fn look_for_unreadable(folder: &Path, depth: usize, budget: &mut usize, found: &mut Vec<Error>) {
    let items = match fs::read_dir(folder) {
        Ok(items) => items,
        Err(error) if error.kind() == ErrorKind::NotFound => return,
        Err(error) => return found.push(Error::io(folder, error)),
    };
    for path in items.flatten().map(|item| item.path()) {
        if *budget == 0 {
            return;
        }
        *budget -= 1;
        let hidden = path.file_name().is_some_and(|n| n.to_string_lossy().starts_with('.'));
        if depth > 1 && !hidden && path.is_dir() {
            look_for_unreadable(&path, depth - 1, budget, found);
        }
    }
}

fn kind_of<'a>(path: &Path, name: &'a str) -> Option<(&'a str, Kind)> {
    if path.is_dir() {
        return is_diffusers(path).then_some((name, Kind::Diffusers));
    }
    match name.rsplit_once('.')? {
        (stem, "safetensors") => Some((stem, Kind::Safetensors)),
        (stem, "ckpt") => Some((stem, Kind::Ckpt)),
        (stem, "gguf") => Some((stem, Kind::Gguf)),
        _ => None,
    }
}

/// Whether `path` is a folder in the diffusers layout.
pub(super) fn is_diffusers(path: &Path) -> bool {
    path.join("model_index.json").is_file()
        || path.join(Component::UNet.name()).join("config.json").is_file()
}

/// Bytes of a file or of all files in a folder.
pub(super) fn size(path: &Path, depth: usize) -> u64 {
    let Ok(data) = fs::metadata(path) else { return 0 };
    if !data.is_dir() || depth == 0 {
        return if data.is_dir() { 0 } else { data.len() };
    }
    let items = fs::read_dir(path).into_iter().flatten().flatten();
    items.map(|item| size(&item.path(), depth - 1)).sum()
}
