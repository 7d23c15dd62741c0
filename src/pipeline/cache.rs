//! Floor 5. Things that were expensive to make, kept while they are likely to be needed again.

use crate::error::Result;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// A few values by key, the least recently used of which goes first.
#[derive(Debug)]
pub(super) struct Recent<T> {
    values: Mutex<Vec<(String, Arc<T>)>>,
    /// As many as were asked for.
    usual: usize,
    /// As many as there may be now.
    limit: AtomicUsize,
}

impl<T> Recent<T> {
    pub(super) fn new(limit: usize) -> Self {
        let usual = limit.max(1);
        Self { values: Mutex::default(), usual, limit: AtomicUsize::new(usual) }
    }

    /// Makes room for `count` values that are used in turn: with less, each would push the next one out.
    pub(super) fn make_room(&self, count: usize) {
        self.limit.store(count.max(self.usual), Ordering::Relaxed);
    }

    /// The value of `key`, made by `make` when it is not there.
    ///
    /// Two threads that miss at once both make it; neither waits for the other's work.
    pub(super) fn get(&self, key: &str, make: impl FnOnce() -> Result<T>) -> Result<Arc<T>> {
        if let Some(value) = self.touch(key) {
            return Ok(value);
        }
        // First, so that the new one can be made in its memory.
        let limit = self.limit.load(Ordering::Relaxed);
        self.shorten(limit - 1);
        let value = Arc::new(make()?);
        let mut values = self.values.lock().unwrap_or_else(PoisonError::into_inner);
        values.insert(0, (key.to_owned(), value.clone()));
        drop(values);
        self.shorten(limit);
        Ok(value)
    }

    /// Lets every value go.
    pub(super) fn clear(&self) {
        self.shorten(0);
    }

    /// Lets all values go but the `count` most recent.
    fn shorten(&self, count: usize) {
        let mut values = self.values.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = count.min(values.len());
        let gone = values.split_off(kept);
        drop(values);
        drop(gone);
    }

    /// The value of `key`, which becomes the most recent.
    fn touch(&self, key: &str) -> Option<Arc<T>> {
        let mut values = self.values.lock().unwrap_or_else(PoisonError::into_inner);
        let at = values.iter().position(|(known, _)| known == key)?;
        let entry = values.remove(at);
        let value = entry.1.clone();
        values.insert(0, entry);
        Some(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_recent_goes_first() {
        let recent = Recent::new(2);
        let made = std::cell::Cell::new(0);
        let get = |key: &str| {
            let make = || {
                made.set(made.get() + 1);
                Ok(key.to_owned())
            };
            recent.get(key, make).unwrap()
        };
        for key in ["a", "b", "a", "c", "a", "b"] {
            assert_eq!(*get(key), key);
        }
        assert_eq!(made.get(), 4);
        recent.make_room(3);
        for key in ["a", "b", "c", "a", "b", "c", "a", "b", "c"] {
            assert_eq!(*get(key), key);
        }
        assert_eq!(made.get(), 5);
        assert!(recent.get("d", || Err(crate::Error::Cancelled)).is_err());
    }
}
