//! GLoRA: ΔW = W · A + B with low-rank A and B; the weight itself takes part.
//!
//! # Source
//! Chavan et al. (2023); LyCORIS 4.1.3 for today's layout, its versions before 1.9 for the old one.

use super::{product, tucker};
use crate::error::Result;
use crate::kernels::add_product;
use crate::lora::factor::Factor;

/// The four factors, in either layout.
#[derive(Debug, Clone)]
pub(crate) struct Glora {
    pub(crate) a1: Factor,
    pub(crate) a2: Factor,
    pub(crate) b1: Factor,
    pub(crate) b2: Factor,
    /// Core of the B path.
    pub(crate) core: Option<Factor>,
}

impl Glora {
    /// Today's layout has a1 `[in, R]`; the old one a1 `[R, in]`. A square one is today's.
    fn is_old(&self, inputs: usize) -> bool {
        self.a1.dim(0) != inputs
    }

    pub(crate) fn rank(&self) -> usize {
        // Ranks are smaller than widths.
        self.a1.dim(0).min(self.a1.dim(1))
    }

    pub(crate) fn factors(&self) -> Vec<&Factor> {
        [&self.a1, &self.a2, &self.b1, &self.b2].into_iter().chain(&self.core).collect()
    }

    pub(crate) fn misfit(&self, shape: &[usize]) -> Option<String> {
        let outputs = shape.first().copied().unwrap_or(1);
        let inputs = shape.get(1).copied().unwrap_or(1);
        let columns: usize = shape.iter().skip(1).product();
        let kernel: usize = shape.iter().skip(2).product();
        let is = |factor: &Factor, rows: usize, columns: usize| {
            factor.dim(0) == rows && factor.columns() == columns
        };
        let fits = if self.is_old(inputs) {
            let (rank, low) = (self.a1.dim(0), self.b1.dim(0));
            is(&self.a1, rank, columns)
                && is(&self.a2, columns, rank)
                && is(&self.b1, low, columns)
                && self.b1.has_kernel(shape)
                && is(&self.b2, outputs, low)
                && self.core.is_none()
        } else {
            let (rank, low) = (self.a2.dim(0), self.b2.dim(0));
            let last = if self.core.is_some() { inputs } else { columns };
            let core = self.core.as_ref().is_none_or(|core| {
                core.dim(0) == low
                    && core.dim(1) == low
                    && core.has_kernel(shape)
                    && core.columns() == low * kernel
            });
            is(&self.a1, inputs, rank)
                && is(&self.a2, rank, inputs)
                && is(&self.b1, outputs, low)
                && is(&self.b2, low, last)
                && (self.core.is_some() || self.b2.has_kernel(shape))
                && core
        };
        let shapes: Vec<_> = self.factors().into_iter().map(Factor::shape).collect();
        (!fits).then(|| format!("the glora factors' shapes {shapes:?} do not fit {shape:?}"))
    }

    /// target ← target + amount · ΔW(base).
    pub(super) fn add_to(
        &self,
        base: &[f32],
        shape: &[usize],
        target: &mut [f32],
        amount: f32,
    ) -> Result<()> {
        let inputs = shape.get(1).copied().unwrap_or(1);
        let columns: usize = shape.iter().skip(1).product();
        let (a1, a2, b1, b2) = (self.a1.read()?, self.a2.read()?, self.b1.read()?, self.b2.read()?);
        if self.is_old(inputs) {
            let mixed = product(base, &a2, columns); // [out, R]
            add_product(target, columns, &mixed, &a1, amount);
            add_product(target, columns, &b2, &b1, amount);
            return Ok(());
        }
        let map = product(&a1, &a2, self.a2.dim(0)); // [in, in]
        add_mapped(base, &map, inputs, columns / inputs.max(1), target, amount);
        let rank = self.b2.dim(0);
        match &self.core {
            Some(core) => {
                let low = tucker(&b1, &core.read()?, &b2, (rank, rank));
                super::add(target, &low, amount);
            }
            None => add_product(target, columns, &b1, &b2, amount),
        }
        Ok(())
    }
}

/// target[o,j,k] += amount · Σ_i base[o,i,k] · map[i,j].
fn add_mapped(
    base: &[f32],
    map: &[f32],
    inputs: usize,
    kernel: usize,
    target: &mut [f32],
    amount: f32,
) {
    for k in 0..kernel {
        let plane: Vec<f32> = base.iter().skip(k).step_by(kernel).copied().collect(); // [out, in]
        let mapped = product(&plane, map, inputs);
        for (t, value) in target.iter_mut().skip(k).step_by(kernel).zip(&mapped) {
            *t += amount * value;
        }
    }
}
