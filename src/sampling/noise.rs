//! Where samplers get their noise from.

use super::image_noise::{ImageSeeds, NoiseRules, StartNoise};
use crate::error::{Error, Result};
use crate::rng::{BrownianPath, Noise, Rng, TorchCpu};
use candle_core::{Device, Shape, Tensor};
use std::collections::VecDeque;

/// Gives a sampler standard normal values.
pub trait NoiseSource {
    /// Noise for the way from noise level `sigma` to `next`: mean 0, deviation 1, independent of what other
    /// intervals got.
    ///
    /// `like`: latents `[B, C, h, w]`; the noise has their shape, dtype and device. Streams of random numbers do
    /// not look at the levels; a Brownian path gives overlapping intervals noise that fits together.
    fn between(&mut self, sigma: f64, next: f64, like: &Tensor) -> Result<Tensor>;

    /// The same for a part of the way, `share` of it in ln σ; 1 is the whole. Of a sampler that stops on its way:
    /// references compute its points in f32, which a Brownian path follows.
    fn partway(&mut self, way: Way, share: f64, like: &Tensor) -> Result<Tensor> {
        let Way { sigma, next } = way;
        let there = if share < 1.0 { sigma.powf(1.0 - share) * next.powf(share) } else { next };
        self.between(sigma, there, like)
    }
}

/// Where a step begins and ends, for [`NoiseSource::partway`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Way {
    /// σ where it begins.
    pub sigma: f64,
    /// σ where it ends, above 0.
    pub next: f64,
}

/// One stream of random numbers for each image of a batch.
///
/// The streams give the initial noise first and go on for the sampler, as diffusers draws everything from one
/// generator an image. Each image gets exactly the numbers that it would get alone. [`along_paths`](Self::along_paths)
/// has steps follow a Brownian path for each image instead.
///
/// # Examples
/// ```
/// use candle_core::Device;
/// use colora::sampling::{NoiseSource, SeededNoise};
///
/// # fn main() -> colora::Result<()> {
/// let mut noise = SeededNoise::torch(&[42, 43]);
/// let start = noise.start((4, 64, 64), &Device::Cpu)?; // [2, 4, 64, 64], f32
/// let next = noise.between(14.6, 10.0, &start)?;
/// assert_eq!(next.dims(), start.dims());
/// # Ok(()) }
/// ```
pub struct SeededNoise {
    /// What the images start from; none where the streams below give that too.
    start: Option<StartNoise>,
    streams: Vec<Box<dyn Noise + Send>>,
    /// Brownian paths that steps follow instead of the streams.
    paths: Option<Paths>,
}

/// The Brownian paths of some images, made when the sizes are known.
struct Paths {
    rules: PathRules,
    seeds: Vec<u64>,
    drawn: Vec<BrownianPath>,
}

/// Brownian paths over the noise levels of a run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PathRules {
    /// Whose generator makes the noise of their nodes.
    pub rng: Rng,
    /// Least level above zero.
    pub low: f64,
    /// Greatest level.
    pub high: f64,
    /// Whether a sampler that stops on its way asks for its ends through f32 logarithms, as k-diffusion does;
    /// ComfyUI asks for the levels themselves.
    pub through_logs: bool,
}

impl Paths {
    /// Noise of every image for the way between two points.
    fn between(&mut self, sigma: f32, next: f32, like: &Tensor) -> Result<Tensor> {
        let count = like.dims().iter().skip(1).product();
        if self.drawn.is_empty() {
            let PathRules { rng, low, high, .. } = self.rules;
            let (low, high) = (f64::from(low as f32), f64::from(high as f32));
            let path = |seed: &u64| BrownianPath::new(*seed, rng, count, low, high);
            self.drawn = self.seeds.iter().map(path).collect();
        }
        let values = self.drawn.iter_mut().flat_map(|path| path.between(sigma, next)).collect();
        Ok(Tensor::from_vec(values, like.shape(), like.device())?.to_dtype(like.dtype())?)
    }

    /// The same for a part of a way, whose points are f32 numbers at each operation.
    fn partway(&mut self, way: Way, share: f64, like: &Tensor) -> Result<Tensor> {
        let log = |sigma: f64| -(f64::from(sigma as f32).ln() as f32);
        let back = |t: f32| f64::from(-t).exp() as f32;
        let (t, u) = (log(way.sigma), log(way.next));
        let ends = if self.rules.through_logs {
            (back(t), back(u))
        } else {
            (way.sigma as f32, way.next as f32)
        };
        let there = if share < 1.0 { back(t + (u - t) * share as f32) } else { ends.1 };
        self.between(ends.0, there, like)
    }
}

impl std::fmt::Debug for SeededNoise {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SeededNoise of {} images", self.streams.len())
    }
}

impl SeededNoise {
    /// The streams of PyTorch's CPU generators with these seeds, one an image.
    pub fn torch(seeds: &[u64]) -> Self {
        let stream = |seed: &u64| Box::new(TorchCpu::new(*seed)) as Box<dyn Noise + Send>;
        Self::new(seeds.iter().map(stream).collect())
    }

    /// These streams, one an image.
    pub fn new(streams: Vec<Box<dyn Noise + Send>>) -> Self {
        Self { start: None, streams, paths: None }
    }

    /// The noise of images by these rules, each with its seeds.
    pub fn by_rules(rules: NoiseRules, images: &[ImageSeeds]) -> Self {
        let start = StartNoise::new(rules, images);
        Self { streams: start.streams(), start: Some(start), paths: None }
    }

    /// The same, whose steps follow Brownian paths of these seeds, one an image.
    #[must_use]
    pub fn along_paths(self, rules: PathRules, seeds: Vec<u64>) -> Self {
        Self { paths: Some(Paths { rules, seeds, drawn: Vec::new() }), ..self }
    }

    /// How many images get noise.
    pub fn images(&self) -> usize {
        self.streams.len()
    }

    /// The noise that the images start from, `[B, C, h, w]` in f32, with unit deviation.
    ///
    /// `image`: C, h and w.
    pub fn start(&mut self, image: (usize, usize, usize), device: &Device) -> Result<Tensor> {
        let (channels, height, width) = image;
        let shape = (self.streams.len(), channels, height, width).into();
        match &self.start {
            None => self.draw(&shape, device),
            Some(start) => {
                let values = start.values(image, &mut self.streams);
                let noise = Tensor::from_vec(values, &shape, device)?;
                start.go_on(&mut self.streams);
                Ok(noise)
            }
        }
    }

    /// One call of every stream, for its image of `shape` alone.
    fn draw(&mut self, shape: &Shape, device: &Device) -> Result<Tensor> {
        let each = shape.dims().iter().skip(1).product();
        let values = self.streams.iter_mut().flat_map(|stream| stream.normal(each)).collect();
        Ok(Tensor::from_vec(values, shape, device)?)
    }
}

impl SeededNoise {
    /// Refuses latents of another number of images.
    fn check(&self, like: &Tensor) -> Result<()> {
        let images = like.dims().first().copied().unwrap_or(0);
        if images != self.streams.len() {
            let seeds = self.streams.len();
            return Err(Error::Internal(format!("noise of {seeds} seeds for {images} images")));
        }
        Ok(())
    }
}

impl NoiseSource for SeededNoise {
    fn between(&mut self, sigma: f64, next: f64, like: &Tensor) -> Result<Tensor> {
        self.check(like)?;
        match &mut self.paths {
            Some(paths) => paths.between(sigma as f32, next as f32, like),
            None => Ok(self.draw(like.shape(), like.device())?.to_dtype(like.dtype())?),
        }
    }

    fn partway(&mut self, way: Way, share: f64, like: &Tensor) -> Result<Tensor> {
        self.check(like)?;
        match &mut self.paths {
            Some(paths) => paths.partway(way, share, like),
            None => self.between(way.sigma, way.next, like),
        }
    }
}

/// Noise that was drawn elsewhere, handed out in order: for tests against other programs.
#[derive(Debug, Clone, Default)]
pub struct ListedNoise {
    /// What is left, first comes first.
    pub left: VecDeque<Tensor>,
    /// The intervals that were asked for, σ and σ′.
    pub asked: Vec<(f64, f64)>,
}

impl ListedNoise {
    /// These tensors, each of the shape of the latents.
    pub fn new(tensors: impl IntoIterator<Item = Tensor>) -> Self {
        Self { left: tensors.into_iter().collect(), asked: Vec::new() }
    }
}

impl NoiseSource for ListedNoise {
    fn between(&mut self, sigma: f64, next: f64, like: &Tensor) -> Result<Tensor> {
        self.asked.push((sigma, next));
        let tensor = self.left.pop_front();
        let tensor = tensor.ok_or_else(|| Error::Internal("no listed noise is left".into()))?;
        Ok(tensor.to_dtype(like.dtype())?.to_device(like.device())?)
    }
}

/// No noise, for samplers that draw none ([`NoiseUse::Never`](super::NoiseUse::Never)).
#[derive(Debug, Clone, Copy, Default)]
pub struct NoNoise;

impl NoiseSource for NoNoise {
    fn between(&mut self, sigma: f64, next: f64, _: &Tensor) -> Result<Tensor> {
        Err(Error::Internal(format!("noise from {sigma} to {next} where none was to be drawn")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::DType;

    fn values(tensor: &Tensor) -> Vec<f32> {
        tensor.flatten_all().unwrap().to_vec1().unwrap()
    }

    /// Also where an image has no multiple of 16 values, and fewer than 16, where PyTorch draws in another way.
    #[test]
    fn a_batch_is_its_images_alone() {
        for image in [(4, 8, 8), (4, 3, 5), (1, 3, 3)] {
            let mut batch = SeededNoise::torch(&[7, 1 << 40, 7]);
            let together: Vec<Tensor> = {
                let start = batch.start(image, &Device::Cpu).unwrap();
                let next = batch.between(3.0, 2.0, &start).unwrap();
                vec![start, next]
            };
            for (i, seed) in [7, 1 << 40, 7].into_iter().enumerate() {
                let mut alone = SeededNoise::torch(&[seed]);
                let start = alone.start(image, &Device::Cpu).unwrap();
                let next = alone.between(3.0, 2.0, &start).unwrap();
                for (together, alone) in together.iter().zip([start, next]) {
                    let of_batch = together.narrow(0, i, 1).unwrap();
                    assert_eq!(values(&of_batch), values(&alone));
                }
            }
            assert_ne!(values(&together[0]), values(&together[1]));
        }
    }

    #[test]
    fn noise_goes_on_where_the_start_ended() {
        let mut noise = SeededNoise::torch(&[42]);
        let start = noise.start((4, 4, 4), &Device::Cpu).unwrap();
        let like = start.to_dtype(DType::F64).unwrap();
        let next = noise.between(1.0, 0.5, &like).unwrap();
        let mut stream = TorchCpu::new(42);
        assert_eq!(values(&start), stream.normal(64));
        assert_eq!(values(&next.to_dtype(DType::F32).unwrap()), stream.normal(64));
        assert_eq!(next.dtype(), DType::F64);
    }

    #[test]
    fn noise_that_is_not_there_is_an_error() {
        let like = Tensor::zeros((2, 4, 8, 8), DType::F32, &Device::Cpu).unwrap();
        assert!(SeededNoise::torch(&[1]).between(1.0, 0.5, &like).is_err());
        assert!(NoNoise.between(1.0, 0.5, &like).is_err());
        let mut listed = ListedNoise::new([like.clone()]);
        assert!(
            listed.between(2.0, 1.0, &like).is_ok() && listed.between(1.0, 0.5, &like).is_err()
        );
        assert_eq!(listed.asked, [(2.0, 1.0), (1.0, 0.5)]);
    }
}
