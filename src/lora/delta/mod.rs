//! The change that an adapter makes to one weight: one file for each kind of adapter.
//!
//! All algebra is f32 whatever the file or the model holds. Kinds differ in two ways: *additive* ones
//! change a weight by the same matrix whatever the weight is, in proportion to the multiplier; the
//! others are functions of the pristine weight.

mod dora;
mod glora;
mod hada;
mod ia3;
mod kron;
mod low_rank;
mod rotation;

pub(super) use dora::{Dora, Norms};
pub(super) use glora::Glora;
pub(super) use hada::{Hada, Half};
pub(super) use ia3::Ia3;
pub(super) use kron::{Kron, Side};
pub(super) use low_rank::{LowRank, Matrices, Sparse};
pub(super) use rotation::{InputLaw, Rotation, several_butterflies};

use super::factor::Factor;
use crate::error::Result;
use std::sync::Arc;

/// How strongly a change acts.
#[derive(Debug, Clone, Copy)]
pub(in crate::lora) struct Amount {
    /// Alpha / rank, where the kind has one; else 1.
    pub(in crate::lora) scale: f32,
    /// The multiplier of the adapter for the module.
    pub(in crate::lora) m: f32,
}

/// One kind of change, with the tensors that hold it.
#[derive(Debug, Clone)]
pub(super) enum Delta {
    /// LoRA, LoCon, DyLoRA: up · down, perhaps with a core between them.
    LowRank(LowRank),
    /// LoHa: the elementwise product of two low-rank matrices.
    Hada(Hada),
    /// LoKr: a Kronecker product.
    Kron(Kron),
    /// GLoRA: a low-rank map of the weight's inputs, and a low-rank matrix.
    Glora(Glora),
    /// IA3: a factor for each row or column.
    Ia3(Ia3),
    /// OFT and BOFT: blocks of rows or columns are rotated.
    Rotation(Rotation),
    /// A whole difference: full diffs, norms, biases.
    Full(Factor),
    /// A whole weight that replaces the base's.
    Set(Factor),
    /// Some rows of a table that replace the base's (PEFT's trained tokens).
    Rows { values: Factor, rows: Arc<[usize]> },
    /// PEFT's LoRA of an embedding table: (up · down)ᵀ.
    Table { down: Factor, up: Factor },
    /// Nothing but a DoRA magnitude.
    Magnitude,
}

impl Delta {
    /// Whether the change is the same whatever the base is, and proportional to the multiplier.
    pub(super) fn is_additive(&self) -> bool {
        match self {
            Delta::LowRank(_)
            | Delta::Hada(_)
            | Delta::Kron(_)
            | Delta::Full(_)
            | Delta::Table { .. }
            | Delta::Magnitude => true,
            Delta::Glora(_)
            | Delta::Ia3(_)
            | Delta::Rotation(_)
            | Delta::Set(_)
            | Delta::Rows { .. } => false,
        }
    }

    /// The word for this kind.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Delta::LowRank(low) if low.is_conv() => "locon",
            Delta::LowRank(_) | Delta::Table { .. } => "lora",
            Delta::Hada(_) => "loha",
            Delta::Kron(_) => "lokr",
            Delta::Glora(_) => "glora",
            Delta::Ia3(_) => "ia3",
            Delta::Rotation(rotation) => rotation.kind(),
            Delta::Full(_) => "full",
            Delta::Set(_) => "set",
            Delta::Rows { .. } => "tokens",
            Delta::Magnitude => "dora",
        }
    }

    /// The rank, where there is one.
    pub(super) fn rank(&self) -> Option<usize> {
        match self {
            Delta::LowRank(low) => Some(low.rank()),
            Delta::Hada(hada) => Some(hada.rank()),
            Delta::Kron(kron) => kron.rank(),
            Delta::Glora(glora) => Some(glora.rank()),
            Delta::Table { down, .. } => Some(down.dim(0)),
            _ => None,
        }
    }

    /// Every tensor.
    pub(super) fn factors(&self) -> Vec<&Factor> {
        match self {
            Delta::LowRank(low) => low.factors(),
            Delta::Hada(hada) => hada.factors(),
            Delta::Kron(kron) => kron.factors(),
            Delta::Glora(glora) => glora.factors(),
            Delta::Ia3(ia3) => ia3.factors(),
            Delta::Rotation(rotation) => rotation.factors(),
            Delta::Full(factor) | Delta::Set(factor) => vec![factor],
            Delta::Rows { values, .. } => vec![values],
            Delta::Table { down, up } => vec![down, up],
            Delta::Magnitude => Vec::new(),
        }
    }

    /// target ← target + amount · ΔW, for an additive kind.
    ///
    /// `target`: a weight of `shape`, row-major.
    pub(super) fn add_to(&self, target: &mut [f32], shape: &[usize], amount: f32) -> Result<()> {
        match self {
            Delta::LowRank(low) => low.add_to(target, shape, amount),
            Delta::Hada(hada) => hada.add_to(target, amount),
            Delta::Kron(kron) => kron.add_to(target, amount),
            Delta::Full(factor) => {
                add(target, &factor.read()?, amount);
                Ok(())
            }
            Delta::Table { down, up } => {
                // down [R, vocabulary], up [D, R]; the table is [vocabulary, D].
                let (down, up, rank) = (down.read()?, up.read()?, down.dim(0));
                let (down, up) = (transposed(&down, rank), transposed(&up, shape[1]));
                crate::kernels::add_product(target, shape[1], &down, &up, amount);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// target ← target + (W' − W), for a kind that depends on the weight.
    pub(super) fn change(
        &self,
        base: &[f32],
        shape: &[usize],
        amount: Amount,
        target: &mut [f32],
    ) -> Result<()> {
        let Amount { scale, m } = amount;
        match self {
            Delta::Glora(glora) => glora.add_to(base, shape, target, scale * m),
            Delta::Ia3(ia3) => ia3.change(base, shape, m, target),
            Delta::Rotation(rotation) => {
                let turned = rotation.apply(base, shape, m)?;
                add_difference(target, &turned, base, 1.0);
                Ok(())
            }
            Delta::Set(factor) => {
                // A base that takes more inputs than the new weight has keeps its own for these.
                let (new, theirs) = (factor.columns().max(1), base.len() / factor.dim(0).max(1));
                let rows = target.chunks_mut(theirs.max(1)).zip(base.chunks(theirs.max(1)));
                for ((target, base), to) in rows.zip(factor.read()?.chunks(new)) {
                    add_difference(target, to, base, m);
                }
                Ok(())
            }
            Delta::Rows { values, rows } => {
                let (values, width) = (values.read()?, shape.get(1).copied().unwrap_or(1).max(1));
                for (row, to) in rows.iter().zip(values.chunks(width)) {
                    let place = row * width..(row + 1) * width;
                    if let (Some(target), Some(base)) =
                        (target.get_mut(place.clone()), base.get(place))
                    {
                        add_difference(target, to, base, m);
                    }
                }
                Ok(())
            }
            additive => additive.add_to(target, shape, scale * m),
        }
    }
}

/// target ← target + amount · values.
pub(super) fn add(target: &mut [f32], values: &[f32], amount: f32) {
    target.iter_mut().zip(values).for_each(|(t, v)| *t += amount * v);
}

/// target ← target + amount · (to − from).
pub(super) fn add_difference(target: &mut [f32], to: &[f32], from: &[f32], amount: f32) {
    for ((t, to), from) in target.iter_mut().zip(to).zip(from) {
        *t += amount * (to - from);
    }
}

/// The transpose of a row-major matrix with `rows` rows.
pub(super) fn transposed(matrix: &[f32], rows: usize) -> Vec<f32> {
    let columns = matrix.len().checked_div(rows).unwrap_or(0);
    let mut out = Vec::with_capacity(matrix.len());
    for column in 0..columns {
        out.extend((0..rows).map(|row| matrix[row * columns + column]));
    }
    out
}

/// left · right; `left`: `[rows, inner]`, `right`: `[inner, columns]`, row-major.
fn product(left: &[f32], right: &[f32], inner: usize) -> Vec<f32> {
    let rows = left.len().checked_div(inner).unwrap_or(0);
    let columns = right.len().checked_div(inner).unwrap_or(0);
    let mut out = vec![0.0; rows * columns];
    crate::kernels::add_product(&mut out, columns, left, right, 1.0);
    out
}

/// Σ_pq left[o,p] · core[p,q,k] · right[q,i] as `[o, i, k]`, all row-major.
///
/// `left`: `[outputs, p]`, `core`: `[p, q, k]`, `right`: `[q, inputs]`.
fn tucker(left: &[f32], core: &[f32], right: &[f32], (p, q): (usize, usize)) -> Vec<f32> {
    let inner = with_core(core, right, (p, q));
    product(left, &inner, p)
}

/// Σ_q core[p,q,k] · right[q,i] as `[p, i, k]`.
fn with_core(core: &[f32], right: &[f32], (p, q): (usize, usize)) -> Vec<f32> {
    let kernel = core.len().checked_div(p * q).unwrap_or(0);
    let inputs = right.len().checked_div(q).unwrap_or(0);
    let mut out = vec![0.0; p * inputs * kernel];
    for a in 0..p {
        for b in 0..q {
            let taps = &core[(a * q + b) * kernel..][..kernel];
            for i in 0..inputs {
                let at = (a * inputs + i) * kernel;
                add(&mut out[at..at + kernel], taps, right[b * inputs + i]);
            }
        }
    }
    out
}
