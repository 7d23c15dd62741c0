//! Floor 1. Group norm, optionally followed by SiLU.

use super::slice;
use super::vector::{moments, scale_shift};
use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

/// Group norm over channels and space, Wu and He (2018).
///
/// `x`: `[B, C, ..]`; `weight`, `bias`: `[C]`. Statistics are accumulated in f64.
pub(crate) fn group_norm(
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    groups: usize,
    eps: f64,
    silu: bool,
) -> Result<Tensor> {
    let op = GroupNorm { groups, eps, silu };
    x.contiguous()?.apply_op3_no_bwd(&weight.contiguous()?, &bias.contiguous()?, &op)
}

struct GroupNorm {
    groups: usize,
    eps: f64,
    silu: bool,
}

impl CustomOp3 for GroupNorm {
    fn name(&self) -> &'static str {
        "colora-group-norm"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
        s3: &CpuStorage,
        l3: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, weight, bias) = (slice(s1, l1)?, slice(s2, l2)?, slice(s3, l3)?);
        let dims = l1.shape().dims();
        let channels = dims.get(1).copied().unwrap_or(0);
        let fits = self.groups > 0
            && channels > 0
            && channels % self.groups == 0
            && weight.len() == channels
            && bias.len() == channels;
        if !fits {
            candle_core::bail!("group norm: {:?} in {} groups", l1.shape(), self.groups);
        }
        let pixels: usize = dims[2..].iter().product();
        let width = channels / self.groups;
        let mut out = vec![0f32; x.len()];
        let size = (width * pixels).max(1);
        out.par_chunks_mut(size).zip(x.par_chunks(size)).enumerate().for_each(|(index, (y, x))| {
            let first = index % self.groups * width;
            let (mean, variance) = moments(x);
            let scale = 1.0 / (variance + self.eps).sqrt();
            for (j, (y, x)) in y.chunks_mut(pixels.max(1)).zip(x.chunks(pixels.max(1))).enumerate()
            {
                let a = scale * f64::from(weight[first + j]);
                let b = f64::from(bias[first + j]) - mean * a;
                scale_shift(x, y, a as f32, b as f32, self.silu);
            }
        });
        Ok((CpuStorage::F32(out), l1.shape().clone()))
    }
}
