//! The storages in a pickle, and the tensors that are windows onto them.

use safetensors::Dtype;

/// Some bytes of the file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Region {
    pub(super) start: usize,
    pub(super) len: usize,
}

impl Region {
    /// The bytes of this region; `None` when it reaches beyond the file.
    pub(super) fn of(self, file: &[u8]) -> Option<&[u8]> {
        file.get(self.start..self.start.checked_add(self.len)?)
    }
}

/// A storage: what several tensors may share.
#[derive(Debug, Clone, Copy)]
pub(super) struct Storage<'a> {
    /// Type of the elements; `None` when it counts bytes.
    pub(super) dtype: Option<Dtype>,
    pub(super) key: Key<'a>,
    /// Number of elements.
    pub(super) len: usize,
    /// First element, for a view of another storage (torch before 0.4).
    pub(super) start: usize,
}

/// The name of a storage in its file.
#[derive(Debug, Clone, Copy)]
pub(super) enum Key<'a> {
    Text(&'a str),
    Number(i64),
}

impl std::fmt::Display for Key<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Key::Text(text) => f.write_str(text),
            Key::Number(number) => number.fmt(f),
        }
    }
}

/// A tensor: a window onto a storage.
#[derive(Debug)]
pub(super) struct TensorData<'a> {
    pub(super) storage: Storage<'a>,
    pub(super) dtype: Dtype,
    /// First element.
    pub(super) offset: usize,
    pub(super) shape: Vec<usize>,
    pub(super) strides: Vec<usize>,
}
