//! The weight side of Winograd's convolution F(2×2, 3×3): each 3×3 kernel `g` becomes the 4×4 tile G·g·Gᵀ.
//!
//! The activation side and the products lie in `product::winograd`.

use crate::kernels::simd::microkernel::LANES;
use crate::kernels::simd::precision::{Precision, round};
use crate::kernels::simd::transpose::Lanes;

/// Positions of a transformed 4×4 tile.
pub(in crate::kernels) const PLACES: usize = 16;

/// The places of many kernels: of taps `[9, numbers]` words `[16, ..]`, places `stride` words apart. Numbers
/// are a multiple of 64, as 32 inputs of 16 outputs are.
pub(in crate::kernels) fn places(
    taps: &[f32],
    precision: Precision,
    out: &mut [u32],
    stride: usize,
) {
    match precision {
        Precision::F32 => places_floats(taps, bytemuck::cast_slice_mut(out), stride),
        Precision::Bf16 => places_halves(taps, bytemuck::cast_slice_mut(out), 2 * stride),
    }
}

/// Numbers of a place that are made at once.
const STRETCH: usize = 64;

type Stretch = [f32; STRETCH];

/// One direction of the kernel's transform.
#[allow(clippy::inline_always)]
#[inline(always)]
fn spread_taps<const N: usize>(a: &[f32; N], b: &[f32; N], c: &[f32; N], out: &mut [[f32; N]; 4]) {
    let [first, second, third, fourth] = out;
    for i in 0..N {
        let outer = a[i] + c[i];
        second[i] = 0.5 * (outer + b[i]);
        third[i] = 0.5 * (outer - b[i]);
    }
    *first = *a;
    *fourth = *c;
}

/// Calls `put` with a stretch of numbers of each place and where they belong.
#[allow(clippy::inline_always)]
#[inline(always)]
fn each_place(taps: &[f32], stride: usize, mut put: impl FnMut(usize, &Stretch)) {
    let count = taps.len() / 9;
    let mut rows = [[[0f32; STRETCH]; 4]; 3];
    let mut column = [[0f32; STRETCH]; 4];
    for at in (0..count).step_by(STRETCH) {
        for (y, row) in rows.iter_mut().enumerate() {
            let tap = |x: usize| taps[(3 * y + x) * count + at..].first_chunk();
            if let (Some(a), Some(b), Some(c)) = (tap(0), tap(1), tap(2)) {
                spread_taps(a, b, c, row);
            }
        }
        let [first, second, third] = &rows;
        for (x, ((a, b), c)) in first.iter().zip(second).zip(third).enumerate() {
            spread_taps(a, b, c, &mut column);
            for (y, numbers) in column.iter().enumerate() {
                put((4 * y + x) * stride + at, numbers);
            }
        }
    }
}

multiversion! {
    fn places_floats(taps: &[f32], out: &mut [f32], stride: usize) {
        each_place(taps, stride, |at, numbers| out[at..at + STRETCH].copy_from_slice(numbers));
    }
}

multiversion! {
    fn places_halves(taps: &[f32], out: &mut [u16], stride: usize) {
        each_place(taps, stride, |at, numbers| {
            for (out, number) in out[at..at + STRETCH].iter_mut().zip(numbers) {
                *out = round(*number);
            }
        });
    }
}

/// The transform G·g·Gᵀ of sixteen kernels, row-major.
#[allow(clippy::inline_always)]
#[inline(always)]
pub(in crate::kernels) fn kernel_places(taps: &[Lanes; 9]) -> [Lanes; PLACES] {
    let mut rows = [[[0f32; LANES]; 4]; 3];
    for (row, taps) in rows.iter_mut().zip(taps.as_chunks::<3>().0) {
        spread_taps(&taps[0], &taps[1], &taps[2], row);
    }
    let mut places = [[0f32; LANES]; PLACES];
    let mut column = [[0f32; LANES]; 4];
    for x in 0..4 {
        spread_taps(&rows[0][x], &rows[1][x], &rows[2][x], &mut column);
        for (y, numbers) in column.iter().enumerate() {
            places[4 * y + x] = *numbers;
        }
    }
    places
}
