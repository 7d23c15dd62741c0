//! Agreeing with other workers on the list: who comes first writes it, all others compare.

use super::objects::{Objects, Owner, Patient};
use crate::batch::plan_file::{HEAD, Head, LINES, line};
use crate::batch::ready::Ready;
use crate::error::{Error, Result};
use std::sync::Arc;

/// Makes `jobs`, whose head is `head`, the list of a shared place, or finds that it is.
///
/// # Errors
/// [`Error::BadRequest`] when the place has another list; what the store gives.
pub fn agree(objects: &Arc<Patient<dyn Objects>>, head: &Head, jobs: &[Ready]) -> Result<()> {
    if let Owner::Other(bytes) = objects.create(HEAD, head.json()?.as_bytes())? {
        let path = objects.title(HEAD);
        let there: Head = serde_json::from_slice(&bytes)
            .map_err(|error| Error::corrupt(&path, error.to_string()))?;
        head.compare(&there, &objects.title(""))?;
    }
    // A worker may have ended between the two.
    if objects.length(LINES)?.is_none() {
        let lines = jobs.iter().map(line).collect::<Result<String>>()?;
        objects.put(LINES, lines.as_bytes())?;
    }
    Ok(())
}
