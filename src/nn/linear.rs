//! Floor 3. The linear layer: one of the two places that look inside a weight.

use super::Geometry;
use super::packed::PackedLayer;
use crate::error::{Error, Result};
use crate::kernels::{Finish, Map, Operand, Preparation};
use crate::weights::{DenseBranch, Products, Scope};
use candle_core::{DType, Tensor};
use std::sync::Arc;

/// y = x·Wᵀ + b, plus the low-rank branches of the weight if it has any.
#[derive(Debug, Clone)]
pub struct Linear(Form);

#[derive(Debug, Clone)]
enum Form {
    Plain { weight: Tensor, branches: Arc<[DenseBranch]>, bias: Option<Tensor> },
    Packed(Box<PackedLayer>),
}

impl Linear {
    /// `weight [outputs, inputs]` and `bias [outputs]`.
    pub fn new(scope: &Scope<'_>, inputs: usize, outputs: usize) -> Result<Self> {
        // It says which one is missing.
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
        let weight = scope.weight("weight", &shape)?;
        let branches = weight.branches().into();
        let bias = scope.optional("bias", &[outputs])?;
        Ok(Self(Form::Plain { weight: weight.base().clone(), branches, bias }))
    }

    /// `x`: `[.., inputs]`. Returns `[.., outputs]`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match &self.0 {
            Form::Plain { weight, branches, bias } => {
                let mut y = multiply(x, weight, bias.as_ref())?;
                for branch in &**branches {
                    y = (y + branch_output(x, branch)?)?;
                }
                Ok(y)
            }
            Form::Packed(layer) => {
                let map = Map::from_tokens(&x.to_dtype(DType::F32)?)?;
                let operand = Operand::new(&[map], Preparation::default(), layer.precision);
                let y = layer.multiply(&operand, Finish::default()).to_tokens()?;
                let mut shape = x.dims().to_vec();
                shape.pop();
                shape.push(y.dim(2)?);
                Ok(y.reshape(shape)?)
            }
        }
    }

    /// The packed weight of a layer that has one.
    pub(super) fn packed(&self) -> Result<&PackedLayer> {
        match &self.0 {
            Form::Packed(layer) => Ok(layer),
            Form::Plain { .. } => Err(Error::Internal("a plain layer among packed ones".into())),
        }
    }
}

/// x·Wᵀ + b over the last dimension; leading dimensions are folded into one large product.
fn multiply(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let mut shape = x.dims().to_vec();
    let inputs = shape.pop().unwrap_or(1);
    shape.push(weight.dim(0)?);
    let y = x.reshape(((), inputs))?.matmul(&weight.t()?)?;
    let y = match bias {
        Some(bias) => y.broadcast_add(bias)?,
        None => y,
    };
    Ok(y.reshape(shape)?)
}

fn branch_output(x: &Tensor, branch: &DenseBranch) -> Result<Tensor> {
    let matrix = |t: &Tensor| t.flatten_from(1);
    let hidden = multiply(x, &matrix(&branch.down)?, None)?; // [.., R]
    let hidden = match &branch.mid {
        Some(mid) => multiply(&hidden, &matrix(mid)?, None)?,
        None => hidden,
    };
    Ok((multiply(&hidden, &matrix(&branch.up)?, None)? * f64::from(branch.scale))?)
}
