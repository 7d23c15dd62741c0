//! A plan that is prepared once: everything that its images share is found, read and decided before the first.

use super::event::{Event, Observer, Once, Watch};
use super::generated::{Generated, Timings};
use super::handover::Handover;
use super::model::Model;
use super::networks::{Stacks, network_key};
use super::replay::{Session, working};
use super::residency::Running;
use super::start::Start;
use super::step_names::{Naming, Shares};
use super::steps::{Image, Prepared, Steps};
use super::timeline::{Acting, Role, Timeline};
use super::warning::Warning;
use super::{Cancel, Plan, Silent};
use crate::error::{Error, Result};
use crate::kernels::AtWork;
use crate::lora::{Apply, LoraStack, StackEntry};
use crate::sampling::{Grid, Sampling};
use std::collections::BTreeSet;
use std::sync::Arc;

/// A prepared plan: its LoRAs are read, its noise levels placed, and what happens at each step is decided.
///
/// All its images are made with the same LoRAs, whatever becomes of their files meanwhile: small files (up to
/// 512 MiB) are in memory, larger ones are mapped, and one that is shortened is an error that names it.
///
/// ```no_run
/// # fn main() -> colora::Result<()> {
/// # let pipeline = colora::Pipeline::options().open_starter()?;
/// # let plan = pipeline.plan(&colora::Request { count: 4, ..Default::default() }, 0)?;
/// let run = pipeline.prepare(&plan)?;
/// // Four images in one evaluation of the network for each step.
/// run.steps(0..4)?.finish_each(&mut |image| {
///     image.picture.save(format!("{}.png", image.index), false)
/// })?;
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Run {
    plan: Plan,
    stack: LoraStack,
    timeline: Arc<Timeline>,
    /// The LoRAs of each estimate of the timeline.
    stacks: Vec<Stacks>,
    apply: Apply,
    grid: Arc<Grid>,
    start: Start,
    handover: Option<Handover>,
    running: Arc<Running>,
    model: Arc<Model>,
}

impl Run {
    /// Prepares `plan`; `whole`: its images are made to the last one.
    pub(super) fn prepare(
        model: &Arc<Model>,
        plan: &Plan,
        whole: bool,
        watch: Watch<'_>,
    ) -> Result<Self> {
        watch.check()?;
        model.notes(plan).into_iter().for_each(|note| watch.warn(note));
        let stack = model.stack(plan, watch)?;
        let roles: Vec<Role> = stack.entries.iter().map(role).collect();
        let two_evaluations = model.parts.unet.time_cond_proj_dim.is_none();
        let timeline = Timeline::new(plan, &roles, two_evaluations);
        let stacks: Vec<Stacks> = timeline
            .estimates()
            .iter()
            .map(|estimate| Stacks {
                text: part(&stack, &timeline.texts()[estimate.text]).text_part(),
                unet: part(&stack, &timeline.unets()[estimate.unet]).unet_part(),
                wording: estimate.wording,
            })
            .collect();
        let entries = stacks.iter().flat_map(|stacks| &stacks.unet.entries);
        let advice = entries.filter_map(|entry| {
            let made = entry.lora.file().distilled()?;
            Warning::few_steps(entry.lora.name(), made, plan.chosen(), model.parts.sampler_of(made))
        });
        advice.for_each(|warning| watch.warn(warning));
        let apply = match plan.apply {
            Apply::Auto if networks(&timeline) > 1 => Apply::Bypass,
            Apply::Auto => Apply::Merge,
            chosen => chosen,
        };
        let composed = stacks.iter().map(|stacks| &stacks.unet).filter(|unet| !unet.is_empty());
        let keys: BTreeSet<String> = composed.map(|unet| network_key(unet, apply)).collect();
        let keys = keys.into_iter().collect();
        let grid = model.grid(plan)?;
        Ok(Self {
            handover: Handover::prepare(model, plan, &grid, watch)?,
            grid: Arc::new(grid),
            start: Start::Noise,
            running: Arc::new(model.residency.running(keys, whole)),
            plan: plan.clone(),
            stack,
            timeline: Arc::new(timeline),
            stacks,
            apply,
            model: model.clone(),
        })
    }

    /// The plan.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Its LoRAs, read.
    pub fn stack(&self) -> &LoraStack {
        &self.stack
    }

    /// What happens at each of its steps.
    pub fn timeline(&self) -> &Timeline {
        &self.timeline
    }

    /// Some of the plan's images, by their places, as an iterator of steps: `[2]` is the third image, `0..4` are
    /// the first four in one evaluation of the network for each step. On the CPU an image of several is the image
    /// made alone, to the bit.
    ///
    /// # Errors
    /// What reading and running the networks gives; [`Error::BadRequest`] when there are no images.
    pub fn steps(&self, images: impl IntoIterator<Item = usize>) -> Result<Steps> {
        let cancel = &Cancel::new();
        let images = self.images(images);
        self.steps_watched(images, None, Watch { observer: &Once::new(&Silent), cancel })
    }

    /// As [`steps`](Self::steps), with an integrator and noise levels of the caller's own instead of those of the plan.
    ///
    /// # Errors
    /// As [`steps`](Self::steps); [`Error::BadRequest`] when the levels are not the plan's number of steps.
    pub fn steps_with(
        &self,
        images: impl IntoIterator<Item = usize>,
        sampling: Sampling,
    ) -> Result<Steps> {
        let cancel = &Cancel::new();
        let images = self.images(images);
        let watch = Watch { observer: &Once::new(&Silent), cancel };
        self.steps_watched(images, Some(sampling), watch)
    }

    /// The images at these places of the plan.
    pub(super) fn images(&self, places: impl IntoIterator<Item = usize>) -> Vec<Image> {
        let image = |index| Image { index, seed: self.plan.seed.wrapping_add(index as u64) };
        places.into_iter().map(image).collect()
    }

    /// `sampling`: the caller's own; `None`: the plan's.
    pub(super) fn steps_watched(
        &self,
        images: Vec<Image>,
        sampling: Option<Sampling>,
        watch: Watch<'_>,
    ) -> Result<Steps> {
        watch.check()?;
        if images.is_empty() {
            return Err(Error::bad_request("images", "none", "expected at least one image"));
        }
        let Self { model, plan, timeline, start, running, .. } = self;
        let own_sampler = sampling.is_none();
        let (integrator, grid) = match sampling {
            Some(Sampling { integrator, grid }) => (integrator, Arc::new(grid)),
            None => (model.integrator(plan)?, self.grid.clone()),
        };
        if grid.steps() != plan.steps {
            let why = format!("the noise levels are those of {} steps", grid.steps());
            return Err(Error::bad_request("steps", plan.steps, why));
        }
        let (session, at_work) = (Session::new(), AtWork::begin());
        let (_working, _rounded) = (working(), model.rounding());
        let mut spent = Timings::default();
        let estimators = model.estimators(
            plan,
            timeline.script(),
            &self.stacks,
            self.apply,
            watch,
            &mut spent,
        )?;
        watch.check()?;
        let names = match &model.residency.steps {
            Some(_) if own_sampler => {
                let seeds: Vec<u64> = images.iter().map(|image| image.seed).collect();
                self.naming().by_features(&seeds, &estimators)?
            }
            _ => None,
        };
        let prepared = Prepared {
            model: model.clone(),
            plan,
            timeline: timeline.clone(),
            integrator,
            grid,
            start,
            estimators: &estimators,
            names: names.unwrap_or_default(),
            spent,
            running: running.clone(),
            handover: self.handover.clone(),
            own_sampler,
            cancel: watch.cancel.clone(),
            session,
            at_work,
        };
        Steps::new(prepared, images)
    }

    /// What this run takes of what other runs of the pipeline take, too. Nothing is computed for it.
    ///
    /// # Errors
    /// [`Error::Internal`] for a plan that is no JSON, which no plan is.
    pub fn shares(&self) -> Result<Shares> {
        self.naming().shares()
    }

    /// What the names of its steps are made of.
    fn naming(&self) -> Naming<'_> {
        let Self { plan, timeline, grid, stacks, apply, model, .. } = self;
        let embedded = model.parts.unet.time_cond_proj_dim.is_some();
        Naming { plan, timeline, grid, stacks, apply: *apply, embedded }
    }

    /// Makes every image of the plan, in order, and hands each over as soon as it is done. As many are evaluated at
    /// once as the pipeline was opened for ([`Options::batch`](super::Options::batch)).
    ///
    /// # Errors
    /// [`Error::Cancelled`] when `cancel` was set, what the networks give, or what `sink` returns.
    pub fn generate(
        &self,
        observer: &dyn Observer,
        cancel: &Cancel,
        sink: &mut dyn FnMut(Generated) -> Result<()>,
    ) -> Result<()> {
        self.generate_watched(Watch { observer: &Once::new(observer), cancel }, sink)
    }

    pub(super) fn generate_watched(
        &self,
        watch: Watch<'_>,
        sink: &mut dyn FnMut(Generated) -> Result<()>,
    ) -> Result<()> {
        let images = self.images(0..self.plan.count);
        for images in images.chunks(self.model.batch) {
            self.generate_batch(images, watch, sink)?;
        }
        Ok(())
    }

    /// Makes an image for each of `seeds`, all of them in one evaluation of the network for each step, instead of the
    /// images of the plan.
    pub(super) fn generate_seeds(
        &self,
        seeds: &[u64],
        watch: Watch<'_>,
        sink: &mut dyn FnMut(Generated) -> Result<()>,
    ) -> Result<()> {
        let image = |(index, seed): (usize, &u64)| Image { index, seed: *seed };
        let images: Vec<Image> = seeds.iter().enumerate().map(image).collect();
        self.generate_batch(&images, watch, sink)
    }

    fn generate_batch(
        &self,
        images: &[Image],
        watch: Watch<'_>,
        sink: &mut dyn FnMut(Generated) -> Result<()>,
    ) -> Result<()> {
        let mut running = self.steps_watched(images.to_vec(), None, watch)?;
        let (steps, every) = (self.plan.steps, self.plan.preview);
        for image in images {
            watch.tell(&Event::Sampling { image: image.index, steps });
        }
        while let Some(view) = running.next() {
            let view = view?;
            let wanted = every > 0 && view.step.is_multiple_of(every);
            let (step, steps, sigma) = (view.step, view.steps, view.sigma);
            for (place, image) in images.iter().enumerate() {
                let preview = if wanted { Some(running.preview_of(&view, place)?) } else { None };
                watch.tell(&Event::Step { image: image.index, step, steps, sigma, preview });
            }
        }
        running.finish_each_watched(watch, sink)
    }
}

/// How many estimates differ in their LoRAs: texts alone take no network of their own.
fn networks(timeline: &Timeline) -> usize {
    let loras = timeline.estimates().iter().map(|estimate| (estimate.text, estimate.unet));
    loras.collect::<BTreeSet<_>>().len()
}

/// What a LoRA does, as far as the timeline needs it.
fn role(entry: &StackEntry) -> Role {
    let mut entry = entry.clone();
    let steps = entry.strength.steps.take();
    let alone = LoraStack::new(vec![entry]);
    let identity = |part: LoraStack| (!part.is_empty()).then(|| part.fingerprint());
    Role { text: identity(alone.text_part()), unet: identity(alone.unet_part()), steps }
}

/// The LoRAs that act together, at every step.
fn part(stack: &LoraStack, acting: &Acting) -> LoraStack {
    let mut entries: Vec<StackEntry> =
        acting.members.iter().map(|member| stack.entries[*member].clone()).collect();
    for entry in &mut entries {
        entry.strength.steps = None;
    }
    LoraStack { entries, method: acting.method, ..stack.clone() }
}
