//! Schedules by name: how the noise levels of a run are spread.

use super::names::{Named, by_name, find};
use super::schedule_spec::{ScheduleInput, ScheduleSpec};
use super::schedules as of;
use crate::error::{Error, Result};

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
    /// Evenly from the last to the first training timestep.
    Normal,
    /// As `normal` with one step more, whose level is left out.
    SgmUniform,
    /// Every T/N-th training timestep from the last.
    Simple,
    /// Every T/N-th training timestep from the second.
    DdimUniform,
    /// Quantiles of a beta distribution between the levels.
    Beta,
    /// Quantiles of a beta distribution over the timesteps.
    BetaTimesteps,
    /// Evenly in the arc tangent of σ.
    KlOptimal,
    /// Linear in σ for half of the steps, then quadratic.
    LinearQuadratic,
    /// Trailing timesteps, as SD Turbo was distilled at.
    Turbo,
    /// Levels of a table that was optimised for SD 1.5: Align Your Steps.
    AlignYourSteps,
    /// Levels of a table that was optimised for SDXL: Align Your Steps SDXL.
    AlignYourStepsSdxl,
    /// Levels of a table that was optimised for SD 1.5: Align Your Steps 32.
    AlignYourSteps32,
    /// Levels of a table that was optimised for SDXL: Align Your Steps 32 SDXL.
    AlignYourSteps32Sdxl,
    /// Levels of a table that was optimised for SD 1.5: Align Your Steps GITS.
    Gits,
    /// Levels of a table that was optimised for SDXL: Align Your Steps GITS SDXL.
    GitsSdxl,
}

impl Schedule {
    /// Every schedule, in the order of help texts.
    pub const ALL: [Schedule; 18] = [
        Schedule::Discrete,
        Schedule::Karras,
        Schedule::Exponential,
        Schedule::Normal,
        Schedule::SgmUniform,
        Schedule::Simple,
        Schedule::DdimUniform,
        Schedule::Beta,
        Schedule::BetaTimesteps,
        Schedule::KlOptimal,
        Schedule::LinearQuadratic,
        Schedule::Turbo,
        Schedule::AlignYourSteps,
        Schedule::AlignYourStepsSdxl,
        Schedule::AlignYourSteps32,
        Schedule::AlignYourSteps32Sdxl,
        Schedule::Gits,
        Schedule::GitsSdxl,
    ];

    /// Everything about it.
    pub fn spec(self) -> &'static ScheduleSpec {
        match self {
            Schedule::Discrete => &of::DISCRETE,
            Schedule::Karras => &of::KARRAS,
            Schedule::Exponential => &of::EXPONENTIAL,
            Schedule::Normal => &of::NORMAL,
            Schedule::SgmUniform => &of::SGM_UNIFORM,
            Schedule::Simple => &of::SIMPLE,
            Schedule::DdimUniform => &of::DDIM_UNIFORM,
            Schedule::Beta => &of::BETA,
            Schedule::BetaTimesteps => &of::BETA_TIMESTEPS,
            Schedule::KlOptimal => &of::KL_OPTIMAL,
            Schedule::LinearQuadratic => &of::LINEAR_QUADRATIC,
            Schedule::Turbo => &of::TURBO,
            Schedule::AlignYourSteps => &of::ALIGN_YOUR_STEPS,
            Schedule::AlignYourStepsSdxl => &of::ALIGN_YOUR_STEPS_SDXL,
            Schedule::AlignYourSteps32 => &of::ALIGN_YOUR_STEPS_32,
            Schedule::AlignYourSteps32Sdxl => &of::ALIGN_YOUR_STEPS_32_SDXL,
            Schedule::Gits => &of::GITS,
            Schedule::GitsSdxl => &of::GITS_SDXL,
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

    /// The schedule that ComfyUI calls `name`.
    pub fn from_comfyui(name: &str) -> Option<Self> {
        Schedule::ALL.into_iter().find(|schedule| schedule.spec().comfyui.contains(&name))
    }

    /// What A1111 calls it: the name that is written first.
    pub fn labels(self) -> impl Iterator<Item = &'static str> {
        let spec = self.spec();
        std::iter::once(spec.label).chain(spec.aliases.iter().copied())
    }

    /// Every name that leads to it alone. `Automatic` is none: what it means depends on the sampler.
    pub(super) fn every_name(self) -> impl Iterator<Item = &'static str> {
        let spec = self.spec();
        let labels = self.labels().filter(|label| *label != "Automatic");
        // ComfyUI's `beta` is that of timesteps, the name another's here.
        let comfyui = spec.comfyui.iter().copied().filter(|name| *name != "beta");
        std::iter::once(spec.name).chain(labels).chain(comfyui)
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

by_name!(Schedule);

impl std::str::FromStr for Schedule {
    type Err = Error;

    /// Our own name or an alias, in any spelling. `Automatic` is no name: what it means depends on the sampler.
    fn from_str(name: &str) -> Result<Self> {
        let named = |item: Schedule| {
            let spec = item.spec();
            let others = item.labels().filter(|label| *label != "Automatic").collect();
            Named { item, name: spec.name, others }
        };
        find("schedule", name, &Schedule::ALL.map(named))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sampling::{NoiseProcess, NoiseTable, SchedulerConfig};

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
        for (name, schedule) in [
            ("NORMAL", Schedule::Normal),
            ("sgm_uniform", Schedule::SgmUniform),
            ("SGM Uniform", Schedule::SgmUniform),
            ("align_your_steps", Schedule::AlignYourSteps),
            ("Polyexponential", Schedule::Exponential),
        ] {
            assert_eq!(name.parse::<Schedule>().unwrap(), schedule, "{name}");
        }
        assert!("automatic".parse::<Schedule>().is_err());
        let error = "karas".parse::<Schedule>().unwrap_err().to_string();
        assert!(error.contains("did you mean `karras`?"), "{error}");
    }

    #[test]
    fn levels_that_do_not_fall_are_refused() {
        let table = NoiseTable::new(&SchedulerConfig::default()).unwrap();
        let process = NoiseProcess::VariancePreserving(table);
        let input = ScheduleInput {
            timesteps: &[5.0, 5.0],
            low: 2.0,
            high: 1.0,
            process: &process,
            rho: None,
        };
        for schedule in [Schedule::Discrete, Schedule::Karras, Schedule::Exponential] {
            assert!(schedule.levels(2, &input).is_err(), "{schedule}");
        }
    }
}
