//! Multistep methods on slopes: what a step of theirs does, whatever their coefficients.

use super::convention::Convention;
use super::formulas::slope;
use super::grid::Grid;
use super::history::History;
use super::integrator::{Denoiser, Integrator, Step};
use super::noise::NoiseSource;
use crate::error::Result;
use candle_core::Tensor;

/// What a step from one level (σ) to the next adds to x, from the slopes at the last levels, the present one included.
pub(super) type Change = fn(&History, f64, f64) -> Result<Tensor>;

/// Evaluates once a step and goes on by the slopes of the last steps.
#[derive(Debug)]
pub(super) struct Multistep {
    /// Slopes that are kept.
    order: usize,
    change: Change,
    /// Whether the step to σ = 0 ends at the estimate of x₀ instead, as it does in ComfyUI.
    to_estimate: bool,
    /// Slopes.
    history: History,
}

impl Multistep {
    /// The method of this order that adds `change`, also in the step to σ = 0.
    pub(super) fn new(order: usize, change: Change) -> Self {
        Self { order, change, to_estimate: false, history: History::default() }
    }

    /// The same, whose step to σ = 0 ends at the estimate of x₀.
    pub(super) fn ending_at_estimate(self) -> Self {
        Self { to_estimate: true, ..self }
    }
}

impl Integrator for Multistep {
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
        let to_estimate = self.to_estimate || grid.convention == Convention::Comfyui;
        if to_estimate && next == 0.0 {
            return Ok(Step { x: denoised.clone(), denoised });
        }
        self.history.push(slope(x, &denoised, sigma)?, sigma, self.order);
        let x = (x + (self.change)(&self.history, sigma, next)?)?;
        Ok(Step { x, denoised })
    }
}
