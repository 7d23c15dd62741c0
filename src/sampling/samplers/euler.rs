//! Euler's method.

use crate::error::Result;
use crate::sampling::churn::{Churn, Raised};
use crate::sampling::config::Spacing;
use crate::sampling::formulas::pull;
use crate::sampling::grid::{Aim, Conventions, End, Grid, GridRules, Span, Start, Timesteps, Told};
use crate::sampling::integrator::{Denoiser, Integrator, Step};
use crate::sampling::noise::NoiseSource;
use crate::sampling::schedule::Schedule;
use crate::sampling::spacing::SpacingRules;
use crate::sampling::spec::{NoiseUse, OtherNames, SamplerSpec};
use candle_core::Tensor;

pub(super) const SPEC: SamplerSpec = SamplerSpec {
    name: "euler",
    label: "Euler",
    names: OtherNames {
        diffusers: Some("EulerDiscreteScheduler"),
        k_diffusion: Some("sample_euler"),
        comfyui: Some("euler"),
        also: &[],
    },
    source: "Karras et al. (2022), Algorithm 2 without its second order; diffusers' EulerDiscreteScheduler",
    order: 1,
    evaluations: 1,
    noise: NoiseUse::Churn,
    brownian: false,
    unguided: false,
    alone: false,
    options: &Churn::OPTIONS,
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
            end: End::FinalSigma,
            start: Start::FirstLevel,
            aim: Aim::Next,
            pairs: None,
        },
    },
    begin: |options, _| Ok(Box::new(Euler { churn: Churn::new(options) })),
};

/// Euler's method on dx/dσ = (x − x₀)/σ.
#[derive(Debug)]
struct Euler {
    churn: Churn,
}

impl Integrator for Euler {
    fn step(
        &mut self,
        model: &dyn Denoiser,
        x: &Tensor,
        grid: &Grid,
        i: usize,
        noise: &mut dyn NoiseSource,
    ) -> Result<Step> {
        let Raised { x, sigma } = self.churn.raise(x, grid, i, noise)?;
        let denoised = model.denoise(&x, sigma)?;
        let x = pull(&x, &denoised, sigma, grid.levels[i].next)?;
        Ok(Step { x, denoised })
    }
}
