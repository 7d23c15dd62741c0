//! DPM-Solver++(2M) along the unguided estimate: ComfyUI's `dpmpp_2m_cfg_pp`.

use super::euler_cfg_pp::renoised;
use crate::error::Result;
use crate::sampling::formulas::plus;
use crate::sampling::grid::{Conventions, Grid, GridRules};
use crate::sampling::integrator::{Denoiser, Estimates, Integrator, Step};
use crate::sampling::noise::NoiseSource;
use crate::sampling::schedule::Schedule;
use crate::sampling::spec::{NoiseUse, OtherNames, SamplerSpec};
use candle_core::Tensor;

pub(super) const SPEC: SamplerSpec = SamplerSpec {
    name: "dpmpp-2m-cfg-pp",
    label: "DPM++ 2M CFG++",
    names: OtherNames {
        diffusers: None,
        k_diffusion: None,
        comfyui: Some("dpmpp_2m_cfg_pp"),
        also: &[],
    },
    source: "Chung et al. (2024), CFG++: Manifold-constrained Classifier Free Guidance for Diffusion Models; ComfyUI's sample_dpmpp_2m_cfg_pp",
    order: 2,
    evaluations: 1,
    noise: NoiseUse::Never,
    brownian: false,
    unguided: true,
    alone: false,
    options: &[],
    schedule: None,
    automatic: Schedule::Karras,
    grids: Conventions { diffusers: GridRules::K_DIFFUSION },
    begin: |_, _| Ok(Box::new(DpmPp2mCfgPp { previous: None })),
};

/// The multistep solver of second order.
#[derive(Debug)]
struct DpmPp2mCfgPp {
    /// The unguided estimate of the step before, and its σ.
    previous: Option<(Tensor, f64)>,
}

impl Integrator for DpmPp2mCfgPp {
    fn step(
        &mut self,
        model: &dyn Denoiser,
        x: &Tensor,
        grid: &Grid,
        i: usize,
        _: &mut dyn NoiseSource,
    ) -> Result<Step> {
        let (sigma, next) = (grid.levels[i].sigma, grid.levels[i].next);
        let found = model.estimates(x, sigma)?;
        let mut x = renoised(x, &found, sigma, next)?;
        if let Some((before, sigma_before)) = self.previous.take().filter(|_| next > 0.0) {
            let ratio = (sigma_before / sigma).ln() / (sigma / next).ln();
            let share = (1.0 - next / sigma) / (2.0 * ratio);
            x = plus(&x, share, &(&found.guided - before)?)?;
        }
        let Estimates { guided: denoised, unguided } = found;
        self.previous = Some((unguided, sigma));
        Ok(Step { x, denoised })
    }
}
