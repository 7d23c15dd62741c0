//! Perturbed attention guidance.

use crate::error::{Error, Result};
use crate::models::Layers;
use crate::written::{Settings, as_text};
use serde::{Deserialize, Serialize};

/// Perturbed attention guidance: away from an estimate in whose middle block every token sees itself alone, Ahn et al.
/// (2024). One evaluation more a step.
///
/// Written `3`, or with numbers `3:adaptive=0.01,layers=mid+up.0`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Pag {
    /// Strength; 3 is usual.
    pub scale: f64,
    /// How much weaker it gets for each training timestep that is behind: diffusers' `pag_adaptive_scale`.
    pub adaptive: f64,
    /// Which self-attentions are changed: diffusers' `pag_applied_layers`.
    pub layers: Layers,
}

impl Pag {
    /// The strength at a timestep of `train` training timesteps.
    pub(in crate::pipeline) fn at(&self, timestep: f64, train: usize) -> f64 {
        (self.scale - self.adaptive * (train as f64 - timestep)).max(0.0)
    }
}

const FIELD: &str = "pag";

impl std::str::FromStr for Pag {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let settings = Settings::read(FIELD, text, &["adaptive", "layers"])?;
        let layers = settings.text("layers").map_or(Ok(Layers::mid()), str::parse)?;
        let adaptive = settings.number("adaptive", 0.0, 0.0, 100.0)?;
        Ok(Self { scale: settings.first(0.0, 100.0)?, adaptive, layers })
    }
}

impl std::fmt::Display for Pag {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut parts = Vec::new();
        if self.adaptive > 0.0 {
            parts.push(format!("adaptive={}", self.adaptive));
        }
        if self.layers != Layers::mid() {
            parts.push(format!("layers={}", self.layers));
        }
        let colon = if parts.is_empty() { "" } else { ":" };
        write!(f, "{}{colon}{}", self.scale, parts.join(","))
    }
}

as_text!(Pag);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_come_back() {
        for text in ["3", "2.5:adaptive=0.01,layers=mid+up.0"] {
            assert_eq!(text.parse::<Pag>().unwrap().to_string(), text);
        }
        assert!("3:layers=left".parse::<Pag>().is_err() && "x".parse::<Pag>().is_err());
        let pag: Pag = "3:adaptive=0.01".parse().unwrap();
        assert!((pag.at(900.0, 1000) - 2.0).abs() < 1e-9 && pag.at(100.0, 1000) == 0.0);
    }
}
