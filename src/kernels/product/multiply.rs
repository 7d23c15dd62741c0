//! Products of an operand and a packed weight: linear layers, convolutions, and what is done
//! with the sums while they are still in the cache.
//!
//! The order of a sum depends on the sizes of the weight alone, so results do not depend on the number
//! of threads or on how work is cut.

use crate::error::{Error, Result};
use crate::kernels::activation::feature_map::FeatureMap;
use crate::kernels::activation::operand::{Border, Operand};
use crate::kernels::measure::counters::{self, KernelKind};
use crate::kernels::memory::arena::Buffer;
use crate::kernels::memory::shared::Shared;
use crate::kernels::simd::microkernel::{
    self, COLUMNS, LANES, ROWS, Segment, Sums, Tile, TileTypes,
};
use crate::kernels::simd::precision::Precision;
use crate::kernels::simd::processor::Instructions;
use crate::kernels::simd::vector::{Row, finish_rows, gate_row};
use crate::kernels::weight::format::{Arrangement, WeightShape};
use crate::kernels::weight::packed::Packed;
use rayon::prelude::*;

/// Words that are summed at once: 64 columns of them stay in the second-level cache.
const DEPTH: usize = 512;
/// Rows of one task at most.
const TASK: usize = 44 * ROWS;

/// Where the windows of a product lie in its operand.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Windows {
    /// Output pixels.
    pub(crate) height: usize,
    pub(crate) width: usize,
    pub(crate) stride: usize,
    /// Row and column of the first window's first tap, in the padded operand.
    pub(crate) origin: (usize, usize),
    /// Write pixel (y, x) to (2y + row, 2x + column) of an image twice the size.
    pub(crate) scatter: Option<(usize, usize)>,
}

/// What is added to the sums.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Epilogue<'a> {
    /// `[outputs]`, or `[B, outputs]`.
    pub(crate) bias: Option<&'a [f32]>,
    /// A map of the output's shape.
    pub(crate) add: Option<&'a FeatureMap>,
    /// Factor of everything, at last.
    pub(crate) scale: f32,
}

impl Default for Epilogue<'_> {
    fn default() -> Self {
        Self { bias: None, add: None, scale: 1.0 }
    }
}

/// Six rows of sums of up to 64 columns, all depth summed.
struct Done<'a> {
    /// `[6, 64]`.
    sums: &'a [f32],
    /// Output pixel of each row, counted through all samples.
    pixels: &'a [usize],
    /// Sample of each row.
    samples: &'a [usize],
    panel: usize,
}

/// An operand and the weight that multiplies it. The sums of several terms are added up before anything is
/// done with them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Term<'a> {
    pub(crate) x: &'a Operand,
    pub(crate) w: &'a Packed,
    pub(crate) windows: Windows,
}

/// Where the rows of a tile go.
struct Place {
    pixels: [usize; ROWS],
    samples: [usize; ROWS],
    count: usize,
}

/// A piece of the depth of a term.
struct Block {
    term: usize,
    segments: Vec<Segment>,
    from: usize,
    words: usize,
}

/// The product with bias and residual: `[B, H', W', outputs]`.
///
/// # Errors
/// [`Error::Memory`](crate::Error::Memory), as of the other products.
pub(crate) fn multiply(
    x: &Operand,
    w: &Packed,
    windows: Windows,
    finish: Epilogue<'_>,
) -> Result<FeatureMap> {
    multiply_all(&[Term { x, w, windows }], finish)
}

/// The sum of the products of all terms, which have the same outputs and as many windows.
pub(crate) fn multiply_all(terms: &[Term<'_>], finish: Epilogue<'_>) -> Result<FeatureMap> {
    let Term { x, w, windows } = terms[0];
    let factor = if windows.scatter.is_some() { 2 } else { 1 };
    let shape = (x.batch, factor * windows.height, factor * windows.width, w.outputs());
    FeatureMap::try_filled(shape, |out| multiply_into(terms, finish, out))
}

/// As [`multiply_all`], into `out`: of a scattered product every fourth pixel is written.
pub(in crate::kernels) fn multiply_into(
    terms: &[Term<'_>],
    finish: Epilogue<'_>,
    out: &mut [f32],
) -> Result<()> {
    let w = terms[0].w;
    let outputs = w.outputs();
    let zeros = vec![0f32; outputs];
    let bias = finish.bias.unwrap_or(&zeros);
    let shared_bias = bias.len() == outputs;
    let add = finish.add.map(FeatureMap::values);
    assert!(add.is_none_or(|add| add.len() == out.len()), "size of a residual");
    let target = Shared::new(out);
    product(terms, |done: Done<'_>| {
        let column = done.panel * COLUMNS;
        let columns = COLUMNS.min(outputs - column);
        let mut rows: [Row<'_>; ROWS] = Default::default();
        for (r, row) in rows.iter_mut().enumerate().take(done.pixels.len()) {
            let at = done.pixels[r] * outputs + column;
            let sample = if shared_bias { 0 } else { done.samples[r] };
            // SAFETY: every task writes the pixels and columns of its own sums, all inside `out`.
            #[allow(unsafe_code)]
            let out = unsafe { target.part(at, columns) };
            *row = Row {
                sums: &done.sums[r * COLUMNS..][..columns],
                bias: &bias[sample * outputs + column..][..columns],
                add: add.map_or(&[], |add| &add[at..at + columns]),
                out,
            };
        }
        finish_rows(&mut rows[..done.pixels.len()], finish.scale);
    })
}

/// value · GELU(gate) of the sum of gated weights' products, as the operand of the next product.
pub(crate) fn multiply_gated(
    terms: &[Term<'_>],
    bias: &[f32],
    precision: Precision,
) -> Result<Operand> {
    let Term { x, w, .. } = terms[0];
    assert_eq!(w.arrangement, Arrangement::Gated, "the weight of a gated product");
    let outputs = w.outputs();
    let mut out = Operand::tokens((x.batch, x.height * x.width), outputs, precision)?;
    let pixel = out.pixel();
    let target = Shared::new(bytemuck::cast_slice_mut(out.words_mut()));
    product(terms, |done: Done<'_>| {
        let column = done.panel * w.panel_width();
        let columns = w.panel_width().min(outputs - column);
        let mut gated = [0f32; COLUMNS / 2];
        for (sums, pixel_index) in done.sums.chunks_exact(COLUMNS).zip(done.pixels) {
            let (value, gate) = sums.split_at(COLUMNS / 2);
            let (value, gate) = (&value[..columns], &gate[..columns]);
            gate_row(
                (value, gate),
                (&bias[column..][..columns], &bias[outputs + column..][..columns]),
                &mut gated[..columns],
            );
            let words = precision.words(columns);
            // SAFETY: every task writes the words of its own sums; panels begin at even columns.
            #[allow(unsafe_code)]
            let out = unsafe { target.part(pixel_index * pixel + precision.words(column), words) };
            crate::kernels::activation::operand::store(
                &gated[..columns],
                precision,
                bytemuck::cast_slice_mut(out),
            );
        }
    })?;
    Ok(out)
}

impl<'a> Term<'a> {
    /// Every pixel of `x` by itself: a linear layer.
    pub(crate) fn all(x: &'a Operand, w: &'a Packed) -> Self {
        Self { x, w, windows: Windows::all(x) }
    }

    /// Rows of the product.
    fn rows(&self) -> usize {
        self.x.batch * self.windows.height * self.windows.width
    }

    /// Numbers that are summed for one output.
    fn depth(&self) -> usize {
        let WeightShape { inputs, kernel, .. } = self.w.shape;
        inputs * kernel * kernel
    }

    fn factors(&self) -> TileTypes {
        TileTypes::of(self.x.precision, self.w.precision)
    }

    fn check(&self, first: &Self) {
        let Self { x, w, windows } = self;
        assert_eq!(x.channels, w.shape.inputs, "factors of a product");
        assert_ne!(
            w.arrangement,
            Arrangement::Winograd,
            "places are multiplied by `winograd` alone"
        );
        let odd = self.factors() == TileTypes::Mixed && x.channels % 2 == 1;
        assert!(!odd, "a weight in bf16 reads rows of f32 in pairs");
        let reach =
            |origin: usize, count: usize| origin + (count.max(1) - 1) * windows.stride + w.side;
        let fits = reach(windows.origin.0, windows.height) <= x.height
            && reach(windows.origin.1, windows.width) <= x.width;
        assert!(fits || self.rows() == 0, "windows of a product reach beyond their operand");
        let same = self.rows() == first.rows()
            && w.shape.outputs == first.w.shape.outputs
            && w.panel_width() == first.w.panel_width();
        assert!(same, "terms of a product");
    }

    /// Where in the operand window `index` of all begins.
    fn offset(&self, index: usize) -> usize {
        let Self { x, windows, .. } = self;
        let (line, column) = (index / windows.width, index % windows.width);
        let (sample, y) = (line / windows.height, line % windows.height);
        let row = sample * x.height + windows.origin.0 + y * windows.stride;
        (row * x.width + windows.origin.1 + column * windows.stride) * x.pixel()
    }
}

impl Windows {
    /// Every pixel of `x` by itself: a linear layer.
    pub(crate) fn all(x: &Operand) -> Self {
        Self::inside(x, Border::default())
    }

    /// Every pixel of `x` by itself, but for those of its border.
    pub(crate) fn inside(x: &Operand, border: Border) -> Self {
        let less = |side: usize| side.saturating_sub(border.near + border.far);
        let origin = (border.near, border.near);
        Self { height: less(x.height), width: less(x.width), stride: 1, origin, scatter: None }
    }

    /// Windows of `kernel`² pixels, `stride` apart, that fit into `x`.
    pub(crate) fn sliding(x: &Operand, kernel: usize, stride: usize) -> Self {
        let count = |side: usize| side.checked_sub(kernel).map_or(0, |room| room / stride + 1);
        let (height, width) = (count(x.height), count(x.width));
        Self { height, width, stride, origin: (0, 0), scatter: None }
    }
}

/// Computes all sums and hands each tile over once.
fn product(terms: &[Term<'_>], finish: impl Fn(Done<'_>) + Sync) -> Result<()> {
    let Term { w, windows, .. } = terms[0];
    for term in terms {
        term.check(&terms[0]);
    }
    let total = terms[0].rows();
    if total == 0 {
        return Ok(());
    }
    let kind = if w.shape.kernel == 1 { KernelKind::Linear } else { KernelKind::Convolution };
    let depth = terms.iter().map(Term::depth).sum();
    let _clock = counters::begin(kind, &[total, w.shape.outputs, depth]);
    let kernels = |term: &Term<'_>| microkernel::kernels(term.factors(), Instructions::used());
    let kernels: Vec<_> = terms.iter().map(kernels).collect();
    let blocks: Vec<Block> = (0..terms.len()).flat_map(|i| blocks(i, &terms[i])).collect();
    let cuts = total.div_ceil(TASK);
    let rows = total.div_ceil(cuts).next_multiple_of(ROWS);
    let cuts = total.div_ceil(rows);
    // Few rows: cut the panels too, so that every thread gets some.
    let panels = w.panels();
    let groups = (4 * rayon::current_num_threads()).div_ceil(cuts).clamp(1, panels);
    let group = panels.div_ceil(groups);
    (0..cuts * groups).into_par_iter().try_for_each_init(
        || (Buffer::new(rows * COLUMNS), Vec::new()),
        |(sums, room), task| {
            let sums = had(sums)?.floats_mut();
            let start = task / groups * rows;
            let end = total.min(start + rows);
            let tiles = || (start..end).step_by(ROWS);
            let places: Vec<Place> =
                tiles().map(|first| Place::new(&windows, first, end)).collect();
            // Rows beyond the end repeat the last one; nobody reads their sums.
            let offsets = |term: &Term<'_>| -> Vec<[usize; ROWS]> {
                let row = |first: usize, r: usize| term.offset((first + r).min(end - 1));
                let tile = |first| std::array::from_fn(|r| row(first, r));
                tiles().map(tile).collect()
            };
            let offsets: Vec<_> = terms.iter().map(offsets).collect();
            let first = task % groups * group;
            for panel in first..(first + group).min(panels) {
                for (b, block) in blocks.iter().enumerate() {
                    let Term { x, w, .. } = terms[block.term];
                    let parts = w.parts(panel);
                    let of = (terms[block.term].factors(), w.vectors(panel) / parts);
                    let kernel = kernels[block.term][of.1 - 1];
                    let unpacked = w.unpacked(panel, (block.from, block.words), room);
                    for part in 0..parts {
                        let weights = unpacked.unwrap_or_else(|| w.block(panel, part, block.from));
                        let tiles = sums.chunks_exact_mut(ROWS * COLUMNS);
                        let tiles = tiles.zip(&offsets[block.term]).zip(&places);
                        for ((sums, offsets), place) in tiles {
                            let rows = offsets.map(|at| &x.words()[at..]);
                            let out = &mut sums[part * LANES..];
                            let to = Sums { out, stride: COLUMNS, add: b > 0 };
                            let tile = Tile::over(rows, &block.segments, weights, to, of);
                            // SAFETY: the windows fit into the operand, the panel holds the words of the
                            // block, and the sums are this thread's own.
                            #[allow(unsafe_code)]
                            unsafe {
                                kernel(tile);
                            }
                            if (b + 1, part + 1) == (blocks.len(), parts) {
                                let (pixels, samples) =
                                    (&place.pixels[..place.count], &place.samples[..place.count]);
                                finish(Done { sums, pixels, samples, panel });
                            }
                        }
                    }
                }
            }
            Ok(())
        },
    )
}

/// What a thread works in, if it got it.
pub(in crate::kernels) fn had<T>(scratch: &mut Result<T>) -> Result<&mut T> {
    scratch.as_mut().map_err(|error| match error {
        Error::Memory { what, bytes } => Error::Memory { what, bytes: *bytes },
        other => Error::Internal(other.to_string()),
    })
}

/// Words of the weights that are summed at once.
pub(in crate::kernels) fn depth(factors: TileTypes) -> usize {
    DEPTH / factors.row_words()
}

impl Place {
    /// Rows `first..` of all windows, six at most and below `end`.
    fn new(windows: &Windows, first: usize, end: usize) -> Self {
        let count = ROWS.min(end - first);
        let mut place = Self { pixels: [0; ROWS], samples: [0; ROWS], count };
        for r in 0..count {
            let index = first + r;
            let (line, column) = (index / windows.width, index % windows.width);
            place.samples[r] = line / windows.height;
            place.pixels[r] = match windows.scatter {
                None => index,
                Some((dy, dx)) => (2 * line + dy) * 2 * windows.width + 2 * column + dx,
            };
        }
        place
    }
}

/// The depth of term `index` in pieces that are summed at once.
fn blocks(index: usize, term: &Term<'_>) -> Vec<Block> {
    let Term { x, w, .. } = term;
    let (side, words, factors) = (w.side, w.tap(), term.factors());
    let depth = depth(factors);
    let mut blocks: Vec<Block> = Vec::new();
    let mut room = 0;
    for tap in 0..side * side {
        let shift = (tap / side * x.width + tap % side) * x.pixel();
        let mut done = 0;
        while done < words {
            // A tap is only cut when it is longer than a block.
            let whole = words - done;
            if room == 0 || (room < whole && whole <= depth) {
                let from = tap * words + done;
                blocks.push(Block { term: index, segments: Vec::new(), from, words: 0 });
                room = depth;
            }
            let count = whole.min(room);
            if let Some(block) = blocks.last_mut() {
                let shift = shift + factors.row_words() * done;
                block.segments.push(Segment { shift, words: count });
                block.words += count;
            }
            room -= count;
            done += count;
        }
    }
    blocks
}

const _: () = assert!(COLUMNS == 4 * LANES);
