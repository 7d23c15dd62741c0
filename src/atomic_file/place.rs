//! What lies at a path that is to be written.
//!
//! Pipes and devices are written through: nothing in them can be lost, and no file takes their place.

use crate::error::{Error, Result};
use std::fs::{File, Metadata};
use std::io::{self, ErrorKind, IsTerminal};
use std::path::{Path, PathBuf};

/// Most links that are followed.
const LINKS: usize = 16;

/// What lies at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// Nothing.
    Free,
    /// A file, or a link that leads to one or to nothing.
    Taken,
    /// A folder.
    Folder,
    /// Something that is written through: a pipe, an open file of this process, or a device, which takes any
    /// number of files one after another.
    Stream {
        /// Whether it is a device.
        device: bool,
    },
}

impl Place {
    /// Looks at `path`.
    ///
    /// # Errors
    /// [`Error::Write`] when the system refuses the name; [`Error::BadRequest`] for what cannot be written: a
    /// socket, a disk.
    pub(crate) fn of(path: &Path) -> Result<Self> {
        let is_link = match std::fs::symlink_metadata(path) {
            Ok(kind) => kind.is_symlink(),
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Self::Free),
            Err(e) => return Err(Error::write(path, e)),
        };
        if descriptor(path).is_some() {
            let device = std::fs::metadata(path).is_ok_and(|kind| is_device(&kind));
            return Ok(Self::Stream { device });
        }
        match std::fs::metadata(path) {
            Ok(kind) => Self::of_kind(&kind, path),
            // The name is taken, wherever the link was to lead.
            Err(_) if is_link => Ok(Self::Taken),
            Err(e) => Err(Error::write(path, e)),
        }
    }

    fn of_kind(kind: &Metadata, path: &Path) -> Result<Self> {
        if kind.is_file() {
            return Ok(Self::Taken);
        }
        if kind.is_dir() {
            return Ok(Self::Folder);
        }
        match odd(kind) {
            Some(odd) => {
                let why =
                    format!("this is {odd}; expected a file, a pipe or a device such as /dev/null");
                Err(Error::bad_request("output", path.display(), why))
            }
            None => Ok(Self::Stream { device: is_device(kind) }),
        }
    }
}

/// Whether `path` is this process's own output, `/dev/stdout` or a link to it.
pub(crate) fn is_stdout(path: &Path) -> bool {
    descriptor(path) == Some(1)
}

/// Refuses a folder in the place of a file.
pub(super) fn refuse_folder(path: &Path) -> Error {
    Error::bad_request("output", path.display(), "this is a folder; expected the name of a file")
}

/// Finds out whether a stream can be written, without waiting for the reader of a pipe.
pub(super) fn try_stream(path: &Path, device: bool) -> Result<()> {
    if device { open(path).map(drop) } else { Ok(()) }
}

/// Lets `fill` write into a pipe or a device.
pub(super) fn write_through<T>(
    path: &Path,
    fill: impl FnOnce(&mut File) -> Result<T>,
) -> Result<T> {
    fill(&mut open(path)?)
}

/// Opens a stream for writing; waits for the reader of a pipe.
fn open(path: &Path) -> Result<File> {
    let file = match descriptor(path) {
        Some(1) => duplicate_stdout(),
        _ => File::options().write(true).open(path),
    };
    let file = file.map_err(|e| Error::write(path, e))?;
    if file.is_terminal() {
        let why = "this is a terminal, which shows no such file; redirect it or name a file";
        return Err(Error::bad_request("output", path.display(), why));
    }
    Ok(file)
}

/// The number of the open file of this process that `path` stands for.
#[cfg(unix)]
fn descriptor(path: &Path) -> Option<u32> {
    let own = format!("/proc/{}/fd", std::process::id());
    let folders = ["/dev/fd", "/proc/self/fd", "/proc/thread-self/fd", &own];
    let mut path = path.to_path_buf();
    for _ in 0..LINKS {
        let parent = path.parent()?;
        if folders.iter().any(|folder| parent == Path::new(folder)) {
            return path.file_name()?.to_str()?.parse().ok();
        }
        path = parent.join(std::fs::read_link(&path).ok()?);
    }
    None
}

#[cfg(not(unix))]
fn descriptor(_: &Path) -> Option<u32> {
    None
}

#[cfg(unix)]
fn duplicate_stdout() -> io::Result<File> {
    use std::os::fd::AsFd;
    io::stdout().as_fd().try_clone_to_owned().map(File::from)
}

#[cfg(not(unix))]
fn duplicate_stdout() -> io::Result<File> {
    Err(ErrorKind::Unsupported.into())
}

#[cfg(unix)]
fn is_device(kind: &Metadata) -> bool {
    std::os::unix::fs::FileTypeExt::is_char_device(&kind.file_type())
}

#[cfg(not(unix))]
fn is_device(_: &Metadata) -> bool {
    true
}

/// What no file is written to.
#[cfg(unix)]
fn odd(kind: &Metadata) -> Option<&'static str> {
    use std::os::unix::fs::FileTypeExt;
    let kind = kind.file_type();
    let odd = [(kind.is_socket(), "a socket"), (kind.is_block_device(), "a disk")];
    odd.into_iter().find(|(is, _)| *is).map(|(_, name)| name)
}

#[cfg(not(unix))]
fn odd(_: &Metadata) -> Option<&'static str> {
    None
}

/// The folder of `path`.
pub(super) fn folder(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Makes the folder `path` with those above it; returns whether that was needed.
///
/// # Errors
/// [`Error::Write`].
pub(crate) fn make_folder(path: &Path) -> Result<bool> {
    let missing: Vec<PathBuf> = path
        .ancestors()
        .take_while(|folder| !folder.as_os_str().is_empty() && !folder.exists())
        .map(Path::to_path_buf)
        .collect();
    std::fs::create_dir_all(path).map_err(|e| Error::write(path, e))?;
    for made in &missing {
        // A name that a power cut takes away takes all in the folder with it.
        super::part::sync_folder(folder(made)).map_err(|e| Error::write(made, e))?;
    }
    Ok(!missing.is_empty())
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn what_lies_where() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("file"), "").unwrap();
        symlink("file", path("link")).unwrap();
        symlink("nothing", path("dangling")).unwrap();
        symlink("/dev/null", path("null")).unwrap();
        symlink("/dev/stdout", path("out")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(path("socket")).unwrap();
        let made = std::process::Command::new("mkfifo").arg(path("pipe")).status().unwrap();
        assert!(made.success());
        for (name, place) in [
            ("none", Place::Free),
            ("file", Place::Taken),
            ("link", Place::Taken),
            ("dangling", Place::Taken),
            (".", Place::Folder),
            ("null", Place::Stream { device: true }),
            ("pipe", Place::Stream { device: false }),
        ] {
            assert_eq!(Place::of(&path(name)).unwrap(), place, "{name}");
        }
        assert!(Place::of(&path("socket")).unwrap_err().to_string().contains("a socket"));
        assert!(matches!(Place::of(&path("file/x")), Err(Error::Write { .. })));
        assert!(is_stdout(Path::new("/dev/stdout")) && is_stdout(&path("out")));
        assert!(is_stdout(Path::new("/proc/self/fd/1")) && !is_stdout(&path("null")));
        assert!(!is_stdout(Path::new("/dev/stderr")) && !is_stdout(Path::new("1")));
    }
}
