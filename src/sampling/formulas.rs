//! Formulas that several samplers share.

use crate::error::Result;
use candle_core::Tensor;

/// Moves `x` from noise level `sigma` to `next` with the estimate `denoised` of x₀ held fixed:
/// x + (σ′ − σ)·(x − x₀)/σ, written so that σ′ = 0 gives x₀ exactly. It is Euler's step.
pub(super) fn pull(x: &Tensor, denoised: &Tensor, sigma: f64, next: f64) -> Result<Tensor> {
    let ratio = next / sigma;
    Ok(((x * ratio)? + (denoised * (1.0 - ratio))?)?)
}
