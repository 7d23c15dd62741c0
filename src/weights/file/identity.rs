//! Which contents a file has: a SHA-256 of all its bytes, computed once.
//!
//! Sums are kept by device, inode, size and times, and so are the contents of files that were copied to
//! memory, while they are in use. Times are trusted once they are old: a file that was written a moment
//! ago may be written again without another time.

use super::Inner;
use crate::plain::hex;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::fs::Metadata;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, PoisonError, Weak};
use std::time::{Duration, SystemTime};

/// How old the times of a file are before they are trusted: some file systems count in two seconds.
const SETTLED: Duration = Duration::from_millis(2500);
/// Files that are remembered.
const MOST: usize = 4096;

/// What changes when a file changes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Stamp {
    /// Two names of one file give two names in messages.
    path: PathBuf,
    length: u64,
    modified: SystemTime,
    /// Device, inode and the time of the last change of either contents or owner, where there are such.
    system: Option<(u64, u64, i64, i64)>,
}

impl Stamp {
    /// The stamp of a file; `None` while it is too new to be trusted.
    pub(super) fn of(path: &Path, file: &Metadata) -> Option<Self> {
        let modified = file.modified().ok()?;
        let system = system(file);
        let now = SystemTime::now();
        let changed = system.map(|(_, _, seconds, nanoseconds)| {
            let seconds = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
            let nanoseconds = Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(0));
            SystemTime::UNIX_EPOCH + seconds + nanoseconds
        });
        let settled = |time: SystemTime| now.duration_since(time).is_ok_and(|age| age > SETTLED);
        if !settled(modified) || !changed.is_none_or(settled) {
            return None;
        }
        Some(Self { path: path.to_path_buf(), length: file.len(), modified, system })
    }

    /// Whether the same file now has other contents, or may have.
    pub(super) fn was_rewritten(&self) -> bool {
        let Ok(now) = std::fs::metadata(&self.path) else { return false };
        let same_file = match (self.system, system(&now)) {
            (Some((device, inode, ..)), Some((its_device, its_inode, ..))) => {
                (device, inode) == (its_device, its_inode)
            }
            _ => true,
        };
        let written = now.modified().is_ok_and(|time| time != self.modified);
        same_file && (written || now.len() != self.length)
    }
}

#[cfg(unix)]
#[allow(clippy::unnecessary_wraps)] // other systems have nothing to give
fn system(file: &Metadata) -> Option<(u64, u64, i64, i64)> {
    use std::os::unix::fs::MetadataExt;
    Some((file.dev(), file.ino(), file.ctime(), file.ctime_nsec()))
}

#[cfg(not(unix))]
fn system(_: &Metadata) -> Option<(u64, u64, i64, i64)> {
    None
}

/// What is known of the files that were opened.
#[derive(Default)]
struct Known {
    sums: HashMap<Stamp, Arc<str>>,
    copies: HashMap<Stamp, Weak<Inner>>,
}

static KNOWN: LazyLock<Mutex<Known>> = LazyLock::new(Mutex::default);

fn known<T>(look: impl FnOnce(&mut Known) -> T) -> T {
    look(&mut KNOWN.lock().unwrap_or_else(PoisonError::into_inner))
}

/// The copy of a file in memory, if one is in use.
pub(super) fn copy(stamp: &Stamp) -> Option<Arc<Inner>> {
    known(|known| known.copies.get(stamp).and_then(Weak::upgrade))
}

/// Remembers a copy, as long as it is used.
pub(super) fn remember_copy(stamp: Stamp, copy: &Arc<Inner>) {
    known(|known| {
        known.copies.retain(|_, copy| copy.strong_count() > 0);
        known.copies.insert(stamp, Arc::downgrade(copy));
    });
}

/// The SHA-256 of `bytes`, which are the contents of the file with `stamp`, in hexadecimal letters.
///
/// No lock is held while it is computed.
pub(super) fn sum(stamp: Option<&Stamp>, bytes: &[u8]) -> Arc<str> {
    if let Some(sum) = stamp.and_then(|stamp| known(|known| known.sums.get(stamp).cloned())) {
        return sum;
    }
    let sum: Arc<str> = hex(&Sha256::digest(bytes)).into();
    if let Some(stamp) = stamp {
        known(|known| {
            // Sums are cheap beside what was read for them: none is worth choosing.
            if known.sums.len() >= MOST {
                known.sums.clear();
            }
            known.sums.insert(stamp.clone(), sum.clone());
        });
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A model that was written over while it was drawn gave NaN, and the advice to use f32.
    #[test]
    fn another_file_in_its_place_is_no_rewriting() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        std::fs::write(&path, b"abc").unwrap();
        let file = std::fs::metadata(&path).unwrap();
        let (modified, system) = (file.modified().unwrap(), system(&file));
        let stamp = Stamp { path: path.clone(), length: 3, modified, system };
        assert!(!stamp.was_rewritten());
        std::fs::write(&path, b"abcd").unwrap();
        assert!(stamp.was_rewritten());
        if cfg!(unix) {
            let other = folder.path().join("y");
            std::fs::write(&other, b"abcd").unwrap();
            std::fs::rename(&other, &path).unwrap();
            assert!(!stamp.was_rewritten());
        }
        std::fs::remove_file(&path).unwrap();
        assert!(!stamp.was_rewritten());
    }

    #[test]
    fn a_new_file_is_not_trusted_and_an_old_one_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        std::fs::write(&path, b"abc").unwrap();
        let stamp = || Stamp::of(&path, &std::fs::metadata(&path).unwrap());
        assert_eq!(stamp(), None);
        let old = SystemTime::now() - Duration::from_secs(60);
        std::fs::File::options().write(true).open(&path).unwrap().set_modified(old).unwrap();
        #[cfg(unix)]
        assert_eq!(stamp(), None, "the time of the last change cannot be set");
        let empty = sum(None, b"");
        assert!(empty.starts_with("e3b0c44298fc1c14"), "{empty}");
        assert_eq!(empty.len(), 64);
    }
}
