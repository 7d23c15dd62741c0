//! 3×3 convolution with 16 products where the plain one takes 36: Winograd's F(2×2, 3×3),
//! Lavin and Gray (2016).
//!
//! Each 2×2 square of outputs sees a 4×4 patch of inputs. Patches and kernels are transformed by sums of
//! their numbers, multiplied number by number, which over all channels is a product of matrices for each
//! of the 16 places, and the results are summed back. The factors of the transforms are 1 and ½, so that
//! rounding errors stay those of a few more additions.

use crate::error::Result;
use crate::kernels::activation::feature_map::FeatureMap;
use crate::kernels::activation::operand::{Border, Prologue, segment};
use crate::kernels::measure::counters::{self, KernelKind};
use crate::kernels::memory::arena::Buffer;
use crate::kernels::memory::shared::Shared;
use crate::kernels::product::multiply::{Epilogue, depth, had};
use crate::kernels::simd::microkernel::{self, COLUMNS, ROWS, Segment, Sums, Tile, TileTypes};
use crate::kernels::simd::precision::{Precision, round};
use crate::kernels::simd::processor::Instructions;
use crate::kernels::simd::transpose::Lanes;
use crate::kernels::simd::vector::{Row, finish_rows};
use crate::kernels::weight::format::Arrangement;
use crate::kernels::weight::packed::Packed;
use crate::kernels::weight::quantised::Quantisation;
use crate::kernels::weight::winograd::PLACES;
use rayon::prelude::*;

/// Squares of one task.
const SQUARES: usize = 8 * ROWS;
/// Squares whose pixels are prepared together.
const STRIP: usize = 12;
/// Channels that are transformed together.
const LANES: usize = 16;

/// The convolution of the channels of all `parts`, prepared as `how` says but for its border.
///
/// Returns `[B, H, W, outputs]`. Patches are prepared where they are used, so no prepared image is held.
///
/// # Errors
/// [`Error::Memory`](crate::Error::Memory).
pub(crate) fn multiply(
    parts: &[FeatureMap],
    how: Prologue<'_>,
    w: &Packed,
    finish: Epilogue<'_>,
) -> Result<FeatureMap> {
    let how = Prologue { border: Border { near: 1, far: 1 }, ..how };
    let (batch, (height, width)) = (parts[0].batch, how.size(parts));
    let channels: usize = parts.iter().map(|part| part.channels).sum();
    assert_eq!(w.arrangement, Arrangement::Winograd, "the weight of a fast convolution");
    assert_eq!(channels, w.shape.inputs, "channels of a fast convolution");
    let outputs = w.outputs();
    let zeros = vec![0f32; outputs];
    let job = Job {
        parts,
        how,
        channels,
        w,
        precision: w.operands(),
        unpacked: w.quantised().map(|kind| unpacked(kind, w)).transpose()?,
        height,
        width,
        bias: finish.bias.unwrap_or(&zeros),
        add: finish.add.map(FeatureMap::values),
        scale: finish.scale,
    };
    let size = batch * height * width * outputs;
    assert!(job.add.is_none_or(|add| add.len() == size), "size of a residual");
    let _clock = counters::begin(KernelKind::Winograd, &[size, channels, 9]);
    FeatureMap::try_filled((batch, height, width, outputs), |out| job.run(out))
}

/// All panels of a quantised weight in 16 places.
fn unpacked(kind: Quantisation, w: &Packed) -> Result<Buffer> {
    let lanes: usize = (0..w.panels()).map(|panel| w.vectors(panel) * LANES).sum();
    let mut all = Buffer::new(lanes * PLACES * w.tap())?;
    let panels = all.words_mut().par_chunks_mut((COLUMNS * PLACES * w.tap()).max(1)).enumerate();
    panels.for_each_init(Vec::new, |taps, (panel, out)| w.unpack_places(kind, panel, taps, out));
    Ok(all)
}

struct Job<'a> {
    parts: &'a [FeatureMap],
    how: Prologue<'a>,
    channels: usize,
    w: &'a Packed,
    /// Of the transformed patches.
    precision: Precision,
    /// The places of a quantised weight, while it is multiplied: tasks are short and share them.
    unpacked: Option<Buffer>,
    height: usize,
    width: usize,
    bias: &'a [f32],
    add: Option<&'a [f32]>,
    scale: f32,
}

/// What one thread works in.
struct Scratch {
    /// Prepared pixels of a few squares: `[4, pixels, channels]`.
    strip: Buffer,
    /// Transformed patches: `[16, squares, words]`.
    patches: Buffer,
    /// Products: `[16, squares, 64]`.
    products: Buffer,
}

impl Scratch {
    /// For `squares` squares of `words` words.
    fn new(squares: usize, words: usize, channels: usize) -> Result<Self> {
        Ok(Self {
            strip: Buffer::new(4 * (2 * STRIP + 2) * channels)?,
            patches: Buffer::new(PLACES * squares * words)?,
            products: Buffer::new(PLACES * squares * COLUMNS)?,
        })
    }
}

/// A 2×2 square: sample, row and column of squares.
type Square = (usize, usize, usize);

impl Job<'_> {
    fn run(&self, out: &mut [f32]) -> Result<()> {
        let (rows, columns) = (self.height.div_ceil(2), self.width.div_ceil(2));
        let total = self.parts[0].batch * rows * columns;
        let cuts = total.div_ceil(SQUARES).max(1);
        let squares = total.div_ceil(cuts).next_multiple_of(ROWS);
        let cuts = total.div_ceil(squares);
        let panels = self.w.panels();
        let groups = (4 * rayon::current_num_threads()).div_ceil(cuts).clamp(1, panels);
        let group = panels.div_ceil(groups);
        let target = Shared::new(out);
        (0..cuts * groups).into_par_iter().try_for_each_init(
            || Scratch::new(squares, self.precision.words(self.channels), self.channels),
            |scratch, task| {
                let scratch = had(scratch)?;
                let start = task / groups * squares;
                let list: Vec<Square> = (start..(start + squares).min(total))
                    .map(|i| (i / (rows * columns), i / columns % rows, i % columns))
                    .collect();
                let first = task % groups * group;
                let wanted = first..(first + group).min(panels);
                if wanted.is_empty() {
                    return Ok(());
                }
                self.transform(&list, scratch);
                for panel in wanted {
                    self.products(panel, list.len(), scratch);
                    self.finish(panel, &list, scratch.products.floats(), &target);
                }
                Ok(())
            },
        )
    }

    /// Transforms the patches of `list`; squares beyond it, which fill the last tile, are left as they are.
    fn transform(&self, list: &[Square], scratch: &mut Scratch) {
        let mut done = 0;
        while done < list.len() {
            let (sample, y, x) = list[done];
            let rest = list[done..].iter().take(STRIP);
            let count = rest.take_while(|square| (square.0, square.1) == (sample, y)).count();
            let pixels = 2 * count + 2;
            let row = pixels * self.channels;
            let strip = &mut scratch.strip.words_mut()[..4 * row];
            for (i, out) in strip.chunks_exact_mut(row.max(1)).enumerate() {
                let start = (2 * y + i, 2 * x);
                segment(self.parts, self.how, sample, start, Precision::F32, out);
            }
            self.transform_strip(done, count, row, list.len(), scratch);
            done += count;
        }
    }

    /// Transforms squares `first..` from the strip, whose rows are `row` numbers long.
    fn transform_strip(
        &self,
        first: usize,
        count: usize,
        row: usize,
        squares: usize,
        scratch: &mut Scratch,
    ) {
        let words = self.precision.words(self.channels);
        let place = squares.next_multiple_of(ROWS) * words;
        let strip = scratch.strip.floats();
        for i in 0..count {
            let input = &strip[2 * i * self.channels..];
            let patch = Patch { input, row, pixel: self.channels };
            let out = &mut scratch.patches.words_mut()[(first + i) * words..];
            match self.precision {
                Precision::F32 => {
                    transform_floats(&patch, bytemuck::cast_slice_mut(out), place);
                }
                Precision::Bf16 => {
                    transform_halves(&patch, bytemuck::cast_slice_mut(out), 2 * place);
                }
            }
        }
    }

    fn products(&self, panel: usize, squares: usize, scratch: &mut Scratch) {
        let (words, row) = (self.w.tap(), self.precision.words(self.channels));
        let padded = squares.next_multiple_of(ROWS);
        let (patches, products) = (scratch.patches.words(), scratch.products.floats_mut());
        let factors = TileTypes::of(self.precision, self.w.precision);
        let parts = if self.unpacked.is_some() { 1 } else { self.w.parts(panel) };
        let kernels = microkernel::kernels(factors, Instructions::used());
        let of = (factors, self.w.vectors(panel) / parts);
        let (kernel, depth) = (kernels[of.1 - 1], depth(factors));
        for place in 0..PLACES {
            for from in (0..words).step_by(depth) {
                let shift = factors.row_words() * from;
                let segment = [Segment { shift, words: depth.min(words - from) }];
                for part in 0..parts {
                    let weights = self.block(panel, part, place * words + from);
                    for first in (0..padded).step_by(ROWS) {
                        let at = place * padded + first;
                        let rows = std::array::from_fn(|r| &patches[(at + r) * row..]);
                        let out = &mut products[at * COLUMNS + part * LANES..];
                        let sums = Sums { out, stride: COLUMNS, add: from > 0 };
                        let tile = Tile::over(rows, &segment, weights, sums, of);
                        // SAFETY: rows, weights and products hold what the tile asks for, padding
                        // included.
                        #[allow(unsafe_code)]
                        unsafe {
                            kernel(tile);
                        }
                    }
                }
            }
        }
    }

    /// Words `from..` of a part of `panel`.
    fn block(&self, panel: usize, part: usize, from: usize) -> &[u32] {
        let Some(unpacked) = &self.unpacked else { return self.w.block(panel, part, from) };
        let vectors = self.w.vectors(panel);
        &unpacked.words()[panel * COLUMNS * PLACES * self.w.tap() + from * vectors * LANES..]
    }

    fn finish(&self, panel: usize, list: &[Square], products: &[f32], target: &Shared<'_>) {
        let outputs = self.w.outputs();
        let column = panel * COLUMNS;
        let columns = COLUMNS.min(outputs - column);
        let place = list.len().next_multiple_of(ROWS) * COLUMNS;
        let shared_bias = self.bias.len() == outputs;
        let mut sums = [0f32; 4 * COLUMNS];
        for (i, &(sample, y, x)) in list.iter().enumerate() {
            gather(&products[i * COLUMNS..], place, &mut sums);
            let mut rows: [Row<'_>; 4] = Default::default();
            let mut count = 0;
            for (quarter, sums) in sums.chunks_exact(COLUMNS).enumerate() {
                let (y, x) = (2 * y + quarter / 2, 2 * x + quarter % 2);
                if y >= self.height || x >= self.width {
                    continue;
                }
                let pixel = (sample * self.height + y) * self.width + x;
                let at = pixel * outputs + column;
                let bias = if shared_bias { column } else { sample * outputs + column };
                // SAFETY: every task writes the pixels and columns of its own squares, all inside.
                #[allow(unsafe_code)]
                let out = unsafe { target.part(at, columns) };
                rows[count] = Row {
                    sums: &sums[..columns],
                    bias: &self.bias[bias..][..columns],
                    add: self.add.map_or(&[], |add| &add[at..at + columns]),
                    out,
                };
                count += 1;
            }
            finish_rows(&mut rows[..count], self.scale);
        }
    }
}

/// Where a patch lies.
pub(in crate::kernels) struct Patch<'a> {
    /// From its first number on.
    input: &'a [f32],
    /// Numbers from row to row, and channels of a pixel.
    row: usize,
    pixel: usize,
}

#[allow(clippy::inline_always)]
#[inline(always)]
fn plus(a: &Lanes, b: &Lanes) -> Lanes {
    std::array::from_fn(|i| a[i] + b[i])
}

#[allow(clippy::inline_always)]
#[inline(always)]
fn minus(a: &Lanes, b: &Lanes) -> Lanes {
    std::array::from_fn(|i| a[i] - b[i])
}

/// One row or column of Bᵀ·d.
#[allow(clippy::inline_always)]
#[inline(always)]
fn spread(d: [&Lanes; 4]) -> [Lanes; 4] {
    [minus(d[0], d[2]), plus(d[1], d[2]), minus(d[2], d[1]), minus(d[1], d[3])]
}

/// One row or column of Aᵀ·m.
#[allow(clippy::inline_always)]
#[inline(always)]
fn collect(m: [&Lanes; 4]) -> [Lanes; 2] {
    [plus(&plus(m[0], m[1]), m[2]), minus(&minus(m[1], m[2]), m[3])]
}

/// Bᵀ·d·B for all channels; `store(place, channel, numbers)` takes up to 16 of them.
#[allow(clippy::inline_always)]
#[inline(always)]
fn transform(patch: &Patch<'_>, mut store: impl FnMut(usize, usize, &Lanes, usize)) {
    for channel in (0..patch.pixel).step_by(LANES) {
        let count = LANES.min(patch.pixel - channel);
        let mut d = [[[0f32; LANES]; 4]; 4];
        for (y, d) in d.iter_mut().enumerate() {
            for (x, d) in d.iter_mut().enumerate() {
                let from = &patch.input[y * patch.row + x * patch.pixel + channel..];
                match from.first_chunk::<LANES>() {
                    Some(from) if count == LANES => *d = *from,
                    _ => d[..count].copy_from_slice(&from[..count]),
                }
            }
        }
        let rows: [[Lanes; 4]; 4] = {
            let columns: [[Lanes; 4]; 4] =
                std::array::from_fn(|x| spread([&d[0][x], &d[1][x], &d[2][x], &d[3][x]]));
            std::array::from_fn(|y| {
                spread([&columns[0][y], &columns[1][y], &columns[2][y], &columns[3][y]])
            })
        };
        for (y, row) in rows.iter().enumerate() {
            for (x, numbers) in row.iter().enumerate() {
                store(4 * y + x, channel, numbers, count);
            }
        }
    }
}

multiversion! {
    fn transform_floats_plain(patch: &Patch<'_>, out: &mut [f32], place: usize) {
        transform(patch, |i, channel, numbers, count| {
            let out = &mut out[i * place + channel..];
            match out.first_chunk_mut::<LANES>() {
                Some(out) if count == LANES => *out = *numbers,
                _ => out[..count].copy_from_slice(&numbers[..count]),
            }
        });
    }
}

multiversion! {
    fn transform_halves_plain(patch: &Patch<'_>, out: &mut [u16], place: usize) {
        transform(patch, |i, channel, numbers, count| {
            let out = &mut out[i * place + channel..];
            match out.first_chunk_mut::<LANES>() {
                Some(out) if count == LANES => *out = numbers.map(round),
                _ => {
                    for (out, number) in out.iter_mut().zip(&numbers[..count]) {
                        *out = round(*number);
                    }
                    // The other half of the last word.
                    if count % 2 == 1 {
                        out[count] = 0;
                    }
                }
            }
        });
    }
}

multiversion! {
    /// Aᵀ·m·A: four pixels of 64 columns from 16 places, `place` numbers apart.
    fn gather_plain(products: &[f32], place: usize, out: &mut [f32; 4 * COLUMNS]) {
        for column in (0..COLUMNS).step_by(LANES) {
            let load = |i: usize| -> Lanes {
                let from = &products[i * place + column..];
                std::array::from_fn(|lane| from[..LANES][lane])
            };
            let rows: [[Lanes; 2]; 4] = std::array::from_fn(|y| {
                let [a, b, c, d]: [Lanes; 4] = std::array::from_fn(|x| load(4 * y + x));
                collect([&a, &b, &c, &d])
            });
            for x in [0, 1] {
                let pixels = collect([&rows[0][x], &rows[1][x], &rows[2][x], &rows[3][x]]);
                for (y, pixel) in pixels.iter().enumerate() {
                    out[(2 * y + x) * COLUMNS + column..][..LANES].copy_from_slice(pixel);
                }
            }
        }
    }
}

dispatched! {
    /// Patches as f32, `place` numbers from place to place.
    fn transform_floats(patch: &Patch<'_>, out: &mut [f32], place: usize) {
        avx512::transform_floats(patch, out, place), transform_floats_plain(patch, out, place)
    }
}

dispatched! {
    /// Patches rounded to bf16.
    fn transform_halves(patch: &Patch<'_>, out: &mut [u16], place: usize) {
        avx512::transform_halves(patch, out, place), transform_halves_plain(patch, out, place)
    }
}

dispatched! {
    /// Four pixels of 64 columns from 16 places, `place` numbers apart.
    fn gather(products: &[f32], place: usize, out: &mut [f32; 4 * COLUMNS]) {
        avx512::gather(products, place, out), gather_plain(products, place, out)
    }
}

/// The same loops with the numbers kept in registers.
#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)]
mod avx512 {
    use super::{COLUMNS, LANES, PLACES, Patch};
    use crate::kernels::simd::avx512::{mask, store_halves};
    use std::arch::x86_64::{
        __m512, _mm512_add_ps, _mm512_loadu_ps, _mm512_mask_storeu_ps, _mm512_maskz_loadu_ps,
        _mm512_setzero_ps, _mm512_storeu_ps, _mm512_sub_ps,
    };

    /// Bᵀ·d·B of 16 channels.
    ///
    /// # Safety
    /// The patch holds the channels of `mask` from `channel` on.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    unsafe fn transformed(patch: &Patch<'_>, channel: usize, mask: u16) -> [__m512; PLACES] {
        let mut d = [_mm512_setzero_ps(); PLACES];
        for y in 0..4 {
            for x in 0..4 {
                let at = y * patch.row + x * patch.pixel + channel;
                // SAFETY: the caller's promise.
                d[4 * y + x] = unsafe { _mm512_maskz_loadu_ps(mask, patch.input.as_ptr().add(at)) };
            }
        }
        for x in 0..4 {
            let (a, b, c, e) = (d[x], d[4 + x], d[8 + x], d[12 + x]);
            d[x] = _mm512_sub_ps(a, c);
            d[4 + x] = _mm512_add_ps(b, c);
            d[8 + x] = _mm512_sub_ps(c, b);
            d[12 + x] = _mm512_sub_ps(b, e);
        }
        for y in 0..4 {
            let (a, b, c, e) = (d[4 * y], d[4 * y + 1], d[4 * y + 2], d[4 * y + 3]);
            d[4 * y] = _mm512_sub_ps(a, c);
            d[4 * y + 1] = _mm512_add_ps(b, c);
            d[4 * y + 2] = _mm512_sub_ps(c, b);
            d[4 * y + 3] = _mm512_sub_ps(b, e);
        }
        d
    }

    /// Whether `patch` lies inside its input and all places inside `out`.
    fn fits(patch: &Patch<'_>, out: usize, place: usize) -> bool {
        3 * patch.row + 4 * patch.pixel <= patch.input.len()
            && (PLACES - 1) * place + patch.pixel <= out
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    pub(super) fn transform_floats(patch: &Patch<'_>, out: &mut [f32], place: usize) {
        assert!(fits(patch, out.len(), place), "a patch beyond its image");
        for channel in (0..patch.pixel).step_by(LANES) {
            let mask = mask(patch.pixel - channel);
            // SAFETY: masked to the channels of the patch, whose bounds were just checked.
            unsafe {
                for (i, numbers) in transformed(patch, channel, mask).into_iter().enumerate() {
                    let out = out.as_mut_ptr().add(i * place + channel);
                    _mm512_mask_storeu_ps(out, mask, numbers);
                }
            }
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    pub(super) fn transform_halves(patch: &Patch<'_>, out: &mut [u16], place: usize) {
        assert!(fits(patch, out.len(), place), "a patch beyond its image");
        for channel in (0..patch.pixel).step_by(LANES) {
            let mask = mask(patch.pixel - channel);
            // SAFETY: as above.
            unsafe {
                for (i, numbers) in transformed(patch, channel, mask).into_iter().enumerate() {
                    let out = out.as_mut_ptr().add(i * place + channel);
                    store_halves(out, mask, numbers);
                }
            }
        }
        if patch.pixel % 2 == 1 {
            // The other half of the last word.
            for i in 0..PLACES {
                out[i * place + patch.pixel] = 0;
            }
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    pub(super) fn gather(products: &[f32], place: usize, out: &mut [f32; 4 * COLUMNS]) {
        assert!((PLACES - 1) * place + COLUMNS <= products.len(), "products of a square");
        let collect = |a, b, c, e| {
            [_mm512_add_ps(_mm512_add_ps(a, b), c), _mm512_sub_ps(_mm512_sub_ps(b, c), e)]
        };
        for column in (0..COLUMNS).step_by(LANES) {
            let mut rows = [[_mm512_setzero_ps(); 2]; 4];
            for (y, row) in rows.iter_mut().enumerate() {
                // SAFETY: checked above.
                let load = |x: usize| unsafe {
                    _mm512_loadu_ps(products.as_ptr().add((4 * y + x) * place + column))
                };
                *row = collect(load(0), load(1), load(2), load(3));
            }
            for x in [0, 1] {
                let pixels = collect(rows[0][x], rows[1][x], rows[2][x], rows[3][x]);
                for (y, pixel) in pixels.into_iter().enumerate() {
                    // SAFETY: four pixels of 64 columns.
                    unsafe {
                        let at = (2 * y + x) * COLUMNS + column;
                        _mm512_storeu_ps(out.as_mut_ptr().add(at), pixel);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loops_for_one_processor_equal_the_plain_ones() {
        for pixel in [1, 16, 21, 64] {
            let input: Vec<f32> = (0..6 * 5 * pixel).map(|i| (i * 7 % 31) as f32).collect();
            let patch = Patch { input: &input, row: 5 * pixel, pixel };
            let place = 70;
            let (mut a, mut b) = (vec![0f32; PLACES * place], vec![0f32; PLACES * place]);
            transform_floats(&patch, &mut a, place);
            transform_floats_plain(&patch, &mut b, place);
            assert_eq!(a, b);
            let (mut c, mut d) = (vec![9u16; PLACES * place], vec![9u16; PLACES * place]);
            transform_halves(&patch, &mut c, place);
            transform_halves_plain(&patch, &mut d, place);
            assert_eq!(c, d);
            let (mut e, mut f) = ([0f32; 4 * COLUMNS], [0f32; 4 * COLUMNS]);
            gather(&a, place, &mut e);
            gather_plain(&a, place, &mut f);
            assert_eq!(e, f);
        }
    }
}
