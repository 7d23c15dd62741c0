//! Low-rank branches beside a weight, which are added at run time.

use crate::error::Result;
use candle_core::{DType, Device, Tensor};
use std::sync::Arc;

/// Which factor of a branch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FactorKind {
    /// `[R, in]` or `[R, in, kh, kw]`.
    Down,
    /// `[R, R, kh, kw]`, only for Tucker-decomposed convolutions; then `down` is 1×1.
    Mid,
    /// `[out, R]` or `[out, R, 1, 1]`.
    Up,
}

/// The factors of a branch, read when a layer wants them.
pub trait Factors: std::fmt::Debug + Send + Sync {
    /// Which factors these are, among those of all files.
    fn identity(&self) -> &str;

    /// The shape of a factor; `None` where there is none.
    fn shape(&self, kind: FactorKind) -> Option<&[usize]>;

    /// A factor that there is, in f32 on the CPU.
    ///
    /// # Errors
    /// Errors of reading the file.
    fn read(&self, kind: FactorKind) -> Result<Tensor>;
}

/// One low-rank branch beside a weight: `y += scale · up(mid(down(x)))`.
#[derive(Debug, Clone)]
pub struct Branch {
    /// The factors, which all branches made of the same module share.
    pub factors: Arc<dyn Factors>,
    /// Effective scale: strength · alpha / rank.
    pub scale: f32,
}

/// A [`Branch`] as layers that multiply plain tensors hold it.
#[derive(Debug, Clone)]
pub struct DenseBranch {
    /// The factor [`FactorKind::Down`].
    pub down: Tensor,
    /// The factor [`FactorKind::Mid`], if there is one.
    pub mid: Option<Tensor>,
    /// The factor [`FactorKind::Up`].
    pub up: Tensor,
    /// Effective scale: strength · alpha / rank.
    pub scale: f32,
}

impl Branch {
    /// Channels between the factors.
    pub fn rank(&self) -> usize {
        self.factors.shape(FactorKind::Up).and_then(|up| up.get(1)).copied().unwrap_or(0)
    }

    /// The factors as tensors.
    ///
    /// # Errors
    /// Errors of reading them.
    pub fn dense(&self, dtype: DType, device: &Device) -> Result<DenseBranch> {
        let read = |kind| -> Result<Tensor> {
            Ok(self.factors.read(kind)?.to_dtype(dtype)?.to_device(device)?)
        };
        let mid = self.factors.shape(FactorKind::Mid).map(|_| read(FactorKind::Mid)).transpose()?;
        Ok(DenseBranch {
            down: read(FactorKind::Down)?,
            mid,
            up: read(FactorKind::Up)?,
            scale: self.scale,
        })
    }
}
