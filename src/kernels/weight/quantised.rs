//! Weights of products in blocks of 32 numbers that share a scale.
//!
//! The numbers of a block are neighbouring inputs of one output, within one tap. A panel keeps them in
//! the order in which products read them, so that unpacking a stretch of depth is one pass from front to
//! back: for every 32 inputs the scales of all lanes as f16, then the numbers, in the order of the words
//! (bf16: of their halves) that they become. Of q4_0 a byte holds the numbers i and i + 16 of each 32.
//!
//! # Source
//! Rounding is that of ggml's reference quantisers (`quantize_row_q8_0_ref`, `quantize_row_q4_0_ref`).
//! What they made survives being unpacked and made again unchanged.

use crate::error::{Error, Result};
use crate::kernels::simd::precision::{Precision, round};
use crate::kernels::simd::processor::Instructions;
use half::f16;

/// Numbers that share a scale.
pub(crate) const GROUP: usize = 32;
/// Widest panel: 64 lanes, two bf16 numbers a word.
const WIDEST: usize = 128;

/// How the numbers of a block are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Quantisation {
    /// 8 bits a number, 34 bytes for 32: hardly to be told from the plain numbers.
    Q8_0,
    /// 4 bits a number, 18 bytes for 32.
    Q4_0,
}

impl Quantisation {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Q8_0, Self::Q4_0];

    /// The name in files and settings.
    pub fn name(self) -> &'static str {
        match self {
            Self::Q8_0 => "q8_0",
            Self::Q4_0 => "q4_0",
        }
    }

    /// Bytes of a block.
    pub fn block_bytes(self) -> usize {
        match self {
            Self::Q8_0 => 34,
            Self::Q4_0 => 18,
        }
    }

    /// The blocks of `values`, whose count is a multiple of 32, as ggml stores them one after another.
    ///
    /// A block that holds a number that is not finite becomes NaN.
    pub(crate) fn encode(self, values: &[f32]) -> Vec<u8> {
        let blocks = self.quantise(values);
        let mut out = Vec::with_capacity(blocks.scales.len() * self.block_bytes());
        for (numbers, scale) in blocks.numbers.as_chunks::<GROUP>().0.iter().zip(&blocks.scales) {
            out.extend(scale.to_le_bytes());
            match self {
                Self::Q8_0 => out.extend(numbers.map(|n| n as u8)),
                Self::Q4_0 => {
                    let (low, high) = numbers.split_at(GROUP / 2);
                    out.extend(low.iter().zip(high).map(|(l, h)| nibble(*l) | nibble(*h) << 4));
                }
            }
        }
        out
    }

    /// Takes blocks apart that are stored as ggml does.
    pub(in crate::kernels) fn split(self, stored: &[u8]) -> Blocks {
        let count = stored.len() / self.block_bytes();
        let mut blocks = Blocks { scales: Vec::with_capacity(count), numbers: Vec::new() };
        blocks.numbers.reserve(count * GROUP);
        for block in stored.chunks_exact(self.block_bytes()) {
            let (scale, packed) = block.split_at(2);
            blocks.scales.push(u16::from_le_bytes([scale[0], scale[1]]));
            match self {
                Self::Q8_0 => blocks.numbers.extend(packed.iter().map(|byte| *byte as i8)),
                Self::Q4_0 => {
                    blocks.numbers.extend(packed.iter().map(|byte| (byte & 15) as i8 - 8));
                    blocks.numbers.extend(packed.iter().map(|byte| (byte >> 4) as i8 - 8));
                }
            }
        }
        blocks
    }

    /// Makes blocks of values.
    pub(in crate::kernels) fn quantise(self, values: &[f32]) -> Blocks {
        let mut numbers = vec![0; values.len()];
        let mut scales = vec![0f32; values.len() / GROUP];
        match self {
            Self::Q8_0 => eight_bits(values, &mut numbers, &mut scales),
            Self::Q4_0 => four_bits(values, &mut numbers, &mut scales),
        }
        Blocks { scales: scales.iter().map(|s| f16::from_f32(*s).to_bits()).collect(), numbers }
    }
}

/// Blocks one after another.
pub(in crate::kernels) struct Blocks {
    /// Bits of f16.
    pub(in crate::kernels) scales: Vec<u16>,
    /// 32 for each scale.
    pub(in crate::kernels) numbers: Vec<i8>,
}

fn nibble(number: i8) -> u8 {
    (number + 8) as u8
}

impl std::fmt::Display for Quantisation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for Quantisation {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let named = Self::ALL.into_iter().find(|kind| kind.name() == text);
        named.ok_or_else(|| Error::bad_request("quantize", text, "expected q8_0 or q4_0"))
    }
}

multiversion! {
    /// 8-bit numbers, and the scale of each 32.
    fn eight_bits(values: &[f32], numbers: &mut [i8], scales: &mut [f32]) {
        let blocks = values.as_chunks::<GROUP>().0.iter().zip(numbers.as_chunks_mut::<GROUP>().0);
        for ((values, numbers), out) in blocks.zip(scales) {
            let mut largest = 0f32;
            let mut finite = 0f32;
            for value in values {
                largest = largest.max(value.abs());
                // 0 · ∞ and 0 · NaN are NaN.
                finite += value * 0.0;
            }
            let scale = largest / 127.0;
            let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
            for (number, value) in numbers.iter_mut().zip(values) {
                *number = (value * inverse).round() as i8;
            }
            *out = if finite.is_nan() { f32::NAN } else { scale };
        }
    }
}

multiversion! {
    /// 4-bit numbers, -8 to 7, and the scale of each 32.
    fn four_bits(values: &[f32], numbers: &mut [i8], scales: &mut [f32]) {
        let blocks = values.as_chunks::<GROUP>().0.iter().zip(numbers.as_chunks_mut::<GROUP>().0);
        for ((values, numbers), out) in blocks.zip(scales) {
            let mut largest = 0f32;
            let mut signed = 0f32;
            let mut finite = 0f32;
            for value in values {
                if value.abs() > largest {
                    largest = value.abs();
                    signed = *value;
                }
                finite += value * 0.0;
            }
            let scale = signed / -8.0;
            let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
            for (number, value) in numbers.iter_mut().zip(values) {
                *number = ((value * inverse + 8.5) as i32).clamp(0, 15) as i8 - 8;
            }
            *out = if finite.is_nan() { f32::NAN } else { scale };
        }
    }
}

/// Where a panel keeps things: `lanes` outputs side by side.
#[derive(Debug, Clone, Copy)]
pub(in crate::kernels) struct Layout {
    pub(in crate::kernels) kind: Quantisation,
    pub(in crate::kernels) precision: Precision,
    pub(in crate::kernels) lanes: usize,
}

impl Layout {
    /// Bytes of 32 inputs of all lanes.
    pub(in crate::kernels) fn group_bytes(self) -> usize {
        self.lanes * self.kind.block_bytes()
    }

    /// Place of input `channel` of `lane` among the numbers of its group.
    fn place(self, lane: usize, channel: usize) -> usize {
        match self.precision {
            Precision::F32 => channel * self.lanes + lane,
            Precision::Bf16 => (channel / 2 * self.lanes + lane) * 2 + channel % 2,
        }
    }

    /// Writes a block into its lane of `group`, whose nibbles are zero before.
    pub(in crate::kernels) fn put(self, group: &mut [u8], lane: usize, scale: u16, numbers: &[i8]) {
        let (scales, packed) = group.split_at_mut(2 * self.lanes);
        scales[2 * lane..][..2].copy_from_slice(&scale.to_le_bytes());
        for (channel, number) in numbers.iter().enumerate() {
            let place = self.place(lane, channel);
            match self.kind {
                Quantisation::Q8_0 => packed[place] = *number as u8,
                Quantisation::Q4_0 => {
                    let (byte, shift) = nibble_place(place);
                    packed[byte] |= nibble(*number) << shift;
                }
            }
        }
    }

    /// One number of `group`, unpacked.
    pub(in crate::kernels) fn value(self, group: &[u8], lane: usize, channel: usize) -> f32 {
        let (scales, packed) = group.split_at(2 * self.lanes);
        let scale = f16::from_le_bytes([scales[2 * lane], scales[2 * lane + 1]]).to_f32();
        let place = self.place(lane, channel);
        let number = match self.kind {
            Quantisation::Q8_0 => packed[place] as i8,
            Quantisation::Q4_0 => {
                let (byte, shift) = nibble_place(place);
                (packed[byte] >> shift & 15) as i8 - 8
            }
        };
        f32::from(number) * scale
    }

    /// The words of neighbouring groups.
    pub(in crate::kernels) fn unpack(self, groups: &[u8], out: &mut [u32]) {
        match self.precision {
            Precision::F32 => unpack_floats(self, groups, bytemuck::cast_slice_mut(out)),
            Precision::Bf16 => {
                let out = bytemuck::cast_slice_mut(out);
                #[cfg(target_arch = "x86_64")]
                if Instructions::used() >= Instructions::Avx512Bf16 {
                    // SAFETY: the processor has the instructions.
                    #[allow(unsafe_code)]
                    return unsafe { avx512::unpack_halves(self, groups, out) };
                }
                unpack_halves(self, groups, out);
            }
        }
    }

    /// Every number of neighbouring groups, in the order of its halves or words.
    pub(in crate::kernels) fn unpack_floats(self, groups: &[u8], out: &mut [f32]) {
        unpack_floats(self, groups, out);
    }

    /// The scales of a group as the numbers use them, one after another; returns how many.
    #[allow(clippy::inline_always)]
    #[inline(always)]
    fn scales(self, group: &[u8], out: &mut [f32; WIDEST]) -> usize {
        let scales = group[..2 * self.lanes].as_chunks::<2>().0;
        match self.precision {
            Precision::F32 => {
                for (out, scale) in out.iter_mut().zip(scales) {
                    *out = scale_of(u16::from_le_bytes(*scale));
                }
                self.lanes
            }
            Precision::Bf16 => {
                for (out, scale) in out.as_chunks_mut::<2>().0.iter_mut().zip(scales) {
                    *out = [scale_of(u16::from_le_bytes(*scale)); 2];
                }
                2 * self.lanes
            }
        }
    }

    /// Every number times its scale, in the order of places.
    #[allow(clippy::inline_always)]
    #[inline(always)]
    fn unpack_each<T>(self, groups: &[u8], out: &mut [T], store: impl Fn(f32) -> T) {
        let mut scales = [0f32; WIDEST];
        let all = groups.chunks_exact(self.group_bytes());
        for (group, out) in all.zip(out.chunks_exact_mut(GROUP * self.lanes)) {
            let period = self.scales(group, &mut scales);
            let scales = &scales[..period];
            let packed = &group[2 * self.lanes..];
            match self.kind {
                Quantisation::Q8_0 => {
                    let rows = packed.chunks_exact(period).zip(out.chunks_exact_mut(period));
                    for (packed, out) in rows {
                        for ((out, number), scale) in out.iter_mut().zip(packed).zip(scales) {
                            *out = store(f32::from(*number as i8) * *scale);
                        }
                    }
                }
                Quantisation::Q4_0 => {
                    let rows = packed.as_chunks::<16>().0.iter().zip(out.as_chunks_mut::<32>().0);
                    let mut at = 0;
                    for (packed, out) in rows {
                        for (half, out) in out.chunks_exact_mut(16).enumerate() {
                            let scales = &scales[at..at + 16];
                            for ((out, byte), scale) in out.iter_mut().zip(packed).zip(scales) {
                                let number = i32::from(*byte >> (4 * half) & 15) - 8;
                                *out = store(number as f32 * *scale);
                            }
                            at = if at + 16 == period { 0 } else { at + 16 };
                        }
                    }
                }
            }
        }
    }
}

multiversion! {
    fn unpack_floats(layout: Layout, groups: &[u8], out: &mut [f32]) {
        layout.unpack_each(groups, out, |value| value);
    }
}

multiversion! {
    fn unpack_halves(layout: Layout, groups: &[u8], out: &mut [u16]) {
        layout.unpack_each(groups, out, round);
    }
}

/// Byte and shift of number `place` of 4 bits.
fn nibble_place(place: usize) -> (usize, usize) {
    (place / 32 * 16 + place % 16, place / 16 % 2 * 4)
}

/// The f32 of f16 bits; a NaN for what is not finite.
#[allow(clippy::inline_always)]
#[inline(always)]
fn scale_of(bits: u16) -> f32 {
    // The exponents differ by 112; the product puts subnormal numbers right too.
    let magnitude = f32::from_bits(u32::from(bits & 0x7fff) << 13) * f32::from_bits(239 << 23);
    let value = if bits & 0x8000 == 0 { magnitude } else { -magnitude };
    if bits & 0x7c00 == 0x7c00 { f32::NAN } else { value }
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use super::{GROUP, Layout, Quantisation, WIDEST};
    use std::arch::x86_64::{
        __m128i, __m512bh, __m512i, _mm_and_si128, _mm_loadu_si128, _mm_set1_epi8, _mm_setr_epi8,
        _mm_shuffle_epi8, _mm_srli_epi16, _mm512_cvtepi8_epi32, _mm512_cvtepi32_ps,
        _mm512_cvtne2ps_pbh, _mm512_loadu_ps, _mm512_mul_ps, _mm512_storeu_si512,
    };

    /// As the loop that is compiled for every unit, with the processor's own rounding.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    #[allow(unsafe_code)]
    pub(super) fn unpack_halves(layout: Layout, groups: &[u8], out: &mut [u16]) {
        let mut scales = [0f32; WIDEST];
        let all = groups.chunks_exact(layout.group_bytes());
        for (group, out) in all.zip(out.chunks_exact_mut(GROUP * layout.lanes)) {
            let period = layout.scales(group, &mut scales);
            let packed = &group[2 * layout.lanes..];
            let mut at = 0;
            for (i, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
                let (low, high) = match layout.kind {
                    Quantisation::Q8_0 => {
                        let packed = &packed[32 * i..32 * i + 32];
                        // SAFETY: 32 bytes.
                        unsafe { (load(packed.as_ptr()), load(packed.as_ptr().add(16))) }
                    }
                    Quantisation::Q4_0 => {
                        let packed = &packed[16 * i..16 * i + 16];
                        // SAFETY: 16 bytes.
                        nibbles(unsafe { load(packed.as_ptr()) })
                    }
                };
                let scales = &scales[at..at + 32];
                // SAFETY: 32 scales and 32 halves; their number is a multiple of 32.
                unsafe {
                    let words = halves(low, high, scales.as_ptr());
                    _mm512_storeu_si512(out.as_mut_ptr().cast(), words);
                }
                at = if at + 32 == period { 0 } else { at + 32 };
            }
        }
    }

    #[target_feature(enable = "avx512f")]
    #[allow(unsafe_code)]
    unsafe fn load(bytes: *const u8) -> __m128i {
        // SAFETY: the caller has 16 bytes.
        unsafe { _mm_loadu_si128(bytes.cast()) }
    }

    /// The lower and the upper four bits of every byte, less 8.
    #[target_feature(enable = "avx512f")]
    fn nibbles(bytes: __m128i) -> (__m128i, __m128i) {
        let table = _mm_setr_epi8(-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7);
        let mask = _mm_set1_epi8(15);
        let low = _mm_and_si128(bytes, mask);
        let high = _mm_and_si128(_mm_srli_epi16::<4>(bytes), mask);
        (_mm_shuffle_epi8(table, low), _mm_shuffle_epi8(table, high))
    }

    /// 32 numbers times 32 scales as bf16.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    #[allow(unsafe_code)]
    unsafe fn halves(low: __m128i, high: __m128i, scales: *const f32) -> __m512i {
        // SAFETY: the caller has 32 scales.
        let (first, second) = unsafe { (_mm512_loadu_ps(scales), _mm512_loadu_ps(scales.add(16))) };
        let low = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(low)), first);
        let high = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(high)), second);
        let words: __m512bh = _mm512_cvtne2ps_pbh(high, low);
        // SAFETY: both are 64 bytes without invalid patterns.
        unsafe { std::mem::transmute(words) }
    }
}

#[cfg(test)]
mod tests;
