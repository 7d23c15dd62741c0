//! The number format of the two sides of a product, and rounding to bf16.

use crate::kernels::simd::processor::Instructions;

/// In which numbers the factors of products are; sums are always f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Precision {
    /// Exact f32.
    F32,
    /// Rounded to bf16: half the memory, and twice the speed where the processor multiplies bf16 pairs.
    /// Where it does not, weights alone are rounded, and widened again as they are multiplied.
    Bf16,
}

impl Precision {
    /// Words that hold `channels` neighbouring numbers.
    pub(in crate::kernels) fn words(self, channels: usize) -> usize {
        match self {
            Self::F32 => channels,
            Self::Bf16 => channels.div_ceil(2),
        }
    }

    /// The precision of the operands that weights of this precision and `inputs` channels are multiplied
    /// with.
    pub(crate) fn of_operands(self, inputs: usize) -> Self {
        let pairs = Instructions::used() >= Instructions::Avx512Bf16;
        // Rows in f32 are then read in pairs.
        if self == Self::Bf16 && !pairs && inputs.is_multiple_of(2) { Self::F32 } else { self }
    }
}

/// bf16 of a number, ties to even; NaN and infinities stay what they are up to the payload.
#[allow(clippy::inline_always)]
#[inline(always)]
pub(in crate::kernels) fn round(value: f32) -> u16 {
    let bits = value.to_bits();
    (bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16) as u16
}

/// Two numbers as bf16 in one word, the first in the lower half.
#[allow(clippy::inline_always)]
#[inline(always)]
pub(in crate::kernels) fn pair(low: f32, high: f32) -> u32 {
    u32::from(round(low)) | u32::from(round(high)) << 16
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::bf16;

    #[test]
    fn pairs_are_rounded_as_bf16() {
        for (a, b) in [(1.0, -2.5), (0.1, 3.0e38), (1e-40, -0.0), (1.003_906_3, 257.0)] {
            let word = pair(a, b);
            assert_eq!(word as u16, bf16::from_f32(a).to_bits());
            assert_eq!((word >> 16) as u16, bf16::from_f32(b).to_bits());
        }
    }
}
