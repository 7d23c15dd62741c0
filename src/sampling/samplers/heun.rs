//! Heun's method.

use crate::error::Result;
use crate::sampling::bounds::Bounds;
use crate::sampling::churn::{Churn, Raised};
use crate::sampling::config::{SchedulerConfig, Spacing};
use crate::sampling::formulas::pull;
use crate::sampling::grid::{Aim, Conventions, End, Grid, GridRules, Span, Start, Timesteps, Told};
use crate::sampling::integrator::{Denoiser, Integrator, Step};
use crate::sampling::noise::NoiseSource;
use crate::sampling::schedule::Schedule;
use crate::sampling::spacing::SpacingRules;
use crate::sampling::spec::{NoiseUse, OtherNames, SamplerSpec};
use candle_core::Tensor;

pub(super) const SPEC: SamplerSpec = SamplerSpec {
    name: "heun",
    label: "Heun",
    names: OtherNames {
        diffusers: Some("HeunDiscreteScheduler"),
        k_diffusion: Some("sample_heun"),
        comfyui: Some("heun"),
        also: &[],
    },
    source: "Karras et al. (2022), Algorithm 1; diffusers' HeunDiscreteScheduler",
    order: 2,
    evaluations: 2,
    noise: NoiseUse::Churn,
    brownian: false,
    unguided: false,
    alone: false,
    options: &Churn::OPTIONS,
    schedule: None,
    automatic: Schedule::Discrete,
    grids: Conventions {
        // diffusers lists inner levels twice, once for each evaluation; a step here is both.
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
    begin: |options, config| {
        Ok(Box::new(Heun { bounds: bounds(config), churn: Churn::new(options) }))
    },
};

/// The bounds of its estimates; a config that is silent leaves them free.
fn bounds(config: &SchedulerConfig) -> Bounds {
    match config.clip_sample {
        Some(true) => Bounds::Clip(config.clip_sample_range),
        _ => Bounds::Free,
    }
}

/// The trapezoidal rule on dx/dσ = (x − x₀)/σ: the mean of the slopes at both ends of the step.
#[derive(Debug)]
struct Heun {
    bounds: Bounds,
    churn: Churn,
}

impl Integrator for Heun {
    fn step(
        &mut self,
        model: &dyn Denoiser,
        x: &Tensor,
        grid: &Grid,
        i: usize,
        noise: &mut dyn NoiseSource,
    ) -> Result<Step> {
        let next = grid.levels[i].next;
        let Raised { x, sigma } = self.churn.raise(x, grid, i, noise)?;
        let denoised = self.bounds.apply(&model.denoise(&x, sigma)?)?;
        let there = pull(&x, &denoised, sigma, next)?;
        if next == 0.0 {
            // There is no slope at σ = 0.
            return Ok(Step { x: there, denoised });
        }
        let corrected = self.bounds.apply(&model.denoise(&there, next)?)?;
        let slope = ((&x - &denoised)? / sigma)?;
        let slope_there = ((&there - &corrected)? / next)?;
        let x = (x + ((slope + slope_there)? * ((next - sigma) / 2.0))?)?;
        Ok(Step { x, denoised: corrected })
    }
}
