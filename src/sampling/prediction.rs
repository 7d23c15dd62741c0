//! A noise-predicting network as a [`Denoiser`]. Timesteps exist only here.

use super::{Denoiser, NoiseTable, Sigmas};
use crate::error::Result;
use candle_core::Tensor;

/// What a network predicts.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, Default, serde::Serialize, serde::Deserialize,
)]
pub enum PredictionKind {
    /// The noise ε: SD 1.x, SD 2.x base, SDXL.
    #[default]
    #[serde(rename = "epsilon")]
    Epsilon,
    /// v = α·ε − σ·x₀, Salimans and Ho (2022): SD 2.x 768 and some SDXL fine-tunes.
    #[serde(rename = "v_prediction", alias = "v")]
    V,
    /// The clean sample itself.
    #[serde(rename = "sample")]
    Sample,
}

/// A network bound to its conditioning.
pub trait NoiseModel {
    /// The raw prediction.
    ///
    /// `x`: latents `[B, C, h, w]` in variance-preserving scale. `timestep`: training index, may be
    /// fractional.
    fn predict(&self, x: &Tensor, timestep: f64) -> Result<Tensor>;
}

/// Turns a [`NoiseModel`]'s prediction into an estimate of x₀.
#[derive(Debug)]
pub struct Predictor<M> {
    model: M,
    kind: PredictionKind,
    table: NoiseTable,
    /// Timesteps of the planned noise levels: the reference's rounding is kept.
    planned: Vec<(f64, f64)>,
}

impl<M: NoiseModel> Predictor<M> {
    /// A denoiser from `model`, for the noise levels of `plan`.
    pub fn new(model: M, kind: PredictionKind, table: NoiseTable, plan: &Sigmas) -> Self {
        let planned = plan.sigmas.iter().copied().zip(plan.timesteps.iter().copied()).collect();
        Self { model, kind, table, planned }
    }

    fn timestep(&self, sigma: f64) -> f64 {
        let planned = self.planned.iter().find(|(s, _)| (s - sigma).abs() <= 1e-9 * sigma);
        planned.map_or_else(|| self.table.timestep(sigma), |&(_, t)| t)
    }
}

impl<M: NoiseModel> Denoiser for Predictor<M> {
    fn denoise(&self, x: &Tensor, sigma: f64) -> Result<Tensor> {
        // Variance-exploding to variance-preserving scale: x / √(1 + σ²).
        let norm = sigma.hypot(1.0);
        let prediction = self.model.predict(&(x / norm)?, self.timestep(sigma))?;
        let prediction = prediction.to_dtype(x.dtype())?;
        Ok(match self.kind {
            PredictionKind::Epsilon => (x - (prediction * sigma)?)?,
            PredictionKind::V => ((x / (norm * norm))? - (prediction * (sigma / norm))?)?,
            PredictionKind::Sample => prediction,
        })
    }
}
