//! The noise levels that one run visits, and the rules by which each sampler's reference chooses them.
//!
//! Floor 2. The levels equal those of the diffusers 0.42 schedulers, per sampler, because a seed is only a
//! picture if the noise levels agree.

use super::config::{SchedulerConfig, Spacing};
use super::process::{NoiseProcess, TimestepRule};
use super::schedule::Schedule;
use super::schedule_spec::ScheduleInput;
use super::spacing::SpacingRules;
use super::table::NoiseTable;
use crate::error::{Error, Result};
use candle_core::Tensor;

/// A noise level of a run, and where the step from it goes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Level {
    /// σ where the step begins.
    pub sigma: f64,
    /// The timestep that the network gets for it.
    pub timestep: f64,
    /// σ where the step ends. The next step begins there, or higher: then its sampler adds noise (Restart).
    pub next: f64,
    /// The level that the formula of the step aims at: `next`, but for DDIM.
    pub target: f64,
}

/// The noise levels that one run visits.
#[derive(Debug, Clone, PartialEq)]
pub struct Grid {
    /// One a step.
    pub levels: Vec<Level>,
    /// Standard deviation of the initial latents.
    pub start_scale: f64,
    /// The noise process of the model.
    pub process: NoiseProcess,
    /// Which timestep the network gets for a level, of the grid or between its levels.
    pub rule: TimestepRule,
}

/// Whose way to choose noise levels is followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Convention {
    /// The scheduler of diffusers 0.42 that goes with the sampler.
    #[default]
    Diffusers,
}

/// The rules of a sampler for each convention.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Conventions {
    /// Those of its scheduler in diffusers.
    pub diffusers: GridRules,
}

impl Conventions {
    /// The rules of one convention.
    pub fn of(&self, convention: Convention) -> &GridRules {
        match convention {
            Convention::Diffusers => &self.diffusers,
        }
    }
}

/// How a sampler's reference chooses the noise levels of a run.
#[derive(Debug, Clone, Copy)]
pub struct GridRules {
    /// Where timesteps lie.
    pub timesteps: Timesteps,
    /// Which levels a schedule by formula spans.
    pub span: Span,
    /// Which timesteps the network gets for the levels of a schedule by formula.
    pub told: Told,
    /// Where runs end.
    pub end: End,
    /// What the initial latents are.
    pub start: Start,
    /// Where each step aims.
    pub aim: Aim,
    /// Another run of as many steps over the levels and the end of the run, whose steps may begin above where the
    /// step before ended: Restart.
    pub pairs: Option<PairRule>,
}

/// The steps of a run over N + 1 levels.
pub type PairRule = fn(&[f64]) -> Vec<Pair>;

/// Where a step begins and ends.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pair {
    /// σ where it begins.
    pub sigma: f64,
    /// σ where it ends.
    pub next: f64,
}

/// Where timesteps lie.
#[derive(Debug, Clone, Copy)]
pub enum Timesteps {
    /// Where the config's spacing puts them.
    Spaced(SpacingRules),
    /// Where a function of the sampler's own puts them, falling: of so many steps.
    Own(fn(usize, &SchedulerConfig, &NoiseTable) -> Result<Vec<f64>>),
}

/// Which levels a schedule by formula spans.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Span {
    /// From the first to the last of the spaced timesteps.
    Spaced,
    /// The whole table.
    Table,
}

/// Which timesteps the network gets for the levels of a schedule by formula.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// Fractions.
    Interpolated,
    /// Whole ones, as the schedule makes them whole ([`ScheduleSpec::whole`](super::ScheduleSpec::whole)).
    Whole,
}

/// Where runs end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// At σ = 0.
    Zero,
    /// At σ = 0, or the lowest level with `final_sigmas_type` = `sigma_min`.
    FinalSigma,
    /// At σ = 0, or the lowest level without `set_alpha_to_one`.
    FinalAlpha,
    /// At the lowest level, or at σ = 0 of levels that a formula gave.
    Lowest,
}

/// What the initial latents are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// Unit noise in variance-preserving scale: √(1 + σ²).
    UnitNoise,
    /// Noise of the first level, σ; as [`UnitNoise`](Self::UnitNoise) for leading timesteps.
    FirstLevel,
}

/// Where each step aims.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Aim {
    /// At the next level.
    Next,
    /// At the level T/N timesteps below, which is not always the next one of the list; at the end below zero.
    Stride,
}

impl Grid {
    /// A run over bare noise levels: N + 1 of them, the last is where it ends.
    ///
    /// # Errors
    /// [`Error::BadRequest`] for levels that are no numbers or where a step would begin at zero.
    pub fn from_sigmas(process: NoiseProcess, sigmas: &[f64]) -> Result<Self> {
        let sane = |pair: &[f64]| pair[0].is_finite() && pair[0] > 0.0 && pair[1] >= 0.0;
        if sigmas.len() < 2 || !sigmas.windows(2).all(sane) || !sigmas.iter().all(|s| s.is_finite())
        {
            let why = "expected two noise levels or more, above zero but for the last";
            return Err(Error::bad_request("sigmas", format!("{sigmas:?}"), why));
        }
        let pairs: Vec<Pair> =
            sigmas.windows(2).map(|pair| Pair { sigma: pair[0], next: pair[1] }).collect();
        let start_scale = sigmas[0].hypot(1.0);
        Ok(Self::of_pairs(&pairs, start_scale, process, TimestepRule::Interpolated))
    }

    /// The run of `steps` steps on a model trained as `config` says, by the rules of a sampler.
    ///
    /// # Errors
    /// [`Error::BadRequest`] when `steps` is zero or more than the training timesteps allow;
    /// [`Error::Unsupported`] for what the config asks of the sampler and is not built.
    ///
    /// # Source
    /// diffusers 0.42: `set_timesteps` of each sampler's scheduler.
    pub fn plan(
        rules: &GridRules,
        schedule: Schedule,
        steps: usize,
        config: &SchedulerConfig,
        process: &NoiseProcess,
    ) -> Result<Self> {
        let table = process.table();
        config.validate_end(table.sigma(0.0))?;
        let most = table.len() - 1;
        if steps == 0 || steps > most {
            return Err(Error::bad_request("steps", steps, format!("expected 1 to {most}")));
        }
        let timesteps = match rules.timesteps {
            Timesteps::Spaced(spacing) => spacing.timesteps(steps, config, table)?,
            Timesteps::Own(place) => place(steps, config, table)?,
        };
        let (low, high) = rules.span(&timesteps, config, table);
        let input = ScheduleInput { timesteps: &timesteps, low, high, process };
        let sigmas = schedule.levels(steps, &input)?;
        let rule = rules.rule(schedule, config);
        let end = rules.end(rule, &sigmas, config, table);
        let start_scale = rules.start_scale(sigmas[0], config);
        if let Some(pairs) = rules.pairs {
            let pairs = pairs(&[sigmas, vec![end]].concat());
            return Ok(Self::of_pairs(&pairs, start_scale, process.clone(), rule));
        }
        let timesteps = match rule {
            TimestepRule::OfTable => timesteps,
            _ => sigmas.iter().map(|sigma| process.timestep(*sigma, rule)).collect(),
        };
        let targets = rules.targets(rule, &timesteps, end, table);
        let nexts = sigmas.iter().skip(1).copied().chain([end]);
        let levels = sigmas.iter().zip(timesteps).zip(nexts).enumerate();
        let levels = levels.map(|(i, ((&sigma, timestep), next))| Level {
            sigma,
            timestep,
            next,
            target: targets.as_ref().map_or(next, |targets| targets[i]),
        });
        Ok(Self { levels: levels.collect(), start_scale, process: process.clone(), rule })
    }

    /// A run over steps that need not begin where the one before ended.
    fn of_pairs(
        pairs: &[Pair],
        start_scale: f64,
        process: NoiseProcess,
        rule: TimestepRule,
    ) -> Self {
        let level = |&Pair { sigma, next }: &Pair| Level {
            sigma,
            timestep: process.timestep(sigma, rule),
            next,
            target: next,
        };
        let levels = pairs.iter().map(level).collect();
        Self { levels, start_scale, process, rule }
    }

    /// N, the number of steps.
    pub fn steps(&self) -> usize {
        self.levels.len()
    }

    /// σ where the run ends.
    pub fn end(&self) -> f64 {
        self.levels.last().map_or(0.0, |level| level.next)
    }

    /// The initial latents made of `noise` with unit deviation.
    pub fn start(&self, noise: &Tensor) -> Result<Tensor> {
        Ok((noise * self.start_scale)?)
    }

    /// Latents at the end of the run in the scale that the autoencoder expects.
    pub fn finish(&self, x: &Tensor) -> Result<Tensor> {
        self.process.finish(x, self.end())
    }
}

impl GridRules {
    /// Those of diffusers' ports of k-diffusion, which samplers without a scheduler in diffusers follow too.
    pub const K_DIFFUSION: GridRules = GridRules {
        timesteps: Timesteps::Spaced(SpacingRules {
            default: Spacing::Linspace,
            one_more: false,
            whole: false,
            clipped: false,
        }),
        span: Span::Spaced,
        told: Told::Interpolated,
        end: End::Zero,
        start: Start::FirstLevel,
        aim: Aim::Next,
        pairs: None,
    };

    /// Those of diffusers' DPM-Solver and its kin.
    pub const DPM_SOLVER: GridRules = GridRules {
        timesteps: Timesteps::Spaced(SpacingRules {
            default: Spacing::Linspace,
            one_more: true,
            whole: true,
            clipped: true,
        }),
        span: Span::Table,
        told: Told::Whole,
        end: End::FinalSigma,
        start: Start::UnitNoise,
        ..Self::K_DIFFUSION
    };

    /// Those of diffusers' DDIM and its kin.
    pub const DDIM: GridRules = GridRules {
        timesteps: Timesteps::Spaced(SpacingRules {
            default: Spacing::Leading,
            one_more: false,
            whole: true,
            clipped: false,
        }),
        span: Span::Table,
        end: End::FinalAlpha,
        start: Start::UnitNoise,
        aim: Aim::Stride,
        ..Self::K_DIFFUSION
    };

    fn span(&self, timesteps: &[f64], config: &SchedulerConfig, table: &NoiseTable) -> (f64, f64) {
        let last = (table.len() - 1) as f64;
        let (low, high) = match self.span {
            Span::Spaced => (timesteps.last().copied(), timesteps.first().copied()),
            Span::Table => (None, None),
        };
        let (low, high) = (table.sigma(low.unwrap_or(0.0)), table.sigma(high.unwrap_or(last)));
        // Keys of Euler alone; diffusers' DPM++ looks for them in what other classes left in its config.
        (config.sigma_min.unwrap_or(low), config.sigma_max.unwrap_or(high))
    }

    fn rule(&self, schedule: Schedule, config: &SchedulerConfig) -> TimestepRule {
        let cosine = config.beta_schedule == "squaredcos_cap_v2";
        match (schedule.spec().whole, self.told) {
            (None, _) => TimestepRule::OfTable,
            (Some(_), Told::Interpolated) => TimestepRule::Interpolated,
            (Some(TimestepRule::Rounded), Told::Whole) if cosine => TimestepRule::Truncated,
            (Some(whole), Told::Whole) => whole,
        }
    }

    fn end(
        &self,
        rule: TimestepRule,
        sigmas: &[f64],
        config: &SchedulerConfig,
        table: &NoiseTable,
    ) -> f64 {
        let to_zero = match self.end {
            End::Zero => true,
            End::Lowest => rule != TimestepRule::OfTable,
            End::FinalAlpha => config.set_alpha_to_one.unwrap_or(true),
            End::FinalSigma => config.final_sigmas_type.as_deref() != Some("sigma_min"),
        };
        // Levels that a formula gave end there but for their rounding.
        let lowest = sigmas.iter().fold(table.sigma(0.0), |low, sigma| low.min(*sigma));
        if to_zero { 0.0 } else { lowest }
    }

    fn targets(
        &self,
        rule: TimestepRule,
        timesteps: &[f64],
        end: f64,
        table: &NoiseTable,
    ) -> Option<Vec<f64>> {
        if self.aim == Aim::Next || rule != TimestepRule::OfTable {
            return None;
        }
        let stride = (table.len() / timesteps.len()) as f64;
        let target = |t: &f64| if t - stride >= 0.0 { table.sigma(t - stride) } else { end };
        Some(timesteps.iter().map(target).collect())
    }

    fn start_scale(&self, first: f64, config: &SchedulerConfig) -> f64 {
        let default = match self.timesteps {
            Timesteps::Spaced(spacing) => spacing.default,
            Timesteps::Own(_) => Spacing::Leading,
        };
        let leading = config.timestep_spacing.unwrap_or(default) == Spacing::Leading;
        match self.start {
            // diffusers' schedulers for EDM start like those for leading timesteps.
            Start::FirstLevel if !leading && !config.is_edm() => first,
            Start::FirstLevel | Start::UnitNoise => first.hypot(1.0),
        }
    }
}
