//! Textual inversions in pictures, as A1111 writes them: JSON in a PNG text, or in the low bits of the pixels.

use crate::error::{Error, Result};
use crate::picture::{Picture, read_texts};
use crate::weights::CheckpointFile;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use flate2::read::ZlibDecoder;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, serialize};
use serde_json::Value;
use std::io::Read;
use std::path::Path;

/// The keyword of the PNG text.
const KEYWORD: &str = "sd-ti-embedding";
/// The key of a tensor in the JSON.
const TENSOR: &str = "TORCHTENSOR";
/// Longest JSON, in bytes.
const MAX_JSON: u64 = 64 << 20;
/// Bits of a channel that hold data.
const LOW: u8 = 0x0f;

/// What a picture holds.
pub(super) struct Found {
    pub(super) file: CheckpointFile,
    /// The word, when the picture names one.
    pub(super) name: Option<String>,
}

/// The embedding in the picture `path`.
///
/// # Errors
/// [`Error::Corrupt`] for a picture without one, and what reading it gives.
pub(super) fn read(path: &Path) -> Result<Found> {
    let texts = read_texts(path)?;
    let text = texts.keyword(KEYWORD).and_then(|text| STANDARD.decode(text.trim()).ok());
    let json = match text {
        Some(json) => json,
        None => hidden(&Picture::open(path)?)
            .ok_or_else(|| Error::corrupt(path, "no embedding is in this picture"))?,
    };
    let broken = |why: &str| Error::corrupt(path, format!("its embedding cannot be read: {why}"));
    let json: Value = serde_json::from_slice(&json).map_err(|error| broken(&error.to_string()))?;
    let table = json["string_to_param"].as_object().and_then(|all| all.values().next());
    let rows = table.and_then(|table| rows(&table[TENSOR])).ok_or_else(|| broken("no vectors"))?;
    let width = rows.first().map_or(0, Vec::len);
    if width == 0 || rows.iter().any(|row| row.len() != width) {
        return Err(broken("its vectors differ in length"));
    }
    let bytes: Vec<u8> = rows.concat().into_iter().flat_map(f32::to_le_bytes).collect();
    let internal = |error: safetensors::SafeTensorError| broken(&error.to_string());
    let view = TensorView::new(Dtype::F32, vec![rows.len(), width], &bytes).map_err(internal)?;
    let file = serialize([("emb_params", view)], None).map_err(internal)?;
    let name = json["name"].as_str().filter(|name| !name.trim().is_empty());
    Ok(Found { file: CheckpointFile::from_vec(file, path)?, name: name.map(str::to_owned) })
}

/// One vector, or rows of them.
fn rows(value: &Value) -> Option<Vec<Vec<f32>>> {
    let numbers = |row: &Value| -> Option<Vec<f32>> {
        row.as_array()?.iter().map(|number| Some(number.as_f64()? as f32)).collect()
    };
    numbers(value).map(|row| vec![row]).or_else(|| value.as_array()?.iter().map(numbers).collect())
}

/// The JSON in the low bits: low halves of its bytes on the left, high halves on the right, with columns without
/// any between them.
fn hidden(picture: &Picture) -> Option<Vec<u8>> {
    let (width, height) = (picture.width(), picture.height());
    let low = |x: usize, y: usize| {
        let at = 3 * (y * width + x);
        picture.bytes()[at..at + 3].iter().map(|byte| byte & LOW)
    };
    // Rows and columns that are black in the whole picture are a border.
    let lit = |x: usize, y: usize| {
        let at = 3 * (y * width + x);
        picture.bytes()[at..at + 3].iter().all(|byte| *byte > 0)
    };
    let column = |x: &usize| (0..height).any(|y| lit(*x, y));
    let row = |y: &usize| (0..width).any(|x| lit(x, *y));
    let (left, right) = ((0..width).find(column)?, (0..width).rfind(column)? + 1);
    let (top, bottom) = ((0..height).find(row)?, (0..height).rfind(row)? + 1);
    let empty = |x: &usize| (top..bottom).all(|y| low(*x, y).all(|bits| bits == 0));
    let (first, last) = ((left..right).find(empty)?, (left..right).rfind(empty)?);
    let block = |from: usize, to: usize| {
        let bits = (top..bottom).flat_map(move |y| (from..to).flat_map(move |x| low(x, y)));
        bits.zip(noise()).map(|(bits, noise)| bits ^ noise & LOW).collect::<Vec<u8>>()
    };
    let (lower, upper) = (block(left, first), block(last + 1, right));
    let bytes: Vec<u8> = lower.iter().zip(&upper).map(|(low, high)| high << 4 | low).collect();
    let mut json = Vec::new();
    ZlibDecoder::new(&bytes[..]).take(MAX_JSON).read_to_end(&mut json).ok()?;
    Some(json)
}

/// The numbers that hide the pattern of the bits: a linear congruential generator.
fn noise() -> impl Iterator<Item = u8> {
    let next = |x: &u32| Some(x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223));
    std::iter::successors(Some(0u32), next).skip(1).map(|x| (x % 255) as u8)
}
