//! DPM-Solver++(2M) for the diffusion SDE, Lu et al. (2022), Algorithm 2 with noise.

use crate::error::Result;
use crate::sampling::formulas::plus;
use crate::sampling::grid::{Conventions, Grid, GridRules};
use crate::sampling::integrator::{Denoiser, Integrator, Step};
use crate::sampling::noise::NoiseSource;
use crate::sampling::options::{ETA, S_NOISE, SamplerOptions};
use crate::sampling::schedule::Schedule;
use crate::sampling::spec::{NoiseUse, OtherNames, SamplerSpec};
use candle_core::Tensor;

pub(super) const SPEC: SamplerSpec = SamplerSpec {
    name: "dpmpp-2m-sde",
    label: "DPM++ 2M SDE",
    names: OtherNames {
        diffusers: None,
        k_diffusion: Some("sample_dpmpp_2m_sde"),
        comfyui: Some("dpmpp_2m_sde"),
        also: &["dpmpp_2m_sde_gpu", "DPM++ 2M SDE BT"],
    },
    source: "k-diffusion's sample_dpmpp_2m_sde, solver_type midpoint",
    order: 2,
    evaluations: 1,
    noise: NoiseUse::EveryStep,
    brownian: true,
    unguided: false,
    alone: false,
    options: &[ETA, S_NOISE],
    schedule: None,
    automatic: Schedule::Exponential,
    grids: Conventions { diffusers: GridRules::K_DIFFUSION },
    begin: |options, _| Ok(Box::new(DpmPp2mSde::new(options, false))),
};

/// The multistep solver of second order.
#[derive(Debug)]
pub(super) struct DpmPp2mSde {
    eta: f64,
    s_noise: f64,
    /// Heun's form of the second order instead of the midpoint's.
    heun: bool,
    previous: Option<Previous>,
}

/// What is remembered of the step before.
#[derive(Debug)]
struct Previous {
    denoised: Tensor,
    /// Its length in ln σ.
    h: f64,
}

impl DpmPp2mSde {
    pub(super) fn new(options: &SamplerOptions, heun: bool) -> Self {
        let (eta, s_noise) = (options.value(&ETA), options.value(&S_NOISE));
        Self { eta, s_noise, heun, previous: None }
    }
}

impl Integrator for DpmPp2mSde {
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
        let h = (sigma / next).ln();
        // The length of the step with the noise that is added.
        let whole = h * (1.0 + self.eta);
        let share = -(-whole).exp_m1();
        let mut x = ((x * (next / sigma * (-h * self.eta).exp()))? + (&denoised * share)?)?;
        if let Some(Previous { denoised: before, h: h_before }) = &self.previous {
            let weight = if self.heun { 1.0 - share / whole } else { share / 2.0 };
            x = plus(&x, weight * h / h_before, &(&denoised - before)?)?;
        }
        if self.eta > 0.0 {
            let fresh = noise.between(sigma, next, &x)?;
            let up = next * (-(-2.0 * h * self.eta).exp_m1()).sqrt();
            x = grid.process.add_noise(&x, &fresh, up * self.s_noise)?;
        }
        self.previous = Some(Previous { denoised: denoised.clone(), h });
        Ok(Step { x, denoised })
    }
}
