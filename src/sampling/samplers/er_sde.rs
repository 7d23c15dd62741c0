//! The extended reverse-time SDE solver of third order: ComfyUI's `er_sde`.

use crate::error::Result;
use crate::sampling::formulas::{plus, pull};
use crate::sampling::grid::{Conventions, Grid, GridRules};
use crate::sampling::integrator::{Denoiser, Integrator, Step};
use crate::sampling::noise::NoiseSource;
use crate::sampling::options::S_NOISE;
use crate::sampling::schedule::Schedule;
use crate::sampling::spec::{NoiseUse, OtherNames, SamplerSpec};
use candle_core::Tensor;

pub(super) const SPEC: SamplerSpec = SamplerSpec {
    name: "er-sde",
    label: "ER SDE",
    names: OtherNames { diffusers: None, k_diffusion: None, comfyui: Some("er_sde"), also: &[] },
    source: "Cui et al. (2023), Elucidating the Solution Space of Extended Reverse-Time SDE, ER-SDE-Solver-3; ComfyUI's sample_er_sde",
    order: 3,
    evaluations: 1,
    noise: NoiseUse::EveryStep,
    brownian: false,
    unguided: false,
    alone: false,
    options: &[S_NOISE],
    schedule: None,
    automatic: Schedule::Discrete,
    grids: Conventions { diffusers: GridRules::K_DIFFUSION },
    begin: |options, _| Ok(Box::new(ErSde { s_noise: options.value(&S_NOISE), previous: None })),
};

/// The solver, and what it remembers of earlier steps.
#[derive(Debug)]
struct ErSde {
    s_noise: f64,
    previous: Option<Previous>,
}

/// What is remembered of the step before.
#[derive(Debug)]
struct Previous {
    denoised: Tensor,
    sigma: f64,
    /// Its difference quotient of estimates, and σ of the step before it.
    change: Option<Change>,
}

/// How fast the estimates changed.
#[derive(Debug, Clone)]
struct Change {
    rate: Tensor,
    /// The level of the older estimate.
    since: f64,
}

/// Points of the numerical integrals.
const POINTS: usize = 200;

/// The function of σ that scales the noise: eq. 17 with the choice of the paper's section 4.
fn scale(sigma: f64) -> f64 {
    sigma * (sigma.powf(0.3).exp() + 10.0)
}

/// Σ f of the points between `next` and `sigma`, times their distance.
fn sum(sigma: f64, next: f64, f: impl Fn(f64) -> f64) -> f64 {
    let step = (sigma - next) / POINTS as f64;
    (0..POINTS).map(|j| f(next + j as f64 * step)).sum::<f64>() * step
}

impl ErSde {
    /// What the estimates before add to `x`, and how fast they changed.
    fn higher(
        &self,
        x: Tensor,
        denoised: &Tensor,
        sigma: f64,
        next: f64,
    ) -> Result<(Tensor, Option<Change>)> {
        let Some(Previous { denoised: before, sigma: since, change }) = &self.previous else {
            return Ok((x, None));
        };
        let length = next - sigma;
        let rate = ((denoised - before)? / (sigma - since))?;
        let whole = sum(sigma, next, |s| 1.0 / scale(s)) * scale(next);
        let mut x = plus(&x, length + whole, &rate)?;
        if let Some(Change { rate: older, since: oldest }) = change {
            let bend = ((&rate - older)? / ((sigma - oldest) / 2.0))?;
            let whole = sum(sigma, next, |s| (s - sigma) / scale(s)) * scale(next);
            x = plus(&x, length * length / 2.0 + whole, &bend)?;
        }
        Ok((x, Some(Change { rate, since: *since })))
    }
}

impl Integrator for ErSde {
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
        let ratio = scale(next) / scale(sigma);
        let x = pull(x, &denoised, 1.0, ratio)?;
        let (x, change) = self.higher(x, &denoised, sigma, next)?;
        let fresh = noise.between(sigma, next, &x)?;
        let up = (next * next - (sigma * ratio).powi(2)).max(0.0).sqrt();
        let x = grid.process.add_noise(&x, &fresh, up * self.s_noise)?;
        self.previous = Some(Previous { denoised: denoised.clone(), sigma, change });
        Ok(Step { x, denoised })
    }
}
