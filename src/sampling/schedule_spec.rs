//! What there is to say about a schedule, in one value.

use super::process::{NoiseProcess, TimestepRule};

/// What a schedule may look at.
#[derive(Debug, Clone, Copy)]
pub struct ScheduleInput<'a> {
    /// Timesteps that the sampler's grid rules space, falling, one a step.
    pub timesteps: &'a [f64],
    /// Lowest level above zero.
    pub low: f64,
    /// Highest level.
    pub high: f64,
    /// The noise process of the model.
    pub process: &'a NoiseProcess,
    /// The curve that was asked for.
    pub rho: Option<f64>,
}

/// Everything about a schedule.
#[derive(Debug)]
#[non_exhaustive]
pub struct ScheduleSpec {
    /// The name in requests, flags and files.
    pub name: &'static str,
    /// The name that is written into pictures, which is one of A1111.
    pub label: &'static str,
    /// Further names of A1111 and Forge that mean the same.
    pub aliases: &'static [&'static str],
    /// What ComfyUI calls it.
    pub comfyui: &'static [&'static str],
    /// Where it comes from.
    pub source: &'static str,
    /// The whole timesteps of its levels for samplers whose networks get whole ones in diffusers; `None` for
    /// levels that lie at timesteps.
    pub whole: Option<TimestepRule>,
    /// Whether it spans levels by a formula, which `sigma_min` and `sigma_max` move.
    pub spans: bool,
    /// Its curve, where it has one.
    pub rho: Option<f64>,
    /// The levels of so many steps, falling, without the end of the run.
    pub levels: fn(usize, &ScheduleInput<'_>) -> Vec<f64>,
}
