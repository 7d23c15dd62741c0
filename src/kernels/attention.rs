//! Floor 1. Attention in tiles with a running softmax: no N × N matrix, nothing leaves the cache.

use super::Shared;
use super::arena::Buffer;
use super::map::Map;
use super::micro::{self, COLUMNS, Kernel, LANES, ROWS, Segment, Tile};
use super::packed::{Precision, round};
use super::processor::Instructions;
use super::vector::{maximum, powers, powers_halves, scale_by, scaled, scaled_halves};
use super::work::{self, KernelKind};
use rayon::prelude::*;

/// Keys looked at together: their packed keys and values stay in the second-level cache.
const KEYS: usize = 512;
/// Queries of one task.
const QUERIES: usize = 16 * ROWS;

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
pub(crate) fn attention(q: &Map, k: &Map, v: &Map, how: Heads, precision: Precision) -> Map {
    let heads = how.count;
    let fits = k.pixels() == v.pixels() && [k, v].iter().all(|m| m.batch == q.batch);
    let whole = heads > 0 && q.channels.is_multiple_of(heads);
    assert!(fits && whole && k.pixels() > 0, "shapes of an attention");
    assert_eq!((k.channels, v.channels), (q.channels, q.channels), "widths of an attention");
    // Scores, and their average of the values.
    let _clock =
        work::begin(KernelKind::Attention, &[2, q.batch, q.pixels(), k.pixels(), q.channels]);
    let sizes = Sizes::new(k.pixels(), q.channels / heads, precision);
    let packed = pack(k, v, heads, &sizes);
    let (queries, stride) = (q.pixels(), q.channels);
    let tiles = queries.div_ceil(QUERIES);
    let kernels = micro::kernels(precision, Instructions::used());
    Map::filled((q.batch, q.height, q.width, stride), |out| {
        let target = Shared(out.as_mut_ptr());
        (0..q.batch * heads * tiles).into_par_iter().for_each_init(
            || Scratch::new(&sizes),
            |scratch, task| {
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
                    let out = unsafe {
                        let row = target.add(first + i * stride).0;
                        std::slice::from_raw_parts_mut(row, sizes.width)
                    };
                    let row = &scratch.out.floats()[i * sizes.padded_width()..][..sizes.width];
                    scaled(row, 1.0 / sum, out);
                }
            },
        );
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
}

impl Sizes {
    fn new(keys: usize, width: usize, precision: Precision) -> Self {
        Self { keys, width, precision }
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

/// Keys as panels `[words of a query, 64 keys]`, values as panels `[words of the keys, 64 columns]`.
fn pack(k: &Map, v: &Map, heads: usize, sizes: &Sizes) -> Buffer {
    let mut buffer = Buffer::new(k.batch * heads * sizes.head());
    let (keys, stride) = (sizes.keys, k.channels);
    buffer.words_mut().par_chunks_mut(sizes.head()).enumerate().for_each(|(index, out)| {
        let first = index / heads * keys * stride + index % heads * sizes.width;
        let (out_k, out_v) = out.split_at_mut(sizes.keys_words());
        let number = |map: &Map, key: usize, i: usize| -> f32 {
            if key < keys && i < sizes.width { map.values()[first + key * stride + i] } else { 0.0 }
        };
        panels(out_k, sizes.padded_keys(), sizes.query(), |key, word| {
            word_of(sizes.precision, word, |i| number(k, key, i))
        });
        panels(out_v, sizes.padded_width(), sizes.precision.words(keys), |i, word| {
            word_of(sizes.precision, word, |key| number(v, key, i))
        });
    });
    buffer
}

/// Fills panels of up to 64 of `columns`, each `depth` words deep.
fn panels(out: &mut [u32], columns: usize, depth: usize, word: impl Fn(usize, usize) -> u32) {
    for (panel, out) in out.chunks_mut((COLUMNS * depth).max(1)).enumerate() {
        let lanes = COLUMNS.min(columns - panel * COLUMNS);
        for (row, out) in out.chunks_exact_mut(lanes).enumerate() {
            for (lane, out) in out.iter_mut().enumerate() {
                *out = word(panel * COLUMNS + lane, row);
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
    /// `[6, KEYS]`.
    scores: Box<[f32]>,
    /// `[6, words of KEYS]`.
    weights: Box<[u32]>,
    highest: [f32; QUERIES],
    sums: [f32; QUERIES],
    /// `[queries, padded width]`.
    out: Buffer,
}

impl Scratch {
    fn new(sizes: &Sizes) -> Self {
        Self {
            queries: Buffer::new(QUERIES * sizes.query()),
            scores: vec![0.0; ROWS * KEYS].into(),
            weights: vec![0; ROWS * sizes.precision.words(KEYS)].into(),
            highest: [0.0; QUERIES],
            sums: [0.0; QUERIES],
            out: Buffer::new(QUERIES * sizes.padded_width()),
        }
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
            for first in (0..self.count).step_by(ROWS) {
                self.tile(start, first, scratch);
            }
        }
    }

    /// Six queries and up to [`KEYS`] keys.
    #[allow(unsafe_code)]
    fn tile(&self, start: usize, first: usize, scratch: &mut Scratch) {
        let sizes = &self.sizes;
        let count = KEYS.min(sizes.keys - start);
        let query = sizes.query();
        let segment = [Segment { shift: 0, words: query }];
        let rows = std::array::from_fn(|r| scratch.queries.words()[(first + r) * query..].as_ptr());
        for column in (0..count).step_by(COLUMNS) {
            let key = start + column;
            let lanes = COLUMNS.min(sizes.padded_keys() - key);
            let tile = Tile {
                rows,
                segments: &segment,
                weights: self.keys[key * query..].as_ptr(),
                out: scratch.scores[column..].as_mut_ptr(),
                stride: KEYS,
                add: false,
            };
            // SAFETY: the panel is `query` words deep, and six rows of scores hold all its lanes.
            unsafe { self.kernels[lanes / LANES - 1](tile) };
        }
        let words = sizes.precision.words(count);
        let room = sizes.precision.words(KEYS);
        for r in 0..ROWS {
            let scores = &mut scratch.scores[r * KEYS..][..count];
            if let Some(place) = self.place {
                let seen = (place + first + r + 1).saturating_sub(start).min(count);
                scores[seen..].fill(f32::NEG_INFINITY);
            }
            let before = scratch.highest[first + r];
            let highest = maximum(scores).max(before);
            let weights = &mut scratch.weights[r * room..][..words];
            let sum = match sizes.precision {
                Precision::F32 => powers(scores, highest, bytemuck::cast_slice_mut(weights)),
                Precision::Bf16 => {
                    let halves: &mut [u16] = bytemuck::cast_slice_mut(weights);
                    halves[count..].fill(0);
                    powers_halves(scores, highest, halves)
                }
            };
            let shrink = (before - highest).exp2();
            scratch.highest[first + r] = highest;
            scratch.sums[first + r] = scratch.sums[first + r] * shrink + sum;
            if start > 0 && shrink < 1.0 {
                let width = sizes.padded_width();
                scale_by(&mut scratch.out.floats_mut()[(first + r) * width..][..width], shrink);
            }
        }
        let segment = [Segment { shift: 0, words }];
        let rows = std::array::from_fn(|r| scratch.weights[r * room..].as_ptr());
        let depth = sizes.precision.words(sizes.keys);
        for column in (0..sizes.padded_width()).step_by(COLUMNS) {
            let lanes = COLUMNS.min(sizes.padded_width() - column);
            let panel = column * depth + sizes.precision.words(start) * lanes;
            let tile = Tile {
                rows,
                segments: &segment,
                weights: self.values[panel..].as_ptr(),
                out: scratch.out.floats_mut()[first * sizes.padded_width() + column..].as_mut_ptr(),
                stride: sizes.padded_width(),
                add: true,
            };
            // SAFETY: the panel holds the words of these keys, and `out` six rows of all lanes.
            unsafe { self.kernels[lanes / LANES - 1](tile) };
        }
    }
}

const _: () = assert!(KEYS.is_multiple_of(COLUMNS) && QUERIES.is_multiple_of(ROWS));
