//! Puts files in place whole or not at all, under names that stay in their folder.

use super::cache::is_relative;
use crate::atomic_file::{self, Care};
use crate::error::{Error, Result};
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

/// Refuses a name that leaves its folder, hides in it or holds what names do not; sub-folders are allowed.
///
/// # Errors
/// [`Error::BadRequest`].
pub(super) fn check_name(name: &str) -> Result<()> {
    let hidden = name.split('/').any(|part| part.starts_with('.') || part != part.trim());
    if is_relative(name) && !hidden && !name.contains(char::is_control) {
        return Ok(());
    }
    let why = "expected a plain name such as ink or styles/ink";
    Err(Error::bad_request("name", name, why))
}
