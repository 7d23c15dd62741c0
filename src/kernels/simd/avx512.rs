//! The hottest element-wise loops written out for AVX-512: sixteen numbers at a time, divisions
//! as a refined estimate. The loops of [`vector`](crate::kernels::simd::vector) are what they must equal.

use std::arch::x86_64::{
    __m256i, __m512, _mm256_mask_storeu_epi16, _mm256_maskz_loadu_epi16, _mm256_storeu_si256,
    _mm512_abs_ps, _mm512_add_epi32, _mm512_add_ps, _mm512_and_ps, _mm512_and_si512,
    _mm512_castpd_ps, _mm512_castps_pd, _mm512_castps_si512, _mm512_cvtepi32_epi16,
    _mm512_cvtph_ps, _mm512_fmadd_ps, _mm512_fnmadd_ps, _mm512_loadu_ps, _mm512_mask_add_ps,
    _mm512_mask_storeu_ps, _mm512_maskz_loadu_ps, _mm512_mul_ps, _mm512_or_ps, _mm512_rcp14_ps,
    _mm512_reduce_add_ps, _mm512_roundscale_ps, _mm512_scalef_ps, _mm512_set1_epi32,
    _mm512_set1_ps, _mm512_setzero_ps, _mm512_shuffle_f32x4, _mm512_srli_epi32, _mm512_storeu_ps,
    _mm512_stream_ps, _mm512_sub_ps, _mm512_unpackhi_pd, _mm512_unpackhi_ps, _mm512_unpacklo_pd,
    _mm512_unpacklo_ps,
};

/// Mask of the numbers that are left.
pub(in crate::kernels) fn mask(left: usize) -> u16 {
    if left >= 16 { u16::MAX } else { (1u16 << left) - 1 }
}

/// 2^x to one unit in the last place, or to 1e-4 when `ROUGH`.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn power<const ROUGH: bool>(x: __m512) -> __m512 {
    let set = |v: f32| _mm512_set1_ps(v);
    let n = _mm512_roundscale_ps::<0>(x);
    let r = _mm512_sub_ps(x, n);
    let y = if ROUGH {
        let y = _mm512_fmadd_ps(set(5.508_868_4e-2), r, set(2.426_040_5e-1));
        let y = _mm512_fmadd_ps(y, r, set(6.932_762e-1));
        _mm512_fmadd_ps(y, r, set(9.999_289_4e-1))
    } else {
        let y = _mm512_fmadd_ps(set(1.540_353e-4), r, set(1.333_355_8e-3));
        let y = _mm512_fmadd_ps(y, r, set(9.618_129e-3));
        let y = _mm512_fmadd_ps(y, r, set(5.550_411e-2));
        let y = _mm512_fmadd_ps(y, r, set(2.402_265e-1));
        let y = _mm512_fmadd_ps(y, r, set(std::f32::consts::LN_2));
        _mm512_fmadd_ps(y, r, set(1.0))
    };
    _mm512_scalef_ps(y, n)
}

/// 1/x, refined once.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn inverse(x: __m512) -> __m512 {
    let y = _mm512_rcp14_ps(x);
    // y·(2 − x·y)
    let error = _mm512_fnmadd_ps(x, y, _mm512_set1_ps(2.0));
    _mm512_mul_ps(y, error)
}

/// bf16 of sixteen numbers, ties to even.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn halves(x: __m512) -> __m256i {
    let bits = _mm512_castps_si512(x);
    let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
    let bits = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(bits))
}

/// out ← 2^(x − shift); returns the sum.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
#[allow(unsafe_code)]
pub(in crate::kernels) fn powers(x: &[f32], shift: f32, out: &mut [f32]) -> f32 {
    assert!(out.len() >= x.len(), "room for powers");
    let mut sum = _mm512_setzero_ps();
    for start in (0..x.len()).step_by(16) {
        let mask = mask(x.len() - start);
        // SAFETY: masked to what is left of both slices.
        unsafe {
            let v = _mm512_maskz_loadu_ps(mask, x.as_ptr().add(start));
            let y = power::<false>(_mm512_sub_ps(v, _mm512_set1_ps(shift)));
            _mm512_mask_storeu_ps(out.as_mut_ptr().add(start), mask, y);
            sum = _mm512_mask_add_ps(sum, mask, sum, y);
        }
    }
    _mm512_reduce_add_ps(sum)
}

/// The same rounded to bf16; the sum is that of the numbers before rounding.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
#[allow(unsafe_code)]
pub(in crate::kernels) fn powers_halves(x: &[f32], shift: f32, out: &mut [u16]) -> f32 {
    assert!(out.len() >= x.len(), "room for powers");
    let shift = _mm512_set1_ps(shift);
    let mut sums = [_mm512_setzero_ps(); 2];
    let whole = x.len() / 32 * 32;
    for start in (0..whole).step_by(32) {
        for (i, sum) in sums.iter_mut().enumerate() {
            let at = start + 16 * i;
            // SAFETY: 32 numbers from `start` on lie inside both slices.
            unsafe {
                let v = _mm512_loadu_ps(x.as_ptr().add(at));
                let y = power::<true>(_mm512_sub_ps(v, shift));
                *sum = _mm512_add_ps(*sum, y);
                _mm256_storeu_si256(out.as_mut_ptr().add(at).cast(), halves(y));
            }
        }
    }
    let mut sum = _mm512_reduce_add_ps(_mm512_add_ps(sums[0], sums[1]));
    for at in (whole..x.len()).step_by(16) {
        let mask = mask(x.len() - at);
        // SAFETY: masked to what is left of both slices.
        unsafe {
            let v = _mm512_maskz_loadu_ps(mask, x.as_ptr().add(at));
            let y = power::<true>(_mm512_sub_ps(v, shift));
            sum += std::arch::x86_64::_mm512_mask_reduce_add_ps(mask, y);
            store_halves(out.as_mut_ptr().add(at), mask, y);
        }
    }
    sum
}

/// Stores the bf16 of the numbers of `mask`.
///
/// # Safety
/// `out` is valid for them.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
#[allow(unsafe_code)]
pub(in crate::kernels) unsafe fn store_halves(out: *mut u16, mask: u16, x: __m512) {
    let halves = halves(x);
    // SAFETY: the caller's promise.
    unsafe {
        if mask == u16::MAX {
            _mm256_storeu_si256(out.cast(), halves);
        } else {
            _mm256_mask_storeu_epi16(out.cast(), mask, halves);
        }
    }
}

/// out ← (value + bias) · GELU(gate + bias).
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
#[allow(unsafe_code)]
pub(in crate::kernels) fn gate_row(x: (&[f32], &[f32]), bias: (&[f32], &[f32]), out: &mut [f32]) {
    let count = out.len();
    let enough = [x.0, x.1, bias.0, bias.1].iter().all(|s| s.len() >= count);
    assert!(enough, "lengths of a gate");
    let set = |v: f32| _mm512_set1_ps(v);
    for start in (0..count).step_by(16) {
        let mask = mask(count - start);
        // SAFETY: masked to what is left of all slices.
        unsafe {
            let load = |s: &[f32]| _mm512_maskz_loadu_ps(mask, s.as_ptr().add(start));
            let value = _mm512_add_ps(load(x.0), load(bias.0));
            let gate = _mm512_add_ps(load(x.1), load(bias.1));
            // erf by Abramowitz and Stegun 7.1.26, as the plain loop.
            let z = _mm512_mul_ps(gate, set(std::f32::consts::FRAC_1_SQRT_2));
            let a = _mm512_abs_ps(z);
            let t = inverse(_mm512_fmadd_ps(a, set(0.327_591_1), set(1.0)));
            let p = _mm512_fmadd_ps(set(1.061_405_4), t, set(-1.453_152));
            let p = _mm512_fmadd_ps(p, t, set(1.421_413_7));
            let p = _mm512_fmadd_ps(p, t, set(-0.284_496_74));
            let p = _mm512_mul_ps(_mm512_fmadd_ps(p, t, set(0.254_829_6)), t);
            let square = _mm512_mul_ps(_mm512_mul_ps(a, a), set(-std::f32::consts::LOG2_E));
            let erf = _mm512_fnmadd_ps(p, power::<false>(square), set(1.0));
            let sign = _mm512_and_ps(z, set(-0.0));
            let erf = _mm512_or_ps(erf, sign);
            let half = _mm512_mul_ps(_mm512_mul_ps(value, gate), set(0.5));
            let y = _mm512_fmadd_ps(half, erf, half);
            _mm512_mask_storeu_ps(out.as_mut_ptr().add(start), mask, y);
        }
    }
}

/// Sixteen numbers or fewer of a pixel, changed.
///
/// # Safety
/// All slices hold the numbers of `mask` from `at` on; empty `scale` and `shift` stand for 1 and 0.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
#[allow(unsafe_code)]
unsafe fn changed<const AFFINE: bool, const SILU: bool>(
    x: &[f32],
    (scale, shift): (&[f32], &[f32]),
    at: usize,
    mask: u16,
) -> __m512 {
    // SAFETY: the caller's promise.
    unsafe {
        let mut v = _mm512_maskz_loadu_ps(mask, x.as_ptr().add(at));
        if AFFINE {
            let a = _mm512_maskz_loadu_ps(mask, scale.as_ptr().add(at));
            let b = _mm512_maskz_loadu_ps(mask, shift.as_ptr().add(at));
            v = _mm512_fmadd_ps(v, a, b);
        }
        if SILU {
            let e = power::<false>(_mm512_mul_ps(v, _mm512_set1_ps(-std::f32::consts::LOG2_E)));
            // 1/(1 + ∞) is 0, where a refined estimate would be no number.
            let e = std::arch::x86_64::_mm512_min_ps(e, _mm512_set1_ps(1e30));
            v = _mm512_mul_ps(v, inverse(_mm512_add_ps(e, _mm512_set1_ps(1.0))));
        }
        v
    }
}

/// Pixels of `channels` numbers, changed, as bf16 into pixels `stride` apart from `offset` on.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
#[allow(unsafe_code)]
pub(in crate::kernels) fn prepare_halves<const AFFINE: bool, const SILU: bool>(
    x: &[f32],
    change: (&[f32], &[f32]),
    channels: usize,
    out: &mut [u16],
    (stride, offset): (usize, usize),
) {
    for (x, out) in x.chunks_exact(channels).zip(out.chunks_mut(stride)) {
        let out = &mut out[offset..offset + channels];
        for at in (0..channels).step_by(16) {
            let mask = mask(channels - at);
            // SAFETY: masked to what is left of the pixel.
            unsafe {
                let y = changed::<AFFINE, SILU>(x, change, at, mask);
                store_halves(out.as_mut_ptr().add(at), mask, y);
            }
        }
    }
}

/// The same without rounding.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
#[allow(unsafe_code)]
pub(in crate::kernels) fn prepare_floats<const AFFINE: bool, const SILU: bool>(
    x: &[f32],
    change: (&[f32], &[f32]),
    channels: usize,
    out: &mut [f32],
    (stride, offset): (usize, usize),
) {
    for (x, out) in x.chunks_exact(channels).zip(out.chunks_mut(stride)) {
        let out = &mut out[offset..offset + channels];
        for at in (0..channels).step_by(16) {
            let mask = mask(channels - at);
            // SAFETY: masked to what is left of the pixel.
            unsafe {
                let y = changed::<AFFINE, SILU>(x, change, at, mask);
                if mask == u16::MAX {
                    _mm512_storeu_ps(out.as_mut_ptr().add(at), y);
                } else {
                    _mm512_mask_storeu_ps(out.as_mut_ptr().add(at), mask, y);
                }
            }
        }
    }
}

/// Sixteen rows of `length` numbers, turned: out\[i\]\[lane\] ← rows\[lane · length + from + i\].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
#[allow(unsafe_code)]
pub(in crate::kernels) fn turn(rows: &[f32], length: usize, from: usize, out: &mut [[f32; 16]]) {
    assert!(rows.len() >= 16 * length && from + out.len() <= length, "rows to turn");
    for (block, out) in out.chunks_mut(16).enumerate() {
        let (at, mask) = (from + 16 * block, mask(out.len()));
        // SAFETY: masked to what is left of the rows, which the assertion holds to their length.
        let loaded: [__m512; 16] = std::array::from_fn(|lane| unsafe {
            _mm512_maskz_loadu_ps(mask, rows.as_ptr().add(lane * length + at))
        });
        for (out, turned) in out.iter_mut().zip(turned(loaded)) {
            // SAFETY: `out` is sixteen numbers.
            unsafe { _mm512_storeu_ps(out.as_mut_ptr(), turned) };
        }
    }
}

/// A square of sixteen vectors, transposed.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
#[allow(clippy::large_types_passed_by_value)] // it stays in registers
fn turned(rows: [__m512; 16]) -> [__m512; 16] {
    // Squares of 2 and of 4 inside of each quarter of a vector, then quarters between vectors.
    let pairs: [__m512; 16] = std::array::from_fn(|i| {
        let (a, b) = (rows[i / 2 * 2], rows[i / 2 * 2 + 1]);
        if i % 2 == 0 { _mm512_unpacklo_ps(a, b) } else { _mm512_unpackhi_ps(a, b) }
    });
    // fours[4g + c]: numbers c, c + 4, c + 8, c + 12 of rows 4g to 4g + 3.
    let fours: [__m512; 16] = std::array::from_fn(|i| {
        let (group, column) = (i / 4 * 4, i % 4);
        let (a, b) = (pairs[group + column / 2], pairs[group + column / 2 + 2]);
        let (a, b) = (_mm512_castps_pd(a), _mm512_castps_pd(b));
        _mm512_castpd_ps(if column % 2 == 0 {
            _mm512_unpacklo_pd(a, b)
        } else {
            _mm512_unpackhi_pd(a, b)
        })
    });
    let mut out = rows;
    for column in 0..4 {
        let [a, b, c, d] = std::array::from_fn(|group| fours[4 * group + column]);
        let (low, high) = (_mm512_shuffle_f32x4::<0x88>(a, b), _mm512_shuffle_f32x4::<0xdd>(a, b));
        let (low2, high2) =
            (_mm512_shuffle_f32x4::<0x88>(c, d), _mm512_shuffle_f32x4::<0xdd>(c, d));
        out[column] = _mm512_shuffle_f32x4::<0x88>(low, low2);
        out[column + 4] = _mm512_shuffle_f32x4::<0x88>(high, high2);
        out[column + 8] = _mm512_shuffle_f32x4::<0xdd>(low, low2);
        out[column + 12] = _mm512_shuffle_f32x4::<0xdd>(high, high2);
    }
    out
}

/// Fills `out` from as many f16 numbers.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
#[allow(unsafe_code)]
pub(in crate::kernels) fn widen(bytes: &[u8], out: &mut [f32]) {
    assert!(bytes.len() >= 2 * out.len(), "bytes to widen");
    for start in (0..out.len()).step_by(16) {
        let mask = mask(out.len() - start);
        // SAFETY: masked to what is left of both slices.
        unsafe {
            let halves = _mm256_maskz_loadu_epi16(mask, bytes.as_ptr().add(2 * start).cast());
            _mm512_mask_storeu_ps(out.as_mut_ptr().add(start), mask, _mm512_cvtph_ps(halves));
        }
    }
}

/// Writes a whole line past the caches.
///
/// # Safety
/// `out` is sixteen words that begin a line.
#[target_feature(enable = "avx512f")]
#[allow(unsafe_code)]
#[inline]
pub(in crate::kernels) unsafe fn stream(words: [u32; 16], out: &mut [u32]) {
    debug_assert!(out.len() >= 16 && out.as_ptr().addr().is_multiple_of(64), "a whole line");
    // SAFETY: the caller's promise.
    unsafe {
        let words = _mm512_loadu_ps(words.as_ptr().cast());
        _mm512_stream_ps(out.as_mut_ptr().cast(), words);
    }
}
