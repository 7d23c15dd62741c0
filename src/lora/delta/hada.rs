//! LoHa: ΔW = (w1a · w1b) ⊙ (w2a · w2b).
//!
//! # Source
//! Hyeon-Woo et al. (2022), FedPara; LyCORIS 4.1.3, whose forward is followed (its merge applies the
//! scale twice).

use super::{product, transposed, tucker};
use crate::error::Result;
use crate::lora::factor::Factor;

/// Both halves; with cores the factors are transposed and convolutions decomposed.
#[derive(Debug, Clone)]
pub(crate) struct Hada {
    pub(crate) first: Half,
    pub(crate) second: Half,
}

/// One of the two low-rank matrices.
#[derive(Debug, Clone)]
pub(crate) struct Half {
    /// `[out, R]`, or `[R, out]` beside a core.
    pub(crate) a: Factor,
    /// `[R, in·k]`, or `[R, in]` beside a core.
    pub(crate) b: Factor,
    /// `[R, R, kh, kw]`.
    pub(crate) core: Option<Factor>,
}

impl Half {
    fn rank(&self) -> usize {
        self.b.dim(0)
    }

    fn matrix(&self) -> Result<Vec<f32>> {
        let (a, b, rank) = (self.a.read()?, self.b.read()?, self.rank());
        match &self.core {
            Some(core) => {
                let left = transposed(&a, rank); // [out, R]
                Ok(tucker(&left, &core.read()?, &b, (rank, rank)))
            }
            None => Ok(product(&a, &b, rank)),
        }
    }

    fn fits(&self, shape: &[usize]) -> bool {
        let rank = self.rank();
        let kernel: usize = shape.iter().skip(2).product();
        let outputs = shape.first().copied().unwrap_or(1);
        let columns: usize = shape.iter().skip(1).product();
        match &self.core {
            Some(core) => {
                self.a.shape() == [rank, outputs]
                    && self.b.columns().checked_mul(kernel) == Some(columns)
                    && core.dim(0) == rank
                    && core.dim(1) == rank
                    && core.has_kernel(shape)
                    && core.columns() == rank * kernel
            }
            None => {
                self.a.shape() == [outputs, rank]
                    && self.b.has_kernel(shape)
                    && self.b.columns() == columns
            }
        }
    }

    fn factors(&self) -> impl Iterator<Item = &Factor> {
        [&self.a, &self.b].into_iter().chain(&self.core)
    }
}

impl Hada {
    pub(crate) fn rank(&self) -> usize {
        self.first.rank()
    }

    pub(crate) fn factors(&self) -> Vec<&Factor> {
        self.first.factors().chain(self.second.factors()).collect()
    }

    pub(crate) fn misfit(&self, shape: &[usize]) -> Option<String> {
        if self.first.fits(shape) && self.second.fits(shape) {
            return None;
        }
        let shapes: Vec<_> = self.factors().into_iter().map(Factor::shape).collect();
        Some(format!("the hada factors' shapes {shapes:?} do not make the weight's {shape:?}"))
    }

    pub(super) fn add_to(&self, target: &mut [f32], amount: f32) -> Result<()> {
        let (first, second) = (self.first.matrix()?, self.second.matrix()?);
        for ((t, a), b) in target.iter_mut().zip(&first).zip(&second) {
            *t += amount * (a * b);
        }
        Ok(())
    }
}
