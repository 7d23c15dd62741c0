//! Samplers over a [`Denoiser`]. This module has no network.
//!
//! Everything works in the k-diffusion convention: x = x₀ + σ·n. A sampler is a value that takes
//! one step at a time, so that callers own the loop (progress, previews, cancelling).
//!
//! A run is put together of five parts: a [`Denoiser`] (a network behind a [`Predictor`] and [`Guidance`]), an
//! [`Integrator`] (of a [`Sampler`], or a program's own), a [`Grid`] of noise levels (a [`Schedule`] by the rules of
//! the sampler), the [`NoiseProcess`] of the model, and a [`NoiseSource`].
//!
//! Floor 2.

mod adams;
mod beta;
mod bounds;
mod churn;
mod config;
mod formulas;
mod grid;
pub mod guidance;
mod history;
mod integrator;
mod linear;
mod multistep;
mod names;
mod noise;
mod options;
mod plan;
mod prediction;
mod process;
mod quadrature;
mod sampler;
mod samplers;
mod schedule;
mod schedule_spec;
mod schedules;
mod spacing;
mod spec;
mod table;
mod training;

pub use bounds::Bounds;
pub use config::{PredictionKind, SchedulerConfig, Spacing};
pub use grid::{
    Aim, Convention, Conventions, End, Grid, GridRules, Level, Pair, PairRule, Span, Start,
    Timesteps, Told,
};
pub use guidance::{
    At, Condition, DynamicThreshold, Guidance, Mean, MinUncond, Rescale, RescaleOn, SkipRules,
};
pub use integrator::{Denoiser, Estimates, Integrator, Step};
pub use noise::{ListedNoise, NoNoise, NoiseSource, SeededNoise};
pub use options::{OptionSpec, SamplerOptions};
pub use plan::{Sampling, SamplingRequest};
pub use prediction::{NoiseModel, Predictor};
pub use process::{Ancestral, NoiseProcess, TimestepRule};
pub use samplers::Sampler;
pub use schedule::Schedule;
pub use schedule_spec::{ScheduleInput, ScheduleSpec};
pub use spacing::SpacingRules;
pub use spec::{NoiseUse, OtherNames, SamplerSpec};
pub use table::NoiseTable;
pub use training::Training;
