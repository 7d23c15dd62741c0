//! Whose picture a request means: one table of the rules in which programs differ.
//!
//! `../../docs/compat.md` describes each rule.

use crate::error::{Error, Result};
use crate::prompt::PromptSyntax;
use crate::rng::Rng;
use crate::sampling::{
    Convention, GridRules, NoiseRules, Sampler, SamplerOptions, Schedule, StepStream,
};
use crate::suggest::did_you_mean;

/// Whose picture a request means.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, Default, serde::Serialize, serde::Deserialize,
)]
#[serde(try_from = "String", into = "String")]
#[non_exhaustive]
pub enum Compat {
    /// colora's own choice of the best.
    #[default]
    Colora,
    /// diffusers 0.42.
    Diffusers,
    /// A1111 1.10.
    A1111,
    /// ComfyUI 0.3.64.
    Comfyui,
}

/// The rules of one program.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct CompatRules {
    /// Its name in requests, flags and files.
    pub name: &'static str,
    /// How it chooses noise levels and the timesteps that the network gets, and whose formulas samplers follow.
    pub convention: Convention,
    /// Whose generator makes noise where a request is silent.
    pub rng: Rng,
    /// Where the noise of steps comes from.
    pub steps: StepNoise,
    /// Which samplers follow Brownian paths.
    pub paths: Paths,
    /// Whether DPM++ SDE asks its path through f32 logarithms.
    pub through_logs: bool,
    /// The sampler of requests that name none; `None`: the model's.
    pub sampler: Option<Sampler>,
    /// The schedule of requests that name none.
    pub schedule: OwnSchedule,
    /// The syntax of prompts of requests that name none; `None`: the default.
    pub syntax: Option<PromptSyntax>,
    /// How `clip_skip` is counted.
    pub clip_skip: ClipSkip,
    /// Whether an empty negative prompt is a zero tensor; `None`: as the model's index says.
    pub zero_empty_negative: Option<bool>,
    /// Whether samples become bytes by cutting digits off instead of rounding.
    pub truncated: bool,
}

/// Where the noise of steps comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StepNoise {
    /// The stream of the start.
    GoesOn,
    /// A stream of its own with the same seed, on the device that `rng` names; the start is drawn on a CPU.
    OnDevice,
}

/// Which samplers follow Brownian paths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Paths {
    /// All SDE samplers, with the nodes of the request's generator.
    OfRng,
    /// All SDE samplers, with nodes of a CPU's generator.
    OfCpu,
    /// DPM++ SDE alone; the multistep ones draw plain noise.
    SingleStep,
}

/// The schedule of requests that name none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OwnSchedule {
    /// The model's, or the sampler's where that is of no use.
    OfModel,
    /// What A1111 means by "Automatic".
    Automatic,
    /// This.
    Fixed(Schedule),
}

/// How `clip_skip` is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClipSkip {
    /// 1 is the last layer that the family uses; negative prompts keep that one.
    Prompt,
    /// 1 leaves out a layer; negative prompts keep the last one.
    LeftOut,
    /// 1 is the last layer, for both prompts.
    Both,
    /// The same, but SDXL has its own layers.
    BothButSdxl,
}

const COLORA: CompatRules = CompatRules {
    name: "colora",
    convention: Convention::Diffusers,
    rng: Rng::Cpu,
    steps: StepNoise::GoesOn,
    paths: Paths::OfRng,
    through_logs: true,
    sampler: None,
    schedule: OwnSchedule::OfModel,
    syntax: None,
    clip_skip: ClipSkip::Prompt,
    zero_empty_negative: None,
    truncated: false,
};

const DIFFUSERS: CompatRules = CompatRules {
    name: "diffusers",
    paths: Paths::SingleStep,
    syntax: Some(PromptSyntax::Plain),
    clip_skip: ClipSkip::LeftOut,
    ..COLORA
};

const A1111: CompatRules = CompatRules {
    name: "a1111",
    convention: Convention::A1111,
    rng: Rng::Nv,
    sampler: Some(Sampler::DpmPp2m),
    schedule: OwnSchedule::Automatic,
    syntax: Some(PromptSyntax::A1111),
    clip_skip: ClipSkip::BothButSdxl,
    zero_empty_negative: Some(true),
    truncated: true,
    ..COLORA
};

const COMFYUI: CompatRules = CompatRules {
    name: "comfyui",
    convention: Convention::Comfyui,
    rng: Rng::Nv,
    steps: StepNoise::OnDevice,
    paths: Paths::OfCpu,
    through_logs: false,
    sampler: Some(Sampler::Euler),
    schedule: OwnSchedule::Fixed(Schedule::Simple),
    syntax: Some(PromptSyntax::Comfy),
    clip_skip: ClipSkip::Both,
    zero_empty_negative: Some(false),
    truncated: true,
    ..COLORA
};

impl Compat {
    /// Every program, in the order of help texts.
    pub const ALL: [Compat; 4] =
        [Compat::Colora, Compat::Diffusers, Compat::A1111, Compat::Comfyui];

    /// Its rules.
    pub fn rules(self) -> &'static CompatRules {
        match self {
            Compat::Colora => &COLORA,
            Compat::Diffusers => &DIFFUSERS,
            Compat::A1111 => &A1111,
            Compat::Comfyui => &COMFYUI,
        }
    }

    /// The name in requests, flags and files.
    pub fn name(self) -> &'static str {
        self.rules().name
    }
}

impl CompatRules {
    /// The numbers of a sampler that requests leave open, where the program's are others.
    pub(super) fn options(
        &self,
        sampler: Sampler,
        steps: usize,
        asked: &SamplerOptions,
    ) -> SamplerOptions {
        let a1111 = self.convention == Convention::A1111;
        let own = match (sampler, self.convention) {
            (Sampler::DpmFast | Sampler::DpmAdaptive, Convention::A1111) => Some(("eta", 1.0)),
            (Sampler::UniPc | Sampler::UniPcBh2, Convention::A1111 | Convention::Comfyui) => {
                let most = if a1111 { steps } else { steps.saturating_sub(1) };
                Some(("order", most.clamp(1, 3) as f64))
            }
            _ => None,
        };
        match own.filter(|(name, _)| asked.get(name).is_none()) {
            Some((name, value)) => asked.clone().with(name, value),
            None => asked.clone(),
        }
    }

    /// The schedule of requests that name none; `own`: the sampler's, `model`: the model's.
    pub(super) fn schedule(
        &self,
        sampler: Sampler,
        own: Option<Schedule>,
        model: Schedule,
    ) -> Schedule {
        match self.schedule {
            OwnSchedule::OfModel => own.unwrap_or(model),
            OwnSchedule::Fixed(schedule) => schedule,
            OwnSchedule::Automatic => match sampler.spec().automatic {
                Schedule::Discrete => Schedule::Normal,
                automatic => automatic,
            },
        }
    }

    /// Layers as colora counts them, of what a request says.
    pub(super) fn layers(&self, asked: Option<usize>) -> usize {
        match (self.clip_skip, asked) {
            (ClipSkip::LeftOut, Some(left_out)) => left_out.saturating_add(1),
            (_, asked) => asked.unwrap_or(1),
        }
    }

    /// Whether negative prompts are read at the prompt's layer.
    pub(super) fn skips_both(&self) -> bool {
        matches!(self.clip_skip, ClipSkip::Both | ClipSkip::BothButSdxl)
    }

    /// What a request says of layers as colora counts them.
    pub(super) fn asked_layers(&self, layers: usize) -> Option<usize> {
        match self.clip_skip {
            ClipSkip::LeftOut => layers.checked_sub(1).filter(|left_out| *left_out > 0),
            _ => Some(layers),
        }
    }

    /// The noise of a generator whose steps add `ensd` to the seed.
    pub(super) fn noise(&self, rng: Rng, ensd: i64) -> NoiseRules {
        let asked = rng;
        let (rng, steps) = match (self.steps, ensd) {
            // ComfyUI on a CPU takes the next seed, so that the first draw is not the start again.
            (StepNoise::OnDevice, 0) => {
                let delta = i64::from(asked == Rng::Cpu);
                (Rng::Cpu, StepStream::Fresh { rng: asked, delta })
            }
            (StepNoise::GoesOn, 0) => (asked, StepStream::GoesOn),
            (_, delta) => (asked, StepStream::Fresh { rng: asked, delta }),
        };
        NoiseRules { rng, steps, ..NoiseRules::default() }
    }

    /// Whose generator makes the nodes of the Brownian path of a sampler that follows one.
    pub(super) fn path(&self, sampler: Sampler, rng: Rng) -> Option<Rng> {
        let follows = sampler.spec().brownian;
        match self.paths {
            _ if !follows => None,
            Paths::OfRng => Some(rng),
            Paths::OfCpu => Some(Rng::Cpu),
            Paths::SingleStep => (sampler == Sampler::DpmPpSde).then_some(Rng::Cpu),
        }
    }

    /// The rules of noise levels of a sampler, where they are others than its own.
    pub(super) fn grid_rules(&self, sampler: Sampler) -> GridRules {
        let multistep = [Sampler::DpmPp2mSde, Sampler::DpmPp2mSdeHeun, Sampler::DpmPp3mSde];
        match self.paths {
            // diffusers has these in its multistep scheduler.
            Paths::SingleStep if multistep.contains(&sampler) => GridRules::DPM_SOLVER,
            _ => *sampler.spec().grids.of(self.convention),
        }
    }
}

impl std::fmt::Display for Compat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for Compat {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let plain = text.trim().to_lowercase();
        let other = match plain.as_str() {
            "automatic1111" | "webui" | "stable-diffusion-webui" => Some(Compat::A1111),
            "comfy" => Some(Compat::Comfyui),
            _ => None,
        };
        let named = Compat::ALL.into_iter().find(|compat| compat.name() == plain);
        named.or(other).ok_or_else(|| {
            let names = Compat::ALL.map(Compat::name);
            let near = did_you_mean(&plain, names);
            let why = format!("expected one of {}{near}", names.join(", "));
            Error::bad_request("compat", text, why)
        })
    }
}

crate::written::as_text!(Compat);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_back() {
        for compat in Compat::ALL {
            assert_eq!(compat.name().parse::<Compat>().unwrap(), compat);
        }
        assert_eq!("AUTOMATIC1111".parse::<Compat>().unwrap(), Compat::A1111);
        let error = "comfyiu".parse::<Compat>().unwrap_err().to_string();
        assert!(error.contains("did you mean `comfyui`?"), "{error}");
    }

    #[test]
    fn layers_are_counted_as_each_program_does() {
        let layers = |compat: Compat, asked| compat.rules().layers(asked);
        assert_eq!((layers(Compat::A1111, Some(2)), layers(Compat::Diffusers, Some(1))), (2, 2));
        assert_eq!((layers(Compat::Diffusers, None), layers(Compat::Colora, None)), (1, 1));
        for compat in Compat::ALL {
            for asked in 1..4 {
                let rules = compat.rules();
                let again = rules.asked_layers(rules.layers(Some(asked)));
                assert_eq!(rules.layers(again), rules.layers(Some(asked)));
            }
        }
    }
}
