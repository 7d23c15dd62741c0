//! Noise schedules: training betas → table of σ → the list of σ that a run visits.
//!
//! The lists equal those of the diffusers 0.42 schedulers, per sampler, because a seed is only a
//! picture if the noise levels agree.

use super::Sampler;
use super::bounds::Bounds;
use super::config::{SchedulerConfig, Spacing};
use super::dpmpp::Solver;
use crate::error::{Error, Result};
use candle_core::Tensor;
use serde::{Deserialize, Serialize};

/// How the visited noise levels are spread.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Schedule {
    /// At training timesteps, spaced as the model's scheduler config says.
    #[default]
    Discrete,
    /// Karras et al. (2022), eq. 5, ρ = 7.
    Karras,
    /// Evenly in the logarithm of σ.
    Exponential,
}

impl Schedule {
    /// Every schedule, in the order of help texts.
    pub const ALL: [Schedule; 3] = [Schedule::Discrete, Schedule::Karras, Schedule::Exponential];

    /// The name in requests, flags and files.
    pub fn name(self) -> &'static str {
        match self {
            Schedule::Discrete => "discrete",
            Schedule::Karras => "karras",
            Schedule::Exponential => "exponential",
        }
    }
}

impl std::fmt::Display for Schedule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for Schedule {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Schedule::ALL.into_iter().find(|s| s.name() == name).ok_or_else(|| {
            let names: Vec<_> = Schedule::ALL.iter().map(|s| s.name()).collect();
            Error::bad_request("schedule", name, format!("expected one of {}", names.join(", ")))
        })
    }
}

/// Most training timesteps accepted in a config.
const MAX_TRAIN_TIMESTEPS: usize = 100_000;

/// σ of every training timestep, rising.
#[derive(Debug, Clone)]
pub struct NoiseTable {
    sigmas: Vec<f64>,
}

impl NoiseTable {
    /// The table of a scheduler config.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for an unknown β schedule or β outside 0..1.
    pub fn new(config: &SchedulerConfig) -> Result<Self> {
        let mut alphas_cumprod = cumulative_alphas(&betas(config)?);
        if config.rescale_betas_zero_snr {
            alphas_cumprod = rescale_to_zero_snr(&alphas_cumprod);
        }
        let sigmas: Vec<f64> = alphas_cumprod.iter().map(|&a| ((1.0 - a) / a).sqrt()).collect();
        if sigmas.iter().any(|s| !s.is_finite() || *s <= 0.0)
            || sigmas.windows(2).any(|w| w[0] >= w[1])
        {
            return Err(Error::unsupported(
                "a scheduler config whose noise does not rise from step to step",
                "check beta_start and beta_end in scheduler_config.json",
            ));
        }
        Ok(Self { sigmas })
    }

    /// T, the number of training timesteps.
    pub fn len(&self) -> usize {
        self.sigmas.len()
    }

    /// Never true: a table has at least two entries.
    pub fn is_empty(&self) -> bool {
        self.sigmas.is_empty()
    }

    /// σ at timestep `t`, which may be fractional: linear interpolation, as numpy's `interp`.
    pub fn sigma(&self, t: f64) -> f64 {
        let last = self.sigmas.len() - 1;
        let t = t.clamp(0.0, last as f64);
        let low = (t.floor() as usize).min(last);
        let high = (low + 1).min(last);
        let fraction = t - low as f64;
        self.sigmas[low] + fraction * (self.sigmas[high] - self.sigmas[low])
    }

    /// How many timesteps have a half log-SNR (−ln σ) of `lambda` or more.
    fn above(&self, lambda: f64) -> usize {
        self.sigmas.partition_point(|sigma| -sigma.ln() >= lambda)
    }

    /// The timestep of noise level `sigma`: interpolation in log σ, as k-diffusion's `sigma_to_t`.
    pub fn timestep(&self, sigma: f64) -> f64 {
        let last = self.sigmas.len() - 1;
        let above = self.sigmas.partition_point(|&s| s <= sigma);
        let low = above.saturating_sub(1).min(last - 1);
        let (a, b) = (self.sigmas[low].ln(), self.sigmas[low + 1].ln());
        let fraction = ((sigma.max(1e-10).ln() - a) / (b - a)).clamp(0.0, 1.0);
        low as f64 + fraction
    }
}

fn betas(config: &SchedulerConfig) -> Result<Vec<f32>> {
    if let Some(betas) = &config.trained_betas {
        return check_betas(betas.iter().map(|&b| b as f32).collect());
    }
    let n = config.num_train_timesteps;
    if !(2..=MAX_TRAIN_TIMESTEPS).contains(&n) {
        return Err(Error::unsupported(
            format!("a scheduler config with num_train_timesteps = {n}"),
            format!("2 to {MAX_TRAIN_TIMESTEPS} are accepted"),
        ));
    }
    let line = |from: f64, to: f64, i: usize| from + (to - from) * i as f64 / (n - 1) as f64;
    let betas = match config.beta_schedule.as_str() {
        "linear" => (0..n).map(|i| line(config.beta_start, config.beta_end, i) as f32).collect(),
        "scaled_linear" => {
            let (from, to) = (config.beta_start.sqrt(), config.beta_end.sqrt());
            (0..n).map(|i| (line(from, to, i) as f32).powi(2)).collect()
        }
        "squaredcos_cap_v2" => {
            // Nichol and Dhariwal (2021), eq. 17.
            let bar = |t: f64| ((t + 0.008) / 1.008 * std::f64::consts::FRAC_PI_2).cos().powi(2);
            (0..n)
                .map(|i| {
                    let (a, b) = (i as f64 / n as f64, (i + 1) as f64 / n as f64);
                    (1.0 - bar(b) / bar(a)).min(0.999) as f32
                })
                .collect()
        }
        other => {
            return Err(Error::unsupported(
                format!("beta_schedule `{other}`"),
                "scaled_linear, linear and squaredcos_cap_v2 are built",
            ));
        }
    };
    check_betas(betas)
}

fn check_betas(betas: Vec<f32>) -> Result<Vec<f32>> {
    let sane = (2..=MAX_TRAIN_TIMESTEPS).contains(&betas.len())
        && betas.iter().all(|b| *b > 0.0 && *b < 1.0);
    if sane {
        Ok(betas)
    } else {
        Err(Error::unsupported(
            "a scheduler config with betas outside 0..1",
            "check beta_start, beta_end and trained_betas in scheduler_config.json",
        ))
    }
}

/// ∏(1 − β), with f32 factors as the reference has them.
fn cumulative_alphas(betas: &[f32]) -> Vec<f64> {
    betas
        .iter()
        .scan(1.0f32, |product, beta| {
            *product *= 1.0 - beta;
            Some(f64::from(*product))
        })
        .collect()
}

/// Lin et al. (2023), Algorithm 1, directly on ᾱ: shift √ᾱ so that the last is zero, then scale so
/// that the first is unchanged. The last is kept at 2⁻²⁴ so that σ stays finite (diffusers).
fn rescale_to_zero_snr(alphas_cumprod: &[f64]) -> Vec<f64> {
    let roots: Vec<f64> = alphas_cumprod.iter().map(|a| a.sqrt()).collect();
    let (first, last) = (roots[0], roots[roots.len() - 1]);
    let mut rescaled: Vec<f64> =
        roots.iter().map(|r| ((r - last) * first / (first - last)).powi(2)).collect();
    if let Some(end) = rescaled.last_mut() {
        *end = 2f64.powi(-24);
    }
    rescaled
}

/// The noise levels that one run visits.
#[derive(Debug, Clone, PartialEq)]
pub struct Sigmas {
    /// N + 1 levels, falling; the last is where the run ends, usually 0.
    pub sigmas: Vec<f64>,
    /// The N timesteps that the network is told.
    pub timesteps: Vec<f64>,
    /// Where each step aims, for DDIM; empty when it is simply the next level.
    pub targets: Vec<f64>,
    /// Standard deviation of the initial latents.
    pub init_scale: f64,
    /// How estimates of x₀ are bounded.
    pub bounds: Bounds,
    /// The rule of DPM++.
    pub solver: Solver,
}

impl Sigmas {
    /// A plan from bare noise levels (falling, N + 1 of them), without timesteps.
    pub fn from_sigmas(sigmas: Vec<f64>) -> Self {
        let init_scale = sigmas.first().map_or(1.0, |s| s.hypot(1.0));
        Self {
            sigmas,
            timesteps: Vec::new(),
            targets: Vec::new(),
            init_scale,
            bounds: Bounds::Free,
            solver: Solver::default(),
        }
    }

    /// The run of `steps` steps of `sampler` on a model trained as `config` says.
    ///
    /// # Errors
    /// [`Error::BadRequest`] when `steps` is zero or more than the training timesteps allow;
    /// [`Error::Unsupported`] for what the config asks of the sampler and is not built.
    ///
    /// # Source
    /// diffusers 0.42: `set_timesteps` of EulerDiscreteScheduler, DDIMScheduler and
    /// DPMSolverMultistepScheduler.
    pub fn plan(
        sampler: Sampler,
        schedule: Schedule,
        steps: usize,
        config: &SchedulerConfig,
        table: &NoiseTable,
    ) -> Result<Self> {
        config.validate_for(sampler)?;
        config.validate_end(table.sigma(0.0))?;
        let most = table.len() - 1;
        if steps == 0 || steps > most {
            return Err(Error::bad_request("steps", steps, format!("expected 1 to {most}")));
        }
        let spacing = config.timestep_spacing.unwrap_or(match sampler {
            Sampler::Ddim => Spacing::Leading,
            Sampler::Euler | Sampler::DpmPp2m => Spacing::Linspace,
        });
        let timesteps = spaced_timesteps(sampler, spacing, steps, config, table)?;
        let mut plan = match schedule {
            Schedule::Discrete => discrete(timesteps, table),
            _ => spread(sampler, schedule, &timesteps, config, table),
        };
        plan.finish_plan(sampler, schedule, spacing, config, table);
        // Only the end may stand still: DDIM's one evenly spaced step starts where it ends.
        let ends = |i: usize| i + 2 == plan.sigmas.len();
        let falls = |(i, w): (usize, &[f64])| w[1] < w[0] || (ends(i) && w[1] <= w[0]);
        if !plan.sigmas.windows(2).enumerate().all(falls) {
            return Err(Error::bad_request(
                "steps",
                steps,
                format!("more than {sampler} can place among {} training timesteps", table.len()),
            ));
        }
        Ok(plan)
    }

    /// Adds the last level, DDIM's targets and the initial scale.
    fn finish_plan(
        &mut self,
        sampler: Sampler,
        schedule: Schedule,
        spacing: Spacing,
        config: &SchedulerConfig,
        table: &NoiseTable,
    ) {
        let to_zero = match sampler {
            Sampler::Ddim => config.set_alpha_to_one.unwrap_or(true),
            Sampler::Euler | Sampler::DpmPp2m => {
                config.final_sigmas_type.as_deref() != Some("sigma_min")
            }
        };
        // Levels that a formula gave end there but for their rounding.
        let lowest = self.sigmas.iter().fold(table.sigma(0.0), |low, sigma| low.min(*sigma));
        let end = if to_zero { 0.0 } else { lowest };
        if sampler == Sampler::Ddim && schedule == Schedule::Discrete {
            let stride = (table.len() / self.timesteps.len()) as f64;
            self.targets = self
                .timesteps
                .iter()
                .map(|t| if t - stride >= 0.0 { table.sigma(t - stride) } else { end })
                .collect();
        }
        self.sigmas.push(end);
        self.bounds = config.bounds(sampler);
        self.solver = config.solver(sampler, self.timesteps.len());
        let top = self.sigmas[0];
        self.init_scale = match (sampler, spacing) {
            (Sampler::Euler, Spacing::Linspace | Spacing::Trailing) => top,
            // The other schedulers start from unit noise in variance-preserving scale.
            _ => top.hypot(1.0),
        };
    }

    /// N, the number of steps.
    pub fn steps(&self) -> usize {
        self.sigmas.len().saturating_sub(1)
    }

    /// Latents at the end of the run in the scale that the VAE expects: x/√(1 + σ²), which is x
    /// when the run ends at zero noise.
    pub fn finish(&self, x: &Tensor) -> Result<Tensor> {
        match self.sigmas.last() {
            Some(&end) if end > 0.0 => Ok((x / end.hypot(1.0))?),
            _ => Ok(x.clone()),
        }
    }
}

fn spaced_timesteps(
    sampler: Sampler,
    spacing: Spacing,
    steps: usize,
    config: &SchedulerConfig,
    table: &NoiseTable,
) -> Result<Vec<f64>> {
    // DPM++ spaces one point more than it visits and leaves the lowest out, and may start lower.
    let dpm = sampler == Sampler::DpmPp2m;
    let points = if dpm { steps + 1 } else { steps };
    let least = config.lambda_min_clipped.filter(|_| dpm);
    let train = least.map_or(table.len(), |lambda| table.above(lambda));
    let last = train.saturating_sub(1) as f64;
    let timesteps: Vec<f64> = match spacing {
        Spacing::Linspace => (0..points)
            .rev()
            .take(steps)
            .map(|i| {
                // As numpy's linspace: by the step, the end exactly; rounding depends on it.
                let step = last / (points.max(2) - 1) as f64;
                let t = if i > 0 && i + 1 == points { last } else { i as f64 * step };
                if sampler == Sampler::Euler { f64::from(t as f32) } else { t.round_ties_even() }
            })
            .collect(),
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
            (0..steps).map(|i| (train as f64 - i as f64 * ratio).round_ties_even() - 1.0).collect()
        }
    };
    let outside = |t: &f64| *t < 0.0 || (sampler == Sampler::Ddim && *t >= table.len() as f64);
    let field = if dpm { "lambda_min_clipped" } else { "steps_offset" };
    if timesteps.iter().any(outside) {
        return Err(Error::unsupported(
            format!("{field} of the scheduler config, which leaves no place for {steps} steps,"),
            "draw with fewer steps or another sampler",
        ));
    }
    Ok(timesteps)
}

fn discrete(timesteps: Vec<f64>, table: &NoiseTable) -> Sigmas {
    let sigmas = timesteps.iter().map(|&t| table.sigma(t)).collect();
    Sigmas { timesteps, ..Sigmas::from_sigmas(sigmas) }
}

/// Levels spread by a formula over the range of the table.
fn spread(
    sampler: Sampler,
    schedule: Schedule,
    timesteps: &[f64],
    config: &SchedulerConfig,
    table: &NoiseTable,
) -> Sigmas {
    let (last, steps) = ((table.len() - 1) as f64, timesteps.len());
    // diffusers' Euler spans the levels that its spacing chose; the others span the whole table.
    let (low, high) = match sampler {
        Sampler::Euler => (
            table.sigma(timesteps.last().copied().unwrap_or(0.0)),
            table.sigma(timesteps.first().copied().unwrap_or(last)),
        ),
        Sampler::Ddim | Sampler::DpmPp2m => (table.sigma(0.0), table.sigma(last)),
    };
    // Keys of Euler alone; diffusers' DPM++ looks for them in what other classes left in its config.
    let (low, high) = (config.sigma_min.unwrap_or(low), config.sigma_max.unwrap_or(high));
    let formula: fn(f64, f64, f64) -> f64 =
        if schedule == Schedule::Exponential { exponential } else { karras };
    let ramp = |i: usize| if steps == 1 { 0.0 } else { i as f64 / (steps - 1) as f64 };
    let sigmas: Vec<f64> = (0..steps).map(|i| formula(low, high, ramp(i))).collect();
    let cosine = config.beta_schedule == "squaredcos_cap_v2";
    let rounded = |t: f64| match (sampler, schedule) {
        (Sampler::DpmPp2m, Schedule::Karras) if !cosine => t.round_ties_even(),
        // diffusers casts to an integer here without rounding first; its f32 logarithms put the top
        // level just below its timestep.
        (Sampler::DpmPp2m, _) => (t - 1e-4).trunc(),
        (Sampler::Euler | Sampler::Ddim, _) => t,
    };
    let timesteps = sigmas.iter().map(|&sigma| rounded(table.timestep(sigma))).collect();
    Sigmas { timesteps, ..Sigmas::from_sigmas(sigmas) }
}

/// Karras et al. (2022), eq. 5 with ρ = 7; `ramp` goes from 0 to 1.
fn karras(low: f64, high: f64, ramp: f64) -> f64 {
    const RHO: f64 = 7.0;
    let (low, high) = (low.powf(1.0 / RHO), high.powf(1.0 / RHO));
    (high + ramp * (low - high)).powf(RHO)
}

/// Geometric; `ramp` goes from 0 to 1.
fn exponential(low: f64, high: f64, ramp: f64) -> f64 {
    (high.ln() + ramp * (low.ln() - high.ln())).exp()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sd() -> (SchedulerConfig, NoiseTable) {
        let config = SchedulerConfig::default();
        let table = NoiseTable::new(&config).unwrap();
        (config, table)
    }

    #[test]
    fn the_table_of_stable_diffusion() {
        let (_, table) = sd();
        // Known ends of the SD 1.x table, as every tool prints them.
        assert!((table.sigma(0.0) - 0.0292).abs() < 1e-4);
        assert!((table.sigma(999.0) - 14.6146).abs() < 1e-3);
        for t in [0.0, 1.0, 500.0, 998.0, 999.0] {
            assert!((table.timestep(table.sigma(t)) - t).abs() < 1e-6, "{t}");
        }
    }

    #[test]
    fn schedules_fall_to_zero() {
        let (config, table) = sd();
        for sampler in Sampler::ALL {
            for schedule in Schedule::ALL {
                for steps in [1, 2, 5, 20, 30, 50] {
                    let plan = Sigmas::plan(sampler, schedule, steps, &config, &table).unwrap();
                    assert_eq!(plan.steps(), steps);
                    assert_eq!(plan.timesteps.len(), steps);
                    assert!(plan.sigmas.windows(2).all(|w| w[1] < w[0]));
                    assert_eq!(plan.sigmas.last(), Some(&0.0));
                }
            }
        }
    }

    #[test]
    fn schedules_fall_to_the_lowest_level_of_the_table() {
        let (_, table) = sd();
        let config = SchedulerConfig {
            final_sigmas_type: Some("sigma_min".into()),
            set_alpha_to_one: Some(false),
            ..Default::default()
        };
        for sampler in Sampler::ALL {
            for schedule in Schedule::ALL {
                for steps in [1, 2, 3, 15, 20, 25, 100, 333, 500] {
                    let plan = Sigmas::plan(sampler, schedule, steps, &config, &table);
                    let plan = plan.unwrap_or_else(|e| panic!("{sampler} {schedule} {steps}: {e}"));
                    let end = *plan.sigmas.last().unwrap();
                    assert!((end - table.sigma(0.0)).abs() < 1e-12, "{sampler} {schedule} {end}");
                }
            }
        }
    }

    #[test]
    fn impossible_step_counts_are_refused() {
        let (config, table) = sd();
        for steps in [0, 1000, usize::MAX] {
            let error = Sigmas::plan(Sampler::Euler, Schedule::Discrete, steps, &config, &table);
            assert!(matches!(error, Err(Error::BadRequest { field: "steps", .. })));
        }
    }

    #[test]
    fn bad_betas_are_refused() {
        for (start, end) in [(0.0, 0.0), (-1.0, 2.0), (f64::NAN, 0.1)] {
            let config = SchedulerConfig { beta_start: start, beta_end: end, ..Default::default() };
            assert!(NoiseTable::new(&config).is_err());
        }
        let config = SchedulerConfig { num_train_timesteps: 0, ..Default::default() };
        assert!(NoiseTable::new(&config).is_err());
    }
}
