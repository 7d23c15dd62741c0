//! What a sampler needs of a network, and what a program needs of a sampler.

use super::grid::Grid;
use super::noise::NoiseSource;
use crate::error::Result;
use candle_core::Tensor;

/// Estimates the clean latents behind noisy ones.
pub trait Denoiser {
    /// The estimate of x₀.
    ///
    /// `x`: latents `[B, C, h, w]` at noise level `sigma` (not pre-scaled).
    /// `sigma`: noise level, k-diffusion convention, > 0.
    /// Returns the same shape and dtype as `x`.
    fn denoise(&self, x: &Tensor, sigma: f64) -> Result<Tensor>;

    /// As [`denoise`](Self::denoise), with the estimate that guidance starts from beside it. Where there is no guidance
    /// both are the same.
    fn estimates(&self, x: &Tensor, sigma: f64) -> Result<Estimates> {
        let guided = self.denoise(x, sigma)?;
        Ok(Estimates { unguided: guided.clone(), guided })
    }
}

/// The estimates of x₀ at one noise level: samplers of the CFG++ kind step along the unguided one.
#[derive(Debug, Clone)]
pub struct Estimates {
    /// The estimate that guidance gave.
    pub guided: Tensor,
    /// The estimate on the negative prompt.
    pub unguided: Tensor,
}

/// What one step of a sampler gives.
#[derive(Debug, Clone)]
pub struct Step {
    /// Latents `[B, C, h, w]` at the next noise level.
    pub x: Tensor,
    /// The estimate of x₀ that led there, for previews.
    pub denoised: Tensor,
}

/// A sampler at work: it takes one step at a time and holds what it remembers of earlier steps.
///
/// A program may bring its own; `docs/how-to/add-a-sampler.md` shows how colora's are written.
///
/// # Examples
/// ```
/// use candle_core::Tensor;
/// use colora::sampling::{Denoiser, Grid, Integrator, NoiseSource, Step};
///
/// /// Jumps to the estimate of x₀ and adds fresh noise of the next level.
/// #[derive(Debug)]
/// struct Jump;
///
/// impl Integrator for Jump {
///     fn step(
///         &mut self,
///         model: &dyn Denoiser,
///         x: &Tensor,
///         grid: &Grid,
///         i: usize,
///         noise: &mut dyn NoiseSource,
///     ) -> colora::Result<Step> {
///         let level = grid.levels[i];
///         let denoised = model.denoise(x, level.sigma)?;
///         let mut x = denoised.clone();
///         if level.next > 0.0 {
///             let fresh = noise.between(level.sigma, level.next, &x)?;
///             x = grid.process.add_noise(&x, &fresh, level.next)?;
///         }
///         Ok(Step { x, denoised })
///     }
/// }
/// ```
pub trait Integrator: std::fmt::Debug + Send {
    /// Takes step `i` of `grid`, from `grid.levels[i].sigma` to `grid.levels[i].next`.
    ///
    /// `x`: latents `[B, C, h, w]`. `noise`: where random numbers come from; a sampler draws in a fixed order, so
    /// that a seed is a picture.
    fn step(
        &mut self,
        model: &dyn Denoiser,
        x: &Tensor,
        grid: &Grid,
        i: usize,
        noise: &mut dyn NoiseSource,
    ) -> Result<Step>;
}
