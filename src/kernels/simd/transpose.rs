//! From rows of numbers to vectors that hold one number of each of sixteen rows.

#[cfg(target_arch = "x86_64")]
use crate::kernels::simd::avx2;
use crate::kernels::simd::avx512;
use crate::kernels::simd::microkernel::LANES;
use crate::kernels::simd::processor::Instructions;

/// One number of each of sixteen rows.
pub(in crate::kernels) type Lanes = [f32; LANES];

/// out\[i\]\[lane\] ← rows\[lane · length + from + i\] of up to sixteen rows of `length` numbers; lanes without a
/// row get zeros.
pub(in crate::kernels) fn turn(rows: &[f32], length: usize, from: usize, out: &mut [Lanes]) {
    #[cfg(target_arch = "x86_64")]
    if Instructions::used() >= Instructions::Avx512 && rows.len() == LANES * length {
        // SAFETY: the processor has the features.
        #[allow(unsafe_code)]
        return unsafe { avx512::turn(rows, length, from, out) };
    }
    #[cfg(target_arch = "x86_64")]
    if Instructions::used() == Instructions::Avx2 && rows.len() == LANES * length {
        // SAFETY: as above.
        #[allow(unsafe_code)]
        return unsafe { avx2::turn(rows, length, from, out) };
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

/// How [`put`] writes a vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::kernels) enum Writing {
    /// Through the caches.
    Cached,
    /// Past them, half a line at a time.
    #[cfg(target_arch = "x86_64")]
    Halves,
    /// Past them, whole lines.
    #[cfg(target_arch = "x86_64")]
    Lines,
}

impl Writing {
    /// The best way to write vectors of `out`, or what lies whole vectors behind its beginning. Weights are larger than
    /// any cache, and what is written past them need not be read first; lines must be whole.
    pub(in crate::kernels) fn to(out: &[u32]) -> Self {
        let line = size_of::<[u32; LANES]>();
        let aligned = out.as_ptr().cast::<[u32; LANES]>().align_offset(line) == 0;
        match Instructions::used() {
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx2 if aligned => Self::Halves,
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx512 | Instructions::Avx512Bf16 if aligned => Self::Lines,
            _ => Self::Cached,
        }
    }
}

/// Writes sixteen words to the beginning of `out`, as [`Writing::to`] said of it.
#[allow(clippy::inline_always)]
#[inline(always)]
pub(in crate::kernels) fn put(words: [u32; LANES], out: &mut [u32], writing: Writing) {
    let out = &mut out[..LANES];
    #[allow(unsafe_code)]
    match writing {
        Writing::Cached => out.copy_from_slice(&words),
        // SAFETY: the processor has the feature, and `out` is a whole aligned line.
        #[cfg(target_arch = "x86_64")]
        Writing::Halves => unsafe { avx2::stream(words, out) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Writing::Lines => unsafe { avx512::stream(words, out) },
    }
}

/// Makes what [`put`] wrote past the caches visible to other threads.
pub(in crate::kernels) fn settle() {
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
