//! Floor 2. DPM-Solver++.

use super::euler::euler_step;
use super::{Denoiser, Integrator, Sigmas, Step};
use crate::error::Result;
use candle_core::Tensor;

/// DPM-Solver++(2M): Lu et al. (2022), Algorithm 2, midpoint form; diffusers'
/// DPMSolverMultistepScheduler 0.42 and k-diffusion's `sample_dpmpp_2m`.
#[derive(Debug, Default)]
pub(super) struct DpmPp2m {
    /// x₀ of the step before, and its σ.
    previous: Option<(Tensor, f64)>,
}

impl Integrator for DpmPp2m {
    fn step(
        &mut self,
        model: &dyn Denoiser,
        x: &Tensor,
        sigmas: &Sigmas,
        index: usize,
    ) -> Result<Step> {
        let (sigma, next) = (sigmas.sigmas[index], sigmas.sigmas[index + 1]);
        let denoised = model.denoise(x, sigma)?;
        // The first step has no history; the step to σ = 0 has an infinite log-SNR distance. diffusers
        // also ends short runs with a first-order step when the last σ is not zero.
        let last = index + 1 == sigmas.steps();
        let first_order = next == 0.0 || (last && sigmas.steps() < 15 && sigmas.short_runs_end_low);
        let estimate = match &self.previous {
            Some((before, sigma_before)) if !first_order => {
                // λ = −ln σ: steps are measured in half log-SNR.
                let h = (sigma / next).ln();
                let h_before = (sigma_before / sigma).ln();
                let weight = h / (2.0 * h_before);
                ((&denoised * (1.0 + weight))? - (before * weight)?)?
            }
            _ => denoised.clone(),
        };
        let x = euler_step(x, &estimate, sigma, next)?;
        self.previous = Some((denoised.clone(), sigma));
        Ok(Step { x, denoised })
    }
}
