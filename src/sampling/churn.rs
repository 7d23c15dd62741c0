//! Noise that raises the level before a step: churn.

use super::grid::Grid;
use super::noise::NoiseSource;
use super::options::{OptionSpec, S_NOISE, SamplerOptions};
use crate::error::Result;
use candle_core::Tensor;

const S_CHURN: OptionSpec = OptionSpec {
    name: "s_churn",
    label: "Sigma churn",
    default: 0.0,
    least: 0.0,
    most: 100.0,
    help: "how far noise raises the levels, over the whole run; 0 is not at all",
};

const S_TMIN: OptionSpec = OptionSpec {
    name: "s_tmin",
    label: "Sigma tmin",
    default: 0.0,
    least: 0.0,
    most: 1e6,
    help: "least noise level with churn",
};

const S_TMAX: OptionSpec = OptionSpec {
    name: "s_tmax",
    label: "Sigma tmax",
    default: 1e6,
    least: 0.0,
    most: 1e6,
    help: "largest noise level with churn",
};

/// Karras et al. (2022), Algorithm 2, lines 4 to 6.
#[derive(Debug, Clone, Copy)]
pub(super) struct Churn {
    amount: f64,
    tmin: f64,
    tmax: f64,
    s_noise: f64,
}

/// Latents with their noise level.
pub(super) struct Raised {
    /// The latents.
    pub(super) x: Tensor,
    /// Their level.
    pub(super) sigma: f64,
}

impl Churn {
    /// What it can be tuned with.
    pub(super) const OPTIONS: [OptionSpec; 4] = [S_CHURN, S_TMIN, S_TMAX, S_NOISE];

    /// The churn of a request.
    pub(super) fn new(options: &SamplerOptions) -> Self {
        Self {
            amount: options.value(&S_CHURN),
            tmin: options.value(&S_TMIN),
            tmax: options.value(&S_TMAX),
            s_noise: options.value(&S_NOISE),
        }
    }

    /// `x`, where step `i` begins, raised.
    ///
    /// Noise is drawn only where the level rises, as diffusers and ComfyUI do; k-diffusion draws at every step.
    pub(super) fn raise(
        &self,
        x: &Tensor,
        grid: &Grid,
        i: usize,
        noise: &mut dyn NoiseSource,
    ) -> Result<Raised> {
        let sigma = grid.levels[i].sigma;
        let within = (self.tmin..=self.tmax).contains(&sigma);
        let most = std::f64::consts::SQRT_2 - 1.0;
        let gamma = if within { (self.amount / grid.steps() as f64).min(most) } else { 0.0 };
        if gamma == 0.0 {
            return Ok(Raised { x: x.clone(), sigma });
        }
        let raised = sigma * (1.0 + gamma);
        let fresh = noise.between(sigma, raised, x)?;
        let up = (raised * raised - sigma * sigma).sqrt();
        let x = grid.process.add_noise(x, &fresh, up * self.s_noise)?;
        Ok(Raised { x, sigma: raised })
    }
}
