//! Ancestral sampling of DDPM, Ho et al. (2020), Algorithm 2.

use crate::error::Result;
use crate::sampling::bounds::Bounds;
use crate::sampling::formulas::pull;
use crate::sampling::grid::{Aim, End};
use crate::sampling::grid::{Conventions, Grid, GridRules};
use crate::sampling::integrator::{Denoiser, Integrator, Step};
use crate::sampling::noise::NoiseSource;
use crate::sampling::process::Ancestral;
use crate::sampling::schedule::Schedule;
use crate::sampling::spec::{NoiseUse, OtherNames, SamplerSpec};
use candle_core::Tensor;

pub(super) const SPEC: SamplerSpec = SamplerSpec {
    name: "ddpm",
    label: "DDPM",
    names: OtherNames {
        diffusers: Some("DDPMScheduler"),
        k_diffusion: None,
        comfyui: Some("ddpm"),
        also: &[],
    },
    source: "Ho et al. (2020), Algorithm 2 with the small variance; diffusers' DDPMScheduler",
    order: 1,
    evaluations: 1,
    noise: NoiseUse::EveryStep,
    brownian: false,
    unguided: false,
    alone: false,
    options: &[],
    schedule: None,
    automatic: Schedule::Discrete,
    grids: Conventions {
        diffusers: GridRules { aim: Aim::Next, end: End::Zero, ..GridRules::DDIM },
    },
    begin: |_, config| Ok(Box::new(Ddpm { bounds: config.clipped() })),
};

/// The posterior of the diffusion, whose deviation is that of a step with η = 1.
#[derive(Debug)]
struct Ddpm {
    bounds: Bounds,
}

impl Integrator for Ddpm {
    fn step(
        &mut self,
        model: &dyn Denoiser,
        x: &Tensor,
        grid: &Grid,
        i: usize,
        noise: &mut dyn NoiseSource,
    ) -> Result<Step> {
        let level = grid.levels[i];
        let denoised = self.bounds.apply(&model.denoise(x, level.sigma)?)?;
        let Ancestral { down, up } = grid.process.ancestral(level.sigma, level.next, 1.0);
        // The mean of the posterior: x₀ and x by their precision.
        let ratio = level.next / level.sigma;
        let mut x = pull(x, &denoised, 1.0, ratio * ratio)?;
        debug_assert!(
            (down * level.sigma - level.next * level.next).abs() <= 1e-9 * level.sigma.powi(2)
        );
        if level.next > 0.0 {
            let fresh = noise.between(level.sigma, level.next, &x)?;
            x = grid.process.add_noise(&x, &fresh, up)?;
        }
        Ok(Step { x, denoised })
    }
}
