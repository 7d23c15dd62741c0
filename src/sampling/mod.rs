//! Floor 2. Samplers over a [`Denoiser`]. This module knows no network.
//!
//! Everything works in the k-diffusion convention: x = x₀ + σ·n. A sampler is a value that takes
//! one step at a time, so that callers own the loop (progress, previews, cancelling).

mod ddim;
mod dpmpp;
mod euler;
pub mod guidance;
pub mod prediction;
pub mod schedule;

pub use guidance::Guidance;
pub use prediction::{NoiseModel, PredictionKind, Predictor};
pub use schedule::{NoiseTable, Schedule, SchedulerConfig, Sigmas};

use crate::error::Result;
use candle_core::Tensor;

/// Estimates the clean latents behind noisy ones.
pub trait Denoiser {
    /// The estimate of x₀.
    ///
    /// `x`: latents `[B, C, h, w]` at noise level `sigma` (not pre-scaled).
    /// `sigma`: noise level, k-diffusion convention, > 0.
    /// Returns the same shape and dtype as `x`.
    fn denoise(&self, x: &Tensor, sigma: f64) -> Result<Tensor>;
}

/// The integrators that exist.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, Default, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum Sampler {
    /// Euler's method on the probability-flow ODE: Algorithm 2 of Karras et al. (2022), no churn.
    Euler,
    /// DDIM, Song et al. (2020), eq. 12.
    Ddim,
    /// DPM-Solver++(2M), Lu et al. (2022), Algorithm 2.
    #[default]
    #[serde(rename = "dpmpp-2m")]
    DpmPp2m,
}

impl Sampler {
    /// Every sampler, in the order of help texts.
    pub const ALL: [Sampler; 3] = [Sampler::DpmPp2m, Sampler::Euler, Sampler::Ddim];

    /// The name in requests, flags and files.
    pub fn name(self) -> &'static str {
        match self {
            Sampler::Euler => "euler",
            Sampler::Ddim => "ddim",
            Sampler::DpmPp2m => "dpmpp-2m",
        }
    }
}
