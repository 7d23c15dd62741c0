//! SA-Solver: Xue et al. (2023), "SA-Solver: Stochastic Adams Solver for Fast Sampling of Diffusion Models".

use crate::error::Result;
use crate::sampling::convention::Convention;
use crate::sampling::formulas::{combined, plus};
use crate::sampling::grid::{Conventions, Grid, GridRules};
use crate::sampling::history::History;
use crate::sampling::integrator::{Denoiser, Integrator, Step};
use crate::sampling::noise::NoiseSource;
use crate::sampling::options::{ETA, S_NOISE, SamplerOptions};
use crate::sampling::quadrature::{integral, lagrange};
use crate::sampling::schedule::Schedule;
use crate::sampling::spec::{NoiseUse, OtherNames, SamplerSpec};
use candle_core::Tensor;

pub(super) const SPEC: SamplerSpec = SamplerSpec {
    name: "sa-solver",
    label: "SA-Solver",
    names: OtherNames {
        diffusers: Some("SASolverScheduler"),
        k_diffusion: None,
        comfyui: Some("sa_solver"),
        also: &[],
    },
    source: "Xue et al. (2023), SA-Solver, Algorithm 1; diffusers' SASolverScheduler (orders 2 and 2), ComfyUI's sample_sa_solver (3 and 4)",
    order: 2,
    evaluations: 1,
    noise: NoiseUse::EveryStep,
    brownian: false,
    unguided: false,
    alone: false,
    options: &[ETA, S_NOISE],
    schedule: None,
    automatic: Schedule::Discrete,
    grids: Conventions { diffusers: GridRules::DPM_SOLVER },
    begin: |options, _| Ok(Box::new(SaSolver::new(options, false))),
};

/// Predictor and corrector with the noise of the step between them.
#[derive(Debug)]
pub(super) struct SaSolver {
    /// τ, how much noise is added.
    eta: f64,
    s_noise: f64,
    /// Whether the network is evaluated again after the corrector.
    twice: bool,
    /// Estimates of x₀.
    history: History,
    before: Option<Before>,
}

/// The step before, which this one's estimate corrects.
#[derive(Debug)]
struct Before {
    x: Tensor,
    sigma: f64,
    tau: f64,
    /// The noise that it added.
    noise: Option<Tensor>,
}

/// The orders of a step.
struct Orders {
    predictor: usize,
    corrector: usize,
}

/// Estimates with their levels, newest first, and the weights by which a step adds them.
struct Way {
    sigma: f64,
    next: f64,
    tau: f64,
}

impl Way {
    /// Its length in ln σ.
    fn length(&self) -> f64 {
        (self.sigma / self.next).ln()
    }

    /// The weights of estimates at `sigmas`: eq. 15 and 18, where the scale of x₀ is 1.
    fn weights(&self, sigmas: &[f64]) -> Vec<f64> {
        let nodes: Vec<f64> = sigmas.iter().map(|sigma| -sigma.ln()).collect();
        let (from, to) = (-self.sigma.ln(), -self.next.ln());
        let rate = 1.0 + self.tau * self.tau;
        let weight = |j: usize| {
            rate * integral(from, to, |t| lagrange(&nodes, j, t) * (rate * (t - to)).exp())
        };
        (0..nodes.len()).map(weight).collect()
    }

    /// What diffusers moves from the weight of the second estimate to that of the first, for two estimates at
    /// distance `d` in ln σ.
    fn shift(&self, d: f64) -> f64 {
        let (h, rate) = (self.length(), 1.0 + self.tau * self.tau);
        rate * (h * h / 2.0 - (h * rate + (-rate * h).exp_m1()) / (rate * rate)) / d
    }

    /// The step from `x` over the estimates of `history`.
    fn go(&self, x: &Tensor, history: &History, weights: &[f64]) -> Result<Tensor> {
        let kept = self.next / self.sigma * (-self.tau * self.tau * self.length()).exp();
        Ok(((x * kept)? + combined(&history.tensors, weights)?)?)
    }

    /// Deviation of the noise that it adds.
    fn up(&self) -> f64 {
        self.next * (-(-2.0 * self.tau * self.tau * self.length()).exp_m1()).sqrt()
    }
}

impl SaSolver {
    pub(super) fn new(options: &SamplerOptions, twice: bool) -> Self {
        Self {
            eta: options.value(&ETA),
            s_noise: options.value(&S_NOISE),
            twice,
            history: History::default(),
            before: None,
        }
    }

    /// Whether formulas are those of diffusers, which has no second evaluation.
    fn of_diffusers(&self, grid: &Grid) -> bool {
        grid.convention == Convention::Diffusers && !self.twice
    }

    /// The orders of step `i`; the newest estimate is in the history.
    fn orders(&self, grid: &Grid, i: usize) -> Orders {
        let (left, known) = (grid.steps() - i, self.history.len());
        if self.of_diffusers(grid) {
            return Orders { predictor: known.min(2).min(left), corrector: known.min(2) };
        }
        let ends = grid.end() == 0.0;
        let last = grid.levels[i].next == 0.0 && !self.twice;
        let capped = |order: usize, most: usize| {
            let order = order.min(known);
            if ends { order.min(most) } else { order }
        };
        let corrector = if i == 0 || last { 0 } else { capped(4, left) };
        Orders { predictor: capped(3, left - 1), corrector }
    }

    /// τ of a step, which is 0 near both ends of the process.
    fn tau(&self, grid: &Grid, i: usize) -> f64 {
        let level = grid.levels[i];
        let table = grid.process.table();
        let last = (table.len() - 1) as f64;
        let within = if self.of_diffusers(grid) {
            (0.2 * (last + 1.0)..=0.8 * (last + 1.0)).contains(&level.timestep)
        } else {
            (table.sigma_in_log(0.2 * last)..=table.sigma_in_log(0.8 * last)).contains(&level.next)
        };
        if within { self.eta } else { 0.0 }
    }

    /// The end of the step before with the estimate found there.
    fn corrected(&self, before: &Before, sigma: f64, order: usize, shifts: bool) -> Result<Tensor> {
        let way = Way { sigma: before.sigma, next: sigma, tau: before.tau };
        let mut weights = way.weights(&self.history.sigmas[..order]);
        if let ([first, second], true) = (&mut weights[..], shifts) {
            let shift = way.shift(way.length());
            *first += shift;
            *second -= shift;
        }
        let x = way.go(&before.x, &self.history, &weights)?;
        match &before.noise {
            Some(noise) => Ok((x + noise)?),
            None => Ok(x),
        }
    }
}

impl Integrator for SaSolver {
    fn step(
        &mut self,
        model: &dyn Denoiser,
        x: &Tensor,
        grid: &Grid,
        i: usize,
        noise: &mut dyn NoiseSource,
    ) -> Result<Step> {
        let (sigma, next) = (grid.levels[i].sigma, grid.levels[i].next);
        let mut denoised = model.denoise(x, sigma)?;
        self.history.push(denoised.clone(), sigma, 4);
        let Orders { predictor, corrector } = self.orders(grid, i);
        let of_diffusers = self.of_diffusers(grid);
        let mut x = x.clone();
        if let Some(before) = self.before.take().filter(|_| corrector > 0) {
            x = self.corrected(&before, sigma, corrector, of_diffusers)?;
            if self.twice {
                denoised = model.denoise(&x, sigma)?;
                self.history.tensors[0] = denoised.clone();
            }
        }
        if next == 0.0 {
            return Ok(Step { x: denoised.clone(), denoised });
        }
        let way = Way { sigma, next, tau: self.tau(grid, i) };
        let mut weights = way.weights(&self.history.sigmas[..predictor]);
        if let ([first, second], true) = (&mut weights[..], of_diffusers) {
            let shift = way.shift((self.history.sigmas[1] / sigma).ln());
            *first += shift;
            *second -= shift;
        }
        let mut moved = way.go(&x, &self.history, &weights)?;
        let mut added = None;
        // diffusers draws for steps without noise too.
        if way.tau > 0.0 || of_diffusers {
            let fresh = noise.between(sigma, next, &x)?;
            if way.tau > 0.0 {
                let fresh = (fresh * (way.up() * self.s_noise))?;
                moved = plus(&moved, 1.0, &fresh)?;
                added = Some(fresh);
            }
        }
        self.before = Some(Before { x, sigma, tau: way.tau, noise: added });
        Ok(Step { x: moved, denoised })
    }
}
