//! The innermost product on x86-64.
//!
//! Every kernel is unsafe as those of the module above are.
#![allow(unsafe_code)]

use super::{LANES, ROWS, Tile};
use std::arch::x86_64::{
    __m256, __m256i, __m512, __m512bh, __m512i, _mm256_add_ps, _mm256_and_si256,
    _mm256_castsi256_ps, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_set1_epi32, _mm256_set1_ps,
    _mm256_setzero_ps, _mm256_slli_epi32, _mm256_storeu_ps, _mm512_add_ps, _mm512_and_si512,
    _mm512_castsi512_ps, _mm512_dpbf16_ps, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_loadu_si512,
    _mm512_set1_epi32, _mm512_set1_ps, _mm512_setzero_ps, _mm512_slli_epi32, _mm512_storeu_ps,
};

/// The upper half of a word.
const UPPER: i32 = 0xffff_0000_u32 as i32;

fn pairs(words: __m512i) -> __m512bh {
    // SAFETY: both are 64 bytes without invalid values.
    unsafe { std::mem::transmute(words) }
}

/// Adds the sums to the tile or puts them there. A macro: as a function it would keep the sums in memory
/// through the whole loop.
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

/// Adds the products of number `k` of every row with sixteen lanes of each of `w`.
///
/// # Safety
/// Every row holds number `k`.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
#[inline]
unsafe fn add_wide<const V: usize>(
    sums: &mut [[__m512; V]; ROWS],
    tile: &Tile<'_>,
    k: usize,
    w: [__m512; V],
) {
    for (sums, row) in sums.iter_mut().zip(&tile.rows) {
        // SAFETY: the caller's promise.
        let x = _mm512_set1_ps(unsafe { *row.add(k).cast::<f32>() });
        for (sum, w) in sums.iter_mut().zip(w) {
            *sum = _mm512_fmadd_ps(x, w, *sum);
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) unsafe fn wide<const V: usize>(tile: Tile<'_>) {
    let mut sums = [[_mm512_setzero_ps(); V]; ROWS];
    let mut weights = tile.weights.cast::<f32>();
    for segment in tile.segments {
        for k in segment.shift..segment.shift + segment.words {
            // SAFETY: the caller's promise about rows and weights.
            unsafe {
                let w = std::array::from_fn(|v| _mm512_loadu_ps(weights.add(v * LANES)));
                add_wide(&mut sums, &tile, k, w);
                weights = weights.add(V * LANES);
            }
        }
    }
    store_wide!(tile, sums);
}

/// One half after the other: two of each of four weights would not fit into the registers, and words that were
/// kept for the second would push sums out of them, so they are read anew.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) unsafe fn wide_mixed<const V: usize>(tile: Tile<'_>) {
    let mut sums = [[_mm512_setzero_ps(); V]; ROWS];
    let mut weights = tile.weights;
    let upper = _mm512_set1_epi32(UPPER);
    for segment in tile.segments {
        for k in 0..segment.words {
            let k = segment.shift + 2 * k;
            // SAFETY: the caller's promise about rows and weights.
            unsafe {
                let word = |v: usize| {
                    weights.add(v * LANES).cast::<Unaligned<__m512i>>().read_volatile().0
                };
                let low = |v| _mm512_castsi512_ps(_mm512_slli_epi32::<16>(word(v)));
                add_wide(&mut sums, &tile, k, std::array::from_fn(low));
                let high = |v| _mm512_castsi512_ps(_mm512_and_si512(word(v), upper));
                add_wide(&mut sums, &tile, k + 1, std::array::from_fn(high));
                weights = weights.add(V * LANES);
            }
        }
    }
    store_wide!(tile, sums);
}

/// Adds the products of number `k` of every row with sixteen lanes.
///
/// # Safety
/// Every row holds number `k`.
#[target_feature(enable = "avx2,fma")]
#[inline]
unsafe fn add_medium(sums: &mut [[__m256; 2]; ROWS], tile: &Tile<'_>, k: usize, w: [__m256; 2]) {
    for (sums, row) in sums.iter_mut().zip(&tile.rows) {
        // SAFETY: the caller's promise.
        let x = _mm256_set1_ps(unsafe { *row.add(k).cast::<f32>() });
        sums[0] = _mm256_fmadd_ps(x, w[0], sums[0]);
        sums[1] = _mm256_fmadd_ps(x, w[1], sums[1]);
    }
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
                    add_medium(&mut sums, &tile, k, w);
                }
                weights = weights.wrapping_add(V * LANES);
            }
        }
        store_medium!(tile, sums, column);
    }
}

/// One half after the other. Words are read anew for the second: kept meanwhile they would push sums out
/// of the registers.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn medium_mixed<const V: usize>(tile: Tile<'_>) {
    let upper = _mm256_set1_epi32(UPPER);
    for column in (0..V * LANES).step_by(LANES) {
        let mut sums = [[_mm256_setzero_ps(); 2]; ROWS];
        let mut weights = tile.weights.wrapping_add(column);
        for segment in tile.segments {
            for k in 0..segment.words {
                let k = segment.shift + 2 * k;
                // SAFETY: the caller's promise about rows and weights.
                unsafe {
                    let low = |w| _mm256_castsi256_ps(_mm256_slli_epi32::<16>(w));
                    add_medium(&mut sums, &tile, k, read_medium(weights).map(low));
                    let high = |w| _mm256_castsi256_ps(_mm256_and_si256(w, upper));
                    add_medium(&mut sums, &tile, k + 1, read_medium(weights).map(high));
                }
                weights = weights.wrapping_add(V * LANES);
            }
        }
        store_medium!(tile, sums, column);
    }
}

/// Sixteen words, which are not taken from an earlier read.
///
/// # Safety
/// `from` is valid for them.
#[target_feature(enable = "avx2")]
#[inline]
unsafe fn read_medium(from: *const u32) -> [__m256i; 2] {
    // SAFETY: the caller's promise; a packed type needs no alignment.
    [0, 8].map(|lane| unsafe { from.add(lane).cast::<Unaligned<__m256i>>().read_volatile().0 })
}

/// A value anywhere.
#[repr(C, packed)]
struct Unaligned<T>(T);
