//! DPM-Solver++(3M) for the diffusion SDE: k-diffusion's `sample_dpmpp_3m_sde`.

use crate::error::Result;
use crate::sampling::formulas::plus;
use crate::sampling::grid::{Conventions, Grid, GridRules};
use crate::sampling::history::History;
use crate::sampling::integrator::{Denoiser, Integrator, Step};
use crate::sampling::noise::NoiseSource;
use crate::sampling::options::{ETA, S_NOISE};
use crate::sampling::schedule::Schedule;
use crate::sampling::spec::{NoiseUse, OtherNames, SamplerSpec};
use candle_core::Tensor;

pub(super) const SPEC: SamplerSpec = SamplerSpec {
    name: "dpmpp-3m-sde",
    label: "DPM++ 3M SDE",
    names: OtherNames {
        diffusers: None,
        k_diffusion: Some("sample_dpmpp_3m_sde"),
        comfyui: Some("dpmpp_3m_sde"),
        also: &["dpmpp_3m_sde_gpu"],
    },
    source: "k-diffusion's sample_dpmpp_3m_sde",
    order: 3,
    evaluations: 1,
    noise: NoiseUse::EveryStep,
    brownian: true,
    unguided: false,
    alone: false,
    options: &[ETA, S_NOISE],
    schedule: None,
    automatic: Schedule::Exponential,
    grids: Conventions { diffusers: GridRules::K_DIFFUSION },
    begin: |options, _| {
        Ok(Box::new(DpmPp3mSde {
            eta: options.value(&ETA),
            s_noise: options.value(&S_NOISE),
            history: History::default(),
        }))
    },
};

/// The multistep solver of third order.
#[derive(Debug)]
struct DpmPp3mSde {
    eta: f64,
    s_noise: f64,
    /// Estimates of x₀.
    history: History,
}

impl DpmPp3mSde {
    /// What estimates of earlier steps add to a step of length `h` in ln σ from level `sigma`.
    ///
    /// `whole`: its length with the noise that is added.
    fn higher(&self, denoised: &Tensor, sigma: f64, h: f64, whole: f64) -> Result<Option<Tensor>> {
        let phi_2 = (-whole).exp_m1() / whole + 1.0;
        let phi_3 = phi_2 / whole - 0.5;
        let (old, sigmas) = (&self.history.tensors, &self.history.sigmas);
        Ok(match (&old[..], &sigmas[..]) {
            ([one, two, ..], [sigma_1, sigma_2, ..]) => {
                let (r_0, r_1) = ((sigma_1 / sigma).ln() / h, (sigma_2 / sigma_1).ln() / h);
                let u = ((denoised - one)? / r_0)?;
                let v = ((one - two)? / r_1)?;
                let bend = ((&u - v)? / (r_0 + r_1))?;
                let first = plus(&u, r_0, &bend)?;
                Some(plus(&(first * phi_2)?, -phi_3, &bend)?)
            }
            ([one], [sigma_1]) => {
                let r = (sigma_1 / sigma).ln() / h;
                Some(((denoised - one)? * (phi_2 / r))?)
            }
            _ => None,
        })
    }
}

impl Integrator for DpmPp3mSde {
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
        let whole = h * (1.0 + self.eta);
        let mut x = ((x * (-whole).exp())? - (&denoised * (-whole).exp_m1())?)?;
        if let Some(higher) = self.higher(&denoised, sigma, h, whole)? {
            x = (x + higher)?;
        }
        if self.eta > 0.0 {
            let fresh = noise.between(sigma, next, &x)?;
            let up = next * (-(-2.0 * h * self.eta).exp_m1()).sqrt();
            x = grid.process.add_noise(&x, &fresh, up * self.s_noise)?;
        }
        self.history.push(denoised.clone(), sigma, 2);
        Ok(Step { x, denoised })
    }
}
