//! DoRA: a magnitude of its own for each output or input.
//!
//! V = W + ΔW is normalised along an axis and given the learned magnitudes; at multiplier m the
//! weight becomes W + m · (V̂ − W), which is exact at 0 and 1 (A1111's and ComfyUI's law; PEFT and
//! LyCORIS agree at 1).
//!
//! # Source
//! Liu et al. (2024), DoRA; LyCORIS 4.1.3, PEFT 0.21. Beside a rotation of inputs: OneTrainer's DoRA-OFT, which
//! divides by the norms of the weight that it was trained on, since a rotation keeps them.

use crate::error::Result;
use crate::lora::factor::Factor;

/// The magnitudes and their axis.
#[derive(Debug, Clone)]
pub(crate) struct Dora {
    pub(crate) magnitude: Factor,
    /// Whether there is a magnitude for each input, not for each output.
    pub(crate) on_input: bool,
    pub(crate) norms: Norms,
}

/// The norms that the magnitudes replace.
#[derive(Debug, Clone)]
pub(crate) enum Norms {
    /// Those of V.
    Changed,
    /// Those of W: beside a rotation, which keeps norms (DoRA of a single-file OFT).
    Pristine,
    /// Those of the weight that the adapter was trained on, which its file holds.
    Stored(Factor),
}

impl Dora {
    /// Reads the axis off the magnitude's shape; the error explains why none fits.
    ///
    /// `always_output`: PEFT's vectors have one number an output whatever their shape.
    pub(crate) fn new(
        magnitude: Factor,
        shape: &[usize],
        always_output: bool,
    ) -> Result<Self, String> {
        let outputs = shape.first().copied().unwrap_or(1);
        let inputs = shape.get(1).copied().unwrap_or(1);
        let count = magnitude.elements();
        let found = magnitude.shape();
        let rows = always_output || found.len() <= 1 || (found[0] == outputs && outputs != 1);
        let needed = if rows { outputs } else { inputs };
        let stray = found.iter().filter(|&&d| d != 1).count() > 1;
        if count != needed || stray || shape.len() < 2 {
            return Err(format!(
                "the DoRA magnitude (dora_scale) has shape {found:?}, the weight {shape:?}"
            ));
        }
        Ok(Self { magnitude, on_input: !rows, norms: Norms::Changed })
    }

    /// PEFT's magnitudes of an embedding table: one number a feature.
    pub(crate) fn of_table(magnitude: Factor, shape: &[usize]) -> Result<Self, String> {
        let (count, found) = (magnitude.elements(), magnitude.shape());
        if shape.len() != 2 || count != shape[1] {
            return Err(format!("the DoRA magnitude has shape {found:?}, the table {shape:?}"));
        }
        Ok(Self { magnitude, on_input: true, norms: Norms::Changed })
    }

    /// Its tensors.
    pub(crate) fn factors(&self) -> Vec<&Factor> {
        match &self.norms {
            Norms::Stored(norms) => vec![&self.magnitude, norms],
            Norms::Changed | Norms::Pristine => vec![&self.magnitude],
        }
    }

    /// V̂ from V, in place; `base` is W.
    pub(crate) fn normalise(
        &self,
        weight: &mut [f32],
        base: &[f32],
        shape: &[usize],
    ) -> Result<()> {
        let magnitude = self.magnitude.read()?;
        let columns: usize = shape.iter().skip(1).product();
        let kernel: usize = shape.iter().skip(2).product();
        let (on_input, columns, kernel) = (self.on_input, columns.max(1), kernel.max(1));
        let place = |i: usize| if on_input { i % columns / kernel } else { i / columns };
        let norms = |weight: &[f32]| -> Vec<f32> {
            let mut squares = vec![0f64; magnitude.len()];
            for (i, w) in weight.iter().enumerate() {
                squares[place(i)] += f64::from(*w) * f64::from(*w);
            }
            squares.into_iter().map(|square| square.sqrt() as f32).collect()
        };
        let norms = match &self.norms {
            Norms::Changed => norms(weight),
            Norms::Pristine => norms(base),
            Norms::Stored(factor) => factor.read()?,
        };
        let factors: Vec<f32> =
            norms.iter().zip(&magnitude).map(|(norm, g)| g / norm.max(f32::MIN_POSITIVE)).collect();
        for (i, w) in weight.iter_mut().enumerate() {
            *w *= factors[place(i)];
        }
        Ok(())
    }
}
