//! How noise is added to latents, and how it is taken out again: the one place that holds these formulas.

use super::config::PredictionKind;
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
}

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
    /// Interpolated in ln ᾱ, with a fraction: A1111's UniPC.
    InAlpha,
    /// The nearest of the fifty timesteps that a model was distilled at: A1111's LCM.
    Distilled,
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
    /// The way from noise level `sigma` to `next` with a share `eta` of fresh noise: 0 is none, 1 as much as the
    /// diffusion itself adds. k-diffusion's `get_ancestral_step`; DDPM's posterior for η = 1.
    pub fn ancestral(&self, sigma: f64, next: f64, eta: f64) -> Ancestral {
        let Self::VariancePreserving(_) = self;
        let (from, to) = (sigma * sigma, next * next);
        let up = (eta * (to * (from - to) / from).max(0.0).sqrt()).min(next);
        Ancestral { down: (to - up * up).max(0.0).sqrt(), up }
    }

    /// What the network sees of `x` (`[B, C, h, w]`) at noise level `sigma`: x/√(1 + σ²).
    pub fn scale_input(&self, x: &Tensor, sigma: f64) -> Result<Tensor> {
        let Self::VariancePreserving(_) = self;
        Ok((x / sigma.hypot(1.0))?)
    }

    /// The estimate of x₀ that the network's `output` of kind `kind` means for `x` at noise level `sigma`.
    pub fn x0(
        &self,
        kind: PredictionKind,
        x: &Tensor,
        output: &Tensor,
        sigma: f64,
    ) -> Result<Tensor> {
        let Self::VariancePreserving(_) = self;
        let norm = sigma.hypot(1.0);
        Ok(match kind {
            PredictionKind::Epsilon => (x - (output * sigma)?)?,
            PredictionKind::V => ((x / (norm * norm))? - (output * (sigma / norm))?)?,
            PredictionKind::Sample => output.clone(),
        })
    }

    /// Clean latents `x0` with noise of level `sigma`: x₀ + σ·n. `noise` has unit deviation.
    pub fn add_noise(&self, x0: &Tensor, noise: &Tensor, sigma: f64) -> Result<Tensor> {
        let Self::VariancePreserving(_) = self;
        Ok((x0 + (noise * sigma)?)?)
    }

    /// The timestep that the network gets for noise level `sigma`.
    pub fn timestep(&self, sigma: f64, rule: TimestepRule) -> f64 {
        let table = self.table();
        match rule {
            TimestepRule::OfTable => table.timestep_linear(sigma),
            TimestepRule::Interpolated => table.timestep(sigma),
            TimestepRule::Rounded => table.timestep(sigma).round_ties_even(),
            TimestepRule::InAlpha => table.timestep_in_alpha(sigma),
            TimestepRule::Distilled => table.nearest_every(50, sigma),
            TimestepRule::Truncated => (table.timestep(sigma) - 1e-4).trunc(),
        }
    }

    /// The levels of the training timesteps.
    pub fn table(&self) -> &NoiseTable {
        let Self::VariancePreserving(table) = self;
        table
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
        }
        let seen = process.scale_input(&x, sigma).unwrap().to_vec1::<f64>().unwrap();
        assert!((seen[0] - (0.5 + 3.0 * 1.5) / 10f64.sqrt()).abs() < 1e-12);
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
