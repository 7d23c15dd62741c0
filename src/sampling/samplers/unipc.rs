//! UniPC, Zhao et al. (2023), with B₁(h).

use crate::error::Result;
use crate::sampling::bounds::Bounds;
use crate::sampling::config::SchedulerConfig;
use crate::sampling::formulas::{plus, pull};
use crate::sampling::grid::{Conventions, Grid, GridRules};
use crate::sampling::history::History;
use crate::sampling::integrator::{Denoiser, Integrator, Step};
use crate::sampling::linear::solve;
use crate::sampling::noise::NoiseSource;
use crate::sampling::options::{SOLVER_ORDER, SamplerOptions};
use crate::sampling::schedule::Schedule;
use crate::sampling::spec::{NoiseUse, OtherNames, SamplerSpec};
use candle_core::Tensor;

pub(super) const SPEC: SamplerSpec = SamplerSpec {
    name: "unipc",
    label: "UniPC",
    names: OtherNames { diffusers: None, k_diffusion: None, comfyui: Some("uni_pc"), also: &[] },
    source: "Zhao et al. (2023), UniPC: A Unified Predictor-Corrector Framework, Algorithms 1 and 2, B₁(h); ComfyUI's uni_pc",
    order: 3,
    evaluations: 1,
    noise: NoiseUse::Never,
    brownian: false,
    unguided: false,
    alone: false,
    options: &[SOLVER_ORDER],
    schedule: None,
    automatic: Schedule::Discrete,
    grids: Conventions { diffusers: GridRules::DPM_SOLVER },
    begin: |options, config| Ok(Box::new(UniPc::new(Form::Bh1, options, config))),
};

/// The function of the step's length that the method leaves open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// h.
    Bh1,
    /// eʰ − 1.
    Bh2,
}

/// The predictor, and the corrector that makes good the step before.
#[derive(Debug)]
pub(super) struct UniPc {
    form: Form,
    order: usize,
    bounds: Bounds,
    lower_order_final: bool,
    /// Estimates of x₀.
    history: History,
    /// The step before, which this one's estimate corrects.
    before: Option<Before>,
}

/// Where a step began, and its order.
#[derive(Debug)]
struct Before {
    x: Tensor,
    order: usize,
}

/// What estimates of earlier levels add to a step.
struct Weights {
    /// Of the estimates before the newest.
    old: Vec<f64>,
    /// Of the estimate at the end of the step.
    end: f64,
}

impl UniPc {
    pub(super) fn new(form: Form, options: &SamplerOptions, config: &SchedulerConfig) -> Self {
        Self {
            form,
            order: options.whole_or(&SOLVER_ORDER, config.solver_order),
            bounds: config.threshold(),
            lower_order_final: config.lower_order_final.unwrap_or(true),
            history: History::default(),
            before: None,
        }
    }

    /// The weights of a step of `order` to level `next`, each over the distance of its estimate.
    ///
    /// `corrects`: whether the estimate at the end is known.
    fn weights(&self, next: f64, order: usize, corrects: bool) -> Option<Weights> {
        let sigmas = &self.history.sigmas;
        let h = (sigmas[0] / next).ln();
        let mut places: Vec<f64> = (1..order).map(|i| (sigmas[0] / sigmas[i]).ln() / h).collect();
        places.push(1.0);
        let size = match self.form {
            Form::Bh1 => -h,
            Form::Bh2 => (-h).exp_m1(),
        };
        let mut phi = (-h).exp_m1() / -h - 1.0;
        let (mut factorial, mut right) = (1.0, Vec::new());
        for i in 1..=order {
            right.push(phi * factorial / size);
            factorial *= (i + 1) as f64;
            phi = phi / -h - 1.0 / factorial;
        }
        let unknowns = if corrects { order } else { order - 1 };
        let row = |i: usize| places[..unknowns].iter().map(|r| r.powi(i as i32)).collect();
        let solved = match (unknowns, corrects) {
            (0, _) => vec![],
            // The paper's exact solutions would be wasted on these: diffusers and the authors take 1/2.
            (1, _) => vec![0.5],
            _ => solve((0..unknowns).map(row).collect(), right[..unknowns].to_vec())?,
        };
        let over = |i: usize| solved[i] * size / places[i];
        let end = if corrects { over(order - 1) } else { 0.0 };
        Some(Weights { old: (0..order - 1).map(over).collect(), end })
    }

    /// The step of `order` from `x` at the newest level of the history to `next`.
    ///
    /// `end`: the estimate there, for the corrector.
    fn update(&self, x: &Tensor, next: f64, order: usize, end: Option<&Tensor>) -> Result<Tensor> {
        let newest = &self.history.tensors[0];
        let mut moved = pull(x, newest, self.history.sigmas[0], next)?;
        let Some(weights) = self.weights(next, order, end.is_some()) else { return Ok(moved) };
        for (weight, old) in weights.old.iter().zip(&self.history.tensors[1..]) {
            moved = plus(&moved, -weight, &(old - newest)?)?;
        }
        if let Some(end) = end {
            moved = plus(&moved, -weights.end, &(end - newest)?)?;
        }
        Ok(moved)
    }
}

impl Integrator for UniPc {
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
        let mut x = x.clone();
        if let Some(Before { x: began, order }) = self.before.take() {
            x = self.update(&began, sigma, order, Some(&denoised))?;
        }
        self.history.push(denoised.clone(), sigma, self.order);
        if next == 0.0 {
            return Ok(Step { x: denoised.clone(), denoised });
        }
        let left = if self.lower_order_final { grid.steps() - i } else { self.order };
        let order = left.min(self.order).min(self.history.len());
        let moved = self.update(&x, next, order, None)?;
        self.before = Some(Before { x, order });
        Ok(Step { x: moved, denoised })
    }
}
