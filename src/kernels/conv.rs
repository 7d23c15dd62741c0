//! Floor 1. Convolution as products over tiles of output pixels.

use super::gemm::{Matrix, Target, multiply};
use super::{Shared, slice};
use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

/// Output pixels of one task.
const TILE: usize = 512;
/// Rows of the unfolded input held at once: with `TILE` columns they stay in the L2 cache.
const DEPTH: usize = 288;

/// 2-D convolution with a square kernel.
///
/// `x`: `[B, I, H, W]`; `weight`: `[O, I, k, k]`; `bias`: `[O]`. Returns `[B, O, H', W']`.
pub(crate) fn conv2d(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    padding: usize,
    stride: usize,
) -> Result<Tensor> {
    let (x, weight) = (x.contiguous()?, weight.contiguous()?);
    let op = Convolution { padding, stride };
    match bias {
        Some(bias) => x.apply_op3_no_bwd(&weight, &bias.contiguous()?, &op),
        None => x.apply_op2_no_bwd(&weight, &op),
    }
}

struct Convolution {
    padding: usize,
    stride: usize,
}

/// Sizes of one call.
struct Sizes {
    batch: usize,
    inputs: usize,
    outputs: usize,
    kernel: usize,
    height: usize,
    width: usize,
    out_height: usize,
    out_width: usize,
}

impl Convolution {
    fn sizes(&self, x: &Layout, weight: &Layout) -> Result<Sizes> {
        let (batch, inputs, height, width) = x.shape().dims4()?;
        let (outputs, from, kernel, other) = weight.shape().dims4()?;
        let out = |side: usize| {
            (side + 2 * self.padding).checked_sub(kernel).map(|s| s / self.stride + 1)
        };
        match (out(height), out(width)) {
            (Some(out_height), Some(out_width)) if from == inputs && kernel == other => {
                Ok(Sizes { batch, inputs, outputs, kernel, height, width, out_height, out_width })
            }
            _ => candle_core::bail!("conv2d: {:?} does not fit {:?}", x.shape(), weight.shape()),
        }
    }

    fn run(&self, x: &[f32], weight: &[f32], bias: Option<&[f32]>, s: &Sizes) -> Vec<f32> {
        let pixels = s.out_height * s.out_width;
        let mut out = vec![0f32; s.batch * s.outputs * pixels];
        let target = Shared(out.as_mut_ptr());
        let tiles = pixels.div_ceil(TILE);
        (0..s.batch * tiles).into_par_iter().for_each_init(
            || Vec::with_capacity(DEPTH * TILE),
            |unfolded, task| {
                let (image, start) = (task / tiles, task % tiles * TILE);
                let end = (start + TILE).min(pixels);
                let input =
                    &x[image * s.inputs * s.height * s.width..][..s.inputs * s.height * s.width];
                self.tile(target, image, start..end, input, weight, bias, s, unfolded);
            },
        );
        out
    }

    /// All output channels of the pixels `range` of one image.
    #[allow(unsafe_code, clippy::too_many_arguments)]
    fn tile(
        &self,
        target: Shared,
        image: usize,
        range: std::ops::Range<usize>,
        input: &[f32],
        weight: &[f32],
        bias: Option<&[f32]>,
        s: &Sizes,
        unfolded: &mut Vec<f32>,
    ) {
        let pixels = s.out_height * s.out_width;
        let (count, depth) = (range.len(), s.inputs * s.kernel * s.kernel);
        let offset = image * s.outputs * pixels + range.start;
        // SAFETY: this task alone owns the pixels `range` of every channel of this image; `offset`
        // plus all strides stays inside the output by construction of `Sizes`.
        let pointer = unsafe { target.add(offset) };
        if let Some(bias) = bias {
            for (channel, value) in bias.iter().enumerate() {
                // SAFETY: as above.
                let row = unsafe {
                    std::slice::from_raw_parts_mut(pointer.0.add(channel * pixels), count)
                };
                row.fill(*value);
            }
        }
        let point = s.kernel == 1 && self.stride == 1 && self.padding == 0;
        for from in (0..depth).step_by(DEPTH) {
            let rows = DEPTH.min(depth - from);
            let left = Matrix::rows(&weight[from..], s.outputs, rows, depth);
            let right = if point {
                Matrix::rows(&input[from * pixels + range.start..], rows, count, pixels)
            } else {
                self.unfold(input, from..from + rows, range.clone(), s, unfolded);
                Matrix::rows(unfolded, rows, count, count)
            };
            let accumulate = from > 0 || bias.is_some();
            // SAFETY: the target is this task's own, see above.
            unsafe {
                multiply(Target { pointer, row_stride: pixels, accumulate }, left, right, 1.0);
            };
        }
    }

    /// Rows `taps` (channel, ky, kx) of the unfolded input for the output pixels `range`.
    fn unfold(
        &self,
        input: &[f32],
        taps: std::ops::Range<usize>,
        range: std::ops::Range<usize>,
        s: &Sizes,
        unfolded: &mut Vec<f32>,
    ) {
        unfolded.clear();
        let area = s.kernel * s.kernel;
        for tap in taps {
            let (channel, ky, kx) = (tap / area, tap % area / s.kernel, tap % s.kernel);
            let plane = &input[channel * s.height * s.width..][..s.height * s.width];
            let mut pixel = range.start;
            while pixel < range.end {
                let (y, x) = (pixel / s.out_width, pixel % s.out_width);
                let count = (s.out_width - x).min(range.end - pixel);
                let row =
                    (y * self.stride + ky).checked_sub(self.padding).filter(|r| *r < s.height);
                match row {
                    Some(row) => {
                        self.unfold_row(&plane[row * s.width..][..s.width], x, count, kx, unfolded);
                    }
                    None => unfolded.resize(unfolded.len() + count, 0.0),
                }
                pixel += count;
            }
        }
    }

    /// `count` elements of one input row as seen from the outputs `x..`, zero outside.
    fn unfold_row(&self, row: &[f32], x: usize, count: usize, kx: usize, unfolded: &mut Vec<f32>) {
        if self.stride == 1 {
            let (first, last) = (x + kx, x + kx + count); // positions in the padded row
            let left = self.padding.saturating_sub(first).min(count);
            let begin = (first + left).saturating_sub(self.padding).min(row.len());
            let end = last.saturating_sub(self.padding).clamp(begin, row.len());
            unfolded.resize(unfolded.len() + left, 0.0);
            unfolded.extend_from_slice(&row[begin..end]);
            unfolded.resize(unfolded.len() + count - left - (end - begin), 0.0);
        } else {
            unfolded.extend((x..x + count).map(|x| {
                let position = (x * self.stride + kx).checked_sub(self.padding);
                position.and_then(|p| row.get(p)).copied().unwrap_or(0.0)
            }));
        }
    }
}

impl CustomOp2 for Convolution {
    fn name(&self) -> &'static str {
        "colora-conv2d"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let sizes = self.sizes(l1, l2)?;
        let out = self.run(slice(s1, l1)?, slice(s2, l2)?, None, &sizes);
        let shape = (sizes.batch, sizes.outputs, sizes.out_height, sizes.out_width);
        Ok((CpuStorage::F32(out), shape.into()))
    }
}

impl CustomOp3 for Convolution {
    fn name(&self) -> &'static str {
        "colora-conv2d-bias"
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
        let sizes = self.sizes(l1, l2)?;
        let bias = slice(s3, l3)?;
        if bias.len() != sizes.outputs {
            candle_core::bail!("conv2d: {} biases for {} outputs", bias.len(), sizes.outputs);
        }
        let out = self.run(slice(s1, l1)?, slice(s2, l2)?, Some(bias), &sizes);
        let shape = (sizes.batch, sizes.outputs, sizes.out_height, sizes.out_width);
        Ok((CpuStorage::F32(out), shape.into()))
    }
}
