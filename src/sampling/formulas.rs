//! Formulas that several samplers share.

use crate::error::{Error, Result};
use candle_core::Tensor;

/// Moves `x` from noise level `sigma` to `next` with the estimate `denoised` of x₀ held fixed:
/// x + (σ′ − σ)·(x − x₀)/σ, written so that σ′ = 0 gives x₀ exactly. It is Euler's step.
pub(super) fn pull(x: &Tensor, denoised: &Tensor, sigma: f64, next: f64) -> Result<Tensor> {
    let ratio = next / sigma;
    Ok(((x * ratio)? + (denoised * (1.0 - ratio))?)?)
}

/// dx/dσ at `x`, whose noise level is `sigma`: (x − x₀)/σ, the noise itself.
pub(super) fn slope(x: &Tensor, denoised: &Tensor, sigma: f64) -> Result<Tensor> {
    Ok(((x - denoised)? / sigma)?)
}

/// x + factor·y.
pub(super) fn plus(x: &Tensor, factor: f64, y: &Tensor) -> Result<Tensor> {
    Ok((x + (y * factor)?)?)
}

/// Σ wᵢ·tᵢ of the first `weights.len()` of `tensors`, which are as many at least.
pub(super) fn combined(tensors: &[Tensor], weights: &[f64]) -> Result<Tensor> {
    let mut terms = tensors.iter().zip(weights);
    let Some((first, weight)) = terms.next() else {
        return Err(Error::Internal("a sum without terms".into()));
    };
    let mut sum = (first * *weight)?;
    for (tensor, weight) in terms {
        sum = plus(&sum, *weight, tensor)?;
    }
    Ok(sum)
}
