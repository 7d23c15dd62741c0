//! Attention in tiles with a running softmax: no N × N matrix, nothing leaves the cache.

use crate::error::Result;
use crate::kernels::activation::feature_map::FeatureMap;
use crate::kernels::measure::counters::{self, KernelKind};
use crate::kernels::memory::arena::Buffer;
use crate::kernels::memory::shared::Shared;
use crate::kernels::product::multiply::had;
use crate::kernels::simd::microkernel::{
    self, COLUMNS, Kernel, LANES, ROWS, Segment, Sums, Tile, TileTypes,
};
use crate::kernels::simd::precision::{Precision, round};
use crate::kernels::simd::processor::Instructions;
use crate::kernels::simd::vector::{
    maximum, powers, powers_halves, scale_by, scaled, scaled_halves,
};
use rayon::prelude::*;
use std::ops::Range;

/// Keys looked at together: their packed keys and values stay in the second-level cache.
const KEYS: usize = 512;
/// Queries of one task.
const QUERIES: usize = 16 * ROWS;
/// Queries that are multiplied with the same few keys, which then stay in the first-level cache, where tiles
/// are too narrow to make up for reading all keys for six.
const TOGETHER: usize = 8 * ROWS;

/// How an attention is divided, and who sees whom.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Heads {
    pub(crate) count: usize,
    /// Whether each query sees only the keys up to its own place.
    pub(crate) causal: bool,
}

/// softmax(q·kᵀ/√K)·v over all heads, Milakov and Gimelshein (2018) for the running softmax.
///
/// `q`: tokens `[B, N, D]`; `k`, `v`: `[B, T, D]`. Returns `[B, N, D]`. In bf16 queries, keys, values and
/// weights of the average are rounded; scores and sums are f32.
///
/// # Errors
/// [`Error::Memory`](crate::Error::Memory).
pub(crate) fn attention(
    q: &FeatureMap,
    k: &FeatureMap,
    v: &FeatureMap,
    how: Heads,
    precision: Precision,
) -> Result<FeatureMap> {
    let heads = how.count;
    let fits = k.pixels() == v.pixels() && [k, v].iter().all(|m| m.batch == q.batch);
    let whole = heads > 0 && q.channels.is_multiple_of(heads);
    assert!(fits && whole && k.pixels() > 0, "shapes of an attention");
    assert_eq!((k.channels, v.channels), (q.channels, q.channels), "widths of an attention");
    // Scores, and their average of the values.
    let _clock =
        counters::begin(KernelKind::Attention, &[2, q.batch, q.pixels(), k.pixels(), q.channels]);
    let sizes = Sizes::new(k.pixels(), q.channels / heads, precision);
    let packed = pack(k, v, heads, &sizes)?;
    let (queries, stride) = (q.pixels(), q.channels);
    let tiles = queries.div_ceil(QUERIES);
    let kernels = microkernel::kernels(TileTypes::of(precision, precision), Instructions::used());
    FeatureMap::try_filled((q.batch, q.height, q.width, stride), |out| {
        let target = Shared::new(out);
        (0..q.batch * heads * tiles).into_par_iter().try_for_each_init(
            || Scratch::new(&sizes),
            |scratch, task| {
                let scratch = had(scratch)?;
                let (head, start) = (task / tiles, task % tiles * QUERIES);
                let count = QUERIES.min(queries - start);
                let first = (head / heads * queries + start) * stride + head % heads * sizes.width;
                let head = &packed.words()[head * sizes.head()..][..sizes.head()];
                let (keys, values) = head.split_at(sizes.keys_words());
                let place = how.causal.then_some(start);
                let task = Task { kernels, sizes, keys, values, count, place };
                task.run(&q.values()[first..], stride, scratch);
                for (i, sum) in scratch.sums[..count].iter().enumerate() {
                    // SAFETY: these columns of these rows are this task's own and lie inside `out`.
                    #[allow(unsafe_code)]
                    let out = unsafe { target.part(first + i * stride, sizes.width) };
                    let row = &scratch.out.floats()[i * sizes.padded_width()..][..sizes.width];
                    scaled(row, 1.0 / sum, out);
                }
                Ok(())
            },
        )
    })
}

/// Sizes of one head.
#[derive(Debug, Clone, Copy)]
struct Sizes {
    /// Keys.
    keys: usize,
    /// Numbers of a query, a key, a value.
    width: usize,
    precision: Precision,
    /// Columns of a panel.
    panel: usize,
    /// Queries that are multiplied with a panel before the next.
    together: usize,
}

impl Sizes {
    fn new(keys: usize, width: usize, precision: Precision) -> Self {
        let narrow = Instructions::used().is_narrow();
        let (panel, together) = if narrow { (LANES, TOGETHER) } else { (COLUMNS, ROWS) };
        Self { keys, width, precision, panel, together }
    }

    fn factors(&self) -> TileTypes {
        TileTypes::of(self.precision, self.precision)
    }

    /// Words of a query.
    fn query(&self) -> usize {
        self.precision.words(self.width)
    }

    fn padded_keys(&self) -> usize {
        self.keys.next_multiple_of(LANES)
    }

    fn padded_width(&self) -> usize {
        self.width.next_multiple_of(LANES)
    }

    fn keys_words(&self) -> usize {
        self.query() * self.padded_keys()
    }

    fn values_words(&self) -> usize {
        self.precision.words(self.keys) * self.padded_width()
    }

    /// Words of a packed head: its keys, then its values.
    fn head(&self) -> usize {
        self.keys_words() + self.values_words()
    }
}

/// Keys as panels `[words of a query, keys of a panel]`, values as panels `[words of the keys, columns of a
/// panel]`.
fn pack(k: &FeatureMap, v: &FeatureMap, heads: usize, sizes: &Sizes) -> Result<Buffer> {
    let mut buffer = Buffer::new(k.batch * heads * sizes.head())?;
    let (keys, stride) = (sizes.keys, k.channels);
    buffer.words_mut().par_chunks_mut(sizes.head()).enumerate().for_each(|(index, out)| {
        let first = index / heads * keys * stride + index % heads * sizes.width;
        let (out_k, out_v) = out.split_at_mut(sizes.keys_words());
        let number = |map: &FeatureMap, key: usize, i: usize| -> f32 {
            if key < keys && i < sizes.width { map.values()[first + key * stride + i] } else { 0.0 }
        };
        panels(out_k, sizes.padded_keys(), sizes.query(), sizes.panel, |key, word| {
            word_of(sizes.precision, word, |i| number(k, key, i))
        });
        let depth = sizes.precision.words(keys);
        panels(out_v, sizes.padded_width(), depth, sizes.panel, |i, word| {
            word_of(sizes.precision, word, |key| number(v, key, i))
        });
    });
    Ok(buffer)
}

/// Fills panels of up to `panel` of `columns`, each `depth` words deep.
fn panels(
    out: &mut [u32],
    columns: usize,
    depth: usize,
    panel: usize,
    word: impl Fn(usize, usize) -> u32,
) {
    for (index, out) in out.chunks_mut((panel * depth).max(1)).enumerate() {
        let first = index * panel;
        let lanes = panel.min(columns - first);
        for (row, out) in out.chunks_exact_mut(lanes).enumerate() {
            for (lane, out) in out.iter_mut().enumerate() {
                *out = word(first + lane, row);
            }
        }
    }
}

#[allow(clippy::inline_always)]
#[inline(always)]
fn word_of(precision: Precision, word: usize, number: impl Fn(usize) -> f32) -> u32 {
    match precision {
        Precision::F32 => number(word).to_bits(),
        Precision::Bf16 => {
            u32::from(round(number(2 * word))) | u32::from(round(number(2 * word + 1))) << 16
        }
    }
}

/// What one thread works in.
struct Scratch {
    /// `[queries, words]`.
    queries: Buffer,
    /// `[queries together, KEYS]`.
    scores: Box<[f32]>,
    /// `[queries together, words of KEYS]`.
    weights: Box<[u32]>,
    highest: [f32; QUERIES],
    sums: [f32; QUERIES],
    /// `[queries, padded width]`.
    out: Buffer,
}

impl Scratch {
    fn new(sizes: &Sizes) -> Result<Self> {
        Ok(Self {
            queries: Buffer::new(QUERIES * sizes.query())?,
            scores: vec![0.0; sizes.together * KEYS].into(),
            weights: vec![0; sizes.together * sizes.precision.words(KEYS)].into(),
            highest: [0.0; QUERIES],
            sums: [0.0; QUERIES],
            out: Buffer::new(QUERIES * sizes.padded_width())?,
        })
    }
}

/// Some queries of one head of one sample.
struct Task<'a> {
    kernels: [Kernel; 4],
    sizes: Sizes,
    keys: &'a [u32],
    values: &'a [u32],
    count: usize,
    /// Place of the first query, when later keys are hidden.
    place: Option<usize>,
}

impl Task<'_> {
    /// Leaves averages in `scratch.out`, to be divided by `scratch.sums`.
    fn run(&self, q: &[f32], stride: usize, scratch: &mut Scratch) {
        let sizes = &self.sizes;
        // Powers of two are cheaper than those of e.
        let scale = std::f32::consts::LOG2_E / (sizes.width as f32).sqrt();
        for (i, words) in scratch.queries.words_mut().chunks_exact_mut(sizes.query()).enumerate() {
            if i >= self.count {
                words.fill(0);
                continue;
            }
            let row = &q[i * stride..][..sizes.width];
            match sizes.precision {
                Precision::F32 => scaled(row, scale, bytemuck::cast_slice_mut(words)),
                Precision::Bf16 => scaled_halves(row, scale, bytemuck::cast_slice_mut(words)),
            }
        }
        scratch.highest.fill(f32::NEG_INFINITY);
        scratch.sums.fill(0.0);
        scratch.out.floats_mut().fill(0.0);
        for start in (0..sizes.keys).step_by(KEYS) {
            let keys = start..sizes.keys.min(start + KEYS);
            for first in (0..self.count).step_by(sizes.together) {
                let rows = (self.count - first).min(sizes.together).next_multiple_of(ROWS);
                self.score(keys.clone(), first, rows, scratch);
                self.weigh(keys.clone(), first, rows, scratch);
                self.average(keys.clone(), first, rows, scratch);
            }
        }
    }

    /// Scores of `rows` queries from `first` on for `keys`.
    #[allow(unsafe_code)]
    fn score(&self, keys: Range<usize>, first: usize, rows: usize, scratch: &mut Scratch) {
        let sizes = &self.sizes;
        let query = sizes.query();
        let segment = [Segment { shift: 0, words: query }];
        let queries = scratch.queries.words();
        for key in keys.clone().step_by(sizes.panel) {
            let lanes = sizes.panel.min(sizes.padded_keys() - key);
            for row in (0..rows).step_by(ROWS) {
                let rows = std::array::from_fn(|r| &queries[(first + row + r) * query..]);
                let out = &mut scratch.scores[row * KEYS + key - keys.start..];
                let sums = Sums { out, stride: KEYS, add: false };
                let of = (sizes.factors(), lanes / LANES);
                let tile = Tile::over(rows, &segment, &self.keys[key * query..], sums, of);
                // SAFETY: the panel is `query` words deep, and six rows of scores hold all its lanes.
                unsafe { self.kernels[lanes / LANES - 1](tile) };
            }
        }
    }

    /// What those scores weigh, against the highest score so far.
    fn weigh(&self, keys: Range<usize>, first: usize, rows: usize, scratch: &mut Scratch) {
        let sizes = &self.sizes;
        let words = sizes.precision.words(keys.len());
        let room = sizes.precision.words(KEYS);
        for r in 0..rows {
            let scores = &mut scratch.scores[r * KEYS..][..keys.len()];
            if let Some(place) = self.place {
                let seen = (place + first + r + 1).saturating_sub(keys.start).min(keys.len());
                scores[seen..].fill(f32::NEG_INFINITY);
            }
            let before = scratch.highest[first + r];
            let highest = maximum(scores).max(before);
            let weights = &mut scratch.weights[r * room..][..words];
            let sum = match sizes.precision {
                Precision::F32 => powers(scores, highest, bytemuck::cast_slice_mut(weights)),
                Precision::Bf16 => {
                    let halves: &mut [u16] = bytemuck::cast_slice_mut(weights);
                    halves[keys.len()..].fill(0);
                    powers_halves(scores, highest, halves)
                }
            };
            let shrink = (before - highest).exp2();
            scratch.highest[first + r] = highest;
            scratch.sums[first + r] = scratch.sums[first + r] * shrink + sum;
            if keys.start > 0 && shrink < 1.0 {
                let width = sizes.padded_width();
                scale_by(&mut scratch.out.floats_mut()[(first + r) * width..][..width], shrink);
            }
        }
    }

    /// Adds the weighted values of `keys`.
    #[allow(unsafe_code)]
    fn average(&self, keys: Range<usize>, first: usize, rows: usize, scratch: &mut Scratch) {
        let sizes = &self.sizes;
        let words = |count| sizes.precision.words(count);
        let segment = [Segment { shift: 0, words: words(keys.len()) }];
        let (room, depth, width) = (words(KEYS), words(sizes.keys), sizes.padded_width());
        for column in (0..width).step_by(sizes.panel) {
            let lanes = sizes.panel.min(width - column);
            let panel = column * depth + words(keys.start) * lanes;
            for row in (0..rows).step_by(ROWS) {
                let weights = &scratch.weights;
                let rows = std::array::from_fn(|r| &weights[(row + r) * room..]);
                let out = &mut scratch.out.floats_mut()[(first + row) * width + column..];
                let sums = Sums { out, stride: width, add: true };
                let of = (sizes.factors(), lanes / LANES);
                let tile = Tile::over(rows, &segment, &self.values[panel..], sums, of);
                // SAFETY: the panel holds the words of these keys, and `out` six rows of all lanes.
                unsafe { self.kernels[lanes / LANES - 1](tile) };
            }
        }
    }
}

const _: () = assert!(
    KEYS.is_multiple_of(COLUMNS) && QUERIES.is_multiple_of(ROWS) && TOGETHER.is_multiple_of(ROWS)
);
