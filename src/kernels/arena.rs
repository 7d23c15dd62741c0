//! Floor 1. Buffers that are used again: a network asks for the same few hundred megabytes in every
//! step, and fresh pages cost as much as the work that fills them.

use super::memory::Pages;
use crate::error::Result;
use std::sync::{Mutex, PoisonError};

/// Buffers that wait for their next use, the smallest first.
static FREE: Mutex<Vec<Pages>> = Mutex::new(Vec::new());

/// Words from which a buffer is large: 16 MiB.
const LARGE: usize = 4 << 20;

/// A buffer of 32-bit words, seen as floats or as packed pairs. It goes back to the pool when dropped.
///
/// Its first contents are left from its last use: whoever takes one writes every word that is read.
#[derive(Debug)]
pub(crate) struct Buffer {
    data: Pages,
    len: usize,
}

impl Buffer {
    /// A buffer of `len` words.
    ///
    /// # Errors
    /// [`Error::Memory`](crate::Error::Memory).
    pub(crate) fn new(len: usize) -> Result<Self> {
        let mut free = FREE.lock().unwrap_or_else(PoisonError::into_inner);
        let fit = free.partition_point(|buffer| buffer.len() < len);
        // A buffer far too large is better kept for a large use.
        if free.get(fit).is_some_and(|buffer| buffer.len() <= len + len / 2 + 1024) {
            return Ok(Self { data: free.remove(fit), len });
        }
        // The larger the sizes become, the less the small ones are needed: in a decoder each stage is
        // four times the one before.
        if len >= LARGE {
            free.retain(|buffer| buffer.len() < LARGE || buffer.len() >= len);
        }
        drop(free);
        Ok(Self { data: Pages::new(len, "feature maps")?, len })
    }

    pub(super) fn floats(&self) -> &[f32] {
        &self.data[..self.len]
    }

    pub(super) fn floats_mut(&mut self) -> &mut [f32] {
        &mut self.data[..self.len]
    }

    pub(super) fn words(&self) -> &[u32] {
        bytemuck::cast_slice(self.floats())
    }

    pub(super) fn words_mut(&mut self) -> &mut [u32] {
        bytemuck::cast_slice_mut(self.floats_mut())
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let data = std::mem::take(&mut self.data);
        if data.is_empty() {
            return;
        }
        let mut free = FREE.lock().unwrap_or_else(PoisonError::into_inner);
        let place = free.partition_point(|buffer| buffer.len() < data.len());
        free.insert(place, data);
    }
}

/// Gives the waiting buffers back to the system: a stage of the work is over.
pub(crate) fn release_buffers() {
    FREE.lock().unwrap_or_else(PoisonError::into_inner).clear();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_have_their_length_and_are_one_memory_in_two_types() {
        for len in [0, 1, 17, 100_000] {
            let mut buffer = Buffer::new(len).unwrap();
            assert_eq!((buffer.floats().len(), buffer.words_mut().len()), (len, len));
            buffer.floats_mut().fill(1.0);
            assert!(buffer.words().iter().all(|word| *word == 1f32.to_bits()));
        }
        release_buffers();
    }
}
