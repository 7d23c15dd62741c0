//! Bounds of the estimate of x₀, which some scheduler configs ask for.

use crate::error::Result;
use candle_core::{DType, Tensor};

/// How a sampler keeps the (guided) estimate of x₀ within bounds.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum Bounds {
    /// The estimate stays as it is.
    #[default]
    Free,
    /// No number is larger than this, or smaller than its negative: `clip_sample`.
    Clip(f64),
    /// Dynamic thresholding, Saharia et al. (2022), section 2.3: numbers beyond the quantile `ratio` of their
    /// sizes are cut, and all are divided by it, where it is above 1; it counts as `most` at most.
    Threshold {
        /// Which quantile.
        ratio: f64,
        /// Largest divisor.
        most: f64,
    },
}

impl Bounds {
    /// `x0`, an estimate `[B, C, h, w]`, within these bounds, each sample by itself.
    ///
    /// # Source
    /// diffusers 0.42: `_threshold_sample`, and step 4 of DDIMScheduler's `step`.
    pub fn apply(self, x0: &Tensor) -> Result<Tensor> {
        match self {
            Bounds::Free => Ok(x0.clone()),
            Bounds::Clip(range) => Ok(x0.clamp(-range, range)?),
            Bounds::Threshold { ratio, most } => {
                let sizes = x0.flatten_from(1)?.abs()?.to_dtype(DType::F32)?.to_vec2::<f32>()?;
                let bound = |sizes: Vec<f32>| quantile(sizes, ratio).max(1.0).min(most);
                let samples = sizes
                    .into_iter()
                    .map(bound)
                    .enumerate()
                    .map(|(i, bound)| Ok((x0.narrow(0, i, 1)?.clamp(-bound, bound)? / bound)?));
                Ok(Tensor::cat(&samples.collect::<Result<Vec<_>>>()?, 0)?)
            }
        }
    }
}

/// The quantile `ratio` of `sizes`, which lies between two of them, as torch has it.
fn quantile(mut sizes: Vec<f32>, ratio: f64) -> f64 {
    sizes.sort_by(f32::total_cmp);
    let rank = ratio * sizes.len().saturating_sub(1) as f64;
    let at = |index: usize| sizes.get(index).or(sizes.last()).map_or(0.0, |size| f64::from(*size));
    let (low, high) = (at(rank as usize), at(rank as usize + 1));
    low + rank.fract() * (high - low)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn bounds_hold_for_each_sample() {
        let x = Tensor::new(&[[0.5f32, -4.0, 2.0], [0.5, -0.25, 0.0]], &Device::Cpu).unwrap();
        let bounded = |bounds: Bounds| bounds.apply(&x).unwrap().to_vec2::<f32>().unwrap();
        assert_eq!(bounded(Bounds::Free), [[0.5, -4.0, 2.0], [0.5, -0.25, 0.0]]);
        assert_eq!(bounded(Bounds::Clip(1.0)), [[0.5, -1.0, 1.0], [0.5, -0.25, 0.0]]);
        // The median of the first sample is 2; that of the second is below 1 and changes nothing.
        let half = Bounds::Threshold { ratio: 0.5, most: 10.0 };
        assert_eq!(bounded(half), [[0.25, -1.0, 1.0], [0.5, -0.25, 0.0]]);
        let narrow = Bounds::Threshold { ratio: 1.0, most: 1.0 };
        assert_eq!(bounded(narrow), [[0.5, -1.0, 1.0], [0.5, -0.25, 0.0]]);
    }

    #[test]
    fn quantiles_lie_between_numbers() {
        assert!((quantile(vec![3.0, 1.0, 2.0, 4.0], 0.5) - 2.5).abs() < 1e-12);
        assert!((quantile(vec![3.0], 0.995) - 3.0).abs() < 1e-12);
    }
}
