//! Floor 3. The linear layer: one of the two places that look inside a weight.

use crate::error::Result;
use crate::kernels::{self, PackedMatrix};
use crate::weights::{Branch, Scope};
use candle_core::Tensor;
use std::sync::Arc;

/// y = x·Wᵀ + b, plus the low-rank branches of the weight if it has any.
#[derive(Debug, Clone)]
pub struct Linear {
    matrix: Matrix,
    branches: Arc<[Branch]>,
    bias: Option<Tensor>,
}

/// The weight as this layer multiplies by it.
#[derive(Debug, Clone)]
enum Matrix {
    Dense(Tensor),
    /// Rounded to bf16 and laid out for the processor.
    Packed(PackedMatrix),
}

impl Linear {
    /// `weight [outputs, inputs]` and `bias [outputs]`.
    pub fn new(scope: &Scope<'_>, inputs: usize, outputs: usize) -> Result<Self> {
        let bias = scope.tensor("bias", &[outputs])?;
        Ok(Self { bias: Some(bias), ..Self::without_bias(scope, inputs, outputs)? })
    }

    /// `weight [outputs, inputs]`; a bias is used if the source has one (adapters may add it).
    pub fn without_bias(scope: &Scope<'_>, inputs: usize, outputs: usize) -> Result<Self> {
        let weight = scope.weight("weight", &[outputs, inputs])?;
        let matrix = if scope.half_products() && kernels::usable(weight.base()) {
            let values = weight.base().flatten_all()?.to_vec1::<f32>()?;
            Matrix::Packed(PackedMatrix::new(&values, outputs, inputs))
        } else {
            Matrix::Dense(weight.base().clone())
        };
        let branches = weight.branches().into();
        Ok(Self { matrix, branches, bias: scope.optional("bias", &[outputs])? })
    }

    /// `x`: `[.., inputs]`. Returns `[.., outputs]`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let mut y = match &self.matrix {
            Matrix::Dense(weight) => multiply(x, weight, self.bias.as_ref())?,
            Matrix::Packed(packed) => {
                let mut shape = x.dims().to_vec();
                let inputs = shape.pop().unwrap_or(1);
                let y = packed.forward(&x.reshape(((), inputs))?, self.bias.as_ref())?;
                shape.push(y.dim(1)?);
                y.reshape(shape)?
            }
        };
        for branch in &*self.branches {
            y = (y + branch_output(x, branch)?)?;
        }
        Ok(y)
    }
}

/// x·Wᵀ + b over the last dimension; leading dimensions are folded into one large product.
fn multiply(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let mut shape = x.dims().to_vec();
    let inputs = shape.pop().unwrap_or(1);
    let rows: usize = shape.iter().product();
    shape.push(weight.dim(0)?);
    let x = x.reshape((rows, inputs))?;
    let y = match bias {
        _ if kernels::usable(&x) => kernels::linear(&x, weight, bias)?,
        Some(bias) => x.matmul(&weight.t()?)?.broadcast_add(bias)?,
        None => x.matmul(&weight.t()?)?,
    };
    Ok(y.reshape(shape)?)
}

fn branch_output(x: &Tensor, branch: &Branch) -> Result<Tensor> {
    let matrix = |t: &Tensor| t.flatten_from(1);
    let hidden = multiply(x, &matrix(&branch.down)?, None)?; // [.., R]
    let hidden = match &branch.mid {
        Some(mid) => multiply(&hidden, &matrix(mid)?, None)?,
        None => hidden,
    };
    Ok((multiply(&hidden, &matrix(&branch.up)?, None)? * f64::from(branch.scale))?)
}
