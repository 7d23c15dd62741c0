//! DPM-Solver-2 in σ: the midpoint rule in ln σ, k-diffusion's `sample_dpm_2`.

use crate::error::Result;
use crate::sampling::churn::{Churn, Raised};
use crate::sampling::formulas::{plus, pull, slope};
use crate::sampling::grid::{Conventions, Grid, GridRules};
use crate::sampling::integrator::{Denoiser, Integrator, Step};
use crate::sampling::noise::NoiseSource;
use crate::sampling::schedule::Schedule;
use crate::sampling::spec::{NoiseUse, OtherNames, SamplerSpec};
use candle_core::Tensor;

pub(super) const SPEC: SamplerSpec = SamplerSpec {
    name: "dpm2",
    label: "DPM2",
    names: OtherNames {
        diffusers: Some("KDPM2DiscreteScheduler"),
        k_diffusion: Some("sample_dpm_2"),
        comfyui: Some("dpm_2"),
        also: &["kdpm_2"],
    },
    source: "Karras et al. (2022), Algorithm 2 with the midpoint in ln σ; k-diffusion's sample_dpm_2; diffusers' KDPM2DiscreteScheduler",
    order: 2,
    evaluations: 2,
    noise: NoiseUse::Churn,
    brownian: false,
    unguided: false,
    alone: false,
    options: &Churn::OPTIONS,
    schedule: None,
    automatic: Schedule::Karras,
    grids: Conventions { diffusers: GridRules::K_DIFFUSION },
    begin: |options, _| Ok(Box::new(Dpm2 { churn: Churn::new(options) })),
};

/// The slope in the middle of the step in ln σ carries the whole step.
#[derive(Debug)]
struct Dpm2 {
    churn: Churn,
}

impl Integrator for Dpm2 {
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
        let denoised = model.denoise(&x, sigma)?;
        if next == 0.0 {
            return Ok(Step { x: pull(&x, &denoised, sigma, next)?, denoised });
        }
        let middle = (sigma * next).sqrt();
        let there = pull(&x, &denoised, sigma, middle)?;
        let denoised = model.denoise(&there, middle)?;
        let x = plus(&x, next - sigma, &slope(&there, &denoised, middle)?)?;
        Ok(Step { x, denoised })
    }
}
