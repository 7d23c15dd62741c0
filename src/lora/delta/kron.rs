//! LoKr: ΔW = w1 ⊗ w2.
//!
//! # Source
//! LyCORIS 4.1.3 and PEFT 0.21; the kernel stays the fastest axis of w2, so the plain Kronecker product
//! of matrices is already in the order of the weight.

use super::{add, product, transposed, tucker};
use crate::error::Result;
use crate::lora::factor::Factor;

/// The two factors, each whole or decomposed.
#[derive(Debug, Clone)]
pub(crate) struct Kron {
    pub(crate) left: Side,
    pub(crate) right: Side,
}

/// One factor of the product.
#[derive(Debug, Clone)]
pub(crate) enum Side {
    Whole(Factor),
    /// a `[p, R]` · b `[R, q·k]`.
    Product {
        a: Factor,
        b: Factor,
    },
    /// a `[R, p]`, b `[R, q]` and a core `[R, R, kh, kw]`.
    Tucker {
        a: Factor,
        b: Factor,
        core: Factor,
    },
}

impl Side {
    /// Rows and columns as a matrix.
    fn size(&self) -> (usize, usize) {
        match self {
            Side::Whole(factor) => (factor.dim(0), factor.columns()),
            Side::Product { a, b } => (a.dim(0), b.columns()),
            Side::Tucker { a, b, core } => (a.dim(1), b.dim(1).saturating_mul(kernel_of(core))),
        }
    }

    pub(crate) fn is_whole(&self) -> bool {
        matches!(self, Side::Whole(_))
    }

    pub(crate) fn rank(&self) -> Option<usize> {
        match self {
            Side::Whole(_) => None,
            Side::Product { b, .. } | Side::Tucker { b, .. } => Some(b.dim(0)),
        }
    }

    /// The tensor whose last dimensions are the weight's kernel, where there is one.
    fn kernel(&self) -> Option<&Factor> {
        match self {
            Side::Whole(factor) => Some(factor),
            Side::Product { .. } => None,
            Side::Tucker { core, .. } => Some(core),
        }
    }

    fn consistent(&self) -> bool {
        match self {
            Side::Whole(_) => true,
            Side::Product { a, b } => a.dim(1) == b.dim(0) && a.shape().len() == 2,
            Side::Tucker { a, b, core } => {
                let rank = b.dim(0);
                a.dim(0) == rank && core.dim(0) == rank && core.dim(1) == rank
            }
        }
    }

    fn matrix(&self) -> Result<Vec<f32>> {
        Ok(match self {
            Side::Whole(factor) => factor.read()?,
            Side::Product { a, b } => product(&a.read()?, &b.read()?, b.dim(0)),
            Side::Tucker { a, b, core } => {
                let rank = b.dim(0);
                let left = transposed(&a.read()?, rank); // [p, R]
                tucker(&left, &core.read()?, &b.read()?, (rank, rank))
            }
        })
    }

    fn factors(&self) -> Vec<&Factor> {
        match self {
            Side::Whole(factor) => vec![factor],
            Side::Product { a, b } => vec![a, b],
            Side::Tucker { a, b, core } => vec![a, b, core],
        }
    }
}

/// Elements of a core's kernel.
fn kernel_of(core: &Factor) -> usize {
    core.shape().iter().skip(2).fold(1, |n, &d| n.saturating_mul(d))
}

impl Kron {
    /// The rank that alpha is divided by: of w2 if it is decomposed, else of w1.
    pub(crate) fn rank(&self) -> Option<usize> {
        self.right.rank().or(self.left.rank())
    }

    pub(crate) fn factors(&self) -> Vec<&Factor> {
        [self.left.factors(), self.right.factors()].concat()
    }

    pub(crate) fn misfit(&self, shape: &[usize]) -> Option<String> {
        let ((p, q), (r, s)) = (self.left.size(), self.right.size());
        let rows = shape.first().copied().unwrap_or(1);
        let columns: usize = shape.iter().skip(1).product();
        // Whichever side carries the kernel, it is the weight's.
        let carried = self.right.kernel().is_none_or(|factor| factor.has_kernel(shape));
        let consistent = self.left.consistent() && self.right.consistent() && carried;
        let fits = p.checked_mul(r) == Some(rows) && q.checked_mul(s) == Some(columns);
        (!fits || !consistent).then(|| {
            format!("the lokr factors make {p}·{r} × {q}·{s}, the weight has shape {shape:?}")
        })
    }

    pub(super) fn add_to(&self, target: &mut [f32], amount: f32) -> Result<()> {
        let ((p, q), (r, s)) = (self.left.size(), self.right.size());
        let (left, right) = (self.left.matrix()?, self.right.matrix()?);
        for i in 0..p {
            for k in 0..r {
                let row = &mut target[(i * r + k) * q * s..][..q * s];
                for j in 0..q {
                    let amount = amount * left[i * q + j];
                    add(&mut row[j * s..(j + 1) * s], &right[k * s..(k + 1) * s], amount);
                }
            }
        }
        Ok(())
    }
}
