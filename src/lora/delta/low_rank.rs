//! LoRA, LoCon and DyLoRA: ΔW = up · down, one product for linear layers and convolutions.

use super::{add, product, with_core};
use crate::error::{Error, Result};
use crate::kernels::add_product;
use crate::lora::factor::Factor;
use crate::weights::{Branch, FactorKind, Factors};
use candle_core::{Device, Tensor};
use std::sync::Arc;

/// Two factors, perhaps with a core (Tucker) or single elements added (sparse residual).
#[derive(Debug, Clone)]
pub(crate) struct LowRank {
    pub(crate) down: Factor,
    pub(crate) up: Factor,
    pub(crate) mid: Option<Factor>,
    pub(crate) sparse: Option<Sparse>,
}

/// Elements that an extraction found outside of the low rank, added before the scale.
#[derive(Debug, Clone)]
pub(crate) struct Sparse {
    /// `[2, n]`: rows, then columns.
    pub(crate) indices: Factor,
    /// `[n]`.
    pub(crate) values: Factor,
}

/// Factors as plain matrices: `up [outputs, rank]`, `down [rank, columns]`.
#[derive(Debug)]
pub(crate) struct Matrices {
    pub(crate) up: Vec<f32>,
    pub(crate) down: Vec<f32>,
    pub(crate) rank: usize,
}

impl LowRank {
    pub(crate) fn rank(&self) -> usize {
        self.down.dim(0)
    }

    /// Whether the change is of a k×k kernel.
    pub(crate) fn is_conv(&self) -> bool {
        let kernel = |factor: &Factor| factor.dim(2) * factor.dim(3) > 1;
        kernel(&self.down) || kernel(&self.up) || self.mid.is_some()
    }

    /// Some extractions put the kernel into `up`: up `[o, r, h, w]`, down `[r, i]`.
    pub(crate) fn is_reversed(&self) -> bool {
        self.up.shape().len() == 4 && self.up.dim(2) * self.up.dim(3) > 1
    }

    pub(crate) fn factors(&self) -> Vec<&Factor> {
        let sparse = self.sparse.iter().flat_map(|s| [&s.indices, &s.values]);
        [&self.down, &self.up].into_iter().chain(&self.mid).chain(sparse).collect()
    }

    /// What is wrong with the factors whatever the weight is; `None` when they belong together.
    pub(crate) fn contradiction(&self) -> Option<String> {
        let (down, up) = (self.down.shape(), self.up.shape());
        (self.up.dim(1) != self.rank())
            .then(|| format!("the ranks differ: down has shape {down:?}, up {up:?}"))
    }

    /// What is wrong with the shapes for a weight of `shape`; `None` when they fit.
    pub(crate) fn misfit(&self, shape: &[usize]) -> Option<String> {
        let (rank, outputs) = (self.rank(), shape.first().copied().unwrap_or(1));
        let columns: usize = shape.iter().skip(1).product();
        let kernel: usize = shape.iter().skip(2).product();
        let (down, up) = (self.down.shape(), self.up.shape());
        let times_kernel = |factor: &Factor| factor.columns().checked_mul(kernel) == Some(columns);
        let fits = match &self.mid {
            Some(mid) => {
                mid.dim(0) == rank
                    && mid.dim(1) == rank
                    && mid.has_kernel(shape)
                    && mid.columns() == rank * kernel
                    && times_kernel(&self.down)
                    && self.up.columns() == rank
            }
            None if self.is_reversed() => {
                self.up.has_kernel(shape)
                    && self.up.columns() == rank * kernel
                    && times_kernel(&self.down)
            }
            None => {
                self.down.has_kernel(shape)
                    && self.down.columns() == columns
                    && self.up.columns() == rank
            }
        };
        if fits && self.up.dim(0) == outputs {
            return None;
        }
        let mid = self.mid.as_ref().map(|mid| format!(", mid {:?}", mid.shape()));
        let mid = mid.unwrap_or_default();
        Some(format!(
            "its shapes (down {down:?}, up {up:?}{mid}) do not make the weight's {shape:?}"
        ))
    }

    /// The factors as matrices; `None` when the product has no such form.
    pub(crate) fn matrices(&self) -> Result<Option<Matrices>> {
        if self.is_reversed() || self.sparse.is_some() {
            return Ok(None);
        }
        let (down, up, rank) = (self.down.read()?, self.up.read()?, self.rank());
        let down = match &self.mid {
            Some(mid) => with_core(&mid.read()?, &down, (rank, rank)),
            None => down,
        };
        Ok(Some(Matrices { up, down, rank }))
    }

    pub(super) fn add_to(&self, target: &mut [f32], shape: &[usize], amount: f32) -> Result<()> {
        let columns: usize = shape.iter().skip(1).product();
        if let Some(Matrices { up, down, .. }) = self.matrices()? {
            add_product(target, columns, &up, &down, amount);
            return Ok(());
        }
        if self.is_reversed() {
            self.add_reversed(target, shape, amount)?;
        } else {
            add_product(target, columns, &self.up.read()?, &self.down.read()?, amount);
        }
        match &self.sparse {
            Some(sparse) => sparse.add_to(target, columns, amount),
            None => Ok(()),
        }
    }

    /// ΔW[o,i,k] = Σ_r up[o,r,k] · down[r,i].
    fn add_reversed(&self, target: &mut [f32], shape: &[usize], amount: f32) -> Result<()> {
        let (up, down, rank) = (self.up.read()?, self.down.read()?, self.rank());
        let (outputs, kernel) = (self.up.dim(0), shape.iter().skip(2).product::<usize>());
        for k in 0..kernel {
            let taps: Vec<f32> = (0..outputs * rank).map(|or| up[or * kernel + k]).collect();
            let plane = product(&taps, &down, rank); // [outputs, inputs]
            for (oi, value) in plane.iter().enumerate() {
                target[oi * kernel + k] += amount * value;
            }
        }
        Ok(())
    }

    /// The branch that adds the same at run time; `None` when there is none of that form.
    ///
    /// `identity`: of the factors, among those of all files. `scale`: multiplier · alpha / rank.
    pub(crate) fn branch(&self, identity: String, scale: f32) -> Option<Branch> {
        if self.is_reversed() || self.sparse.is_some() {
            return None;
        }
        let factors = Named { identity, product: self.clone() };
        Some(Branch { factors: Arc::new(factors), scale })
    }

    fn factor(&self, kind: FactorKind) -> Option<&Factor> {
        match kind {
            FactorKind::Down => Some(&self.down),
            FactorKind::Mid => self.mid.as_ref(),
            FactorKind::Up => Some(&self.up),
        }
    }
}

/// A product whose factors a layer will read.
#[derive(Debug)]
struct Named {
    identity: String,
    product: LowRank,
}

impl Factors for Named {
    fn identity(&self) -> &str {
        &self.identity
    }

    fn shape(&self, kind: FactorKind) -> Option<&[usize]> {
        self.product.factor(kind).map(Factor::shape)
    }

    fn read(&self, kind: FactorKind) -> Result<Tensor> {
        let factor = self.product.factor(kind).ok_or_else(|| {
            Error::Internal(format!("the branch `{}` has no factor {kind:?}", self.identity))
        })?;
        Ok(Tensor::from_vec(factor.read()?, factor.shape(), &Device::Cpu)?)
    }
}

impl Sparse {
    fn add_to(&self, target: &mut [f32], columns: usize, amount: f32) -> Result<()> {
        let (indices, values) = (self.indices.read()?, self.values.read()?);
        let (rows, places) = indices.split_at(values.len().min(indices.len()));
        for ((row, column), value) in rows.iter().zip(places).zip(&values) {
            // Indices outside of the weight were refused when the file was opened.
            if let Some(t) = target.get_mut(*row as usize * columns + *column as usize) {
                add(std::slice::from_mut(t), &[*value], amount);
            }
        }
        Ok(())
    }

    /// What is wrong with the indices for a weight of `shape`; `None` when nothing is.
    pub(crate) fn misfit(&self, shape: &[usize]) -> Result<Option<String>> {
        let count = self.values.elements();
        if self.indices.shape() != [2, count] {
            let (found, values) = (self.indices.shape(), self.values.shape());
            return Ok(Some(format!(
                "bias_indices has shape {found:?} for bias_values {values:?}"
            )));
        }
        let indices = self.indices.read()?;
        let limits = [shape.first().copied().unwrap_or(1), shape.iter().skip(1).product()];
        let inside = |(at, value): (usize, &f32)| {
            *value >= 0.0 && (*value as usize) < limits[usize::from(at >= count)]
        };
        let fits = indices.iter().enumerate().all(inside);
        Ok((!fits).then(|| format!("bias_indices reaches beyond the weight's shape {shape:?}")))
    }
}
