//! Floor 6. Puts files in place whole or not at all.

use crate::error::{Error, Result};
use crate::whole;
use std::fs::File;
use std::io;
use std::path::Path;
use tempfile::{Builder, NamedTempFile};

/// Lets `write` fill a temporary file that then takes the name `path`.
///
/// Without `force` nothing is overwritten: [`Error::Exists`].
pub(super) fn whole<T>(
    path: &Path,
    force: bool,
    write: impl FnOnce(&mut File) -> Result<T>,
) -> Result<T> {
    parent(path)?;
    whole::write(path, force, write)
}

/// Makes `path` a link to `target`, a full path.
pub(super) fn link(target: &Path, path: &Path, force: bool) -> Result<()> {
    let folder = parent(path)?;
    let made = Builder::new().prefix(".colora-").make_in(folder, |part| symlink(target, part));
    persist(made.map_err(|e| Error::write(path, e))?, path, force)
}

/// The folder of `path`, which is made where it is missing.
fn parent(path: &Path) -> Result<&Path> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).map_err(|e| Error::write(folder, e))?;
    Ok(folder)
}

fn persist<T>(file: NamedTempFile<T>, path: &Path, force: bool) -> Result<()> {
    let saved = if force { file.persist(path) } else { file.persist_noclobber(path) };
    saved.map(drop).map_err(|e| match e.error.kind() {
        io::ErrorKind::AlreadyExists if !force => Error::Exists { path: path.to_path_buf() },
        _ => Error::write(path, e.error),
    })
}

#[cfg(unix)]
fn symlink(target: &Path, path: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, path)
}

#[cfg(not(unix))]
fn symlink(target: &Path, path: &Path) -> io::Result<()> {
    // Symbolic links ask for a privilege that users lack.
    std::fs::hard_link(target, path)
}
