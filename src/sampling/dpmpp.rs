//! DPM-Solver++.

use super::euler::euler_step;
use super::{Denoiser, Integrator, Sigmas, Step};
use crate::error::Result;
use candle_core::Tensor;

/// The rule of DPM-Solver++ in one run, as a scheduler config chooses it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Solver {
    /// Whether every step is of first order.
    pub first_order: bool,
    /// Heun's form of the second order instead of the midpoint's.
    pub heun: bool,
    /// Whether the last step is of first order though the run ends above zero.
    pub ends_low: bool,
}

/// DPM-Solver++(2M): Lu et al. (2022), Algorithm 2; diffusers' DPMSolverMultistepScheduler 0.42 and
/// k-diffusion's `sample_dpmpp_2m`.
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
        let denoised = sigmas.bounds.apply(&model.denoise(x, sigma)?)?;
        let solver = sigmas.solver;
        // The first step has no history; the step to σ = 0 has an infinite log-SNR distance.
        let last = index + 1 == sigmas.steps();
        let first_order = next == 0.0 || solver.first_order || (last && solver.ends_low);
        let estimate = match &self.previous {
            Some((before, sigma_before)) if !first_order => {
                // λ = −ln σ: steps are measured in half log-SNR.
                let h = (sigma / next).ln();
                let h_before = (sigma_before / sigma).ln();
                let weight = if solver.heun {
                    (1.0 / (1.0 - next / sigma) - 1.0 / h) * h / h_before
                } else {
                    h / (2.0 * h_before)
                };
                ((&denoised * (1.0 + weight))? - (before * weight)?)?
            }
            _ => denoised.clone(),
        };
        let x = euler_step(x, &estimate, sigma, next)?;
        self.previous = Some((denoised.clone(), sigma));
        Ok(Step { x, denoised })
    }
}
