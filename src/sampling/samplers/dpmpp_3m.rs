//! DPM-Solver++(3M).

use crate::error::Result;
use crate::sampling::bounds::Bounds;
use crate::sampling::config::SchedulerConfig;
use crate::sampling::formulas::{plus, pull};
use crate::sampling::grid::{Conventions, Grid, GridRules};
use crate::sampling::history::History;
use crate::sampling::integrator::{Denoiser, Integrator, Step};
use crate::sampling::noise::NoiseSource;
use crate::sampling::schedule::Schedule;
use crate::sampling::spec::{NoiseUse, OtherNames, SamplerSpec};
use candle_core::Tensor;

pub(super) const SPEC: SamplerSpec = SamplerSpec {
    name: "dpmpp-3m",
    label: "DPM++ 3M",
    names: OtherNames {
        diffusers: None,
        k_diffusion: None,
        comfyui: None,
        also: &["dpmpp_3m", "DPM-Solver++(3M)"],
    },
    source: "Lu et al. (2022), DPM-Solver++, with three estimates; diffusers' DPMSolverMultistepScheduler with solver_order = 3",
    // Its first steps are of lower order, which is what remains.
    order: 2,
    evaluations: 1,
    noise: NoiseUse::Never,
    brownian: false,
    unguided: false,
    alone: false,
    options: &[],
    schedule: None,
    automatic: Schedule::Karras,
    grids: Conventions { diffusers: GridRules::DPM_SOLVER },
    begin: |_, config| Ok(Box::new(DpmPp3m::new(config))),
};

/// Runs of fewer steps end with steps of lower order, if `lower_order_final`.
const SHORT: usize = 15;

/// The multistep solver of third order.
#[derive(Debug)]
struct DpmPp3m {
    bounds: Bounds,
    /// Whether short runs end with steps of lower order.
    short_ends_low: bool,
    /// Whether all runs end with a step of first order.
    ends_low: bool,
    /// Estimates of x₀.
    history: History,
}

impl DpmPp3m {
    fn new(config: &SchedulerConfig) -> Self {
        Self {
            bounds: config.threshold(),
            short_ends_low: config.lower_order_final.unwrap_or(true),
            ends_low: config.euler_at_final,
            history: History::default(),
        }
    }

    fn order(&self, grid: &Grid, i: usize) -> usize {
        let left = grid.steps() - i;
        let short = self.short_ends_low && grid.steps() < SHORT;
        let most = match left {
            1 if short || self.ends_low || grid.levels[i].next == 0.0 => 1,
            2 if short => 2,
            _ => 3,
        };
        self.history.len().min(most)
    }

    /// What estimates before the newest add to the step to `next`.
    fn higher(&self, x: Tensor, next: f64, order: usize) -> Result<Tensor> {
        let (tensors, sigmas) = (&self.history.tensors, &self.history.sigmas);
        if order < 2 {
            return Ok(x);
        }
        let h = (sigmas[0] / next).ln();
        let r_0 = (sigmas[1] / sigmas[0]).ln() / h;
        let first = ((&tensors[0] - &tensors[1])? / r_0)?;
        let share = -(-h).exp_m1();
        if order == 2 {
            return plus(&x, share / 2.0, &first);
        }
        let r_1 = (sigmas[2] / sigmas[1]).ln() / h;
        let second = ((&tensors[1] - &tensors[2])? / r_1)?;
        let change = (&first - second)?;
        let rate = plus(&first, r_0 / (r_0 + r_1), &change)?;
        let bend = (change / (r_0 + r_1))?;
        let x = plus(&x, 1.0 - share / h, &rate)?;
        plus(&x, 0.5 - (h - share) / (h * h), &bend)
    }
}

impl Integrator for DpmPp3m {
    fn step(
        &mut self,
        model: &dyn Denoiser,
        x: &Tensor,
        grid: &Grid,
        i: usize,
        _: &mut dyn NoiseSource,
    ) -> Result<Step> {
        let (sigma, next) = (grid.levels[i].sigma, grid.levels[i].next);
        let denoised = self.bounds.apply(&model.denoise(x, sigma)?)?;
        self.history.push(denoised.clone(), sigma, 3);
        let order = self.order(grid, i);
        let x = self.higher(pull(x, &denoised, sigma, next)?, next, order)?;
        Ok(Step { x, denoised })
    }
}
