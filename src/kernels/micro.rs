//! Floor 1. The innermost product: six rows of the input times up to 64 columns of a packed weight.
//!
//! Rows are read where they lie, because neighbouring channels are what one instruction multiplies;
//! only weights are packed. Six rows times four vectors fill 24 of the 32 vector registers.

use super::Precision;
use super::processor::Instructions;

/// Rows of a tile.
pub(super) const ROWS: usize = 6;
/// Columns of a vector.
pub(super) const LANES: usize = 16;
/// Columns of a tile at most: four vectors.
pub(super) const COLUMNS: usize = 4 * LANES;

/// A stretch of words that lies together in every row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Segment {
    /// Words from the row's first.
    pub(super) shift: usize,
    pub(super) words: usize,
}

/// One product. A word is an f32, or two bf16 of which the lower half comes first.
#[derive(Clone, Copy)]
pub(super) struct Tile<'a> {
    /// First word of each row.
    pub(super) rows: [*const u32; ROWS],
    pub(super) segments: &'a [Segment],
    /// `[words of all segments, 16 · vectors]`.
    pub(super) weights: *const u32,
    /// `[6, 16 · vectors]`, rows `stride` apart.
    pub(super) out: *mut f32,
    pub(super) stride: usize,
    /// Whether to add to what `out` holds.
    pub(super) add: bool,
}

/// Computes a tile of so many vectors.
pub(super) type Kernel = for<'a> unsafe fn(Tile<'a>);

/// The kernels for 1 to 4 vectors.
pub(super) fn kernels(precision: Precision, set: Instructions) -> [Kernel; 4] {
    #[cfg(target_arch = "x86_64")]
    match (precision, set) {
        (Precision::Bf16, Instructions::Avx512Bf16) => {
            return [x86::bf16::<1>, x86::bf16::<2>, x86::bf16::<3>, x86::bf16::<4>];
        }
        (Precision::F32, Instructions::Avx512 | Instructions::Avx512Bf16) => {
            return [x86::wide::<1>, x86::wide::<2>, x86::wide::<3>, x86::wide::<4>];
        }
        (Precision::Bf16, Instructions::Avx512) => {
            return [x86::widened::<1>, x86::widened::<2>, x86::widened::<3>, x86::widened::<4>];
        }
        (Precision::F32, Instructions::Avx2) => {
            return [x86::medium::<1>, x86::medium::<2>, x86::medium::<3>, x86::medium::<4>];
        }
        (Precision::Bf16, Instructions::Avx2) => {
            return [
                x86::expanded::<1>,
                x86::expanded::<2>,
                x86::expanded::<3>,
                x86::expanded::<4>,
            ];
        }
        (_, Instructions::Portable) => {}
    }
    let _ = set;
    match precision {
        Precision::F32 => [plain::<1>, plain::<2>, plain::<3>, plain::<4>],
        Precision::Bf16 => [halves::<1>, halves::<2>, halves::<3>, halves::<4>],
    }
}

/// # Safety
/// Every row is valid for all segments, `weights` for their words, `out` for six rows; nobody else
/// touches `out` meanwhile. Holds for every kernel of this module.
#[allow(unsafe_code)]
unsafe fn plain<const V: usize>(tile: Tile<'_>) {
    let product = |x: u32, w: u32, sum: f32| f32::from_bits(x) * f32::from_bits(w) + sum;
    // SAFETY: the caller's promise.
    unsafe { portable::<V>(tile, product) };
}

/// The same for pairs of bf16.
#[allow(unsafe_code)]
unsafe fn halves<const V: usize>(tile: Tile<'_>) {
    let low = |word: u32| f32::from_bits(word << 16);
    let high = |word: u32| f32::from_bits(word & 0xffff_0000);
    let product = |x: u32, w: u32, sum: f32| low(x) * low(w) + (high(x) * high(w) + sum);
    // SAFETY: the caller's promise.
    unsafe { portable::<V>(tile, product) };
}

/// Loops that compilers turn into vector code for the build's own target.
#[allow(unsafe_code, clippy::inline_always)]
#[inline(always)]
unsafe fn portable<const V: usize>(tile: Tile<'_>, product: impl Fn(u32, u32, f32) -> f32) {
    // Two rows at a time: narrow processors have registers for no more.
    for pair in 0..ROWS / 2 {
        for vector in 0..V {
            let mut sums = [[0f32; LANES]; 2];
            let mut weights = tile.weights.wrapping_add(vector * LANES);
            for segment in tile.segments {
                for k in segment.shift..segment.shift + segment.words {
                    // SAFETY: the caller's promise.
                    let (w, x) = unsafe {
                        let row = |r: usize| *tile.rows[2 * pair + r].add(k);
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

#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)]
mod x86 {
    use super::{LANES, ROWS, Tile};
    use std::arch::x86_64::{
        __m512bh, __m512i, _mm256_add_ps, _mm256_and_si256, _mm256_castsi256_ps, _mm256_fmadd_ps,
        _mm256_loadu_ps, _mm256_loadu_si256, _mm256_set1_epi32, _mm256_set1_ps, _mm256_setzero_ps,
        _mm256_slli_epi32, _mm256_storeu_ps, _mm512_add_ps, _mm512_and_si512, _mm512_castsi512_ps,
        _mm512_dpbf16_ps, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_loadu_si512, _mm512_set1_epi32,
        _mm512_set1_ps, _mm512_setzero_ps, _mm512_slli_epi32, _mm512_storeu_ps,
    };

    fn pairs(words: __m512i) -> __m512bh {
        // SAFETY: both are 64 bytes without invalid values.
        unsafe { std::mem::transmute(words) }
    }

    /// Adds the sums to the tile or puts them there. A macro: as a function it would keep the sums in
    /// memory through the whole loop.
    macro_rules! store {
        ($tile:ident, $sums:ident, $column:expr, $width:literal, $load:ident, $zero:ident, $add:ident, $store:ident) => {
            for (r, sums) in $sums.into_iter().enumerate() {
                for (v, sum) in sums.into_iter().enumerate() {
                    // SAFETY: the caller's promise about `out`.
                    unsafe {
                        let out = $tile.out.add(r * $tile.stride + $column + v * $width);
                        let old = if $tile.add { $load(out) } else { $zero() };
                        $store(out, $add(old, sum));
                    }
                }
            }
        };
    }

    macro_rules! store_wide {
        ($tile:ident, $sums:ident) => {
            store!(
                $tile,
                $sums,
                0,
                16,
                _mm512_loadu_ps,
                _mm512_setzero_ps,
                _mm512_add_ps,
                _mm512_storeu_ps
            )
        };
    }

    macro_rules! store_medium {
        ($tile:ident, $sums:ident, $column:expr) => {
            store!(
                $tile,
                $sums,
                $column,
                8,
                _mm256_loadu_ps,
                _mm256_setzero_ps,
                _mm256_add_ps,
                _mm256_storeu_ps
            )
        };
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    pub(super) unsafe fn bf16<const V: usize>(tile: Tile<'_>) {
        let mut sums = [[_mm512_setzero_ps(); V]; ROWS];
        let mut weights = tile.weights;
        for segment in tile.segments {
            for k in segment.shift..segment.shift + segment.words {
                // SAFETY: the caller's promise about rows and weights.
                unsafe {
                    let w: [_; V] = std::array::from_fn(|v| {
                        pairs(_mm512_loadu_si512(weights.add(v * LANES).cast()))
                    });
                    for (sums, row) in sums.iter_mut().zip(&tile.rows) {
                        let x = pairs(_mm512_set1_epi32(*row.add(k) as i32));
                        for (sum, w) in sums.iter_mut().zip(w) {
                            *sum = _mm512_dpbf16_ps(*sum, x, w);
                        }
                    }
                    weights = weights.add(V * LANES);
                }
            }
        }
        store_wide!(tile, sums);
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    pub(super) unsafe fn wide<const V: usize>(tile: Tile<'_>) {
        let mut sums = [[_mm512_setzero_ps(); V]; ROWS];
        let mut weights = tile.weights.cast::<f32>();
        for segment in tile.segments {
            for k in segment.shift..segment.shift + segment.words {
                // SAFETY: the caller's promise about rows and weights.
                unsafe {
                    let w: [_; V] =
                        std::array::from_fn(|v| _mm512_loadu_ps(weights.add(v * LANES)));
                    for (sums, row) in sums.iter_mut().zip(&tile.rows) {
                        let x = _mm512_set1_ps(*row.add(k).cast::<f32>());
                        for (sum, w) in sums.iter_mut().zip(w) {
                            *sum = _mm512_fmadd_ps(x, w, *sum);
                        }
                    }
                    weights = weights.add(V * LANES);
                }
            }
        }
        store_wide!(tile, sums);
    }

    /// bf16 pairs by two products of f32.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    pub(super) unsafe fn widened<const V: usize>(tile: Tile<'_>) {
        let mut sums = [[_mm512_setzero_ps(); V]; ROWS];
        let mut weights = tile.weights;
        let upper = _mm512_set1_epi32(0xffff_0000_u32 as i32);
        let split = |words: __m512i| {
            [
                _mm512_castsi512_ps(_mm512_slli_epi32::<16>(words)),
                _mm512_castsi512_ps(_mm512_and_si512(words, upper)),
            ]
        };
        for segment in tile.segments {
            for k in segment.shift..segment.shift + segment.words {
                // SAFETY: the caller's promise about rows and weights.
                unsafe {
                    let w: [_; V] = std::array::from_fn(|v| {
                        split(_mm512_loadu_si512(weights.add(v * LANES).cast()))
                    });
                    for (sums, row) in sums.iter_mut().zip(&tile.rows) {
                        let x = split(_mm512_set1_epi32(*row.add(k) as i32));
                        for (sum, w) in sums.iter_mut().zip(&w) {
                            *sum = _mm512_fmadd_ps(x[0], w[0], *sum);
                            *sum = _mm512_fmadd_ps(x[1], w[1], *sum);
                        }
                    }
                    weights = weights.add(V * LANES);
                }
            }
        }
        store_wide!(tile, sums);
    }

    /// 16 columns after the other: 12 sums, two weights and one input fill the 16 registers.
    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn medium<const V: usize>(tile: Tile<'_>) {
        for column in (0..V * LANES).step_by(LANES) {
            let mut sums = [[_mm256_setzero_ps(); 2]; ROWS];
            let mut weights = tile.weights.wrapping_add(column).cast::<f32>();
            for segment in tile.segments {
                for k in segment.shift..segment.shift + segment.words {
                    // SAFETY: the caller's promise about rows and weights.
                    unsafe {
                        let w = [_mm256_loadu_ps(weights), _mm256_loadu_ps(weights.add(8))];
                        for (sums, row) in sums.iter_mut().zip(&tile.rows) {
                            let x = _mm256_set1_ps(*row.add(k).cast::<f32>());
                            sums[0] = _mm256_fmadd_ps(x, w[0], sums[0]);
                            sums[1] = _mm256_fmadd_ps(x, w[1], sums[1]);
                        }
                    }
                    weights = weights.wrapping_add(V * LANES);
                }
            }
            store_medium!(tile, sums, column);
        }
    }

    /// bf16 pairs by two products of f32.
    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn expanded<const V: usize>(tile: Tile<'_>) {
        let upper = _mm256_set1_epi32(0xffff_0000_u32 as i32);
        let split = |words| {
            [
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(words)),
                _mm256_castsi256_ps(_mm256_and_si256(words, upper)),
            ]
        };
        for column in (0..V * LANES).step_by(LANES) {
            let mut sums = [[_mm256_setzero_ps(); 2]; ROWS];
            let mut weights = tile.weights.wrapping_add(column);
            for segment in tile.segments {
                for k in segment.shift..segment.shift + segment.words {
                    // SAFETY: the caller's promise about rows and weights.
                    unsafe {
                        let w =
                            [weights, weights.add(8)].map(|w| split(_mm256_loadu_si256(w.cast())));
                        for (sums, row) in sums.iter_mut().zip(&tile.rows) {
                            let x = split(_mm256_set1_epi32(*row.add(k) as i32));
                            for (sum, w) in sums.iter_mut().zip(&w) {
                                *sum = _mm256_fmadd_ps(x[0], w[0], *sum);
                                *sum = _mm256_fmadd_ps(x[1], w[1], *sum);
                            }
                        }
                    }
                    weights = weights.wrapping_add(V * LANES);
                }
            }
            store_medium!(tile, sums, column);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Small numbers that bf16 holds exactly.
    fn word(precision: Precision, i: usize, step: usize) -> u32 {
        let number = |i: usize| ((i * step % 17) as f32 - 8.0) / 4.0;
        match precision {
            Precision::F32 => number(i).to_bits(),
            Precision::Bf16 => (number(2 * i).to_bits() >> 16) | number(2 * i + 1).to_bits(),
        }
    }

    #[test]
    #[allow(unsafe_code)]
    fn every_set_equals_the_portable_kernel() {
        let segments = [Segment { shift: 3, words: 20 }, Segment { shift: 40, words: 7 }];
        for precision in [Precision::F32, Precision::Bf16] {
            let rows: Vec<u32> = (0..ROWS * 50).map(|i| word(precision, i, 7)).collect();
            let weights: Vec<u32> = (0..27 * COLUMNS).map(|i| word(precision, i, 5)).collect();
            let run = |set, vectors: usize, add| {
                let mut out = vec![1f32; ROWS * 70];
                let tile = Tile {
                    rows: std::array::from_fn(|r| rows[r * 50..].as_ptr()),
                    segments: &segments,
                    weights: weights.as_ptr(),
                    out: out.as_mut_ptr(),
                    stride: 70,
                    add,
                };
                // SAFETY: all buffers are large enough for both segments and the tile.
                unsafe { kernels(precision, set)[vectors - 1](tile) };
                out
            };
            for set in Instructions::ALL {
                if set > Instructions::detected() {
                    println!("skipped: this processor has no {}", set.name());
                    continue;
                }
                for vectors in 1..=4 {
                    for add in [false, true] {
                        let (ours, plain) =
                            (run(set, vectors, add), run(Instructions::Portable, vectors, add));
                        let worst = ours.iter().zip(&plain).map(|(a, b)| (a - b).abs());
                        let worst = worst.fold(0.0, f32::max);
                        assert!(worst < 1e-4, "{set:?} {precision:?} {vectors}: {worst}");
                    }
                }
            }
            // And the portable one, by hand, for one element.
            let sum: f32 = (0..27)
                .map(|k| {
                    let at = if k < 20 { 3 + k } else { 20 + k };
                    let (x, w) = (rows[2 * 50 + at], weights[k * COLUMNS + 9]);
                    match precision {
                        Precision::F32 => f32::from_bits(x) * f32::from_bits(w),
                        Precision::Bf16 => {
                            let half = |v: u32, s: u32| f32::from_bits(v << s & 0xffff_0000);
                            half(x, 16) * half(w, 16) + half(x, 0) * half(w, 0)
                        }
                    }
                })
                .sum();
            let out = run(Instructions::Portable, 4, false);
            assert!((out[2 * 70 + 9] - sum).abs() < 1e-4);
        }
    }
}
