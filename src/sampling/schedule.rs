//! Schedules: how the noise levels of a run are spread. A schedule is one function and its [`ScheduleSpec`].

use super::names::{Named, find};
use super::process::{NoiseProcess, TimestepRule};
use crate::error::{Error, Result};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// What a schedule may look at.
#[derive(Debug, Clone, Copy)]
pub struct ScheduleInput<'a> {
    /// Timesteps that the sampler's grid rules space, falling, one a step.
    pub timesteps: &'a [f64],
    /// Lowest level above zero.
    pub low: f64,
    /// Highest level.
    pub high: f64,
    /// The noise process of the model.
    pub process: &'a NoiseProcess,
}

/// Everything about a schedule.
#[derive(Debug)]
#[non_exhaustive]
pub struct ScheduleSpec {
    /// The name in requests, flags and files.
    pub name: &'static str,
    /// The name that is written into pictures, which is one of A1111.
    pub label: &'static str,
    /// Further names of A1111 and ComfyUI that mean the same.
    pub aliases: &'static [&'static str],
    /// Where it comes from.
    pub source: &'static str,
    /// The whole timesteps of its levels for samplers whose networks get whole ones in diffusers; `None` for
    /// levels that lie at timesteps.
    pub whole: Option<TimestepRule>,
    /// The levels of so many steps, falling, without the end of the run.
    pub levels: fn(usize, &ScheduleInput<'_>) -> Vec<f64>,
}

const DISCRETE: ScheduleSpec = ScheduleSpec {
    name: "discrete",
    label: "Automatic",
    aliases: &["Uniform", "Normal"],
    source: "at training timesteps, spaced as the model's scheduler config says",
    whole: None,
    levels: discrete,
};

const KARRAS: ScheduleSpec = ScheduleSpec {
    name: "karras",
    label: "Karras",
    aliases: &[],
    source: "Karras et al. (2022), eq. 5, ρ = 7",
    whole: Some(TimestepRule::Rounded),
    levels: karras,
};

const EXPONENTIAL: ScheduleSpec = ScheduleSpec {
    name: "exponential",
    label: "Exponential",
    aliases: &[],
    source: "evenly in the logarithm of σ",
    whole: Some(TimestepRule::Truncated),
    levels: exponential,
};

/// σ of the timesteps.
fn discrete(_: usize, input: &ScheduleInput<'_>) -> Vec<f64> {
    input.timesteps.iter().map(|t| input.process.table().sigma(*t)).collect()
}

/// Karras et al. (2022), eq. 5 with ρ = 7.
fn karras(n: usize, input: &ScheduleInput<'_>) -> Vec<f64> {
    const RHO: f64 = 7.0;
    let (low, high) = (input.low.powf(1.0 / RHO), input.high.powf(1.0 / RHO));
    ramp(n).map(|ramp| (high + ramp * (low - high)).powf(RHO)).collect()
}

/// A geometric series.
fn exponential(n: usize, input: &ScheduleInput<'_>) -> Vec<f64> {
    let (low, high) = (input.low.ln(), input.high.ln());
    ramp(n).map(|ramp| (high + ramp * (low - high)).exp()).collect()
}

/// `n` numbers from 0 to 1.
fn ramp(n: usize) -> impl Iterator<Item = f64> {
    (0..n).map(move |i| if n == 1 { 0.0 } else { i as f64 / (n - 1) as f64 })
}

/// How the noise levels of a run are spread.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Schedule {
    /// At training timesteps, spaced as the model's scheduler config says.
    #[default]
    Discrete,
    /// Karras et al. (2022), eq. 5, ρ = 7.
    Karras,
    /// Evenly in the logarithm of σ.
    Exponential,
}

impl Schedule {
    /// Every schedule, in the order of help texts.
    pub const ALL: [Schedule; 3] = [Schedule::Discrete, Schedule::Karras, Schedule::Exponential];

    /// Everything about it.
    pub fn spec(self) -> &'static ScheduleSpec {
        match self {
            Schedule::Discrete => &DISCRETE,
            Schedule::Karras => &KARRAS,
            Schedule::Exponential => &EXPONENTIAL,
        }
    }

    /// The name in requests, flags and files.
    pub fn name(self) -> &'static str {
        self.spec().name
    }

    /// The schedule that A1111 calls `label`.
    pub fn from_label(label: &str) -> Option<Self> {
        Schedule::ALL.into_iter().find(|schedule| schedule.labels().any(|known| known == label))
    }

    /// What A1111 calls it: the name that is written first.
    pub fn labels(self) -> impl Iterator<Item = &'static str> {
        let spec = self.spec();
        std::iter::once(spec.label).chain(spec.aliases.iter().copied())
    }

    /// Its levels for `n` steps.
    ///
    /// # Errors
    /// [`Error::BadRequest`] when so many levels do not fall.
    pub(super) fn levels(self, n: usize, input: &ScheduleInput<'_>) -> Result<Vec<f64>> {
        let levels = (self.spec().levels)(n, input);
        if levels.windows(2).all(|pair| pair[1] < pair[0]) {
            return Ok(levels);
        }
        let most = input.process.table().len();
        let why = format!("more than the sampler can place among {most} training timesteps");
        Err(Error::bad_request("steps", n, why))
    }
}

impl std::fmt::Display for Schedule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for Schedule {
    type Err = Error;

    /// Our own name or an alias, in any spelling. `Automatic` is no name: what it means depends on the sampler.
    fn from_str(name: &str) -> Result<Self> {
        let named = |item: Schedule| {
            let spec = item.spec();
            Named { item, name: spec.name, others: spec.aliases.to_vec() }
        };
        find("schedule", name, &Schedule::ALL.map(named))
    }
}

impl Serialize for Schedule {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for Schedule {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        name.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sampling::{NoiseTable, SchedulerConfig};

    #[test]
    fn names_and_labels_lead_back() {
        for schedule in Schedule::ALL {
            assert_eq!(schedule.name().parse::<Schedule>().unwrap(), schedule);
            assert_eq!(serde_json::to_value(schedule).unwrap(), schedule.name());
            assert_eq!(
                serde_json::from_value::<Schedule>(schedule.name().into()).unwrap(),
                schedule
            );
            for label in schedule.labels() {
                assert_eq!(Schedule::from_label(label), Some(schedule));
            }
        }
        assert_eq!("NORMAL".parse::<Schedule>().unwrap(), Schedule::Discrete);
        assert!("automatic".parse::<Schedule>().is_err());
        let error = "karas".parse::<Schedule>().unwrap_err().to_string();
        assert!(error.contains("did you mean `karras`?"), "{error}");
    }

    #[test]
    fn levels_that_do_not_fall_are_refused() {
        let table = NoiseTable::new(&SchedulerConfig::default()).unwrap();
        let process = NoiseProcess::VariancePreserving(table);
        let input =
            ScheduleInput { timesteps: &[5.0, 5.0], low: 2.0, high: 1.0, process: &process };
        for schedule in Schedule::ALL {
            assert!(schedule.levels(2, &input).is_err(), "{schedule}");
        }
    }
}
