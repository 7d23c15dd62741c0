//! Floor 7. Ctrl-C: the first stops after the current step, the second at once.

use super::style::say;
use crate::error::Fault;
use crate::pipeline::Cancel;
use anyhow::{Context, Result};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Held while a file takes its name, so that an abort leaves no half of it. Inside: the preview that
/// an abort removes.
static SAVING: Mutex<Option<PathBuf>> = Mutex::new(None);

/// Keeps a second Ctrl-C waiting for the few milliseconds that a save takes.
pub(super) fn saving() -> MutexGuard<'static, Option<PathBuf>> {
    SAVING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes Ctrl-C set `cancel`.
///
/// # Errors
/// When the system refuses the handler.
pub(super) fn install(cancel: &Cancel) -> Result<()> {
    let cancel = cancel.clone();
    let handler = move || {
        if cancel.is_cancelled() {
            abort();
        }
        cancel.cancel();
        say("stopping after this step; Ctrl-C again stops at once");
    };
    ctrlc::set_handler(handler).context("cannot catch Ctrl-C")
}

#[allow(clippy::exit)] // the user asked twice; the main thread is deep in a network
fn abort() {
    let mut preview = saving();
    let _ = preview.take().map(std::fs::remove_file);
    std::process::exit(i32::from(Fault::Cancelled.exit_code()));
}
