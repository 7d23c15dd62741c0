//! Floor 1. x·Wᵀ + b over tiles of rows and columns.

use super::gemm::{Matrix, Target, multiply};
use super::{Shared, slice};
use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

/// Rows of one task.
const ROWS: usize = 512;
/// Columns of one task.
const COLUMNS: usize = 640;

/// x·Wᵀ + b.
///
/// `x`: `[M, K]`; `weight`: `[N, K]`; `bias`: `[N]`. Returns `[M, N]`.
pub(crate) fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let (x, weight) = (x.contiguous()?, weight.contiguous()?);
    match bias {
        Some(bias) => x.apply_op3_no_bwd(&weight, &bias.contiguous()?, &Product),
        None => x.apply_op2_no_bwd(&weight, &Product),
    }
}

struct Product;

fn sizes(x: &Layout, weight: &Layout) -> Result<(usize, usize, usize)> {
    let ((m, k), (n, other)) = (x.shape().dims2()?, weight.shape().dims2()?);
    if k != other {
        candle_core::bail!("linear: {:?} does not fit {:?}", x.shape(), weight.shape());
    }
    Ok((m, k, n))
}

#[allow(unsafe_code)]
fn run(
    x: &[f32],
    weight: &[f32],
    bias: Option<&[f32]>,
    (m, k, n): (usize, usize, usize),
) -> Vec<f32> {
    let mut out = vec![0f32; m * n];
    let target = Shared(out.as_mut_ptr());
    // Few rows: cut columns finer, so that every thread gets some.
    let columns = if m <= ROWS { COLUMNS / 5 } else { COLUMNS };
    let across = n.div_ceil(columns);
    (0..m.div_ceil(ROWS) * across).into_par_iter().for_each(|task| {
        let (row, column) = (task / across * ROWS, task % across * columns);
        let (rows, count) = (ROWS.min(m - row), columns.min(n - column));
        // SAFETY: this task alone owns this rectangle of the output.
        let pointer = unsafe { target.add(row * n + column) };
        if let Some(bias) = bias {
            for r in 0..rows {
                // SAFETY: as above.
                let line = unsafe { std::slice::from_raw_parts_mut(pointer.0.add(r * n), count) };
                line.copy_from_slice(&bias[column..column + count]);
            }
        }
        let left = Matrix::rows(&x[row * k..], rows, k, k);
        let right = Matrix::rows(&weight[column * k..], count, k, k).transposed();
        let target = Target { pointer, row_stride: n, accumulate: bias.is_some() };
        // SAFETY: as above.
        unsafe { multiply(target, left, right, 1.0) };
    });
    out
}

impl CustomOp2 for Product {
    fn name(&self) -> &'static str {
        "colora-linear"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let sizes = sizes(l1, l2)?;
        let out = run(slice(s1, l1)?, slice(s2, l2)?, None, sizes);
        Ok((CpuStorage::F32(out), (sizes.0, sizes.2).into()))
    }
}

impl CustomOp3 for Product {
    fn name(&self) -> &'static str {
        "colora-linear-bias"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
        s3: &CpuStorage,
        l3: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let sizes = sizes(l1, l2)?;
        let bias = slice(s3, l3)?;
        if bias.len() != sizes.2 {
            candle_core::bail!("linear: {} biases for {} outputs", bias.len(), sizes.2);
        }
        let out = run(slice(s1, l1)?, slice(s2, l2)?, Some(bias), sizes);
        Ok((CpuStorage::F32(out), (sizes.0, sizes.2).into()))
    }
}
