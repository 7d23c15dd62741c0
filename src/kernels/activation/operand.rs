//! The left side of products: activations as the innermost loops read them.

use crate::error::Result;
use crate::kernels::activation::feature_map::FeatureMap;
use crate::kernels::activation::norm::{self, Affine};
use crate::kernels::measure::counters::{self, KernelKind};
use crate::kernels::memory::arena::Buffer;
use crate::kernels::simd::precision::Precision;
use crate::kernels::simd::vector::{Change, prepare_floats, prepare_halves};
use rayon::prelude::*;
use std::ops::Range;

/// Pixels `[B, H, W]` of words, with their zero padding around.
#[derive(Debug)]
pub(crate) struct Operand {
    data: Buffer,
    pub(in crate::kernels) batch: usize,
    /// Sizes with padding.
    pub(in crate::kernels) height: usize,
    pub(in crate::kernels) width: usize,
    pub(in crate::kernels) channels: usize,
    pub(in crate::kernels) precision: Precision,
}

/// Zero pixels on each side.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Border {
    /// Above and to the left.
    pub(crate) near: usize,
    /// Below and to the right.
    pub(crate) far: usize,
}

/// What happens to activations on their way into a product.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Prologue<'a> {
    /// Scale and shift of every channel of every sample.
    pub(crate) affine: Option<&'a Affine>,
    /// SiLU, after the scale.
    pub(crate) silu: bool,
    /// Nearest neighbours: the size to grow to, which is twice the size or one less.
    pub(crate) grown: Option<(usize, usize)>,
    pub(crate) border: Border,
}

impl Operand {
    /// Room for tokens `[B, N]` that somebody else writes.
    pub(in crate::kernels) fn tokens(
        (batch, count): (usize, usize),
        channels: usize,
        precision: Precision,
    ) -> Result<Self> {
        let data = Buffer::new(batch * count * precision.words(channels))?;
        Ok(Self { data, batch, height: count, width: 1, channels, precision })
    }

    /// The channels of all `parts`, which have the same sizes.
    pub(crate) fn new(
        parts: &[FeatureMap],
        how: Prologue<'_>,
        precision: Precision,
    ) -> Result<Self> {
        // Halves of a word must come from one part.
        let odd = precision == Precision::Bf16 && parts.iter().any(|p| p.channels % 2 == 1);
        if parts.len() > 1 && odd {
            return Self::new(&[FeatureMap::joined(parts)?], how, precision);
        }
        let _clock = counters::begin(KernelKind::Prologue, &[]);
        let first = &parts[0];
        let channels = parts.iter().map(|part| part.channels).sum();
        let (inner_h, inner_w) = how.size(parts);
        let Border { near, far } = how.border;
        let (height, width) = (inner_h + near + far, inner_w + near + far);
        let pixel = precision.words(channels);
        let mut data = Buffer::new(first.batch * height * width * pixel)?;
        data.words_mut().par_chunks_mut((width * pixel).max(1)).enumerate().for_each(
            |(row, words)| {
                let (sample, y) = (row / height, row % height);
                segment(parts, how, sample, (y, 0), precision, words);
            },
        );
        Ok(Self { data, batch: first.batch, height, width, channels, precision })
    }

    /// Tokens of `channels` numbers, each made by `row` of those of a token of `x`.
    pub(in crate::kernels) fn of_rows(
        x: &FeatureMap,
        channels: usize,
        precision: Precision,
        row: impl Fn(&[f32], &mut [f32]) + Sync,
    ) -> Result<Self> {
        let _clock = counters::begin(KernelKind::Prologue, &[]);
        let mut out = Self::tokens((x.batch, x.pixels()), channels, precision)?;
        let pixel = out.pixel();
        let rows = out.data.words_mut().par_chunks_mut(pixel.max(1));
        rows.zip(x.values().par_chunks(x.channels)).for_each_init(
            || vec![0f32; channels],
            |made, (out, x)| {
                row(x, made);
                store(made, precision, out);
            },
        );
        Ok(out)
    }

    /// Layer norm of tokens, over the channels.
    pub(crate) fn layer_norm(
        x: &FeatureMap,
        (weight, bias): (&[f32], &[f32]),
        eps: f64,
        precision: Precision,
    ) -> Result<Self> {
        let _clock = counters::begin(KernelKind::Norm, &[]);
        let channels = x.channels;
        let mut out = Self::tokens((x.batch, x.pixels()), channels, precision)?;
        let pixel = out.pixel();
        let rows = out.data.words_mut().par_chunks_mut(TOKENS * pixel);
        rows.zip(x.values().par_chunks(TOKENS * channels)).for_each_init(
            || vec![0f32; channels],
            |scratch, (out, x)| {
                for (out, x) in out.chunks_exact_mut(pixel).zip(x.chunks_exact(channels)) {
                    norm::layer_norm_row(x, (weight, bias), eps, scratch);
                    write(scratch, Change::NONE, channels, precision, out, (pixel, 0));
                }
            },
        );
        Ok(out)
    }

    /// Words of a pixel.
    pub(in crate::kernels) fn pixel(&self) -> usize {
        self.precision.words(self.channels)
    }

    pub(in crate::kernels) fn words(&self) -> &[u32] {
        self.data.words()
    }

    pub(in crate::kernels) fn words_mut(&mut self) -> &mut [u32] {
        self.data.words_mut()
    }
}

/// Tokens of one task.
const TOKENS: usize = 32;

impl Prologue<'_> {
    /// Height and width after growing, without the border.
    pub(in crate::kernels) fn size(&self, parts: &[FeatureMap]) -> (usize, usize) {
        self.grown.unwrap_or((parts[0].height, parts[0].width))
    }
}

/// Prepared pixels of one row, from row and column `start` of the image with its border on; what lies
/// outside of the image is 0. `out` holds whole pixels.
pub(in crate::kernels) fn segment(
    parts: &[FeatureMap],
    how: Prologue<'_>,
    sample: usize,
    start: (usize, usize),
    precision: Precision,
    out: &mut [u32],
) {
    let channels: usize = parts.iter().map(|part| part.channels).sum();
    let pixel = precision.words(channels);
    let (height, width) = how.size(parts);
    let near = how.border.near;
    let Some(y) = start.0.checked_sub(near).filter(|y| *y < height) else {
        out.fill(0);
        return;
    };
    let wanted = start.1..start.1 + out.len() / pixel.max(1);
    let inside = wanted.start.max(near)..wanted.end.min(near + width);
    if inside.is_empty() {
        out.fill(0);
        return;
    }
    let (before, rest) = out.split_at_mut((inside.start - wanted.start) * pixel);
    let (middle, behind) = rest.split_at_mut(inside.len() * pixel);
    before.fill(0);
    behind.fill(0);
    let columns = inside.start - near..inside.end - near;
    if how.grown.is_none() {
        line(parts, how, (sample, y), columns, precision, middle);
        return;
    }
    // Each pixel of the small image once, then its copies.
    let small = columns.start / 2..columns.end.div_ceil(2);
    let mut pixels = vec![0; small.len() * pixel];
    line(parts, how, (sample, y / 2), small.clone(), precision, &mut pixels);
    for (x, out) in columns.zip(middle.chunks_exact_mut(pixel)) {
        out.copy_from_slice(&pixels[(x / 2 - small.start) * pixel..][..pixel]);
    }
}

/// Pixels `columns` of one row of all parts.
fn line(
    parts: &[FeatureMap],
    how: Prologue<'_>,
    (sample, y): (usize, usize),
    columns: Range<usize>,
    precision: Precision,
    out: &mut [u32],
) {
    let total: usize = parts.iter().map(|part| part.channels).sum();
    let pixel = precision.words(total);
    let mut first = 0;
    for part in parts {
        let channels = part.channels;
        let row = (sample * part.height + y) * part.width + columns.start;
        let x = &part.values()[row * channels..][..columns.len() * channels];
        let (scale, shift) = match how.affine {
            Some(affine) => affine.of(sample, first..first + channels),
            None => (&[][..], &[][..]),
        };
        let change = Change { scale, shift, silu: how.silu };
        write(x, change, channels, precision, out, (pixel, precision.words(first)));
        first += channels;
    }
}

/// Pixels of `channels` numbers into pixels `stride` words apart, from word `offset` of each on.
fn write(
    x: &[f32],
    change: Change<'_>,
    channels: usize,
    precision: Precision,
    out: &mut [u32],
    (stride, offset): (usize, usize),
) {
    match precision {
        Precision::F32 => {
            let out = bytemuck::cast_slice_mut(out);
            prepare_floats(x, &change, channels, out, (stride, offset));
        }
        Precision::Bf16 => {
            let out = bytemuck::cast_slice_mut(out);
            prepare_halves(x, &change, channels, out, (2 * stride, 2 * offset));
        }
    }
}

/// Neighbouring numbers as words.
pub(in crate::kernels) fn store(x: &[f32], precision: Precision, out: &mut [u32]) {
    let words = out.len();
    write(x, Change::NONE, x.len(), precision, out, (words, 0));
}
