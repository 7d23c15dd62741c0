//! ggml's block types: stored numbers in blocks that share scales.
//!
//! # Source
//! ggml's `ggml-common.h` (layout of blocks) and `ggml-quants.c` (`dequantize_row_*`).

use crate::kernels::{GROUP, Quantisation};
use half::f16;

/// Types of blocks, by ggml's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs)] // the names are ggml's
pub enum BlockType {
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q2K,
    Q3K,
    Q4K,
    Q5K,
    Q6K,
}

/// Numbers of a block of ggml's k-types.
const SUPER: usize = 256;

impl BlockType {
    /// Every type.
    pub const ALL: [Self; 10] = [
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q8_0,
        Self::Q2K,
        Self::Q3K,
        Self::Q4K,
        Self::Q5K,
        Self::Q6K,
    ];

    /// The name, in lower case.
    pub fn name(self) -> &'static str {
        match self {
            Self::Q4_0 => "q4_0",
            Self::Q4_1 => "q4_1",
            Self::Q5_0 => "q5_0",
            Self::Q5_1 => "q5_1",
            Self::Q8_0 => "q8_0",
            Self::Q2K => "q2_k",
            Self::Q3K => "q3_k",
            Self::Q4K => "q4_k",
            Self::Q5K => "q5_k",
            Self::Q6K => "q6_k",
        }
    }

    /// Numbers of a block.
    pub fn size(self) -> usize {
        if self >= Self::Q2K { SUPER } else { GROUP }
    }

    /// Bytes of a block.
    pub fn bytes(self) -> usize {
        match self {
            Self::Q4_0 => 18,
            Self::Q4_1 => 20,
            Self::Q5_0 => 22,
            Self::Q5_1 => 24,
            Self::Q8_0 => 34,
            Self::Q2K => 84,
            Self::Q3K => 110,
            Self::Q4K => 144,
            Self::Q5K => 176,
            Self::Q6K => 210,
        }
    }

    /// What CPU products keep such blocks as: themselves, or the smallest type that loses next to nothing.
    pub fn kept(self) -> Quantisation {
        match self {
            Self::Q4_0 => Quantisation::Q4_0,
            _ => Quantisation::Q8_0,
        }
    }

    /// The numbers of whole blocks.
    pub(super) fn decode(self, stored: &[u8], out: &mut [f32]) {
        let decode: fn(&[u8], &mut [f32]) = match self {
            Self::Q4_0 => q4_0,
            Self::Q4_1 => q4_1,
            Self::Q5_0 => q5_0,
            Self::Q5_1 => q5_1,
            Self::Q8_0 => q8_0,
            Self::Q2K => q2_k,
            Self::Q3K => q3_k,
            Self::Q4K => q4_k,
            Self::Q5K => q5_k,
            Self::Q6K => q6_k,
        };
        let blocks = stored.chunks_exact(self.bytes()).zip(out.chunks_exact_mut(self.size()));
        for (block, out) in blocks {
            decode(block, out);
        }
    }
}

impl std::fmt::Display for BlockType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl From<Quantisation> for BlockType {
    fn from(kind: Quantisation) -> Self {
        match kind {
            Quantisation::Q8_0 => Self::Q8_0,
            Quantisation::Q4_0 => Self::Q4_0,
        }
    }
}

/// How a tensor in blocks is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Blocks {
    /// Type of the blocks.
    pub kind: BlockType,
    /// Whether a kernel `[O, I, kh, kw]` is stored in the order O, kh, kw, I.
    pub taps_first: bool,
}

fn half(bytes: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32()
}

fn q4_0(block: &[u8], out: &mut [f32]) {
    let d = half(block, 0);
    for (j, byte) in block[2..].iter().enumerate() {
        out[j] = (i32::from(byte & 15) - 8) as f32 * d;
        out[j + 16] = (i32::from(byte >> 4) - 8) as f32 * d;
    }
}

fn q4_1(block: &[u8], out: &mut [f32]) {
    let (d, m) = (half(block, 0), half(block, 2));
    for (j, byte) in block[4..].iter().enumerate() {
        out[j] = f32::from(byte & 15) * d + m;
        out[j + 16] = f32::from(byte >> 4) * d + m;
    }
}

/// The fifth bits of the numbers j and j + 16, as 16 or 0.
fn fifth(bits: &[u8], j: usize) -> (u8, u8) {
    let bit = |i: usize| (bits[i / 8] >> (i % 8) & 1) << 4;
    (bit(j), bit(j + 16))
}

fn q5_0(block: &[u8], out: &mut [f32]) {
    let d = half(block, 0);
    for (j, byte) in block[6..].iter().enumerate() {
        let (low, high) = fifth(&block[2..6], j);
        out[j] = (i32::from(byte & 15 | low) - 16) as f32 * d;
        out[j + 16] = (i32::from(byte >> 4 | high) - 16) as f32 * d;
    }
}

fn q5_1(block: &[u8], out: &mut [f32]) {
    let (d, m) = (half(block, 0), half(block, 2));
    for (j, byte) in block[8..].iter().enumerate() {
        let (low, high) = fifth(&block[4..8], j);
        out[j] = f32::from(byte & 15 | low) * d + m;
        out[j + 16] = f32::from(byte >> 4 | high) * d + m;
    }
}

fn q8_0(block: &[u8], out: &mut [f32]) {
    let d = half(block, 0);
    for (out, byte) in out.iter_mut().zip(&block[2..]) {
        *out = f32::from(*byte as i8) * d;
    }
}

fn q2_k(block: &[u8], out: &mut [f32]) {
    let (scales, numbers) = (&block[..16], &block[16..80]);
    let (d, m) = (half(block, 80), half(block, 82));
    for (i, out) in out.chunks_exact_mut(16).enumerate() {
        // Of 128 numbers each 32 lie in the same bytes, two bits higher than the last 32.
        let (first, shift) = (i / 8 * 32 + i % 2 * 16, i % 8 / 2 * 2);
        let (scale, least) = (d * f32::from(scales[i] & 15), m * f32::from(scales[i] >> 4));
        for (out, byte) in out.iter_mut().zip(&numbers[first..]) {
            *out = scale * f32::from(byte >> shift & 3) - least;
        }
    }
}

fn q3_k(block: &[u8], out: &mut [f32]) {
    let (high, numbers, packed) = (&block[..32], &block[32..96], &block[96..108]);
    let d = half(block, 108);
    for (i, out) in out.chunks_exact_mut(16).enumerate() {
        let four = packed[i % 8] >> (i / 8 * 4) & 15;
        let two = packed[8 + i % 4] >> (i / 4 * 2) & 3;
        let scale = d * f32::from((four | two << 4) as i8 - 32);
        let (first, shift) = (i / 8 * 32 + i % 2 * 16, i % 8 / 2 * 2);
        let bit = i / 8 * 4 + i % 8 / 2;
        let bytes = numbers[first..].iter().zip(&high[i % 2 * 16..]);
        for (out, (byte, high)) in out.iter_mut().zip(bytes) {
            let less = if high >> bit & 1 == 0 { 4 } else { 0 };
            *out = scale * f32::from((byte >> shift & 3) as i8 - less);
        }
    }
}

/// Scale and least number of the 32 numbers `i` of a q4_k or q5_k block, 6 bits each.
fn six_bits(packed: &[u8], i: usize) -> (f32, f32) {
    let (scale, least) = if i < 4 {
        (packed[i] & 63, packed[i + 4] & 63)
    } else {
        (packed[i + 4] & 15 | packed[i - 4] >> 6 << 4, packed[i + 4] >> 4 | packed[i] >> 6 << 4)
    };
    (f32::from(scale), f32::from(least))
}

fn q4_k(block: &[u8], out: &mut [f32]) {
    let (d, m) = (half(block, 0), half(block, 2));
    let (packed, numbers) = (&block[4..16], &block[16..]);
    for (i, out) in out.chunks_exact_mut(32).enumerate() {
        let (scale, least) = six_bits(packed, i);
        let (scale, least) = (d * scale, m * least);
        for (out, byte) in out.iter_mut().zip(&numbers[i / 2 * 32..]) {
            *out = scale * f32::from(byte >> (i % 2 * 4) & 15) - least;
        }
    }
}

fn q5_k(block: &[u8], out: &mut [f32]) {
    let (d, m) = (half(block, 0), half(block, 2));
    let (packed, high, numbers) = (&block[4..16], &block[16..48], &block[48..]);
    for (i, out) in out.chunks_exact_mut(32).enumerate() {
        let (scale, least) = six_bits(packed, i);
        let (scale, least) = (d * scale, m * least);
        let bytes = numbers[i / 2 * 32..].iter().zip(high);
        for (out, (byte, high)) in out.iter_mut().zip(bytes) {
            let number = byte >> (i % 2 * 4) & 15 | (high >> i & 1) << 4;
            *out = scale * f32::from(number) - least;
        }
    }
}

fn q6_k(block: &[u8], out: &mut [f32]) {
    let (low, high, scales) = (&block[..128], &block[128..192], &block[192..208]);
    let d = half(block, 208);
    for (i, out) in out.chunks_exact_mut(16).enumerate() {
        // Of 128 numbers: quarters of 32, the lower and the upper four bits of two times 32 bytes.
        let (half, quarter, part) = (i / 8, i % 8 / 2, i % 2 * 16);
        let low = &low[half * 64 + quarter % 2 * 32 + part..];
        let high = &high[half * 32 + part..];
        let scale = d * f32::from(scales[i] as i8);
        for (out, (low, high)) in out.iter_mut().zip(low.iter().zip(high)) {
            let number = low >> (quarter / 2 * 4) & 15 | (high >> (2 * quarter) & 3) << 4;
            *out = scale * f32::from(number as i8 - 32);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::quantized::{GgmlDType, QStorage, QTensor};
    use candle_core::{Device, Tensor};
    use std::borrow::Cow;

    #[test]
    fn numbers_are_candles() {
        let theirs = [
            GgmlDType::Q4_0,
            GgmlDType::Q4_1,
            GgmlDType::Q5_0,
            GgmlDType::Q5_1,
            GgmlDType::Q8_0,
            GgmlDType::Q2K,
            GgmlDType::Q3K,
            GgmlDType::Q4K,
            GgmlDType::Q5K,
            GgmlDType::Q6K,
        ];
        let values = Tensor::randn(0f32, 1.0, (8, SUPER), &Device::Cpu).unwrap();
        for (ours, theirs) in BlockType::ALL.into_iter().zip(theirs) {
            let sizes = (ours.size(), ours.bytes());
            assert_eq!(sizes, (theirs.block_size(), theirs.type_size()), "{ours}");
            let made = QTensor::quantize(&values, theirs).unwrap();
            // What a quantiser makes, and the same with every bit pattern in it.
            let mut stored = made.data().unwrap().into_owned();
            for round in 0..2 {
                let data = Cow::Borrowed(&stored[..]);
                let storage = QStorage::from_data(data, &Device::Cpu, theirs).unwrap();
                let plain = QTensor::new(storage, (8, SUPER)).unwrap();
                let plain = plain.dequantize(&Device::Cpu).unwrap().flatten_all().unwrap();
                let mut out = vec![0.0; 8 * SUPER];
                ours.decode(&stored, &mut out);
                let plain = plain.to_vec1::<f32>().unwrap();
                let same = out.iter().zip(&plain).all(|(a, b)| {
                    a == b || (a - b).abs() <= 1e-6 * b.abs() || a.is_nan() && b.is_nan()
                });
                assert!(same, "{ours}, round {round}: {:?} {:?}", &out[..8], &plain[..8]);
                for (i, byte) in stored.iter_mut().enumerate() {
                    // Exponents of scales stay small.
                    *byte = (*byte ^ (i * 37 % 256) as u8) & 0xbf;
                }
            }
        }
    }
}
