//! DPM-Solver-2 in σ with ancestral noise: k-diffusion's `sample_dpm_2_ancestral`.

use crate::error::Result;
use crate::sampling::formulas::{plus, pull, slope};
use crate::sampling::grid::{Conventions, Grid, GridRules};
use crate::sampling::integrator::{Denoiser, Integrator, Step};
use crate::sampling::noise::NoiseSource;
use crate::sampling::options::{ETA, S_NOISE};
use crate::sampling::process::Ancestral;
use crate::sampling::schedule::Schedule;
use crate::sampling::spec::{NoiseUse, OtherNames, SamplerSpec};
use candle_core::Tensor;

pub(super) const SPEC: SamplerSpec = SamplerSpec {
    name: "dpm2-a",
    label: "DPM2 a",
    names: OtherNames {
        diffusers: Some("KDPM2AncestralDiscreteScheduler"),
        k_diffusion: Some("sample_dpm_2_ancestral"),
        comfyui: Some("dpm_2_ancestral"),
        also: &["dpm_2_a", "kdpm_2_a"],
    },
    source: "k-diffusion's sample_dpm_2_ancestral; diffusers' KDPM2AncestralDiscreteScheduler",
    order: 2,
    evaluations: 2,
    noise: NoiseUse::EveryStep,
    brownian: false,
    unguided: false,
    alone: false,
    options: &[ETA, S_NOISE],
    schedule: None,
    automatic: Schedule::Karras,
    grids: Conventions { diffusers: GridRules::K_DIFFUSION },
    begin: |options, _| {
        Ok(Box::new(Dpm2A { eta: options.value(&ETA), s_noise: options.value(&S_NOISE) }))
    },
};

/// The midpoint rule in ln σ to below the next level, and noise up to it.
#[derive(Debug)]
struct Dpm2A {
    eta: f64,
    s_noise: f64,
}

impl Integrator for Dpm2A {
    fn step(
        &mut self,
        model: &dyn Denoiser,
        x: &Tensor,
        grid: &Grid,
        i: usize,
        noise: &mut dyn NoiseSource,
    ) -> Result<Step> {
        let (sigma, next) = (grid.levels[i].sigma, grid.levels[i].next);
        let denoised = model.denoise(x, sigma)?;
        let Ancestral { down, up } = grid.process.ancestral(sigma, next, self.eta);
        // Where the step goes down to zero there is no middle; with η = 1 that is the last one.
        if down == 0.0 {
            return Ok(Step { x: pull(x, &denoised, sigma, down)?, denoised });
        }
        let middle = (sigma * down).sqrt();
        let there = pull(x, &denoised, sigma, middle)?;
        let denoised = model.denoise(&there, middle)?;
        let x = plus(x, down - sigma, &slope(&there, &denoised, middle)?)?;
        let fresh = noise.between(sigma, next, &x)?;
        let x = grid.process.add_noise(&x, &fresh, up * self.s_noise)?;
        Ok(Step { x, denoised })
    }
}
