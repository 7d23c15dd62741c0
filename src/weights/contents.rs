//! The table of contents of a checkpoint file, whatever its format.

use super::block_type::Blocks;
use safetensors::Dtype;
use std::collections::BTreeMap;

/// Type and shape of one tensor, as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Element type in the file; of a tensor in blocks that of its bytes.
    pub dtype: Dtype,
    /// Dimensions, outermost first; empty for a scalar.
    pub shape: Vec<usize>,
    /// Set when elements share scales in blocks.
    pub blocks: Option<Blocks>,
}

impl TensorInfo {
    /// Number of elements.
    pub fn elements(&self) -> usize {
        // Every shape was checked against the file's length when it was opened.
        self.shape.iter().fold(1, |n, &d| n.saturating_mul(d))
    }

    /// Bytes of the elements, without gaps.
    pub fn bytes(&self) -> usize {
        self.bytes_of(self.elements())
    }

    /// Bytes of so many of its elements.
    pub(super) fn bytes_of(&self, elements: usize) -> usize {
        match self.blocks {
            Some(Blocks { kind, .. }) => (elements / kind.size()).saturating_mul(kind.bytes()),
            None => elements.saturating_mul(self.dtype.bitsize()) / 8,
        }
    }

    /// The element type, or that of the blocks, as people call it.
    pub fn type_name(&self) -> String {
        self.blocks.map_or_else(|| self.dtype.to_string(), |blocks| blocks.kind.to_string())
    }
}

/// Where a tensor lies in its file.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) info: TensorInfo,
    /// Byte offset of the first element.
    pub(super) offset: usize,
    /// Distance between neighbours along each dimension, in elements; `None` when dense.
    pub(super) strides: Option<Vec<usize>>,
}

/// What reading a table of contents gives.
#[derive(Debug, Default)]
pub(super) struct Contents {
    pub(super) entries: BTreeMap<String, Entry>,
    pub(super) metadata: BTreeMap<String, String>,
}

/// Strides of a row-major tensor without gaps, in elements.
pub(super) fn dense_strides(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1usize; shape.len()];
    for i in (1..shape.len()).rev() {
        strides[i - 1] = strides[i].saturating_mul(shape[i]);
    }
    strides
}
