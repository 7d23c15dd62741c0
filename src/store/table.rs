//! Small TOML files that people write: cards and stacks.

use crate::error::{Error, Result};
use crate::input;
use crate::suggest::did_you_mean;
use serde::de::DeserializeOwned;
use std::path::Path;

/// Longest file that is read, in bytes.
const MAX_FILE: u64 = 1 << 20;

/// The text of the file `path`.
pub(super) fn text(path: &Path) -> Result<String> {
    input::text(path, MAX_FILE, "a card or stack")
}

/// `text` as a table, read from the file `path`.
pub(super) fn table(text: &str, path: &Path) -> Result<toml::Table> {
    text.parse().map_err(|e| corrupt(path, &e))
}

/// Refuses keys that are not among `known`; the error names a near one, or all.
pub(super) fn check_keys(table: &toml::Table, known: &[&str], path: &Path) -> Result<()> {
    let Some(key) = table.keys().find(|key| !known.contains(&key.as_str())) else { return Ok(()) };
    let near = did_you_mean(key, known.iter().copied());
    let all = format!("; known: {}", known.join(", "));
    let hint = if near.is_empty() { all } else { near };
    Err(Error::corrupt(path, format!("unknown key `{key}`{hint}")))
}

/// A table as a value.
pub(super) fn value<T: DeserializeOwned>(table: toml::Table, path: &Path) -> Result<T> {
    table.try_into().map_err(|e| corrupt(path, &e))
}

fn corrupt(path: &Path, error: &toml::de::Error) -> Error {
    Error::corrupt(path, error.to_string().trim_end().to_owned())
}
