//! DPM-Solver++(2S) along the unguided estimate, with ancestral noise: ComfyUI's `dpmpp_2s_ancestral_cfg_pp`.

use crate::error::Result;
use crate::sampling::formulas::pull;
use crate::sampling::grid::{Conventions, Grid, GridRules};
use crate::sampling::integrator::{Denoiser, Estimates, Integrator, Step};
use crate::sampling::noise::NoiseSource;
use crate::sampling::options::{ETA, S_NOISE};
use crate::sampling::process::Ancestral;
use crate::sampling::schedule::Schedule;
use crate::sampling::spec::{NoiseUse, OtherNames, SamplerSpec};
use candle_core::Tensor;

pub(super) const SPEC: SamplerSpec = SamplerSpec {
    name: "dpmpp-2s-a-cfg-pp",
    label: "DPM++ 2S a CFG++",
    names: OtherNames {
        diffusers: None,
        k_diffusion: None,
        comfyui: Some("dpmpp_2s_ancestral_cfg_pp"),
        also: &[],
    },
    source: "Chung et al. (2024), CFG++: Manifold-constrained Classifier Free Guidance for Diffusion Models; ComfyUI's sample_dpmpp_2s_ancestral_cfg_pp",
    order: 2,
    evaluations: 2,
    noise: NoiseUse::EveryStep,
    brownian: false,
    unguided: true,
    alone: false,
    options: &[ETA, S_NOISE],
    schedule: None,
    automatic: Schedule::Karras,
    grids: Conventions { diffusers: GridRules::K_DIFFUSION },
    begin: |options, _| {
        let (eta, s_noise) = (options.value(&ETA), options.value(&S_NOISE));
        Ok(Box::new(DpmPp2sACfgPp { eta, s_noise }))
    },
};

/// A step to the middle in ln σ, the whole step below the next level with the estimates found there, and noise.
#[derive(Debug)]
struct DpmPp2sACfgPp {
    eta: f64,
    s_noise: f64,
}

impl Integrator for DpmPp2sACfgPp {
    fn step(
        &mut self,
        model: &dyn Denoiser,
        x: &Tensor,
        grid: &Grid,
        i: usize,
        noise: &mut dyn NoiseSource,
    ) -> Result<Step> {
        let (sigma, next) = (grid.levels[i].sigma, grid.levels[i].next);
        let Estimates { guided, unguided } = model.estimates(x, sigma)?;
        let Ancestral { down, up } = grid.process.ancestral(sigma, next, self.eta);
        if next == 0.0 {
            return Ok(Step { x: guided.clone(), denoised: guided });
        }
        let moved =
            |x: &Tensor, unguided: &Tensor| -> Result<Tensor> { Ok((x + (&guided - unguided)?)?) };
        let middle = (sigma * down).sqrt();
        let there = pull(&moved(x, &unguided)?, &guided, sigma, middle)?;
        // The tool takes the unguided estimate of this evaluation for the whole step.
        let Estimates { guided: denoised, unguided } = model.estimates(&there, middle)?;
        let mut x = pull(&moved(x, &unguided)?, &denoised, sigma, down)?;
        let fresh = noise.between(sigma, next, &x)?;
        x = grid.process.add_noise(&x, &fresh, up * self.s_noise)?;
        Ok(Step { x, denoised })
    }
}
