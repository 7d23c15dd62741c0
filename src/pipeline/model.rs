//! An opened model: what all handles of a [`Pipeline`](super::Pipeline) share, and how its networks are built.

use super::Plan;
use super::cache::{Lazy, Recent};
use super::compat::ClipSkip;
use super::event::{Event, Watch};
use super::preview::{LatentColours, Previewer};
use super::replay;
use super::residency::{Memory, Residency, Stage};
use super::resolver::{LoraResolver, Opener};
use super::script::Script;
use super::warning::Warning;
use crate::cancel::Cancel;
use crate::conditioning::{Conditioning, Schedules, TextTowers};
use crate::error::{InFile, Result};
use crate::family::{ModelParts, TinyVaeParts};
use crate::kernels;
use crate::lora::{Dictionary, Lora, ReadOptions};
use crate::models::{Tiling, TinyVae, UNet, Vae};
use crate::picture::Picture;
use crate::sampling::{Grid, Integrator, NoiseProcess, SamplingRequest, Schedule, SchedulerConfig};
use crate::size::ImageSize;
use crate::weights::{Component, Precision, Products, Scope, WeightSource};
use candle_core::{DType, Device, Tensor};
use std::borrow::Cow;
use std::sync::Arc;

/// An opened model.
#[derive(Debug)]
pub(super) struct Model {
    pub(super) parts: ModelParts,
    pub(super) process: NoiseProcess,
    pub(super) names: Lazy<Dictionary>,
    pub(super) resolver: Arc<dyn LoraResolver>,
    pub(super) reading: ReadOptions,
    pub(super) loras: Recent<Lora>,
    /// Whether convolutions of f32 may round.
    pub(super) rounded: bool,
    /// How many images of a plan are evaluated at once.
    pub(super) batch: usize,
    /// A small autoencoder for previews.
    pub(super) tiny_vae: Option<TinyVaeParts>,
    pub(super) residency: Arc<Residency>,
    /// How it was opened; a refiner is opened so too.
    pub(super) opener: Opener,
}

/// How samples become pictures.
#[derive(Debug, Clone, Copy)]
pub(super) struct Decoding {
    /// In tiles.
    pub(super) tile: bool,
    /// Bytes are cut off instead of rounded.
    pub(super) truncated: bool,
}

impl Model {
    /// Where the model runs.
    pub(super) fn device(&self) -> &Device {
        self.parts.source.device()
    }

    /// How the UNet multiplies on a CPU; nothing elsewhere.
    pub(super) fn precision(&self) -> Option<Precision> {
        match self.parts.source.products(Component::UNet) {
            Products::Packed(precision) => Some(precision),
            Products::Plain => None,
        }
    }

    /// The features of a plan's texts, of each wording of `script`.
    pub(super) fn condition(
        &self,
        text: &TextTowers,
        plan: &Plan,
        script: &Script,
        cancel: &Cancel,
    ) -> Result<Vec<Conditioning>> {
        let guided = plan.guided() && self.parts.unet.time_cond_proj_dim.is_none();
        let prompts = script.prompts();
        let negatives = script.negatives();
        let texts = Schedules {
            prompts: &prompts,
            weights: script.weights(),
            negatives: guided.then_some(&negatives),
            wordings: script.wordings(),
            syntax: plan.prompt_syntax,
            emphasis: plan.emphasis,
            encode_empty: plan.encode_empty,
            clip_skip: self.layers(plan),
            skip_both: plan.compat.rules().skips_both(),
            zero_empty: plan.compat.rules().zero_empty_negative,
            size: plan.size()?,
            micro: plan.micro(),
        };
        text.encode_until(&texts, cancel)
    }

    /// The layer of the text encoders of a plan; A1111's SDXL has its own.
    fn layers(&self, plan: &Plan) -> usize {
        let own = self.parts.text_rules().base_skip > 0;
        let fixed = plan.compat.rules().clip_skip == ClipSkip::BothButSdxl;
        if own && fixed { 1 } else { plan.clip_skip }
    }

    /// Whether every text tower takes `text` at once.
    pub(super) fn fits(&self, text: &str) -> bool {
        self.parts.text.iter().enumerate().all(|(tower, config)| {
            // What cannot be opened is named when the text is encoded.
            let Ok(tokenizer) = self.parts.tokenizer(tower) else { return false };
            let window = tokenizer.max_length().min(config.max_position_embeddings);
            tokenizer.encode(text).len() <= window.saturating_sub(2)
        })
    }

    /// What a user should know of a plan that its settings alone show.
    pub(super) fn notes(&self, plan: &Plan) -> Vec<Warning> {
        let model = || self.parts.name.clone();
        let few = self.parts.distilled.and_then(|made| {
            Warning::few_steps(model(), made, plan.chosen(), self.parts.sampler_of(made))
        });
        let skipped = plan.clip_skip > 1 && self.parts.text_rules().base_skip > 0;
        let skipped =
            skipped.then(|| Warning::ClipSkipTwice { model: model(), clip_skip: plan.clip_skip });
        let own = self.parts.missing_sampler().map(|own| Warning::OtherSampler {
            model: model(),
            own: own.to_owned(),
            sampler: plan.sampler,
        });
        let embedded = self.parts.unet.time_cond_proj_dim.is_some();
        let silent = !plan.negative_prompt.is_empty() && (embedded || !plan.guided());
        let silent =
            silent.then(|| Warning::NegativePromptWithoutEffect { model: model(), embedded });
        let notes = [few, own, silent, skipped, self.mostly_noise(plan)].into_iter().flatten();
        notes.chain(Warning::outside_steps(&plan.loras, plan.steps)).collect()
    }

    /// That a formula puts most steps where there is nothing but noise.
    fn mostly_noise(&self, plan: &Plan) -> Option<Warning> {
        /// Far above the levels of ordinary models and of EDM's.
        const PURE: f64 = 500.0;
        let schedule = plan.schedule;
        let spread = matches!(schedule, Schedule::Karras | Schedule::Exponential);
        let process = self.process(plan).ok()?;
        let sigma = process.table().sigma(process.table().len() as f64);
        (spread && sigma > PURE).then_some(Warning::MostlyNoise { schedule, sigma })
    }

    /// The noise that the model was trained with, as the plan has it.
    pub(super) fn scheduler(&self, plan: &Plan) -> Cow<'_, SchedulerConfig> {
        let own = &self.parts.scheduler;
        plan.prediction.map_or(Cow::Borrowed(own), |training| Cow::Owned(training.apply(own)))
    }

    /// The process of that noise.
    fn process(&self, plan: &Plan) -> Result<NoiseProcess> {
        match plan.prediction {
            None => Ok(self.process.clone()),
            Some(_) => NoiseProcess::new(&self.scheduler(plan)),
        }
    }

    /// A fresh integrator of a plan.
    pub(super) fn integrator(&self, plan: &Plan) -> Result<Box<dyn Integrator>> {
        let (config, options) = (self.scheduler(plan), &plan.sampler_options);
        plan.sampler.begin(options, &config).in_file(&self.parts.scheduler_file)
    }

    /// The noise levels of a plan, once its sampler is known to follow the model's config.
    pub(super) fn grid(&self, plan: &Plan) -> Result<Grid> {
        self.integrator(plan)?;
        let rules = plan.compat.rules();
        let mut request = SamplingRequest::new(plan.sampler, plan.schedule, plan.steps);
        request.options = plan.sampler_options.clone();
        request.convention = rules.convention;
        request.rules = rules.grid_rules(plan.sampler);
        let (config, process) = (self.scheduler(plan), self.process(plan)?);
        request.grid(&config, &process)
    }

    /// The text towers without adapters.
    pub(super) fn text_towers(&self, watch: Watch<'_>) -> Result<Arc<TextTowers>> {
        self.residency.text.get(watch.cancel, || {
            watch.tell(&Event::Loading { component: "text encoder" });
            self.parts.text_towers_until(&*self.residency.base, watch.cancel)
        })
    }

    /// The UNet without adapters.
    pub(super) fn unet(&self, watch: Watch<'_>) -> Result<Arc<UNet>> {
        self.residency.unet.get(watch.cancel, || {
            watch.tell(&Event::Loading { component: "UNet" });
            let source: Arc<dyn WeightSource> = self.residency.base.clone();
            self.network(&source, watch.cancel)
        })
    }

    /// Whether blocks of the UNet are built when they are used. On other devices than the CPU weights would
    /// cross the bus at every step.
    pub(super) fn streams(&self) -> bool {
        self.residency.memory() == Memory::Low && self.precision().is_some()
    }

    /// The UNet of some weights.
    pub(super) fn network(&self, source: &Arc<dyn WeightSource>, cancel: &Cancel) -> Result<UNet> {
        let config = &self.parts.unet;
        if self.streams() {
            return UNet::streamed(source, Component::UNet, config);
        }
        UNet::new(&Scope::new(&**source, Component::UNet).until(cancel), config)
    }

    /// The half of the autoencoder that makes latents of pictures.
    pub(super) fn encoder(&self, cancel: &Cancel) -> Result<Arc<Vae>> {
        self.residency.encoder.get(cancel, || {
            Vae::encoder(
                &Scope::new(&*self.residency.base, Component::Vae).until(cancel),
                &self.parts.vae,
            )
        })
    }

    /// The half that makes pictures of latents.
    pub(super) fn decoder(&self, watch: Watch<'_>) -> Result<Arc<Vae>> {
        let _working = replay::working();
        self.residency.decoder.get(watch.cancel, || {
            watch.tell(&Event::Loading { component: "VAE" });
            let scope = Scope::new(&*self.residency.base, Component::Vae).until(watch.cancel);
            Vae::decoder(&scope, &self.parts.vae)
        })
    }

    /// As long as the guard lives, GPUs may round the factors of f32 convolutions, if the options ask for it or
    /// everything else has 16 bits: the autoencoder needs f32 for its range alone.
    pub(super) fn rounding(&self) -> kernels::Rounding {
        kernels::Rounding::new(
            self.rounded || self.parts.source.dtype(Component::UNet) != DType::F32,
        )
    }

    /// Decodes one sample.
    pub(super) fn decode(
        &self,
        latents: &Tensor,
        how: Decoding,
        watch: Watch<'_>,
        mut progress: impl FnMut(usize, usize),
    ) -> Result<Picture> {
        let vae = self.decoder(watch)?;
        let (_working, _rounded) = (replay::working(), self.rounding());
        let pixels = if how.tile {
            vae.decode_tiled_until(latents, Tiling::default(), watch.cancel, |tile, tiles| {
                watch.check()?;
                progress(tile, tiles);
                Ok(())
            })?
        } else {
            watch.check()?;
            progress(0, 1);
            vae.decode_until(latents, watch.cancel)?
        };
        if how.truncated {
            Picture::from_tensor_truncated(&pixels)
        } else {
            Picture::from_tensor(&pixels)
        }
    }

    /// A preview of one sample, of the size of the image.
    ///
    /// `latents`: `[1, C, h, w]`, scaled.
    pub(super) fn preview(&self, latents: &Tensor, watch: Watch<'_>) -> Result<Picture> {
        let previewer = self.previewer(watch)?;
        let (_, _, height, width) = latents.dims4()?;
        let factor = self.parts.vae.factor();
        let pixels = match &*previewer {
            Previewer::Tiny(vae) => {
                let (_working, _rounded) = (replay::working(), self.rounding());
                vae.decode(latents)?
            }
            Previewer::Colours(colours) => colours.pixels(latents)?,
        };
        let size = ImageSize::new(width * factor, height * factor)?;
        Picture::from_tensor(&pixels)?.resize(size)
    }

    fn previewer(&self, watch: Watch<'_>) -> Result<Arc<Previewer>> {
        self.residency.previewer.get(watch.cancel, || {
            if let Some(tiny) = &self.tiny_vae {
                let scope = Scope::new(&tiny.source, Component::Vae);
                let vae = TinyVae::decoder(&scope, &tiny.config)?;
                return Ok(Previewer::Tiny(Box::new(vae)));
            }
            let decoder = self.decoder(watch)?;
            let colours = {
                let (_working, _rounded) = (replay::working(), self.rounding());
                LatentColours::fit(&decoder, self.device())?
            };
            drop(decoder);
            // Where memory is short the decoder does not wait beside the UNet.
            self.residency.over(Stage::Decode);
            Ok(Previewer::Colours(colours))
        })
    }
}
