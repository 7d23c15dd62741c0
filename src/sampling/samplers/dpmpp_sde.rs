//! DPM-Solver++ for the diffusion SDE, single-step: k-diffusion's `sample_dpmpp_sde`.

use crate::error::Result;
use crate::sampling::formulas::pull;
use crate::sampling::grid::{Conventions, Grid, GridRules};
use crate::sampling::integrator::{Denoiser, Integrator, Step};
use crate::sampling::noise::{NoiseSource, Way};
use crate::sampling::options::{ETA, S_NOISE};
use crate::sampling::process::Ancestral;
use crate::sampling::schedule::Schedule;
use crate::sampling::spec::{NoiseUse, OtherNames, SamplerSpec};
use candle_core::Tensor;

pub(super) const SPEC: SamplerSpec = SamplerSpec {
    name: "dpmpp-sde",
    label: "DPM++ SDE",
    names: OtherNames {
        diffusers: Some("DPMSolverSDEScheduler"),
        k_diffusion: Some("sample_dpmpp_sde"),
        comfyui: Some("dpmpp_sde"),
        also: &["dpmpp_sde_gpu"],
    },
    source: "Lu et al. (2022), DPM-Solver++, section 5, single-step with r = 1/2; k-diffusion's sample_dpmpp_sde; diffusers' DPMSolverSDEScheduler",
    order: 2,
    evaluations: 2,
    noise: NoiseUse::EveryEvaluation,
    brownian: true,
    unguided: false,
    alone: false,
    options: &[ETA, S_NOISE],
    schedule: None,
    automatic: Schedule::Karras,
    grids: Conventions { diffusers: GridRules::K_DIFFUSION },
    begin: |options, _| {
        Ok(Box::new(DpmPpSde { eta: options.value(&ETA), s_noise: options.value(&S_NOISE) }))
    },
};

/// A step to the middle in ln σ, and the whole step with the estimate found there; both add noise.
#[derive(Debug)]
struct DpmPpSde {
    eta: f64,
    s_noise: f64,
}

impl Integrator for DpmPpSde {
    fn step(
        &mut self,
        model: &dyn Denoiser,
        x: &Tensor,
        grid: &Grid,
        i: usize,
        noise: &mut dyn NoiseSource,
    ) -> Result<Step> {
        let (sigma, next) = (grid.levels[i].sigma, grid.levels[i].next);
        let denoised = model.denoise(x, sigma)?;
        if next == 0.0 {
            return Ok(Step { x: denoised.clone(), denoised });
        }
        let middle = (sigma * next).sqrt();
        let way = Way { sigma, next };
        let mut to = |level: f64, share: f64, estimate: &Tensor| -> Result<Tensor> {
            let Ancestral { down, up } = grid.process.ancestral(sigma, level, self.eta);
            let x = pull(x, estimate, sigma, down)?;
            let fresh = noise.partway(way, share, &x)?;
            grid.process.add_noise(&x, &fresh, up * self.s_noise)
        };
        let there = to(middle, 0.5, &denoised)?;
        let denoised = model.denoise(&there, middle)?;
        let x = to(next, 1.0, &denoised)?;
        Ok(Step { x, denoised })
    }
}
