//! Samplers over a [`Denoiser`]. This module knows no network.
//!
//! Everything works in the k-diffusion convention: x = x₀ + σ·n. A sampler is a value that takes
//! one step at a time, so that callers own the loop (progress, previews, cancelling).
//!
//! Floor 2.

mod bounds;
mod config;
mod ddim;
mod dpmpp;
mod euler;
pub mod guidance;
pub mod prediction;
pub mod schedule;

pub use bounds::Bounds;
pub use config::{SchedulerConfig, Spacing};
pub use dpmpp::Solver;
pub use guidance::{Guidance, GuidanceApart, Mean};
pub use prediction::{NoiseModel, PredictionKind, Predictor};
pub use schedule::{NoiseTable, Schedule, Sigmas};

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

impl std::fmt::Display for Sampler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for Sampler {
    type Err = crate::Error;

    fn from_str(name: &str) -> Result<Self> {
        Sampler::ALL.into_iter().find(|s| s.name() == name).ok_or_else(|| {
            let names: Vec<_> = Sampler::ALL.iter().map(|s| s.name()).collect();
            crate::Error::bad_request(
                "sampler",
                name,
                format!("expected one of {}", names.join(", ")),
            )
        })
    }
}

/// What one step of a sampler gives.
#[derive(Debug, Clone)]
pub struct Step {
    /// Latents `[B, C, h, w]` at the next noise level.
    pub x: Tensor,
    /// The estimate of x₀ that led there, for previews.
    pub denoised: Tensor,
}

/// A sampler in motion: holds what it remembers of earlier steps.
pub trait Integrator: std::fmt::Debug + Send {
    /// Takes step `index` of `sigmas`, from `sigmas.sigmas[index]` downwards.
    fn step(
        &mut self,
        model: &dyn Denoiser,
        x: &Tensor,
        sigmas: &Sigmas,
        index: usize,
    ) -> Result<Step>;
}

impl Sampler {
    /// A fresh integrator.
    pub fn integrator(self) -> Box<dyn Integrator> {
        match self {
            Sampler::Euler => Box::new(euler::Euler),
            Sampler::Ddim => Box::new(ddim::Ddim),
            Sampler::DpmPp2m => Box::new(dpmpp::DpmPp2m::default()),
        }
    }
}

/// Runs every step of `sampler`; the simple loop that tests and small programs need.
///
/// `x`: latents at noise level `sigmas.sigmas[0]`. Returns latents in the scale that the VAE
/// expects.
pub fn sample(
    sampler: Sampler,
    model: &dyn Denoiser,
    x: &Tensor,
    sigmas: &Sigmas,
) -> Result<Tensor> {
    let mut integrator = sampler.integrator();
    let mut x = x.clone();
    for index in 0..sigmas.steps() {
        x = integrator.step(model, &x, sigmas, index)?.x;
    }
    sigmas.finish(&x)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    /// The exact denoiser of data distributed as N(0, s²).
    struct Gaussian(f64);

    impl Denoiser for Gaussian {
        fn denoise(&self, x: &Tensor, sigma: f64) -> Result<Tensor> {
            let variance = self.0 * self.0;
            Ok((x * (variance / (variance + sigma * sigma)))?)
        }
    }

    /// Error against the exact solution x(σ) = x(σ₀)·√((s²+σ²)/(s²+σ₀²)).
    fn error(sampler: Sampler, steps: usize) -> f64 {
        let (top, s) = (10.0f64, 0.5f64);
        let mut sigmas: Vec<f64> =
            (0..steps).map(|i| top * (0.01f64 / top).powf(i as f64 / steps as f64)).collect();
        sigmas.push(0.01);
        let plan = Sigmas::from_sigmas(sigmas);
        let x = Tensor::new(&[3.0f64], &Device::Cpu).unwrap();
        let mut integrator = sampler.integrator();
        let mut now = x;
        for i in 0..steps {
            now = integrator.step(&Gaussian(s), &now, &plan, i).unwrap().x;
        }
        let exact = 3.0 * ((s * s + 1e-4) / (s * s + top * top)).sqrt();
        (now.to_vec1::<f64>().unwrap()[0] - exact).abs()
    }

    #[test]
    fn samplers_converge_with_their_order() {
        for (sampler, order) in
            [(Sampler::Euler, 1.0), (Sampler::Ddim, 1.0), (Sampler::DpmPp2m, 2.0)]
        {
            let ratio = error(sampler, 80) / error(sampler, 160);
            assert!((ratio.log2() - order).abs() < 0.25, "{sampler}: order {}", ratio.log2());
        }
    }

    #[test]
    fn ddim_equals_euler_without_noise() {
        // Without stochasticity both solve the same ODE by the same rule.
        assert!((error(Sampler::Euler, 40) - error(Sampler::Ddim, 40)).abs() < 1e-12);
    }

    #[test]
    fn names_round_trip() {
        for sampler in Sampler::ALL {
            assert_eq!(sampler.name().parse::<Sampler>().unwrap(), sampler);
            assert_eq!(serde_json::to_value(sampler).unwrap(), sampler.name());
        }
        assert!("euler_a".parse::<Sampler>().is_err());
    }
}
