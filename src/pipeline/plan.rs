//! The fully resolved plan of a request: what the pipeline runs and what is written into pictures.

use super::compat::Compat;
use super::fields::{self, Field, Label};
use super::guidance::{GuidanceInterval, Pag, Sag};
use super::request::{
    Request, is_false, is_none, is_one, is_own, is_refiner_at, is_zero, one, refiner_at,
};
use super::warning::{Chosen, Warning};
use crate::conditioning::{Crop, Micro, Told, ToldSize};
use crate::error::Result;
use crate::family::Defaults;
use crate::lora::{Apply, LoraRef, Method};
use crate::models::FreeU;
use crate::picture::Parameters;
use crate::prompt::{Emphasis, Part, PromptSyntax, extract_tags, pointed};
use crate::rng::Rng;
use crate::sampling::{
    DynamicThreshold, ImageSeeds, MinUncond, NoiseRules, Rescale, Sampler, SamplerOptions,
    Schedule, Training,
};
use crate::size::ImageSize;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// A request with every choice made: what the pipeline runs and what is written into the picture.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// What to draw.
    pub prompt: String,
    /// What to keep away from.
    pub negative_prompt: String,
    /// Which program's syntax both prompts are written in; plain where they hold none of it and fit the text encoder.
    #[serde(default = "plain", skip_serializing_if = "is_plain")]
    pub prompt_syntax: PromptSyntax,
    /// Whether an empty negative prompt is encoded where the model has zeros for one that is left out.
    #[serde(default, skip_serializing_if = "is_false")]
    pub encode_empty: bool,
    /// What A1111's weights do.
    #[serde(default, skip_serializing_if = "Emphasis::is_original")]
    pub emphasis: Emphasis,
    /// What the second text encoder reads instead of the prompt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_2: Option<String>,
    /// What the second text encoder reads instead of the negative prompt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub negative_prompt_2: Option<String>,
    /// Pixels across.
    pub width: usize,
    /// Pixels down.
    pub height: usize,
    /// Sampling steps.
    pub steps: usize,
    /// Classifier-free guidance; 1 = off.
    pub guidance_scale: f64,
    /// The part of the run in which guidance acts; `None` = all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guidance_interval: Option<GuidanceInterval>,
    /// How far the guided prediction is scaled back to the deviation of the prompt's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guidance_rescale: Option<Rescale>,
    /// The guidance whose range the guided estimate keeps, channel by channel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dynamic_threshold: Option<DynamicThreshold>,
    /// Below which noise level every other evaluation leaves out the negative prompt (A1111).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub s_min_uncond: Option<MinUncond>,
    /// The first part of the run that leaves out the negative prompt (A1111); 0 = none.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub skip_early_cfg: f64,
    /// Perturbed attention guidance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pag: Option<Pag>,
    /// Self-attention guidance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sag: Option<Sag>,
    /// The change of the first levels on the way up of the UNet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub freeu: Option<FreeU>,
    /// What the network predicts, for files that do not say so; `None` = what they say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prediction: Option<Training>,
    /// The model that takes over within the run: SDXL's refiner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refiner: Option<String>,
    /// Where it takes over: the part of the training timesteps that is behind, 0 to 1.
    #[serde(default = "refiner_at", skip_serializing_if = "is_refiner_at")]
    pub refiner_at: f64,
    /// The size of the picture that this one is said to be cut from (SDXL); `None` = the picture's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub original_size: Option<ToldSize>,
    /// Where it is said to be cut (SDXL); `None` = at no side.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crop: Option<Crop>,
    /// The size that it is said to have (SDXL); `None` = its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_size: Option<ToldSize>,
    /// As `original_size`, for the negative prompt; `None` = the prompt's. So are the next two.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub negative_original_size: Option<ToldSize>,
    /// As `crop`, for the negative prompt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub negative_crop: Option<Crop>,
    /// As `target_size`, for the negative prompt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub negative_target_size: Option<ToldSize>,
    /// How beautiful the picture is said to be (SDXL's refiner); `None` = 6.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aesthetic_score: Option<f64>,
    /// The same for the negative prompt; `None` = 2.5.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub negative_aesthetic_score: Option<f64>,
    /// Steps from one evaluation of the whole network to the next; 1 = always the whole.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub reuse: usize,
    /// Which part of the tokens of the finest self-attention is merged with others like them, 0 to 0.75.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub merge_tokens: f64,
    /// Integrator.
    pub sampler: Sampler,
    /// Numbers of the sampler; what is left open is the sampler's own.
    #[serde(default, skip_serializing_if = "SamplerOptions::is_empty")]
    pub sampler_options: SamplerOptions,
    /// Spacing of noise levels.
    pub schedule: Schedule,
    /// Seed of the first image.
    pub seed: u64,
    /// Which program's rules are followed where programs differ.
    #[serde(default, skip_serializing_if = "is_own")]
    pub compat: Compat,
    /// Whose generator makes the noise of a seed.
    #[serde(default, skip_serializing_if = "is_cpu")]
    pub rng: Rng,
    /// Seed of the first image's variation, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variation_seed: Option<u64>,
    /// How far the noise goes from that of the seed to that of the variation's.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub variation_strength: f64,
    /// The size whose noise of the seed is laid over the middle of the start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed_resize: Option<ImageSize>,
    /// What is added to the seed for the noise of steps.
    #[serde(default, skip_serializing_if = "is_none")]
    pub ensd: i64,
    /// How many images.
    pub count: usize,
    /// Which layer of the text encoder; 1 = the last that the family uses.
    pub clip_skip: usize,
    /// Decode in tiles.
    pub tile: bool,
    /// A preview every so many steps; 0 = none.
    pub preview: usize,
    /// LoRAs, those of the prompt's tags last.
    pub loras: Vec<LoraRef>,
    /// How several LoRAs are put together.
    pub lora_method: Method,
    /// How LoRAs reach the weights.
    pub apply: Apply,
    /// What planning found that is no error; not recorded.
    #[serde(skip)]
    pub warnings: Vec<Warning>,
}

/// Older plans, and those whose prompts hold no syntax, do not name one.
fn plain() -> PromptSyntax {
    PromptSyntax::Plain
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde asks for it
fn is_plain(syntax: &PromptSyntax) -> bool {
    *syntax == PromptSyntax::Plain
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde asks for it
fn is_cpu(rng: &Rng) -> bool {
    *rng == Rng::Cpu
}

/// Where the model stands in the line of settings that programs exchange.
const MODEL_PLACE: usize = 7;

/// Pictures above this many pixels are decoded in tiles unless the request says otherwise.
const TILE_ABOVE: usize = 1024 * 1536;

/// A request or a plan: the fields that are given, and those of `$from` that mean the same in both.
macro_rules! with_same {
    ($from:ident, $type:ident { $($given:tt)* }) => {
        $type {
            prompt_2: $from.prompt_2.clone(),
            emphasis: $from.emphasis,
            encode_empty: $from.encode_empty,
            negative_prompt_2: $from.negative_prompt_2.clone(),
            guidance_interval: $from.guidance_interval,
            guidance_rescale: $from.guidance_rescale,
            dynamic_threshold: $from.dynamic_threshold,
            s_min_uncond: $from.s_min_uncond,
            skip_early_cfg: $from.skip_early_cfg,
            pag: $from.pag.clone(),
            sag: $from.sag,
            freeu: $from.freeu,
            prediction: $from.prediction,
            refiner: $from.refiner.clone(),
            refiner_at: $from.refiner_at,
            original_size: $from.original_size,
            crop: $from.crop,
            target_size: $from.target_size,
            negative_original_size: $from.negative_original_size,
            negative_crop: $from.negative_crop,
            negative_target_size: $from.negative_target_size,
            aesthetic_score: $from.aesthetic_score,
            negative_aesthetic_score: $from.negative_aesthetic_score,
            reuse: $from.reuse,
            merge_tokens: $from.merge_tokens,
            variation_strength: $from.variation_strength,
            seed_resize: $from.seed_resize,
            compat: $from.compat,
            ensd: $from.ensd,
            lora_method: $from.lora_method,
            apply: $from.apply,
            $($given)*
        }
    };
}

impl Request {
    /// Fills in the model's defaults and checks every field.
    ///
    /// `random_seed` is used when the request has no seed: the library itself draws no randomness.
    ///
    /// # Errors
    /// [`Error::BadRequest`](crate::Error::BadRequest) naming the field, [`Error::Limit`](crate::Error::Limit) for sizes that are too large.
    pub fn plan(&self, defaults: &Defaults, random_seed: u64) -> Result<Plan> {
        let size = match self.aspect {
            Some(aspect) => aspect.of(defaults.size)?,
            None => ImageSize::new(
                self.width.unwrap_or(defaults.size.width()),
                self.height.unwrap_or(defaults.size.height()),
            )?,
        };
        let (width, height) = (size.width(), size.height());
        size.latent(defaults.vae_factor)?;
        let steps = self.steps.unwrap_or(defaults.steps);
        let guidance_scale = self.guidance_scale.unwrap_or(defaults.guidance_scale);
        let rules = self.compat.rules();
        let clip_skip = rules.layers(self.clip_skip);
        fields::check(&Request {
            steps: Some(steps),
            guidance_scale: Some(guidance_scale),
            clip_skip: self.clip_skip.or(Some(1)),
            ..self.clone()
        })?;
        let prompt_syntax = self.prompt_syntax.or(rules.syntax).unwrap_or_default();
        let (prompt, tagged) = tags(&prompt_syntax.uncommented(&self.prompt))?;
        let negative_prompt = prompt_syntax.uncommented(&self.negative_prompt).into_owned();
        let parts = prompt_syntax.parts(&prompt);
        check_parts(&prompt, &parts, self.prompt_2.is_some())?;
        for part in &parts {
            readable("prompt", &part.text, prompt_syntax, steps)?;
        }
        readable("negative_prompt", &negative_prompt, prompt_syntax, steps)?;
        for (field, text) in
            [("prompt_2", &self.prompt_2), ("negative_prompt_2", &self.negative_prompt_2)]
        {
            text.iter().try_for_each(|text| readable(field, text, prompt_syntax, steps))?;
        }
        let sampler = self.sampler.or(rules.sampler).unwrap_or(defaults.sampler);
        sampler.spec().check(&self.sampler_options)?;
        // The model's schedule goes with its own sampler.
        let own = sampler.spec().schedule.filter(|_| sampler != defaults.sampler);
        Ok(with_same!(
            self,
            Plan {
                prompt,
                negative_prompt,
                prompt_syntax,
                width,
                height,
                steps,
                guidance_scale,
                clip_skip,
                sampler,
                schedule: self
                    .schedule
                    .unwrap_or_else(|| { rules.schedule(sampler, own, defaults.schedule) }),
                seed: self.seed.unwrap_or(random_seed),
                rng: self.rng.unwrap_or(rules.rng),
                sampler_options: rules.options(sampler, steps, &self.sampler_options),
                variation_seed: self.variation_seed(random_seed),
                count: self.count,
                tile: self.tile.unwrap_or(size.width() * size.height() > TILE_ABOVE),
                preview: self.preview,
                loras: [self.loras.clone(), tagged].concat(),
                warnings: Vec::new(),
            }
        ))
    }
}

impl Request {
    /// The seed of the variation, if there is one; a random one is another than that of the picture.
    fn variation_seed(&self, random_seed: u64) -> Option<u64> {
        let drawn = || random_seed.wrapping_add(OTHER) & u64::from(u32::MAX);
        (self.variation_strength > 0.0).then(|| self.variation_seed.unwrap_or_else(drawn))
    }
}

/// How far a variation's random seed is from the picture's.
const OTHER: u64 = 0x9e37_79b9;

/// The prompt without its `<lora:…>` tags, and what they say.
fn tags(prompt: &str) -> Result<(String, Vec<LoraRef>)> {
    let found =
        extract_tags(prompt).map_err(|error| pointed("prompt", prompt, &error.span, error.why))?;
    let loras = found.tags.iter().map(|tag| LoraRef::parse_tag(&tag.body));
    Ok((found.text, loras.collect::<Result<_>>()?))
}

/// Most parts of a prompt: each costs an evaluation of the network in every step.
const MOST_PARTS: usize = 32;
/// Largest weight of a part.
const MOST_WEIGHT: f64 = 100.0;

/// Refuses parts that cannot be drawn together; `second`: whether the second text encoder has a text of its own.
fn check_parts(prompt: &str, parts: &[Part], second: bool) -> Result<()> {
    let refuse = |part: &str, why: &str| {
        let at = prompt.find(part).unwrap_or_default();
        Err(pointed("prompt", prompt, &(at..at + part.len()), why))
    };
    if parts.len() > MOST_PARTS {
        return refuse("AND", "a prompt has at most 32 parts");
    }
    if parts.len() > 1 && second {
        return refuse("AND", "parts and a second prompt do not go together");
    }
    match parts.iter().find(|part| part.weight.abs() > MOST_WEIGHT) {
        Some(part) => refuse(&part.text, "the weight of this part is over 100"),
        None => Ok(()),
    }
}

/// Refuses a prompt with parts that `syntax` gives no meaning, at any of its edits.
fn readable(field: &'static str, text: &str, syntax: PromptSyntax, steps: usize) -> Result<()> {
    let texts: BTreeSet<String> = syntax.schedule(text, steps).into_iter().map(|e| e.1).collect();
    texts.iter().try_for_each(|text| {
        let read = syntax.segments(text).map(drop);
        read.map_err(|error| pointed(field, text, &error.span, error.why))
    })
}

impl Plan {
    /// Calls the prompts plain when they hold no syntax and `fits` says of both that the text encoder takes them at
    /// once: the picture is the same, and programs that have no other syntax can make it again.
    pub(super) fn simplify(&mut self, fits: impl Fn(&str) -> bool) {
        let syntax = self.prompt_syntax;
        if syntax == PromptSyntax::Plain {
            return;
        }
        let is_plain = |text: &String| syntax.is_literal(text) && fits(text);
        let seconds = self.prompt_2.iter().chain(&self.negative_prompt_2);
        if [&self.prompt, &self.negative_prompt].into_iter().chain(seconds).all(is_plain) {
            self.prompt_syntax = PromptSyntax::Plain;
        }
    }

    /// The field and the text of what the second text encoder reads by itself.
    pub(super) fn second_prompt(&self) -> Option<(&'static str, &str)> {
        let fields = [("prompt_2", &self.prompt_2), ("negative_prompt_2", &self.negative_prompt_2)];
        fields.into_iter().find_map(|(field, text)| Some((field, text.as_deref()?)))
    }

    /// Size of each picture.
    ///
    /// # Errors
    /// As [`ImageSize::new`]; never for a plan made by [`Request::plan`].
    pub fn size(&self) -> Result<ImageSize> {
        ImageSize::new(self.width, self.height)
    }

    /// Whether the negative prompt is evaluated.
    pub fn guided(&self) -> bool {
        // Parts are added to the estimate on the negative prompt at any strength of guidance.
        let composed = self.prompt_syntax.is_composed(&self.prompt);
        self.guidance_scale > 1.0 || composed || self.sampler.spec().unguided
    }

    /// The seeds of image `index`: variations of a seed have that seed and one of their own.
    pub fn seeds(&self, index: usize) -> ImageSeeds {
        let index = index as u64;
        let seed = if self.variation_strength > 0.0 { 0 } else { index };
        ImageSeeds {
            seed: self.seed.wrapping_add(seed),
            variation: self.variation_seed.unwrap_or(self.seed).wrapping_add(index),
        }
    }

    /// How the noise of its images is made, whose latents have cells of `factor` pixels.
    pub(super) fn noise(&self, factor: usize) -> Result<NoiseRules> {
        let resized_from = self.seed_resize.map(|size| size.latent(factor)).transpose()?;
        let noise = self.compat.rules().noise(self.rng, self.ensd);
        Ok(NoiseRules { variation: self.variation_strength, resized_from, ..noise })
    }

    /// What decides whether something that was made for few steps is drawn well.
    pub(super) fn chosen(&self) -> Chosen {
        let Self { steps, guidance_scale, sampler, .. } = *self;
        Chosen { steps, guidance_scale, sampler }
    }

    /// What SDXL is told of sizes.
    pub(super) fn micro(&self) -> Micro {
        Micro {
            prompt: Told {
                original: self.original_size,
                crop: self.crop,
                target: self.target_size,
                score: self.aesthetic_score,
            },
            negative: Told {
                original: self.negative_original_size,
                crop: self.negative_crop,
                target: self.negative_target_size,
                score: self.negative_aesthetic_score,
            },
        }
    }

    /// The request that makes image `index` of this plan again.
    pub fn request_for(&self, index: usize) -> Request {
        with_same!(
            self,
            Request {
                // What looks like a tag now was escaped in the request.
                prompt: crate::prompt::escape_tags(&self.prompt),
                negative_prompt: self.negative_prompt.clone(),
                prompt_syntax: Some(self.prompt_syntax),
                width: Some(self.width),
                height: Some(self.height),
                aspect: None,
                steps: Some(self.steps),
                guidance_scale: Some(self.guidance_scale),
                sampler: Some(self.sampler),
                schedule: Some(self.schedule),
                seed: Some(self.seeds(index).seed),
                rng: Some(self.rng).filter(|rng| *rng != self.compat.rules().rng),
                sampler_options: self.sampler_options.clone(),
                variation_seed: self.variation_seed.map(|_| self.seeds(index).variation),
                count: 1,
                clip_skip: self.compat.rules().asked_layers(self.clip_skip),
                tile: Some(self.tile),
                preview: 0,
                loras: self.loras.clone(),
            }
        )
    }

    /// The settings of image `index` as other tools spell them (A1111's "parameters").
    pub fn parameters(&self, index: usize, model: &str) -> Parameters {
        let request = self.request_for(index);
        let written = |(field, label): (&Field, Label)| {
            Some((label.place, label.name, field.labelled(label, &request)?))
        };
        let mut fields: Vec<_> = fields::labelled()
            .into_iter()
            .filter_map(|(field, label)| written((field, label)))
            .collect();
        let after = fields.iter().take_while(|(place, ..)| *place < MODEL_PLACE).count();
        fields.insert(after, (MODEL_PLACE, "Model", model.to_owned()));
        let version = format!("colora {}", env!("CARGO_PKG_VERSION"));
        fields.push((usize::MAX, "Version", version));
        let tags = self
            .loras
            .iter()
            .fold(String::new(), |tags, lora| format!("{tags} <lora:{}>", lora.tag()));
        Parameters {
            prompt: self.prompt.clone() + &tags,
            negative_prompt: self.negative_prompt.clone(),
            fields: fields.into_iter().map(|(_, name, text)| (name.to_owned(), text)).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(request: &Request) -> Result<Plan> {
        request.plan(&Defaults::default(), 7)
    }

    #[test]
    fn nonsense_is_refused_by_field() {
        let cases: [(&str, Request); 10] = [
            ("steps", Request { steps: Some(0), ..Request::default() }),
            ("width", Request { width: Some(0), ..Request::default() }),
            ("height", Request { height: Some(12), ..Request::default() }),
            ("guidance_scale", Request { guidance_scale: Some(0.0), ..Request::default() }),
            ("guidance_scale", Request { guidance_scale: Some(f64::NAN), ..Request::default() }),
            ("reuse", Request { reuse: 0, ..Request::default() }),
            ("merge_tokens", Request { merge_tokens: 0.8, ..Request::default() }),
            ("merge_tokens", Request { merge_tokens: f64::NAN, ..Request::default() }),
            ("count", Request { count: 0, ..Request::default() }),
            ("clip_skip", Request { clip_skip: Some(0), ..Request::default() }),
        ];
        for (field, request) in cases {
            let error = plan(&request).unwrap_err();
            assert!(error.to_string().starts_with(field), "{error}");
        }
    }

    #[test]
    fn settings_from_before_there_were_savers() {
        let plain = serde_json::to_value(plan(&Request::default()).unwrap()).unwrap();
        for field in ["guidance_interval", "reuse", "merge_tokens"] {
            assert!(plain.get(field).is_none(), "{field} says nothing");
        }
        let read: Plan = serde_json::from_value(plain).unwrap();
        assert_eq!((read.guidance_interval, read.reuse, read.merge_tokens), (None, 1, 0.0));
        let window = "0.2..0.8".parse().unwrap();
        let saving = Request {
            guidance_interval: Some(window),
            reuse: 3,
            merge_tokens: 0.5,
            ..Request::default()
        };
        let json = serde_json::to_string(&saving).unwrap();
        assert_eq!(serde_json::from_str::<Request>(&json).unwrap(), saving);
        assert_eq!(serde_json::from_str::<Request>("{}").unwrap(), Request::default());
    }

    #[test]
    fn a_plan_reproduces_itself() {
        let first = Request {
            prompt: "x".into(),
            count: 3,
            reuse: 2,
            guidance_interval: "0..0.5".parse().ok(),
            ..Request::default()
        };
        let first = plan(&first).unwrap();
        let again = plan(&first.request_for(2)).unwrap();
        assert_eq!(again.seed, 9);
        assert_eq!(Plan { seed: 7, count: 3, ..again }, first);
    }
}
