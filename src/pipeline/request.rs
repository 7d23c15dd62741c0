//! What the user asks for.

use super::compat::Compat;
use crate::lora::{Apply, LoraRef, Method, StepWindow};
use crate::prompt::PromptSyntax;
use crate::rng::Rng;
use crate::sampling::{Sampler, SamplerOptions, Schedule};
use crate::size::ImageSize;
use serde::{Deserialize, Serialize};

/// Most images of one request.
pub const MAX_COUNT: usize = 10_000;

/// A picture that is wanted. `None` means that the model decides.
///
/// ```
/// let request = colora::Request { prompt: "a red apple".into(), steps: Some(8), ..Default::default() };
/// assert_eq!(request.count, 1);
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Request {
    /// What to draw.
    pub prompt: String,
    /// What to keep away from; only acts when guidance is on.
    pub negative_prompt: String,
    /// Which program's syntax both prompts are written in; `None` is A1111's. What earlier versions drew is `plain`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_syntax: Option<PromptSyntax>,
    /// Pixels across, a multiple of the model's [`vae_factor`](crate::family::Defaults::vae_factor): 8 in Stable Diffusion.
    pub width: Option<usize>,
    /// Pixels down, a multiple of the same.
    pub height: Option<usize>,
    /// Sampling steps, at least 1.
    pub steps: Option<usize>,
    /// Classifier-free guidance, at least 1; 1 = off.
    pub guidance_scale: Option<f64>,
    /// The steps at which guidance acts; at others the prompt alone is evaluated. `None` = at all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guidance_interval: Option<StepWindow>,
    /// Evaluate the whole network every so many steps, and its finest layers alone between; 1 = always
    /// the whole.
    #[serde(skip_serializing_if = "is_one")]
    pub reuse: usize,
    /// Which part of the tokens of the finest self-attention is merged with others like them, 0 to 0.75.
    #[serde(skip_serializing_if = "is_zero")]
    pub merge_tokens: f64,
    /// Integrator.
    pub sampler: Option<Sampler>,
    /// Numbers of the sampler, such as `eta`; what is left open is the sampler's own.
    #[serde(skip_serializing_if = "SamplerOptions::is_empty")]
    pub sampler_options: SamplerOptions,
    /// Spacing of noise levels.
    pub schedule: Option<Schedule>,
    /// Seed of the first image; image i uses seed + i. `None` draws one.
    pub seed: Option<u64>,
    /// Whose picture is meant: which program's rules are followed where programs differ.
    #[serde(skip_serializing_if = "is_own")]
    pub compat: Compat,
    /// Whose generator makes the noise of a seed. `None` is PyTorch's on a CPU, but with [`compat`](Self::compat).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rng: Option<Rng>,
    /// Seed of the first image's variation; image i uses this + i, and the same seed. `None` draws one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub variation_seed: Option<u64>,
    /// How far the noise goes from that of the seed to that of the variation's, 0 to 1.
    #[serde(skip_serializing_if = "is_zero")]
    pub variation_strength: f64,
    /// The size whose noise of the seed is laid over the middle of the start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed_resize: Option<ImageSize>,
    /// What is added to the seed for the noise of steps (A1111's ENSD); 0 = the stream of the start goes on.
    #[serde(skip_serializing_if = "is_none")]
    pub ensd: i64,
    /// How many images.
    pub count: usize,
    /// Which layer of the text encoder, counted from the last that the family uses: 1 = that one.
    pub clip_skip: Option<usize>,
    /// Decode in tiles; `None` decides by size.
    pub tile: Option<bool>,
    /// A preview every so many steps; 0 = none.
    pub preview: usize,
    /// LoRAs, beside those in `<lora:…>` tags of the prompt.
    pub loras: Vec<LoraRef>,
    /// How several LoRAs are put together.
    pub lora_method: Method,
    /// How LoRAs reach the weights.
    pub apply: Apply,
}

impl Default for Request {
    fn default() -> Self {
        Self {
            prompt: String::new(),
            negative_prompt: String::new(),
            prompt_syntax: None,
            width: None,
            height: None,
            steps: None,
            guidance_scale: None,
            guidance_interval: None,
            reuse: 1,
            merge_tokens: 0.0,
            sampler: None,
            sampler_options: SamplerOptions::default(),
            schedule: None,
            seed: None,
            compat: Compat::default(),
            rng: None,
            variation_seed: None,
            variation_strength: 0.0,
            seed_resize: None,
            ensd: 0,
            count: 1,
            clip_skip: None,
            tile: None,
            preview: 0,
            loras: Vec::new(),
            lora_method: Method::default(),
            apply: Apply::default(),
        }
    }
}

/// Settings that save nothing are not written, so that older programs read the rest.
#[allow(clippy::trivially_copy_pass_by_ref)] // serde asks for it
pub(super) fn is_one(number: &usize) -> bool {
    *number == 1
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde asks for it
pub(super) fn is_zero(number: &f64) -> bool {
    *number == 0.0
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde asks for it
pub(super) fn is_own(compat: &Compat) -> bool {
    *compat == Compat::Colora
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde asks for it
pub(super) fn is_none(number: &i64) -> bool {
    *number == 0
}

pub(super) fn one() -> usize {
    1
}
