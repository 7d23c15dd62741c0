//! Heun's method with slopes of up to three levels: ComfyUI's `heunpp2`.

use crate::error::Result;
use crate::sampling::formulas::{combined, plus, pull, slope};
use crate::sampling::grid::{Conventions, Grid, GridRules};
use crate::sampling::integrator::{Denoiser, Integrator, Step};
use crate::sampling::noise::NoiseSource;
use crate::sampling::schedule::Schedule;
use crate::sampling::spec::{NoiseUse, OtherNames, SamplerSpec};
use candle_core::Tensor;

pub(super) const SPEC: SamplerSpec = SamplerSpec {
    name: "heunpp2",
    label: "Heun++ 2",
    names: OtherNames { diffusers: None, k_diffusion: None, comfyui: Some("heunpp2"), also: &[] },
    source: "ComfyUI's sample_heunpp2, without its unused draws",
    order: 1,
    evaluations: 3,
    noise: NoiseUse::Never,
    brownian: false,
    unguided: false,
    alone: false,
    options: &[],
    schedule: None,
    automatic: Schedule::Discrete,
    grids: Conventions { diffusers: GridRules::K_DIFFUSION },
    begin: |_, _| Ok(Box::new(HeunPp2 { top: None })),
};

/// A mean of the slopes at this level and the next two, weighted by their noise.
#[derive(Debug)]
struct HeunPp2 {
    /// The first level of the run.
    top: Option<f64>,
}

impl Integrator for HeunPp2 {
    fn step(
        &mut self,
        model: &dyn Denoiser,
        x: &Tensor,
        grid: &Grid,
        i: usize,
        _: &mut dyn NoiseSource,
    ) -> Result<Step> {
        let (sigma, next) = (grid.levels[i].sigma, grid.levels[i].next);
        let top = *self.top.get_or_insert(sigma);
        let mut denoised = model.denoise(x, sigma)?;
        let there = pull(x, &denoised, sigma, next)?;
        if i + 1 >= grid.steps() || next == 0.0 {
            return Ok(Step { x: there, denoised });
        }
        let mut slopes = vec![slope(x, &denoised, sigma)?];
        denoised = model.denoise(&there, next)?;
        slopes.push(slope(&there, &denoised, next)?);
        let after = grid.levels[i + 1].next;
        let weights = if i + 2 == grid.steps() {
            let second = next / (2.0 * top);
            vec![1.0 - second, second]
        } else {
            let beyond = pull(&there, &denoised, next, after)?;
            denoised = model.denoise(&beyond, after)?;
            slopes.push(slope(&beyond, &denoised, after)?);
            let (second, third) = (next / (3.0 * top), after / (3.0 * top));
            vec![1.0 - second - third, second, third]
        };
        let x = plus(x, next - sigma, &combined(&slopes, &weights)?)?;
        Ok(Step { x, denoised })
    }
}
