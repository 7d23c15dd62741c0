//! The pseudo-numerical method of PNDM with coefficients of uneven steps: ComfyUI's `ipndm_v`.

use crate::error::Result;
use crate::sampling::adams::adams_uneven;
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
    name: "ipndm-v",
    label: "iPNDM v",
    names: OtherNames { diffusers: None, k_diffusion: None, comfyui: Some("ipndm_v"), also: &[] },
    source: "ComfyUI's sample_ipndm_v",
    order: 3,
    evaluations: 1,
    noise: NoiseUse::Never,
    options: &[ORDER],
    schedule: None,
    automatic: Schedule::Discrete,
    grids: Conventions { diffusers: GridRules::K_DIFFUSION },
    begin: |options, _| {
        Ok(Box::new(IpndmV { order: options.whole(&ORDER), history: History::default() }))
    },
};

/// Adams and Bashforth's coefficients by the lengths of the steps.
#[derive(Debug)]
struct IpndmV {
    order: usize,
    /// Slopes.
    history: History,
}

impl Integrator for IpndmV {
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
        let lengths: Vec<f64> =
            self.history.sigmas.windows(2).map(|pair| pair[0] - pair[1]).collect();
        let weights = adams_uneven(next - sigma, &lengths);
        let x = plus(x, next - sigma, &combined(&self.history.tensors, &weights)?)?;
        Ok(Step { x, denoised })
    }
}
