//! Floor 1. Products with weights and inputs rounded to bf16 and sums in f32: twice the speed of f32
//! where the processor multiplies bf16 pairs (AVX512-BF16), and half the memory for weights.
//!
//! Weights are packed once, when a layer is built. Two neighbours along the summed dimension lie in one
//! 32-bit word, because that is what one instruction multiplies and adds.

mod conv;
mod linear;
mod micro;

pub(crate) use conv::PackedKernel;
pub(crate) use linear::PackedMatrix;

/// Whether products of bf16 pairs run at full speed on this processor.
pub(crate) fn fast() -> bool {
    micro::native()
}

/// Two numbers as bf16 in one word, the first in the lower half; ties to even.
fn pair(low: f32, high: f32) -> u32 {
    let round = |value: f32| {
        let bits = value.to_bits();
        // NaN and infinities stay what they are up to the payload.
        (bits.wrapping_add(0x7fff + (bits >> 16 & 1))) >> 16
    };
    round(low) | round(high) << 16
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
