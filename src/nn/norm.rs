//! Normalisation; statistics in f32 or finer, whatever the tensor's type.

use super::packed::floats;
use super::plain;
use crate::error::Result;
use crate::kernels::{self, Affine, FeatureMap, Operand, Precision};
use crate::weights::{Products, Scope};
use candle_core::Tensor;
use std::sync::Arc;

/// Scale and shift of a norm.
#[derive(Debug, Clone)]
struct Parameters {
    weight: Tensor,
    bias: Tensor,
    /// Weight and bias as f32 numbers, for layers with packed weights.
    numbers: (Arc<[f32]>, Arc<[f32]>),
    eps: f64,
}

impl Parameters {
    fn new(scope: &Scope<'_>, width: usize, eps: f64) -> Result<Self> {
        let (weight, bias) = (scope.tensor("weight", &[width])?, scope.tensor("bias", &[width])?);
        let numbers = match scope.products() {
            Products::Packed(_) => (floats(&weight)?, floats(&bias)?),
            Products::Plain => Default::default(),
        };
        Ok(Self { weight, bias, numbers, eps })
    }
}

/// Layer norm over the last dimension.
#[derive(Debug, Clone)]
pub struct LayerNorm(Parameters);

impl LayerNorm {
    /// `weight` and `bias` `[width]`.
    pub fn new(scope: &Scope<'_>, width: usize, eps: f64) -> Result<Self> {
        Ok(Self(Parameters::new(scope, width, eps)?))
    }

    /// `x`: `[.., width]`, same shape out.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let Parameters { weight, bias, eps, .. } = &self.0;
        plain::layer_norm(x, (weight, bias), *eps)
    }

    /// The normed tokens.
    pub(super) fn map(&self, x: &FeatureMap) -> Result<FeatureMap> {
        let (weight, bias) = &self.0.numbers;
        kernels::layer_norm(x, (weight, bias), self.0.eps)
    }

    /// The normed tokens, ready for a product.
    pub(super) fn operand(&self, x: &FeatureMap, precision: Precision) -> Result<Operand> {
        let (weight, bias) = &self.0.numbers;
        Operand::layer_norm(x, (weight, bias), self.0.eps, precision)
    }
}

/// Group norm over channels and space.
#[derive(Debug, Clone)]
pub struct GroupNorm {
    parameters: Parameters,
    groups: usize,
}

impl GroupNorm {
    /// `weight` and `bias` `[channels]`; `channels` is a multiple of `groups`.
    pub fn new(scope: &Scope<'_>, channels: usize, groups: usize, eps: f64) -> Result<Self> {
        Ok(Self { parameters: Parameters::new(scope, channels, eps)?, groups })
    }

    /// Scale and shift of every channel of `parts` beside each other.
    pub(super) fn affine(&self, parts: &[FeatureMap]) -> Result<Affine> {
        let (weight, bias) = &self.parameters.numbers;
        let channels: usize = parts.iter().map(|part| part.channels).sum();
        if channels != weight.len() {
            let why = format!("{channels} channels for a norm of {}", weight.len());
            return Err(crate::error::Error::Internal(why));
        }
        let (groups, eps) = (self.groups, self.parameters.eps);
        Ok(Affine::group_norm(parts, kernels::GroupNorm { weight, bias, groups, eps }))
    }

    /// `x`: `[B, .., C]`, same shape out, followed by SiLU if `silu` is set.
    pub(super) fn plain(&self, x: &Tensor, silu: bool) -> Result<Tensor> {
        let Parameters { weight, bias, eps, .. } = &self.parameters;
        plain::group_norm(x, (weight, bias), self.groups, *eps, silu)
    }
}
