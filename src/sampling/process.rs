//! How noise is added to latents, and how it is taken out again: the one place that holds these formulas.

use super::config::{PredictionKind, SchedulerConfig};
use super::table::NoiseTable;
use crate::error::Result;
use candle_core::Tensor;

/// The noise process of a model.
///
/// Samplers work with x = x₀ + σ·n, whatever the process; its functions translate between that and what the
/// network was trained on.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum NoiseProcess {
    /// √ᾱ·x₀ + √(1 − ᾱ)·n with the levels of a table: SD 1.x, SD 2.x and SDXL.
    VariancePreserving(NoiseTable),
    /// x₀ + σ·n, scaled by the deviation of the data: Karras et al. (2022), Table 1. Playground 2.5 and CosXL.
    Edm {
        /// Levels for schedules: they are continuous.
        table: NoiseTable,
        /// Deviation of the data.
        data: f64,
    },
    /// (1 − t)·x₀ + t·n with t = σ/(1 + σ): rectified flow.
    Flow(NoiseTable),
}

/// How many levels stand for a continuous process.
const CONTINUOUS: usize = 1000;

/// Which timestep the network gets for a noise level.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimestepRule {
    /// The timestep whose entry of the table the level is, interpolated in σ: levels of a list of timesteps.
    OfTable,
    /// Interpolated in ln σ, with a fraction: k-diffusion's `sigma_to_t`.
    Interpolated,
    /// The nearest whole timestep in ln σ, halves to even.
    Rounded,
    /// The whole timestep below, in ln σ. diffusers casts to an integer here; its f32 logarithms put the top
    /// level just below its own timestep.
    Truncated,
}

/// How an estimate of x₀ is read from a network's output.
#[derive(Debug, Clone, Copy)]
struct Reading {
    kept: f64,
    of_output: f64,
}

/// A step that goes below the next level and comes back up with fresh noise.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ancestral {
    /// The level that the step without noise goes to.
    pub down: f64,
    /// The deviation of the noise that is added there.
    pub up: f64,
}

impl NoiseProcess {
    /// The process of a scheduler config.
    ///
    /// # Errors
    /// As [`NoiseTable::new`]; [`Error::Unsupported`](crate::Error::Unsupported) for bounds that do not rise.
    pub fn new(config: &SchedulerConfig) -> Result<Self> {
        if config.is_edm() {
            // The defaults of diffusers' schedulers.
            let (low, high) = (config.sigma_min.unwrap_or(0.002), config.sigma_max.unwrap_or(80.0));
            if low >= high {
                let what =
                    format!("a scheduler config with sigma_min = {low} and sigma_max = {high}");
                return Err(crate::Error::unsupported(what, "expected levels that rise"));
            }
            let table = NoiseTable::logarithmic(low, high, CONTINUOUS);
            return Ok(Self::Edm { table, data: config.sigma_data.unwrap_or(0.5) });
        }
        if config.is_flow() {
            let shift = config.shift.unwrap_or(1.0);
            return Ok(Self::Flow(NoiseTable::of_flow(shift, CONTINUOUS)));
        }
        Ok(Self::VariancePreserving(NoiseTable::new(config)?))
    }

    /// The way from noise level `sigma` to `next` with a share `eta` of fresh noise: 0 is none, 1 as much as the
    /// diffusion itself adds. k-diffusion's `get_ancestral_step`; DDPM's posterior for η = 1.
    pub fn ancestral(&self, sigma: f64, next: f64, eta: f64) -> Ancestral {
        let (from, to) = (sigma * sigma, next * next);
        let up = (eta * (to * (from - to) / from).max(0.0).sqrt()).min(next);
        Ancestral { down: (to - up * up).max(0.0).sqrt(), up }
    }

    /// What the network sees of `x` (`[B, C, h, w]`) at noise level `sigma`: x/√(1 + σ²), or as its process has it.
    pub fn scale_input(&self, x: &Tensor, sigma: f64) -> Result<Tensor> {
        Ok(match self {
            Self::VariancePreserving(_) => (x / sigma.hypot(1.0))?,
            Self::Edm { data, .. } => (x / sigma.hypot(*data))?,
            Self::Flow(_) => (x / (1.0 + sigma))?,
        })
    }

    /// x₀ = `kept`·x + `of_output`·output.
    fn reading(&self, kind: PredictionKind, sigma: f64) -> Reading {
        match (self, kind) {
            (_, PredictionKind::Sample) => Reading { kept: 0.0, of_output: 1.0 },
            (Self::VariancePreserving(_), PredictionKind::Epsilon) => {
                Reading { kept: 1.0, of_output: -sigma }
            }
            (Self::VariancePreserving(_), PredictionKind::V | PredictionKind::Flow) => {
                let norm = sigma.hypot(1.0);
                Reading { kept: 1.0 / (norm * norm), of_output: -sigma / norm }
            }
            (Self::Edm { data, .. }, kind) => {
                let norm = sigma.hypot(*data);
                let sign = if kind == PredictionKind::V { -1.0 } else { 1.0 };
                let of_output = sign * sigma * data / norm;
                Reading { kept: (data / norm).powi(2), of_output }
            }
            (Self::Flow(_), _) => {
                Reading { kept: 1.0 / (1.0 + sigma), of_output: -sigma / (1.0 + sigma) }
            }
        }
    }

    /// The estimate of x₀ that the network's `output` of kind `kind` means for `x` at noise level `sigma`.
    pub fn x0(
        &self,
        kind: PredictionKind,
        x: &Tensor,
        output: &Tensor,
        sigma: f64,
    ) -> Result<Tensor> {
        if let Self::VariancePreserving(_) = self {
            let norm = sigma.hypot(1.0);
            return Ok(match kind {
                PredictionKind::Epsilon => (x - (output * sigma)?)?,
                PredictionKind::V | PredictionKind::Flow => {
                    ((x / (norm * norm))? - (output * (sigma / norm))?)?
                }
                PredictionKind::Sample => output.clone(),
            });
        }
        let Reading { kept, of_output } = self.reading(kind, sigma);
        Ok(((x * kept)? + (output * of_output)?)?)
    }

    /// The output of kind `kind` that a network gives for `x` at noise level `sigma` when its estimate of x₀ is `x0`:
    /// the inverse of [`x0`](Self::x0).
    pub fn output(
        &self,
        kind: PredictionKind,
        x: &Tensor,
        x0: &Tensor,
        sigma: f64,
    ) -> Result<Tensor> {
        let Reading { kept, of_output } = self.reading(kind, sigma);
        Ok(((x0 - (x * kept)?)? / of_output)?)
    }

    /// Clean latents `x0` with noise of level `sigma`: x₀ + σ·n. `noise` has unit deviation.
    pub fn add_noise(&self, x0: &Tensor, noise: &Tensor, sigma: f64) -> Result<Tensor> {
        Ok((x0 + (noise * sigma)?)?)
    }

    /// Latents of noise level `sigma`, where a run ended, in the scale that the autoencoder expects.
    pub fn finish(&self, x: &Tensor, sigma: f64) -> Result<Tensor> {
        Ok(match self {
            _ if sigma <= 0.0 => x.clone(),
            Self::VariancePreserving(_) => (x / sigma.hypot(1.0))?,
            Self::Edm { .. } => x.clone(),
            Self::Flow(_) => (x / (1.0 + sigma))?,
        })
    }

    /// The timestep that the network gets for noise level `sigma`.
    pub fn timestep(&self, sigma: f64, rule: TimestepRule) -> f64 {
        match self {
            Self::VariancePreserving(_) => self.training_timestep(sigma, rule),
            Self::Edm { .. } => 0.25 * sigma.max(1e-10).ln(),
            Self::Flow(table) => table.len() as f64 * sigma / (1.0 + sigma),
        }
    }

    /// The place of noise level `sigma` among the training timesteps; what the network gets is another number where
    /// the process is continuous.
    pub fn training_timestep(&self, sigma: f64, rule: TimestepRule) -> f64 {
        let table = self.table();
        match rule {
            TimestepRule::OfTable => table.timestep_linear(sigma),
            TimestepRule::Interpolated => table.timestep(sigma),
            TimestepRule::Rounded => table.timestep(sigma).round_ties_even(),
            TimestepRule::Truncated => (table.timestep(sigma) - 1e-4).trunc(),
        }
    }

    /// The noise level at a part of the training timesteps, 0 to 1 from the noisy end: ComfyUI's `percent_to_sigma`.
    pub fn part(&self, part: f64) -> f64 {
        let table = self.table();
        table.sigma_in_log((1.0 - part) * (table.len() - 1) as f64)
    }

    /// The levels of the training timesteps.
    pub fn table(&self) -> &NoiseTable {
        match self {
            Self::VariancePreserving(table) | Self::Edm { table, .. } | Self::Flow(table) => table,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sampling::SchedulerConfig;
    use candle_core::Device;

    /// ε, v and x₀ of one sample are three ways to say the same.
    #[test]
    fn every_prediction_gives_x0_back() {
        let table = NoiseTable::new(&SchedulerConfig::default()).unwrap();
        let process = NoiseProcess::VariancePreserving(table);
        let tensor = |values: &[f64]| Tensor::new(values, &Device::Cpu).unwrap();
        let (x0, noise, sigma) = (tensor(&[0.5, -2.0]), tensor(&[1.5, 0.25]), 3.0);
        let x = process.add_noise(&x0, &noise, sigma).unwrap();
        let alpha = 1.0 / f64::hypot(sigma, 1.0);
        let v = ((&noise * alpha).unwrap() - (&x0 * (sigma * alpha)).unwrap()).unwrap();
        for (kind, output) in [
            (PredictionKind::Epsilon, &noise),
            (PredictionKind::V, &v),
            (PredictionKind::Sample, &x0),
        ] {
            let found = process.x0(kind, &x, output, sigma).unwrap().to_vec1::<f64>().unwrap();
            let gap = (found[0] - 0.5).abs() + (found[1] + 2.0).abs();
            assert!(gap < 1e-12, "{kind:?}: {found:?}");
            let back = process.output(kind, &x, &x0, sigma).unwrap().to_vec1::<f64>().unwrap();
            let given = output.to_vec1::<f64>().unwrap();
            assert!(back.iter().zip(&given).all(|(a, b)| (a - b).abs() < 1e-12), "{kind:?}");
        }
        let seen = process.scale_input(&x, sigma).unwrap().to_vec1::<f64>().unwrap();
        assert!((seen[0] - (0.5 + 3.0 * 1.5) / 10f64.sqrt()).abs() < 1e-12);
        let end = process.finish(&x, 0.0).unwrap().to_vec1::<f64>().unwrap();
        assert_eq!(end, x.to_vec1::<f64>().unwrap());
    }

    /// Numbers of Karras et al. (2022), Table 1, and of rectified flow, computed here by their definitions.
    #[test]
    fn continuous_processes_give_x0_back() {
        let tensor = |values: &[f64]| Tensor::new(values, &Device::Cpu).unwrap();
        let (x0, noise, sigma) = (tensor(&[0.5, -2.0]), tensor(&[1.5, 0.25]), 3.0f64);
        let config = |text: &str| {
            text.parse::<crate::sampling::Training>().unwrap().apply(&SchedulerConfig::default())
        };
        for (text, data) in [("edm", 0.5f64), ("edm-v", 1.0)] {
            let config = config(text);
            let process = NoiseProcess::new(&config).unwrap();
            let x = process.add_noise(&x0, &noise, sigma).unwrap();
            let seen = process.scale_input(&x, sigma).unwrap().to_vec1::<f64>().unwrap();
            assert!((seen[0] - 5.0 / sigma.hypot(data)).abs() < 1e-12);
            let out = process.output(config.prediction_type, &x, &x0, sigma).unwrap();
            // (x₀ − c_skip·x)/c_out, whose sign is turned for v.
            let (skip, scale) =
                (data * data / (sigma * sigma + data * data), sigma * data / sigma.hypot(data));
            let sign = if text == "edm" { 1.0 } else { -1.0 };
            let expected = sign * (0.5 - skip * 5.0) / scale;
            assert!((out.to_vec1::<f64>().unwrap()[0] - expected).abs() < 1e-12, "{text}");
            let back = process.x0(config.prediction_type, &x, &out, sigma).unwrap();
            assert!((back.to_vec1::<f64>().unwrap()[1] + 2.0).abs() < 1e-12);
            assert!(
                (process.timestep(sigma, TimestepRule::OfTable) - 0.25 * sigma.ln()).abs() < 1e-12
            );
        }
        let process = NoiseProcess::new(&config("flow:shift=3")).unwrap();
        let x = process.add_noise(&x0, &noise, sigma).unwrap();
        let seen = process.scale_input(&x, sigma).unwrap().to_vec1::<f64>().unwrap();
        assert!((seen[0] - (0.25 * 0.5 + 0.75 * 1.5)).abs() < 1e-12);
        let velocity = (&noise - &x0).unwrap();
        let found = process.x0(PredictionKind::Flow, &x, &velocity, sigma).unwrap();
        assert!((found.to_vec1::<f64>().unwrap()[1] + 2.0).abs() < 1e-12);
        assert!((process.timestep(sigma, TimestepRule::OfTable) - 750.0).abs() < 1e-9);
        // Timestep 500 of 1000 is shifted to 3·0.5/(1 + 2·0.5).
        assert!((process.table().sigma(499.0) - 3.0).abs() < 1e-9);
    }

    #[test]
    fn ancestral_steps_end_at_the_next_level() {
        let table = NoiseTable::new(&SchedulerConfig::default()).unwrap();
        let process = NoiseProcess::VariancePreserving(table);
        for (sigma, next) in [(14.6, 7.0), (0.3, 0.29), (1.0, 0.0)] {
            for eta in [0.0, 0.3, 1.0, 9.0] {
                let Ancestral { down, up } = process.ancestral(sigma, next, eta);
                assert!((down.hypot(up) - next).abs() < 1e-12 && down <= next, "{sigma} {next}");
                assert!((eta > 0.0 && next > 0.0) == (up > 0.0));
            }
        }
    }

    #[test]
    fn timesteps_follow_the_rule() {
        let table = NoiseTable::new(&SchedulerConfig::default()).unwrap();
        let process = NoiseProcess::VariancePreserving(table.clone());
        let between = (table.sigma(100.0) * table.sigma(101.0)).sqrt();
        let told = |rule| process.timestep(between, rule);
        assert!((told(TimestepRule::Interpolated) - 100.5).abs() < 1e-9);
        assert!((told(TimestepRule::OfTable) - 100.5).abs() < 0.01);
        assert_eq!(told(TimestepRule::Truncated), 100.0);
        let above = table.sigma(100.7);
        assert_eq!(process.timestep(above, TimestepRule::Rounded), 101.0);
    }
}
