//! Where sampling starts: the latents before the first step.

use crate::error::Result;
use crate::sampling::{Grid, SeededNoise};
use candle_core::{Device, Tensor};

/// Where sampling starts.
///
/// An image to start from (its latents with noise of a lower level added, and the step at which that level lies) and
/// a mask (what is kept of an image, laid over the estimate after each step) are further variants when they come.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub enum Start {
    /// Noise alone: all of the picture is made.
    #[default]
    Noise,
}

/// The sizes of the latents of one image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LatentShape {
    pub(super) channels: usize,
    pub(super) height: usize,
    pub(super) width: usize,
}

impl Start {
    /// The latents before the first step, `[B, C, h, w]`, f32, at the first level of `grid`; `noise` has a stream for
    /// each image and goes on behind what the start takes.
    pub(super) fn latents(
        &self,
        noise: &mut SeededNoise,
        shape: LatentShape,
        grid: &Grid,
        device: &Device,
    ) -> Result<Tensor> {
        let LatentShape { channels, height, width } = shape;
        match self {
            Self::Noise => grid.start(&noise.start((channels, height, width), device)?),
        }
    }
}
