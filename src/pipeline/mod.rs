//! The pipeline: from a request to pictures.
//!
//! A [`Pipeline`] is an opened model; it is immutable from outside and can be shared between
//! threads. [`Pipeline::steps`] gives one image as an iterator of steps; [`Pipeline::generate`]
//! drives it for a whole plan.
//!
//! Floor 5.

mod adapters;
mod budget;
mod cache;
mod device;
mod event;
pub mod fields;
mod finite;
mod measure;
mod network;
mod phases;
mod plan;
mod replay;
mod request;
mod steps;

pub use crate::kernels::{Ceilings, KernelKind, Work};
pub use adapters::{Found, Paths, Shelf};
pub use budget::Budget;
pub use device::{DTypeChoice, DeviceChoice};
pub use event::{Cancel, Event, Observer, Silent};
pub use measure::{Measured, peak_memory, reset_peak_memory};
pub use plan::Plan;
pub use request::{MAX_COUNT, Request};
pub use steps::{StepView, Steps};

use crate::conditioning::{Conditioning, TextTowers, Texts};
use crate::error::{Error, InFile, Result};
use crate::family::{ModelParts, Summary};
use crate::kernels::{self, AtWork, Share};
use crate::lora::{Dictionary, Lora, ReadOptions};
use crate::models::{Tiling, UNet, Vae};
use crate::picture::Picture;
use crate::sampling::NoiseTable;
use crate::weights::{Placement, Precision, Products, Quantisation, Resident, Scope, WeightSource};
use cache::{Lazy, Noted, Recent};
use candle_core::{DType, Device, Tensor};
use event::{Once, Watch};
use phases::Phases;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// How a model is opened.
///
/// ```no_run
/// # fn main() -> colora::Result<()> {
/// let pipeline = colora::Pipeline::options().device("cpu".parse()?).open("model.safetensors")?;
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct Options {
    device: DeviceChoice,
    dtype: Option<DTypeChoice>,
    quantise: Option<Quantisation>,
    vae: Option<PathBuf>,
    shelf: Arc<dyn Shelf>,
    reading: ReadOptions,
    stacks: usize,
    memory: Memory,
    spare: Option<usize>,
}

/// Bytes of LoRAs that are kept for requests that name them again.
const LORA_BYTES: u64 = 1 << 30;

/// What is kept in memory for the next request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Memory {
    /// Every network, once built.
    #[default]
    Keep,
    /// Each network goes when no part of the plan needs it any more.
    Save,
    /// Every network goes when its part of the picture is done. On the CPU the UNet is read block by block in
    /// every step; elsewhere prompt and negative prompt are evaluated one after the other.
    Low,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            device: DeviceChoice::default(),
            dtype: None,
            quantise: None,
            vae: None,
            shelf: Arc::new(Paths),
            reading: ReadOptions::default(),
            stacks: 2,
            memory: Memory::default(),
            spare: None,
        }
    }
}

impl Options {
    /// Where to run; default [`DeviceChoice::Auto`].
    #[must_use]
    pub fn device(mut self, device: DeviceChoice) -> Self {
        self.device = device;
        self
    }

    /// Float type; default f32 on a CPU, f16 on a GPU.
    #[must_use]
    pub fn dtype(mut self, dtype: Option<DTypeChoice>) -> Self {
        self.dtype = dtype;
        self
    }

    /// Keep the UNet's weights in blocks of so many bits, which takes half to a quarter of their memory;
    /// default as the files hold them. On the CPU only.
    #[must_use]
    pub fn quantize(mut self, kind: Option<Quantisation>) -> Self {
        self.quantise = kind;
        self
    }

    /// A VAE file or folder to use instead of the model's own.
    #[must_use]
    pub fn vae(mut self, vae: Option<PathBuf>) -> Self {
        self.vae = vae;
        self
    }

    /// Where LoRAs are found by name; default: every name is a path.
    #[must_use]
    pub fn shelf(mut self, shelf: Arc<dyn Shelf>) -> Self {
        self.shelf = shelf;
        self
    }

    /// How strictly LoRA files are read.
    #[must_use]
    pub fn reading(mut self, reading: ReadOptions) -> Self {
        self.reading = reading;
        self
    }

    /// How many composed networks are kept for requests that name the same LoRAs again; default 2.
    ///
    /// Each holds the weights that its LoRAs change, and shares the others with the model. As long as requests run
    /// that take more of them in turn, so many are kept.
    #[must_use]
    pub fn stacks(mut self, stacks: usize) -> Self {
        self.stacks = stacks;
        self
    }

    /// What is kept for the next request; default [`Memory::Keep`].
    #[must_use]
    pub fn memory(mut self, memory: Memory) -> Self {
        self.memory = memory;
        self
    }

    /// How many bytes of the CPU's memory the process keeps at most for what comes next, although nothing uses them:
    /// buffers between two layers, and the memory of networks that are gone. Default: half of the memory that the
    /// process may have, 8 GiB at most. What has been unused the longest goes back to the system first.
    ///
    /// It is one budget for all pipelines of a process; of those that are open the largest counts. Less is slower:
    /// memory that comes fresh from the system costs as much as the work that fills it.
    #[must_use]
    pub fn spare_memory(mut self, bytes: usize) -> Self {
        self.spare = Some(bytes);
        self
    }

    /// Opens a diffusers folder or a single-file checkpoint. Weights are read when first needed.
    ///
    /// # Errors
    /// What is wrong with the files, or [`Error::Unsupported`] for the device.
    pub fn open(self, path: impl AsRef<Path>) -> Result<Pipeline> {
        let placement = self.placement()?;
        let parts = ModelParts::open(path.as_ref(), placement, self.vae.as_deref())?;
        self.over(parts)
    }

    /// Opens the starter model that is built into colora.
    pub fn open_starter(self) -> Result<Pipeline> {
        let placement = self.placement()?;
        let parts = crate::starter::open(placement, self.vae.as_deref())?;
        self.over(parts)
    }

    /// A pipeline over parts that the caller opened, and perhaps changed.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a scheduler config that makes no sense.
    pub fn over(self, parts: ModelParts) -> Result<Pipeline> {
        let table = NoiseTable::new(&parts.scheduler).in_file(&parts.scheduler_file)?;
        let base = Resident::new(parts.source.clone());
        Ok(Pipeline {
            base: Arc::new(base.keeping_pristine(self.memory == Memory::Keep)),
            parts,
            table,
            text: Lazy::new(),
            unet: Lazy::new(),
            encoder: Lazy::new(),
            decoder: Lazy::new(),
            names: Lazy::new(),
            shelf: self.shelf,
            reading: self.reading,
            loras: Recent::new(32).weighed(|lora| lora.file().byte_len(), LORA_BYTES),
            towers: Recent::new(self.stacks),
            unets: Recent::new(self.stacks),
            // Features are small beside networks.
            conditions: Recent::new(16),
            unpainted: Recent::new(4),
            replays: Arc::default(),
            rounded: self.dtype == Some(DTypeChoice::Tf32),
            memory: self.memory,
            requests: AtomicUsize::new(0),
            _share: Share::new(
                self.spare.unwrap_or_else(kernels::usual_budget),
                self.memory == Memory::Keep,
            ),
        })
    }

    fn placement(&self) -> Result<Placement> {
        let device = self.device.open()?;
        let dtype = DTypeChoice::resolve(self.dtype, &device)?;
        // On a CPU bf16 means products of bf16 numbers; everything between them stays f32.
        let products = match (device.is_cpu(), self.dtype) {
            (false, _) => Products::Plain,
            (true, Some(DTypeChoice::Bf16)) => Products::Packed(Precision::Bf16),
            (true, _) => Products::Packed(Precision::F32),
        };
        // SD's VAE overflows in f16 (its config says force_upcast); f32 costs little there.
        let vae_dtype = if dtype == DType::F16 { DType::F32 } else { dtype };
        let quantise = self.quantise;
        // There they would be unpacked on the CPU.
        if let (Some(kind), true) = (quantise, device.is_metal()) {
            return Err(Error::unsupported(
                format!("{kind} weights with Metal"),
                "use --device cpu, or leave --quantize out",
            ));
        }
        Ok(Placement { device, dtype, vae_dtype, products, quantise })
    }
}

/// One finished image.
#[derive(Debug, Clone)]
pub struct Generated {
    /// The image.
    pub picture: Picture,
    /// Which image of the plan, from 0.
    pub index: usize,
    /// Its own seed.
    pub seed: u64,
    /// Where the time went.
    pub timings: Timings,
}

/// Where the time of one image went.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Timings {
    /// Reading and building networks.
    pub load: Duration,
    /// Putting LoRAs into the weights.
    pub compose: Duration,
    /// Encoding the texts.
    pub encode: Duration,
    /// Sampling.
    pub sample: Duration,
    /// Decoding.
    pub decode: Duration,
}

/// An opened model.
#[derive(Debug)]
pub struct Pipeline {
    parts: ModelParts,
    /// The model's weights, shared by everything that is built.
    base: Arc<Resident>,
    table: NoiseTable,
    text: Lazy<TextTowers>,
    unet: Lazy<UNet>,
    encoder: Lazy<Vae>,
    decoder: Lazy<Vae>,
    names: Lazy<Dictionary>,
    shelf: Arc<dyn Shelf>,
    reading: ReadOptions,
    loras: Recent<Lora>,
    towers: Recent<Noted<TextTowers>>,
    unets: Recent<Noted<UNet>>,
    conditions: Recent<Noted<Conditioning>>,
    /// What inpainting networks see beside the latents of a picture that is all to be painted, by size.
    unpainted: Recent<Tensor>,
    replays: Arc<replay::Replays>,
    /// Whether convolutions of f32 may round.
    rounded: bool,
    memory: Memory,
    /// Requests that are being served.
    requests: AtomicUsize,
    /// Behind the networks, whose memory it gives back.
    _share: Share,
}

impl Drop for Pipeline {
    /// Networks go first, and then, with the share, the memory that they leave and nobody else wants.
    fn drop(&mut self) {
        let _working = replay::working();
        self.replays.clear();
        self.text.clear();
        self.towers.clear();
        self.unet.clear();
        self.unets.clear();
        self.encoder.clear();
        self.decoder.clear();
        self.conditions.clear();
        self.unpainted.clear();
        self.base.release_all();
    }
}

impl Pipeline {
    /// Opens a model with default options.
    ///
    /// # Errors
    /// As [`Options::open`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::options().open(path)
    }

    /// Options to open a model with.
    pub fn options() -> Options {
        Options::default()
    }

    /// The model's name: its file or folder name.
    pub fn model_name(&self) -> &str {
        &self.parts.name
    }

    /// What the model is made of.
    pub fn summary(&self) -> Summary {
        self.parts.summary()
    }

    /// The model's weights, read when asked for.
    pub fn weights(&self) -> Arc<dyn WeightSource> {
        self.base.clone()
    }

    /// Where the model runs.
    pub fn device(&self) -> &Device {
        self.parts.source.device()
    }

    /// Resolves a request with this model's defaults.
    ///
    /// `random_seed` is used when the request has no seed.
    ///
    /// # Errors
    /// As [`Request::plan`], and [`Error::BadRequest`] when the sampler cannot place the steps.
    pub fn plan(&self, request: &Request, random_seed: u64) -> Result<Plan> {
        self.plan_observed(request, random_seed, &Silent)
    }

    /// As [`plan`](Self::plan); `observer` is told what [`generate`](Self::generate) would warn of before it begins.
    ///
    /// # Errors
    /// As [`plan`](Self::plan).
    pub fn plan_observed(
        &self,
        request: &Request,
        random_seed: u64,
        observer: &dyn Observer,
    ) -> Result<Plan> {
        let mut plan = request.plan(&self.parts.defaults, random_seed)?;
        self.sigmas(&plan)?;
        let watch = Watch { observer: &Once::new(observer), cancel: &Cancel::new() };
        plan.loras = self.resolve_loras(&plan.loras, watch)?;
        self.notes(&plan).into_iter().for_each(|note| watch.warn(note));
        let depth = self.parts.text.iter().map(|c| c.num_hidden_layers).min().unwrap_or(1);
        if plan.clip_skip > depth.saturating_sub(self.parts.text_rules().base_skip).max(1) {
            return Err(Error::bad_request(
                "clip_skip",
                plan.clip_skip,
                format!("the text encoder has {depth} layers"),
            ));
        }
        Ok(plan)
    }

    /// Makes every image of `plan`, in order, and hands each over as soon as it is done.
    ///
    /// # Errors
    /// [`Error::Cancelled`] when `cancel` was set, what the networks give, or what `sink` returns.
    pub fn generate(
        &self,
        plan: &Plan,
        observer: &dyn Observer,
        cancel: &Cancel,
        sink: &mut dyn FnMut(Generated) -> Result<()>,
    ) -> Result<()> {
        cancel.check()?;
        let observer = &Once::new(observer);
        let watch = Watch { observer, cancel };
        // Once: a file that is replaced meanwhile changes none of the images.
        let phases = self.phases(plan, watch)?;
        let _running = self.running(&phases, true);
        for image in 0..plan.count {
            let mut steps = self.steps_of(plan, image, &phases, watch)?;
            observer.event(&Event::Sampling { image, steps: plan.steps });
            while let Some(view) = steps.next() {
                let view = view?;
                let wanted = plan.preview > 0 && view.step.is_multiple_of(plan.preview);
                let preview = if wanted { Some(steps.preview(&view)?) } else { None };
                let (step, steps, sigma) = (view.step, view.steps, view.sigma);
                observer.event(&Event::Step { image, step, steps, sigma, preview });
            }
            sink(steps.finish_observed(observer, cancel)?)?;
        }
        Ok(())
    }

    /// Image `index` of `plan` as an iterator of steps; [`Steps::finish`] decodes it.
    ///
    /// # Errors
    /// What reading and running the networks gives.
    pub fn steps(&self, plan: &Plan, index: usize) -> Result<Steps<'_>> {
        self.steps_observed(plan, index, &Silent, &Cancel::new())
    }

    fn steps_observed(
        &self,
        plan: &Plan,
        index: usize,
        observer: &dyn Observer,
        cancel: &Cancel,
    ) -> Result<Steps<'_>> {
        cancel.check()?;
        let watch = Watch { observer: &Once::new(observer), cancel };
        let phases = self.phases(plan, watch)?;
        let running = self.running(&phases, index + 1 >= plan.count);
        Ok(self.steps_of(plan, index, &phases, watch)?.keeping(running))
    }

    fn steps_of(
        &self,
        plan: &Plan,
        index: usize,
        phases: &Phases,
        watch: Watch<'_>,
    ) -> Result<Steps<'_>> {
        watch.check()?;
        let session = (replay::Session::new(), AtWork::begin());
        let (_working, _rounded) = (replay::working(), self.rounding());
        let cast = self.cast(plan, phases, watch)?;
        watch.check()?;
        Steps::new(self, plan, index, cast, (watch.cancel, session))
    }

    fn condition(&self, text: &TextTowers, plan: &Plan, cancel: &Cancel) -> Result<Conditioning> {
        let negative = (plan.guided() && self.parts.unet.time_cond_proj_dim.is_none())
            .then_some(plan.negative_prompt.as_str());
        let texts =
            Texts { prompt: &plan.prompt, negative, clip_skip: plan.clip_skip, size: plan.size()? };
        text.encode_until(&texts, cancel)
    }

    /// What is amiss with a plan for a model that was made for few steps, and what cannot act.
    fn notes(&self, plan: &Plan) -> Vec<String> {
        let distilled = self.parts.distilled;
        let advice = distilled.and_then(|d| d.advice(plan.steps, plan.guidance_scale));
        let unguided = "the negative prompt does not act at guidance 1, which is none";
        let silent = self.parts.no_negative();
        let silent = silent.or_else(|| (!plan.guided()).then(|| unguided.to_owned()));
        let silent = silent.filter(|_| !plan.negative_prompt.is_empty());
        let notes = [advice, self.parts.other_sampler(plan.sampler), silent];
        notes.into_iter().flatten().map(|note| format!("{}: {note}", self.parts.name)).collect()
    }

    fn sigmas(&self, plan: &Plan) -> Result<crate::sampling::Sigmas> {
        self.parts.scheduler.validate_for(plan.sampler).in_file(&self.parts.scheduler_file)?;
        crate::sampling::Sigmas::plan(
            plan.sampler,
            plan.schedule,
            plan.steps,
            &self.parts.scheduler,
            &self.table,
        )
    }

    fn text_towers(&self, watch: Watch<'_>) -> Result<Arc<TextTowers>> {
        self.text.get(watch.cancel, || {
            watch.tell(&Event::Loading { component: "text encoder" });
            self.parts.text_towers_until(&*self.base, watch.cancel)
        })
    }

    fn unet(&self, watch: Watch<'_>) -> Result<Arc<UNet>> {
        self.unet.get(watch.cancel, || {
            watch.tell(&Event::Loading { component: "UNet" });
            let source: Arc<dyn WeightSource> = self.base.clone();
            self.network(&source, watch.cancel)
        })
    }

    /// Whether blocks of the UNet are built when they are used. On other devices than the CPU weights would
    /// cross the bus at every step.
    fn streams(&self) -> bool {
        self.memory == Memory::Low && self.precision().is_some()
    }

    /// The UNet of some weights.
    fn network(&self, source: &Arc<dyn WeightSource>, cancel: &Cancel) -> Result<UNet> {
        let config = &self.parts.unet;
        if self.streams() {
            return UNet::streamed(source, "unet", config);
        }
        UNet::new(&Scope::new(&**source, "unet").until(cancel), config)
    }

    /// The half of the autoencoder that makes latents of pictures.
    fn encoder(&self, cancel: &Cancel) -> Result<Arc<Vae>> {
        self.encoder.get(cancel, || {
            Vae::encoder(&Scope::new(&*self.base, "vae").until(cancel), &self.parts.vae)
        })
    }

    /// The half that makes pictures of latents.
    fn decoder(&self, watch: Watch<'_>) -> Result<Arc<Vae>> {
        let _working = replay::working();
        self.decoder.get(watch.cancel, || {
            watch.tell(&Event::Loading { component: "VAE" });
            let scope = Scope::new(&*self.base, "vae").until(watch.cancel);
            Vae::decoder(&scope, &self.parts.vae)
        })
    }

    /// All texts of a picture are encoded.
    fn texts_done(&self) {
        if self.memory != Memory::Keep {
            self.text.clear();
            self.towers.clear();
            self.base.release("text_encoder");
            self.base.release("text_encoder_2");
        }
        kernels::stage_done();
    }

    /// A picture is encoded.
    fn encoded(&self) {
        if self.memory != Memory::Keep {
            self.encoder.clear();
        }
    }

    /// All networks of a picture's steps are built: what they do not use is not needed any more.
    fn networks_built(&self) {
        if self.memory != Memory::Keep {
            self.base.release("unet");
        }
    }

    /// All steps of a picture are done; `last`: of the plan's last picture.
    fn steps_done(&self, last: bool) {
        // What another request takes in turn would have to be built anew.
        let last = last && self.requests.load(Ordering::Relaxed) <= 1;
        if self.memory == Memory::Low || (self.memory == Memory::Save && last) {
            self.forget_networks();
        }
        kernels::stage_done();
    }

    /// Lets the networks of steps go.
    fn forget_networks(&self) {
        self.replays.clear();
        self.unet.clear();
        self.unets.clear();
    }

    /// A picture is decoded.
    fn picture_done(&self) {
        if self.memory == Memory::Low {
            self.decoder.clear();
            self.base.release("vae");
        }
        kernels::stage_done();
    }

    /// While it lives, GPUs may round the factors of f32 convolutions if somebody asked for it, or everything else is of
    /// 16 bits: the autoencoder needs f32 for its range alone.
    fn rounding(&self) -> kernels::Rounding {
        kernels::Rounding::new(self.rounded || self.parts.source.dtype("unet") != DType::F32)
    }

    /// Decodes one sample.
    fn decode(
        &self,
        latents: &Tensor,
        tile: bool,
        watch: Watch<'_>,
        mut progress: impl FnMut(usize, usize),
    ) -> Result<Picture> {
        let vae = self.decoder(watch)?;
        let (_working, _rounded) = (replay::working(), self.rounding());
        let pixels = if tile {
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
        Picture::from_tensor(&pixels)
    }
}
