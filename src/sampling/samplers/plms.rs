//! Pseudo linear multistep: PNDM without its Runge-Kutta steps, Liu et al. (2022).
//!
//! Floor 2.

use crate::error::Result;
use crate::sampling::adams::adams;
use crate::sampling::formulas::{combined, plus, slope};
use crate::sampling::grid::{Conventions, Grid, GridRules};
use crate::sampling::integrator::{Denoiser, Integrator, Step};
use crate::sampling::noise::NoiseSource;
use crate::sampling::schedule::Schedule;
use crate::sampling::spec::{NoiseUse, OtherNames, SamplerSpec};
use candle_core::Tensor;

pub(super) const SPEC: SamplerSpec = SamplerSpec {
    name: "plms",
    label: "PLMS",
    names: OtherNames {
        diffusers: Some("PNDMScheduler"),
        k_diffusion: None,
        comfyui: None,
        also: &["PNDM"],
    },
    source: "Liu et al. (2022), Pseudo Numerical Methods for Diffusion Models, eq. 12, with skip_prk_steps; diffusers' PNDMScheduler",
    order: 2,
    evaluations: 1,
    noise: NoiseUse::Never,
    options: &[],
    schedule: None,
    automatic: Schedule::Discrete,
    grids: Conventions { diffusers: GridRules::DDIM },
    begin: |_, _| Ok(Box::new(Plms { slopes: Vec::new() })),
};

/// DDIM's step with Adams and Bashforth's mean of the last noises. The first step evaluates twice.
#[derive(Debug)]
struct Plms {
    /// The noise that earlier steps found, newest first.
    slopes: Vec<Tensor>,
}

impl Integrator for Plms {
    fn step(
        &mut self,
        model: &dyn Denoiser,
        x: &Tensor,
        grid: &Grid,
        i: usize,
        _: &mut dyn NoiseSource,
    ) -> Result<Step> {
        let level = grid.levels[i];
        let mut denoised = model.denoise(x, level.sigma)?;
        let slope_here = slope(x, &denoised, level.sigma)?;
        self.slopes.insert(0, slope_here.clone());
        self.slopes.truncate(4);
        let mean = match self.slopes.len() {
            1 if level.target > 0.0 && i + 1 < grid.steps() => {
                let there = plus(x, level.target - level.sigma, &slope_here)?;
                denoised = model.denoise(&there, level.target)?;
                let slope_there = slope(&there, &denoised, level.target)?;
                ((slope_here + slope_there)? / 2.0)?
            }
            known => combined(&self.slopes, adams(known))?,
        };
        let mut x = plus(x, level.target - level.sigma, &mean)?;
        if (level.target - level.next).abs() > 1e-9 {
            // Latents of the level that was aimed at are read as if they were of the next one, as DDIM's are.
            let (next, target) = (level.next, level.target);
            x = (x * ((1.0 + next * next) / (1.0 + target * target)).sqrt())?;
        }
        Ok(Step { x, denoised })
    }
}
