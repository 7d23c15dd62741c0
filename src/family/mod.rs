//! Families of models: what differs between SD 1.x, SD 2.x and SDXL, and how a model's
//! files become [`ModelParts`].
//!
//! Floor 5.

mod blueprint;
pub(crate) mod card;
mod check;
mod convert;
mod detect;
mod few_steps;
mod folder;
mod json;
mod original;
mod sd1;
mod sd2;
mod sdxl;
mod sdxl_refiner;
mod shapes;
mod single_file;
mod spec;
mod tiny_vae;
mod towers;

pub use blueprint::Blueprint;
pub use convert::{Converted, quantise};
pub use folder::held_files;
pub use tiny_vae::TinyVaeParts;

use crate::conditioning::{ClipKind, Tokenizer, TokenizerFiles};
use crate::error::{Error, Result};
use crate::hint::Hint;
use crate::lora::Distilled;
use crate::models::{ClipConfig, UNetConfig, VaeConfig};
use crate::sampling::{PredictionKind, Sampler, Schedule, SchedulerConfig, Training};
use crate::size::{ImageSize, SD_VAE_FACTOR};
use crate::weights::names::TowerLocation;
use crate::weights::{Checkpoint, Component, Inventory, Placement};
use serde::{Deserialize, Serialize};
use spec::FamilySpec;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// A generation of Stable Diffusion.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Family {
    /// SD 1.x and networks distilled from it: one CLIP-L tower.
    Sd1,
    /// SD 2.x: one OpenCLIP-H tower.
    Sd2,
    /// SDXL base: CLIP-L and OpenCLIP-bigG, pooled text and sizes.
    Sdxl,
    /// SDXL refiner: OpenCLIP-bigG alone, with an aesthetic score.
    SdxlRefiner,
}

impl Family {
    /// Every family. A file that several of them would fit is of the last.
    pub const ALL: [Self; 4] = [Self::Sd1, Self::Sd2, Self::Sdxl, Self::SdxlRefiner];

    /// What is special about the family: the only place that lists families, beside the list above.
    fn spec(self) -> &'static FamilySpec {
        match self {
            Family::Sd1 => &sd1::SPEC,
            Family::Sd2 => &sd2::SPEC,
            Family::Sdxl => &sdxl::SPEC,
            Family::SdxlRefiner => &sdxl_refiner::SPEC,
        }
    }

    /// The text encoders, in the order of their features.
    pub fn text_components(self) -> Vec<Component> {
        self.spec().towers.iter().map(|tower| tower.component).collect()
    }

    /// Where the text encoders lie in a single file of the original code.
    pub fn towers(self) -> Vec<TowerLocation> {
        self.spec().towers.iter().map(|tower| tower.written).collect()
    }
}

impl std::fmt::Display for Family {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.spec().name)
    }
}

/// The values of a model for what a request leaves open.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Defaults {
    /// Picture size.
    pub size: ImageSize,
    /// Pixels per latent cell along one side, which sizes are multiples of: 8 in Stable Diffusion.
    pub vae_factor: usize,
    /// Sampling steps.
    pub steps: usize,
    /// Classifier-free guidance.
    pub guidance_scale: f64,
    /// Integrator.
    pub sampler: Sampler,
    /// Spacing of noise levels.
    pub schedule: Schedule,
}

impl Default for Defaults {
    /// Those of SD 1.x.
    fn default() -> Self {
        Self {
            size: ImageSize::SD,
            vae_factor: SD_VAE_FACTOR,
            steps: 25,
            guidance_scale: 7.5,
            sampler: Sampler::DpmPp2m,
            schedule: Schedule::Karras,
        }
    }
}

impl Defaults {
    /// The defaults to check a request with before its model is opened: every size can be right for some model.
    pub fn of_unknown_model() -> Self {
        Self { vae_factor: 1, ..Self::default() }
    }

    /// The same defaults with an autoencoder of another factor: latents keep the size that the UNet was trained at.
    fn with_vae_factor(self, factor: usize) -> Result<Self> {
        let latent = self.size.latent(self.vae_factor)?;
        let size = ImageSize::new(latent.width * factor, latent.height * factor)?;
        Ok(Self { size, vae_factor: factor, ..self })
    }
}

/// Where a text tower's vocabulary comes from.
#[derive(Debug, Clone)]
pub enum TokenizerSource {
    /// A `tokenizer` folder of the diffusers layout.
    Folder(PathBuf),
    /// CLIP's own vocabulary, which single-file checkpoints leave out.
    Clip(ClipKind),
    /// Files inside the program, by name within the folder.
    Static {
        /// Stands for the folder in messages.
        name: String,
        /// Name and contents of each file.
        files: Vec<(&'static str, &'static [u8])>,
    },
    /// Files that a quantised model holds, by name within the folder.
    Held {
        /// Stands for the folder in messages.
        name: String,
        /// Name and text of each file.
        files: Vec<(String, String)>,
    },
}

impl TokenizerSource {
    /// Reads the vocabulary.
    ///
    /// # Errors
    /// As [`Tokenizer::open`].
    pub fn open(&self) -> Result<Tokenizer> {
        match self {
            TokenizerSource::Folder(path) => Tokenizer::open(path),
            TokenizerSource::Clip(kind) => Tokenizer::embedded(*kind),
            TokenizerSource::Static { name, files } => from_files(name, |wanted| {
                files.iter().find(|(n, _)| *n == wanted).map(|(_, bytes)| *bytes)
            }),
            TokenizerSource::Held { name, files } => from_files(name, |wanted| {
                files.iter().find(|(n, _)| *n == wanted).map(|(_, text)| text.as_bytes())
            }),
        }
    }
}

/// What a tokenizer is read from.
const TOKENIZER_FILES: [&str; 6] = [
    "vocab.json",
    "merges.txt",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
];

fn from_files<'a>(name: &str, file: impl Fn(&str) -> Option<&'a [u8]>) -> Result<Tokenizer> {
    let [vocab, merges, tokenizer, config, special_tokens, added_tokens] =
        TOKENIZER_FILES.map(file);
    let files = TokenizerFiles { vocab, merges, tokenizer, config, special_tokens, added_tokens };
    Tokenizer::from_bytes(&files, name)
}

/// An opened model: architectures, vocabularies and a source of weights. Nothing is built yet.
#[derive(Debug)]
pub struct ModelParts {
    /// The family.
    pub family: Family,
    /// File or folder name without extension.
    pub name: String,
    /// Architecture of the UNet.
    pub unet: UNetConfig,
    /// Architecture of each text tower, in the order of their features.
    pub text: Vec<ClipConfig>,
    /// Architecture of the autoencoder.
    pub vae: VaeConfig,
    /// Noise that the model was trained with.
    pub scheduler: SchedulerConfig,
    /// The file that describes this noise, for messages.
    pub scheduler_file: PathBuf,
    /// How the model wants to be used, if it was made for few steps.
    pub distilled: Option<Distilled>,
    /// Vocabulary of each text tower.
    pub tokenizers: Vec<TokenizerSource>,
    /// The weights.
    pub source: Arc<Checkpoint>,
    /// What requests may leave open.
    pub defaults: Defaults,
    /// Whether an empty negative prompt is a zero tensor (SDXL).
    pub force_zeros_for_empty_prompt: bool,
    /// Whether sizes end in an aesthetic score (refiner).
    pub requires_aesthetics_score: bool,
    /// Tokenizers that were opened: building one takes as long as packing a small network.
    opened: Mutex<Vec<Option<Arc<Tokenizer>>>>,
}

/// [`ModelParts`] without name and weights.
#[derive(Debug)]
struct Architecture {
    family: Family,
    unet: UNetConfig,
    text: Vec<ClipConfig>,
    vae: VaeConfig,
    scheduler: SchedulerConfig,
    scheduler_file: PathBuf,
    distilled: Option<Distilled>,
    tokenizers: Vec<TokenizerSource>,
    defaults: Defaults,
    force_zeros_for_empty_prompt: bool,
    requires_aesthetics_score: bool,
}

impl Architecture {
    fn with(self, name: String, checkpoint: Checkpoint) -> ModelParts {
        ModelParts {
            family: self.family,
            name,
            unet: self.unet,
            text: self.text,
            vae: self.vae,
            scheduler: self.scheduler,
            scheduler_file: self.scheduler_file,
            distilled: self.distilled,
            tokenizers: self.tokenizers,
            source: Arc::new(checkpoint),
            defaults: self.defaults,
            force_zeros_for_empty_prompt: self.force_zeros_for_empty_prompt,
            requires_aesthetics_score: self.requires_aesthetics_score,
            opened: Mutex::default(),
        }
    }
}

/// A description of a model, as `model inspect` prints it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    /// File or folder name.
    pub name: String,
    /// Family in words.
    pub family: String,
    /// What the network predicts.
    pub prediction: PredictionKind,
    /// Latent channels of the UNet: 4, 8 (edits by instruction) or 9 (inpainting).
    pub in_channels: usize,
    /// Picture size when a request names none.
    pub default_size: String,
    /// Sampling steps when a request names none.
    pub default_steps: usize,
    /// Guidance when a request names none.
    pub default_guidance: f64,
    /// How the model wants to be used, if it was made for few steps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub distilled: Option<Distilled>,
    /// Remarks on drawing with it: a sampler of its own, negative prompts that do not act.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// Each component.
    pub components: Vec<ComponentSummary>,
}

/// One component of a [`Summary`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ComponentSummary {
    /// `unet`, `vae`, `text_encoder` or `text_encoder_2`.
    pub name: String,
    /// Tensors in the files.
    pub tensors: usize,
    /// Numbers in these tensors.
    pub parameters: u64,
    /// Bytes in the files.
    pub bytes: u64,
    /// Element types in the files.
    pub dtypes: Vec<String>,
}

impl ModelParts {
    /// Opens a diffusers folder or a single-file checkpoint.
    ///
    /// `vae`: a VAE to use instead of the model's own, as a folder or file.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Corrupt`], [`Error::WrongFamily`] or [`Error::Unsupported`],
    /// naming the file.
    pub fn open(path: &Path, placement: Placement, vae: Option<&Path>) -> Result<Self> {
        let parts = if path.is_dir() {
            folder::open(path, placement.clone())?
        } else {
            single_file::open(path, placement.clone())?
        };
        parts.with_vae(vae, placement)
    }

    /// Opens a model in the diffusers layout whose files are part of the program.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn from_static(
        name: &str,
        files: &'static [(&'static str, &'static [u8])],
        placement: Placement,
        vae: Option<&Path>,
    ) -> Result<Self> {
        folder::open_static(name, files, placement.clone())?.with_vae(vae, placement)
    }

    /// Makes the source read the weights of text encoders and UNet as `dtype` from now on.
    pub fn read_as(&mut self, dtype: candle_core::DType) {
        self.source = Arc::new(self.source.read_as(dtype));
    }

    /// Returns the model with the VAE at `vae`; its own is needed when there is no other.
    fn with_vae(mut self, vae: Option<&Path>, placement: Placement) -> Result<Self> {
        let Some(path) = vae else {
            if self.source.components().contains(&Component::Vae) {
                return Ok(self);
            }
            let error = Error::corrupt(&self.name, "the checkpoint has no VAE");
            return Err(error.with_hint(Hint::NameVae));
        };
        let (config, other) = if path.is_dir() {
            folder::open_vae(path, placement)?
        } else {
            single_file::open_vae(path, placement, self.family)?
        };
        if config.latent_channels != self.vae.latent_channels {
            return Err(Error::WrongFamily {
                path: path.to_path_buf(),
                expected: format!("a VAE with {} latent channels", self.vae.latent_channels),
                found: format!("one with {}", config.latent_channels),
                hint: None,
            });
        }
        let (own, other_factor) = (self.vae.factor(), config.factor());
        if own != other_factor {
            if self.source.components().contains(&Component::Vae) {
                return Err(Error::WrongFamily {
                    path: path.to_path_buf(),
                    expected: format!(
                        "a VAE with {own} pixels per latent cell, as the model's own"
                    ),
                    found: format!("one with {other_factor}"),
                    hint: None,
                });
            }
            self.defaults = self.defaults.with_vae_factor(other_factor)?;
        }
        self.vae = config;
        self.source =
            Arc::new(Checkpoint::clone(&self.source).with_component(Component::Vae, &other));
        Ok(self)
    }

    /// Component name of each text tower.
    pub fn text_components(&self) -> Vec<Component> {
        self.family.text_components()
    }

    /// Class of the model's own sampler in diffusers, where that is not built.
    pub(crate) fn missing_sampler(&self) -> Option<&str> {
        few_steps::own_sampler(&self.scheduler)
    }

    /// That `sampler` takes the place of the model's own, where that is not built.
    pub(crate) fn other_sampler(&self, sampler: Sampler) -> Option<String> {
        let own = self.missing_sampler()?;
        Some(format!(
            "made for the sampler of {own}, which is not built; {sampler} takes its place"
        ))
    }

    /// That negative prompts do not act, whatever the guidance.
    pub(crate) fn no_negative(&self) -> Option<String> {
        let embedded = self.unet.time_cond_proj_dim.is_some();
        let why = "the negative prompt does not act: the network takes the guidance as a number (time_cond_proj_dim)";
        embedded.then(|| why.to_owned())
    }

    /// What the model is made of, from headers alone.
    pub fn summary(&self) -> Summary {
        let component = |component: Component| {
            let Inventory { tensors, parameters, bytes, dtypes } = self.source.inventory(component);
            let name = component.to_string();
            let dtypes = dtypes.into_iter().collect();
            ComponentSummary { name, tensors, parameters, bytes, dtypes }
        };
        Summary {
            name: self.name.clone(),
            family: self.family.to_string(),
            prediction: self.scheduler.prediction_type,
            in_channels: self.unet.in_channels,
            default_size: self.defaults.size.to_string(),
            default_steps: self.defaults.steps,
            default_guidance: self.defaults.guidance_scale,
            distilled: self.distilled,
            notes: [self.other_sampler(self.defaults.sampler), self.no_negative()]
                .into_iter()
                .flatten()
                .collect(),
            components: self.source.components().into_iter().map(component).collect(),
        }
    }
}

/// The values of a family for what neither the request nor the model's author sets.
///
/// `native`: side of the images that the UNet was trained at, in pixels; `vae_factor`: pixels per latent cell.
fn basic_defaults(
    family: Family,
    (native, vae_factor): (usize, usize),
    scheduler: &SchedulerConfig,
) -> Result<Defaults> {
    let side = native.clamp(vae_factor, crate::size::MAX_SIDE) / vae_factor * vae_factor;
    let (sampler, schedule) = usual_sampling(scheduler);
    Ok(Defaults {
        size: ImageSize::new(side, side)?,
        vae_factor,
        steps: 25,
        guidance_scale: family.spec().guidance,
        sampler,
        schedule,
    })
}

/// The sampler and the schedule that suit the noise of a model.
fn usual_sampling(scheduler: &SchedulerConfig) -> (Sampler, Schedule) {
    if scheduler.is_flow() || scheduler.rescale_betas_zero_snr {
        // A formula would put most steps where there is nothing but noise.
        return (Sampler::Euler, Schedule::Discrete);
    }
    let exponential = scheduler.use_exponential_sigmas == Some(true)
        || scheduler.sigma_schedule.as_deref() == Some("exponential");
    let schedule = match scheduler.use_karras_sigmas {
        _ if exponential => Schedule::Exponential,
        Some(false) => Schedule::Discrete,
        _ => Schedule::Karras,
    };
    (Sampler::DpmPp2m, schedule)
}

impl ModelParts {
    /// The defaults with a LoRA that makes the model draw in few steps.
    pub(crate) fn defaults_with(&self, distilled: Distilled, defaults: Defaults) -> Defaults {
        few_steps::defaults(distilled, &self.scheduler, defaults)
    }

    /// The sampler that suits what was made for few steps.
    pub(crate) fn sampler_of(&self, distilled: Distilled) -> Sampler {
        few_steps::sampling(distilled, &self.scheduler).0
    }

    /// What requests may leave open when the network predicts what `training` says.
    pub fn defaults_for(&self, training: Option<Training>) -> Defaults {
        let Some(training) = training else { return self.defaults };
        let (sampler, schedule) = usual_sampling(&training.apply(&self.scheduler));
        Defaults { sampler, schedule, ..self.defaults }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::PerBlock;

    #[test]
    fn the_parts_of_a_spec_fit_each_other() {
        for family in Family::ALL {
            let spec = family.spec();
            let (unet, text) = ((spec.unet)(), family.text_components());
            unet.validate().unwrap();
            assert_eq!(unet.cross_attention_dim, PerBlock::All(spec.context), "{family}");
            assert_eq!(spec.towers.iter().map(|tower| tower.width).sum::<usize>(), spec.context);
            for (level, width) in unet.block_out_channels.iter().enumerate() {
                assert_eq!(spec.heads.of(*width), unet.heads(level).unwrap(), "{family} {level}");
            }
            for tower in spec.towers {
                tower.config().validate().unwrap();
                assert!(tower.read.contains(&tower.written), "{family}");
                assert_eq!(spec.tower(tower.written.component).map(|t| t.width), Some(tower.width));
            }
            let fitting = Family::ALL.into_iter().filter(|other| other.spec().fits(&unet, &text));
            assert_eq!(fitting.collect::<Vec<_>>(), [family]);
        }
    }
}
