//! The linear layer: one of the two places that look inside a weight.

use super::Geometry;
use super::packed::PackedLayer;
use super::plain::{self, Added};
use super::stored::Stored;
use crate::error::{Error, Result};
use crate::kernels::{Epilogue, FeatureMap, Operand, Prologue};
use crate::weights::{DenseBranch, Products, Scope};
use candle_core::{DType, Tensor};
use std::sync::Arc;

/// y = x·Wᵀ + b, plus the low-rank branches of the weight if it has any.
#[derive(Debug, Clone)]
pub struct Linear(Form);

#[derive(Debug, Clone)]
enum Form {
    Plain { weight: Stored, branches: Arc<[DenseBranch]>, bias: Option<Tensor> },
    Packed(Box<PackedLayer>),
}

impl Linear {
    /// `weight [outputs, inputs]` and `bias [outputs]`.
    pub fn new(scope: &Scope<'_>, inputs: usize, outputs: usize) -> Result<Self> {
        // `tensor` returns the error that names the missing one.
        scope.tensor("bias", &[outputs])?;
        Self::without_bias(scope, inputs, outputs)
    }

    /// `weight [outputs, inputs]`; a bias is used if the source has one (adapters may add it).
    pub fn without_bias(scope: &Scope<'_>, inputs: usize, outputs: usize) -> Result<Self> {
        let shape = [outputs, inputs];
        if let Products::Packed(precision) = scope.products() {
            let layer = PackedLayer::new(scope, &shape, Geometry::POINT, false, precision)?;
            return Ok(Self(Form::Packed(Box::new(layer))));
        }
        let (weight, branches) = Stored::matrix(scope, &shape)?;
        let bias = scope.optional("bias", &[outputs])?;
        Ok(Self(Form::Plain { weight, branches: branches.into(), bias }))
    }

    /// `x`: `[.., inputs]`. Returns `[.., outputs]`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match &self.0 {
            Form::Plain { .. } => self.plain(x, None),
            Form::Packed(layer) => {
                let map = FeatureMap::from_tokens(&x.to_dtype(DType::F32)?)?;
                let operand = Operand::new(&[map], Prologue::default(), layer.precision)?;
                let y = layer.multiply(&operand, Epilogue::default())?.to_tokens()?;
                let mut shape = x.dims().to_vec();
                shape.pop();
                shape.push(y.dim(2)?);
                Ok(y.reshape(shape)?)
            }
        }
    }

    /// As [`forward`](Self::forward) of plain tensors, plus `tensor`.
    pub(super) fn plain(&self, x: &Tensor, tensor: Option<&Tensor>) -> Result<Tensor> {
        let (y, bias) = self.product(x)?;
        plain::finish(y, Added { bias, tensor, ..Added::default() }, 1.0)
    }

    /// As [`forward`](Self::forward) of plain tensors, and the bias apart.
    pub(super) fn product(&self, x: &Tensor) -> Result<(Tensor, Option<&Tensor>)> {
        let Form::Plain { weight, branches, bias } = &self.0 else {
            return Err(Error::Internal("a packed layer among plain ones".into()));
        };
        let mut y = plain::multiply(x, &weight.tensor()?)?;
        for branch in &**branches {
            y = (y + branch_output(x, branch)?)?;
        }
        Ok((y, bias.as_ref()))
    }

    /// The packed weight of a layer that has one.
    pub(super) fn packed(&self) -> Result<&PackedLayer> {
        match &self.0 {
            Form::Packed(layer) => Ok(layer),
            Form::Plain { .. } => Err(Error::Internal("a plain layer among packed ones".into())),
        }
    }
}

fn branch_output(x: &Tensor, branch: &DenseBranch) -> Result<Tensor> {
    let by = |x: &Tensor, factor: &Tensor| plain::multiply(x, &factor.flatten_from(1)?);
    let hidden = by(x, &branch.down)?; // [.., R]
    let hidden = branch.mid.as_ref().map_or(Ok(hidden.clone()), |mid| by(&hidden, mid))?;
    Ok((by(&hidden, &branch.up)? * f64::from(branch.scale))?)
}
