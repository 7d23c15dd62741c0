//! What AVX2 does by hand when weights are packed: turning rows, and writing past the caches.

use std::arch::x86_64::{
    __m256, _mm256_castpd_ps, _mm256_castps_pd, _mm256_loadu_ps, _mm256_permute2f128_ps,
    _mm256_storeu_ps, _mm256_stream_ps, _mm256_unpackhi_pd, _mm256_unpackhi_ps, _mm256_unpacklo_pd,
    _mm256_unpacklo_ps,
};

/// Numbers of a vector.
const VECTOR: usize = 8;

/// Sixteen rows of `length` numbers, turned: out\[i\]\[lane\] ← rows\[lane · length + from + i\].
#[target_feature(enable = "avx2")]
#[allow(unsafe_code)]
pub(in crate::kernels) fn turn(rows: &[f32], length: usize, from: usize, out: &mut [[f32; 16]]) {
    assert!(rows.len() >= 16 * length && from + out.len() <= length, "rows to turn");
    let whole = out.len() / VECTOR * VECTOR;
    let (squares, rest) = out.split_at_mut(whole);
    for (block, out) in squares.chunks_exact_mut(VECTOR).enumerate() {
        let at = from + VECTOR * block;
        for half in [0, VECTOR] {
            // SAFETY: the assertion holds a vector from `at` on inside of every row.
            let loaded: [__m256; VECTOR] = std::array::from_fn(|lane| unsafe {
                _mm256_loadu_ps(rows.as_ptr().add((half + lane) * length + at))
            });
            for (out, turned) in out.iter_mut().zip(turned(loaded)) {
                // SAFETY: `out` is sixteen numbers.
                unsafe { _mm256_storeu_ps(out.as_mut_ptr().add(half), turned) };
            }
        }
    }
    for (i, out) in rest.iter_mut().enumerate() {
        *out = std::array::from_fn(|lane| rows[lane * length + from + whole + i]);
    }
}

/// A square of eight vectors, transposed.
#[target_feature(enable = "avx2")]
#[allow(clippy::large_types_passed_by_value)] // it stays in registers
fn turned(rows: [__m256; VECTOR]) -> [__m256; VECTOR] {
    // Squares of 2 and of 4 inside of each half of a vector, then halves between vectors.
    let pairs: [__m256; VECTOR] = std::array::from_fn(|i| {
        let (a, b) = (rows[i / 2 * 2], rows[i / 2 * 2 + 1]);
        if i % 2 == 0 { _mm256_unpacklo_ps(a, b) } else { _mm256_unpackhi_ps(a, b) }
    });
    // fours[4g + c]: numbers c and c + 4 of rows 4g to 4g + 3.
    let fours: [__m256; VECTOR] = std::array::from_fn(|i| {
        let (group, column) = (i / 4 * 4, i % 4);
        let (a, b) = (pairs[group + column / 2], pairs[group + column / 2 + 2]);
        let (a, b) = (_mm256_castps_pd(a), _mm256_castps_pd(b));
        _mm256_castpd_ps(if column % 2 == 0 {
            _mm256_unpacklo_pd(a, b)
        } else {
            _mm256_unpackhi_pd(a, b)
        })
    });
    std::array::from_fn(|i| {
        let (a, b) = (fours[i % 4], fours[i % 4 + 4]);
        if i < 4 {
            _mm256_permute2f128_ps::<0x20>(a, b)
        } else {
            _mm256_permute2f128_ps::<0x31>(a, b)
        }
    })
}

/// Writes a whole line past the caches.
///
/// # Safety
/// `out` is sixteen words that begin a line.
#[target_feature(enable = "avx2")]
#[allow(unsafe_code)]
#[inline]
pub(in crate::kernels) unsafe fn stream(words: [u32; 16], out: &mut [u32]) {
    debug_assert!(out.len() >= 16 && out.as_ptr().addr().is_multiple_of(64), "a whole line");
    // SAFETY: the caller's promise.
    unsafe {
        for half in [0, VECTOR] {
            let words = _mm256_loadu_ps(words.as_ptr().add(half).cast());
            _mm256_stream_ps(out.as_mut_ptr().add(half).cast(), words);
        }
    }
}
