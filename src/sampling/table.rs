//! The noise that a model was trained with: β of its scheduler config → σ of each training timestep.

use super::config::SchedulerConfig;
use crate::error::{Error, Result};
use std::sync::Arc;

/// Most training timesteps accepted in a config.
const MAX_TRAIN_TIMESTEPS: usize = 100_000;

/// σ of every training timestep, rising.
///
/// A clone shares the levels.
#[derive(Debug, Clone, PartialEq)]
pub struct NoiseTable {
    sigmas: Arc<[f64]>,
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
        Ok(Self { sigmas: sigmas.into() })
    }

    /// Levels between two, evenly in their logarithm.
    pub(super) fn logarithmic(low: f64, high: f64, count: usize) -> Self {
        let last = count.saturating_sub(1).max(1) as f64;
        let level = |i: usize| match i {
            0 => low,
            i if i + 1 == count => high,
            i => low * (high / low).powf(i as f64 / last),
        };
        Self { sigmas: (0..count).map(level).collect() }
    }

    /// Levels of a rectified flow whose timesteps 1 to `count` are shifted: t/(1 − t) of x = (1 − t)·x₀ + t·n. The last
    /// would be infinite; 10⁷ is noise to the last bit of an f32.
    pub(super) fn of_flow(shift: f64, count: usize) -> Self {
        const NOISE: f64 = 1e7;
        let level = |i: usize| {
            let t = i as f64 / count as f64;
            let t = shift * t / (1.0 + (shift - 1.0) * t);
            (t / (1.0 - t)).min(NOISE)
        };
        Self { sigmas: (1..=count).map(level).collect() }
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

    /// σ at timestep `t`, interpolated in ln σ: k-diffusion's `t_to_sigma`.
    pub fn sigma_in_log(&self, t: f64) -> f64 {
        let last = self.sigmas.len() - 1;
        let t = t.clamp(0.0, last as f64);
        let low = (t.floor() as usize).min(last);
        let high = (low + 1).min(last);
        let (a, b) = (self.sigmas[low].ln(), self.sigmas[high].ln());
        (a + (t - low as f64) * (b - a)).exp()
    }

    /// How many timesteps have a half log-SNR (−ln σ) of `lambda` or more.
    pub(super) fn above(&self, lambda: f64) -> usize {
        self.sigmas.partition_point(|sigma| -sigma.ln() >= lambda)
    }

    /// The timestep of noise level `sigma`: interpolation in log σ, as k-diffusion's `sigma_to_t`.
    pub fn timestep(&self, sigma: f64) -> f64 {
        let low = self.entry_below(sigma);
        let (a, b) = (self.sigmas[low].ln(), self.sigmas[low + 1].ln());
        let fraction = ((sigma.max(1e-10).ln() - a) / (b - a)).clamp(0.0, 1.0);
        low as f64 + fraction
    }

    /// The timestep `t` with [`sigma(t)`](Self::sigma) = `sigma`: interpolation in σ itself.
    pub fn timestep_linear(&self, sigma: f64) -> f64 {
        let low = self.entry_below(sigma);
        let (a, b) = (self.sigmas[low], self.sigmas[low + 1]);
        low as f64 + ((sigma - a) / (b - a)).clamp(0.0, 1.0)
    }

    /// The last entry that is not above `sigma`, and has one after it.
    fn entry_below(&self, sigma: f64) -> usize {
        let above = self.sigmas.partition_point(|&s| s <= sigma);
        above.saturating_sub(1).min(self.sigmas.len() - 2)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_stable_diffusion() {
        let table = NoiseTable::new(&SchedulerConfig::default()).unwrap();
        // Known ends of the SD 1.x table, as every tool prints them.
        assert!((table.sigma(0.0) - 0.0292).abs() < 1e-4);
        assert!((table.sigma(999.0) - 14.6146).abs() < 1e-3);
        for t in [0.0, 1.0, 500.0, 998.0, 999.0] {
            assert!((table.timestep(table.sigma(t)) - t).abs() < 1e-6, "{t}");
        }
    }

    /// A denoiser gets σ alone; the network has to get the timestep of the list to the last bit of its f32.
    #[test]
    fn levels_of_the_table_give_their_timesteps_back() {
        let zero_snr = SchedulerConfig { rescale_betas_zero_snr: true, ..Default::default() };
        for config in [SchedulerConfig::default(), zero_snr] {
            let table = NoiseTable::new(&config).unwrap();
            for i in 0..=6000u32 {
                let t = 999.0f32 * i as f32 / 6000.0;
                assert_eq!(table.timestep_linear(table.sigma(f64::from(t))) as f32, t);
            }
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
