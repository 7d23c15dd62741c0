//! What a user wrote down about a model: `NAME.toml` beside a file.

use crate::error::{Error, InFile, Result};
use crate::input;
use crate::sampling::Training;
use std::path::{Path, PathBuf};

/// Longest card that is read, in bytes.
const MAX_CARD: u64 = 1 << 20;

/// The key under which a card holds what the network predicts.
pub(crate) const PREDICTION: &str = "prediction";

/// Where the card of a model file lies.
pub(crate) fn path(model: &Path) -> PathBuf {
    model.with_extension("toml")
}

/// What the card of the model file `model` says that the network predicts.
///
/// # Errors
/// [`Error::Corrupt`] or [`Error::BadRequest`], naming the card.
pub(super) fn training(model: &Path) -> Result<Option<Training>> {
    let card = path(model);
    let text = input::text_if_there(&card, MAX_CARD, "a card")?;
    let Some(text) = text else { return Ok(None) };
    let table: toml::Table =
        text.parse().map_err(|e: toml::de::Error| Error::corrupt(&card, e.message()))?;
    match table.get(PREDICTION) {
        None => Ok(None),
        Some(toml::Value::String(kind)) => kind.parse().map(Some).in_file(&card),
        Some(other) => Err(Error::corrupt(&card, format!("prediction = {other}: expected a text"))),
    }
}
