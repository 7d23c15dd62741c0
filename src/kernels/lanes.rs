//! Floor 1. From rows of numbers to vectors that hold one number of each of sixteen rows.

use super::micro::LANES;
use super::processor::Instructions;
#[cfg(target_arch = "x86_64")]
use super::wide;

/// One number of each of sixteen rows.
pub(super) type Lanes = [f32; LANES];

/// out\[i\]\[lane\] ← rows\[lane · length + from + i\] of up to sixteen rows of `length` numbers; lanes without a
/// row get zeros.
pub(super) fn turn(rows: &[f32], length: usize, from: usize, out: &mut [Lanes]) {
    #[cfg(target_arch = "x86_64")]
    if Instructions::used() >= Instructions::Avx512 && rows.len() == LANES * length {
        // SAFETY: the processor has the features.
        #[allow(unsafe_code)]
        return unsafe { wide::turn(rows, length, from, out) };
    }
    turn_plain(rows, length, from, out);
}

multiversion! {
    fn turn_plain(rows: &[f32], length: usize, from: usize, out: &mut [Lanes]) {
        let count = rows.len().checked_div(length).unwrap_or(0).min(LANES);
        for (block, out) in out.chunks_mut(LANES).enumerate() {
            if count < LANES {
                out.fill([0.0; LANES]);
            }
            for lane in 0..count {
                let row = &rows[lane * length + from + block * LANES..][..out.len()];
                for (out, number) in out.iter_mut().zip(row) {
                    out[lane] = *number;
                }
            }
        }
    }
}

/// Whether [`put`] can write vectors of `out` past the caches: lines must be whole.
pub(super) fn can_pass_caches(out: &[u32]) -> bool {
    cfg!(target_arch = "x86_64")
        && Instructions::used() >= Instructions::Avx512
        && out.as_ptr().cast::<[u32; LANES]>().align_offset(size_of::<[u32; LANES]>()) == 0
}

/// Writes sixteen words to the beginning of `out`. `past_caches`: as [`can_pass_caches`] says of `out` or of
/// what lies whole vectors before it. Weights are larger than any cache, and what is written past them need
/// not be read first.
#[allow(clippy::inline_always)]
#[inline(always)]
pub(super) fn put(words: [u32; LANES], out: &mut [u32], past_caches: bool) {
    let out = &mut out[..LANES];
    #[cfg(target_arch = "x86_64")]
    if past_caches {
        // SAFETY: the processor has the feature, and `out` is a whole aligned line.
        #[allow(unsafe_code)]
        return unsafe { wide::stream(words, out) };
    }
    let _ = past_caches;
    out.copy_from_slice(&words);
}

/// Makes what [`put`] wrote past the caches visible to other threads.
pub(super) fn settle() {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every x86-64 processor has it, and it has no operands.
    #[allow(unsafe_code)]
    unsafe {
        std::arch::x86_64::_mm_sfence();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_hold_one_number_of_each_row() {
        for (count, length) in [(16, 40), (16, 16), (16, 1), (7, 21), (16, 67)] {
            let rows: Vec<f32> = (0..count * length).map(|i| i as f32 + 1.0).collect();
            for from in [0, length / 3] {
                let mut out = vec![[-1.0; LANES]; length - from];
                turn(&rows, length, from, &mut out);
                let mut plain = vec![[-1.0; LANES]; length - from];
                turn_plain(&rows, length, from, &mut plain);
                assert_eq!(out, plain);
                for (i, numbers) in out.iter().enumerate() {
                    for (lane, number) in numbers.iter().enumerate() {
                        let expected = rows.get(lane * length + from + i).filter(|_| lane < count);
                        assert_eq!(*number, expected.copied().unwrap_or(0.0));
                    }
                }
            }
        }
    }
}
