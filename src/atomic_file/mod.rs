//! Files that are there whole or not at all, also when the program is killed while it writes.
//!
//! Floor 0.

mod leftovers;
mod list;
mod part;
mod place;
mod together;

pub(crate) use list::TemporaryFile;
#[cfg(feature = "cli")]
pub(crate) use list::{abandon, abandon_at_once};
pub(crate) use place::{Place, is_stdout, make_folder};
pub(crate) use together::Together;
#[cfg(any(feature = "cli", test))]
pub(crate) use together::put;

use crate::error::{Error, Result};
use part::{Part, sync_folder};
use place::folder;
use std::fs::File;
use std::io;
use std::path::Path;

/// How much a loss would hurt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Care {
    /// The system writes the file to the disk when it likes: a picture is drawn again.
    Usual,
    /// The file is on the disk before it gets its name: a power cut leaves the old one or the new one.
    Lasting,
}

/// Finds out whether a file `path` can be made, before the work for it begins: makes its folder, returns
/// whether that was needed, and begins a file there for a moment.
///
/// # Errors
/// [`Error::Write`]; [`Error::BadRequest`] for folders, sockets, disks and terminals.
pub(crate) fn prepare(path: &Path) -> Result<bool> {
    // The system looks at the length of the name first.
    let missing = match Place::of(path) {
        // A folder on the way that is none is named by what makes folders.
        Err(error @ Error::Write { .. }) => make_folder(folder(path)).and(Err(error))?,
        Ok(Place::Stream { device }) => return place::try_stream(path, device).map(|()| false),
        Ok(Place::Folder) => return Err(place::refuse_folder(path)),
        other => other.and_then(|_| make_folder(folder(path)))?,
    };
    leftovers::clear(folder(path));
    Part::begin(folder(path)).map_err(|e| Error::write(folder(path), e))?;
    Ok(missing)
}

/// Lets `fill` write a file that then takes the name `path`.
///
/// A reader never sees half a file, and without `force` two writers never overwrite each other. Pipes and
/// devices are written through.
///
/// # Errors
/// [`Error::Exists`] when there is such a file and `force` is false, [`Error::Write`],
/// [`Error::BadRequest`] for folders, sockets, disks and terminals, what `fill` gives.
pub(crate) fn write<T>(
    path: &Path,
    force: bool,
    care: Care,
    fill: impl FnOnce(&mut File) -> Result<T>,
) -> Result<T> {
    let exists = || Error::Exists { path: path.to_path_buf() };
    match Place::of(path)? {
        Place::Stream { .. } => return place::write_through(path, fill),
        Place::Folder => return Err(place::refuse_folder(path)),
        Place::Taken if !force => return Err(exists()),
        _ => {}
    }
    let folder = folder(path);
    leftovers::clear(folder);
    let wrong = |e| Error::write(path, e);
    let mut part = Part::begin(folder).map_err(wrong)?;
    let done = fill(part.file())?;
    if care == Care::Lasting {
        part.sync().map_err(wrong)?;
    }
    part.call(path, force).map_err(|e| match e.kind() {
        io::ErrorKind::AlreadyExists if !force => exists(),
        _ => wrong(e),
    })?;
    if care == Care::Lasting {
        sync_folder(folder).map_err(wrong)?;
    }
    Ok(done)
}

#[cfg(test)]
mod tests {
    use super::list::unfinished;
    use super::*;
    use std::collections::BTreeSet;
    use std::io::Write;
    use std::path::PathBuf;

    fn names(folder: &Path) -> Vec<String> {
        let items = std::fs::read_dir(folder).unwrap();
        items.map(|item| item.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn a_file_that_has_a_name_is_on_the_list() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        let here = |list: &BTreeSet<PathBuf>| {
            list.iter().filter(|path| path.starts_with(folder.path())).count()
        };
        write(&path, false, Care::Lasting, |file| {
            file.write_all(b"first").unwrap();
            assert_eq!(here(&unfinished()), names(folder.path()).len());
            Ok(())
        })
        .unwrap();
        assert_eq!((here(&unfinished()), names(folder.path())), (0, vec!["x".to_owned()]));
        let failed = write(&path, true, Care::Usual, |_| Err::<(), _>(Error::Cancelled));
        assert!(matches!(failed, Err(Error::Cancelled)));
        let taken = write(&path, false, Care::Usual, |_| Ok(()));
        assert!(matches!(taken, Err(Error::Exists { .. })));
        assert_eq!((here(&unfinished()), names(folder.path())), (0, vec!["x".to_owned()]));
        assert_eq!(std::fs::read(&path).unwrap(), b"first");
        let fleeting = TemporaryFile::new(path.clone());
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
        assert_eq!(prepare(&folder.join("new")).unwrap_err().fault().exit_code(), 2);
    }

    #[test]
    #[cfg(unix)]
    fn devices_and_pipes_are_written_through() {
        use std::os::unix::fs::FileTypeExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        let bytes = |file: &mut File| file.write_all(b"x").map_err(|e| Error::write("x", e));
        std::os::unix::fs::symlink("/dev/null", &path).unwrap();
        for force in [false, true] {
            write(&path, force, Care::Lasting, bytes).unwrap();
            assert!(path.is_symlink(), "a device stays a device");
        }
        std::fs::remove_file(&path).unwrap();
        let made = std::process::Command::new("mkfifo").arg(&path).status().unwrap();
        assert!(made.success());
        let reader = std::process::Command::new("cat")
            .arg(&path)
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        write(&path, true, Care::Lasting, bytes).unwrap();
        assert_eq!(reader.wait_with_output().unwrap().stdout, b"x");
        assert!(path.metadata().unwrap().file_type().is_fifo());
        if cfg!(target_os = "linux") {
            let full = write(Path::new("/dev/full"), true, Care::Usual, bytes);
            assert_eq!(full.unwrap_err().fault().exit_code(), 6);
        }
    }
}
