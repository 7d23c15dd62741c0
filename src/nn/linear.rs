//! Floor 3. The linear layer: one of the two places that look inside a weight.

use crate::error::Result;
use crate::weights::{Branch, Scope, Weight};
use candle_core::Tensor;

/// y = x·Wᵀ + b, plus the low-rank branches of the weight if it has any.
#[derive(Debug, Clone)]
pub struct Linear {
    weight: Weight,
    bias: Option<Tensor>,
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
        Ok(Self { weight, bias: scope.optional("bias", &[outputs])? })
    }

    /// `x`: `[.., inputs]`. Returns `[.., outputs]`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let mut y = multiply(x, self.weight.base())?;
        for branch in self.weight.branches() {
            y = (y + branch_output(x, branch)?)?;
        }
        match &self.bias {
            Some(bias) => Ok(y.broadcast_add(bias)?),
            None => Ok(y),
        }
    }
}

/// x·Wᵀ over the last dimension; leading dimensions are folded into one large product.
fn multiply(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    let mut shape = x.dims().to_vec();
    let inputs = shape.pop().unwrap_or(1);
    let rows: usize = shape.iter().product();
    shape.push(weight.dim(0)?);
    let y = x.reshape((rows, inputs))?.matmul(&weight.t()?)?;
    Ok(y.reshape(shape)?)
}

fn branch_output(x: &Tensor, branch: &Branch) -> Result<Tensor> {
    let matrix = |t: &Tensor| t.flatten_from(1);
    let hidden = multiply(x, &matrix(&branch.down)?)?; // [.., R]
    let hidden = match &branch.mid {
        Some(mid) => multiply(&hidden, &matrix(mid)?)?,
        None => hidden,
    };
    Ok((multiply(&hidden, &matrix(&branch.up)?)? * f64::from(branch.scale))?)
}

/// GELU of a whole tensor: exact (erf) or OpenAI's x·σ(1.702·x).
pub fn mlp_gelu(x: &Tensor, quick: bool) -> Result<Tensor> {
    if quick { Ok((x * candle_nn::ops::sigmoid(&(x * 1.702)?)?)?) } else { Ok(x.gelu_erf()?) }
}
