//! Tensors whose elements share scales in blocks, as f32.

use super::{View, dense_strides};
use crate::error::{Error, Result};
use crate::room;
use crate::weights::block_type::Blocks;
use rayon::prelude::*;
use std::path::Path;

/// Numbers that one task unpacks; a multiple of every block's.
const TASK: usize = 1 << 16;

/// All numbers of `view`, row-major.
pub(super) fn read(path: &Path, bytes: &[u8], view: &View, blocks: Blocks) -> Result<Vec<f32>> {
    let count: usize = view.shape.iter().product();
    let dense = view.strides == dense_strides(&view.shape);
    let stored = stored(path, bytes, view, blocks, count)?;
    let mut values = room::zeros(count, "weights")?;
    let kind = blocks.kind;
    let tasks = stored.par_chunks(TASK / kind.size() * kind.bytes());
    tasks.zip(values.par_chunks_mut(TASK)).for_each(|(stored, out)| kind.decode(stored, out));
    let area = area(view, blocks);
    if area > 1 {
        let filter: usize = view.shape.iter().skip(1).product();
        let mut ordered = room::zeros(count, "weights")?;
        let filters = values.par_chunks(filter.max(1)).zip(ordered.par_chunks_mut(filter.max(1)));
        filters.for_each(|(filter, out)| taps_last(filter, area, out));
        values = ordered;
    }
    if dense {
        return Ok(values);
    }
    // Rows and columns changed places.
    let [rows, columns] = view.shape[..] else {
        return Err(Error::corrupt(path, "blocks of a tensor that is no matrix, transposed"));
    };
    Ok((0..count).map(|i| values[i % columns * rows + i / columns]).collect())
}

/// Fills `out` with the numbers of `view` from number `first` on, on the calling thread.
pub(super) fn read_into(
    path: &Path,
    bytes: &[u8],
    view: &View,
    blocks: Blocks,
    first: usize,
    out: &mut [f32],
) -> Result<()> {
    let count: usize = view.shape.iter().product();
    let outside = || Error::corrupt(path, "a tensor lies outside of the file");
    let end = first.checked_add(out.len()).filter(|end| *end <= count).ok_or_else(outside)?;
    if view.strides != dense_strides(&view.shape) {
        out.copy_from_slice(&read(path, bytes, view, blocks)?[first..end]);
        return Ok(());
    }
    if out.is_empty() {
        return Ok(());
    }
    let kind = blocks.kind;
    let stored = stored(path, bytes, view, blocks, count)?;
    let area = area(view, blocks);
    // Pieces that can be unpacked by themselves: filters, or stretches of blocks.
    let filter: usize = view.shape.iter().skip(1).product();
    let piece = if area > 1 { filter } else { TASK / 16 };
    let mut values = room::zeros(piece, "weights")?;
    let mut ordered = room::zeros(if area > 1 { piece } else { 0 }, "weights")?;
    let mut start = first / piece * piece;
    while start < end {
        let length = piece.min(count - start);
        let at = start / kind.size() * kind.bytes();
        kind.decode(&stored[at..at + length / kind.size() * kind.bytes()], &mut values[..length]);
        let numbers = if area > 1 {
            taps_last(&values, area, &mut ordered);
            &ordered
        } else {
            &values
        };
        let (from, to) = (first.max(start), end.min(start + length));
        out[from - first..to - first].copy_from_slice(&numbers[from - start..to - start]);
        start += length;
    }
    Ok(())
}

fn stored<'a>(
    path: &Path,
    bytes: &'a [u8],
    view: &View,
    blocks: Blocks,
    count: usize,
) -> Result<&'a [u8]> {
    let length = view.bytes_of(count);
    let end = view.offset.checked_add(length);
    let found = end.and_then(|end| bytes.get(view.offset..end));
    let found = found.filter(|_| count.is_multiple_of(blocks.kind.size()));
    found.ok_or_else(|| Error::corrupt(path, "a tensor lies outside of the file"))
}

/// Taps of a kernel whose taps were stored before its inputs; 1 for anything else.
fn area(view: &View, blocks: Blocks) -> usize {
    if blocks.taps_first { view.shape.iter().skip(2).product() } else { 1 }
}

/// Reorders elements from the order taps, inputs to the order inputs, taps.
fn taps_last(filter: &[f32], area: usize, out: &mut [f32]) {
    let inputs = filter.len() / area;
    for (tap, channels) in filter.chunks_exact(inputs.max(1)).enumerate() {
        for (channel, value) in channels.iter().enumerate() {
            out[channel * area + tap] = *value;
        }
    }
}
