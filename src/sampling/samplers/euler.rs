//! Euler's method.

use crate::error::Result;
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
    },
    source: "Karras et al. (2022), Algorithm 2 without churn; diffusers' EulerDiscreteScheduler",
    order: 1,
    evaluations: 1,
    noise: NoiseUse::Never,
    options: &[],
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
        },
    },
    begin: |_, _| Ok(Box::new(Euler)),
};

/// Euler's method on dx/dσ = (x − x₀)/σ.
#[derive(Debug)]
struct Euler;

impl Integrator for Euler {
    fn step(
        &mut self,
        model: &dyn Denoiser,
        x: &Tensor,
        grid: &Grid,
        i: usize,
        _: &mut dyn NoiseSource,
    ) -> Result<Step> {
        let level = grid.levels[i];
        let denoised = model.denoise(x, level.sigma)?;
        let x = pull(x, &denoised, level.sigma, level.next)?;
        Ok(Step { x, denoised })
    }
}
