//! A1111's rules by which evaluations leave out the negative prompt.

use crate::error::{Error, Result};
use crate::written::{Settings, as_text};
use serde::{Deserialize, Serialize};

/// Below which noise level every other evaluation leaves out the negative prompt: A1111's "Negative Guidance minimum
/// sigma" (`s_min_uncond`).
///
/// Written `1.5`, or `1.5:all` for every evaluation there.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MinUncond {
    /// The noise level.
    pub sigma: f64,
    /// Whether all evaluations below it do so, and not every other one.
    pub all: bool,
}

const FIELD: &str = "s_min_uncond";

impl std::str::FromStr for MinUncond {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let settings = Settings::read(FIELD, text, &["all"])?;
        Ok(Self { sigma: settings.first(0.0, 1000.0)?, all: settings.text("all").is_some() })
    }
}

impl std::fmt::Display for MinUncond {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}{}", self.sigma, if self.all { ":all" } else { "" })
    }
}

as_text!(MinUncond);

/// When the negative prompt is left out.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct SkipRules {
    /// At low noise.
    pub min_uncond: Option<MinUncond>,
    /// Up to this part of the run; 0 = never.
    pub early: f64,
}

impl SkipRules {
    /// Whether evaluation `number` of `total`, from 0, at noise level `sigma` leaves out the negative prompt.
    pub fn skips(&self, number: usize, total: usize, sigma: f64) -> bool {
        if self.early > 0.0 && number as f64 / total.max(1) as f64 <= self.early {
            return true;
        }
        self.min_uncond.is_some_and(|rule| (rule.all || number % 2 == 1) && sigma < rule.sigma)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_count_evaluations() {
        let rules = |text: Option<&str>, early| SkipRules {
            min_uncond: text.map(|text| text.parse().unwrap()),
            early,
        };
        let skipped = |rules: SkipRules| -> Vec<bool> {
            [14.0, 6.0, 3.0, 1.0, 0.3]
                .iter()
                .enumerate()
                .map(|(i, s)| rules.skips(i, 5, *s))
                .collect()
        };
        assert_eq!(skipped(rules(Some("5"), 0.0)), [false, false, false, true, false]);
        assert_eq!(skipped(rules(Some("5:all"), 0.0)), [false, false, true, true, true]);
        assert_eq!(skipped(rules(None, 0.25)), [true, true, false, false, false]);
        assert_eq!(skipped(SkipRules::default()), [false; 5]);
        assert_eq!("1.5:all".parse::<MinUncond>().unwrap().to_string(), "1.5:all");
    }
}
