//! Classifier-free guidance: one estimate of several.

mod mean;
mod rescale;
mod skip;
mod threshold;

pub use mean::Mean;
pub use rescale::{Rescale, RescaleOn};
pub use skip::{MinUncond, SkipRules};
pub use threshold::DynamicThreshold;

use super::config::PredictionKind;
use super::integrator::Estimates;
use super::process::NoiseProcess;
use crate::error::Result;
use candle_core::Tensor;
use rescale::Rescaling;

/// The estimate of x₀ on one prompt, and how much the prompt counts.
#[derive(Debug, Clone)]
pub struct Condition {
    /// The estimate, `[B, C, h, w]`.
    pub x0: Tensor,
    /// 1 for a prompt alone; A1111's `AND` gives each of several prompts a weight.
    pub weight: f64,
}

/// Classifier-free guidance over weighted prompts: x₀ = u + g·Σ wᵢ·(cᵢ − u), Ho and Salimans (2022); with several prompts
/// Liu et al. (2022).
#[derive(Debug, Clone, PartialEq)]
pub struct Guidance {
    scale: f64,
    threshold: Option<DynamicThreshold>,
    rescaling: Option<Rescaling>,
}

/// Where estimates are made, and what else is added to the guided one.
#[derive(Debug, Clone)]
pub struct At<'a> {
    /// Latents `[B, C, h, w]`.
    pub x: &'a Tensor,
    /// Their noise level.
    pub sigma: f64,
    /// The change that guidance by other means asks for: away from perturbed attention (PAG), from blurred parts (SAG).
    pub push: Option<Tensor>,
}

impl Guidance {
    /// Guidance of strength `scale` alone; 1 takes a single prompt's estimate as it is.
    pub fn new(scale: f64) -> Self {
        Self { scale, threshold: None, rescaling: None }
    }

    /// The same with the range of a lower guidance.
    #[must_use]
    pub fn with_threshold(self, threshold: Option<DynamicThreshold>) -> Self {
        Self { threshold, ..self }
    }

    /// The same, scaled back as `rule` says, for a network that predicts `kind`.
    #[must_use]
    pub fn with_rescale(
        self,
        rule: Option<Rescale>,
        kind: PredictionKind,
        process: &NoiseProcess,
    ) -> Self {
        let rescaling = rule.map(|rule| Rescaling { rule, kind, process: process.clone() });
        Self { rescaling, ..self }
    }

    /// The guided estimate away from `unguided`, the estimate on the negative prompt, towards each of `conditions`.
    /// Without conditions there is nothing to guide: then it is `unguided` and what is pushed.
    pub fn combine(
        &self,
        at: &At<'_>,
        unguided: Tensor,
        conditions: &[Condition],
    ) -> Result<Estimates> {
        if conditions.is_empty() {
            return Ok(Estimates { guided: pushed(unguided.clone(), at)?, unguided });
        }
        let mut guided = towards(&unguided, conditions, self.scale)?;
        if let Some(threshold) = &self.threshold {
            guided = threshold.apply(&guided, &towards(&unguided, conditions, threshold.mimic)?)?;
        }
        let Some(rescaling) = &self.rescaling else {
            return Ok(Estimates { guided: pushed(guided, at)?, unguided });
        };
        let prompt = match conditions {
            [only] => only.x0.clone(),
            several => towards(&unguided, several, 1.0)?,
        };
        // diffusers scales all that was added to the prediction; ComfyUI's other guidance comes after its node.
        let before = rescaling.rule.on == RescaleOn::Output;
        if before {
            guided = pushed(guided, at)?;
        }
        guided = rescaling.apply(at.x, at.sigma, &guided, &prompt)?;
        if !before {
            guided = pushed(guided, at)?;
        }
        Ok(Estimates { guided, unguided })
    }
}

/// u + g·Σ wᵢ·(cᵢ − u).
fn towards(unguided: &Tensor, conditions: &[Condition], scale: f64) -> Result<Tensor> {
    let mut guided = unguided.clone();
    for Condition { x0, weight } in conditions {
        guided = (guided + ((x0 - unguided)? * (weight * scale))?)?;
    }
    Ok(guided)
}

fn pushed(guided: Tensor, at: &At<'_>) -> Result<Tensor> {
    match &at.push {
        Some(push) => Ok((guided + push)?),
        None => Ok(guided),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    fn tensor(numbers: &[f64]) -> Tensor {
        Tensor::new(numbers, &Device::Cpu).unwrap()
    }

    #[test]
    fn prompts_pull_by_their_weights() {
        let condition = |numbers: &[f64], weight| Condition { x0: tensor(numbers), weight };
        let of = |conditions: &[Condition]| {
            let x = tensor(&[0.0, 0.0]);
            let at = At { x: &x, sigma: 1.0, push: None };
            let u = tensor(&[1.0, 2.0]);
            let found = Guidance::new(3.0).combine(&at, u, conditions).unwrap();
            assert_eq!(found.unguided.to_vec1::<f64>().unwrap(), [1.0, 2.0]);
            found.guided.to_vec1::<f64>().unwrap()
        };
        assert_eq!(of(&[condition(&[2.0, 0.0], 1.0)]), [4.0, -4.0]);
        // u + g·(w₁(c₁ − u) + w₂(c₂ − u)); a negative weight pushes away.
        let several = [condition(&[2.0, 0.0], 0.5), condition(&[0.0, 3.0], -2.0)];
        assert_eq!(of(&several), [1.0 + 1.5 + 6.0, 2.0 - 3.0 - 6.0]);
        assert_eq!(of(&[]), [1.0, 2.0]);
    }

    /// The deviation of the network's prediction is the prompt's afterwards, and x₀ follows from it.
    #[test]
    fn rescaling_keeps_the_deviation_of_the_prompt() {
        let table =
            crate::sampling::NoiseTable::new(&crate::sampling::SchedulerConfig::default()).unwrap();
        let process = NoiseProcess::VariancePreserving(table);
        let numbers = |seed: f64| -> Tensor {
            let values: Vec<f64> = (0..32).map(|i| (f64::from(i) * seed).sin()).collect();
            Tensor::from_vec(values, (2, 1, 4, 4), &Device::Cpu).unwrap()
        };
        let (x, u, c) = (numbers(1.1), numbers(0.7), numbers(2.3));
        let deviation = |x0: &Tensor, kind| {
            let out = process.output(kind, &x, x0, 2.0).unwrap();
            let var = out.flatten_from(1).unwrap().var_keepdim(1).unwrap().sqrt().unwrap();
            var.flatten_all().unwrap().to_vec1::<f64>().unwrap()
        };
        for (text, kind) in [("1", PredictionKind::Epsilon), ("1:on=v", PredictionKind::V)] {
            let rule = Some(text.parse().unwrap());
            let guidance = Guidance::new(9.0).with_rescale(rule, PredictionKind::Epsilon, &process);
            let at = At { x: &x, sigma: 2.0, push: None };
            let condition = Condition { x0: c.clone(), weight: 1.0 };
            let guided = guidance.combine(&at, u.clone(), &[condition]).unwrap().guided;
            for (a, b) in deviation(&guided, kind).iter().zip(deviation(&c, kind)) {
                assert!((a - b).abs() < 1e-9, "{text}: {a} {b}");
            }
        }
    }
}
