//! How the weights of tokens act on their features.

use super::chunks::Chunk;
use crate::error::Result;
use crate::prompt::{Emphasis, PromptSyntax};
use candle_core::{DType, Tensor};

/// The features of one chunk of a text, and its weights.
pub(super) struct Weighted {
    /// `[T, D]`, row by row.
    features: Vec<f32>,
    /// One a row: start, end and padding have 1.
    weights: Vec<f32>,
    /// How often the text comes in its schedule.
    count: f64,
}

impl Weighted {
    /// The features `hidden`, `[T, D]`, of `chunk`.
    pub(super) fn new(hidden: &Tensor, chunk: &Chunk, count: usize) -> Result<Self> {
        let rows = hidden.dim(0)?;
        let mut weights = vec![1.0];
        weights.extend(&chunk.weights);
        weights.resize(rows, 1.0);
        let features = hidden.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
        Ok(Self { features, weights, count: count as f64 })
    }

    /// Sums of the features, as they are and times their weights.
    fn sums(&self) -> (f64, f64) {
        let width = self.width();
        let rows = self.features.chunks(width).zip(&self.weights);
        rows.fold((0.0, 0.0), |(plain, weighted), (row, weight)| {
            let sum: f64 = row.iter().map(|x| f64::from(*x)).sum();
            let product: f64 = row.iter().map(|x| f64::from(x * weight)).sum();
            (plain + self.count * sum, weighted + self.count * product)
        })
    }

    /// The features, row by row.
    pub(super) fn features(&self) -> &[f32] {
        &self.features
    }

    fn width(&self) -> usize {
        (self.features.len() / self.weights.len().max(1)).max(1)
    }

    /// The features with their weights, like `hidden`.
    pub(super) fn into_tensor(self, hidden: &Tensor) -> Result<Tensor> {
        let tensor = Tensor::from_vec(self.features, hidden.shape(), hidden.device())?;
        Ok(tensor.to_dtype(hidden.dtype())?)
    }
}

/// Applies the weights to the same chunk of several texts that follow each other in one prompt's schedule.
///
/// A1111: every feature times its weight, and all of them scaled so that their mean over all texts stays, unless `emphasis`
/// leaves that out. ComfyUI:
/// `e + (z - e) * w`, where `empty` holds `e`, the features of the empty text.
pub(super) fn apply(
    texts: &mut [Weighted],
    syntax: PromptSyntax,
    emphasis: Emphasis,
    empty: Option<&[f32]>,
) {
    if texts.iter().all(|text| text.weights.iter().all(|weight| is_one(*weight))) {
        return;
    }
    match (syntax, empty) {
        (PromptSyntax::A1111, _) if emphasis == Emphasis::NoNorm => {
            for text in &mut *texts {
                text.each(|x, weight, _| x * weight);
            }
        }
        (PromptSyntax::A1111, _) => {
            let (mut plain, mut weighted) = (0.0, 0.0);
            for (a, b) in texts.iter().map(Weighted::sums) {
                plain += a;
                weighted += b;
            }
            let kept = (plain / weighted) as f32;
            // A mean of nothing cannot be kept.
            let kept = if kept.is_finite() { kept } else { 1.0 };
            for text in texts {
                text.each(|x, weight, _| x * weight * kept);
            }
        }
        (PromptSyntax::Comfy, Some(empty)) => {
            for text in texts {
                let interpolated = |x: f32, weight: f32, place: usize| {
                    if is_one(weight) { x } else { empty[place] + (x - empty[place]) * weight }
                };
                text.each(interpolated);
            }
        }
        _ => {}
    }
}

impl Weighted {
    /// Replaces each feature by what `change` makes of it, its weight and its place.
    fn each(&mut self, change: impl Fn(f32, f32, usize) -> f32) {
        let width = self.width();
        for (place, x) in self.features.iter_mut().enumerate() {
            *x = change(*x, self.weights[place / width], place);
        }
    }
}

/// Whether a weight leaves its features alone.
#[allow(clippy::float_cmp)] // that is what is meant
pub(super) fn is_one(weight: f32) -> bool {
    weight == 1.0
}
