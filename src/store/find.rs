//! Files by their hashes, whatever they are called here.

use super::digest::Hashing;
use super::lora::weights;
use super::{Card, Store, digest};
use crate::error::Result;
use crate::lora::Hashes;
use crate::pipeline::Cancel;
use std::path::{Path, PathBuf};

/// Letters of the oldest hash of models, which is of a small part of the file.
const OLDEST: usize = 8;

/// What to look for.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// Some or all letters of a hash.
    pub hash: &'a str,
    /// What the file was called where the hash comes from; it is looked at first.
    pub name: &'a str,
}

impl Store {
    /// The hashes of a file of weights; computed once, and kept in the user's cache.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) when it cannot be read, [`Error::Cancelled`](crate::Error::Cancelled).
    pub fn hashes(&self, path: &Path, cancel: &Cancel, progress: Hashing<'_>) -> Result<Hashes> {
        self.hashes.of(&weights(path), cancel, progress)
    }

    /// The model in the folders that has this hash.
    ///
    /// # Errors
    /// [`Error::Cancelled`](crate::Error::Cancelled); files that cannot be read are passed over.
    pub fn model_by_hash(
        &self,
        wanted: Wanted<'_>,
        cancel: &Cancel,
        progress: Hashing<'_>,
    ) -> Result<Option<PathBuf>> {
        let files = self.list().into_iter().filter_map(|entry| entry.path);
        let files = files.filter(|path| path.is_file()).collect();
        self.by_hash(files, wanted, cancel, progress)
    }

    /// The LoRA in the folders that has this hash.
    ///
    /// # Errors
    /// As [`model_by_hash`](Self::model_by_hash).
    pub fn lora_by_hash(
        &self,
        wanted: Wanted<'_>,
        cancel: &Cancel,
        progress: Hashing<'_>,
    ) -> Result<Option<PathBuf>> {
        let files = self.loras().into_iter().map(|entry| entry.path).collect();
        self.by_hash(files, wanted, cancel, progress)
    }

    /// The first of `files` that has this hash: those whose hashes are known come first, then those with the name.
    fn by_hash(
        &self,
        mut files: Vec<PathBuf>,
        wanted: Wanted<'_>,
        cancel: &Cancel,
        progress: Hashing<'_>,
    ) -> Result<Option<PathBuf>> {
        let known = |path: &PathBuf| {
            let cached = self.hashes.known(&weights(path)).map(|hashes| hashes.has(wanted.hash));
            let noted = || Card::of(path).ok().flatten()?.sha256;
            cached
                .or_else(|| Some(noted()?.to_lowercase().starts_with(wanted.hash)).filter(|is| *is))
        };
        if let Some(found) = files.iter().find(|path| known(path) == Some(true)) {
            return Ok(Some(found.clone()));
        }
        files.retain(|path| known(path).is_none());
        files.sort_by_key(|path| !is_called(path, wanted.name));
        for path in files {
            let found = if wanted.hash.len() == OLDEST {
                digest::window(&weights(&path))
                    .map(|hash| hash.is_some_and(|h| h.starts_with(wanted.hash)))
            } else {
                self.hashes(&path, cancel, progress).map(|hashes| hashes.has(wanted.hash))
            };
            cancel.check()?;
            if found.unwrap_or(false) {
                return Ok(Some(path));
            }
        }
        Ok(None)
    }
}

/// Whether a file has the last part of this name, with its extension or without.
fn is_called(path: &Path, name: &str) -> bool {
    let last = name.rsplit(['/', '\\']).next().unwrap_or(name);
    let is = |part: Option<&std::ffi::OsStr>| part.is_some_and(|part| part == last);
    is(path.file_stem()) || is(path.file_name())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsString;
    use std::fs;

    #[test]
    fn files_are_found_under_any_name() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir_all(at("models/sub")).unwrap();
        fs::create_dir_all(at("loras")).unwrap();
        for (name, byte) in
            [("models/a.safetensors", 1), ("models/sub/b.ckpt", 2), ("loras/c.pt", 3)]
        {
            fs::write(at(name), vec![byte; 0x11_0000]).unwrap();
        }
        let home = at("home");
        let store = Store::new(&[], folder.path(), &|_| Some(OsString::from(home.clone())));
        let hashes = |name: &str| store.hashes(&at(name), &Cancel::new(), &|_, _, _| ()).unwrap();
        let (a, b, c) =
            (hashes("models/a.safetensors"), hashes("models/sub/b.ckpt"), hashes("loras/c.pt"));
        let fresh = || {
            let other = at("other");
            Store::new(&[], folder.path(), &move |_| Some(OsString::from(other.clone())))
        };
        let model = |store: &Store, hash: &str| {
            let wanted = Wanted { hash, name: "x/y" };
            store.model_by_hash(wanted, &Cancel::new(), &|_, _, _| ()).unwrap()
        };
        for store in [&store, &fresh()] {
            assert_eq!(model(store, &b.sha256[..10]), Some(at("models/sub/b.ckpt")));
            assert_eq!(model(store, b.auto_v1().unwrap()), Some(at("models/sub/b.ckpt")));
            assert_eq!(model(store, &a.sha256), Some(at("models/a.safetensors")));
            assert_eq!(model(store, &c.sha256), None, "a LoRA is no model");
            let wanted = Wanted { hash: &c.sha256[..12], name: "" };
            let lora = store.lora_by_hash(wanted, &Cancel::new(), &|_, _, _| ()).unwrap();
            assert_eq!(lora, Some(at("loras/c.pt")));
        }
    }
}
