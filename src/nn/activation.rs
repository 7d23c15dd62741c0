//! Floor 3. Activations of plain tensors.

use crate::error::Result;
use candle_core::{D, Tensor};

/// GELU: exact (erf), or OpenAI's quick form x·σ(1.702·x).
pub(super) fn gelu(x: &Tensor, quick: bool) -> Result<Tensor> {
    if quick { Ok((x * candle_nn::ops::sigmoid(&(x * 1.702)?)?)?) } else { Ok(x.gelu_erf()?) }
}

/// Gated GELU, Shazeer (2020): value · GELU(gate), the halves of the last dimension in this order.
///
/// `x`: `[.., 2·D]`. Returns `[.., D]`.
pub(super) fn geglu(x: &Tensor) -> Result<Tensor> {
    let half = x.dim(D::Minus1)? / 2;
    let gate = x.narrow(D::Minus1, half, half)?.contiguous()?.gelu_erf()?;
    Ok((x.narrow(D::Minus1, 0, half)? * gate)?)
}
