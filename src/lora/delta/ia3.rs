//! IA3: a factor for each output or each input.
//!
//! # Source
//! Liu et al. (2022); LyCORIS 4.1.3 (vector v, factor 1 + v) and PEFT 0.21 (the factor itself, which also
//! scales the bias where it scales outputs).

use crate::error::Result;
use crate::lora::factor::Factor;

/// The vector and what it scales.
#[derive(Debug, Clone)]
pub(crate) struct Ia3 {
    pub(crate) vector: Factor,
    /// Whether inputs are scaled, not outputs.
    pub(crate) on_input: bool,
    /// PEFT's vectors are factors; LyCORIS' are factors minus 1.
    pub(crate) neutral: f32,
}

impl Ia3 {
    pub(crate) fn factors(&self) -> Vec<&Factor> {
        vec![&self.vector]
    }

    /// Whether the bias is scaled with the outputs.
    pub(crate) fn scales_bias(&self) -> bool {
        self.neutral != 0.0 && !self.on_input
    }

    pub(crate) fn misfit(&self, shape: &[usize]) -> Option<String> {
        let axis = usize::from(self.on_input);
        let needed = shape.get(axis).copied().unwrap_or(1);
        (self.vector.elements() != needed || shape.len() < 2).then(|| {
            let found = self.vector.shape();
            format!("the IA3 vector's shape {found:?} does not fit the weight's {shape:?}")
        })
    }

    pub(super) fn change(
        &self,
        base: &[f32],
        shape: &[usize],
        m: f32,
        target: &mut [f32],
    ) -> Result<()> {
        let factors = self.vector.read()?;
        let columns: usize = shape.iter().skip(1).product();
        let kernel: usize = shape.iter().skip(2).product();
        for (i, (t, w)) in target.iter_mut().zip(base).enumerate() {
            let place =
                if self.on_input { i % columns / kernel.max(1) } else { i / columns.max(1) };
            *t += w * m * (factors[place] - self.neutral);
        }
        Ok(())
    }

    /// The change of the bias, where it is scaled.
    pub(crate) fn change_bias(&self, bias: &[f32], m: f32, target: &mut [f32]) -> Result<()> {
        for ((t, b), factor) in target.iter_mut().zip(bias).zip(self.vector.read()?) {
            *t += b * m * (factor - self.neutral);
        }
        Ok(())
    }
}
