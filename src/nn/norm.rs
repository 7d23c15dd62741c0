//! Floor 3. Normalisation; statistics in f32 whatever the tensor's type.

use crate::error::Result;
use crate::kernels;
use crate::weights::Scope;
use candle_core::{D, DType, Tensor};

/// Layer norm over the last dimension.
#[derive(Debug, Clone)]
pub struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
    eps: f64,
}

impl LayerNorm {
    /// `weight` and `bias` `[width]`.
    pub fn new(scope: &Scope<'_>, width: usize, eps: f64) -> Result<Self> {
        let (weight, bias) = (scope.tensor("weight", &[width])?, scope.tensor("bias", &[width])?);
        Ok(Self { weight, bias, eps })
    }

    /// `x`: `[.., width]`, same shape out.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        Ok(candle_nn::ops::layer_norm(&x.contiguous()?, &self.weight, &self.bias, self.eps as f32)?)
    }
}

/// Group norm over channels and space.
#[derive(Debug, Clone)]
pub struct GroupNorm {
    weight: Tensor,
    bias: Tensor,
    groups: usize,
    eps: f64,
}

impl GroupNorm {
    /// `weight` and `bias` `[channels]`; `channels` is a multiple of `groups`.
    pub fn new(scope: &Scope<'_>, channels: usize, groups: usize, eps: f64) -> Result<Self> {
        let weight = scope.tensor("weight", &[channels])?;
        let bias = scope.tensor("bias", &[channels])?;
        Ok(Self { weight, bias, groups, eps })
    }

    /// `x`: `[B, C, ..]`, same shape out.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        if kernels::usable(x) {
            let Self { weight, bias, groups, eps } = self;
            return Ok(kernels::group_norm(x, weight, bias, *groups, *eps, false)?);
        }
        self.plain(x)
    }

    /// The norm followed by SiLU, in one pass where there is a kernel.
    pub fn forward_silu(&self, x: &Tensor) -> Result<Tensor> {
        if kernels::usable(x) {
            let Self { weight, bias, groups, eps } = self;
            return Ok(kernels::group_norm(x, weight, bias, *groups, *eps, true)?);
        }
        Ok(self.plain(x)?.silu()?)
    }

    fn plain(&self, x: &Tensor) -> Result<Tensor> {
        let (shape, dtype) = (x.shape().clone(), x.dtype());
        let (batch, channels) = (x.dim(0)?, x.dim(1)?);
        // f16 sums overflow on real activations.
        let grouped = x.to_dtype(DType::F32)?.reshape((batch, self.groups, ()))?; // [B, G, C/G·N]
        let centred = grouped.broadcast_sub(&grouped.mean_keepdim(D::Minus1)?)?;
        let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
        let scale = (variance + self.eps)?.sqrt()?.recip()?;
        let normed =
            centred.broadcast_mul(&scale)?.reshape((batch, channels, ()))?.to_dtype(dtype)?;
        let weight = self.weight.reshape((1, channels, 1))?;
        let bias = self.bias.reshape((1, channels, 1))?;
        Ok(normed.broadcast_mul(&weight)?.broadcast_add(&bias)?.reshape(shape)?)
    }
}
