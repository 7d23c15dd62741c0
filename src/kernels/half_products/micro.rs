//! Floor 1. The innermost product: a few rows times 32 columns, summed over pairs.

use half::bf16;

/// Rows of a tile: with 32 columns their sums fill 24 of the 32 vector registers.
pub(super) const ROWS: usize = 12;
/// Columns of a tile: two vectors of f32.
pub(super) const COLUMNS: usize = 32;
/// Pairs that are summed at once: the panels of both sides then stay in the second-level cache.
pub(super) const DEPTH: usize = 1024;

/// Where a tile is added.
#[derive(Clone, Copy)]
pub(super) struct Tile {
    pub(super) pointer: *mut f32,
    pub(super) stride: usize,
    /// Valid rows and columns; what is beyond is computed and thrown away.
    pub(super) rows: usize,
    pub(super) columns: usize,
}

/// tile += left · right.
///
/// `left`: `[depth, ROWS]` pairs, `right`: `[depth, COLUMNS]` pairs.
///
/// # Safety
/// The tile's rows and columns must lie in memory that nobody else touches meanwhile.
#[allow(unsafe_code)]
pub(super) unsafe fn add_product(left: &[u32], right: &[u32], tile: Tile) {
    let depth = (left.len() / ROWS).min(right.len() / COLUMNS);
    #[cfg(target_arch = "x86_64")]
    if native() {
        // SAFETY: the processor has the instructions; the rest is the caller's promise.
        unsafe { wide(&left[..depth * ROWS], &right[..depth * COLUMNS], tile) };
        return;
    }
    let mut sums = [[0f32; COLUMNS]; ROWS];
    plain(&left[..depth * ROWS], &right[..depth * COLUMNS], &mut sums);
    for (r, sums) in sums.iter().enumerate().take(tile.rows) {
        for (c, sum) in sums.iter().enumerate().take(tile.columns) {
            // SAFETY: the caller's promise.
            unsafe { *tile.pointer.add(r * tile.stride + c) += sum };
        }
    }
}

/// Whether the processor multiplies bf16 pairs.
pub(super) fn native() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        std::arch::is_x86_feature_detected!("avx512bf16")
            && std::arch::is_x86_feature_detected!("avx512f")
            && std::arch::is_x86_feature_detected!("avx512bw")
    }
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// The same without special instructions: the oracle of the tests, and for other processors.
fn plain(left: &[u32], right: &[u32], sums: &mut [[f32; COLUMNS]; ROWS]) {
    let halves = |word: u32| {
        let number = |bits: u32| bf16::from_bits(bits as u16).to_f32();
        (number(word), number(word >> 16))
    };
    for (left, right) in left.chunks_exact(ROWS).zip(right.chunks_exact(COLUMNS)) {
        for (sums, l) in sums.iter_mut().zip(left) {
            let (l0, l1) = halves(*l);
            for (sum, r) in sums.iter_mut().zip(right) {
                let (r0, r1) = halves(*r);
                *sum += l0 * r0 + l1 * r1;
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn wide(left: &[u32], right: &[u32], tile: Tile) {
    use std::arch::x86_64::{
        __m512bh, __mmask16, _mm512_add_ps, _mm512_dpbf16_ps, _mm512_loadu_si512,
        _mm512_mask_storeu_ps, _mm512_maskz_loadu_ps, _mm512_set1_epi32, _mm512_setzero_ps,
    };
    let mut sums = [[_mm512_setzero_ps(); 2]; ROWS];
    let depth = left.len() / ROWS;
    let (mut l, mut r) = (left.as_ptr(), right.as_ptr());
    for _ in 0..depth {
        // SAFETY: both panels have `depth` rows of these lengths.
        unsafe {
            let r0: __m512bh = std::mem::transmute(_mm512_loadu_si512(r.cast()));
            let r1: __m512bh = std::mem::transmute(_mm512_loadu_si512(r.add(16).cast()));
            for (i, sums) in sums.iter_mut().enumerate() {
                let l: __m512bh = std::mem::transmute(_mm512_set1_epi32(*l.add(i) as i32));
                sums[0] = _mm512_dpbf16_ps(sums[0], l, r0);
                sums[1] = _mm512_dpbf16_ps(sums[1], l, r1);
            }
            l = l.add(ROWS);
            r = r.add(COLUMNS);
        }
    }
    let mask = |from: usize| -> __mmask16 {
        let count = tile.columns.saturating_sub(from).min(16);
        ((1u32 << count) - 1) as u16
    };
    let masks = [mask(0), mask(16)];
    for (i, sums) in sums.iter().enumerate().take(tile.rows) {
        for (half, sum) in sums.iter().enumerate() {
            // SAFETY: masked to the tile's columns, which the caller owns.
            unsafe {
                let to = tile.pointer.add(i * tile.stride).wrapping_add(16 * half);
                let old = _mm512_maskz_loadu_ps(masks[half], to);
                _mm512_mask_storeu_ps(to, masks[half], _mm512_add_ps(old, *sum));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_equal_the_plain_sums() {
        let depth = 37;
        let words = |count: usize, step: u32| -> Vec<u32> {
            let number = |i: u32| ((i * step % 17) as f32 - 8.0) / 4.0;
            (0..count as u32).map(|i| super::super::pair(number(i), number(i + 5))).collect()
        };
        let (left, right) = (words(depth * ROWS, 7), words(depth * COLUMNS, 5));
        let mut sums = [[0f32; COLUMNS]; ROWS];
        plain(&left, &right, &mut sums);
        for (rows, columns) in [(ROWS, COLUMNS), (5, 17), (1, 1), (12, 16)] {
            let mut out = vec![1f32; ROWS * 40];
            let tile = Tile { pointer: out.as_mut_ptr(), stride: 40, rows, columns };
            // SAFETY: `out` has room for the whole tile.
            #[allow(unsafe_code)]
            unsafe {
                add_product(&left, &right, tile);
            }
            for r in 0..ROWS {
                for c in 0..40 {
                    let inside = r < rows && c < columns;
                    let expected = if inside { 1.0 + sums[r][c] } else { 1.0 };
                    assert!((out[r * 40 + c] - expected).abs() < 1e-3, "{r} {c}");
                }
            }
        }
    }
}
