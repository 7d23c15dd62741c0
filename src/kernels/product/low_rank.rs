//! A product of two thin factors that is added to rows of a matrix wherever they are read.

use crate::error::Result;
use crate::kernels::memory::area::zeros;
use crate::kernels::simd::microkernel::{
    self, COLUMNS, LANES, ROWS, Segment, Sums, Tile, TileTypes,
};
use crate::kernels::simd::processor::Instructions;

/// `up · down`, in f32.
#[derive(Debug, Clone)]
pub(crate) struct LowRankProduct {
    /// `[rows, rank]`.
    up: Vec<f32>,
    /// `down` in panels of 64 columns or, at the end, of so many vectors: `[rank, columns of the panel]`.
    panels: Vec<f32>,
    rank: usize,
    columns: usize,
}

impl LowRankProduct {
    /// Of `up [rows, rank]` and `down [rank, columns]`, row-major.
    ///
    /// # Errors
    /// [`Error::Memory`](crate::Error::Memory).
    pub(crate) fn new(up: Vec<f32>, down: &[f32], rank: usize, columns: usize) -> Result<Self> {
        assert!(down.len() == rank * columns, "size of the lower factor");
        assert!(rank == 0 || up.len().is_multiple_of(rank), "size of the upper factor");
        let mut panels = zeros(rank * columns.next_multiple_of(LANES), "the factors of adapters")?;
        for (i, panel) in panels.chunks_mut((rank * COLUMNS).max(1)).enumerate() {
            let width = panel.len() / rank;
            let used = width.min(columns - i * COLUMNS);
            for (row, panel) in down.chunks_exact(columns).zip(panel.chunks_exact_mut(width)) {
                panel[..used].copy_from_slice(&row[i * COLUMNS..][..used]);
            }
        }
        Ok(Self { up, panels, rank, columns })
    }

    /// Numbers of the whole product.
    pub(crate) fn len(&self) -> usize {
        self.up.len().checked_div(self.rank).unwrap_or(0) * self.columns
    }

    /// Columns of the product.
    pub(crate) fn columns(&self) -> usize {
        self.columns
    }

    /// What no number of the product exceeds.
    pub(crate) fn bound(&self) -> f32 {
        largest(&self.up) * largest(&self.panels) * self.rank as f32
    }

    /// Adds the rows from `first` on to the whole rows in `out`.
    pub(crate) fn add_to(&self, first: usize, out: &mut [f32]) {
        let Some(rows) = out.len().checked_div(self.columns) else { return };
        assert_eq!(out.len(), rows * self.columns, "whole rows");
        if self.rank == 0 || rows == 0 {
            return;
        }
        let up = &self.up[first * self.rank..][..rows * self.rank];
        let kernels = microkernel::kernels(TileTypes::Floats, Instructions::used());
        let segments = [Segment { shift: 0, words: self.rank }];
        // For tiles that reach beyond the target; the kernel writes before anything is read.
        let mut sums = [0f32; ROWS * COLUMNS];
        for (i, weights) in self.panels.chunks(self.rank * COLUMNS).enumerate() {
            let vectors = weights.len() / self.rank / LANES;
            let used = COLUMNS.min(self.columns - i * COLUMNS);
            for row in (0..rows).step_by(ROWS) {
                let count = ROWS.min(rows - row);
                // Rows beyond the end repeat the last one.
                let rows: [&[f32]; ROWS] = std::array::from_fn(|r| {
                    &up[(row + r.min(count - 1)) * self.rank..][..self.rank]
                });
                let direct = count == ROWS && used == vectors * LANES;
                let at = row * self.columns + i * COLUMNS;
                let (target, stride) = if direct {
                    (&mut out[at..][..(ROWS - 1) * self.columns + used], self.columns)
                } else {
                    (&mut sums[..], COLUMNS)
                };
                let tile = Tile::over(
                    rows.map(bytemuck::cast_slice),
                    &segments,
                    bytemuck::cast_slice(weights),
                    Sums { out: target, stride, add: direct },
                    (TileTypes::Floats, vectors),
                );
                // SAFETY: rows and panel hold `rank` words each; the target has six rows of as many
                // columns as the panel, and is borrowed mutably here.
                #[allow(unsafe_code)]
                unsafe {
                    kernels[vectors - 1](tile);
                }
                if !direct {
                    for (r, sums) in sums.chunks_exact(COLUMNS).enumerate().take(count) {
                        let out = &mut out[at + r * self.columns..][..used];
                        out.iter_mut().zip(sums).for_each(|(out, sum)| *out += sum);
                    }
                }
            }
        }
    }
}

/// The largest size of some numbers.
pub(crate) fn largest(values: &[f32]) -> f32 {
    values.iter().fold(0.0, |max, v| max.max(v.abs()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equals_the_plain_product() {
        for (rows, rank, columns) in [(1, 1, 1), (13, 4, 64), (12, 3, 200), (7, 9, 33), (5, 0, 8)] {
            let up: Vec<f32> = (0..rows * rank).map(|i| (i * 7 % 13) as f32 - 6.0).collect();
            let down: Vec<f32> = (0..rank * columns).map(|i| (i * 5 % 11) as f32 - 5.0).collect();
            let mut expected: Vec<f32> = (0..rows * columns).map(|i| i as f32).collect();
            let start = expected.clone();
            crate::kernels::add_product(&mut expected, columns, &up, &down, 1.0);
            let product = LowRankProduct::new(up, &down, rank, columns).unwrap();
            let mut out = start.clone();
            product.add_to(0, &mut out);
            // Whole numbers: every order of sums is exact.
            assert_eq!(out, expected);
            let first = rows / 2;
            let mut out = start[first * columns..].to_vec();
            product.add_to(first, &mut out);
            assert_eq!(out, expected[first * columns..]);
        }
    }
}
