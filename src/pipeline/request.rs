//! What the user asks for, and the fully resolved plan that runs.

use super::warning::Warning;
use crate::error::{Error, Result};
use crate::family::Defaults;
use crate::lora::{Apply, LoraRef, Method, StepWindow};
use crate::picture::Parameters;
use crate::prompt::{extract_tags, underlined};
use crate::sampling::{Sampler, Schedule};
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
    /// Pixels across, a multiple of the model's [`vae_factor`](Defaults::vae_factor): 8 in Stable Diffusion.
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
            width: None,
            height: None,
            steps: None,
            guidance_scale: None,
            guidance_interval: None,
            reuse: 1,
            merge_tokens: 0.0,
            sampler: None,
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

/// A request with every choice made: what the pipeline runs and what is written into the picture.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// What to draw.
    pub prompt: String,
    /// What to keep away from.
    pub negative_prompt: String,
    /// Pixels across.
    pub width: usize,
    /// Pixels down.
    pub height: usize,
    /// Sampling steps.
    pub steps: usize,
    /// Classifier-free guidance; 1 = off.
    pub guidance_scale: f64,
    /// The steps at which guidance acts; `None` = at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guidance_interval: Option<StepWindow>,
    /// Steps from one evaluation of the whole network to the next; 1 = always the whole.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub reuse: usize,
    /// Which part of the tokens of the finest self-attention is merged with others like them, 0 to 0.75.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub merge_tokens: f64,
    /// Integrator.
    pub sampler: Sampler,
    /// Spacing of noise levels.
    pub schedule: Schedule,
    /// Seed of the first image.
    pub seed: u64,
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

/// One token of every 2×2 stays.
const MOST_MERGED: f64 = 0.75;

/// Pictures above this many pixels are decoded in tiles unless the request says otherwise.
const TILE_ABOVE: usize = 1024 * 1536;

/// Settings that save nothing are not written, so that older programs read the rest.
#[allow(clippy::trivially_copy_pass_by_ref)] // serde asks for it
fn is_one(number: &usize) -> bool {
    *number == 1
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde asks for it
fn is_zero(number: &f64) -> bool {
    *number == 0.0
}

fn one() -> usize {
    1
}

impl Request {
    /// Fills in the model's defaults and checks every field.
    ///
    /// `random_seed` is used when the request has no seed: the library itself draws no randomness.
    ///
    /// # Errors
    /// [`Error::BadRequest`] naming the field, [`Error::Limit`] for sizes that are too large.
    pub fn plan(&self, defaults: &Defaults, random_seed: u64) -> Result<Plan> {
        let width = self.width.unwrap_or(defaults.size.width());
        let height = self.height.unwrap_or(defaults.size.height());
        let size = ImageSize::new(width, height)?;
        size.latent(defaults.vae_factor)?;
        let steps = self.steps.unwrap_or(defaults.steps);
        if steps == 0 {
            return Err(Error::bad_request("steps", steps, "at least 1 is needed"));
        }
        let guidance_scale = self.guidance_scale.unwrap_or(defaults.guidance_scale);
        if !guidance_scale.is_finite() || !(1.0..=1000.0).contains(&guidance_scale) {
            let why = "expected 1 (off) to 1000; 5 to 8 is usual";
            return Err(Error::bad_request("guidance_scale", guidance_scale, why));
        }
        if self.reuse == 0 {
            return Err(Error::bad_request(
                "reuse",
                0,
                "1 evaluates the whole network at every step",
            ));
        }
        if !(0.0..=MOST_MERGED).contains(&self.merge_tokens) {
            let why = format!("expected 0 (none) to {MOST_MERGED} of the tokens; 0.5 is usual");
            return Err(Error::bad_request("merge_tokens", self.merge_tokens, why));
        }
        if self.count == 0 || self.count > MAX_COUNT {
            let why = format!("expected 1 to {MAX_COUNT}");
            return Err(Error::bad_request("count", self.count, why));
        }
        let clip_skip = self.clip_skip.unwrap_or(1);
        if clip_skip == 0 {
            return Err(Error::bad_request("clip_skip", 0, "1 is the last layer"));
        }
        let (prompt, tagged) = tags(&self.prompt)?;
        Ok(Plan {
            prompt,
            negative_prompt: self.negative_prompt.clone(),
            width,
            height,
            steps,
            guidance_scale,
            guidance_interval: self.guidance_interval,
            reuse: self.reuse,
            merge_tokens: self.merge_tokens,
            sampler: self.sampler.unwrap_or(defaults.sampler),
            schedule: self.schedule.unwrap_or(defaults.schedule),
            seed: self.seed.unwrap_or(random_seed),
            count: self.count,
            clip_skip,
            tile: self.tile.unwrap_or(size.width() * size.height() > TILE_ABOVE),
            preview: self.preview,
            loras: [self.loras.clone(), tagged].concat(),
            lora_method: self.lora_method,
            apply: self.apply,
            warnings: Vec::new(),
        })
    }
}

/// The prompt without its `<lora:…>` tags, and what they say.
fn tags(prompt: &str) -> Result<(String, Vec<LoraRef>)> {
    let found = extract_tags(prompt).map_err(|error| {
        let tag = prompt.get(error.span.clone()).unwrap_or_default();
        let place = underlined(prompt, &error.span);
        Error::bad_request("prompt", tag, format!("{}\n{place}", error.why))
    })?;
    let loras = found.tags.iter().map(|tag| LoraRef::parse_tag(&tag.body));
    Ok((found.text, loras.collect::<Result<_>>()?))
}

impl Plan {
    /// Size of each picture.
    ///
    /// # Errors
    /// As [`ImageSize::new`]; never for a plan made by [`Request::plan`].
    pub fn size(&self) -> Result<ImageSize> {
        ImageSize::new(self.width, self.height)
    }

    /// Whether the negative prompt is evaluated.
    pub fn guided(&self) -> bool {
        self.guidance_scale > 1.0
    }

    /// The request that makes image `index` of this plan again.
    pub fn request_for(&self, index: usize) -> Request {
        Request {
            // What looks like a tag now was escaped in the request.
            prompt: crate::prompt::escape_tags(&self.prompt),
            negative_prompt: self.negative_prompt.clone(),
            width: Some(self.width),
            height: Some(self.height),
            steps: Some(self.steps),
            guidance_scale: Some(self.guidance_scale),
            guidance_interval: self.guidance_interval,
            reuse: self.reuse,
            merge_tokens: self.merge_tokens,
            sampler: Some(self.sampler),
            schedule: Some(self.schedule),
            seed: Some(self.seed.wrapping_add(index as u64)),
            count: 1,
            clip_skip: Some(self.clip_skip),
            tile: Some(self.tile),
            preview: 0,
            loras: self.loras.clone(),
            lora_method: self.lora_method,
            apply: self.apply,
        }
    }

    /// The settings of image `index` as other tools spell them (A1111's "parameters").
    pub fn parameters(&self, index: usize, model: &str) -> Parameters {
        let mut fields = vec![
            ("Steps", self.steps.to_string()),
            ("Sampler", self.sampler.spec().label.to_owned()),
            ("Schedule type", self.schedule.spec().label.to_owned()),
            ("CFG scale", self.guidance_scale.to_string()),
            ("Seed", self.seed.wrapping_add(index as u64).to_string()),
            ("Size", format!("{}x{}", self.width, self.height)),
            ("Model", model.to_owned()),
        ];
        if self.clip_skip > 1 {
            fields.push(("Clip skip", self.clip_skip.to_string()));
        }
        if let Some(window) = self.guidance_interval {
            fields.push(("Guidance interval", window.to_string()));
        }
        if self.reuse > 1 {
            fields.push(("Feature reuse", self.reuse.to_string()));
        }
        if self.merge_tokens > 0.0 {
            fields.push(("Token merging ratio", self.merge_tokens.to_string()));
        }
        fields.push(("Version", format!("colora {}", env!("CARGO_PKG_VERSION"))));
        let tags =
            self.loras.iter().fold(String::new(), |tags, lora| format!("{tags} <lora:{lora}>"));
        Parameters {
            prompt: self.prompt.clone() + &tags,
            negative_prompt: self.negative_prompt.clone(),
            fields: fields.into_iter().map(|(k, v)| (k.to_owned(), v)).collect(),
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
