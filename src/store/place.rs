//! Puts files in place whole or not at all.

use crate::atomic_file::{self, Care};
use crate::error::Result;
use std::fs::File;
use std::path::Path;

/// Lets `write` fill a file that then takes the name `path`, in a folder that is made where it is missing.
///
/// Without `force` nothing is overwritten: [`Error::Exists`](crate::Error::Exists).
pub(super) fn whole<T>(
    path: &Path,
    force: bool,
    write: impl FnOnce(&mut File) -> Result<T>,
) -> Result<T> {
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        atomic_file::make_folder(folder)?;
    }
    atomic_file::write(path, force, Care::Lasting, write)
}
