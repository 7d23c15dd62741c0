//! DDIM along the unguided estimate: A1111's "DDIM CFG++".

use super::euler_cfg_pp::renoised;
use crate::error::Result;
use crate::sampling::grid::{Conventions, Grid, GridRules};
use crate::sampling::integrator::{Denoiser, Estimates, Integrator, Step};
use crate::sampling::noise::NoiseSource;
use crate::sampling::schedule::Schedule;
use crate::sampling::spec::{NoiseUse, OtherNames, SamplerSpec};
use candle_core::Tensor;

pub(super) const SPEC: SamplerSpec = SamplerSpec {
    name: "ddim-cfg-pp",
    label: "DDIM CFG++",
    names: OtherNames { diffusers: None, k_diffusion: None, comfyui: None, also: &[] },
    source: "Chung et al. (2024), CFG++: Manifold-constrained Classifier Free Guidance for Diffusion Models; A1111's ddim_cfgpp, which divides the guidance by 12.5",
    order: 1,
    evaluations: 1,
    noise: NoiseUse::Never,
    brownian: false,
    unguided: true,
    alone: false,
    options: &[],
    schedule: None,
    automatic: Schedule::Discrete,
    grids: Conventions { diffusers: GridRules::DDIM },
    begin: |_, _| Ok(Box::new(DdimCfgPp)),
};

/// By what A1111 divides the guidance, so that the numbers that people are used to fit.
const DIVISOR: f64 = 12.5;

/// DDIM's step without noise.
#[derive(Debug)]
struct DdimCfgPp;

impl Integrator for DdimCfgPp {
    fn step(
        &mut self,
        model: &dyn Denoiser,
        x: &Tensor,
        grid: &Grid,
        i: usize,
        _: &mut dyn NoiseSource,
    ) -> Result<Step> {
        let level = grid.levels[i];
        let Estimates { guided, unguided } = model.estimates(x, level.sigma)?;
        let guided = (&unguided + ((guided - &unguided)? / DIVISOR)?)?;
        let found = Estimates { guided, unguided };
        let mut x = renoised(x, &found, level.sigma, level.target)?;
        if (level.target - level.next).abs() > 1e-9 {
            // Latents of the level that was aimed at are read as if they were of the next one, as DDIM's are.
            x = (x * (level.next.hypot(1.0) / level.target.hypot(1.0)))?;
        }
        Ok(Step { x, denoised: found.guided })
    }
}
