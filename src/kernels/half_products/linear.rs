//! Floor 1. x·Wᵀ + b with a packed weight.

use super::micro::{COLUMNS, DEPTH, ROWS, Tile, add_product};
use super::pair;
use crate::kernels::{Shared, slice};
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use rayon::prelude::*;
use std::sync::Arc;

/// Rows of the input that one task takes: ten tiles.
const TASK: usize = 10 * ROWS;
/// Panels of columns that one task takes.
const GROUP: usize = 20;

/// A weight `[outputs, inputs]` as panels of 32 outputs.
#[derive(Debug, Clone)]
pub(crate) struct PackedMatrix {
    /// `[panels, pairs, 32]`.
    words: Arc<[u32]>,
    outputs: usize,
    inputs: usize,
}

impl PackedMatrix {
    /// Packs `weight`: `[outputs, inputs]`, row-major.
    pub(crate) fn new(weight: &[f32], outputs: usize, inputs: usize) -> Self {
        let pairs = inputs.div_ceil(2);
        let mut words = vec![0u32; outputs.div_ceil(COLUMNS) * pairs * COLUMNS];
        words.par_chunks_mut((pairs * COLUMNS).max(1)).enumerate().for_each(|(panel, words)| {
            for column in 0..COLUMNS.min(outputs - panel * COLUMNS) {
                let row = &weight[(panel * COLUMNS + column) * inputs..][..inputs];
                for (i, pieces) in row.chunks(2).enumerate() {
                    let high = pieces.get(1).copied().unwrap_or(0.0);
                    words[i * COLUMNS + column] = pair(pieces[0], high);
                }
            }
        });
        Self { words: words.into(), outputs, inputs }
    }

    /// `x`: `[M, inputs]` in f32. Returns `[M, outputs]`.
    pub(crate) fn forward(&self, x: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
        let y = x.contiguous()?.apply_op1_no_bwd(self)?;
        match bias {
            Some(bias) => y.broadcast_add(bias),
            None => Ok(y),
        }
    }

    #[allow(unsafe_code)]
    fn run(&self, x: &[f32]) -> Vec<f32> {
        let (k, n) = (self.inputs, self.outputs);
        let m = x.len().checked_div(k).unwrap_or(0);
        let pairs = k.div_ceil(2);
        let mut out = crate::kernels::zeros(m * n);
        let target = Shared(out.as_mut_ptr());
        let panels = n.div_ceil(COLUMNS);
        let groups = panels.div_ceil(GROUP);
        let tasks = m.div_ceil(TASK) * groups;
        (0..tasks).into_par_iter().for_each_init(Vec::new, |left, task| {
            let start = task / groups * TASK;
            let rows = TASK.min(m - start);
            let first = task % groups * GROUP;
            for from in (0..pairs).step_by(DEPTH) {
                let depth = DEPTH.min(pairs - from);
                pack_rows(&x[start * k..][..rows * k], k, from..from + depth, left);
                for panel in first..(first + GROUP).min(panels) {
                    let right = &self.words[(panel * pairs + from) * COLUMNS..][..depth * COLUMNS];
                    let column = panel * COLUMNS;
                    for (i, left) in left.chunks_exact(depth * ROWS).enumerate() {
                        let row = start + i * ROWS;
                        // SAFETY: this task alone owns these rows of these columns.
                        unsafe {
                            let tile = Tile {
                                pointer: target.add(row * n + column).0,
                                stride: n,
                                rows: ROWS.min(start + rows - row),
                                columns: COLUMNS.min(n - column),
                            };
                            add_product(left, right, tile);
                        }
                    }
                }
            }
        });
        out
    }
}

/// Rows as panels of 12: `[panels, pairs, 12]`, the last filled up with zeros.
fn pack_rows(x: &[f32], k: usize, pairs: std::ops::Range<usize>, out: &mut Vec<u32>) {
    let rows = x.len() / k;
    let depth = pairs.len();
    out.clear();
    out.resize(rows.div_ceil(ROWS) * depth * ROWS, 0);
    for (r, row) in x.chunks_exact(k).enumerate() {
        let panel = &mut out[r / ROWS * depth * ROWS..][..depth * ROWS];
        let row = &row[2 * pairs.start..(2 * pairs.end).min(k)];
        let (whole, rest) = row.as_chunks::<2>();
        for (words, [low, high]) in panel.chunks_exact_mut(ROWS).zip(whole) {
            words[r % ROWS] = pair(*low, *high);
        }
        if let ([last], Some(words)) = (rest, panel.chunks_exact_mut(ROWS).nth(whole.len())) {
            words[r % ROWS] = pair(*last, 0.0);
        }
    }
}

impl CustomOp1 for PackedMatrix {
    fn name(&self) -> &'static str {
        "colora-half-linear"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (m, k) = layout.shape().dims2()?;
        if k != self.inputs {
            candle_core::bail!("linear: {k} inputs for a weight with {}", self.inputs);
        }
        let out = self.run(slice(storage, layout)?);
        Ok((CpuStorage::F32(out), (m, self.outputs).into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device};

    #[test]
    fn equals_the_plain_product_of_rounded_numbers() {
        for (m, k, n) in [(1, 1, 1), (5, 7, 33), (130, 64, 40), (13, 2100, 70)] {
            let random = |rows, columns| {
                let t = Tensor::randn(0f32, 1.0, (rows, columns), &Device::Cpu).unwrap();
                t.to_dtype(DType::BF16).unwrap().to_dtype(DType::F32).unwrap()
            };
            let (x, w) = (random(m, k), random(n, k));
            let bias = Tensor::randn(0f32, 1.0, n, &Device::Cpu).unwrap();
            let values = w.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            let ours = PackedMatrix::new(&values, n, k).forward(&x, Some(&bias)).unwrap();
            let plain = x.matmul(&w.t().unwrap()).unwrap().broadcast_add(&bias).unwrap();
            let worst = (ours - &plain).unwrap().abs().unwrap().flatten_all().unwrap();
            let worst = worst.max(0).unwrap().to_scalar::<f32>().unwrap();
            assert!(worst < 1e-4 * (k as f32).sqrt().max(1.0), "{m} {k} {n}: {worst}");
        }
    }
}
