//! The files that are removed when the program ends before its work does.
//!
//! The list is never held while a file is made, named or removed: a network folder that hangs stops
//! only the threads that write there.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Files and folders that have to go when the program ends before its work does.
static UNFINISHED: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());
/// How many acts are under way that the end of the program waits for.
static ACTS: AtomicUsize = AtomicUsize::new(0);
/// How long it waits for them: a folder that hangs does not keep the program from ending.
#[cfg(feature = "cli")]
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(1);

pub(super) fn unfinished() -> MutexGuard<'static, BTreeSet<PathBuf>> {
    UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Removes what is unfinished. No file is begun after that: the program is about to end.
#[cfg(feature = "cli")]
pub(crate) fn abandon() {
    // It is never unlocked: threads that begin to write wait for the end.
    let unfinished = std::mem::ManuallyDrop::new(unfinished());
    let begun = std::time::Instant::now();
    while ACTS.load(Ordering::SeqCst) > 0 && begun.elapsed() < PATIENCE {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    for path in &**unfinished {
        remove(path);
    }
}

/// As [`abandon`], for a thread that may wait for nothing; false when others work on the list, and files stay.
#[cfg(feature = "cli")]
pub(crate) fn abandon_at_once() -> bool {
    let Ok(unfinished) = UNFINISHED.try_lock() else { return false };
    let unfinished = std::mem::ManuallyDrop::new(unfinished);
    for path in &**unfinished {
        remove(path);
    }
    true
}

/// Removes a file, a link or a folder; what cannot be removed stays.
pub(super) fn remove(path: &Path) {
    let is_folder = std::fs::symlink_metadata(path).is_ok_and(|kind| kind.is_dir());
    let _ = if is_folder { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
}

/// An act that the end of the program does not cut in two: a file is made that is on the list, or several
/// files take their names.
#[derive(Debug)]
pub(super) struct Act(());

impl Act {
    /// Begins an act; waits for ever when the program ends already.
    pub(super) fn begin() -> Self {
        Self::listing(None)
    }

    /// Begins an act, and puts `path` on the list.
    fn listing(path: Option<&Path>) -> Self {
        let mut list = unfinished();
        list.extend(path.map(Path::to_path_buf));
        ACTS.fetch_add(1, Ordering::SeqCst);
        Self(())
    }
}

impl Drop for Act {
    fn drop(&mut self) {
        ACTS.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A file or folder that goes with this value, or when the program is abandoned.
#[derive(Debug)]
pub(crate) struct TemporaryFile(PathBuf);

impl TemporaryFile {
    /// Takes charge of the file `path`.
    pub(crate) fn new(path: PathBuf) -> Self {
        unfinished().insert(path.clone());
        Self(path)
    }

    /// Makes something at `path`: whenever a signal comes, it does not stay.
    pub(super) fn make<T>(
        path: PathBuf,
        make: impl FnOnce(&Path) -> io::Result<T>,
    ) -> io::Result<(Self, T)> {
        let act = Act::listing(Some(&path));
        let made = make(&path);
        drop(act);
        match made {
            Ok(made) => Ok((Self(path), made)),
            // Whatever has the name is not ours.
            Err(error) => {
                unfinished().remove(&path);
                Err(error)
            }
        }
    }

    /// The file.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Takes the file off the list: it has another name now, or stays.
    pub(super) fn keep(mut self) {
        unfinished().remove(&self.0);
        self.0 = PathBuf::new();
    }
}

impl Drop for TemporaryFile {
    fn drop(&mut self) {
        if !self.0.as_os_str().is_empty() {
            remove(&self.0);
            unfinished().remove(&self.0);
        }
    }
}
