//! Scaled dot-product attention of plain tensors, by products and a softmax.

use crate::error::Result;
use candle_core::{DType, Device, Tensor};

/// Most score entries held at once (f32: 256 MiB); larger attentions go in slices of queries.
const MAX_SCORES: usize = 64 << 20;

/// softmax(q·kᵀ/√K + mask)·v over `heads` heads.
///
/// `q`: `[B, N, D]`; `k`, `v`: `[B, T, D]`; `mask`: `[N, T]`, added to the scores. Returns
/// `[B, N, D]`.
pub(super) fn scored(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    heads: usize,
    mask: Option<&Tensor>,
) -> Result<Tensor> {
    let (batch, queries, width) = q.dims3()?;
    let keys = k.dim(1)?;
    let head_width = width / heads;
    let split = |x: &Tensor, tokens: usize| -> Result<Tensor> {
        let x = x.reshape((batch, tokens, heads, head_width))?.transpose(1, 2)?;
        Ok(x.reshape((batch * heads, tokens, head_width))?) // [B·A, N, K]
    };
    let scale = 1.0 / (head_width as f64).sqrt();
    let q = (split(q, queries)? * scale)?;
    let k = split(k, keys)?.t()?; // [B·A, K, T]
    let v = split(v, keys)?;
    let slice = (MAX_SCORES / (batch * heads * keys).max(1)).clamp(1, queries.max(1));
    let mut parts = Vec::with_capacity(queries.div_ceil(slice));
    for start in (0..queries).step_by(slice) {
        let count = slice.min(queries - start);
        let scores = q.narrow(1, start, count)?.contiguous()?.matmul(&k)?; // [B·A, n, T]
        let scores = match mask {
            Some(mask) => scores.broadcast_add(&mask.narrow(0, start, count)?)?,
            None => scores,
        };
        parts.push(softmax(&scores)?.matmul(&v)?);
    }
    let out = if parts.len() == 1 { parts.remove(0) } else { Tensor::cat(&parts, 1)? };
    let out = out.reshape((batch, heads, queries, head_width))?.transpose(1, 2)?;
    Ok(out.reshape((batch, queries, width))?)
}

/// How much each key is looked at by all queries, the mean over the heads: `[B, T]`, f32.
///
/// `q`: `[B, N, D]`; `k`: `[B, T, D]`.
pub(super) fn looked_at(q: &Tensor, k: &Tensor, heads: usize) -> Result<Tensor> {
    let (batch, _, width) = q.dims3()?;
    let split = |x: &Tensor| -> Result<Tensor> {
        let tokens = x.dim(1)?;
        let x = x.to_dtype(DType::F32)?.reshape((batch, tokens, heads, width / heads))?;
        Ok(x.transpose(1, 2)?.contiguous()?) // [B, A, N, K]
    };
    let scale = 1.0 / ((width / heads) as f64).sqrt();
    let (q, k) = ((split(q)? * scale)?, split(k)?.t()?.contiguous()?);
    let mut sum: Option<Tensor> = None;
    for head in 0..heads {
        let one = |x: &Tensor| x.narrow(1, head, 1)?.squeeze(1)?.contiguous();
        let seen = softmax(&one(&q)?.matmul(&one(&k)?)?)?.sum(1)?; // [B, T]
        sum = Some(match sum {
            Some(sum) => (sum + seen)?,
            None => seen,
        });
    }
    let sum = sum.ok_or_else(|| crate::Error::Internal("an attention without heads".into()))?;
    Ok((sum / heads as f64)?)
}

/// Softmax over the last dimension, in f32.
fn softmax(scores: &Tensor) -> Result<Tensor> {
    let dtype = scores.dtype();
    let scores = scores.to_dtype(DType::F32)?;
    Ok(candle_nn::ops::softmax_last_dim(&scores)?.to_dtype(dtype)?)
}

/// A mask that hides later tokens: `[tokens, tokens]`, 0 or −∞.
pub(super) fn causal_mask(tokens: usize, dtype: DType, device: &Device) -> Result<Tensor> {
    let mask: Vec<f32> = (0..tokens)
        .flat_map(|i| (0..tokens).map(move |j| if j > i { f32::NEG_INFINITY } else { 0.0 }))
        .collect();
    Ok(Tensor::from_vec(mask, (tokens, tokens), device)?.to_dtype(dtype)?)
}
