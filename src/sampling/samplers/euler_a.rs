//! Euler's method with ancestral noise.

use crate::error::Result;
use crate::sampling::config::Spacing;
use crate::sampling::formulas::pull;
use crate::sampling::grid::{Aim, Conventions, End, Grid, GridRules, Span, Start, Timesteps, Told};
use crate::sampling::integrator::{Denoiser, Integrator, Step};
use crate::sampling::noise::NoiseSource;
use crate::sampling::options::{ETA, S_NOISE};
use crate::sampling::process::Ancestral;
use crate::sampling::schedule::Schedule;
use crate::sampling::spacing::SpacingRules;
use crate::sampling::spec::{NoiseUse, OtherNames, SamplerSpec};
use candle_core::Tensor;

pub(super) const SPEC: SamplerSpec = SamplerSpec {
    name: "euler-a",
    label: "Euler a",
    names: OtherNames {
        diffusers: Some("EulerAncestralDiscreteScheduler"),
        k_diffusion: Some("sample_euler_ancestral"),
        comfyui: Some("euler_ancestral"),
        also: &[],
    },
    source: "k-diffusion's sample_euler_ancestral; diffusers' EulerAncestralDiscreteScheduler",
    order: 1,
    evaluations: 1,
    noise: NoiseUse::EveryStep,
    brownian: false,
    unguided: false,
    alone: false,
    options: &[ETA, S_NOISE],
    schedule: None,
    automatic: Schedule::Discrete,
    grids: Conventions {
        diffusers: GridRules {
            timesteps: Timesteps::Spaced(SpacingRules {
                default: Spacing::Linspace,
                one_more: false,
                whole: false,
                clipped: false,
            }),
            span: Span::Spaced,
            told: Told::Interpolated,
            end: End::Zero,
            start: Start::FirstLevel,
            aim: Aim::Next,
            pairs: None,
        },
    },
    begin: |options, _| {
        Ok(Box::new(EulerA { eta: options.value(&ETA), s_noise: options.value(&S_NOISE) }))
    },
};

/// Euler's step to below the next level, and noise up to it.
#[derive(Debug)]
struct EulerA {
    eta: f64,
    s_noise: f64,
}

impl Integrator for EulerA {
    fn step(
        &mut self,
        model: &dyn Denoiser,
        x: &Tensor,
        grid: &Grid,
        i: usize,
        noise: &mut dyn NoiseSource,
    ) -> Result<Step> {
        let level = grid.levels[i];
        let denoised = model.denoise(x, level.sigma)?;
        let Ancestral { down, up } = grid.process.ancestral(level.sigma, level.next, self.eta);
        let mut x = pull(x, &denoised, level.sigma, down)?;
        // k-diffusion draws for η = 0 too. diffusers draws in the last step as well, and multiplies by 0.
        if level.next > 0.0 {
            let fresh = noise.between(level.sigma, level.next, &x)?;
            x = grid.process.add_noise(&x, &fresh, up * self.s_noise)?;
        }
        Ok(Step { x, denoised })
    }
}
