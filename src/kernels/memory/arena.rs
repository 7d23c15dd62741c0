//! Buffers that are used again: a network asks for the same few hundred megabytes in every
//! step.

use crate::error::Result;
use crate::kernels::memory::area::Area;
use crate::kernels::memory::spare::{fresh, keep_buffer, take_buffer};

/// A buffer of 32-bit words, seen as floats or as packed pairs. It is kept for its next use when dropped.
///
/// Its first contents are left from its last use: whoever takes one writes every word that is read.
#[derive(Debug)]
pub(crate) struct Buffer {
    data: Area,
    len: usize,
}

impl Buffer {
    /// A buffer of `len` words.
    ///
    /// # Errors
    /// [`Error::Memory`](crate::Error::Memory).
    pub(crate) fn new(len: usize) -> Result<Self> {
        let data = match take_buffer(len) {
            Some(data) => data,
            None => fresh(len, "feature maps")?,
        };
        Ok(Self { data, len })
    }

    pub(in crate::kernels) fn floats(&self) -> &[f32] {
        &self.data[..self.len]
    }

    pub(in crate::kernels) fn floats_mut(&mut self) -> &mut [f32] {
        &mut self.data[..self.len]
    }

    pub(in crate::kernels) fn words(&self) -> &[u32] {
        bytemuck::cast_slice(self.floats())
    }

    pub(in crate::kernels) fn words_mut(&mut self) -> &mut [u32] {
        bytemuck::cast_slice_mut(self.floats_mut())
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        keep_buffer(std::mem::take(&mut self.data));
    }
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
    }
}
