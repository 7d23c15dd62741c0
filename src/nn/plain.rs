//! Operators on plain tensors, channels last: images `[B, H, W, C]`, tokens `[B, N, C]`.
//!
//! What each computes is written in candle's operators, for every device; on NVIDIA GPUs kernels of their own
//! do the same in fewer passes over memory.

use super::Geometry;
use super::attention::scored;
use crate::error::Result;
#[cfg(feature = "cudnn")]
use crate::kernels::Rounding;
#[cfg(feature = "cuda")]
use crate::kernels::cuda;
use candle_core::{D, DType, Tensor};

/// Group norm over the channels and pixels of `[B, .., C]`, followed by SiLU if `silu` is set; statistics in f32.
pub(super) fn group_norm(
    x: &Tensor,
    (weight, bias): (&Tensor, &Tensor),
    groups: usize,
    eps: f64,
    silu: bool,
) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if x.device().is_cuda() {
        return Ok(cuda::group_norm(x, (weight, bias), groups, eps, silu)?);
    }
    let (shape, dtype) = (x.shape().clone(), x.dtype());
    let (batch, channels) = (x.dim(0)?, x.dim(D::Minus1)?);
    // f16 sums overflow on real activations.
    let grouped = x.to_dtype(DType::F32)?.reshape((batch, (), groups, channels / groups))?; // [B, N, G, C/G]
    let centred = grouped.broadcast_sub(&grouped.mean_keepdim((1, 3))?)?;
    let variance = centred.sqr()?.mean_keepdim((1, 3))?;
    let scale = (variance + eps)?.sqrt()?.recip()?;
    let normed = centred.broadcast_mul(&scale)?.reshape(shape)?.to_dtype(dtype)?;
    let y = normed.broadcast_mul(weight)?.broadcast_add(bias)?;
    Ok(if silu { y.silu()? } else { y })
}

/// Layer norm over the last dimension.
pub(super) fn layer_norm(
    x: &Tensor,
    (weight, bias): (&Tensor, &Tensor),
    eps: f64,
) -> Result<Tensor> {
    let x = x.contiguous()?;
    #[cfg(feature = "cuda")]
    if x.device().is_cuda() {
        return Ok(cuda::layer_norm(&x, (weight, bias), eps)?);
    }
    Ok(candle_nn::ops::layer_norm(&x, weight, bias, eps as f32)?)
}

/// x·Wᵀ over the last dimension; leading dimensions are folded into one large product.
pub(super) fn multiply(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    let mut shape = x.dims().to_vec();
    let inputs = shape.pop().unwrap_or(1);
    shape.push(weight.dim(0)?);
    Ok(x.reshape(((), inputs))?.matmul(&weight.t()?)?.reshape(shape)?)
}

/// Reorders a kernel `[outputs, inputs, k, k]` to the layout of [`convolve`]; a matrix is a kernel of 1×1.
///
/// # Errors
/// For a tensor of another rank.
pub(super) fn kernel(weight: &Tensor) -> Result<Tensor> {
    let weight = match weight.rank() {
        2 => weight.unsqueeze(2)?.unsqueeze(3)?,
        _ => weight.clone(),
    };
    let kernel = weight.permute((0, 2, 3, 1))?;
    // One number in all places, as in a blueprint, takes no memory.
    let mut strides = kernel.stride().iter().zip(kernel.dims());
    if strides.all(|(stride, side)| *stride == 0 || *side == 1) {
        return Ok(kernel);
    }
    // No copy is made of a weight that lies in this order already.
    Ok(kernel.contiguous()?)
}

/// Convolution of `[B, H, W, C]` with a kernel `[outputs, k, k, C]`.
pub(super) fn convolve(x: &Tensor, kernel: &Tensor, geometry: Geometry) -> Result<Tensor> {
    let Geometry { padding, stride, far, .. } = geometry;
    if geometry == Geometry::POINT {
        return multiply(x, &kernel.flatten_from(1)?);
    }
    if far != padding {
        let x = x.pad_with_zeros(1, padding, far)?.pad_with_zeros(2, padding, far)?;
        return convolve(&x.contiguous()?, kernel, Geometry { padding: 0, far: 0, ..geometry });
    }
    #[cfg(feature = "cudnn")]
    if x.device().is_cuda() && (x.dtype() != DType::F32 || Rounding::is_allowed()) {
        return Ok(cuda::convolve(x, kernel, stride, padding)?);
    }
    #[cfg(feature = "cuda")]
    if x.device().is_cuda() {
        return Ok(cuda::convolve_unfolded(x, kernel, stride, padding)?);
    }
    let first = |t: &Tensor| t.permute((0, 3, 1, 2))?.contiguous();
    let y = first(x)?.conv2d(&first(kernel)?, padding, stride, 1, 1)?;
    Ok(y.permute((0, 2, 3, 1))?.contiguous()?)
}

/// What is added to a product.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Added<'a> {
    /// A bias `[C]` that is added to every pixel.
    pub bias: Option<&'a Tensor>,
    /// A shift `[B, C]`, one for each image, that is added to every pixel of the image.
    pub shift: Option<&'a Tensor>,
    /// A tensor of the product's shape that is added to it.
    pub tensor: Option<&'a Tensor>,
}

/// Computes (x + `added`) · `scale`.
pub(super) fn finish(x: Tensor, added: Added<'_>, scale: f64) -> Result<Tensor> {
    let Added { bias, shift, tensor } = added;
    if bias.is_none() && shift.is_none() && tensor.is_none() && scale == 1.0 {
        return Ok(x);
    }
    #[cfg(feature = "cuda")]
    if x.device().is_cuda() {
        return Ok(cuda::finish(&x, bias, shift, tensor, scale)?);
    }
    let x = bias.map_or(Ok(x.clone()), |bias| x.broadcast_add(bias))?;
    let x = match shift {
        Some(shift) => {
            let mut sides = vec![1; x.rank()];
            (sides[0], sides[x.rank() - 1]) = shift.dims2()?;
            x.broadcast_add(&shift.reshape(sides)?)?
        }
        None => x,
    };
    let x = tensor.map_or(Ok(x.clone()), |tensor| tensor + &x)?;
    Ok(if scale == 1.0 { x } else { (x * scale)? })
}

/// Gated GELU, Shazeer (2020): value · GELU(gate) of x + bias, the halves of the last dimension in this order.
///
/// `x`: `[.., 2·D]`, `bias`: `[2·D]`. Returns `[.., D]`.
pub(super) fn gated(x: &Tensor, bias: &Tensor) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if x.device().is_cuda() {
        return Ok(cuda::gated(x, bias)?);
    }
    let x = x.broadcast_add(bias)?;
    let half = x.dim(D::Minus1)? / 2;
    let gate = x.narrow(D::Minus1, half, half)?.contiguous()?.gelu_erf()?;
    Ok((x.narrow(D::Minus1, 0, half)? * gate)?)
}

/// GELU: exact (erf), or OpenAI's quick form x·σ(1.702·x).
pub(super) fn gelu(x: &Tensor, quick: bool) -> Result<Tensor> {
    if quick { Ok((x * candle_nn::ops::sigmoid(&(x * 1.702)?)?)?) } else { Ok(x.gelu_erf()?) }
}

/// Images grown to height and width by nearest neighbours.
pub(super) fn upsample_to(x: &Tensor, (height, width): (usize, usize)) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if x.device().is_cuda() {
        return Ok(cuda::upsample_to(x, (height, width))?);
    }
    let x = x.permute((0, 3, 1, 2))?.contiguous()?.upsample_nearest2d(height, width)?;
    Ok(x.permute((0, 2, 3, 1))?.contiguous()?)
}

/// softmax(q·kᵀ/√K + mask)·v over `heads` heads.
///
/// `q`: `[B, N, D]`; `k`, `v`: `[B, T, D]`; `mask`: `[N, T]`, added to the scores. Returns `[B, N, D]`.
pub(super) fn attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    heads: usize,
    mask: Option<&Tensor>,
) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if q.device().is_cuda()
        && mask.is_none()
        && let Some(y) = cuda::attention(q, k, v, heads)?
    {
        return Ok(y);
    }
    scored(q, k, v, heads, mask)
}

#[cfg(test)]
mod tests;
