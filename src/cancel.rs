//! A cancellation flag, shared between the caller and the worker.
//!
//! Floor 0.

use crate::error::{Error, Result};
use std::sync::Arc;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
#[cfg(any(feature = "cli", test))]
use std::time::Duration;
use std::time::Instant;

/// A flag that stops long work between two layers, or two tensors that are read; clones share it.
#[derive(Debug, Clone, Default)]
pub struct Cancel(Arc<Flag>);

#[derive(Debug, Default)]
struct Flag {
    set: AtomicBool,
    /// When the work last looked at the flag, and the longest that it ever did not: milliseconds, the first
    /// since [`BEGIN`].
    looked: AtomicU64,
    longest: AtomicU64,
}

/// Before any look at a flag.
static BEGIN: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Milliseconds since [`BEGIN`], and one: 0 is never.
fn now() -> u64 {
    u64::try_from(BEGIN.elapsed().as_millis()).map_or(u64::MAX, |now| now.saturating_add(1))
}

impl Cancel {
    /// A flag that is not set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks the work to stop.
    pub fn cancel(&self) {
        self.0.set.store(true, Ordering::Relaxed);
    }

    /// Whether stopping was asked for.
    pub fn is_cancelled(&self) -> bool {
        let now = now();
        let before = self.0.looked.swap(now, Ordering::Relaxed);
        if before > 0 {
            self.0.longest.fetch_max(now.saturating_sub(before), Ordering::Relaxed);
        }
        self.is_set()
    }

    /// [`Error::Cancelled`] when stopping was asked for.
    pub fn check(&self) -> Result<()> {
        if self.is_cancelled() { Err(Error::Cancelled) } else { Ok(()) }
    }

    /// Whether stopping was asked for, in the eyes of who watches the work: this is no look of the work itself.
    pub(crate) fn is_set(&self) -> bool {
        self.0.set.load(Ordering::Relaxed)
    }

    /// Since when the work did not look at the flag; all the time of the flag when it never did.
    #[cfg(any(feature = "cli", test))]
    pub(crate) fn unseen(&self) -> Duration {
        Duration::from_millis(now().saturating_sub(self.0.looked.load(Ordering::Relaxed)))
    }

    /// The longest that the work did not look at the flag between two looks.
    #[cfg(any(feature = "cli", test))]
    pub(crate) fn longest(&self) -> Duration {
        Duration::from_millis(self.0.longest.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_are_remembered() {
        let cancel = Cancel::new();
        std::thread::sleep(Duration::from_millis(3));
        assert!(cancel.check().is_ok() && cancel.clone().unseen() <= BEGIN.elapsed());
        std::thread::sleep(Duration::from_millis(30));
        assert!(!cancel.is_set() && cancel.unseen() >= Duration::from_millis(29));
        cancel.cancel();
        assert!(cancel.check().is_err());
        assert!(cancel.longest() >= Duration::from_millis(29));
        assert!(cancel.unseen() <= BEGIN.elapsed());
    }
}
