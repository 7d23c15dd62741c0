//! What a user should know of a plan or its images, as data.
//!
//! [`Display`](std::fmt::Display) gives one plain line in the words of the library; a program may word each variant
//! as it likes.

use crate::lora::{Distilled, LoraRef, StepWindow};
use crate::sampling::{PredictionKind, Sampler, Schedule};

/// Something that is no error, but seldom what the user meant. More kinds may come: match with a wildcard.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Warning {
    /// The text encoder sees a limited number of tokens.
    PromptTooLong {
        /// Tokens at the end of the prompt that are not seen.
        tokens: usize,
    },
    /// Reading a LoRA found something odd.
    Adapter {
        /// The LoRA as the request names it.
        lora: String,
        /// What is odd, from the [`Report`](crate::lora::Report).
        text: String,
    },
    /// A LoRA was trained for another kind of prediction than the model has.
    OtherPrediction {
        /// The LoRA as the request names it.
        lora: String,
        /// The kind in the words of its file.
        theirs: String,
        /// The model's.
        ours: PredictionKind,
    },
    /// No step lies in the window in which a LoRA acts.
    OutsideSteps {
        /// The LoRA as the request names it.
        lora: String,
        /// Steps of the plan.
        steps: usize,
        /// The window.
        window: StepWindow,
    },
    /// Two LoRAs bring the same word of the prompt.
    WordTwice {
        /// The LoRA whose word is not used.
        lora: String,
        /// The word.
        word: String,
    },
    /// The LoRAs together change the weights in a way that is probably a mistake.
    Stack {
        /// What is odd.
        text: String,
    },
    /// A model or LoRA that was made for few steps is used with other settings.
    FewSteps {
        /// The model or LoRA.
        name: String,
        /// How it was made, and the settings that fit.
        made: Distilled,
        /// Steps of the plan.
        steps: usize,
        /// Guidance of the plan.
        guidance_scale: f64,
        /// The sampler of the plan.
        sampler: Sampler,
        /// The sampler that suits it.
        wanted: Sampler,
    },
    /// A formula spreads the steps over noise levels that are nearly infinite: models with zero terminal
    /// signal-to-noise ratio.
    MostlyNoise {
        /// The schedule.
        schedule: Schedule,
        /// The highest noise level.
        sigma: f64,
    },
    /// A LoRA was trained on another child of the family than the model is.
    OtherChild {
        /// The LoRA as the request names it.
        lora: String,
        /// What it was trained on.
        theirs: &'static str,
        /// The model.
        model: String,
        /// What the model is.
        ours: &'static str,
    },
    /// The layers of the text encoder are counted from the last that the family uses, which is the second last already.
    ClipSkipTwice {
        /// The model.
        model: String,
        /// The setting.
        clip_skip: usize,
    },
    /// The model was made for a sampler that is not built.
    OtherSampler {
        /// The model.
        model: String,
        /// The class of its own sampler in diffusers.
        own: String,
        /// The sampler that is used.
        sampler: Sampler,
    },
    /// No step of the run lies behind the place where the refiner takes over.
    RefinerWithoutStep {
        /// The place, as a part of the training timesteps.
        at: f64,
        /// Steps of the plan.
        steps: usize,
    },
    /// The negative prompt does not act.
    NegativePromptWithoutEffect {
        /// The model.
        model: String,
        /// Whether the network takes the guidance as a number, so that no guidance makes the prompt act.
        embedded: bool,
    },
}

/// The settings of a plan that what was made for few steps cares about.
#[derive(Debug, Clone, Copy)]
pub(super) struct Chosen {
    pub(super) steps: usize,
    pub(super) guidance_scale: f64,
    pub(super) sampler: Sampler,
}

impl std::fmt::Display for Warning {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Warning::PromptTooLong { tokens } => {
                write!(f, "the prompt is {tokens} tokens too long; its end is not seen")
            }
            Warning::Adapter { lora, text } => write!(f, "{lora}: {text}"),
            Warning::OtherPrediction { lora, theirs, ours } => write!(
                f,
                "{lora}: trained for {theirs} prediction, the model has {ours:?} prediction"
            ),
            Warning::OutsideSteps { lora, steps, window } => {
                write!(f, "{lora}: none of {steps} steps is in {window}")
            }
            Warning::WordTwice { lora, word } => write!(
                f,
                "{lora}: another LoRA brings the word `{word}` too; this one's is not used"
            ),
            Warning::Stack { text } => f.write_str(text),
            Warning::FewSteps { name, made, steps, guidance_scale, sampler, wanted } => {
                match made.advice(*steps, *guidance_scale) {
                    Some(advice) => write!(f, "{name}: {advice}")?,
                    None => write!(f, "{name}: made by {}", made.method)?,
                }
                let other = sampler != wanted;
                if other {
                    write!(f, "; the sampler {wanted} suits it, not {sampler}")
                } else {
                    Ok(())
                }
            }
            Warning::MostlyNoise { schedule, sigma } => write!(
                f,
                "the schedule {schedule} spends most steps on pure noise: levels begin at {sigma:.0}; simple, sgm-uniform and discrete suit this model"
            ),
            Warning::OtherChild { lora, theirs, model, ours } => write!(
                f,
                "{lora}: trained on {theirs}, and {model} is {ours}; it may do little, or harm"
            ),
            Warning::ClipSkipTwice { model, clip_skip } => write!(
                f,
                "{model}: 1 is the layer that cards of SDXL call clip skip 2; {clip_skip} goes further"
            ),
            Warning::OtherSampler { model, own, sampler } => write!(
                f,
                "{model}: made for the sampler of {own}, which is not built; {sampler} takes its place"
            ),
            Warning::RefinerWithoutStep { at, steps } => {
                write!(
                    f,
                    "the refiner has nothing to do: none of {steps} steps lies behind {at} of the run"
                )
            }
            Warning::NegativePromptWithoutEffect { model, embedded } => {
                let why = if *embedded {
                    "the negative prompt does not act: the network takes the guidance as a number (time_cond_proj_dim)"
                } else {
                    "the negative prompt does not act at guidance 1, which is none"
                };
                write!(f, "{model}: {why}")
            }
        }
    }
}

impl Warning {
    /// The LoRAs in whose windows none of `steps` steps lies.
    pub(super) fn outside_steps(loras: &[LoraRef], steps: usize) -> impl Iterator<Item = Warning> {
        let acts = move |window: &StepWindow| (0..steps).any(|step| window.active(step, steps));
        loras.iter().filter_map(move |lora| {
            let window = lora.steps.filter(|window| !acts(window))?;
            Some(Warning::OutsideSteps { lora: lora.name.clone(), steps, window })
        })
    }

    /// That the settings do not suit what `name` was made for.
    pub(super) fn few_steps(
        name: String,
        made: Distilled,
        chosen: Chosen,
        wanted: Sampler,
    ) -> Option<Warning> {
        let Chosen { steps, guidance_scale, sampler } = chosen;
        // These jump to every estimate and add fresh noise; whatever else is made for few steps follows its path.
        let jumps = |sampler| matches!(sampler, Sampler::Lcm | Sampler::Tcd);
        let unsuited = jumps(wanted) != jumps(sampler);
        if made.advice(steps, guidance_scale).is_none() && !unsuited {
            return None;
        }
        Some(Warning::FewSteps { name, made, steps, guidance_scale, sampler, wanted })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_without_a_step_are_found() {
        let loras = ["a:1:steps=0.9..0.95", "b:1:steps=0..0.5", "c"];
        let loras: Vec<LoraRef> = loras.iter().map(|lora| lora.parse().unwrap()).collect();
        let found: Vec<String> =
            Warning::outside_steps(&loras, 4).map(|warning| warning.to_string()).collect();
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].starts_with("a: none of 4 steps is in "), "{found:?}");
    }
}
