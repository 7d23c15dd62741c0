//! What is made for one module, and its tensors in a file.

use super::file::{Entry, FileDtype, Metadata};
use super::spelling;
use crate::error::Result;
use crate::lora::Dictionary;
use crate::lora::apply::spectrum::LowRankFactors;
use crate::weights::Component;
use std::collections::BTreeMap;

/// A new change of one module.
#[derive(Debug, Default)]
pub(super) struct Made {
    /// Factors of the weight's change.
    pub(super) low: Option<LowRankFactors>,
    /// A whole change of the weight, in its shape.
    pub(super) full: Option<Vec<f32>>,
    /// A change of the bias.
    pub(super) bias: Option<Vec<f32>>,
}

impl Made {
    /// Adds the tensors under kohya's names; alpha is the rank, so that nothing is scaled.
    pub(super) fn write(
        &self,
        module: &str,
        base: &Dictionary,
        precision: FileDtype,
        tensors: &mut BTreeMap<String, Entry<'_>>,
    ) -> Result<()> {
        let stem = spelling::kohya(base, module);
        let shape = base.shape(&format!("{module}.weight")).unwrap_or_default();
        let outputs = shape.first().copied().unwrap_or(1);
        let norm = shape.len() == 1;
        let mut put = |word: &str, entry| tensors.insert(format!("{stem}.{word}"), entry);
        if let Some(LowRankFactors { up, down, rank }) = &self.low {
            let ones = vec![1; shape.len().saturating_sub(2)];
            let down_shape = [&[*rank], shape.get(1..).unwrap_or_default()].concat();
            let up_shape = [&[outputs, *rank], &ones[..]].concat();
            put("lora_down.weight", Entry::values(down_shape, precision, down)?);
            put("lora_up.weight", Entry::values(up_shape, precision, up)?);
            put("alpha", Entry::scalar(*rank as f32, precision.dtype()));
        }
        if let Some(full) = &self.full {
            let word = if norm { "w_norm" } else { "diff" };
            put(word, Entry::values(shape.to_vec(), precision, full)?);
        }
        if let Some(bias) = &self.bias {
            let word = if norm { "b_norm" } else { "diff_b" };
            put(word, Entry::values(vec![outputs], precision, bias)?);
        }
        Ok(())
    }
}

/// How much of the changes of one component new factors hold.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize)]
pub struct Kept {
    /// `unet`, `text_encoder` or `text_encoder_2`.
    pub component: String,
    /// Modules with factors.
    pub modules: usize,
    /// Smallest and largest rank.
    pub ranks: (usize, usize),
    /// Share of the squares of all elements, 0 to 1.
    pub energy: f64,
}

/// Sums of the squares of a module's change.
#[derive(Debug, Clone, Copy)]
pub(super) struct Squares {
    /// The sum over the part that the new factors hold.
    pub(super) held: f64,
    /// The sum over the whole change.
    pub(super) all: f64,
}

/// Sums up what modules keep.
#[derive(Debug, Default)]
pub(super) struct Tally(BTreeMap<Component, (Kept, f64, f64)>);

impl Tally {
    /// Counts a module: its new rank, and how much of its change is held.
    pub(super) fn add(&mut self, module: &str, rank: usize, squares: Squares) {
        let component = Component::of(module);
        let (kept, sum, total) = self.0.entry(component).or_default();
        kept.ranks = match kept.modules {
            0 => (rank, rank),
            _ => (kept.ranks.0.min(rank), kept.ranks.1.max(rank)),
        };
        kept.modules += 1;
        *sum += squares.held;
        *total += squares.all;
    }

    /// The components.
    pub(super) fn finish(self) -> Vec<Kept> {
        let finish = |(component, (kept, held, energy)): (Component, (Kept, f64, f64))| {
            let energy = if energy > 0.0 { held / energy } else { 1.0 };
            Kept { component: component.to_string(), energy, ..kept }
        };
        self.0.into_iter().map(finish).collect()
    }
}

/// The metadata that all of `sources` share, and the rank in kohya's entries.
pub(super) fn shared(sources: &[&Metadata], ranks: &[usize]) -> Metadata {
    let Some((first, others)) = sources.split_first() else { return Metadata::new() };
    let mut metadata = (*first).clone();
    metadata.retain(|key, value| others.iter().all(|other| other.get(key) == Some(value)));
    metadata.extend(describe(ranks));
    metadata
}

/// The metadata from which kohya's and other tools read these ranks; alpha is the rank.
pub(super) fn describe(ranks: &[usize]) -> Metadata {
    let (low, high) = (ranks.iter().min(), ranks.iter().max());
    let dim = match (low, high) {
        (Some(low), Some(high)) if low == high => low.to_string(),
        _ => "Dynamic".to_owned(),
    };
    let note = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    Metadata::from([
        note("ss_network_module", "networks.lora"),
        note("ss_network_dim", &dim),
        note("ss_network_alpha", &dim),
    ])
}
