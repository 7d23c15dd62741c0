//! DPM-Solver++, single-step: each evaluation is a step.

use crate::error::Result;
use crate::sampling::bounds::Bounds;
use crate::sampling::config::{SchedulerConfig, Spacing};
use crate::sampling::formulas::{plus, pull};
use crate::sampling::grid::{Conventions, Grid, GridRules, Timesteps};
use crate::sampling::history::History;
use crate::sampling::integrator::{Denoiser, Integrator, Step};
use crate::sampling::noise::NoiseSource;
use crate::sampling::options::{SOLVER_ORDER, SamplerOptions};
use crate::sampling::schedule::Schedule;
use crate::sampling::spacing::SpacingRules;
use crate::sampling::spec::{NoiseUse, OtherNames, SamplerSpec};
use crate::sampling::table::NoiseTable;
use candle_core::Tensor;

pub(super) const SPEC: SamplerSpec = SamplerSpec {
    name: "dpmpp-2s",
    label: "DPM++ 2S",
    names: OtherNames {
        diffusers: Some("DPMSolverSinglestepScheduler"),
        k_diffusion: None,
        comfyui: None,
        also: &["dpmpp_2s", "DPM-Solver++(2S)"],
    },
    source: "Lu et al. (2022), DPM-Solver++, Algorithm 1; diffusers' DPMSolverSinglestepScheduler",
    order: 2,
    evaluations: 1,
    noise: NoiseUse::Never,
    brownian: false,
    unguided: false,
    alone: false,
    options: &[SOLVER_ORDER],
    schedule: None,
    automatic: Schedule::Karras,
    grids: Conventions {
        diffusers: GridRules { timesteps: Timesteps::Own(timesteps), ..GridRules::DPM_SOLVER },
    },
    begin: |options, config| Ok(Box::new(DpmPp2s::new(options, config))),
};

/// Evenly from the last to the first timestep, whatever the config's spacing.
fn timesteps(steps: usize, config: &SchedulerConfig, table: &NoiseTable) -> Result<Vec<f64>> {
    let rules =
        SpacingRules { default: Spacing::Linspace, one_more: true, whole: true, clipped: true };
    let config = SchedulerConfig { timestep_spacing: Some(Spacing::Linspace), ..config.clone() };
    rules.timesteps(steps, &config, table)
}

/// Groups of evaluations of which each goes on from where the group began.
#[derive(Debug)]
struct DpmPp2s {
    order: usize,
    bounds: Bounds,
    /// Heun's form of the higher orders instead of the midpoint's.
    heun: bool,
    /// Latents where the group began.
    began: Option<Tensor>,
    /// Estimates of x₀ of the group.
    history: History,
}

impl DpmPp2s {
    fn new(options: &SamplerOptions, config: &SchedulerConfig) -> Self {
        Self {
            order: options.whole_or(&SOLVER_ORDER, config.solver_order),
            bounds: config.threshold(),
            heun: config.solver_type.as_deref() == Some("heun"),
            began: None,
            history: History::default(),
        }
    }

    /// The orders of all steps: groups of 1, 2, … evaluations; the end of the run is of first order.
    fn orders(&self, grid: &Grid) -> Vec<usize> {
        let (steps, order) = (grid.steps(), self.order);
        let mut orders: Vec<usize> = (0..steps).map(|i| i % order + 1).collect();
        match steps % order {
            0 if order > 1 => orders[steps - 1] = 1,
            _ => {}
        }
        // Groups of three that end with the run leave two and one.
        if order == 3 && steps % 3 == 0 {
            orders[steps - 2] = 2;
        }
        if grid.end() == 0.0 {
            orders[steps - 1] = 1;
        }
        orders
    }

    /// The step of `order` from the beginning of the group to `next`.
    fn moved(&self, x: &Tensor, next: f64, order: usize) -> Result<Tensor> {
        let (found, sigmas) = (&self.history.tensors, &self.history.sigmas);
        let oldest = order - 1;
        let x = pull(x, &found[oldest], sigmas[oldest], next)?;
        if order == 1 {
            return Ok(x);
        }
        let h = (sigmas[oldest] / next).ln();
        let share = -(-h).exp_m1();
        let ratio = |j: usize| (sigmas[oldest] / sigmas[j]).ln() / h;
        let rate = |j: usize| -> Result<Tensor> { Ok(((&found[j] - &found[oldest])? / ratio(j))?) };
        let linear = 1.0 - share / h;
        if order == 2 {
            return plus(&x, if self.heun { linear } else { share / 2.0 }, &rate(0)?);
        }
        let (newest, middle) = (rate(0)?, rate(1)?);
        if !self.heun {
            return plus(&x, linear, &newest);
        }
        let (r_0, r_1) = (ratio(0), ratio(1));
        let first = (((&middle * r_0)? - (&newest * r_1)?)? / (r_0 - r_1))?;
        let second = ((newest - middle)? * (2.0 / (r_0 - r_1)))?;
        let x = plus(&x, linear, &first)?;
        plus(&x, 0.5 - (h - share) / (h * h), &second)
    }
}

impl Integrator for DpmPp2s {
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
        let order = self.orders(grid)[i].min(self.history.len());
        let began = match self.began.take().filter(|_| order > 1) {
            Some(began) => began,
            None => x.clone(),
        };
        let moved = self.moved(&began, next, order)?;
        self.began = Some(began);
        Ok(Step { x: moved, denoised })
    }
}
