//! Floor 1. Attention in tiles with a running softmax: no N × N matrix.

use super::gemm::{Matrix, Target, multiply};
use super::vector::{exp_sum, maximum};
use super::{Shared, slice};
use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

/// Queries of one task.
const QUERIES: usize = 128;
/// Keys looked at together; the scores of a tile stay in the L2 cache.
const KEYS: usize = 1024;

/// softmax(q·kᵀ/√K)·v over `heads` heads, Milakov and Gimelshein (2018) for the running softmax.
///
/// `q`: `[B, N, D]`; `k`, `v`: `[B, T, D]`. Returns `[B, N, D]`.
pub(crate) fn attention(q: &Tensor, k: &Tensor, v: &Tensor, heads: usize) -> Result<Tensor> {
    q.contiguous()?.apply_op3_no_bwd(&k.contiguous()?, &v.contiguous()?, &Attention { heads })
}

struct Attention {
    heads: usize,
}

/// One task: some queries of one head of one sample.
struct Tile<'a> {
    q: Matrix<'a>,
    /// Keys and values from this head's first column on.
    k: &'a [f32],
    v: &'a [f32],
    queries: usize,
    keys: usize,
    width: usize,
    stride: usize,
}

#[derive(Default)]
struct Scratch {
    scores: Vec<f32>,
    highest: Vec<f32>,
    sums: Vec<f32>,
}

impl Tile<'_> {
    /// # Safety
    /// `out` must be valid for `queries` rows of `width` elements, `stride` apart, and be this
    /// task's own.
    #[allow(unsafe_code)]
    unsafe fn run(&self, out: Shared, scratch: &mut Scratch) {
        let scale = 1.0 / (self.width as f32).sqrt();
        scratch.highest.clear();
        scratch.highest.resize(self.queries, f32::NEG_INFINITY);
        scratch.sums.clear();
        scratch.sums.resize(self.queries, 0.0);
        for start in (0..self.keys).step_by(KEYS) {
            let count = KEYS.min(self.keys - start);
            scratch.scores.resize(self.queries * count, 0.0);
            let k = Matrix::rows(&self.k[start * self.stride..], count, self.width, self.stride);
            let scores = Target {
                pointer: Shared(scratch.scores.as_mut_ptr()),
                row_stride: count,
                accumulate: false,
            };
            // SAFETY: the scores are this thread's scratch of queries × count elements.
            unsafe { multiply(scores, self.q, k.transposed(), scale) };
            for (row, line) in scratch.scores.chunks_exact_mut(count).enumerate() {
                let highest = maximum(line).max(scratch.highest[row]);
                let shrink = (scratch.highest[row] - highest).exp();
                scratch.sums[row] = scratch.sums[row] * shrink + exp_sum(line, highest);
                scratch.highest[row] = highest;
                if start > 0 && shrink < 1.0 {
                    // SAFETY: the output rows are this task's own.
                    unsafe { self.row(out, row) }.iter_mut().for_each(|y| *y *= shrink);
                }
            }
            let weights = Matrix::rows(&scratch.scores, self.queries, count, count);
            let v = Matrix::rows(&self.v[start * self.stride..], count, self.width, self.stride);
            let target = Target { pointer: out, row_stride: self.stride, accumulate: start > 0 };
            // SAFETY: as above.
            unsafe { multiply(target, weights, v, 1.0) };
        }
        for (row, sum) in scratch.sums.iter().enumerate() {
            // SAFETY: as above.
            unsafe { self.row(out, row) }.iter_mut().for_each(|y| *y /= sum);
        }
    }

    /// # Safety
    /// As [`run`](Self::run).
    #[allow(unsafe_code)]
    unsafe fn row<'b>(&self, out: Shared, row: usize) -> &'b mut [f32] {
        // SAFETY: the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(out.0.add(row * self.stride), self.width) }
    }
}

impl CustomOp3 for Attention {
    fn name(&self) -> &'static str {
        "colora-attention"
    }

    #[allow(unsafe_code)]
    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
        s3: &CpuStorage,
        l3: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (batch, queries, stride) = l1.shape().dims3()?;
        let (_, keys, _) = l2.shape().dims3()?;
        let fits = l2.shape().dims() == [batch, keys, stride] && l2.shape() == l3.shape();
        if !fits || keys == 0 || self.heads == 0 || stride % self.heads != 0 {
            candle_core::bail!(
                "attention: {:?}, {:?} and {} heads",
                l1.shape(),
                l2.shape(),
                self.heads
            );
        }
        let (q, k, v) = (slice(s1, l1)?, slice(s2, l2)?, slice(s3, l3)?);
        let width = stride / self.heads;
        let mut out = vec![0f32; batch * queries * stride];
        let target = Shared(out.as_mut_ptr());
        let tiles = queries.div_ceil(QUERIES);
        (0..batch * self.heads * tiles).into_par_iter().for_each_init(
            Scratch::default,
            |scratch, task| {
                let (sample, rest) = (task / (self.heads * tiles), task % (self.heads * tiles));
                let (head, start) = (rest / tiles, rest % tiles * QUERIES);
                let count = QUERIES.min(queries - start);
                let first = (sample * queries + start) * stride + head * width;
                let key = sample * keys * stride + head * width;
                let tile = Tile {
                    q: Matrix::rows(&q[first..], count, width, stride),
                    k: &k[key..],
                    v: &v[key..],
                    queries: count,
                    keys,
                    width,
                    stride,
                };
                // SAFETY: these columns of these rows belong to this task alone and lie inside `out`.
                unsafe { tile.run(target.add(first), scratch) };
            },
        );
        Ok((CpuStorage::F32(out), l1.shape().clone()))
    }
}
