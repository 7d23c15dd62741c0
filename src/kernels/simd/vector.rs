//! Element-wise mathematics on slices, compiled for each vector unit and chosen at run time.
//!
//! The bodies are plain loops that the compiler turns into vector code; each is compiled once for
//! AVX-512, once for AVX2 with FMA and once for the build's own target.

#[cfg(target_arch = "x86_64")]
use crate::kernels::simd::avx512;
use crate::kernels::simd::precision::round;
#[cfg(target_arch = "x86_64")]
use crate::kernels::simd::processor::Instructions;
use half::f16;
use half::slice::HalfFloatSliceExt;

/// Defines `$name` with one compiled body per vector unit.
macro_rules! multiversion {
    ($(#[$doc:meta])* $vis:vis fn $name:ident($($arg:ident: $type:ty),*) $(-> $out:ty)? $body:block) => {
        $(#[$doc])*
        #[allow(unsafe_code, clippy::inline_always)]
        $vis fn $name($($arg: $type),*) $(-> $out)? {
            #[inline(always)]
            fn body($($arg: $type),*) $(-> $out)? $body

            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512dq,avx512vl,avx2,fma")]
                fn wide($($arg: $type),*) $(-> $out)? { body($($arg),*) }
                #[target_feature(enable = "avx2,fma")]
                fn medium($($arg: $type),*) $(-> $out)? { body($($arg),*) }

                let used = $crate::kernels::Instructions::used();
                if used >= $crate::kernels::Instructions::Avx512 {
                    // SAFETY: the processor has the features.
                    return unsafe { wide($($arg),*) };
                }
                if used == $crate::kernels::Instructions::Avx2 {
                    // SAFETY: as above.
                    return unsafe { medium($($arg),*) };
                }
            }
            body($($arg),*)
        }
    };
}

/// Fills `out` from as many f16 numbers, little-endian.
pub(crate) fn widen(bytes: &[u8], out: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    if Instructions::used() >= Instructions::Avx512 && bytes.len() >= 2 * out.len() {
        // SAFETY: the processor has the features.
        #[allow(unsafe_code)]
        return unsafe { avx512::widen(bytes, out) };
    }
    let mut bits = [f16::ZERO; 1024];
    for (bytes, out) in bytes.chunks(2 * bits.len()).zip(out.chunks_mut(bits.len())) {
        let bits = &mut bits[..out.len()];
        for (bytes, bits) in bytes.as_chunks().0.iter().zip(&mut *bits) {
            *bits = f16::from_le_bytes(*bytes);
        }
        bits.convert_to_f32_slice(out);
    }
}

/// e^x to about 2 units in the last place, without branches; 0 below −87.3, finite above 88.3.
///
/// Cephes' `expf`: reduction by ln 2 in two parts, a polynomial of degree 5, the exponent put in by
/// bits. A NaN stays one.
#[allow(clippy::inline_always)]
#[inline(always)]
fn exp(x: f32) -> f32 {
    // Adding and subtracting 1.5·2²³ rounds to the nearest integer.
    const ROUND: f32 = 12_582_912.0;
    let clamped = if x < -87.3 { -87.3 } else { x };
    let clamped = if clamped > 88.3 { 88.3 } else { clamped };
    let shifted = clamped * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = clamped - n * 0.693_359_4 + n * 2.121_944_4e-4;
    let p = 1.987_569_1e-4f32;
    let p = p * r + 1.398_199_9e-3;
    let p = p * r + 8.333_452e-3;
    let p = p * r + 4.166_579_6e-2;
    let p = p * r + 1.666_666_5e-1;
    let p = p * r + 0.5;
    let y = p * r * r + r + 1.0;
    let y = y * power_of_two(shifted);
    if x < -87.3 { 0.0 } else { y }
}

/// 2ⁿ of n + 1.5·2²³ for whole n in −126..=127: the lowest bits hold n, and are moved into the exponent.
#[allow(clippy::inline_always)]
#[inline(always)]
fn power_of_two(shifted: f32) -> f32 {
    f32::from_bits((shifted.to_bits() << 23).wrapping_add(1.0f32.to_bits()))
}

/// erf to 1.5e-7: Abramowitz and Stegun 7.1.26.
#[allow(clippy::inline_always)]
#[inline(always)]
fn erf(x: f32) -> f32 {
    let a = x.abs();
    let t = 1.0 / (1.0 + 0.327_591_1 * a);
    let p = 1.061_405_4f32;
    let p = p * t - 1.453_152;
    let p = p * t + 1.421_413_7;
    let p = p * t - 0.284_496_74;
    let p = p * t + 0.254_829_6;
    let y = 1.0 - p * t * exp(-a * a);
    y.copysign(x)
}

multiversion! {
    /// out ← GELU(x), exact or quick.
    pub(in crate::kernels) fn gelu_row(x: &[f32], quick: bool, out: &mut [f32]) {
        if quick {
            for (out, x) in out.iter_mut().zip(x) {
                *out = x / (1.0 + exp(-1.702 * x));
            }
        } else {
            for (out, x) in out.iter_mut().zip(x) {
                *out = 0.5 * x * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2));
            }
        }
    }
}

multiversion! {
    /// The largest element; −∞ of none.
    pub(in crate::kernels) fn maximum(x: &[f32]) -> f32 {
        let mut lanes = [f32::NEG_INFINITY; 16];
        let mut chunks = x.chunks_exact(16);
        for chunk in &mut chunks {
            for (lane, value) in lanes.iter_mut().zip(chunk) {
                *lane = if *value > *lane { *value } else { *lane };
            }
        }
        let rest = chunks.remainder().iter();
        lanes.iter().chain(rest).fold(f32::NEG_INFINITY, |m, v| if *v > m { *v } else { m })
    }
}

multiversion! {
    /// Mean and variance, in f64 over short f32 sums.
    pub(in crate::kernels) fn moments(x: &[f32]) -> (f64, f64) {
        let count = x.len().max(1) as f64;
        let mut sum = 0f64;
        for block in x.chunks(1024) {
            let mut lanes = [0f32; 16];
            let mut chunks = block.chunks_exact(16);
            for chunk in &mut chunks {
                for (lane, value) in lanes.iter_mut().zip(chunk) {
                    *lane += *value;
                }
            }
            sum += lanes.iter().chain(chunks.remainder()).map(|v| f64::from(*v)).sum::<f64>();
        }
        let mean = sum / count;
        let middle = mean as f32;
        let mut squares = 0f64;
        for block in x.chunks(1024) {
            let mut lanes = [0f32; 16];
            let mut chunks = block.chunks_exact(16);
            for chunk in &mut chunks {
                for (lane, value) in lanes.iter_mut().zip(chunk) {
                    let d = *value - middle;
                    *lane += d * d;
                }
            }
            let rest: f64 = chunks.remainder().iter().map(|v| f64::from((v - middle) * (v - middle))).sum();
            squares += lanes.iter().map(|v| f64::from(*v)).sum::<f64>() + rest;
        }
        (mean, squares / count)
    }
}

/// 2^x to about one unit in the last place, or to 1e-4 when `rough`; 0 below −126.
#[allow(clippy::inline_always)]
#[inline(always)]
fn power(x: f32, rough: bool) -> f32 {
    // Adding and subtracting 1.5·2²³ rounds to the nearest integer.
    const ROUND: f32 = 12_582_912.0;
    let clamped = if x < -126.0 { -126.0 } else { x };
    let clamped = if clamped > 127.0 { 127.0 } else { clamped };
    let shifted = clamped + ROUND;
    let r = clamped - (shifted - ROUND);
    let y = if rough {
        // Least squares on −0.5..0.5.
        let y = 5.508_868_4e-2 * r + 2.426_040_5e-1;
        (y * r + 6.932_762e-1) * r + 9.999_289_4e-1
    } else {
        let y = 1.540_353e-4 * r + 1.333_355_8e-3;
        let y = y * r + 9.618_129e-3;
        let y = y * r + 5.550_411e-2;
        let y = y * r + 2.402_265e-1;
        let y = y * r + std::f32::consts::LN_2;
        y * r + 1.0
    };
    let y = y * power_of_two(shifted);
    if x < -126.0 { 0.0 } else { y }
}

multiversion! {
    /// out ← 2^(x − shift); returns the sum.
    fn powers_plain(x: &[f32], shift: f32, out: &mut [f32]) -> f32 {
        let mut lanes = [0f32; 16];
        let whole = x.len() / 16 * 16;
        for (x, out) in x[..whole].chunks_exact(16).zip(out.chunks_exact_mut(16)) {
            for ((x, out), lane) in x.iter().zip(out).zip(&mut lanes) {
                let y = power(*x - shift, false);
                *out = y;
                *lane += y;
            }
        }
        let mut sum: f32 = lanes.iter().sum();
        for (x, out) in x[whole..].iter().zip(&mut out[whole..]) {
            *out = power(*x - shift, false);
            sum += *out;
        }
        sum
    }
}

multiversion! {
    /// The same rounded to bf16; the sum is that of the numbers before rounding.
    fn powers_halves_plain(x: &[f32], shift: f32, out: &mut [u16]) -> f32 {
        let mut lanes = [0f32; 16];
        let whole = x.len() / 16 * 16;
        for (x, out) in x[..whole].chunks_exact(16).zip(out.chunks_exact_mut(16)) {
            for ((x, out), lane) in x.iter().zip(out).zip(&mut lanes) {
                let y = power(*x - shift, true);
                *out = round(y);
                *lane += y;
            }
        }
        let mut sum: f32 = lanes.iter().sum();
        for (x, out) in x[whole..].iter().zip(&mut out[whole..]) {
            let y = power(*x - shift, true);
            *out = round(y);
            sum += y;
        }
        sum
    }
}

multiversion! {
    /// out ← factor · x.
    pub(in crate::kernels) fn scaled(x: &[f32], factor: f32, out: &mut [f32]) {
        for (out, x) in out.iter_mut().zip(x) {
            *out = factor * *x;
        }
    }
}

multiversion! {
    /// x ← factor · x.
    pub(in crate::kernels) fn scale_by(x: &mut [f32], factor: f32) {
        for x in x {
            *x *= factor;
        }
    }
}

multiversion! {
    /// out ← the bf16 of factor · x; what is left of `out` becomes 0.
    pub(in crate::kernels) fn scaled_halves(x: &[f32], factor: f32, out: &mut [u16]) {
        for (out, x) in out.iter_mut().zip(x) {
            *out = round(factor * *x);
        }
        let rest = x.len().min(out.len());
        out[rest..].fill(0);
    }
}

multiversion! {
    /// For each channel the sums of x − first and of its square, over pixels of `first.len()` channels.
    pub(in crate::kernels) fn channel_sums(x: &[f32], first: &[f32], out: &mut [(f64, f64)]) {
        let channels = first.len();
        let mut sums = vec![0f32; channels];
        let mut squares = vec![0f32; channels];
        // Short stretches, so that f32 loses nothing that matters.
        for stretch in x.chunks(channels * 64) {
            sums.fill(0.0);
            squares.fill(0.0);
            for pixel in stretch.chunks_exact(channels) {
                for (((x, first), sum), square) in
                    pixel.iter().zip(first).zip(&mut sums).zip(&mut squares)
                {
                    let d = *x - *first;
                    *sum += d;
                    *square += d * d;
                }
            }
            for ((out, sum), square) in out.iter_mut().zip(&sums).zip(&squares) {
                out.0 += f64::from(*sum);
                out.1 += f64::from(*square);
            }
        }
    }
}

multiversion! {
    /// out ← (x − mean) · rate · weight + bias.
    pub(in crate::kernels) fn normalise(x: &[f32], mean: f32, rate: f32, weight: &[f32], bias: &[f32], out: &mut [f32]) {
        for (((out, x), weight), bias) in out.iter_mut().zip(x).zip(weight).zip(bias) {
            *out = (*x - mean) * rate * *weight + *bias;
        }
    }
}

/// What happens to each number of a pixel.
#[derive(Debug, Clone, Copy)]
pub(in crate::kernels) struct Change<'a> {
    /// `[C]`, or empty for 1 and 0.
    pub(in crate::kernels) scale: &'a [f32],
    pub(in crate::kernels) shift: &'a [f32],
    pub(in crate::kernels) silu: bool,
}

impl Change<'_> {
    pub(in crate::kernels) const NONE: Change<'static> =
        Change { scale: &[], shift: &[], silu: false };
}

#[allow(clippy::inline_always)]
#[inline(always)]
fn silu(x: f32) -> f32 {
    x / (1.0 + exp(-x))
}

/// Calls `f(out, y)` for every changed number of every pixel.
#[allow(clippy::inline_always)]
#[inline(always)]
fn each_changed<T>(
    x: &[f32],
    change: &Change<'_>,
    channels: usize,
    out: &mut [T],
    (stride, offset): (usize, usize),
    f: impl Fn(f32) -> T,
) {
    for (x, out) in x.chunks_exact(channels).zip(out.chunks_mut(stride)) {
        let out = &mut out[offset..offset + channels];
        if change.scale.is_empty() {
            for (out, x) in out.iter_mut().zip(x) {
                *out = f(if change.silu { silu(*x) } else { *x });
            }
        } else {
            let changes = change.scale[..channels].iter().zip(&change.shift[..channels]);
            if change.silu {
                for ((out, x), (a, b)) in out.iter_mut().zip(x).zip(changes) {
                    *out = f(silu(*a * *x + *b));
                }
            } else {
                for ((out, x), (a, b)) in out.iter_mut().zip(x).zip(changes) {
                    *out = f(*a * *x + *b);
                }
            }
        }
    }
}

multiversion! {
    /// Pixels of `channels` numbers, changed, into pixels (stride, offset) apart.
    fn prepare_floats_plain(
        x: &[f32],
        change: &Change<'_>,
        channels: usize,
        out: &mut [f32],
        place: (usize, usize)
    ) {
        each_changed(x, change, channels, out, place, |y| y);
    }
}

multiversion! {
    /// The same rounded to bf16. Behind an odd number of channels, which fill whole pixels, stands 0.
    fn prepare_halves_plain(
        x: &[f32],
        change: &Change<'_>,
        channels: usize,
        out: &mut [u16],
        place: (usize, usize)
    ) {
        each_changed(x, change, channels, out, place, round);
    }
}

/// One row of a finished tile.
#[derive(Debug, Default)]
pub(in crate::kernels) struct Row<'a> {
    pub(in crate::kernels) sums: &'a [f32],
    pub(in crate::kernels) bias: &'a [f32],
    /// As long as the sums, or empty.
    pub(in crate::kernels) add: &'a [f32],
    pub(in crate::kernels) out: &'a mut [f32],
}

multiversion! {
    /// out ← (sums + bias + add) · scale, row by row.
    pub(in crate::kernels) fn finish_rows(rows: &mut [Row<'_>], scale: f32) {
        for row in rows {
            let sums = row.sums.iter().zip(row.bias);
            if row.add.is_empty() {
                for (out, (sum, bias)) in row.out.iter_mut().zip(sums) {
                    *out = (*sum + *bias) * scale;
                }
            } else {
                for ((out, (sum, bias)), add) in row.out.iter_mut().zip(sums).zip(row.add) {
                    *out = (*add + (*sum + *bias)) * scale;
                }
            }
        }
    }
}

multiversion! {
    /// out ← (value + bias) · GELU(gate + bias).
    fn gate_row_plain(x: (&[f32], &[f32]), bias: (&[f32], &[f32]), out: &mut [f32]) {
        let values = x.0.iter().zip(bias.0);
        let gates = x.1.iter().zip(bias.1);
        for ((out, (v, a)), (g, b)) in out.iter_mut().zip(values).zip(gates) {
            let (v, g) = (*v + *a, *g + *b);
            *out = v * g * 0.5 * (1.0 + erf(g * std::f32::consts::FRAC_1_SQRT_2));
        }
    }
}

/// Defines `$name` as the loop for AVX-512 where the processor has it, else as the plain one.
macro_rules! dispatched {
    ($(#[$doc:meta])* fn $name:ident($($arg:ident: $type:ty),*) $(-> $out:ty)? { $wide:expr, $plain:expr }) => {
        $(#[$doc])*
        #[allow(unsafe_code)]
        pub(in crate::kernels) fn $name($($arg: $type),*) $(-> $out)? {
            #[cfg(target_arch = "x86_64")]
            if $crate::kernels::Instructions::used() >= $crate::kernels::Instructions::Avx512 {
                // SAFETY: the processor has the instructions.
                return unsafe { $wide };
            }
            $plain
        }
    };
}

dispatched! {
    /// out ← 2^(x − shift); returns the sum.
    fn powers(x: &[f32], shift: f32, out: &mut [f32]) -> f32 {
        avx512::powers(x, shift, out), powers_plain(x, shift, out)
    }
}

dispatched! {
    /// The same rounded to bf16; the sum is that of the numbers before rounding.
    fn powers_halves(x: &[f32], shift: f32, out: &mut [u16]) -> f32 {
        avx512::powers_halves(x, shift, out), powers_halves_plain(x, shift, out)
    }
}

dispatched! {
    /// out ← (value + bias) · GELU(gate + bias).
    fn gate_row(x: (&[f32], &[f32]), bias: (&[f32], &[f32]), out: &mut [f32]) {
        avx512::gate_row(x, bias, out), gate_row_plain(x, bias, out)
    }
}

/// Calls `$loop` with whether there is a scale, and whether there is SiLU, as constants.
#[cfg(target_arch = "x86_64")]
macro_rules! by_change {
    ($loop:ident, $x:ident, $change:ident, $channels:ident, $out:ident, $place:ident) => {{
        let affine = ($change.scale, $change.shift);
        match ($change.scale.is_empty(), $change.silu) {
            (true, false) => avx512::$loop::<false, false>($x, affine, $channels, $out, $place),
            (true, true) => avx512::$loop::<false, true>($x, affine, $channels, $out, $place),
            (false, false) => avx512::$loop::<true, false>($x, affine, $channels, $out, $place),
            (false, true) => avx512::$loop::<true, true>($x, affine, $channels, $out, $place),
        }
    }};
}

dispatched! {
    /// Pixels of `channels` numbers, changed, into pixels (stride, offset) apart.
    fn prepare_floats(
        x: &[f32],
        change: &Change<'_>,
        channels: usize,
        out: &mut [f32],
        place: (usize, usize)
    ) {
        by_change!(prepare_floats, x, change, channels, out, place),
        prepare_floats_plain(x, change, channels, out, place)
    }
}

/// The same rounded to bf16. Behind an odd number of channels, which fill whole pixels, stands 0.
pub(in crate::kernels) fn prepare_halves(
    x: &[f32],
    change: &Change<'_>,
    channels: usize,
    out: &mut [u16],
    place: (usize, usize),
) {
    check_change(change, channels);
    prepare_rounded(x, change, channels, out, place);
    if channels % 2 == 1 {
        for out in out.chunks_mut(place.0) {
            out[place.1 + channels] = 0;
        }
    }
}

fn check_change(change: &Change<'_>, channels: usize) {
    let enough = |s: &[f32]| s.is_empty() || s.len() >= channels;
    assert!(enough(change.scale) && change.scale.len() == change.shift.len(), "size of a change");
}

dispatched! {
    fn prepare_rounded(
        x: &[f32],
        change: &Change<'_>,
        channels: usize,
        out: &mut [u16],
        place: (usize, usize)
    ) {
        by_change!(prepare_halves, x, change, channels, out, place),
        prepare_halves_plain(x, change, channels, out, place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn powers_of_two_are_exact_enough() {
        for i in -1996..=200 {
            let x = i as f32 * 0.0631;
            let exact = f64::from(x).exp2();
            let far = |y: f32| (f64::from(y) - exact).abs() / exact.max(1e-38);
            assert!(far(power(x, false)) < 3e-7, "{x}");
            assert!(far(power(x, true)) < 2e-4, "{x}");
        }
        assert_eq!((power(-1e30, true), power(f32::NEG_INFINITY, false)), (0.0, 0.0));
    }

    #[test]
    fn loops_for_one_processor_equal_the_plain_ones() {
        let x: Vec<f32> = (0..999).map(|i| ((i * 37 % 101) as f32 - 50.0) * 0.37).collect();
        let bias: Vec<f32> = x.iter().rev().map(|v| v * 0.1).collect();
        let close = |a: &[f32], b: &[f32]| {
            a.iter().zip(b).all(|(a, b)| (a - b).abs() <= 2e-6 * b.abs().max(1e-3))
        };
        for count in [1, 15, 16, 17, 37, 96, 999] {
            let (x, bias) = (&x[..count], &bias[..count]);
            let (mut a, mut b) = (vec![0f32; count], vec![0f32; count]);
            let sums = (powers(x, 20.0, &mut a), powers_plain(x, 20.0, &mut b));
            assert!(close(&a, &b) && (sums.0 - sums.1).abs() <= 1e-5 * sums.1, "{count}");
            let (mut c, mut d) = (vec![0u16; count], vec![0u16; count]);
            let sums = (powers_halves(x, 20.0, &mut c), powers_halves_plain(x, 20.0, &mut d));
            assert!((sums.0 - sums.1).abs() <= 1e-5 * sums.1, "{count}");
            assert!(c.iter().zip(&d).all(|(a, b)| a.abs_diff(*b) <= 1), "{count}");
            gate_row((x, bias), (bias, x), &mut a);
            gate_row_plain((x, bias), (bias, x), &mut b);
            assert!(
                a.iter().zip(&b).all(|(a, b)| (a - b).abs() <= 3e-6 * b.abs().max(1.0)),
                "{count}"
            );
            for silu in [false, true] {
                for scale in [&[][..], x] {
                    let shift = if scale.is_empty() { scale } else { bias };
                    let change = Change { scale, shift, silu };
                    prepare_floats(x, &change, count, &mut a, (count, 0));
                    prepare_floats_plain(x, &change, count, &mut b, (count, 0));
                    assert!(close(&a, &b), "{count} {silu}");
                    prepare_rounded(x, &change, count, &mut c, (count, 0));
                    prepare_halves_plain(x, &change, count, &mut d, (count, 0));
                    assert!(c.iter().zip(&d).all(|(a, b)| a.abs_diff(*b) <= 1), "{count} {silu}");
                }
            }
        }
    }

    #[test]
    fn extreme_values_stay_finite() {
        let x = [-1e30, -100.0, -0.0, 0.0, 100.0, 1e30];
        let mut y = [0f32; 6];
        let change = Change { silu: true, ..Change::NONE };
        prepare_floats(&x, &change, 6, &mut y, (6, 0));
        assert!(y.iter().all(|v| v.is_finite()), "{y:?}");
        assert_eq!(&y[4..], &[100.0, 1e30]);
        let (value, gate) = ([1f32, 1.0, 1.0], [-1e4, 1e4, f32::NAN]);
        let zero = [0f32; 3];
        let mut y = [0f32; 3];
        gate_row((&value, &gate), (&zero, &zero), &mut y);
        assert_eq!(&y[..2], &[0.0, 1e4]);
        assert!(y[2].is_nan(), "a NaN must not be hidden");
    }
}
