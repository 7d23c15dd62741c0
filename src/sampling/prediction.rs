//! A network that predicts ε, v or x₀ as a [`Denoiser`].

use super::config::PredictionKind;
use super::grid::Grid;
use super::integrator::Denoiser;
use super::process::{NoiseProcess, TimestepRule};
use crate::error::Result;
use candle_core::Tensor;

/// A network bound to its conditioning.
pub trait NoiseModel {
    /// The raw prediction.
    ///
    /// `x`: latents `[B, C, h, w]` in the scale that the network was trained on. `timestep`: training index, may
    /// be fractional.
    fn predict(&self, x: &Tensor, timestep: f64) -> Result<Tensor>;
}

/// Turns a [`NoiseModel`]'s prediction into an estimate of x₀.
#[derive(Debug)]
pub struct Predictor<M> {
    model: M,
    kind: PredictionKind,
    process: NoiseProcess,
    /// Which timestep the network gets for a noise level.
    rule: TimestepRule,
}

impl<M: NoiseModel> Predictor<M> {
    /// A denoiser from `model`, whose timesteps are those of `grid`.
    pub fn new(model: M, kind: PredictionKind, grid: &Grid) -> Self {
        Self { model, kind, process: grid.process.clone(), rule: grid.rule }
    }
}

impl<M: NoiseModel> Denoiser for Predictor<M> {
    fn denoise(&self, x: &Tensor, sigma: f64) -> Result<Tensor> {
        let seen = self.process.scale_input(x, sigma)?;
        let timestep = self.process.timestep(sigma, self.rule);
        let output = self.model.predict(&seen, timestep)?.to_dtype(x.dtype())?;
        self.process.x0(self.kind, x, &output, sigma)
    }
}
