//! Where a value that cannot work came from.

use crate::app::{Layers, Origin};
use crate::error::Error;
use crate::plain;

/// Adds to a bad value who set it, when that is not the caller.
pub(super) fn with_origin(error: anyhow::Error, layers: &Layers) -> anyhow::Error {
    let Some(Error::BadRequest { field, .. }) = error.downcast_ref::<Error>() else { return error };
    let origin = match layers.origin(field) {
        Some(Origin::Config(origin)) => origin.to_string(),
        Some(Origin::Picture(path)) => plain::path(path).to_string(),
        Some(Origin::Caller) | None => return error,
    };
    let why = format!("cannot use `{field}` of {origin}");
    error.context(why)
}
