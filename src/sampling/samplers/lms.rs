//! A linear multistep method: the polynomial through the last slopes, k-diffusion's `sample_lms`.

use crate::error::Result;
use crate::sampling::formulas::{combined, slope};
use crate::sampling::grid::{Conventions, Grid, GridRules};
use crate::sampling::history::History;
use crate::sampling::integrator::{Denoiser, Integrator, Step};
use crate::sampling::noise::NoiseSource;
use crate::sampling::options::ORDER;
use crate::sampling::quadrature::{integral, lagrange};
use crate::sampling::schedule::Schedule;
use crate::sampling::spec::{NoiseUse, OtherNames, SamplerSpec};
use candle_core::Tensor;

pub(super) const SPEC: SamplerSpec = SamplerSpec {
    name: "lms",
    label: "LMS",
    names: OtherNames {
        diffusers: Some("LMSDiscreteScheduler"),
        k_diffusion: Some("sample_lms"),
        comfyui: Some("lms"),
        also: &[],
    },
    source: "Adams and Bashforth's method with steps of any length; k-diffusion's sample_lms, integrated exactly; diffusers' LMSDiscreteScheduler",
    order: 3,
    evaluations: 1,
    noise: NoiseUse::Never,
    options: &[ORDER],
    schedule: None,
    automatic: Schedule::Discrete,
    grids: Conventions { diffusers: GridRules::K_DIFFUSION },
    begin: |options, _| {
        Ok(Box::new(Lms { order: options.whole(&ORDER), history: History::default() }))
    },
};

/// The integral of the polynomial through the last slopes. The step to σ = 0 goes on with it, as k-diffusion and
/// diffusers do; ComfyUI returns the estimate there.
#[derive(Debug)]
struct Lms {
    order: usize,
    /// Slopes.
    history: History,
}

impl Integrator for Lms {
    fn step(
        &mut self,
        model: &dyn Denoiser,
        x: &Tensor,
        grid: &Grid,
        i: usize,
        _: &mut dyn NoiseSource,
    ) -> Result<Step> {
        let (sigma, next) = (grid.levels[i].sigma, grid.levels[i].next);
        let denoised = model.denoise(x, sigma)?;
        self.history.push(slope(x, &denoised, sigma)?, sigma, self.order);
        let sigmas = &self.history.sigmas;
        let weight = |j: usize| integral(sigma, next, |s| lagrange(sigmas, j, s));
        let weights: Vec<f64> = (0..self.history.len()).map(weight).collect();
        let x = (x + combined(&self.history.tensors, &weights)?)?;
        Ok(Step { x, denoised })
    }
}
