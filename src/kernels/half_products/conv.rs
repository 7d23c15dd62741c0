//! Floor 1. Convolution with a packed kernel: an implicit product, nothing is unfolded as a whole.

use super::micro::{COLUMNS, DEPTH, ROWS, Tile, add_product};
use super::pair;
use crate::kernels::{Shared, slice};
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use rayon::prelude::*;
use std::sync::Arc;

/// Output pixels that one task takes: four panels.
const TASK: usize = 4 * COLUMNS;
/// Panels of output channels that one task takes at least.
const GROUP: usize = 8;

/// A kernel `[outputs, inputs, k, k]` as panels of 12 outputs; inputs of one tap lie together.
#[derive(Debug, Clone)]
pub(crate) struct PackedKernel {
    /// `[panels, taps · pairs of inputs, 12]`.
    words: Arc<[u32]>,
    outputs: usize,
    inputs: usize,
    kernel: usize,
}

/// A packed kernel with the way it moves, as an operator.
struct Convolution<'a> {
    packed: &'a PackedKernel,
    padding: usize,
    stride: usize,
}

/// The input as words of two channels: `[rows, pairs of channels, columns]` with its padding.
struct Padded {
    words: Vec<u32>,
    pairs: usize,
    width: usize,
}

impl PackedKernel {
    /// Packs `weight`: `[outputs, inputs, kernel, kernel]`, row-major.
    pub(crate) fn new(weight: &[f32], outputs: usize, inputs: usize, kernel: usize) -> Self {
        let (taps, pairs) = (kernel * kernel, inputs.div_ceil(2));
        let mut words = vec![0u32; outputs.div_ceil(ROWS) * taps * pairs * ROWS];
        words.par_chunks_mut((taps * pairs * ROWS).max(1)).enumerate().for_each(
            |(panel, words)| {
                for row in 0..ROWS.min(outputs - panel * ROWS) {
                    let filter = &weight[(panel * ROWS + row) * inputs * taps..][..inputs * taps];
                    for tap in 0..taps {
                        for i in 0..pairs {
                            let at = |input: usize| filter.get(input * taps + tap).copied();
                            let high = at(2 * i + 1).unwrap_or(0.0);
                            let low = at(2 * i).unwrap_or(0.0);
                            words[(tap * pairs + i) * ROWS + row] = pair(low, high);
                        }
                    }
                }
            },
        );
        Self { words: words.into(), outputs, inputs, kernel }
    }

    /// `x`: `[B, inputs, H, W]` in f32. Returns `[B, outputs, H', W']`.
    pub(crate) fn forward(
        &self,
        x: &Tensor,
        bias: Option<&Tensor>,
        padding: usize,
        stride: usize,
    ) -> Result<Tensor> {
        let op = Convolution { packed: self, padding, stride };
        let y = x.contiguous()?.apply_op1_no_bwd(&op)?;
        match bias {
            Some(bias) => y.broadcast_add(&bias.reshape((1, (), 1, 1))?),
            None => Ok(y),
        }
    }
}

impl Padded {
    fn new(image: &[f32], (channels, height, width): (usize, usize, usize), border: usize) -> Self {
        let (pairs, wide) = (channels.div_ceil(2), width + 2 * border);
        let mut words = vec![0u32; (height + 2 * border) * pairs * wide];
        let area = height * width;
        let inside = &mut words[border * pairs * wide..][..height * pairs * wide];
        inside.par_chunks_mut((pairs * wide).max(1)).enumerate().for_each(|(y, row)| {
            for (i, words) in row.chunks_exact_mut(wide).enumerate() {
                let low = &image[2 * i * area + y * width..][..width];
                let high = image.get((2 * i + 1) * area + y * width..);
                let high = high.and_then(|rest| rest.get(..width));
                let words = &mut words[border..border + width];
                match high.filter(|_| 2 * i + 1 < channels) {
                    Some(high) => {
                        for ((word, low), high) in words.iter_mut().zip(low).zip(high) {
                            *word = pair(*low, *high);
                        }
                    }
                    None => {
                        for (word, low) in words.iter_mut().zip(low) {
                            *word = pair(*low, 0.0);
                        }
                    }
                }
            }
        });
        Self { words, pairs, width: wide }
    }
}

impl Convolution<'_> {
    fn out(&self, side: usize) -> Option<usize> {
        let room = (side + 2 * self.padding).checked_sub(self.packed.kernel)?;
        Some(room / self.stride + 1)
    }

    #[allow(unsafe_code)]
    fn run(&self, x: &[f32], batch: usize, (height, width): (usize, usize)) -> Option<Vec<f32>> {
        let PackedKernel { words, outputs, inputs, kernel } = self.packed;
        let (out_height, out_width) = (self.out(height)?, self.out(width)?);
        let pixels = out_height * out_width;
        let mut out = crate::kernels::zeros(batch * outputs * pixels);
        let target = Shared(out.as_mut_ptr());
        let panels = outputs.div_ceil(ROWS);
        let blocks = pixels.div_ceil(TASK);
        // Few pixels: cut the channels too, so that every thread gets some.
        let wanted = (4 * rayon::current_num_threads()).div_ceil(blocks);
        let groups = wanted.clamp(1, panels.div_ceil(GROUP));
        let group = panels.div_ceil(groups);
        let depth = kernel * kernel * inputs.div_ceil(2);
        for image in 0..batch {
            let size = inputs * height * width;
            let padded =
                Padded::new(&x[image * size..][..size], (*inputs, height, width), self.padding);
            let base = image * outputs * pixels;
            (0..blocks * groups).into_par_iter().for_each_init(Vec::new, |right, task| {
                let start = task / groups * TASK;
                let count = TASK.min(pixels - start);
                let first = task % groups * group;
                for from in (0..depth).step_by(DEPTH) {
                    let steps = from..(from + DEPTH).min(depth);
                    self.gather(&padded, start..start + count, out_width, steps.clone(), right);
                    for panel in first..(first + group).min(panels) {
                        let left = &words[(panel * depth + from) * ROWS..][..steps.len() * ROWS];
                        for (i, right) in right.chunks_exact(steps.len() * COLUMNS).enumerate() {
                            let pixel = start + i * COLUMNS;
                            // SAFETY: this task alone owns these pixels of these channels.
                            unsafe {
                                let at = base + panel * ROWS * pixels + pixel;
                                let tile = Tile {
                                    pointer: target.add(at).0,
                                    stride: pixels,
                                    rows: ROWS.min(outputs - panel * ROWS),
                                    columns: COLUMNS.min(start + count - pixel),
                                };
                                add_product(left, right, tile);
                            }
                        }
                    }
                }
            });
        }
        Some(out)
    }

    /// The input as the output pixels `range` see it: panels `[steps, 32]` of words.
    fn gather(
        &self,
        padded: &Padded,
        range: std::ops::Range<usize>,
        out_width: usize,
        steps: std::ops::Range<usize>,
        out: &mut Vec<u32>,
    ) {
        let (kernel, depth) = (self.packed.kernel, steps.len());
        out.clear();
        out.resize(range.len().div_ceil(COLUMNS) * depth * COLUMNS, 0);
        for (i, panel) in out.chunks_exact_mut(depth * COLUMNS).enumerate() {
            let end = (range.start + (i + 1) * COLUMNS).min(range.end);
            let mut pixel = range.start + i * COLUMNS;
            let mut column = 0;
            while pixel < end {
                let (y, x) = (pixel / out_width, pixel % out_width);
                let count = (out_width - x).min(end - pixel);
                for (step, words) in steps.clone().zip(panel.chunks_exact_mut(COLUMNS)) {
                    let (tap, channels) = (step / padded.pairs, step % padded.pairs);
                    let row = y * self.stride + tap / kernel;
                    let line = &padded.words[(row * padded.pairs + channels) * padded.width..];
                    let line = &line[x * self.stride + tap % kernel..];
                    let words = &mut words[column..column + count];
                    if self.stride == 1 {
                        words.copy_from_slice(&line[..count]);
                    } else {
                        for (word, from) in words.iter_mut().zip(line.iter().step_by(self.stride)) {
                            *word = *from;
                        }
                    }
                }
                pixel += count;
                column += count;
            }
        }
    }
}

impl CustomOp1 for Convolution<'_> {
    fn name(&self) -> &'static str {
        "colora-half-conv2d"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (batch, inputs, height, width) = layout.shape().dims4()?;
        let sides = self.out(height).zip(self.out(width));
        let (Some((h, w)), true) = (sides, inputs == self.packed.inputs) else {
            candle_core::bail!("conv2d: {:?} does not fit the kernel", layout.shape());
        };
        let out = self.run(slice(storage, layout)?, batch, (height, width)).unwrap_or_default();
        Ok((CpuStorage::F32(out), (batch, self.packed.outputs, h, w).into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device};

    #[test]
    fn equals_the_plain_convolution_of_rounded_numbers() {
        for (b, i, o, k, h, w, stride, padding) in [
            (1, 3, 5, 3, 7, 9, 1, 1),
            (2, 8, 13, 3, 8, 8, 2, 1),
            (2, 16, 24, 1, 5, 7, 1, 0),
            (1, 250, 30, 3, 9, 40, 1, 1),
            (1, 4, 8, 3, 1, 1, 1, 1),
        ] {
            let random = |shape: &[usize]| {
                let t = Tensor::randn(0f32, 1.0, shape, &Device::Cpu).unwrap();
                t.to_dtype(DType::BF16).unwrap().to_dtype(DType::F32).unwrap()
            };
            let (x, weight) = (random(&[b, i, h, w]), random(&[o, i, k, k]));
            let bias = Tensor::randn(0f32, 1.0, o, &Device::Cpu).unwrap();
            let values = weight.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            let packed = PackedKernel::new(&values, o, i, k);
            let ours = packed.forward(&x, Some(&bias), padding, stride).unwrap();
            let plain = x.conv2d(&weight, padding, stride, 1, 1).unwrap();
            let plain = plain.broadcast_add(&bias.reshape((1, o, 1, 1)).unwrap()).unwrap();
            assert_eq!(ours.dims(), plain.dims());
            let worst = (ours - &plain).unwrap().abs().unwrap().flatten_all().unwrap();
            let worst = worst.max(0).unwrap().to_scalar::<f32>().unwrap();
            assert!(worst < 2e-3, "{b} {i} {o} {k}: {worst}");
        }
    }
}
