//! What a file is, by its first bytes, and the table of contents of a safetensors file.

use super::{Contents, Entry, TensorInfo};
use crate::error::{Error, Result};
use crate::weights::{gguf, pickle, quantised};
use safetensors::tensor::Metadata;
use serde::de::{Error as _, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use std::collections::HashSet;
use std::path::Path;

/// Longest safetensors header that is read; the format's reference implementation has the same.
const MAX_HEADER: u64 = 100_000_000;

/// Reads the table of contents.
pub(super) fn read(bytes: &[u8], path: &Path) -> Result<Contents> {
    if bytes.is_empty() {
        let why = "the file is empty (0 bytes); fetch it again";
        return Err(Error::corrupt(path, why));
    }
    if bytes.starts_with(b"PK\x03\x04") || bytes.starts_with(b"PK\x05\x06") {
        return pickle::read_zip(bytes, path);
    }
    // Pickle protocols 2 to 5; the second byte keeps binary headers of other formats out.
    if matches!(bytes, [0x80, 2..=5, ..]) && !is_length(bytes) {
        return pickle::read_legacy(bytes, path);
    }
    if bytes.starts_with(gguf::MAGIC) {
        return gguf::read(bytes, path);
    }
    match header_length(bytes) {
        Some(length) => safetensors(bytes, length, path),
        None => Err(unknown(bytes, path)),
    }
}

/// Whether the file begins with a header's length that only looks like a pickle's opcode (0x280 bytes
/// and the like): its upper half is zero, and `{` follows.
fn is_length(bytes: &[u8]) -> bool {
    matches!(bytes, [_, _, _, _, 0, 0, 0, 0, b'{', ..])
}

/// N, the length of the header, when the file begins like safetensors: N as u64, then `{`.
fn header_length(bytes: &[u8]) -> Option<u64> {
    let length = u64::from_le_bytes(*bytes.first_chunk::<8>()?);
    match bytes.get(8) {
        // Text can have `{` in ninth place too; as a number, its first eight letters are huge.
        Some(b'{') if !is_text(&bytes[..8]) => Some(length),
        Some(_) => None,
        // A file that was cut right after a believable length.
        None => (length > 0 && length <= MAX_HEADER).then_some(length),
    }
}

fn is_text(bytes: &[u8]) -> bool {
    bytes.iter().all(|&b| b.is_ascii_graphic() || b.is_ascii_whitespace())
}

fn safetensors(bytes: &[u8], length: u64, path: &Path) -> Result<Contents> {
    if length > MAX_HEADER {
        return Err(Error::corrupt(
            path,
            format!(
                "the header claims {length} bytes, at most {MAX_HEADER} are believable; \
                 the file is damaged or no safetensors file"
            ),
        ));
    }
    let start = 8 + length as usize;
    let have = bytes.len();
    let header = bytes.get(8..start).ok_or_else(|| truncated(path, start, have, "at least "))?;
    let damaged = |e: &dyn std::fmt::Display| {
        Error::corrupt(path, format!("damaged safetensors header: {e}"))
    };
    let text = std::str::from_utf8(header).map_err(|e| damaged(&e))?;
    // The crate checks that offsets neither overlap nor leave gaps and fit shape and type.
    let table: Metadata = serde_json::from_str(text).map_err(|e| damaged(&e))?;
    serde_json::from_str::<Names>(text).map_err(|e| damaged(&e))?;
    let expected = start.checked_add(table.data_len()).ok_or_else(|| damaged(&"sizes overflow"))?;
    if expected > have {
        return Err(truncated(path, expected, have, ""));
    }
    if expected < have {
        let more = have - expected;
        return Err(Error::corrupt(path, format!("{more} unknown bytes follow the last tensor")));
    }
    let entries = table.tensors().into_iter().map(|(name, tensor)| {
        let info = TensorInfo { dtype: tensor.dtype, shape: tensor.shape.clone(), blocks: None };
        (name, Entry { info, offset: start + tensor.data_offsets.0, strides: None })
    });
    let metadata = table.metadata().iter().flatten();
    let mut contents = Contents {
        entries: entries.collect(),
        metadata: metadata.map(|(key, value)| (key.clone(), value.clone())).collect(),
    };
    quantised::apply(&mut contents, path)?;
    Ok(contents)
}

/// The names of a header, each once: readers would not agree on which of two tensors counts.
struct Names;

impl<'de> Deserialize<'de> for Names {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_map(Names)
    }
}

impl<'de> Visitor<'de> for Names {
    type Value = Self;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a table of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self, A::Error> {
        let mut seen = HashSet::new();
        while let Some(name) = map.next_key::<String>()? {
            map.next_value::<IgnoredAny>()?;
            if let Some(name) = seen.replace(name) {
                return Err(A::Error::custom(format!("the name `{name}` stands twice")));
            }
        }
        Ok(self)
    }
}

fn truncated(path: &Path, expected: usize, have: usize, bound: &str) -> Error {
    Error::corrupt(
        path,
        format!("truncated: expected {bound}{expected} bytes, have {have}; fetch the file again"),
    )
}

/// Says what the file is instead.
fn unknown(bytes: &[u8], path: &Path) -> Error {
    let start = bytes.trim_ascii_start();
    let start = start.strip_prefix(b"\xef\xbb\xbf").unwrap_or(start);
    let why = if start.starts_with(b"version https://git-lfs") {
        "this is a git-lfs pointer, not the weights; run `git lfs pull` in its folder".into()
    } else if start.starts_with(b"<") {
        "this is a web page, not weights; the download needs another link or a login".into()
    } else if start.starts_with(b"{") || start.starts_with(b"[") {
        "this is JSON text, not weights; pass the weight file or the model's folder".into()
    } else if bytes.starts_with(b"\x1f\x8b") || bytes.starts_with(b"7z\xbc\xaf") {
        "this is a compressed archive; unpack it first".into()
    } else if bytes.len() < 10 {
        format!("the file has only {} bytes; fetch it again", bytes.len())
    } else {
        let first: Vec<String> = bytes.iter().take(8).map(|b| format!("{b:02x}")).collect();
        format!(
            "neither a safetensors, a GGUF nor a torch file (it begins with the bytes {})",
            first.join(" ")
        )
    };
    Error::corrupt(path, why)
}
