//! What the user asks for.

use super::guidance::{GuidanceInterval, Pag, Sag};
use crate::conditioning::{Crop, ToldSize};
use crate::lora::{Apply, LoraRef, Method};
use crate::models::FreeU;
use crate::prompt::{Emphasis, PromptSyntax};
use crate::sampling::{
    DynamicThreshold, MinUncond, Rescale, Sampler, SamplerOptions, Schedule, Training,
};
use crate::size::Aspect;
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
    /// Whether an empty negative prompt is encoded, as diffusers does with one that is given, where a model (SDXL) has zeros
    /// for one that is left out.
    #[serde(skip_serializing_if = "is_false")]
    pub encode_empty: bool,
    /// What A1111's weights do.
    #[serde(skip_serializing_if = "Emphasis::is_original")]
    pub emphasis: Emphasis,
    /// What the second text encoder of SDXL reads instead of the prompt, in the same syntax.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_2: Option<String>,
    /// What the second text encoder of SDXL reads instead of the negative prompt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub negative_prompt_2: Option<String>,
    /// Pixels across, a multiple of the model's [`vae_factor`](crate::family::Defaults::vae_factor): 8 in Stable Diffusion.
    pub width: Option<usize>,
    /// Pixels down, a multiple of the same.
    pub height: Option<usize>,
    /// The shape of the picture instead of its sides: the sizes that the model was trained at and that come nearest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aspect: Option<Aspect>,
    /// Sampling steps, at least 1.
    pub steps: Option<usize>,
    /// Classifier-free guidance, at least 1; 1 = off.
    pub guidance_scale: Option<f64>,
    /// The part of the run in which guidance acts; in the rest the prompt alone is evaluated. `None` = all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guidance_interval: Option<GuidanceInterval>,
    /// How far the guided prediction is scaled back to the deviation of the prompt's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guidance_rescale: Option<Rescale>,
    /// The guidance whose range the guided estimate keeps, channel by channel.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dynamic_threshold: Option<DynamicThreshold>,
    /// Below which noise level every other evaluation leaves out the negative prompt (A1111).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub s_min_uncond: Option<MinUncond>,
    /// The first part of the run that leaves out the negative prompt (A1111); 0 = none.
    #[serde(skip_serializing_if = "is_zero")]
    pub skip_early_cfg: f64,
    /// Perturbed attention guidance.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pag: Option<Pag>,
    /// Self-attention guidance.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sag: Option<Sag>,
    /// The change of the first levels on the way up of the UNet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub freeu: Option<FreeU>,
    /// What the network predicts, for files that do not say so; `None` = what they say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prediction: Option<Training>,
    /// The model that takes over within the run: SDXL's refiner.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refiner: Option<String>,
    /// Where it takes over: the part of the training timesteps that is behind, 0 to 1.
    #[serde(skip_serializing_if = "is_refiner_at")]
    pub refiner_at: f64,
    /// The size of the picture that this one is said to be cut from (SDXL); `None` = the picture's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub original_size: Option<ToldSize>,
    /// Where it is said to be cut (SDXL); `None` = at no side.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub crop: Option<Crop>,
    /// The size that it is said to have (SDXL); `None` = its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_size: Option<ToldSize>,
    /// As `original_size`, for the negative prompt; `None` = the prompt's. So are the next two.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub negative_original_size: Option<ToldSize>,
    /// As `crop`, for the negative prompt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub negative_crop: Option<Crop>,
    /// As `target_size`, for the negative prompt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub negative_target_size: Option<ToldSize>,
    /// How beautiful the picture is said to be (SDXL's refiner); `None` = 6.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aesthetic_score: Option<f64>,
    /// The same for the negative prompt; `None` = 2.5.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub negative_aesthetic_score: Option<f64>,
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
            encode_empty: false,
            emphasis: Emphasis::Original,
            prompt_2: None,
            negative_prompt_2: None,
            width: None,
            height: None,
            aspect: None,
            steps: None,
            guidance_scale: None,
            guidance_interval: None,
            guidance_rescale: None,
            dynamic_threshold: None,
            s_min_uncond: None,
            skip_early_cfg: 0.0,
            pag: None,
            sag: None,
            freeu: None,
            prediction: None,
            refiner: None,
            refiner_at: REFINER_AT,
            original_size: None,
            crop: None,
            target_size: None,
            negative_original_size: None,
            negative_crop: None,
            negative_target_size: None,
            aesthetic_score: None,
            negative_aesthetic_score: None,
            reuse: 1,
            merge_tokens: 0.0,
            sampler: None,
            sampler_options: SamplerOptions::default(),
            schedule: None,
            seed: None,
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

/// Where a refiner usually takes over.
const REFINER_AT: f64 = 0.8;

pub(super) fn refiner_at() -> f64 {
    REFINER_AT
}

#[allow(clippy::trivially_copy_pass_by_ref, clippy::float_cmp)] // serde asks for it, and that is what is meant
pub(super) fn is_refiner_at(number: &f64) -> bool {
    *number == REFINER_AT
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
pub(super) fn is_false(switch: &bool) -> bool {
    !*switch
}

pub(super) fn one() -> usize {
    1
}
