//! DDIM.

use super::bounds::Bounds;
use super::euler::euler_step;
use super::{Denoiser, Integrator, Sigmas, Step};
use crate::error::Result;
use candle_core::Tensor;

/// DDIM with η = 0: Song et al. (2020), eq. 12; diffusers' DDIMScheduler 0.42.
///
/// In the σ convention the rule is Euler's. What makes it DDIM is where it goes: diffusers aims at
/// timestep t − T/N, which with rounded spacings is not always the next one of the list, and then
/// reads the latents as if they were there (keeping them in variance-preserving scale).
#[derive(Debug)]
pub(super) struct Ddim;

impl Integrator for Ddim {
    fn step(
        &mut self,
        model: &dyn Denoiser,
        x: &Tensor,
        sigmas: &Sigmas,
        index: usize,
    ) -> Result<Step> {
        let (sigma, next) = (sigmas.sigmas[index], sigmas.sigmas[index + 1]);
        let target = sigmas.targets.get(index).copied().unwrap_or(next);
        let mut denoised = model.denoise(x, sigma)?;
        let mut x = euler_step(x, &denoised, sigma, target)?;
        if sigmas.bounds != Bounds::Free {
            // The noise that is left stays that of the estimate without bounds.
            let bounded = sigmas.bounds.apply(&denoised)?;
            x = (x + (&bounded - &denoised)?)?;
            denoised = bounded;
        }
        if (target - next).abs() > 1e-9 {
            x = (x * ((1.0 + next * next) / (1.0 + target * target)).sqrt())?;
        }
        Ok(Step { x, denoised })
    }
}
