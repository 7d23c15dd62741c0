//! A file while it is written: without any name where the system can, so that a killed program
//! leaves nothing; else under a hidden name, locked so that others see that it is in use.

use super::list::TemporaryFile;
use std::fs::File;
use std::hash::{BuildHasher, Hasher};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

/// What hidden names begin and end with.
pub(super) const HIDDEN: (&str, &str) = (".colora-", ".part");
/// How many hidden names are tried.
const TRIES: u32 = 32;

/// A file while it is written.
#[derive(Debug)]
pub(super) struct Part {
    file: File,
    /// `None` for a file without a name.
    name: Option<TemporaryFile>,
    folder: PathBuf,
}

impl Part {
    /// Begins a file in `folder`.
    pub(super) fn begin(folder: &Path) -> io::Result<Self> {
        match unnamed(folder) {
            Some(file) => Ok(Self { file, name: None, folder: folder.to_path_buf() }),
            None => Self::hidden(folder),
        }
    }

    /// Begins a file under a hidden name.
    fn hidden(folder: &Path) -> io::Result<Self> {
        let (name, file) = hidden(folder, |path| {
            // Follows the user's umask, as every file that is no secret.
            File::options().read(true).write(true).create_new(true).open(path)
        })?;
        // Some network folders have no file locks; leftovers stay there.
        let _ = file.try_lock();
        Ok(Self { file, name: Some(name), folder: folder.to_path_buf() })
    }

    /// The file.
    pub(super) fn file(&mut self) -> &mut File {
        &mut self.file
    }

    /// Writes all of it to the disk.
    pub(super) fn sync(&self) -> io::Result<()> {
        lenient(self.file.sync_all())
    }

    /// Gives the file its name; without `force` none that is taken.
    ///
    /// # Errors
    /// [`ErrorKind::AlreadyExists`], and other errors of the system.
    pub(super) fn call(self, path: &Path, force: bool) -> io::Result<()> {
        match self.name {
            Some(name) => rename(name.path(), path, force).map(|()| name.keep()),
            None => match link(&self.file, path) {
                Err(e) if e.kind() == ErrorKind::AlreadyExists && force => {
                    let (name, ()) = hidden(&self.folder, |hidden| link(&self.file, hidden))?;
                    rename(name.path(), path, true).map(|()| name.keep())
                }
                Err(e) if e.kind() != ErrorKind::AlreadyExists => self.copied(path, force),
                done => done,
            },
        }
    }

    /// A file system that makes files without names may be unable to name them.
    fn copied(mut self, path: &Path, force: bool) -> io::Result<()> {
        let mut copy = Self::hidden(&self.folder)?;
        io::Seek::rewind(&mut self.file)?;
        io::copy(&mut self.file, &mut copy.file)?;
        copy.sync()?;
        copy.call(path, force)
    }
}

/// Makes something in `folder` under a hidden, unused name.
pub(super) fn hidden<T>(
    folder: &Path,
    make: impl Fn(&Path) -> io::Result<T>,
) -> io::Result<(TemporaryFile, T)> {
    let mut tries = 0;
    loop {
        let random = std::hash::RandomState::new().build_hasher().finish();
        let path = folder.join(format!("{}{random:016x}{}", HIDDEN.0, HIDDEN.1));
        match TemporaryFile::make(path, &make) {
            Err(e) if e.kind() == ErrorKind::AlreadyExists && tries < TRIES => tries += 1,
            made => return made,
        }
    }
}

/// Renames a file, a link or a folder; without `force` only to a name that is free.
pub(super) fn rename(from: &Path, to: &Path, force: bool) -> io::Result<()> {
    if force {
        return std::fs::rename(from, to);
    }
    #[cfg(target_os = "linux")]
    {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
            // Some file systems do not support it.
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {}
            done => return done.map_err(Into::into),
        }
    }
    let free = |to: &Path| match std::fs::symlink_metadata(to) {
        Ok(_) => Err(io::Error::from(ErrorKind::AlreadyExists)),
        Err(_) => Ok(()),
    };
    if std::fs::symlink_metadata(from)?.is_file() {
        match std::fs::hard_link(from, to) {
            Ok(()) => return std::fs::remove_file(from),
            Err(e) if e.kind() == ErrorKind::AlreadyExists => return Err(e),
            // Without hard links a look is all that can be done.
            Err(_) => {}
        }
    }
    free(to).and_then(|()| std::fs::rename(from, to))
}

/// A file without a name; `None` where there are none.
#[cfg(target_os = "linux")]
fn unnamed(folder: &Path) -> Option<File> {
    use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
    let umask = umask()?;
    let mut options = File::options();
    options.read(true).write(true).mode(0o666).custom_flags(libc::O_TMPFILE);
    let file = options.open(folder).ok()?;
    // Linux before 6.0 forgets the umask on some file systems.
    let mode = file.metadata().ok()?.mode();
    (mode & umask == 0).then_some(file)
}

/// The permissions that the user's new files do not have; `None` without /proc, by which files are named.
#[cfg(target_os = "linux")]
fn umask() -> Option<u32> {
    static UMASK: std::sync::OnceLock<Option<u32>> = std::sync::OnceLock::new();
    *UMASK.get_or_init(|| {
        let status =
            crate::input::text(Path::new("/proc/self/status"), 1 << 20, "a status").ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("Umask:"))?;
        u32::from_str_radix(line.trim(), 8).ok()
    })
}

/// Gives a file without a name one that is free.
#[cfg(target_os = "linux")]
fn link(file: &File, path: &Path) -> io::Result<()> {
    use rustix::fs::{AtFlags, CWD, linkat};
    use std::os::fd::AsRawFd;
    let from = format!("/proc/self/fd/{}", file.as_raw_fd());
    linkat(CWD, from, CWD, path, AtFlags::SYMLINK_FOLLOW).map_err(Into::into)
}

#[cfg(not(target_os = "linux"))]
fn unnamed(_: &Path) -> Option<File> {
    None
}

#[cfg(not(target_os = "linux"))]
fn link(_: &File, _: &Path) -> io::Result<()> {
    Err(ErrorKind::Unsupported.into())
}

/// Writes the names in `folder` to the disk, where the system can.
pub(super) fn sync_folder(folder: &Path) -> io::Result<()> {
    if cfg!(not(unix)) {
        return Ok(());
    }
    match File::options().read(true).open(folder) {
        Ok(folder) => lenient(folder.sync_all()),
        // A folder may be open for writing alone.
        Err(e) if e.kind() == ErrorKind::PermissionDenied => Ok(()),
        Err(e) => Err(e),
    }
}

/// What a file system cannot do is not demanded.
fn lenient(synced: io::Result<()>) -> io::Result<()> {
    match synced {
        Err(e) if matches!(e.kind(), ErrorKind::InvalidInput | ErrorKind::Unsupported) => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn both_kinds_take_names() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        let parts = [Part::begin, Part::hidden];
        for (at, begin) in parts.into_iter().enumerate() {
            let write = |text: &str, force: bool| {
                let mut part = begin(folder.path()).unwrap();
                part.file().write_all(text.as_bytes()).unwrap();
                part.sync().unwrap();
                part.call(&path, force)
            };
            write("first", true).unwrap();
            let taken = write("second", false).unwrap_err();
            assert_eq!(taken.kind(), ErrorKind::AlreadyExists);
            assert_eq!(std::fs::read_to_string(&path).unwrap(), "first");
            write("third", true).unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), "third", "{at}");
            let copied = begin(folder.path()).unwrap().copied(&folder.path().join("y"), true);
            copied.unwrap();
            drop(begin(folder.path()).unwrap());
            assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
        }
        sync_folder(folder.path()).unwrap();
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn an_unnamed_file_leaves_nothing_and_follows_the_umask() {
        use std::os::unix::fs::MetadataExt;
        let folder = tempfile::tempdir().unwrap();
        let Some(file) = unnamed(folder.path()) else { return };
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        let plain = folder.path().join("plain");
        std::fs::write(&plain, "").unwrap();
        let mode = |kind: std::fs::Metadata| kind.mode() & 0o777;
        assert_eq!(mode(file.metadata().unwrap()), mode(plain.metadata().unwrap()));
    }
}
