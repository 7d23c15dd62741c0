//! The hashes of model files: computed once, and kept as long as a file is the same.

use super::digest::Hashing;
use super::{Env, digest};
use crate::atomic_file::{self, Care};
use crate::error::{Error, Result};
use crate::input;
use crate::lora::Hashes;
use crate::pipeline::Cancel;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::UNIX_EPOCH;

/// Largest file of hashes that is read, in bytes.
const MAX_FILE: u64 = 16 << 20;
/// Files whose hashes are kept.
const MOST_KEPT: usize = 20_000;

/// The hashes of files, in memory and in a file of the user's cache. Clones share them.
#[derive(Debug, Clone, Default)]
pub(super) struct HashCache {
    /// Where they are kept; `None` keeps them in memory alone.
    file: Option<PathBuf>,
    known: Arc<Mutex<Option<Known>>>,
}

/// Hashes by the path of their file without links.
type Known = BTreeMap<String, Entry>;

/// The hashes of a file as it was.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Entry {
    bytes: u64,
    /// Nanoseconds since 1970.
    changed: u64,
    hashes: Hashes,
}

impl HashCache {
    /// The cache of the user.
    pub(super) fn new(env: Env<'_>) -> Self {
        use etcetera::BaseStrategy;
        let given = env("XDG_CACHE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
        let usual = || etcetera::choose_base_strategy().ok().map(|base| base.cache_dir());
        // Programs and tests that redirect the data folder mean all of them.
        let usual = || if env("XDG_DATA_HOME").is_some() { None } else { usual() };
        let file = given.or_else(usual).map(|folder| folder.join("colora").join("hashes.json"));
        Self { file, known: Arc::default() }
    }

    /// The hashes of the file `path` when they are known and it was not changed since.
    pub(super) fn known(&self, path: &Path) -> Option<Hashes> {
        let (name, bytes, changed) = identity(path)?;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = known.get_or_insert_with(|| self.read()).get(&name)?;
        (entry.bytes == bytes && entry.changed == changed).then(|| entry.hashes.clone())
    }

    /// The hashes of the file `path`.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be read, [`Error::Cancelled`].
    pub(super) fn of(&self, path: &Path, cancel: &Cancel, progress: Hashing<'_>) -> Result<Hashes> {
        if let Some(known) = self.known(path) {
            return Ok(known);
        }
        let before = identity(path);
        let hashes = digest::hashes(path, cancel, progress)?;
        if let Some((name, bytes, changed)) =
            before.filter(|before| identity(path).as_ref() == Some(before))
        {
            self.keep(name, Entry { bytes, changed, hashes: hashes.clone() });
        }
        Ok(hashes)
    }

    /// Keeps hashes. That the file of the cache cannot be written costs time later, and nothing else.
    fn keep(&self, name: String, entry: Entry) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        // What other processes found meanwhile stays.
        let mut all = known.take().unwrap_or_default();
        all.extend(self.read());
        if all.len() >= MOST_KEPT {
            all.retain(|path, _| Path::new(path).is_file());
        }
        all.insert(name, entry);
        if let Err(error) = self.write(&all) {
            tracing::debug!("hashes are not kept: {error}");
        }
        *known = Some(all);
    }

    /// What the file holds; nothing when there is none, or it is of no use.
    fn read(&self) -> Known {
        let Some(file) = &self.file else { return Known::new() };
        let text = input::text_if_there(file, MAX_FILE, "a cache of hashes").ok().flatten();
        text.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default()
    }

    fn write(&self, known: &Known) -> Result<()> {
        let Some(file) = &self.file else { return Ok(()) };
        let text = serde_json::to_string(known)
            .map_err(|error| Error::Internal(format!("a cache of hashes: {error}")))?;
        atomic_file::make_folder(file.parent().unwrap_or(Path::new("")))?;
        atomic_file::write(file, true, Care::Usual, |to| {
            to.write_all(text.as_bytes()).map_err(|error| Error::write(file, error))
        })
    }
}

/// A file by its path without links, its length and the time of its last change.
fn identity(path: &Path) -> Option<(String, u64, u64)> {
    let path = path.canonicalize().ok()?;
    let about = std::fs::metadata(&path).ok().filter(std::fs::Metadata::is_file)?;
    let changed = about.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
    Some((path.to_str()?.to_owned(), about.len(), u64::try_from(changed.as_nanos()).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_computed_once_and_for_each_change() {
        let folder = tempfile::tempdir().unwrap();
        let home = folder.path().to_path_buf();
        let env =
            move |name: &str| (name == "XDG_CACHE_HOME").then(|| home.clone().into_os_string());
        let path = folder.path().join("x.bin");
        std::fs::write(&path, "one").unwrap();
        let read = std::cell::Cell::new(0);
        let of = |cache: &HashCache| {
            let progress = |_: &Path, done: u64, _: u64| {
                if done == 0 {
                    read.set(read.get() + 1);
                }
            };
            cache.of(&path, &Cancel::new(), &progress).unwrap().sha256
        };
        let cache = HashCache::new(&env);
        assert_eq!(cache.known(&path), None);
        let one = of(&cache);
        assert_eq!(
            (of(&cache), of(&HashCache::new(&env)), read.get()),
            (one.clone(), one.clone(), 1)
        );
        std::fs::write(&path, "two!").unwrap();
        assert_ne!(of(&cache), one);
        assert_eq!(read.get(), 2);
        // A cache that is broken is written anew.
        std::fs::write(folder.path().join("colora/hashes.json"), "{").unwrap();
        assert_ne!(of(&HashCache::new(&env)), one);
    }
}
