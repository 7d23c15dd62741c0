//! The noise that images start from: variations of a seed, and the noise of a seed at another size.

use crate::rng::{Noise, Rng};
use crate::size::LatentSize;

/// How the noise of images is made of their seeds.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct NoiseRules {
    /// Whose generator makes it.
    pub rng: Rng,
    /// Where the noise of steps comes from.
    pub steps: StepStream,
    /// How far the start goes from the noise of the seed to that of the variation's seed, 0 to 1.
    pub variation: f64,
    /// The size whose noise is laid over the middle of the start.
    pub resized_from: Option<LatentSize>,
}

/// Where the noise of steps comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum StepStream {
    /// The stream of the start, where it ended: diffusers, A1111.
    #[default]
    GoesOn,
    /// A stream of its own.
    Fresh {
        /// Whose generator makes it.
        rng: Rng,
        /// What is added to the seed: A1111's "ENSD".
        delta: i64,
    },
}

/// The seeds of one image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageSeeds {
    /// Its own.
    pub seed: u64,
    /// That of its variation, which acts with [`NoiseRules::variation`] alone.
    pub variation: u64,
}

/// The start of some images.
pub(super) struct StartNoise {
    rules: NoiseRules,
    images: Vec<ImageSeeds>,
}

/// C, h and w of one image's latents.
type Shape = (usize, usize, usize);

impl StartNoise {
    pub(super) fn new(rules: NoiseRules, images: &[ImageSeeds]) -> Self {
        Self { rules, images: images.to_vec() }
    }

    /// The streams of the images from their beginnings.
    pub(super) fn streams(&self) -> Vec<Box<dyn Noise + Send>> {
        self.images.iter().map(|image| self.rules.rng.stream(image.seed)).collect()
    }

    /// The values of all images; `streams` go on behind.
    ///
    /// # Source
    /// A1111 1.10, `modules/rng.py`: `ImageRNG.first`.
    pub(super) fn values(&self, shape: Shape, streams: &mut [Box<dyn Noise + Send>]) -> Vec<f32> {
        let (channels, height, width) = shape;
        let NoiseRules { rng, variation, resized_from, .. } = self.rules;
        let size = LatentSize { width, height };
        let drawn = resized_from.unwrap_or(size);
        let count = channels * drawn.height * drawn.width;
        let image = |(image, stream): (&ImageSeeds, &mut Box<dyn Noise + Send>)| {
            // Noise of another size is drawn apart, and the stream still gives noise of this one.
            let mut noise = match resized_from {
                Some(_) => rng.stream(image.seed).normal(count),
                None => stream.normal(count),
            };
            if variation > 0.0 {
                let other = rng.stream(image.variation).normal(count);
                let mix = Mix { channels, size: drawn, share: variation as f32 };
                noise = mix.between(&noise, &other);
            }
            if resized_from.is_some() {
                let mut whole = stream.normal(channels * height * width);
                paste(&Field { values: &noise, size: drawn }, &mut whole, size, channels);
                noise = whole;
            }
            noise
        };
        self.images.iter().zip(streams).flat_map(image).collect()
    }

    /// Puts streams in the place of `streams` where steps have their own.
    pub(super) fn go_on(&self, streams: &mut [Box<dyn Noise + Send>]) {
        if let StepStream::Fresh { rng, delta } = self.rules.steps {
            for (stream, image) in streams.iter_mut().zip(&self.images) {
                *stream = rng.stream(image.seed.wrapping_add_signed(delta));
            }
        }
    }
}

/// The way from one noise to another.
struct Mix {
    channels: usize,
    size: LatentSize,
    /// How far.
    share: f32,
}

impl Mix {
    /// Spherical interpolation: for each channel and column, whose vectors go over the rows.
    ///
    /// # Source
    /// A1111 1.10, `modules/rng.py`: `slerp`, whose norms run over the rows of one image.
    fn between(&self, low: &[f32], high: &[f32]) -> Vec<f32> {
        let LatentSize { width, height } = self.size;
        let columns = self.channels * width;
        let places = |column: usize| {
            let (channel, x) = (column / width, column % width);
            (0..height).map(move |y| (channel * height + y) * width + x)
        };
        let dot = |column: usize| {
            let sums = places(column).fold((0.0f64, 0.0f64, 0.0f64), |(ab, aa, bb), i| {
                let (a, b) = (f64::from(low[i]), f64::from(high[i]));
                (ab + a * b, aa + a * a, bb + b * b)
            });
            sums.0 / (sums.1 * sums.2).sqrt()
        };
        let dots: Vec<f64> = (0..columns).map(dot).collect();
        let share = f64::from(self.share);
        if dots.iter().sum::<f64>() / columns.max(1) as f64 > 0.9995 {
            // That program mixes equal noise the other way round.
            let mixed = |(a, b): (&f32, &f32)| {
                (f64::from(*a) * share + f64::from(*b) * (1.0 - share)) as f32
            };
            return low.iter().zip(high).map(mixed).collect();
        }
        let mut mixed = vec![0.0; low.len()];
        for (column, dot) in dots.into_iter().enumerate() {
            let angle = dot.acos();
            let (from, to) = (((1.0 - share) * angle).sin(), (share * angle).sin());
            for i in places(column) {
                let sum = from * f64::from(low[i]) + to * f64::from(high[i]);
                mixed[i] = (sum / angle.sin()) as f32;
            }
        }
        mixed
    }
}

/// Values of a size.
struct Field<'a> {
    values: &'a [f32],
    size: LatentSize,
}

/// Lays `field` over the middle of `whole`, which has `size`; what is larger is cut.
fn paste(field: &Field<'_>, whole: &mut [f32], size: LatentSize, channels: usize) {
    let across = Overlap::new(field.size.width, size.width);
    let down = Overlap::new(field.size.height, size.height);
    for channel in 0..channels {
        for y in 0..down.length {
            let from =
                (channel * field.size.height + down.from + y) * field.size.width + across.from;
            let to = (channel * size.height + down.to + y) * size.width + across.to;
            let row = &field.values[from..from + across.length];
            whole[to..to + across.length].copy_from_slice(row);
        }
    }
}

/// The middle that a side has in common with another.
struct Overlap {
    /// Where it begins on the side that is laid.
    from: usize,
    /// Where it begins on the other.
    to: usize,
    length: usize,
}

impl Overlap {
    fn new(laid: usize, side: usize) -> Self {
        // Half of what is missing, rounded down, also where that is less than nothing.
        let shift = (side as i64 - laid as i64).div_euclid(2);
        let outside = (-shift).max(0) as usize;
        let length = if shift >= 0 { laid } else { laid.saturating_sub(2 * outside) };
        Self { from: outside, to: shift.max(0) as usize, length: length.min(side) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(rules: NoiseRules, shape: Shape) -> Vec<f32> {
        let noise = StartNoise::new(rules, &[ImageSeeds { seed: 3, variation: 4 }]);
        noise.values(shape, &mut noise.streams())
    }

    #[test]
    fn no_variation_is_the_noise_of_the_seed() {
        let plain = Rng::Cpu.stream(3).normal(80);
        assert_eq!(start(NoiseRules::default(), (4, 4, 5)), plain);
        let all = NoiseRules { variation: 1.0, ..NoiseRules::default() };
        let other = Rng::Cpu.stream(4).normal(80);
        let far = start(all, (4, 4, 5)).into_iter().zip(&other).map(|(a, b)| (a - b).abs());
        assert!(far.fold(0.0, f32::max) < 1e-5);
        let same = LatentSize { width: 5, height: 4 };
        let resized = NoiseRules { resized_from: Some(same), ..NoiseRules::default() };
        assert_eq!(start(resized, (4, 4, 5)), plain);
    }

    #[test]
    fn noise_of_another_size_lies_in_the_middle() {
        for (laid, side, from, to, length) in
            [(3, 5, 0, 1, 3), (2, 5, 0, 1, 2), (5, 3, 1, 0, 3), (6, 3, 2, 0, 2), (4, 4, 0, 0, 4)]
        {
            let found = Overlap::new(laid, side);
            assert_eq!((found.from, found.to, found.length), (from, to, length), "{laid} {side}");
        }
    }
}
