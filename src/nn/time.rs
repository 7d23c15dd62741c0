//! Embeddings of numbers: timesteps, guidance weights, SDXL's sizes.

use super::Linear;
use crate::error::Result;
use crate::weights::Scope;
use candle_core::Tensor;

/// Sinusoidal embedding, Vaswani et al. (2017), as diffusers' `get_timestep_embedding`.
///
/// `numbers`: `[B]`, f32. Returns `[B, width]`; `cos_first` puts the cosines before the sines;
/// `shift` is subtracted from the number of frequencies.
pub fn sinusoid(numbers: &Tensor, width: usize, cos_first: bool, shift: f64) -> Result<Tensor> {
    let half = width / 2;
    let rate = -(10_000f64.ln()) / (half as f64 - shift);
    let frequencies: Vec<f32> = (0..half).map(|i| (rate * i as f64).exp() as f32).collect();
    let frequencies = Tensor::from_vec(frequencies, (1, half), numbers.device())?;
    let angles = numbers.unsqueeze(1)?.broadcast_mul(&frequencies)?; // [B, width/2]
    let (sin, cos) = (angles.sin()?, angles.cos()?);
    let both = if cos_first { [cos, sin] } else { [sin, cos] };
    let embedding = Tensor::cat(&both, 1)?;
    Ok(if width % 2 == 1 { embedding.pad_with_zeros(1, 0, 1)? } else { embedding })
}

/// Linear, SiLU, linear: what turns an embedding of numbers into the network's own.
#[derive(Debug, Clone)]
pub struct TimeMlp {
    first: Linear,
    second: Linear,
}

impl TimeMlp {
    /// `linear_1 [width, inputs]`, `linear_2 [width, width]`.
    pub fn new(scope: &Scope<'_>, inputs: usize, width: usize) -> Result<Self> {
        let first = Linear::new(&scope.at("linear_1"), inputs, width)?;
        Ok(Self { first, second: Linear::new(&scope.at("linear_2"), width, width)? })
    }

    /// `x`: `[B, inputs]`. Returns `[B, width]`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.second.forward(&self.first.forward(x)?.silu()?)
    }
}
