//! Guidance rescale: the guided prediction gets the deviation that the prompt's alone has.

use crate::error::{Error, Result};
use crate::sampling::config::PredictionKind;
use crate::sampling::process::NoiseProcess;
use crate::written::{Settings, as_text};
use candle_core::Tensor;
use serde::{Deserialize, Serialize};

/// How far the guided prediction is scaled back to the deviation of the prompt's own: Lin et al. (2023), section 3.4.
///
/// Written `0.7`, or `0.7:on=v` for ComfyUI's `RescaleCFG`, which does it on v whatever the network predicts.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Rescale {
    /// φ: 0 leaves the guided prediction as it is, 1 takes the prompt's deviation.
    pub amount: f64,
    /// What is scaled.
    pub on: RescaleOn,
}

/// What [`Rescale`] scales.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RescaleOn {
    /// The network's own prediction, ε or v: diffusers' `guidance_rescale`.
    #[default]
    Output,
    /// v: ComfyUI's node `RescaleCFG`.
    V,
}

const FIELD: &str = "guidance_rescale";

impl std::str::FromStr for Rescale {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let settings = Settings::read(FIELD, text, &["on"])?;
        let on = match settings.text("on") {
            None | Some("output") => RescaleOn::Output,
            Some("v") => RescaleOn::V,
            Some(other) => return Err(Error::bad_request(FIELD, other, "expected output or v")),
        };
        Ok(Self { amount: settings.first(0.0, 1.0)?, on })
    }
}

impl std::fmt::Display for Rescale {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let on = if self.on == RescaleOn::V { ":on=v" } else { "" };
        write!(f, "{}{on}", self.amount)
    }
}

as_text!(Rescale);

/// A [`Rescale`] of a network with this kind of prediction.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Rescaling {
    pub(super) rule: Rescale,
    pub(super) kind: PredictionKind,
    pub(super) process: NoiseProcess,
}

impl Rescaling {
    /// `guided` with the deviation of `prompt`; both are estimates of x₀ behind `x` at noise level `sigma`.
    pub(super) fn apply(
        &self,
        x: &Tensor,
        sigma: f64,
        guided: &Tensor,
        prompt: &Tensor,
    ) -> Result<Tensor> {
        let Self { rule, process, .. } = self;
        let kind = match rule.on {
            RescaleOn::Output => self.kind,
            RescaleOn::V => PredictionKind::V,
        };
        let of = |x0: &Tensor| process.output(kind, x, x0, sigma);
        let guided = of(guided)?;
        let ratio = (deviation(&of(prompt)?)? / deviation(&guided)?)?; // [B, 1]
        let factor = ((ratio * rule.amount)? + (1.0 - rule.amount))?;
        let factor = factor.reshape((guided.dim(0)?, 1, 1, 1))?;
        process.x0(kind, x, &guided.broadcast_mul(&factor)?, sigma)
    }
}

/// The deviation of each sample, over all of its numbers: `[B, 1]`.
fn deviation(x: &Tensor) -> Result<Tensor> {
    Ok(x.flatten_from(1)?.var_keepdim(1)?.sqrt()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_come_back() {
        for text in ["0.7", "1:on=v"] {
            assert_eq!(text.parse::<Rescale>().unwrap().to_string(), text);
        }
        for text in ["1.5", "x", "0.7:on=x", "0.7:of=v"] {
            assert!(text.parse::<Rescale>().unwrap_err().to_string().starts_with(FIELD), "{text}");
        }
    }
}
