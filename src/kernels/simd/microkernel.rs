//! The innermost product: six rows of the input times up to 64 columns of a packed weight.
//!
//! Rows are read where they lie, because neighbouring channels are what one instruction multiplies;
//! only weights are packed. Six rows times four vectors fill 24 of the 32 vector registers.

#[cfg(target_arch = "aarch64")]
mod arm;
#[cfg(target_arch = "x86_64")]
mod x86;

use crate::kernels::simd::precision::Precision;
use crate::kernels::simd::processor::Instructions;

/// Rows of a tile.
pub(in crate::kernels) const ROWS: usize = 6;
/// Columns of a vector.
pub(in crate::kernels) const LANES: usize = 16;
/// Columns of a tile at most: four vectors.
pub(in crate::kernels) const COLUMNS: usize = 4 * LANES;

/// A stretch of words that lies together in every row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::kernels) struct Segment {
    /// Words of the row from its first.
    pub(in crate::kernels) shift: usize,
    /// Words of the weights.
    pub(in crate::kernels) words: usize,
}

/// What the numbers of a product are. A word is an f32, or two bf16 of which the lower half comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::kernels) enum TileTypes {
    /// Rows and weights in f32.
    Floats,
    /// Rows and weights in bf16.
    Halves,
    /// Rows in f32 and weights in bf16: two words of a row for one of the weights.
    Mixed,
}

impl TileTypes {
    /// For rows and weights of these precisions. Rows in bf16 with weights in f32 do not occur.
    pub(in crate::kernels) fn of(rows: Precision, weights: Precision) -> Self {
        match (rows, weights) {
            (Precision::F32, Precision::F32) => Self::Floats,
            (Precision::F32, Precision::Bf16) => Self::Mixed,
            (Precision::Bf16, _) => {
                assert_eq!(weights, Precision::Bf16, "weights of rows in bf16");
                Self::Halves
            }
        }
    }

    /// Words of a row that one word of the weights is multiplied with.
    pub(in crate::kernels) fn row_words(self) -> usize {
        if self == Self::Mixed { 2 } else { 1 }
    }
}

/// One product.
#[derive(Clone, Copy)]
pub(in crate::kernels) struct Tile<'a> {
    /// First word of each row.
    rows: [*const u32; ROWS],
    segments: &'a [Segment],
    /// `[words of all segments, 16 · vectors]`.
    weights: *const u32,
    /// `[6, 16 · vectors]`, rows `stride` apart.
    out: *mut f32,
    stride: usize,
    /// Whether to add to what `out` holds.
    add: bool,
}

/// Where a tile goes.
pub(in crate::kernels) struct Sums<'a> {
    /// From the tile's first sum on.
    pub(in crate::kernels) out: &'a mut [f32],
    /// Sums from row to row.
    pub(in crate::kernels) stride: usize,
    /// Whether to add to what is there.
    pub(in crate::kernels) add: bool,
}

impl<'a> Tile<'a> {
    /// The tile of these rows and weights for the kernel of `factors` with so many `vectors`. Tests and debug builds
    /// hold everything to be as long as that kernel reads and writes.
    #[allow(clippy::inline_always)]
    #[inline(always)]
    pub(in crate::kernels) fn over(
        rows: [&'a [u32]; ROWS],
        segments: &'a [Segment],
        weights: &'a [u32],
        sums: Sums<'a>,
        (factors, vectors): (TileTypes, usize),
    ) -> Self {
        let Sums { out, stride, add } = sums;
        #[cfg(any(test, debug_assertions))]
        {
            let words: usize = segments.iter().map(|segment| segment.words).sum();
            let end = |segment: &Segment| segment.shift + segment.words * factors.row_words();
            let row = segments.iter().map(end).max().unwrap_or(0);
            assert!(rows.iter().all(|words| words.len() >= row), "rows of a tile");
            assert!(weights.len() >= words * vectors * LANES, "weights of a tile");
            let all = (ROWS - 1) * stride + vectors * LANES;
            assert!(out.len() >= all && stride >= vectors * LANES, "sums of a tile");
        }
        let _ = (factors, vectors);
        Self {
            rows: rows.map(<[u32]>::as_ptr),
            segments,
            weights: weights.as_ptr(),
            out: out.as_mut_ptr(),
            stride,
            add,
        }
    }
}

/// Computes a tile of so many vectors.
pub(in crate::kernels) type Kernel = for<'a> unsafe fn(Tile<'a>);

/// The kernels for 1 to 4 vectors.
pub(in crate::kernels) fn kernels(factors: TileTypes, set: Instructions) -> [Kernel; 4] {
    #[cfg(target_arch = "x86_64")]
    match (factors, set) {
        (TileTypes::Halves, Instructions::Avx512Bf16) => {
            return [x86::bf16::<1>, x86::bf16::<2>, x86::bf16::<3>, x86::bf16::<4>];
        }
        (TileTypes::Floats, Instructions::Avx512 | Instructions::Avx512Bf16) => {
            return [x86::wide::<1>, x86::wide::<2>, x86::wide::<3>, x86::wide::<4>];
        }
        (TileTypes::Mixed, Instructions::Avx512 | Instructions::Avx512Bf16) => {
            return [
                x86::wide_mixed::<1>,
                x86::wide_mixed::<2>,
                x86::wide_mixed::<3>,
                x86::wide_mixed::<4>,
            ];
        }
        (TileTypes::Floats, Instructions::Avx2) => {
            return [x86::medium::<1>, x86::medium::<2>, x86::medium::<3>, x86::medium::<4>];
        }
        (TileTypes::Mixed, Instructions::Avx2) => {
            return [
                x86::medium_mixed::<1>,
                x86::medium_mixed::<2>,
                x86::medium_mixed::<3>,
                x86::medium_mixed::<4>,
            ];
        }
        // Without products of bf16 pairs rows are in bf16 only where channels are odd.
        (TileTypes::Halves, _) | (_, Instructions::Portable | Instructions::Neon) => {}
    }
    #[cfg(target_arch = "aarch64")]
    match (factors, set) {
        (TileTypes::Floats, Instructions::Neon) => {
            return [arm::floats::<1>, arm::floats::<2>, arm::floats::<3>, arm::floats::<4>];
        }
        (TileTypes::Mixed, Instructions::Neon) => {
            return [arm::mixed::<1>, arm::mixed::<2>, arm::mixed::<3>, arm::mixed::<4>];
        }
        _ => {}
    }
    let _ = set;
    match factors {
        TileTypes::Floats => [floats::<1>, floats::<2>, floats::<3>, floats::<4>],
        TileTypes::Halves => [halves::<1>, halves::<2>, halves::<3>, halves::<4>],
        TileTypes::Mixed => [mixed::<1>, mixed::<2>, mixed::<3>, mixed::<4>],
    }
}

/// # Safety
/// Every row is valid for all segments, `weights` for their words, `out` for six rows; nobody else
/// touches `out` meanwhile. Holds for every kernel of this module.
#[allow(unsafe_code)]
unsafe fn floats<const V: usize>(tile: Tile<'_>) {
    let product = |[x]: [u32; 1], w: u32, sum: f32| f32::from_bits(x) * f32::from_bits(w) + sum;
    // SAFETY: the caller's promise.
    unsafe { portable::<V, 1>(tile, product) };
}

/// The same for pairs of bf16.
#[allow(unsafe_code)]
unsafe fn halves<const V: usize>(tile: Tile<'_>) {
    let product = |[x]: [u32; 1], w: u32, sum: f32| low(x) * low(w) + (high(x) * high(w) + sum);
    // SAFETY: the caller's promise.
    unsafe { portable::<V, 1>(tile, product) };
}

/// The same for rows of f32 and weights in pairs of bf16.
#[allow(unsafe_code)]
unsafe fn mixed<const V: usize>(tile: Tile<'_>) {
    let product = |[first, second]: [u32; 2], w: u32, sum: f32| {
        f32::from_bits(second) * high(w) + (f32::from_bits(first) * low(w) + sum)
    };
    // SAFETY: the caller's promise.
    unsafe { portable::<V, 2>(tile, product) };
}

/// The number in the lower half of a word.
fn low(word: u32) -> f32 {
    f32::from_bits(word << 16)
}

/// The number in the upper half of a word.
fn high(word: u32) -> f32 {
    f32::from_bits(word & 0xffff_0000)
}

/// Loops that compilers turn into vector code for the build's own target; `X` words of a row for one of
/// the weights.
#[allow(unsafe_code, clippy::inline_always)]
#[inline(always)]
unsafe fn portable<const V: usize, const X: usize>(
    tile: Tile<'_>,
    product: impl Fn([u32; X], u32, f32) -> f32,
) {
    // Two rows at a time: narrow processors have registers for no more.
    for pair in 0..ROWS / 2 {
        for vector in 0..V {
            let mut sums = [[0f32; LANES]; 2];
            let mut weights = tile.weights.wrapping_add(vector * LANES);
            for segment in tile.segments {
                for k in 0..segment.words {
                    let at = segment.shift + X * k;
                    // SAFETY: the caller's promise.
                    let (w, x) = unsafe {
                        let row = |r: usize| *tile.rows[2 * pair + r].add(at).cast::<[u32; X]>();
                        (&*weights.cast::<[u32; LANES]>(), [row(0), row(1)])
                    };
                    for (sums, x) in sums.iter_mut().zip(x) {
                        for (sum, w) in sums.iter_mut().zip(w) {
                            *sum = product(x, *w, *sum);
                        }
                    }
                    weights = weights.wrapping_add(V * LANES);
                }
            }
            for (r, sums) in sums.iter().enumerate() {
                // SAFETY: the caller's promise.
                let out = unsafe {
                    let at = (2 * pair + r) * tile.stride + vector * LANES;
                    &mut *tile.out.add(at).cast::<[f32; LANES]>()
                };
                for (out, sum) in out.iter_mut().zip(sums) {
                    *out = if tile.add { *out + sum } else { *sum };
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [TileTypes; 3] = [TileTypes::Floats, TileTypes::Halves, TileTypes::Mixed];

    /// Small numbers that bf16 holds exactly.
    fn number(i: usize, step: usize) -> f32 {
        ((i * step % 17) as f32 - 8.0) / 4.0
    }

    fn words(precision: Precision, count: usize, step: usize) -> Vec<u32> {
        let word = |i: usize| match precision {
            Precision::F32 => number(i, step).to_bits(),
            Precision::Bf16 => {
                (number(2 * i, step).to_bits() >> 16) | number(2 * i + 1, step).to_bits()
            }
        };
        (0..count).map(word).collect()
    }

    /// Rows and weights of a product, and where the rows are read.
    struct Case {
        factors: TileTypes,
        rows: Vec<u32>,
        weights: Vec<u32>,
        segments: [Segment; 2],
    }

    /// Words between rows.
    const STRIDE: usize = 100;

    impl Case {
        fn new(factors: TileTypes) -> Self {
            let (x, w) = match factors {
                TileTypes::Floats => (Precision::F32, Precision::F32),
                TileTypes::Halves => (Precision::Bf16, Precision::Bf16),
                TileTypes::Mixed => (Precision::F32, Precision::Bf16),
            };
            assert_eq!(TileTypes::of(x, w), factors);
            let segments = [Segment { shift: 3, words: 20 }, Segment { shift: 46, words: 7 }];
            let (rows, weights) = (words(x, ROWS * STRIDE, 7), words(w, 27 * COLUMNS, 5));
            Self { factors, rows, weights, segments }
        }

        #[allow(unsafe_code)]
        fn run(&self, set: Instructions, vectors: usize, add: bool) -> Vec<f32> {
            let mut out = vec![1f32; ROWS * 70];
            let rows = std::array::from_fn(|r| &self.rows[r * STRIDE..]);
            let sums = Sums { out: &mut out, stride: 70, add };
            let of = (self.factors, vectors);
            let tile = Tile::over(rows, &self.segments, &self.weights, sums, of);
            // SAFETY: all buffers are large enough for both segments and the tile.
            unsafe { kernels(self.factors, set)[vectors - 1](tile) };
            out
        }

        /// One sum of a tile of four vectors, by hand.
        fn sum(&self, row: usize, column: usize) -> f64 {
            let mut sum = 0.0;
            let mut weights = self.weights.chunks_exact(COLUMNS);
            for segment in &self.segments {
                for (k, w) in (0..segment.words).zip(&mut weights) {
                    let x =
                        &self.rows[row * STRIDE + segment.shift + self.factors.row_words() * k..];
                    let w = w[column];
                    let f = f32::from_bits;
                    let products = match self.factors {
                        TileTypes::Floats => [(f(x[0]), f(w)), (0.0, 0.0)],
                        TileTypes::Halves => [(low(x[0]), low(w)), (high(x[0]), high(w))],
                        TileTypes::Mixed => [(f(x[0]), low(w)), (f(x[1]), high(w))],
                    };
                    sum += products.iter().map(|(x, w)| f64::from(*x) * f64::from(*w)).sum::<f64>();
                }
            }
            sum
        }
    }

    #[test]
    fn every_set_equals_the_portable_kernel() {
        for case in ALL.map(Case::new) {
            for set in Instructions::ALL {
                if !set.is_here() {
                    println!("skipped: this processor has no {}", set.name());
                    continue;
                }
                for vectors in 1..=4 {
                    for add in [false, true] {
                        let ours = case.run(set, vectors, add);
                        let plain = case.run(Instructions::Portable, vectors, add);
                        let worst = ours.iter().zip(&plain).map(|(a, b)| (a - b).abs());
                        let worst = worst.fold(0.0, f32::max);
                        assert!(worst < 1e-4, "{set:?} {:?} {vectors}: {worst}", case.factors);
                    }
                }
            }
        }
    }

    #[test]
    fn the_portable_kernels_sum_what_they_should() {
        for case in ALL.map(Case::new) {
            let out = case.run(Instructions::Portable, 4, false);
            for (row, column) in [(0, 0), (2, 9), (5, 63)] {
                let (found, sum) = (out[row * 70 + column], case.sum(row, column));
                assert!((f64::from(found) - sum).abs() < 1e-4, "{:?}: {found} {sum}", case.factors);
            }
        }
    }

    #[test]
    fn tiles_that_reach_too_far_are_found() {
        let case = Case::new(TileTypes::Mixed);
        let found = |row: usize, words: usize, out: usize| {
            let mut out = vec![0f32; out];
            let sums = Sums { out: &mut out, stride: COLUMNS, add: false };
            let rows = [&case.rows[..row]; ROWS];
            let of = (TileTypes::Mixed, 4);
            Tile::over(rows, &case.segments, &case.weights[..words], sums, of);
        };
        let (row, words, out) = (46 + 2 * 7, 27 * COLUMNS, ROWS * COLUMNS);
        found(row, words, out);
        for (row, words, out) in
            [(row - 1, words, out), (row, words - 1, out), (row, words, out - 1)]
        {
            assert!(std::panic::catch_unwind(|| found(row, words, out)).is_err());
        }
    }

    #[test]
    fn mixed_products_have_the_bits_of_widened_weights() {
        let mixed = Case::new(TileTypes::Mixed);
        let widened = mixed.weights.chunks_exact(COLUMNS).flat_map(|row| {
            let halves = [low, high].map(|half| row.iter().map(move |w| half(*w).to_bits()));
            halves.into_iter().flatten()
        });
        let segments = mixed.segments.map(|s| Segment { words: 2 * s.words, ..s });
        let floats = Case {
            factors: TileTypes::Floats,
            rows: mixed.rows.clone(),
            weights: widened.collect(),
            segments,
        };
        for set in Instructions::ALL.into_iter().filter(|set| set.is_here()) {
            assert_eq!(mixed.run(set, 4, false), floats.run(set, 4, false), "{set:?}");
        }
    }
}
