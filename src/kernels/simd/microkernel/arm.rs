//! The innermost product on 64-bit ARM.
//!
//! Every kernel is unsafe as those of the module above are.
#![allow(unsafe_code)]

use super::{LANES, ROWS, Tile};
use std::arch::aarch64::{
    float32x4_t, uint32x4_t, vaddq_f32, vandq_u32, vdupq_n_f32, vdupq_n_u32, vfmaq_n_f32,
    vld1q_f32, vreinterpretq_f32_u32, vshlq_n_u32, vst1q_f32,
};

/// Vectors of sixteen lanes.
const QUARTERS: usize = LANES / 4;

type Sums = [[float32x4_t; QUARTERS]; ROWS];

/// Adds the products of number `k` of every row with sixteen lanes.
///
/// # Safety
/// Every row holds number `k`.
#[target_feature(enable = "neon")]
#[inline]
unsafe fn add(sums: &mut Sums, tile: &Tile<'_>, k: usize, w: [float32x4_t; QUARTERS]) {
    for (sums, row) in sums.iter_mut().zip(&tile.rows) {
        // SAFETY: the caller's promise.
        let x = unsafe { *row.add(k).cast::<f32>() };
        for (sum, w) in sums.iter_mut().zip(w) {
            *sum = vfmaq_n_f32(*sum, w, x);
        }
    }
}

/// Adds the sums to sixteen columns of the tile or puts them there. A macro: as a function it would keep the
/// sums in memory through the whole loop.
macro_rules! store {
    ($tile:ident, $sums:ident, $column:expr) => {
        for (r, sums) in $sums.into_iter().enumerate() {
            for (v, sum) in sums.into_iter().enumerate() {
                // SAFETY: the caller's promise about `out`.
                unsafe {
                    let out = $tile.out.add(r * $tile.stride + $column + 4 * v);
                    let old = if $tile.add { vld1q_f32(out) } else { vdupq_n_f32(0.0) };
                    vst1q_f32(out, vaddq_f32(old, sum));
                }
            }
        }
    };
}

/// 16 columns after the other: 24 sums, four weights and one input fit into the 32 registers.
#[target_feature(enable = "neon")]
pub(super) unsafe fn floats<const V: usize>(tile: Tile<'_>) {
    for column in (0..V * LANES).step_by(LANES) {
        let mut sums: Sums = [[vdupq_n_f32(0.0); QUARTERS]; ROWS];
        let mut weights = tile.weights.wrapping_add(column).cast::<f32>();
        for segment in tile.segments {
            for k in segment.shift..segment.shift + segment.words {
                // SAFETY: the caller's promise about rows and weights.
                unsafe {
                    let w = std::array::from_fn(|v| vld1q_f32(weights.add(4 * v)));
                    add(&mut sums, &tile, k, w);
                }
                weights = weights.wrapping_add(V * LANES);
            }
        }
        store!(tile, sums, column);
    }
}

/// One half after the other. Words are read anew for the second: kept meanwhile they would push sums out
/// of the registers.
#[target_feature(enable = "neon")]
pub(super) unsafe fn mixed<const V: usize>(tile: Tile<'_>) {
    let upper = vdupq_n_u32(0xffff_0000);
    for column in (0..V * LANES).step_by(LANES) {
        let mut sums: Sums = [[vdupq_n_f32(0.0); QUARTERS]; ROWS];
        let mut weights = tile.weights.wrapping_add(column);
        for segment in tile.segments {
            for k in 0..segment.words {
                let k = segment.shift + 2 * k;
                // SAFETY: the caller's promise about rows and weights.
                unsafe {
                    let low = |w| vreinterpretq_f32_u32(vshlq_n_u32::<16>(w));
                    add(&mut sums, &tile, k, read(weights).map(low));
                    let high = |w| vreinterpretq_f32_u32(vandq_u32(w, upper));
                    add(&mut sums, &tile, k + 1, read(weights).map(high));
                }
                weights = weights.wrapping_add(V * LANES);
            }
        }
        store!(tile, sums, column);
    }
}

/// Sixteen words, which are not taken from an earlier read.
///
/// # Safety
/// `from` is valid for them.
#[target_feature(enable = "neon")]
#[inline]
unsafe fn read(from: *const u32) -> [uint32x4_t; QUARTERS] {
    // SAFETY: the caller's promise; a packed type needs no alignment.
    let quarter =
        |v: usize| unsafe { from.add(4 * v).cast::<Unaligned<uint32x4_t>>().read_volatile().0 };
    std::array::from_fn(quarter)
}

/// A value anywhere.
#[repr(C, packed)]
struct Unaligned<T>(T);
