//! DPM-Solver++(2S) with ancestral noise: k-diffusion's `sample_dpmpp_2s_ancestral`.

use crate::error::Result;
use crate::sampling::formulas::pull;
use crate::sampling::grid::{Conventions, Grid, GridRules};
use crate::sampling::integrator::{Denoiser, Integrator, Step};
use crate::sampling::noise::NoiseSource;
use crate::sampling::options::{ETA, S_NOISE};
use crate::sampling::process::Ancestral;
use crate::sampling::schedule::Schedule;
use crate::sampling::spec::{NoiseUse, OtherNames, SamplerSpec};
use candle_core::Tensor;

pub(super) const SPEC: SamplerSpec = SamplerSpec {
    name: "dpmpp-2s-a",
    label: "DPM++ 2S a",
    names: OtherNames {
        diffusers: None,
        k_diffusion: Some("sample_dpmpp_2s_ancestral"),
        comfyui: Some("dpmpp_2s_ancestral"),
        also: &[],
    },
    source: "Lu et al. (2022), DPM-Solver++, Algorithm 1 with r = 1/2; k-diffusion's sample_dpmpp_2s_ancestral",
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
        Ok(Box::new(DpmPp2sA { eta: options.value(&ETA), s_noise: options.value(&S_NOISE) }))
    },
};

/// A step to the middle in ln σ, the whole step below the next level with the estimate found there, and noise.
#[derive(Debug)]
struct DpmPp2sA {
    eta: f64,
    s_noise: f64,
}

impl Integrator for DpmPp2sA {
    fn step(
        &mut self,
        model: &dyn Denoiser,
        x: &Tensor,
        grid: &Grid,
        i: usize,
        noise: &mut dyn NoiseSource,
    ) -> Result<Step> {
        let (sigma, next) = (grid.levels[i].sigma, grid.levels[i].next);
        let mut denoised = model.denoise(x, sigma)?;
        let Ancestral { down, up } = grid.process.ancestral(sigma, next, self.eta);
        if down > 0.0 {
            let middle = (sigma * down).sqrt();
            let there = pull(x, &denoised, sigma, middle)?;
            denoised = model.denoise(&there, middle)?;
        }
        let mut x = pull(x, &denoised, sigma, down)?;
        if next > 0.0 {
            let fresh = noise.between(sigma, next, &x)?;
            x = grid.process.add_noise(&x, &fresh, up * self.s_noise)?;
        }
        Ok(Step { x, denoised })
    }
}
