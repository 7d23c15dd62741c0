//! Numbers that a sampler can be tuned with.

use crate::error::{Error, Result};
use crate::suggest::did_you_mean;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One number that a sampler can be tuned with, as its file declares it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct OptionSpec {
    /// The name in requests, flags and files: k-diffusion's parameter.
    pub name: &'static str,
    /// The name in the settings that A1111 writes into pictures.
    pub label: &'static str,
    /// The value of requests that leave it open.
    pub default: f64,
    /// Least value.
    pub least: f64,
    /// Largest value.
    pub most: f64,
    /// What it does, for help texts.
    pub help: &'static str,
}

/// The share of fresh noise of ancestral samplers.
pub(super) const ETA: OptionSpec = OptionSpec {
    name: "eta",
    label: "Eta",
    default: 1.0,
    least: 0.0,
    most: 1.0,
    help: "share of fresh noise in each step; 0 is none",
};

/// The factor of fresh noise.
pub(super) const S_NOISE: OptionSpec = OptionSpec {
    name: "s_noise",
    label: "Sigma noise",
    default: 1.0,
    least: 0.0,
    most: 2.0,
    help: "factor of the deviation of fresh noise",
};

/// The order of multistep samplers.
pub(super) const ORDER: OptionSpec = OptionSpec {
    name: "order",
    label: "Order",
    default: 4.0,
    least: 1.0,
    most: 4.0,
    help: "most steps that the formula looks at; whole",
};

/// The order of solvers whose reference reads it from the scheduler config.
pub(super) const SOLVER_ORDER: OptionSpec = OptionSpec {
    name: "order",
    label: "Order",
    default: 2.0,
    least: 1.0,
    most: 3.0,
    help: "order of the solver; whole",
};

/// The curve of schedules by formula that have one.
pub(super) const RHO: OptionSpec = OptionSpec {
    name: "rho",
    label: "Schedule rho",
    default: 7.0,
    least: 0.1,
    most: 100.0,
    help: "curve of the schedule",
};

/// The lowest level of schedules by formula.
pub(super) const SIGMA_MIN: OptionSpec = OptionSpec {
    name: "sigma_min",
    label: "Schedule min sigma",
    default: 0.0,
    least: 1e-4,
    most: 1e5,
    help: "lowest level of the schedule",
};

/// The highest level of schedules by formula.
pub(super) const SIGMA_MAX: OptionSpec = OptionSpec {
    name: "sigma_max",
    label: "Schedule max sigma",
    default: 0.0,
    least: 1e-4,
    most: 1e5,
    help: "highest level of the schedule",
};

/// The numbers of schedules, which every sampler takes.
pub(super) const OF_SCHEDULES: [OptionSpec; 3] = [RHO, SIGMA_MIN, SIGMA_MAX];

/// The numbers that a request sets, by name; a sampler uses its defaults for the others.
///
/// As JSON they are an object: `{"eta": 0.5}`.
///
/// # Examples
/// ```
/// use colora::sampling::{Sampler, SamplerOptions};
///
/// let options = SamplerOptions::default().with("eta", 0.5);
/// // DPM-Solver++(2M) draws no noise, so that there is nothing to scale.
/// assert!(Sampler::DpmPp2m.spec().check(&options).is_err());
/// ```
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SamplerOptions(BTreeMap<String, f64>);

impl SamplerOptions {
    /// The same with option `name` set to `value`.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, value: f64) -> Self {
        self.0.insert(name.into(), value);
        self
    }

    /// What is set for `name`.
    pub fn get(&self, name: &str) -> Option<f64> {
        self.0.get(name).copied()
    }

    /// The value of an option, or its default.
    pub fn value(&self, option: &OptionSpec) -> f64 {
        self.get(option.name).unwrap_or(option.default)
    }

    /// The value of an option that counts something.
    pub(super) fn whole(&self, option: &OptionSpec) -> usize {
        self.value(option).round() as usize
    }

    /// The same where the default is another one: `default`, within the option's bounds.
    pub(super) fn whole_or(&self, option: &OptionSpec, default: usize) -> usize {
        let value = self.get(option.name).unwrap_or(default as f64);
        value.clamp(option.least, option.most).round() as usize
    }

    /// Whether nothing is set.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Everything that is set, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, f64)> {
        self.0.iter().map(|(name, value)| (name.as_str(), *value))
    }

    /// Refuses what `sampler`, which has the options `known`, does not have, and values out of range.
    pub(super) fn check(&self, sampler: &str, known: &[OptionSpec]) -> Result<()> {
        for (name, value) in self.iter() {
            let mut all = known.iter().chain(&OF_SCHEDULES);
            let Some(option) = all.find(|option| option.name == name) else {
                let names: Vec<_> = known.iter().map(|option| option.name).collect();
                let has = match names[..] {
                    [] => "no options".to_owned(),
                    _ => format!("{}{}", names.join(", "), did_you_mean(name, names)),
                };
                let why = format!("the sampler {sampler} has {has}");
                return Err(Error::bad_request("sampler_options", name, why));
            };
            if !(option.least..=option.most).contains(&value) {
                let why = format!("expected {} to {}", option.least, option.most);
                return Err(Error::bad_request(option.name, value, why));
            }
        }
        Ok(())
    }
}

impl std::fmt::Display for SamplerOptions {
    /// `eta=0.5,s_noise=1.01`, as [`FromStr`](std::str::FromStr) reads it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (place, (name, value)) in self.iter().enumerate() {
            let comma = if place > 0 { "," } else { "" };
            write!(f, "{comma}{name}={value}")?;
        }
        Ok(())
    }
}

impl std::str::FromStr for SamplerOptions {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = |part: &str| {
            let why =
                "expected NAME=NUMBER, several with commas between them: eta=0.5,s_noise=1.01";
            Error::bad_request("sampler_options", part, why)
        };
        let mut options = Self::default();
        for part in text.split(',') {
            let (name, value) = part.split_once('=').ok_or_else(|| wrong(part))?;
            let value = value.trim().parse::<f64>().ok().filter(|value| value.is_finite());
            // k-diffusion's names have underscores, other programs' flags have none.
            let name = name.trim().to_lowercase().replace('-', "_");
            if name.is_empty() {
                return Err(wrong(part));
            }
            options = options.with(name, value.ok_or_else(|| wrong(part))?);
        }
        Ok(options)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ETA: OptionSpec = OptionSpec {
        name: "eta",
        label: "Eta",
        default: 1.0,
        least: 0.0,
        most: 1.0,
        help: "noise",
    };

    #[test]
    fn texts_are_read_and_written() {
        let options: SamplerOptions = "s-noise=1.01, Eta = 0.5".parse().unwrap();
        assert_eq!(options, SamplerOptions::default().with("eta", 0.5).with("s_noise", 1.01));
        assert_eq!(options.to_string(), "eta=0.5,s_noise=1.01");
        assert_eq!(options.to_string().parse::<SamplerOptions>().unwrap(), options);
        for text in ["", "eta", "eta=", "=1", "eta=high", "eta=nan", "eta=1,,"] {
            let error = text.parse::<SamplerOptions>().unwrap_err().to_string();
            assert!(error.contains("NAME=NUMBER"), "{error}");
        }
    }

    #[test]
    fn options_are_checked_against_the_sampler() {
        let refused = |options: &SamplerOptions, known: &[OptionSpec]| {
            options.check("some", known).unwrap_err().to_string()
        };
        let half = SamplerOptions::default().with("eta", 0.5);
        assert!(half.check("some", &[ETA]).is_ok());
        assert_eq!((half.value(&ETA), SamplerOptions::default().value(&ETA)), (0.5, 1.0));
        assert!(refused(&half, &[]).contains("the sampler some has no options"));
        let typed = SamplerOptions::default().with("etta", 0.5);
        assert!(refused(&typed, &[ETA]).contains("did you mean `eta`?"));
        for value in [-0.1, 1.5, f64::NAN, f64::INFINITY] {
            let out = refused(&SamplerOptions::default().with("eta", value), &[ETA]);
            assert!(out.contains("eta") && out.contains("expected 0 to 1"), "{out}");
        }
        let json = serde_json::to_string(&half).unwrap();
        assert_eq!(json, r#"{"eta":0.5}"#);
        assert_eq!(serde_json::from_str::<SamplerOptions>(&json).unwrap(), half);
    }
}
