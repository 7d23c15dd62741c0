//! A second model that takes over within a run: SDXL's refiner.

use super::denoise::Bound;
use super::event::Watch;
use super::generated::Timings;
use super::model::Model;
use super::networks::Stacks;
use super::replay::working;
use super::residency::Running;
use super::timeline::Timeline;
use super::warning::Warning;
use super::{Pipeline, Plan};
use crate::error::{Error, Result};
use crate::lora::{Apply, LoraStack};
use crate::sampling::Grid;
use candle_core::Tensor;
use std::sync::Arc;

/// A model that takes over within a run. It reads the plan's prompts with its own text encoders; latents go on as they
/// are, and LoRAs stay with the first model.
#[derive(Debug, Clone)]
pub(super) struct Handover {
    /// The first step that it takes, from 0.
    at: usize,
    model: Arc<Model>,
    plan: Arc<Plan>,
    timeline: Arc<Timeline>,
    _running: Arc<Running>,
}

impl Handover {
    /// The one that `plan` asks for, over the levels of `grid`.
    pub(super) fn prepare(
        model: &Model,
        plan: &Plan,
        grid: &Grid,
        watch: Watch<'_>,
    ) -> Result<Option<Self>> {
        let Some(name) = &plan.refiner else { return Ok(None) };
        let refiner = model.refiner(name, watch)?.model.clone();
        let at = first_step(plan.refiner_at, grid, model.parts.scheduler.num_train_timesteps);
        if at == grid.steps() {
            watch.warn(Warning::RefinerWithoutStep { at: plan.refiner_at, steps: plan.steps });
        }
        let timeline = Timeline::new(plan, &[], refiner.parts.unet.time_cond_proj_dim.is_none());
        Ok(Some(Self {
            at,
            plan: Arc::new(Plan {
                refiner: None,
                prediction: None,
                loras: Vec::new(),
                ..plan.clone()
            }),
            timeline: Arc::new(timeline),
            _running: Arc::new(refiner.residency.running(Vec::new(), true)),
            model: refiner,
        }))
    }

    /// Whether it takes step `step`, from 0, and all behind it.
    pub(super) fn takes(&self, step: usize) -> bool {
        self.at <= step
    }

    /// The model that takes over.
    pub(super) fn model(&self) -> &Model {
        &self.model
    }

    /// What happens at each of its steps; steps are those of the whole run.
    pub(super) fn timeline(&self) -> &Arc<Timeline> {
        &self.timeline
    }

    /// Its networks for latents like `x`.
    pub(super) fn networks(
        &self,
        grid: &Grid,
        x: &Tensor,
        watch: Watch<'_>,
        spent: &mut Timings,
    ) -> Result<Vec<Bound>> {
        let _working = working();
        let Self { model, plan, timeline, .. } = self;
        let stack = |wording| {
            let (text, unet) = (LoraStack::default(), LoraStack::default());
            Stacks { text, unet, wording }
        };
        let estimates = timeline.estimates().iter();
        let stacks: Vec<Stacks> = estimates.map(|estimate| stack(estimate.wording)).collect();
        let script = timeline.script();
        let estimators = model.estimators(plan, script, &stacks, Apply::Merge, watch, spent)?;
        // Its own noise gives its timesteps and its reading of predictions.
        let grid = Arc::new(Grid { process: model.process.clone(), ..grid.clone() });
        let bound = |estimator| Bound::new(model, plan, estimator, &grid, x, watch.cancel);
        estimators.iter().map(bound).collect()
    }
}

impl Model {
    /// The model called `name`, opened as this one was, for latents of this one.
    pub(super) fn refiner(&self, name: &str, watch: Watch<'_>) -> Result<Arc<Pipeline>> {
        let refiner = self
            .residency
            .refiner
            .get(name, watch.cancel, || (self.opener.0)(&self.resolver.model(name)?))?;
        let latents = |model: &Model| {
            let vae = &model.parts.vae;
            (vae.latent_channels, vae.factor(), vae.scaling_factor.to_bits())
        };
        if latents(self) == latents(&refiner.model) {
            return Ok(refiner);
        }
        let why = format!(
            "{} draws in other latents than {}; expected a model of the same family, such as SDXL's refiner for SDXL",
            refiner.model_name(),
            self.parts.name
        );
        Err(Error::bad_request("refiner", name, why))
    }
}

/// The first step whose timestep lies behind the part `at` of `train` training timesteps: diffusers' `denoising_start`,
/// which rounds as Python does.
fn first_step(at: f64, grid: &Grid, train: usize) -> usize {
    let train = train as f64;
    let cut = (train - at * train).round_ties_even();
    grid.levels.iter().position(|level| level.timestep < cut).unwrap_or(grid.steps())
}
