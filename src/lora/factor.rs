//! One tensor of an adapter file, read when it is needed.

use crate::error::{Error, Result};
use crate::hint::Hint;
use crate::weights::CheckpointFile;
use safetensors::Dtype;
use std::borrow::Cow;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

/// A tensor of an adapter: where it lies, and what it is multiplied by.
#[derive(Debug, Clone)]
pub(super) struct Factor {
    file: CheckpointFile,
    name: String,
    shape: Vec<usize>,
    rows: Option<Range<usize>>,
    /// The companion of fp8 tensors; 1 without one.
    gain: f32,
    /// A number for each row, by which it is multiplied.
    row_gains: Option<Arc<[f32]>>,
    /// Into how many blocks the rows are cut, each of which stands in columns of its own, between zeros.
    blocks: usize,
    /// Elements behind the first dimension as stored, where zeros are appended to make more.
    stored_columns: Option<usize>,
}

impl Factor {
    /// The tensor `name` of `file`; `None` without such a tensor.
    pub(super) fn new(file: &CheckpointFile, name: &str) -> Option<Self> {
        let shape = file.info(name)?.shape.clone();
        Some(Self {
            file: file.clone(),
            name: name.to_owned(),
            shape,
            rows: None,
            gain: 1.0,
            row_gains: None,
            blocks: 1,
            stored_columns: None,
        })
    }

    /// Returns the factor with every element multiplied by `gain`.
    pub(super) fn with_gain(mut self, gain: f32) -> Self {
        self.gain = gain;
        self
    }

    /// Returns the factor with its second dimension filled up with zeros to `count`.
    pub(super) fn padded(mut self, count: usize) -> Self {
        if self.dim(1) < count && self.shape.len() > 1 {
            self.stored_columns = Some(self.columns());
            self.shape[1] = count;
        }
        self
    }

    /// Returns the factor with each row multiplied by its own number.
    pub(super) fn with_row_gains(mut self, gains: &[f32]) -> Self {
        self.row_gains = Some(gains.into());
        self
    }

    /// Returns the elements in another shape, if it has as many.
    pub(super) fn reshaped(mut self, shape: Vec<usize>) -> Self {
        if product(&shape) == self.elements() {
            self.shape = shape;
        }
        self
    }

    /// The matrix whose rows are cut into `count` blocks, each of which stands in columns of its own, between zeros.
    pub(super) fn block_diagonal(mut self, count: usize) -> Self {
        if self.shape.len() == 2 && self.rows.is_none() && self.dim(0).is_multiple_of(count.max(1))
        {
            self.blocks = count.max(1);
            self.shape[1] *= self.blocks;
        }
        self
    }

    /// Some indices of the first dimension.
    pub(super) fn rows(&self, rows: Range<usize>) -> Self {
        let mut part = self.clone();
        if let Some(first) = part.shape.first_mut() {
            *first = rows.len();
        }
        part.rows = Some(rows);
        part
    }

    pub(super) fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Size of dimension `index`; 1 beyond the last.
    pub(super) fn dim(&self, index: usize) -> usize {
        self.shape.get(index).copied().unwrap_or(1)
    }

    pub(super) fn elements(&self) -> usize {
        product(&self.shape)
    }

    /// Elements behind the first dimension.
    pub(super) fn columns(&self) -> usize {
        product(self.shape.get(1..).unwrap_or_default())
    }

    /// The file that holds it.
    pub(super) fn path(&self) -> &Path {
        self.file.path()
    }

    /// The type of its elements when they are stored as whole numbers.
    pub(super) fn whole_numbers(&self) -> Option<Dtype> {
        let info = self.file.info(&self.name)?;
        let whole = matches!(
            info.dtype,
            Dtype::BOOL
                | Dtype::U8
                | Dtype::I8
                | Dtype::U16
                | Dtype::I16
                | Dtype::U32
                | Dtype::I32
                | Dtype::U64
                | Dtype::I64
        );
        (whole && info.blocks.is_none()).then_some(info.dtype)
    }

    /// Whether its last dimensions are the kernel of a weight of `shape`. A factor of two dimensions holds the
    /// kernel within the second, and one of a linear layer may have kernels of one element.
    pub(super) fn has_kernel(&self, shape: &[usize]) -> bool {
        let kernel = |shape: &[usize]| -> Vec<usize> {
            let mut kernel = shape.get(2..).unwrap_or_default().to_vec();
            while kernel.last() == Some(&1) {
                kernel.pop();
            }
            kernel
        };
        self.shape.len() <= 2 || kernel(&self.shape) == kernel(shape)
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The file's type of the elements; `None` when they mean something only with a companion (fp8), or
    /// share scales in blocks.
    pub(super) fn dtype(&self) -> Option<Dtype> {
        let info = self.file.info(&self.name)?;
        (self.gain == 1.0 && info.blocks.is_none()).then_some(info.dtype)
    }

    /// The same where the elements are as the file holds them, and can be copied: neither scaled nor filled up.
    pub(super) fn stored(&self) -> Option<Dtype> {
        let filled = self.blocks > 1 || self.stored_columns.is_some();
        self.dtype().filter(|_| self.row_gains.is_none() && !filled)
    }

    /// The elements, row-major, as the file holds them.
    pub(super) fn raw(&self) -> Result<Cow<'_, [u8]>> {
        self.file.raw(&self.name, self.rows.clone())
    }

    /// The elements, row-major, as f32.
    ///
    /// # Errors
    /// [`Error::Corrupt`] for elements that are no finite numbers.
    pub(super) fn read(&self) -> Result<Vec<f32>> {
        let values = self.read_any()?;
        if let Some(broken) = broken(&values) {
            let why = format!("`{}` {broken}", self.name);
            return Err(Error::corrupt(self.file.path(), why).with_hint(Hint::AllowNan));
        }
        Ok(values)
    }

    /// The elements as they are, finite or not.
    fn read_any(&self) -> Result<Vec<f32>> {
        let mut values = self.file.read_f32(&self.name, self.rows.clone())?;
        if self.gain != 1.0 {
            for v in &mut values {
                *v *= self.gain;
            }
        }
        if let Some(gains) = &self.row_gains {
            let columns = values.len().checked_div(gains.len()).unwrap_or(0).max(1);
            for (row, gain) in values.chunks_mut(columns).zip(gains.iter()) {
                for value in row {
                    *value *= gain;
                }
            }
        }
        if self.blocks > 1 {
            values = spread(&values, self.dim(0), self.blocks);
        }
        let Some(stored) = self.stored_columns else { return Ok(values) };
        let fill = self.columns() - stored;
        let row = |row: &[f32]| row.iter().copied().chain(std::iter::repeat_n(0.0, fill)).collect();
        Ok(values.chunks(stored.max(1)).flat_map(|r| -> Vec<f32> { row(r) }).collect())
    }

    /// Whether every element is a finite number.
    pub(super) fn is_finite(&self) -> Result<bool> {
        Ok(broken(&self.read_any()?).is_none())
    }

    /// Whether every element is zero.
    pub(super) fn is_zero(&self) -> Result<bool> {
        Ok(self.read_any()?.iter().all(|v| *v == 0.0))
    }

    /// Whether two tensors hold the same elements.
    pub(super) fn same(&self, other: &Factor) -> Result<bool> {
        // NaN is no reason to call two copies different.
        let bits = |values: Vec<f32>| values.into_iter().map(f32::to_bits).collect::<Vec<_>>();
        Ok(self.shape == other.shape && bits(self.read_any()?) == bits(other.read_any()?))
    }
}

/// A matrix of `rows` rows with every one of `blocks` groups of rows in columns of its own.
fn spread(values: &[f32], rows: usize, blocks: usize) -> Vec<f32> {
    let columns = values.len().checked_div(rows).unwrap_or(0).max(1);
    let height = (rows / blocks).max(1);
    let mut out = vec![0.0; values.len() * blocks];
    for (row, values) in values.chunks(columns).enumerate() {
        let start = row * columns * blocks + row / height * columns;
        out[start..start + columns].copy_from_slice(values);
    }
    out
}

/// Elements of a shape; a file may claim more than there are numbers for, beside a dimension of none.
fn product(shape: &[usize]) -> usize {
    shape.iter().fold(1, |n, &d| n.saturating_mul(d))
}

/// What is wrong with numbers that must be finite; `None` when nothing is.
pub(super) fn broken(values: &[f32]) -> Option<String> {
    // The largest bit pattern without sign is infinity or NaN if any element is, and vectorises.
    let largest = values.iter().fold(0, |max: u32, v| max.max(v.to_bits() & 0x7fff_ffff));
    if largest < f32::INFINITY.to_bits() {
        return None;
    }
    let nan = values.iter().filter(|v| v.is_nan()).count();
    let infinite = values.iter().filter(|v| v.is_infinite()).count();
    let total = values.len();
    Some(format!(
        "is not finite: {nan} NaN and {infinite} infinite of {total} numbers; the file is damaged or its training failed"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_stand_on_the_diagonal() {
        let spread = spread(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0], 4, 2);
        #[rustfmt::skip]
        assert_eq!(spread, [
            1.0, 2.0, 0.0, 0.0,
            3.0, 4.0, 0.0, 0.0,
            0.0, 0.0, 5.0, 6.0,
            0.0, 0.0, 7.0, 8.0,
        ]);
    }
}
