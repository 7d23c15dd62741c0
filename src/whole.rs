//! Floor 0. Files that are there whole or not at all, also when the program is killed while it writes.

use crate::error::{Error, Result};
use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use tempfile::NamedTempFile;

/// Files that have to go when the program ends before its work does.
static UNFINISHED: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

fn unfinished() -> MutexGuard<'static, BTreeSet<PathBuf>> {
    UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Removes what is unfinished. No file is begun or gets its name after that: the program is about to end.
#[cfg(feature = "cli")]
pub(crate) fn abandon() {
    // Never unlocked: whoever writes waits for the end.
    let unfinished = std::mem::ManuallyDrop::new(unfinished());
    for path in &**unfinished {
        let _ = std::fs::remove_file(path);
    }
}

/// As [`abandon`], for a thread that may wait for nothing; false when others work on the list, and files stay.
#[cfg(feature = "cli")]
pub(crate) fn abandon_at_once() -> bool {
    let Ok(unfinished) = UNFINISHED.try_lock() else { return false };
    let unfinished = std::mem::ManuallyDrop::new(unfinished);
    for path in &**unfinished {
        let _ = std::fs::remove_file(path);
    }
    true
}

/// A file that goes with this value, or when the program is abandoned.
#[cfg(any(feature = "cli", test))]
#[derive(Debug)]
pub(crate) struct Fleeting(PathBuf);

#[cfg(any(feature = "cli", test))]
impl Fleeting {
    /// Takes charge of the file `path`.
    pub(crate) fn new(path: PathBuf) -> Self {
        unfinished().insert(path.clone());
        Self(path)
    }

    /// The file.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

#[cfg(any(feature = "cli", test))]
impl Drop for Fleeting {
    fn drop(&mut self) {
        let mut unfinished = unfinished();
        let _ = std::fs::remove_file(&self.0);
        unfinished.remove(&self.0);
    }
}

/// The folder of `path`.
fn folder(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn temporary(folder: &Path) -> io::Result<NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".colora-").suffix(".part");
    #[cfg(unix)]
    {
        // A temporary file is private by default; what is made here follows the user's umask.
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(std::fs::Permissions::from_mode(0o666));
    }
    builder.tempfile_in(folder)
}

/// Finds out whether a file `path` can be made, before the work for it begins: makes its folder, says
/// whether that was needed, and puts a file there for a moment.
///
/// # Errors
/// [`Error::Write`].
pub(crate) fn prepare(path: &Path) -> Result<bool> {
    let folder = folder(path);
    let missing = !folder.exists();
    std::fs::create_dir_all(folder).map_err(|e| Error::write(folder, e))?;
    // The system looks at the length of the name first.
    match std::fs::symlink_metadata(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(Error::write(path, e)),
        _ => {}
    }
    let mut list = unfinished();
    let probe = temporary(folder).map_err(|e| Error::write(path, e))?;
    list.insert(probe.path().to_path_buf());
    drop(list);
    drop(Part::of(probe));
    Ok(missing)
}

/// A temporary file on the list.
struct Part {
    file: Option<NamedTempFile>,
    path: PathBuf,
}

impl Part {
    /// Takes over a file that is on the list.
    fn of(file: NamedTempFile) -> Self {
        let path = file.path().to_path_buf();
        Self { file: Some(file), path }
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        let mut list = unfinished();
        drop(self.file.take());
        list.remove(&self.path);
    }
}

/// Lets `fill` write a temporary file beside `path`, which then takes that name.
///
/// A reader never sees half a file, and without `force` two writers never overwrite each other.
///
/// # Errors
/// [`Error::Exists`] when there is such a file and `force` is false, [`Error::Write`], what `fill` gives.
pub(crate) fn write<T>(
    path: &Path,
    force: bool,
    fill: impl FnOnce(&mut File) -> Result<T>,
) -> Result<T> {
    let mut list = unfinished();
    let file = temporary(folder(path)).map_err(|e| Error::write(path, e))?;
    list.insert(file.path().to_path_buf());
    drop(list);
    let mut part = Part::of(file);
    let gone = || Error::Internal("a temporary file without a file".into());
    let done = fill(part.file.as_mut().ok_or_else(gone)?.as_file_mut())?;
    let file = part.file.take().ok_or_else(gone)?;
    // Naming the file and taking it off the list are one act.
    let mut list = unfinished();
    let saved = if force { file.persist(path) } else { file.persist_noclobber(path) };
    list.remove(&part.path);
    drop(list);
    saved.map(|_| done).map_err(|e| match e.error.kind() {
        io::ErrorKind::AlreadyExists if !force => Error::Exists { path: path.to_path_buf() },
        _ => Error::write(path, e.error),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn names(folder: &Path) -> Vec<String> {
        let items = std::fs::read_dir(folder).unwrap();
        items.map(|item| item.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn a_file_is_on_the_list_while_it_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        let here = |list: &BTreeSet<PathBuf>| {
            list.iter().filter(|path| path.starts_with(folder.path())).count()
        };
        write(&path, false, |file| {
            file.write_all(b"first").unwrap();
            assert_eq!((here(&unfinished()), names(folder.path()).len()), (1, 1));
            Ok(())
        })
        .unwrap();
        assert_eq!((here(&unfinished()), names(folder.path())), (0, vec!["x".to_owned()]));
        let failed = write(&path, true, |_| Err::<(), _>(Error::Cancelled));
        assert!(matches!(failed, Err(Error::Cancelled)));
        let taken = write(&path, false, |_| Ok(()));
        assert!(matches!(taken, Err(Error::Exists { .. })));
        assert_eq!((here(&unfinished()), names(folder.path())), (0, vec!["x".to_owned()]));
        assert_eq!(std::fs::read(&path).unwrap(), b"first");
        let fleeting = Fleeting::new(path.clone());
        assert_eq!((here(&unfinished()), fleeting.path()), (1, &*path));
        drop(fleeting);
        assert_eq!((here(&unfinished()), names(folder.path()).len()), (0, 0));
    }

    #[test]
    fn what_cannot_be_written_is_found_before() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        assert!(prepare(&folder.join("new/deep/x")).unwrap());
        assert!(!prepare(&folder.join("new/deep/x")).unwrap());
        assert_eq!(names(&folder.join("new/deep")).len(), 0);
        std::fs::write(folder.join("file"), "").unwrap();
        for bad in [folder.join("file/x"), folder.join("n".repeat(300))] {
            let error = prepare(&bad).unwrap_err();
            assert!(error.to_string().starts_with("cannot write "), "{error}");
            assert_eq!(error.fault().exit_code(), 6);
        }
    }
}
