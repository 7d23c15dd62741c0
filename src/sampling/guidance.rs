//! Classifier-free guidance: one estimate of several.

use super::integrator::{Denoiser, Estimates};
use crate::error::Result;
use candle_core::Tensor;

/// The estimate of x₀ on one prompt, and how much the prompt counts.
#[derive(Debug, Clone)]
pub struct Condition {
    /// The estimate, `[B, C, h, w]`.
    pub x0: Tensor,
    /// 1 for a prompt alone; A1111's `AND` gives each of several prompts a weight.
    pub weight: f64,
}

/// Classifier-free guidance over weighted prompts: x₀ = u + g·Σ wᵢ·(cᵢ − u), Ho and Salimans (2022); with several prompts
/// Liu et al. (2022).
#[derive(Debug, Clone, PartialEq)]
pub struct Guidance {
    /// g, the strength; 1 takes a single prompt's estimate as it is.
    pub scale: f64,
}

impl Guidance {
    /// Guidance of strength `scale` alone.
    pub fn new(scale: f64) -> Self {
        Self { scale }
    }

    /// The guided estimate away from `unguided`, the estimate on the negative prompt, towards each of `conditions`.
    pub fn combine(&self, unguided: Tensor, conditions: &[Condition]) -> Result<Estimates> {
        let mut guided = unguided.clone();
        for Condition { x0, weight } in conditions {
            guided = (guided + ((x0 - &unguided)? * (weight * self.scale))?)?;
        }
        Ok(Estimates { guided, unguided })
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
        Ok(self.estimates(x, sigma)?.guided)
    }

    fn estimates(&self, x: &Tensor, sigma: f64) -> Result<Estimates> {
        let Some((first, rest)) = self.0.split_first() else {
            return Err(crate::Error::Internal("the mean of no denoisers".into()));
        };
        let mut sum = first.estimates(x, sigma)?;
        for denoiser in rest {
            let next = denoiser.estimates(x, sigma)?;
            sum = Estimates {
                guided: (sum.guided + next.guided)?,
                unguided: (sum.unguided + next.unguided)?,
            };
        }
        let count = self.0.len() as f64;
        Ok(Estimates { guided: (sum.guided / count)?, unguided: (sum.unguided / count)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    fn tensor(numbers: &[f64]) -> Tensor {
        Tensor::new(numbers, &Device::Cpu).unwrap()
    }

    #[test]
    fn prompts_pull_by_their_weights() {
        let condition = |numbers: &[f64], weight| Condition { x0: tensor(numbers), weight };
        let of = |conditions: &[Condition]| {
            let found = Guidance::new(3.0).combine(tensor(&[1.0, 2.0]), conditions).unwrap();
            assert_eq!(found.unguided.to_vec1::<f64>().unwrap(), [1.0, 2.0]);
            found.guided.to_vec1::<f64>().unwrap()
        };
        assert_eq!(of(&[condition(&[2.0, 0.0], 1.0)]), [4.0, -4.0]);
        // u + g·(w₁(c₁ − u) + w₂(c₂ − u)); a negative weight pushes away.
        let several = [condition(&[2.0, 0.0], 0.5), condition(&[0.0, 3.0], -2.0)];
        assert_eq!(of(&several), [1.0 + 1.5 + 6.0, 2.0 - 3.0 - 6.0]);
        assert_eq!(of(&[]), [1.0, 2.0]);
    }

    /// The mean of guided estimates has the mean of the unguided ones beside it.
    #[test]
    fn a_mean_keeps_both_estimates() {
        struct Fixed(f64, f64);
        impl Denoiser for Fixed {
            fn denoise(&self, x: &Tensor, sigma: f64) -> Result<Tensor> {
                Ok(self.estimates(x, sigma)?.guided)
            }
            fn estimates(&self, _: &Tensor, _: f64) -> Result<Estimates> {
                Ok(Estimates { guided: tensor(&[self.0]), unguided: tensor(&[self.1]) })
            }
        }
        let (a, b) = (Fixed(1.0, 10.0), Fixed(3.0, 30.0));
        let mean = Mean(vec![&a, &b]).estimates(&tensor(&[0.0]), 1.0).unwrap();
        let value = |t: &Tensor| t.to_vec1::<f64>().unwrap()[0];
        assert_eq!((value(&mean.guided), value(&mean.unguided)), (2.0, 20.0));
    }
}
