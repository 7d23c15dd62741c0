//! What killed programs left in a folder.

use super::list::remove;
use super::part::HIDDEN;
use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// How old a leftover is at least: a writer without file locks may be at work.
const AGE: Duration = Duration::from_secs(24 * 60 * 60);

/// Removes from `folder` what killed programs left there more than a day ago; once in a process.
pub(super) fn clear(folder: &Path) {
    static CLEARED: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());
    let is_new =
        CLEARED.lock().unwrap_or_else(PoisonError::into_inner).insert(folder.to_path_buf());
    if is_new {
        sweep(folder);
    }
}

fn sweep(folder: &Path) {
    let Ok(items) = std::fs::read_dir(folder) else { return };
    for item in items.flatten() {
        let name = item.file_name();
        let name = name.as_encoded_bytes();
        let hidden = name.starts_with(HIDDEN.0.as_bytes()) && name.ends_with(HIDDEN.1.as_bytes());
        if hidden && is_left(&item.path()) {
            remove(&item.path());
        }
    }
}

/// Whether `path` was not changed for a day and is not locked.
fn is_left(path: &Path) -> bool {
    let Ok(kind) = std::fs::symlink_metadata(path) else { return false };
    let age = kind.modified().ok().and_then(|time| time.elapsed().ok());
    if age.is_none_or(|age| age < AGE) {
        return false;
    }
    if kind.is_symlink() {
        return true;
    }
    // Locks of some network folders ask for the right to write; folders are opened for reading alone.
    let file = File::options().read(kind.is_dir()).write(kind.is_file()).open(path);
    (kind.is_dir() || kind.is_file()) && file.is_ok_and(|file| file.try_lock().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_old_leftovers_that_nobody_uses_go() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let old = std::time::SystemTime::now() - 2 * AGE;
        let make = |name: &str| {
            std::fs::write(path(name), "x").unwrap();
            let file = File::options().write(true).open(path(name)).unwrap();
            file.set_modified(old).unwrap();
            file
        };
        for name in [".colora-old.part", ".colora-mine.txt", "colora-x.part"] {
            drop(make(name));
        }
        let used = make(".colora-used.part");
        used.lock().unwrap();
        std::fs::write(path(".colora-new.part"), "").unwrap();
        sweep(folder.path());
        let items = std::fs::read_dir(folder.path()).unwrap();
        let mut left: Vec<String> =
            items.map(|item| item.unwrap().file_name().into_string().unwrap()).collect();
        left.sort();
        let stay = [".colora-mine.txt", ".colora-new.part", ".colora-used.part", "colora-x.part"];
        assert_eq!(left, stay);
    }
}
