//! The pseudo-numerical method of PNDM on slopes, fixed coefficients: ComfyUI's `ipndm`.

use crate::error::Result;
use crate::sampling::adams::adams;
use crate::sampling::formulas::{combined, plus, slope};
use crate::sampling::grid::{Conventions, Grid, GridRules};
use crate::sampling::history::History;
use crate::sampling::integrator::{Denoiser, Integrator, Step};
use crate::sampling::noise::NoiseSource;
use crate::sampling::options::ORDER;
use crate::sampling::schedule::Schedule;
use crate::sampling::spec::{NoiseUse, OtherNames, SamplerSpec};
use candle_core::Tensor;

pub(super) const SPEC: SamplerSpec = SamplerSpec {
    name: "ipndm",
    label: "iPNDM",
    names: OtherNames { diffusers: None, k_diffusion: None, comfyui: Some("ipndm"), also: &[] },
    source: "Zhang and Chen (2022), iPNDM; ComfyUI's sample_ipndm",
    order: 2,
    evaluations: 1,
    noise: NoiseUse::Never,
    options: &[ORDER],
    schedule: None,
    automatic: Schedule::Discrete,
    grids: Conventions { diffusers: GridRules::K_DIFFUSION },
    begin: |options, _| {
        Ok(Box::new(Ipndm { order: options.whole(&ORDER), history: History::default() }))
    },
};

/// Adams and Bashforth's coefficients of even steps, whatever the steps.
#[derive(Debug)]
struct Ipndm {
    order: usize,
    /// Slopes.
    history: History,
}

impl Integrator for Ipndm {
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
        if next == 0.0 {
            return Ok(Step { x: denoised.clone(), denoised });
        }
        self.history.push(slope(x, &denoised, sigma)?, sigma, self.order);
        let weights = adams(self.history.len());
        let x = plus(x, next - sigma, &combined(&self.history.tensors, weights)?)?;
        Ok(Step { x, denoised })
    }
}
