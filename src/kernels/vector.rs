//! Floor 1. Element-wise mathematics on slices, compiled for each vector unit and chosen at run time.
//!
//! The bodies are plain loops that the compiler turns into vector code; each is compiled once for
//! AVX-512, once for AVX2 with FMA and once for the build's own target.

use super::slice;
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

/// Elements of one task.
const CHUNK: usize = 1 << 14;

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

                if is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
                {
                    // SAFETY: the features were just detected.
                    return unsafe { wide($($arg),*) };
                }
                if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                    // SAFETY: the features were just detected.
                    return unsafe { medium($($arg),*) };
                }
            }
            body($($arg),*)
        }
    };
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
    let n = (clamped * std::f32::consts::LOG2_E + ROUND) - ROUND;
    let r = clamped - n * 0.693_359_4 + n * 2.121_944_4e-4;
    let p = 1.987_569_1e-4f32;
    let p = p * r + 1.398_199_9e-3;
    let p = p * r + 8.333_452e-3;
    let p = p * r + 4.166_579_6e-2;
    let p = p * r + 1.666_666_5e-1;
    let p = p * r + 0.5;
    let y = p * r * r + r + 1.0;
    // SAFETY-free bit trick: n is in −126..=127, so the exponent field cannot overflow.
    let power = f32::from_bits((((n as i32) + 127) << 23) as u32);
    let y = y * power;
    if x < -87.3 { 0.0 } else { y }
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
    /// The largest element; −∞ of none.
    pub(super) fn maximum(x: &[f32]) -> f32 {
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
    /// x ← e^(x − shift); returns the sum.
    pub(super) fn exp_sum(x: &mut [f32], shift: f32) -> f32 {
        let mut lanes = [0f32; 16];
        let mut chunks = x.chunks_exact_mut(16);
        for chunk in &mut chunks {
            for (lane, value) in lanes.iter_mut().zip(chunk) {
                *value = exp(*value - shift);
                *lane += *value;
            }
        }
        let mut sum: f32 = lanes.iter().sum();
        for value in chunks.into_remainder() {
            *value = exp(*value - shift);
            sum += *value;
        }
        sum
    }
}

multiversion! {
    /// Mean and variance, in f64 over short f32 sums.
    pub(super) fn moments(x: &[f32]) -> (f64, f64) {
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

multiversion! {
    /// y ← a·x + b, then SiLU when asked.
    pub(super) fn scale_shift(x: &[f32], y: &mut [f32], a: f32, b: f32, silu: bool) {
        if silu {
            for (y, x) in y.iter_mut().zip(x) {
                let v = a * *x + b;
                *y = v / (1.0 + exp(-v));
            }
        } else {
            for (y, x) in y.iter_mut().zip(x) {
                *y = a * *x + b;
            }
        }
    }
}

multiversion! {
    fn geglu_row(value: &[f32], gate: &[f32], y: &mut [f32]) {
        for ((y, v), g) in y.iter_mut().zip(value).zip(gate) {
            *y = *v * *g * 0.5 * (1.0 + erf(*g * std::f32::consts::FRAC_1_SQRT_2));
        }
    }
}

/// value · GELU(gate), the halves of the last dimension of `x`: `[.., 2·D]` → `[.., D]`.
pub(crate) fn geglu(x: &Tensor) -> Result<Tensor> {
    x.contiguous()?.apply_op1_no_bwd(&Geglu)
}

struct Geglu;

impl CustomOp1 for Geglu {
    fn name(&self) -> &'static str {
        "colora-geglu"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = slice(storage, layout)?;
        let mut dims = layout.shape().dims().to_vec();
        let Some(last) = dims.last_mut().filter(|d| **d > 0 && **d % 2 == 0) else {
            candle_core::bail!("geglu: {:?} has no even last dimension", layout.shape());
        };
        *last /= 2;
        let half = *last;
        let mut out = vec![0f32; x.len() / 2];
        let rows = (CHUNK / half).max(1);
        out.par_chunks_mut(rows * half).zip(x.par_chunks(2 * rows * half)).for_each(|(y, x)| {
            for (y, x) in y.chunks_exact_mut(half).zip(x.chunks_exact(2 * half)) {
                let (value, gate) = x.split_at(half);
                geglu_row(value, gate, y);
            }
        });
        Ok((CpuStorage::F32(out), dims.into()))
    }
}
