//! The mean of several guided estimates.

use crate::error::Result;
use crate::sampling::integrator::{Denoiser, Estimates};
use candle_core::Tensor;

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

    /// The mean of guided estimates has the mean of the unguided ones beside it.
    #[test]
    fn a_mean_keeps_both_estimates() {
        struct Fixed(f64, f64);
        fn tensor(number: f64) -> Tensor {
            Tensor::new(&[number], &Device::Cpu).unwrap()
        }
        impl Denoiser for Fixed {
            fn denoise(&self, x: &Tensor, sigma: f64) -> Result<Tensor> {
                Ok(self.estimates(x, sigma)?.guided)
            }
            fn estimates(&self, _: &Tensor, _: f64) -> Result<Estimates> {
                Ok(Estimates { guided: tensor(self.0), unguided: tensor(self.1) })
            }
        }
        let (a, b) = (Fixed(1.0, 10.0), Fixed(3.0, 30.0));
        let mean = Mean(vec![&a, &b]).estimates(&tensor(0.0), 1.0).unwrap();
        let value = |t: &Tensor| t.to_vec1::<f64>().unwrap()[0];
        assert_eq!((value(&mean.guided), value(&mean.unguided)), (2.0, 20.0));
    }
}
