//! Euler's method.

use super::{Denoiser, Integrator, Sigmas, Step};
use crate::error::Result;
use candle_core::Tensor;

/// Euler's method on dx/dσ = (x − x₀)/σ: Karras et al. (2022), Algorithm 2 without churn;
/// diffusers' EulerDiscreteScheduler 0.42.
#[derive(Debug)]
pub(super) struct Euler;

impl Integrator for Euler {
    fn step(
        &mut self,
        model: &dyn Denoiser,
        x: &Tensor,
        sigmas: &Sigmas,
        index: usize,
    ) -> Result<Step> {
        let (sigma, next) = (sigmas.sigmas[index], sigmas.sigmas[index + 1]);
        let denoised = model.denoise(x, sigma)?;
        let x = euler_step(x, &denoised, sigma, next)?;
        Ok(Step { x, denoised })
    }
}

/// x + (σ' − σ)·(x − x₀)/σ, written so that σ' = 0 gives x₀ exactly.
pub(super) fn euler_step(x: &Tensor, denoised: &Tensor, sigma: f64, next: f64) -> Result<Tensor> {
    let ratio = next / sigma;
    Ok(((x * ratio)? + (denoised * (1.0 - ratio))?)?)
}
