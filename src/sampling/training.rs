//! What a network was trained to predict, and the noise that it was trained with, in words.

use super::config::{PredictionKind, SchedulerConfig, Spacing};
use crate::error::{Error, Result};
use crate::written::{Settings, as_text};
use serde::{Deserialize, Serialize};

/// What a network was trained to predict, for files that do not say so.
///
/// Written `epsilon`, `v`, `v:zsnr` (zero terminal signal-to-noise ratio), `edm` (Playground 2.5), `edm-v` (CosXL) or
/// `flow`; with numbers `edm:min=0.002,max=80,data=0.5`, `edm-v:max=120` and `flow:shift=2.5`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Training {
    /// The noise, or v, of the discrete process.
    Discrete {
        /// v instead of ε.
        v: bool,
        /// Whether the last level has no signal at all: Lin et al. (2023).
        zero_snr: bool,
    },
    /// The continuous process of Karras et al. (2022).
    Edm {
        /// v instead of the sample behind EDM's scaling.
        v: bool,
        /// Lowest noise level.
        low: f64,
        /// Highest noise level.
        high: f64,
        /// Deviation of the data.
        data: f64,
    },
    /// The straight way between data and noise: rectified flow.
    Flow {
        /// How far timesteps are moved to the noisy end; 1 leaves them.
        shift: f64,
    },
}

const FIELD: &str = "prediction";

impl Training {
    /// ε, as SD 1.x and SDXL.
    pub const EPSILON: Self = Self::Discrete { v: false, zero_snr: false };
    /// The process of Playground 2.5.
    pub const PLAYGROUND: Self = Self::Edm { v: false, low: 0.002, high: 80.0, data: 0.5 };
    /// The process of CosXL.
    pub const COSXL: Self = Self::Edm { v: true, low: 0.002, high: 120.0, data: 1.0 };

    /// `config` with this training in the place of its own.
    #[must_use]
    pub fn apply(self, config: &SchedulerConfig) -> SchedulerConfig {
        let discrete = !config.is_edm() && !config.is_flow();
        let class_name = config.class_name.clone().filter(|_| discrete);
        let plain = SchedulerConfig {
            class_name,
            rescale_betas_zero_snr: false,
            sigma_data: None,
            shift: None,
            ..config.clone()
        };
        match self {
            Self::Discrete { v, zero_snr } => {
                let prediction_type = if v { PredictionKind::V } else { PredictionKind::Epsilon };
                // Any other spacing leaves out the timestep without signal, for which such models are trained.
                let spacing = zero_snr.then_some(Spacing::Trailing);
                SchedulerConfig {
                    prediction_type,
                    rescale_betas_zero_snr: zero_snr,
                    timestep_spacing: spacing.or(config.timestep_spacing),
                    ..plain
                }
            }
            Self::Edm { v, low, high, data } => SchedulerConfig {
                class_name: Some("EDMEulerScheduler".into()),
                prediction_type: if v { PredictionKind::V } else { PredictionKind::Epsilon },
                sigma_min: Some(low),
                sigma_max: Some(high),
                sigma_data: Some(data),
                timestep_spacing: None,
                steps_offset: 0,
                ..plain
            },
            Self::Flow { shift } => SchedulerConfig {
                class_name: Some("FlowMatchEulerDiscreteScheduler".into()),
                prediction_type: PredictionKind::Flow,
                shift: Some(shift),
                timestep_spacing: None,
                steps_offset: 0,
                ..plain
            },
        }
    }
}

impl std::str::FromStr for Training {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let head = text.split(':').next().unwrap_or_default().trim().to_lowercase();
        let known: &[&'static str] = match head.as_str() {
            "flow" => &["shift"],
            other if other.starts_with("edm") => &["min", "max", "data"],
            "playground" | "cosxl" => &["min", "max", "data"],
            _ => &["zsnr"],
        };
        let settings = Settings::read(FIELD, text, known)?;
        let flag = |name| settings.text(name).is_some();
        let edm = |usual| {
            let Self::Edm { v, low, high, data } = usual else {
                return Err(Error::Internal("an EDM process".into()));
            };
            let low = settings.number("min", low, 1e-6, 1e3)?;
            let high = settings.number("max", high, 1e-3, 1e5)?;
            if low >= high {
                return Err(Error::bad_request(FIELD, text, "min must be less than max"));
            }
            Ok(Self::Edm { v, low, high, data: settings.number("data", data, 1e-3, 1e3)? })
        };
        match head.as_str() {
            "epsilon" | "eps" => Ok(Self::Discrete { v: false, zero_snr: flag("zsnr") }),
            "v" | "v_prediction" | "v-prediction" => {
                Ok(Self::Discrete { v: true, zero_snr: flag("zsnr") })
            }
            "edm" | "playground" => edm(Self::PLAYGROUND),
            "edm-v" | "edm_v" | "edm_vpred" | "cosxl" => edm(Self::COSXL),
            "flow" => Ok(Self::Flow { shift: settings.number("shift", 1.0, 0.01, 100.0)? }),
            other => {
                let why = "expected epsilon, v, v:zsnr, edm (Playground 2.5), edm-v (CosXL) or flow:shift=2.5";
                Err(Error::bad_request(FIELD, other, why))
            }
        }
    }
}

impl std::fmt::Display for Training {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Discrete { v, zero_snr } => {
                let zsnr = if *zero_snr { ":zsnr" } else { "" };
                write!(f, "{}{zsnr}", if *v { "v" } else { "epsilon" })
            }
            usual if *usual == Self::PLAYGROUND => f.write_str("edm"),
            usual if *usual == Self::COSXL => f.write_str("edm-v"),
            Self::Edm { v, low, high, data } => {
                let name = if *v { "edm-v" } else { "edm" };
                write!(f, "{name}:min={low},max={high},data={data}")
            }
            Self::Flow { shift } => write!(f, "flow:shift={shift}"),
        }
    }
}

as_text!(Training);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sampling::NoiseProcess;

    #[test]
    fn texts_come_back() {
        for text in [
            "epsilon",
            "v",
            "v:zsnr",
            "edm",
            "edm-v",
            "edm-v:min=0.002,max=100,data=1",
            "flow:shift=2.5",
        ] {
            assert_eq!(text.parse::<Training>().unwrap().to_string(), text);
        }
        for text in ["x0", "v:shift", "edm:min=5,max=1", "flow:shift=0"] {
            assert!(text.parse::<Training>().is_err(), "{text}");
        }
    }

    #[test]
    fn every_training_has_a_process() {
        let highest = |text: &str| {
            let config = text.parse::<Training>().unwrap().apply(&SchedulerConfig::default());
            config.validate().unwrap();
            let process = NoiseProcess::new(&config).unwrap();
            process.table().sigma(999.0)
        };
        assert!((highest("v") - 14.6146).abs() < 1e-3 && (highest("v:zsnr") - 4096.0).abs() < 1.0);
        assert!((highest("edm") - 80.0).abs() < 1e-9 && (highest("edm-v") - 120.0).abs() < 1e-9);
        assert!(highest("flow:shift=3") > 1e4);
        // A model that says something else may be told better.
        let edm = Training::PLAYGROUND.apply(&SchedulerConfig::default());
        let back = Training::EPSILON.apply(&edm);
        assert!(matches!(NoiseProcess::new(&back), Ok(NoiseProcess::VariancePreserving(_))));
    }
}
