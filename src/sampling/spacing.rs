//! The timesteps of a run as diffusers' schedulers space them.

use super::config::{SchedulerConfig, Spacing};
use super::table::NoiseTable;
use crate::error::{Error, Result};

/// How a scheduler of diffusers spaces timesteps.
#[derive(Debug, Clone, Copy)]
pub struct SpacingRules {
    /// The spacing of configs that name none.
    pub default: Spacing,
    /// Whether one point more than the steps is spaced and the lowest left out: DPM-Solver and its kin.
    pub one_more: bool,
    /// Whether timesteps are whole; else they are f32 numbers.
    pub whole: bool,
    /// Whether `lambda_min_clipped` cuts the first timesteps off.
    pub clipped: bool,
}

impl SpacingRules {
    /// The timesteps of so many steps, falling.
    ///
    /// # Errors
    /// [`Error::Unsupported`] when the config leaves no place for them.
    ///
    /// # Source
    /// diffusers 0.42: `set_timesteps` of EulerDiscreteScheduler, DDIMScheduler and
    /// DPMSolverMultistepScheduler.
    pub(super) fn timesteps(
        self,
        steps: usize,
        config: &SchedulerConfig,
        table: &NoiseTable,
    ) -> Result<Vec<f64>> {
        let points = if self.one_more { steps + 1 } else { steps };
        let least = config.lambda_min_clipped.filter(|_| self.clipped);
        let train = least.map_or(table.len(), |lambda| table.above(lambda));
        let timesteps: Vec<f64> = match config.timestep_spacing.unwrap_or(self.default) {
            Spacing::Linspace => self.linspace(points, steps, train),
            Spacing::Leading => {
                let (ratio, offset) = (train / points, config.steps_offset);
                (0..points)
                    .rev()
                    .take(steps)
                    .map(|i| (i * ratio).saturating_add(offset) as f64)
                    .collect()
            }
            Spacing::Trailing => {
                let ratio = table.len() as f64 / steps as f64;
                let at = |i: usize| (train as f64 - i as f64 * ratio).round_ties_even() - 1.0;
                (0..steps).map(at).collect()
            }
        };
        // diffusers runs some that begin above the table: with the level of its last entry, under another timestep.
        let below = timesteps.iter().any(|t| *t < 0.0);
        let above = timesteps.iter().any(|t| *t >= table.len() as f64);
        if !below && !above {
            return Ok(timesteps);
        }
        let field = if below && self.clipped { "lambda_min_clipped" } else { "steps_offset" };
        Err(Error::unsupported(
            format!("{field} of the scheduler config, which leaves no place for {steps} steps,"),
            "draw with fewer steps or another sampler",
        ))
    }

    /// As numpy's `linspace`: by the step, the end exactly; rounding depends on it.
    fn linspace(self, points: usize, steps: usize, train: usize) -> Vec<f64> {
        let last = train.saturating_sub(1) as f64;
        let step = last / (points.max(2) - 1) as f64;
        let at = |i: usize| {
            let t = if i > 0 && i + 1 == points { last } else { i as f64 * step };
            if self.whole { t.round_ties_even() } else { f64::from(t as f32) }
        };
        (0..points).rev().take(steps).map(at).collect()
    }
}
