//! One weight file, opened by what it contains: safetensors, GGUF, or a torch pickle.
//!
//! Opening reads only the table of contents; a tensor's bytes are touched when it is asked for and
//! are converted straight from the memory map. fp8 tensors are read as they are: a companion
//! `….scale_weight` is an ordinary tensor here, and multiplying by it is the caller's matter; a
//! [`Checkpoint`] does.

mod blocked;
mod checkpoint;
mod convert;
mod header;
mod identity;
mod map;
mod scale;

pub use checkpoint::{Checkpoint, Inventory, NotFinite};

use super::block_type::Blocks;
use super::contents::{Contents, Entry, TensorInfo, dense_strides};
use crate::error::{Error, InFile, Result};
use crate::input;
use candle_core::{DType, Device, Tensor};
use identity::Stamp;
use safetensors::Dtype;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

/// The bytes of a file.
enum Bytes {
    Mapped(map::Map),
    Static(&'static [u8]),
    Owned(Vec<u8>),
}

impl std::ops::Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Bytes::Mapped(map) => map,
            Bytes::Static(bytes) => bytes,
            Bytes::Owned(bytes) => bytes,
        }
    }
}

/// An opened weight file. Cloning is cheap; clones share the memory map.
///
/// A mapped file that is shortened while it is open gives [`Error::Corrupt`] when it is read (on Unix by a
/// handler of SIGBUS, see `map.rs`). One whose bytes are changed in place gives other weights: replace a
/// model file by renaming a new one over it.
#[derive(Clone)]
pub struct CheckpointFile(Arc<Inner>);

struct Inner {
    path: PathBuf,
    bytes: Bytes,
    contents: Contents,
    /// The times of the file, if they can be trusted.
    stamp: Option<Stamp>,
    sum: OnceLock<Arc<str>>,
}

impl Inner {
    fn intact(&self) -> Result<()> {
        match &self.bytes {
            Bytes::Mapped(map) if map.is_broken() => Err(Error::corrupt(
                &self.path,
                "the file was shortened, or could not be read, while it was in use; replace a file by renaming another over it, and start again",
            )),
            _ => Ok(()),
        }
    }
}

impl std::fmt::Debug for CheckpointFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CheckpointFile")
            .field("path", &self.0.path)
            .field("tensors", &self.0.contents.entries.len())
            .finish_non_exhaustive()
    }
}

impl CheckpointFile {
    /// Opens a file; its contents decide how it is read, not its name.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be opened; [`Error::Corrupt`] when it is truncated, damaged or
    /// something else altogether (a web page, a git-lfs pointer, an empty file, JSON);
    /// [`Error::UnsafePickle`] for a pickle that asks for more than tensors; [`Error::Unsupported`]
    /// for torch archives that are compressed or big-endian, and for GGUF of versions or element types
    /// that are not read; [`Error::Limit`] for tables of contents beyond all reason.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let file = input::open(path)?;
        Self::mapped(path, &file)
    }

    /// Opens a file as [`open`](Self::open) does and copies it to memory if it has at most `most` bytes: what
    /// happens to it afterwards is of no consequence. Files that did not change share one copy.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub(crate) fn open_copied(path: &Path, most: u64) -> Result<Self> {
        let io = |e| Error::io(path, e);
        let file = input::open(path)?;
        let before = file.metadata().map_err(io)?;
        if before.len() > most {
            return Self::mapped(path, &file);
        }
        let stamp = Stamp::of(path, &before);
        if let Some(copy) = stamp.as_ref().and_then(identity::copy) {
            return Ok(Self(copy));
        }
        let bytes = input::from(&file, most, "a file that is copied to memory", path)?;
        // Somebody may have written meanwhile.
        let after = Stamp::of(path, &file.metadata().map_err(io)?);
        let stamp = stamp.filter(|stamp| after.as_ref() == Some(stamp));
        let file = Self::read(path.into(), Bytes::Owned(bytes), stamp.clone())?;
        if let Some(stamp) = stamp {
            identity::remember_copy(stamp, &file.0);
        }
        Ok(file)
    }

    fn mapped(path: &Path, file: &std::fs::File) -> Result<Self> {
        let kind = file.metadata().map_err(|e| Error::io(path, e))?;
        let stamp = Stamp::of(path, &kind);
        if kind.len() == 0 {
            return Self::read(path.into(), Bytes::Static(&[]), stamp);
        }
        let map = map::Map::new(file).map_err(|e| Error::io(path, e))?;
        Self::read(path.into(), Bytes::Mapped(map), stamp)
    }

    /// A file whose bytes are part of the program; `name` stands for its path in messages.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn from_static(bytes: &'static [u8], name: impl Into<PathBuf>) -> Result<Self> {
        Self::read(name.into(), Bytes::Static(bytes), None)
    }

    /// A file whose bytes are in memory; `name` stands for its path in messages.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn from_vec(bytes: Vec<u8>, name: impl Into<PathBuf>) -> Result<Self> {
        Self::read(name.into(), Bytes::Owned(bytes), None)
    }

    fn read(path: PathBuf, bytes: Bytes, stamp: Option<Stamp>) -> Result<Self> {
        let contents = header::read(&bytes, &path).in_file(&path);
        let inner =
            Inner { path, bytes, contents: Contents::default(), stamp, sum: OnceLock::new() };
        // A file that shrinks under the reader is that before it is anything else.
        inner.intact()?;
        Ok(Self(Arc::new(Inner { contents: contents?, ..inner })))
    }

    /// The SHA-256 of the whole file in hexadecimal letters, computed once while the file stays as it is.
    ///
    /// # Errors
    /// [`Error::Corrupt`] for a mapped file that was shortened.
    pub fn sha256(&self) -> Result<&str> {
        let inner = &self.0;
        let sum = inner.sum.get_or_init(|| identity::sum(inner.stamp.as_ref(), &inner.bytes));
        inner.intact()?;
        Ok(sum)
    }

    /// Whether the file itself was written to since it was opened, and not replaced by another. `false` where that
    /// cannot be found out.
    pub(crate) fn was_rewritten(&self) -> bool {
        let mapped = matches!(self.0.bytes, Bytes::Mapped(_));
        mapped && self.0.stamp.as_ref().is_some_and(Stamp::was_rewritten)
    }

    /// Where the file lies.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// Names of all tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.contents.entries.keys().map(String::as_str)
    }

    /// Number of tensors.
    pub fn len(&self) -> usize {
        self.0.contents.entries.len()
    }

    /// Whether there is no tensor.
    pub fn is_empty(&self) -> bool {
        self.0.contents.entries.is_empty()
    }

    /// Type and shape of a tensor; `None` when there is none of that name.
    pub fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.0.contents.entries.get(name).map(|entry| &entry.info)
    }

    /// The free-form text of a safetensors header; empty for pickles.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.0.contents.metadata
    }

    /// Bytes of the file.
    pub fn byte_len(&self) -> u64 {
        self.0.bytes.len() as u64
    }

    /// All bytes of the file.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0.bytes
    }

    /// Where the tensors of a safetensors file begin; `None` for other kinds.
    pub(crate) fn data_start(&self) -> Option<usize> {
        let length = u64::from_le_bytes(*self.0.bytes.first_chunk::<8>()?);
        // A torch file begins with letters or a pickle's opcode, which no length of a header has.
        let gguf = self.0.bytes.starts_with(super::gguf::MAGIC);
        let json = self.0.bytes.get(8) == Some(&b'{') && !gguf;
        json.then(|| usize::try_from(length).ok()?.checked_add(8)).flatten()
    }

    /// A tensor's elements in row-major order, converted to f32.
    ///
    /// `rows`: only these indices of the first dimension. Integers are converted by value; fp8 is
    /// E4M3 as torch's `float8_e4m3fn` and E5M2.
    ///
    /// # Errors
    /// [`Error::TensorMissing`], or [`Error::Unsupported`] for an element type that is not read.
    pub fn read_f32(&self, name: &str, rows: Option<Range<usize>>) -> Result<Vec<f32>> {
        self.load_f32(name, &self.view(name)?.rows(rows)?)
    }

    /// A tensor's elements in row-major order, as the file holds them.
    ///
    /// # Errors
    /// As [`read_f32`](Self::read_f32).
    pub(crate) fn raw(&self, name: &str, rows: Option<Range<usize>>) -> Result<Cow<'_, [u8]>> {
        let view = self.view(name)?.rows(rows)?;
        if view.blocks.is_some() {
            return Err(self.unread(name, &view));
        }
        match (self.elements(&view)?, &self.0.bytes) {
            // Read here and now, so that a file that shrinks is noticed here.
            (Cow::Borrowed(bytes), Bytes::Mapped(_)) => {
                let copied = bytes.to_vec();
                self.intact()?;
                Ok(Cow::Owned(copied))
            }
            (bytes, _) => Ok(bytes),
        }
    }

    /// Refuses a mapped file of which a part could not be read: zeros were read in its place.
    ///
    /// # Errors
    /// [`Error::Corrupt`].
    pub(super) fn intact(&self) -> Result<()> {
        self.0.intact()
    }

    fn load_f32(&self, name: &str, view: &View) -> Result<Vec<f32>> {
        let values = match view.blocks {
            Some(blocks) => blocked::read(&self.0.path, &self.0.bytes, view, blocks)?,
            None => convert::read(&self.elements(view)?, view.dtype)
                .ok_or_else(|| self.unread(name, view))?,
        };
        self.intact()?;
        Ok(values)
    }

    /// Fills `out` with the elements of `view` from number `first` on, on the calling thread.
    fn load_f32_into(&self, name: &str, view: &View, first: usize, out: &mut [f32]) -> Result<()> {
        if let Some(blocks) = view.blocks {
            blocked::read_into(&self.0.path, &self.0.bytes, view, blocks, first, out)?;
        } else {
            let part = self.part(view, first, out.len())?;
            convert::read_into(&part, view.dtype, out).ok_or_else(|| self.unread(name, view))?;
        }
        self.intact()
    }

    /// A tensor in `dtype` on `device`; elements that are stored in that type are copied as they are.
    ///
    /// `rows`: only these indices of the first dimension.
    ///
    /// # Errors
    /// [`Error::TensorMissing`], [`Error::Unsupported`] for a stored or asked type that is not read,
    /// [`Error::Tensor`] when the device has no room.
    pub fn tensor(
        &self,
        name: &str,
        rows: Option<Range<usize>>,
        dtype: DType,
        device: &Device,
    ) -> Result<Tensor> {
        self.load(name, &self.view(name)?.rows(rows)?, dtype, device)
    }

    fn view(&self, name: &str) -> Result<View> {
        let entry = self.0.contents.entries.get(name).ok_or_else(|| Error::TensorMissing {
            site: name.to_owned(),
            file: self.0.path.display().to_string(),
        })?;
        let shape = entry.info.shape.clone();
        let strides = entry.strides.clone().unwrap_or_else(|| dense_strides(&shape));
        let TensorInfo { dtype, blocks, .. } = entry.info;
        Ok(View { dtype, shape, strides, offset: entry.offset, blocks })
    }

    fn load(&self, name: &str, view: &View, dtype: DType, device: &Device) -> Result<Tensor> {
        if let Some(blocks) = view.blocks {
            let values = blocked::read(&self.0.path, &self.0.bytes, view, blocks)?;
            self.intact()?;
            self.forget(view);
            let tensor = Tensor::from_vec(values, &view.shape[..], &Device::Cpu)?;
            return Ok(tensor.to_dtype(dtype)?.to_device(device)?);
        }
        let bytes = self.elements(view)?;
        let tensor = convert::tensor(&bytes, view.dtype, &view.shape, dtype, device)?
            .ok_or_else(|| self.unread(name, view))?;
        self.intact()?;
        self.forget(view);
        arranged(tensor)
    }

    /// Takes the pages of a tensor that was copied off this process's account; the system may keep them.
    fn forget(&self, view: &View) {
        const LARGE: usize = 1 << 20;
        if view.strides != dense_strides(&view.shape) {
            return;
        }
        let length = view.bytes_of(view.shape.iter().product());
        let offset = view.offset;
        if let Bytes::Mapped(map) = &self.0.bytes
            && length >= LARGE
        {
            map.forget(offset, length);
        }
    }

    /// The elements of `view` without gaps: a slice of the file where possible.
    fn elements(&self, view: &View) -> Result<Cow<'_, [u8]>> {
        self.part(view, 0, view.shape.iter().product())
    }

    /// As [`elements`](Self::elements), `count` of them from number `first` on.
    fn part(&self, view: &View, first: usize, count: usize) -> Result<Cow<'_, [u8]>> {
        let outside = || Error::corrupt(&self.0.path, "a tensor lies outside of the file");
        let size = view.dtype.bitsize() / 8;
        let all = view.shape.iter().product::<usize>();
        first.checked_add(count).filter(|&end| end <= all).ok_or_else(outside)?;
        if count == 0 {
            return Ok(Cow::Borrowed(&[]));
        }
        if view.strides == dense_strides(&view.shape) {
            let start = view.offset.checked_add(first * size).ok_or_else(outside)?;
            let end = start.checked_add(count * size).ok_or_else(outside)?;
            return self.0.bytes.get(start..end).map(Cow::Borrowed).ok_or_else(outside);
        }
        let mut gathered = Vec::with_capacity(count * size);
        let mut index = vec![0usize; view.shape.len()];
        let mut rest = first;
        for (i, &dim) in index.iter_mut().zip(&view.shape).rev() {
            (*i, rest) = (rest % dim, rest / dim);
        }
        for _ in 0..count {
            let at: usize = index.iter().zip(&view.strides).map(|(i, s)| i * s).sum();
            let start = view.offset + at * size;
            gathered.extend(self.0.bytes.get(start..start + size).ok_or_else(outside)?);
            for (i, &dim) in index.iter_mut().zip(&view.shape).rev() {
                *i += 1;
                if *i < dim {
                    break;
                }
                *i = 0;
            }
        }
        Ok(Cow::Owned(gathered))
    }

    fn unread(&self, name: &str, view: &View) -> Error {
        Error::unsupported(
            format!("{}: the element type {} of `{name}`", self.0.path.display(), view.dtype),
            "convert the file to F32, F16 or BF16",
        )
    }
}

/// Kernels on NVIDIA GPUs lie channels last, as convolutions read them there: no layer needs a copy then.
fn arranged(tensor: Tensor) -> Result<Tensor> {
    match *tensor.dims() {
        [_, _, height, width] if tensor.device().is_cuda() && height * width > 1 => {
            let last = tensor.permute((0, 2, 3, 1))?.contiguous()?;
            Ok(last.permute((0, 3, 1, 2))?)
        }
        _ => Ok(tensor),
    }
}

/// A rectangle of elements inside the file.
#[derive(Debug, Clone)]
struct View {
    dtype: Dtype,
    shape: Vec<usize>,
    strides: Vec<usize>,
    offset: usize,
    blocks: Option<Blocks>,
}

impl View {
    /// Bytes of so many neighbouring elements, which fill blocks.
    fn bytes_of(&self, elements: usize) -> usize {
        match self.blocks {
            Some(Blocks { kind, .. }) => elements / kind.size() * kind.bytes(),
            None => elements * (self.dtype.bitsize() / 8),
        }
    }

    fn rows(mut self, rows: Option<Range<usize>>) -> Result<Self> {
        let Some(rows) = rows else { return Ok(self) };
        let (Some(dim), Some(stride)) = (self.shape.first_mut(), self.strides.first()) else {
            return Err(Error::Internal(format!("rows {rows:?} of a scalar")));
        };
        if rows.start > rows.end || rows.end > *dim {
            return Err(Error::Internal(format!("rows {rows:?} of {dim}")));
        }
        *dim = rows.len();
        let (start, stride) = (rows.start, *stride);
        if self.blocks.is_some_and(|b| !(start * stride).is_multiple_of(b.kind.size())) {
            return Err(Error::Internal(format!("rows {rows:?} cut a block")));
        }
        self.offset += self.bytes_of(start * stride);
        Ok(self)
    }

    fn transposed(mut self) -> Self {
        self.shape.reverse();
        self.strides.reverse();
        self
    }
}

#[cfg(test)]
mod tests;
