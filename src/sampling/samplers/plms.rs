//! Pseudo linear multistep: PNDM without its Runge-Kutta steps, Liu et al. (2022).

use crate::error::Result;
use crate::sampling::adams::adams;
use crate::sampling::config::PredictionKind;
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
    brownian: false,
    unguided: false,
    alone: false,
    options: &[],
    schedule: None,
    automatic: Schedule::Discrete,
    grids: Conventions { diffusers: GridRules::DDIM },
    begin: |_, config| {
        let v = config.prediction_type == PredictionKind::V;
        Ok(Box::new(Plms { v, outputs: Vec::new() }))
    },
};

/// DDIM's step with Adams and Bashforth's mean of the last outputs. The first step evaluates twice.
#[derive(Debug)]
struct Plms {
    /// Whether the mean is one of v instead of the noise.
    v: bool,
    /// What the network gave in earlier steps, newest first.
    outputs: Vec<Tensor>,
}

/// Latents of level `from`, in variance-preserving scale, read as if they were of level `to`.
fn read_as(x: Tensor, from: f64, to: f64) -> Result<Tensor> {
    if (from - to).abs() <= 1e-9 { Ok(x) } else { Ok((x * (to.hypot(1.0) / from.hypot(1.0)))?) }
}

impl Plms {
    /// What the network gave for the estimate `denoised` behind `x` at level `sigma`.
    fn output(&self, x: &Tensor, denoised: &Tensor, sigma: f64) -> Result<Tensor> {
        let norm = sigma.hypot(1.0);
        if self.v {
            return Ok((((x / (norm * norm))? - denoised)? * (norm / sigma))?);
        }
        slope(x, denoised, sigma)
    }

    /// The slope that such an output means.
    fn slope(&self, x: &Tensor, output: &Tensor, sigma: f64) -> Result<Tensor> {
        let norm = sigma.hypot(1.0);
        if self.v {
            return Ok(((output / norm)? + (x * (sigma / (norm * norm)))?)?);
        }
        Ok(output.clone())
    }

    /// The first step: from the mean of both ends.
    fn first(&self, model: &dyn Denoiser, x: &Tensor, grid: &Grid, i: usize) -> Result<Step> {
        let level = grid.levels[i];
        let output = &self.outputs[0];
        let slope = self.slope(x, output, level.sigma)?;
        let there = plus(x, level.target - level.sigma, &slope)?;
        let there = read_as(there, level.target, level.next)?;
        let denoised = model.denoise(&there, level.next)?;
        let mean = ((output + self.output(&there, &denoised, level.next)?)? / 2.0)?;
        // diffusers begins T/N above the second timestep of the list, whatever the first one was.
        let table = grid.process.table();
        let stride = (table.len() / grid.steps()) as f64;
        let spaced = (level.target - level.next).abs() > 1e-9;
        let from = match grid.levels.get(i + 1) {
            Some(next) if spaced => table.sigma(next.timestep + stride),
            _ => level.sigma,
        };
        let x = read_as(x.clone(), level.sigma, from)?;
        let x = plus(&x, level.next - from, &self.slope(&x, &mean, from)?)?;
        Ok(Step { x, denoised })
    }
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
        let denoised = model.denoise(x, level.sigma)?;
        self.outputs.insert(0, self.output(x, &denoised, level.sigma)?);
        self.outputs.truncate(4);
        let known = self.outputs.len();
        if known == 1 && i + 1 < grid.steps() {
            return self.first(model, x, grid, i);
        }
        let mean = combined(&self.outputs, adams(known))?;
        let slope = self.slope(x, &mean, level.sigma)?;
        let x = plus(x, level.target - level.sigma, &slope)?;
        // Latents of the level that was aimed at are read as if they were of the next one, as DDIM's are.
        Ok(Step { x: read_as(x, level.target, level.next)?, denoised })
    }
}
