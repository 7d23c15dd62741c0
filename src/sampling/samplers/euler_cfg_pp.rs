//! Euler's method along the unguided estimate: ComfyUI's `euler_cfg_pp`.

use crate::error::Result;
use crate::sampling::grid::{Conventions, Grid, GridRules};
use crate::sampling::integrator::{Denoiser, Estimates, Integrator, Step};
use crate::sampling::noise::NoiseSource;
use crate::sampling::process::Ancestral;
use crate::sampling::schedule::Schedule;
use crate::sampling::spec::{NoiseUse, OtherNames, SamplerSpec};
use candle_core::Tensor;

pub(super) const SPEC: SamplerSpec = SamplerSpec {
    name: "euler-cfg-pp",
    label: "Euler CFG++",
    names: OtherNames {
        diffusers: None,
        k_diffusion: None,
        comfyui: Some("euler_cfg_pp"),
        also: &[],
    },
    source: "Chung et al. (2024), CFG++: Manifold-constrained Classifier Free Guidance for Diffusion Models; ComfyUI's sample_euler_cfg_pp; guidance of 0.5 to 2 is usual",
    order: 1,
    evaluations: 1,
    noise: NoiseUse::Never,
    brownian: false,
    unguided: true,
    alone: false,
    options: &[],
    schedule: None,
    automatic: Schedule::Normal,
    grids: Conventions { diffusers: GridRules::K_DIFFUSION },
    begin: |_, _| Ok(Box::new(EulerCfgPp { eta: 0.0, s_noise: 1.0 })),
};

/// The guided estimate, and as much of the unguided one's noise as the next level has.
#[derive(Debug)]
pub(super) struct EulerCfgPp {
    pub(super) eta: f64,
    pub(super) s_noise: f64,
}

/// `x` at level `sigma` goes to `next`: the guided estimate with the noise of the unguided one.
pub(super) fn renoised(x: &Tensor, found: &Estimates, sigma: f64, next: f64) -> Result<Tensor> {
    Ok((&found.guided + ((x - &found.unguided)? * (next / sigma))?)?)
}

impl Integrator for EulerCfgPp {
    fn step(
        &mut self,
        model: &dyn Denoiser,
        x: &Tensor,
        grid: &Grid,
        i: usize,
        noise: &mut dyn NoiseSource,
    ) -> Result<Step> {
        let (sigma, next) = (grid.levels[i].sigma, grid.levels[i].next);
        let found = model.estimates(x, sigma)?;
        let Ancestral { down, up } = grid.process.ancestral(sigma, next, self.eta);
        let mut x = renoised(x, &found, sigma, down)?;
        if self.eta > 0.0 && next > 0.0 {
            let fresh = noise.between(sigma, next, &x)?;
            x = grid.process.add_noise(&x, &fresh, up * self.s_noise)?;
        }
        Ok(Step { x, denoised: found.guided })
    }
}
