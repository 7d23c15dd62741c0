//! Where sampling starts: the latents before the first step.
//!
//! Floor 5.

use crate::error::Result;
use crate::rng::{Noise, TorchCpu};
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

/// The noise of several images: each has a stream of its own, which depends on its seed alone.
#[derive(Debug)]
pub(super) struct ImageNoise(Vec<TorchCpu>);

impl ImageNoise {
    pub(super) fn new(seeds: &[u64]) -> Self {
        Self(seeds.iter().map(|seed| TorchCpu::new(*seed)).collect())
    }

    /// The next noise of every image, `[B, C, h, w]`, f32.
    pub(super) fn next(&mut self, shape: LatentShape, device: &Device) -> Result<Tensor> {
        let LatentShape { channels, height, width } = shape;
        let images = self.0.len();
        let count = channels * height * width;
        let numbers: Vec<f32> = self.0.iter_mut().flat_map(|noise| noise.normal(count)).collect();
        Ok(Tensor::from_vec(numbers, (images, channels, height, width), device)?)
    }
}

impl Start {
    /// The latents before the first step, `[B, C, h, w]`, f32; `scale`: the standard deviation of their noise.
    pub(super) fn latents(
        &self,
        noise: &mut ImageNoise,
        shape: LatentShape,
        scale: f64,
        device: &Device,
    ) -> Result<Tensor> {
        match self {
            Self::Noise => Ok((noise.next(shape, device)? * scale)?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_of_a_batch_starts_as_it_does_alone() {
        let shape = LatentShape { channels: 4, height: 3, width: 5 };
        let start = |seeds: &[u64]| {
            let mut noise = ImageNoise::new(seeds);
            let first = Start::Noise.latents(&mut noise, shape, 2.5, &Device::Cpu).unwrap();
            let second = noise.next(shape, &Device::Cpu).unwrap();
            [first, second].map(|x| x.flatten_from(1).unwrap().to_vec2::<f32>().unwrap())
        };
        let batch = start(&[7, u64::MAX, 0]);
        for (i, seed) in [7, u64::MAX, 0].into_iter().enumerate() {
            let alone = start(&[seed]);
            assert_eq!(batch[0][i], alone[0][0]);
            assert_eq!(batch[1][i], alone[1][0]);
        }
        assert_ne!(batch[0][0], batch[0][1]);
    }
}
