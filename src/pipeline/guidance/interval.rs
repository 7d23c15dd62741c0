//! When guidance acts.

use crate::error::{Error, Result};
use crate::lora::StepWindow;
use crate::sampling::NoiseProcess;
use crate::written::as_text;
use serde::{Deserialize, Serialize};

/// The part of a run in which guidance acts.
///
/// Written `0.2..0.8` (fractions of the steps), `4..16` (steps from 0), `20%..80%` (of the training timesteps, from the
/// noisy end: ComfyUI's start and end percent), or `sigma=0.3..5` (noise levels: Kynkäänniemi et al., 2024).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum GuidanceInterval {
    /// By steps.
    Steps(StepWindow),
    /// By parts of the training timesteps, 0 to 1.
    Percent {
        /// Where it begins.
        start: f64,
        /// Where it ends.
        end: f64,
    },
    /// By noise levels.
    Sigma {
        /// The lowest.
        low: f64,
        /// The highest.
        high: f64,
    },
}

impl GuidanceInterval {
    /// Whether step `step`, from 0, of `steps` may lie in it.
    pub fn active(&self, step: usize, steps: usize) -> bool {
        match self {
            Self::Steps(window) => window.active(step, steps),
            Self::Percent { .. } | Self::Sigma { .. } => true,
        }
    }

    /// Whether an evaluation at noise level `sigma` may lie in it.
    pub(in crate::pipeline) fn holds(&self, sigma: f64, process: &NoiseProcess) -> bool {
        match *self {
            Self::Steps(_) => true,
            Self::Percent { start, end } => {
                let level = |part: f64| match part {
                    part if part <= 0.0 => f64::INFINITY,
                    part if part >= 1.0 => 0.0,
                    part => process.part(part),
                };
                level(end) <= sigma && sigma <= level(start)
            }
            Self::Sigma { low, high } => low <= sigma && sigma <= high,
        }
    }
}

impl std::str::FromStr for GuidanceInterval {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bad = |why| Error::bad_request("guidance_interval", text, why);
        let ends = |text: &str, unit: &str| {
            let (a, b) = text.split_once("..")?;
            let number = |end: &str| {
                let end = end.trim();
                end.strip_suffix(unit).unwrap_or(end).trim().parse::<f64>().ok()
            };
            Some((number(a)?, number(b)?))
        };
        if let Some(levels) = text.trim().strip_prefix("sigma=") {
            let why = "expected two noise levels, the lower one first: sigma=0.3..5";
            let (low, high) = ends(levels, "").ok_or_else(|| bad(why))?;
            let sane = low >= 0.0 && low < high;
            return if sane { Ok(Self::Sigma { low, high }) } else { Err(bad(why)) };
        }
        if text.contains('%') {
            let why = "expected parts from 0% to 100%, the first one less: 20%..80%";
            let (start, end) = ends(text, "%").ok_or_else(|| bad(why))?;
            let sane = (0.0..=100.0).contains(&start) && start < end && end <= 100.0;
            let interval = Self::Percent { start: start / 100.0, end: end / 100.0 };
            return if sane { Ok(interval) } else { Err(bad(why)) };
        }
        Ok(Self::Steps(text.parse()?))
    }
}

impl std::fmt::Display for GuidanceInterval {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Rounded, so that 0.29 · 100 is 29.
        let percent = |part: f64| (part * 1e10).round() / 1e8;
        match self {
            Self::Steps(window) => window.fmt(f),
            Self::Percent { start, end } => write!(f, "{}%..{}%", percent(*start), percent(*end)),
            Self::Sigma { low, high } => write!(f, "sigma={low}..{high}"),
        }
    }
}

as_text!(GuidanceInterval);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sampling::{NoiseTable, SchedulerConfig};

    #[test]
    fn texts_come_back() {
        for text in ["0.2..0.8", "4..16", "29%..80%", "sigma=0.3..5"] {
            let interval: GuidanceInterval = text.parse().unwrap();
            assert_eq!(interval.to_string(), text);
        }
        for text in ["80%..20%", "-1%..50%", "20%", "sigma=5..1", "sigma=a..b", "x"] {
            assert!(text.parse::<GuidanceInterval>().is_err(), "{text}");
        }
    }

    /// ComfyUI's `percent_to_sigma`: 0 is above and 1 below every level; 50 % is timestep 499.5.
    #[test]
    fn percents_are_training_timesteps() {
        let table = NoiseTable::new(&SchedulerConfig::default()).unwrap();
        let middle = table.sigma_in_log(499.5);
        let process = NoiseProcess::VariancePreserving(table);
        let holds =
            |text: &str, sigma| text.parse::<GuidanceInterval>().unwrap().holds(sigma, &process);
        assert!(holds("0%..50%", 1e6) && holds("50%..100%", 0.0));
        assert!(holds("0%..50%", middle + 1e-6) && !holds("0%..50%", middle - 1e-6));
        assert!(holds("50%..100%", middle - 1e-6) && !holds("50%..100%", middle + 1e-6));
        assert!(holds("sigma=1..3", 2.0) && !holds("sigma=1..3", 3.5));
    }
}
