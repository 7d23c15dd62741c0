//! GGUF, the format of stable-diffusion.cpp and llama.cpp: its table of contents.
//!
//! Nothing in the file is believed: counts are held against the bytes that are left before anything is
//! made of them, and tensors must lie inside the file without overlapping. Values of metadata that are no
//! text are skipped.
//!
//! # Source
//! `docs/gguf.md` of ggml; versions 2 and 3.

use super::block_type::{BlockType, Blocks};
use super::contents::{Contents, Entry, TensorInfo};
use crate::error::{Error, Result};
use safetensors::Dtype;
use std::path::Path;

/// What such a file begins with.
pub(super) const MAGIC: &[u8] = b"GGUF";

/// Longest name and longest text that is kept.
const MAX_TEXT: u64 = 1 << 16;
/// Dimensions of a tensor.
const MAX_DIMENSIONS: u32 = 4;
/// Arrays in arrays.
const MAX_NESTING: usize = 4;
/// Bytes of the shortest entry: of metadata (length of the key, type, value), of a tensor (length of the
/// name, number of dimensions, one dimension, type, offset).
const LEAST_VALUE: u64 = 13;
const LEAST_TENSOR: u64 = 32;

/// Reads the table of contents.
pub(super) fn read(bytes: &[u8], path: &Path) -> Result<Contents> {
    let mut input = Input { bytes, at: MAGIC.len(), path };
    let version = input.u32()?;
    if !matches!(version, 2 | 3) {
        let big = matches!(version.swap_bytes(), 1..=3);
        let what =
            if big { "with big-endian numbers".into() } else { format!("version {version}") };
        return Err(Error::unsupported(
            format!("the GGUF file {} ({what})", path.display()),
            "versions 2 and 3 with little-endian numbers are read; convert it again",
        ));
    }
    let tensors = input.u64()?;
    let values = input.u64()?;
    input.believe("metadata entries", values, LEAST_VALUE)?;
    input.believe("tensors", tensors, LEAST_TENSOR)?;
    if tensors == 0 {
        return Err(input.wrong("it holds no tensors"));
    }
    let mut contents = Contents::default();
    let mut alignment = 32;
    for _ in 0..values {
        let key = input.text("a key")?;
        let kind = input.u32()?;
        match (key.as_str(), kind) {
            ("general.alignment", UINT32) => alignment = u64::from(input.u32()?),
            (_, STRING) => {
                if let Some(text) = input.optional_text()? {
                    contents.metadata.insert(key, text);
                }
            }
            _ => input.skip(kind, 0)?,
        }
    }
    if alignment == 0 || alignment > 1 << 20 {
        return Err(input.wrong(&format!("the alignment {alignment} makes no sense")));
    }
    let mut found = Vec::new();
    for _ in 0..tensors {
        found.push(input.tensor()?);
    }
    let start = (input.at as u64).next_multiple_of(alignment);
    let end = place(found, start, &mut contents, &input)?;
    // Writers fill the last tensor up as they do all others.
    let more = (bytes.len() as u64).saturating_sub(end.next_multiple_of(alignment));
    if more > 0 {
        return Err(input.wrong(&format!("{more} unknown bytes follow the last tensor")));
    }
    Ok(contents)
}

/// A tensor as the table has it.
struct Found {
    name: String,
    info: TensorInfo,
    /// Bytes from the first tensor's place, and how many.
    offset: u64,
    length: u64,
}

/// Checks that tensors lie in the file and apart, enters them, and returns where the last one ends.
fn place(
    mut found: Vec<Found>,
    start: u64,
    contents: &mut Contents,
    input: &Input<'_>,
) -> Result<u64> {
    found.sort_by_key(|tensor| tensor.offset);
    let mut free = 0;
    let mut last = String::new();
    for Found { name, info, offset, length } in found {
        if offset < free {
            return Err(input.wrong(&format!("the tensors `{last}` and `{name}` overlap")));
        }
        let end = start.checked_add(offset).and_then(|at| at.checked_add(length));
        let Some(end) = end.filter(|end| *end <= input.bytes.len() as u64) else {
            let have = input.bytes.len();
            return Err(input.wrong(&format!(
                "truncated: `{name}` needs {length} bytes at {start} + {offset}, the file has {have}"
            )));
        };
        free = end - start;
        last.clone_from(&name);
        let entry = Entry { info, offset: (end - length) as usize, strides: None };
        if contents.entries.insert(name, entry).is_some() {
            return Err(input.wrong(&format!("two tensors are called `{last}`")));
        }
    }
    Ok(start + free)
}

const UINT32: u32 = 4;
const STRING: u32 = 8;
const ARRAY: u32 = 9;

/// Bytes of a value of a type with one size.
fn width(kind: u32) -> Option<u64> {
    match kind {
        0 | 1 | 7 => Some(1),
        2 | 3 => Some(2),
        4..=6 => Some(4),
        10..=12 => Some(8),
        _ => None,
    }
}

/// Element types by their numbers in the file.
fn element(kind: u32) -> Option<(Dtype, Option<BlockType>)> {
    let plain = |dtype| Some((dtype, None));
    let blocks = |kind| Some((Dtype::U8, Some(kind)));
    match kind {
        0 => plain(Dtype::F32),
        1 => plain(Dtype::F16),
        2 => blocks(BlockType::Q4_0),
        3 => blocks(BlockType::Q4_1),
        6 => blocks(BlockType::Q5_0),
        7 => blocks(BlockType::Q5_1),
        8 => blocks(BlockType::Q8_0),
        10 => blocks(BlockType::Q2K),
        11 => blocks(BlockType::Q3K),
        12 => blocks(BlockType::Q4K),
        13 => blocks(BlockType::Q5K),
        14 => blocks(BlockType::Q6K),
        24 => plain(Dtype::I8),
        25 => plain(Dtype::I16),
        26 => plain(Dtype::I32),
        27 => plain(Dtype::I64),
        28 => plain(Dtype::F64),
        30 => plain(Dtype::BF16),
        _ => None,
    }
}

/// The bytes that are left to read.
struct Input<'a> {
    bytes: &'a [u8],
    at: usize,
    path: &'a Path,
}

impl<'a> Input<'a> {
    fn wrong(&self, why: &str) -> Error {
        Error::corrupt(self.path, format!("damaged GGUF: {why}"))
    }

    fn left(&self) -> u64 {
        (self.bytes.len() - self.at) as u64
    }

    fn take(&mut self, count: u64) -> Result<&'a [u8]> {
        if count > self.left() {
            let (left, at) = (self.left(), self.at);
            let why = format!("truncated: {count} bytes are needed at {at}, {left} are left");
            return Err(self.wrong(&why));
        }
        let taken = &self.bytes[self.at..self.at + count as usize];
        self.at += count as usize;
        Ok(taken)
    }

    fn u32(&mut self) -> Result<u32> {
        let bytes = self.take(4)?;
        Ok(bytes.first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes)))
    }

    fn u64(&mut self) -> Result<u64> {
        let bytes = self.take(8)?;
        Ok(bytes.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes)))
    }

    /// Refuses a count that the bytes left cannot hold.
    fn believe(&self, what: &str, count: u64, least: u64) -> Result<()> {
        let most = self.left() / least.max(1);
        if count > most {
            let why = format!("{count} {what} are claimed, at most {most} have room");
            return Err(self.wrong(&why));
        }
        Ok(())
    }

    /// A text that must not be long.
    fn text(&mut self, what: &str) -> Result<String> {
        let length = self.u64()?;
        if length > MAX_TEXT {
            return Err(self.wrong(&format!("{what} of {length} bytes")));
        }
        let bytes = self.take(length)?;
        let text = std::str::from_utf8(bytes);
        Ok(text.map_err(|_| self.wrong(&format!("{what} that is no UTF-8")))?.to_owned())
    }

    /// A text; `None` for one that is not worth keeping.
    fn optional_text(&mut self) -> Result<Option<String>> {
        let length = self.u64()?;
        let bytes = self.take(length)?;
        let short = std::str::from_utf8(bytes).ok().filter(|_| length <= MAX_TEXT);
        Ok(short.map(str::to_owned))
    }

    /// Passes over a value.
    fn skip(&mut self, kind: u32, nesting: usize) -> Result<()> {
        if let Some(width) = width(kind) {
            return self.take(width).map(drop);
        }
        match kind {
            STRING => self.optional_text().map(drop),
            ARRAY if nesting < MAX_NESTING => {
                let kind = self.u32()?;
                let count = self.u64()?;
                let least = width(kind).unwrap_or(8);
                self.believe("elements", count, least)?;
                if width(kind).is_some() {
                    return self.take(count * least).map(drop);
                }
                (0..count).try_for_each(|_| self.skip(kind, nesting + 1))
            }
            ARRAY => Err(self.wrong("arrays in arrays beyond all reason")),
            _ => Err(self.wrong(&format!("a value of the unknown type {kind}"))),
        }
    }

    fn tensor(&mut self) -> Result<Found> {
        let name = self.text("a tensor's name")?;
        let dimensions = self.u32()?;
        if !(1..=MAX_DIMENSIONS).contains(&dimensions) {
            return Err(self.wrong(&format!("`{name}` has {dimensions} dimensions")));
        }
        let mut shape = Vec::new();
        for _ in 0..dimensions {
            shape.push(self.u64()?);
        }
        let kind = self.u32()?;
        let offset = self.u64()?;
        let Some((dtype, blocks)) = element(kind) else {
            return Err(Error::unsupported(
                format!("{}: the element type {kind} of `{name}`", self.path.display()),
                "F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0 and Q2_K to Q6_K are read",
            ));
        };
        // The innermost dimension comes first, and blocks lie within it.
        let (size, bytes) =
            blocks.map_or((1, dtype.bitsize() as u64 / 8), |b| (b.size() as u64, b.bytes() as u64));
        let elements = shape.iter().try_fold(1u64, |n, d| n.checked_mul(*d));
        let length = elements.and_then(|n| (n / size).checked_mul(bytes));
        let whole = shape[0].is_multiple_of(size) && elements != Some(0);
        let Some(length) = length.filter(|length| whole && *length <= self.bytes.len() as u64)
        else {
            let why = format!("`{name}` cannot have the shape {shape:?} in blocks of {size}");
            return Err(self.wrong(&why));
        };
        // Every dimension is at most the file's length, which is an address.
        let shape = shape.iter().rev().map(|d| *d as usize).collect();
        let blocks = blocks.map(|kind| Blocks { kind, taps_first: false });
        Ok(Found { name, info: TensorInfo { dtype, shape, blocks }, offset, length })
    }
}
