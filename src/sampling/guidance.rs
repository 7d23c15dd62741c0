//! Classifier-free guidance as a denoiser around a denoiser.

use super::integrator::Denoiser;
use crate::error::Result;
use candle_core::Tensor;

/// Classifier-free guidance: x₀ = u + g·(c − u), Ho and Salimans (2022).
///
/// The inner denoiser gets the latents twice along the batch and must condition the first half on
/// the negative prompt and the second on the prompt.
#[derive(Debug)]
pub struct Guidance<D> {
    inner: D,
    scale: f64,
}

impl<D: Denoiser> Guidance<D> {
    /// Guidance of strength `scale` (1 = none) around `inner`.
    pub fn new(inner: D, scale: f64) -> Self {
        Self { inner, scale }
    }
}

impl<D: Denoiser> Denoiser for Guidance<D> {
    fn denoise(&self, x: &Tensor, sigma: f64) -> Result<Tensor> {
        let both = self.inner.denoise(&Tensor::cat(&[x, x], 0)?, sigma)?; // [2·B, C, h, w]
        let batch = x.dim(0)?;
        let negative = both.narrow(0, 0, batch)?;
        let positive = both.narrow(0, batch, batch)?;
        guide(&negative, &positive, self.scale)
    }
}

fn guide(negative: &Tensor, positive: &Tensor, scale: f64) -> Result<Tensor> {
    Ok((negative + ((positive - negative)? * scale)?)?)
}

/// As [`Guidance`], with one evaluation after the other: half the activations at a time.
#[derive(Debug)]
pub struct GuidanceApart<D> {
    negative: D,
    positive: D,
    scale: f64,
}

impl<D: Denoiser> GuidanceApart<D> {
    /// Guidance of strength `scale` away from what `negative` estimates.
    pub fn new(negative: D, positive: D, scale: f64) -> Self {
        Self { negative, positive, scale }
    }
}

impl<D: Denoiser> Denoiser for GuidanceApart<D> {
    fn denoise(&self, x: &Tensor, sigma: f64) -> Result<Tensor> {
        let negative = self.negative.denoise(x, sigma)?;
        guide(&negative, &self.positive.denoise(x, sigma)?, self.scale)
    }
}

/// The mean of several estimates, each guided by itself: LoRA Composite, Zhong et al. (2024).
pub struct Mean<'a>(pub Vec<&'a dyn Denoiser>);

impl std::fmt::Debug for Mean<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Mean of {}", self.0.len())
    }
}

impl Denoiser for Mean<'_> {
    fn denoise(&self, x: &Tensor, sigma: f64) -> Result<Tensor> {
        let Some((first, rest)) = self.0.split_first() else {
            return Err(crate::Error::Internal("the mean of no denoisers".into()));
        };
        let mut sum = first.denoise(x, sigma)?;
        for denoiser in rest {
            sum = (sum + denoiser.denoise(x, sigma)?)?;
        }
        Ok((sum / self.0.len() as f64)?)
    }
}
