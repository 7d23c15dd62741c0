//! The pipeline: from a request to pictures.
//!
//! A [`Pipeline`] is an opened model; it is immutable from outside, cheap to clone, and can be shared between
//! threads. [`Pipeline::draw`] makes the pictures of a request. Behind it are two steps that can be taken apart: a
//! [`Plan`] is a request with every choice made, and a [`Run`] is a plan with its LoRAs read. [`Run::steps`] gives
//! images as an iterator of steps; [`Run::generate`] drives it for a whole plan.
//!
//! Floor 5.

mod adapters;
mod budget;
mod cache;
mod denoise;
mod device;
mod embeddings;
mod event;
pub mod fields;
mod finite;
mod generated;
mod guidance;
mod guiding;
mod handover;
mod measure;
mod model;
mod networks;
mod open;
mod plan;
mod preview;
mod replay;
mod request;
mod residency;
mod resolver;
mod run;
mod script;
mod shared;
mod start;
mod step_names;
mod steps;
mod timeline;
mod tokens;
mod warning;

pub use crate::kernels::{Ceilings, KernelKind, Work};
pub use budget::Budget;
pub use device::{DTypeChoice, DeviceChoice};
pub use event::{Cancel, Event, Observer, Silent};
pub use generated::{Generated, Timings};
pub use guidance::{GuidanceInterval, Pag, Sag};
pub use measure::{Measured, peak_memory, reset_peak_memory};
pub use open::Options;
pub use plan::Plan;
pub use request::{MAX_COUNT, Request};
pub use residency::Memory;
pub use resolver::{LoraResolver, PathResolver, ResolvedLora};
pub use run::Run;
pub use start::Start;
pub use step_names::Shares;
pub use steps::{StepView, Steps};
pub use timeline::{Acting, Depth, Estimate, Phase, Role, Timeline};
pub use tokens::TokenCount;
pub use warning::Warning;

use crate::error::{Error, Result};
use crate::family::Summary;
use crate::sampling::Sampling;
use crate::weights::WeightSource;
use candle_core::{Device, DeviceLocation};
use event::{Once, Watch};
use model::Model;
use std::cell::RefCell;
use std::hash::{BuildHasher, Hasher};
use std::path::Path;
use std::sync::Arc;

/// An opened model. Cloning shares it.
#[derive(Debug, Clone)]
pub struct Pipeline {
    model: Arc<Model>,
}

impl Pipeline {
    fn of(model: Model) -> Self {
        Self { model: Arc::new(model) }
    }

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
        &self.model.parts.name
    }

    /// What the model is made of.
    pub fn summary(&self) -> Summary {
        self.model.parts.summary()
    }

    /// The model's weights, read when asked for.
    pub fn weights(&self) -> Arc<dyn WeightSource> {
        self.model.residency.base.clone()
    }

    /// Where the model runs.
    pub fn device(&self) -> &Device {
        self.model.device()
    }

    /// The name of the device, as [`DeviceChoice`] reads it: `cpu`, `cuda:0`.
    pub fn device_name(&self) -> String {
        match self.device().location() {
            DeviceLocation::Cpu => "cpu".to_owned(),
            DeviceLocation::Cuda { gpu_id } => format!("cuda:{gpu_id}"),
            DeviceLocation::Metal { gpu_id } => format!("metal:{gpu_id}"),
        }
    }

    /// Makes the pictures of a request; with a random seed unless the request has one.
    ///
    /// ```no_run
    /// # fn main() -> colora::Result<()> {
    /// let pipeline = colora::Pipeline::open("model.safetensors")?;
    /// let request = colora::Request { prompt: "a red apple".into(), ..Default::default() };
    /// for image in pipeline.draw(&request)? {
    ///     image.picture.save(format!("{}.png", image.seed), false)?;
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As [`plan_random`](Self::plan_random) and [`generate`](Self::generate).
    pub fn draw(&self, request: &Request) -> Result<Vec<Generated>> {
        let plan = self.plan_random(request)?;
        let mut images = Vec::with_capacity(plan.count);
        self.generate(&plan, &Silent, &Cancel::new(), &mut |image| {
            images.push(image);
            Ok(())
        })?;
        Ok(images)
    }

    /// Resolves a request with this model's defaults, and with a random seed unless it has one.
    ///
    /// # Errors
    /// As [`plan`](Self::plan).
    pub fn plan_random(&self, request: &Request) -> Result<Plan> {
        self.plan(request, random_seed())
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

    /// As [`plan`](Self::plan); `observer` gets the [`warnings`](Plan::warnings) as soon as they are found.
    ///
    /// # Errors
    /// As [`plan`](Self::plan).
    pub fn plan_observed(
        &self,
        request: &Request,
        random_seed: u64,
        observer: &dyn Observer,
    ) -> Result<Plan> {
        let model = &self.model;
        let defaults = model.parts.defaults_for(request.prediction);
        let mut plan = request.plan(&defaults, random_seed)?;
        model.grid(&plan)?;
        let found = RefCell::new(Vec::new());
        let noted = |event: &Event| {
            if let Event::Warning { warning } = event {
                found.borrow_mut().push(warning.clone());
            }
            observer.event(event);
        };
        let watch = Watch { observer: &Once::new(&noted), cancel: &Cancel::new() };
        let resolved = model.resolve_loras(&plan, watch)?;
        if let Some(distilled) = resolved.distilled {
            // What the request leaves open suits the LoRA.
            let defaults = model.parts.defaults_with(distilled, defaults);
            plan = request.plan(&defaults, random_seed)?;
            model.grid(&plan)?;
        }
        plan.loras = resolved.loras;
        if let Some(name) = &plan.refiner {
            model.refiner(name, watch)?;
        }
        model.notes(&plan).into_iter().for_each(|note| watch.warn(note));
        let depth = model.parts.text.iter().map(|c| c.num_hidden_layers).min().unwrap_or(1);
        if plan.clip_skip > depth.saturating_sub(model.parts.text_rules().base_skip).max(1) {
            return Err(Error::bad_request(
                "clip_skip",
                plan.clip_skip,
                format!("the text encoder has {depth} layers"),
            ));
        }
        if let Some((field, text)) = plan.second_prompt().filter(|_| model.parts.text.len() < 2) {
            let why = "this model has one text encoder; a second prompt needs SDXL";
            return Err(Error::bad_request(field, text, why));
        }
        // Elsewhere an empty negative prompt is encoded anyway.
        plan.encode_empty &=
            plan.negative_prompt.is_empty() && model.parts.text_rules().zero_empty_negative;
        plan.simplify(|text| model.fits(text) && model.called(&[text]).is_empty());
        plan.warnings = found.take();
        Ok(plan)
    }

    /// Prepares a plan: finds and reads its LoRAs, so that all its images are made with the same.
    ///
    /// # Errors
    /// What finding and reading the LoRAs gives.
    pub fn prepare(&self, plan: &Plan) -> Result<Run> {
        self.prepare_observed(plan, &Silent, &Cancel::new())
    }

    /// As [`prepare`](Self::prepare); `observer` gets warnings, and `cancel` stops it.
    ///
    /// # Errors
    /// As [`prepare`](Self::prepare), and [`Error::Cancelled`].
    pub fn prepare_observed(
        &self,
        plan: &Plan,
        observer: &dyn Observer,
        cancel: &Cancel,
    ) -> Result<Run> {
        Run::prepare(&self.model, plan, true, Watch { observer: &Once::new(observer), cancel })
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
        let watch = Watch { observer: &Once::new(observer), cancel };
        Run::prepare(&self.model, plan, true, watch)?.generate_watched(watch, sink)
    }

    /// Makes an image of `plan` for each of `seeds` instead of the plan's own, all of them in one evaluation of the network
    /// for each step; their places are those of the seeds. On the CPU an image of several is the image made alone, to
    /// the bit.
    ///
    /// # Errors
    /// As [`generate`](Self::generate); [`Error::BadRequest`] without seeds.
    pub fn generate_seeds(
        &self,
        plan: &Plan,
        seeds: &[u64],
        observer: &dyn Observer,
        cancel: &Cancel,
        sink: &mut dyn FnMut(Generated) -> Result<()>,
    ) -> Result<()> {
        let plan = &Plan { count: seeds.len(), ..plan.clone() };
        let watch = Watch { observer: &Once::new(observer), cancel };
        Run::prepare(&self.model, plan, true, watch)?.generate_seeds(seeds, watch, sink)
    }

    /// Image `index` of `plan` as an iterator of steps; [`Steps::finish`] decodes it. To take several images of a
    /// plan, [`prepare`](Self::prepare) it once and use [`Run::steps`].
    ///
    /// # Errors
    /// What reading and running the networks gives.
    pub fn steps(&self, plan: &Plan, index: usize) -> Result<Steps> {
        self.steps_of(plan, index, None)
    }

    /// As [`steps`](Self::steps), with an integrator and noise levels of the caller's own instead of those of the plan.
    ///
    /// # Errors
    /// [`Error::BadRequest`] when the levels are not the plan's number of steps; what reading and running the
    /// networks gives.
    pub fn steps_with(&self, plan: &Plan, index: usize, sampling: Sampling) -> Result<Steps> {
        self.steps_of(plan, index, Some(sampling))
    }

    fn steps_of(&self, plan: &Plan, index: usize, sampling: Option<Sampling>) -> Result<Steps> {
        let watch = Watch { observer: &Once::new(&Silent), cancel: &Cancel::new() };
        let whole = index + 1 >= plan.count;
        let run = Run::prepare(&self.model, plan, whole, watch)?;
        run.steps_watched(run.images([index]), sampling, watch)
    }
}

/// A seed that differs from run to run; 32 bits, which are enough and easy to copy.
pub fn random_seed() -> u64 {
    let random = std::hash::RandomState::new().build_hasher().finish();
    random & u64::from(u32::MAX)
}
