//! One image on its way, or several that are evaluated at once, as an iterator of steps.

use super::denoise::Bound;
use super::event::Watch;
use super::finite::Suspects;
use super::generated::{Generated, Timings};
use super::handover::Handover;
use super::model::Model;
use super::networks::Estimator;
use super::replay::{Mark, Session, working};
use super::residency::{Running, Stage};
use super::shared::{Recorded, Recording};
use super::start::{LatentShape, Start};
use super::timeline::Timeline;
use super::{Cancel, Event, Plan, Silent};
use crate::error::{Error, Result};
use crate::kernels::AtWork;
use crate::picture::Picture;
use crate::sampling::{Denoiser, Grid, Integrator, Mean, SeededNoise};
use crate::weights::Component;
use candle_core::Tensor;
use std::sync::Arc;
use std::time::Instant;

/// A step is recorded only if at least this many are left: recording takes about as long as a step.
const WORTH_RECORDING: usize = 3;

/// What a step leaves to look at.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct StepView {
    /// Step just done, from 1.
    pub step: usize,
    /// Steps in all.
    pub steps: usize,
    /// Noise level after the step, k-diffusion convention.
    pub sigma: f64,
    /// The network's estimate of the clean latents, `[B, 4, h, w]`, scaled; B images. On a GPU it belongs to the
    /// thread that takes the steps.
    pub denoised: Tensor,
}

/// One image on its way, or several that are evaluated at once. Iterate to the end, then [`finish`](Self::finish).
///
/// It owns all that it needs and may move to another thread.
///
/// ```no_run
/// # fn main() -> colora::Result<()> {
/// # let pipeline = colora::Pipeline::options().open_starter()?;
/// # let plan = pipeline.plan(&colora::Request::default(), 0)?;
/// let mut steps = pipeline.steps(&plan, 0)?;
/// for view in steps.by_ref() {
///     println!("noise left: {:.2}", view?.sigma);
/// }
/// steps.finish()?.picture.save("out.png", false)?;
/// # Ok(()) }
/// ```
pub struct Steps {
    /// One for each estimate of the timeline.
    networks: Vec<Bound>,
    timeline: Arc<Timeline>,
    integrator: Box<dyn Integrator>,
    grid: Arc<Grid>,
    /// The names by which steps are shared with other requests; none where they are not.
    names: Vec<String>,
    /// A stream for each image, which goes on where the start ended.
    noise: SeededNoise,
    x: Tensor,
    done: usize,
    failed: bool,
    images: Vec<Image>,
    /// Whether the plan's last image is among them.
    last: bool,
    tile: bool,
    cancel: Cancel,
    timings: Timings,
    /// Where to look when the picture is none.
    suspects: Suspects,
    /// The end of the last step.
    mark: Option<Mark>,
    /// The model that will take over.
    handover: Option<Handover>,
    /// The model that took over.
    refiner: Option<Handover>,
    /// The plan, of which a model that takes over makes a sampler of its own; `None`: the caller's goes on.
    own_sampler: Option<Plan>,
    _running: Arc<Running>,
    _at_work: AtWork,
    model: Arc<Model>,
    /// Dropped last, after everything that holds memory of the device.
    _session: Session,
}

/// An image of a plan.
#[derive(Debug, Clone, Copy)]
pub(super) struct Image {
    /// Its place in the plan.
    pub(super) index: usize,
    pub(super) seed: u64,
}

/// What [`Steps`] are made of.
pub(super) struct Prepared<'a> {
    pub(super) model: Arc<Model>,
    pub(super) plan: &'a Plan,
    pub(super) timeline: Arc<Timeline>,
    pub(super) integrator: Box<dyn Integrator>,
    pub(super) grid: Arc<Grid>,
    pub(super) start: &'a Start,
    /// One for each estimate of the timeline.
    pub(super) estimators: &'a [Estimator],
    /// The names by which steps are shared with other requests; none where they are not.
    pub(super) names: Vec<String>,
    /// The time that making those took.
    pub(super) spent: Timings,
    pub(super) running: Arc<Running>,
    pub(super) handover: Option<Handover>,
    /// Whether the sampler is the plan's own.
    pub(super) own_sampler: bool,
    pub(super) cancel: Cancel,
    pub(super) session: Session,
    pub(super) at_work: AtWork,
}

/// Steps may move to another thread, in every build.
const _: fn() = || {
    fn may_move<T: Send + 'static>() {}
    may_move::<Steps>();
};

impl std::fmt::Debug for Steps {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Steps")
            .field("images", &self.images)
            .field("done", &self.done)
            .field("grid", &self.grid)
            .finish_non_exhaustive()
    }
}

impl Steps {
    /// The steps of `images`, which are evaluated at once.
    pub(super) fn new(prepared: Prepared<'_>, images: Vec<Image>) -> Result<Self> {
        let Prepared { model, plan, grid, estimators, cancel, .. } = prepared;
        let latent = plan.size()?.latent(model.parts.vae.factor())?;
        let channels = model.parts.vae.latent_channels;
        let shape = LatentShape { channels, height: latent.height, width: latent.width };
        let seeds: Vec<u64> = images.iter().map(|image| image.seed).collect();
        let mut noise = SeededNoise::torch(&seeds);
        let x = prepared.start.latents(&mut noise, shape, &grid, model.device())?;
        let bound = |estimator| Bound::new(&model, plan, estimator, &grid, &x, &cancel);
        Ok(Self {
            networks: estimators.iter().map(bound).collect::<Result<_>>()?,
            timeline: prepared.timeline,
            integrator: prepared.integrator,
            grid,
            names: prepared.names,
            noise,
            x,
            done: 0,
            failed: false,
            last: images.iter().any(|image| image.index + 1 >= plan.count),
            images,
            tile: plan.tile,
            cancel,
            timings: prepared.spent,
            suspects: Suspects::new(estimators, plan),
            mark: None,
            own_sampler: (prepared.own_sampler && prepared.handover.is_some())
                .then(|| plan.clone()),
            handover: prepared.handover,
            refiner: None,
            _running: prepared.running,
            _at_work: prepared.at_work,
            model,
            _session: prepared.session,
        })
    }

    /// Places in the plan of the images that are made.
    pub fn images(&self) -> impl ExactSizeIterator<Item = usize> {
        self.images.iter().map(|image| image.index)
    }

    /// A preview of the estimate of a step, of the first image: a TAESD's picture where there is one
    /// ([`Options::preview`](super::Options::preview)), else the colours of the latents. The first preview of a
    /// pipeline decodes a few latents; the whole decoder is not used otherwise.
    ///
    /// # Errors
    /// What reading and running the networks gives.
    pub fn preview(&self, view: &StepView) -> Result<Picture> {
        self.preview_of(view, 0)
    }

    /// As [`preview`](Self::preview); `image` counts the images of these steps from 0.
    ///
    /// # Errors
    /// As [`preview`](Self::preview).
    pub fn preview_of(&self, view: &StepView, image: usize) -> Result<Picture> {
        let watch = Watch { observer: &Silent, cancel: &self.cancel };
        let latents = view.denoised.narrow(0, image, 1)?;
        let picture = self.model.preview(&latents, watch);
        picture.map_err(|error| self.suspects.explain(&self.model, &latents, error))
    }

    /// Latents as they are now, in the scale that the VAE expects at the end: `[B, 4, h, w]`.
    pub fn latents(&self) -> Result<Tensor> {
        self.grid.finish(&self.x)
    }

    /// Decodes the image; steps that are still open are taken first.
    ///
    /// # Errors
    /// What running the networks gives; [`Error::Internal`] when there are several images, which
    /// [`finish_each`](Self::finish_each) decodes.
    pub fn finish(self) -> Result<Generated> {
        let cancel = self.cancel.clone();
        self.finish_watched(Watch { observer: &Silent, cancel: &cancel })
    }

    /// Decodes all images one after the other, and hands each to `sink` as soon as it is done; steps that are still
    /// open are taken first.
    ///
    /// # Errors
    /// What running the networks gives, or what `sink` returns.
    pub fn finish_each(self, sink: &mut dyn FnMut(Generated) -> Result<()>) -> Result<()> {
        let cancel = self.cancel.clone();
        self.finish_each_watched(Watch { observer: &Silent, cancel: &cancel }, sink)
    }

    pub(super) fn finish_watched(self, watch: Watch<'_>) -> Result<Generated> {
        if self.images.len() > 1 {
            return Err(Error::Internal("`finish` was called for several images".into()));
        }
        let mut picture = None;
        self.finish_each_watched(watch, &mut |generated| {
            picture = Some(generated);
            Ok(())
        })?;
        picture.ok_or_else(|| Error::Internal("steps without an image".into()))
    }

    pub(super) fn finish_each_watched(
        mut self,
        watch: Watch<'_>,
        sink: &mut dyn FnMut(Generated) -> Result<()>,
    ) -> Result<()> {
        for step in self.by_ref() {
            step?;
        }
        if self.failed {
            return Err(Error::Internal("finish was called after a failed step".into()));
        }
        let begin = Instant::now();
        let latents = self.latents()?;
        if let Some(mark) = self.mark.take() {
            mark.wait()?;
        }
        self.timings.sample += begin.elapsed();
        self.networks.clear();
        self.acting().residency.steps_over(self.last);
        self.timings.sample /= self.images.len().max(1) as u32;
        for place in 0..self.images.len() {
            let generated = self.decode(&latents.narrow(0, place, 1)?, place, watch)?;
            // What was loaded counts once.
            self.timings = Timings { sample: self.timings.sample, ..Timings::default() };
            if place + 1 == self.images.len() {
                self.model.residency.over(Stage::Decode);
            }
            sink(generated)?;
        }
        Ok(())
    }

    /// Decodes the image at `place` of these steps.
    fn decode(&self, latents: &Tensor, place: usize, watch: Watch<'_>) -> Result<Generated> {
        let mut timings = self.timings;
        let begin = Instant::now();
        self.model.decoder(watch)?;
        timings.load += begin.elapsed();
        let begin = Instant::now();
        let Image { index: image, seed } = self.images[place];
        let picture = self.model.decode(latents, self.tile, watch, |tile, tiles| {
            watch.tell(&Event::Decoding { image, tile, tiles });
        });
        let picture =
            picture.map_err(|error| self.suspects.explain(&self.model, latents, error))?;
        timings.decode = begin.elapsed();
        Ok(Generated { picture, index: image, seed, timings })
    }

    /// The model that takes the steps now.
    fn acting(&self) -> &Model {
        self.refiner.as_ref().map_or(&*self.model, Handover::model)
    }

    /// Lets the other model take the steps from here on. Its sampler begins anew: what an estimate of another network
    /// remembers of the way is of no use.
    fn hand_over(&mut self, other: Handover) -> Result<()> {
        self.networks.clear();
        self.model.residency.steps_over(self.last);
        let watch = Watch { observer: &Silent, cancel: &self.cancel };
        self.networks = other.networks(&self.grid, &self.x, watch, &mut self.timings)?;
        self.timeline = other.timeline().clone();
        if let Some(plan) = &self.own_sampler {
            self.integrator = self.model.integrator(plan)?;
        }
        self.refiner = Some(other);
        Ok(())
    }

    fn step(&mut self) -> Result<StepView> {
        self.cancel.check()?;
        let done = self.done;
        if let Some(other) = self.handover.take_if(|other| other.takes(done)) {
            self.hand_over(other)?;
        }
        let begin = Instant::now();
        let _rounded = self.acting().rounding();
        if self.grid.steps() - self.done >= WORTH_RECORDING {
            self.acting().residency.replays.record();
        }
        let _working = working();
        let phases = self.timeline.at(self.done).iter();
        let acting: Vec<_> =
            phases.map(|phase| self.networks[phase.estimate].at(phase, self.done)).collect();
        let mean;
        let model: &dyn Denoiser = match &acting[..] {
            [only] => only,
            several => {
                mean = Mean(several.iter().map(|one| one as &dyn Denoiser).collect());
                &mean
            }
        };
        let (x, grid, noise) = (&self.x, &self.grid, &mut self.noise);
        let shared = self.model.residency.steps.as_ref().zip(self.names.get(self.done));
        let step = match shared.map(|(steps, name)| (steps, name, steps.get(name))) {
            None => self.integrator.step(model, x, grid, self.done, noise)?,
            Some((.., Some(estimates))) => {
                self.integrator.step(&Recorded::new(&estimates), x, grid, self.done, noise)?
            }
            Some((steps, name, None)) => {
                let recording = Recording::of(model);
                let step = self.integrator.step(&recording, x, grid, self.done, noise)?;
                steps.put(name, recording.made());
                step
            }
        };
        drop(acting);
        self.x = step.x;
        self.done += 1;
        // A GPU has a step in hand and no more, so that progress is true and an image can be cancelled.
        let mark = Mark::new(self.model.device())?;
        if let Some(before) = self.mark.replace(mark) {
            before.wait()?;
        }
        self.timings.sample += begin.elapsed();
        Ok(StepView {
            step: self.done,
            steps: self.grid.steps(),
            sigma: self.grid.levels[self.done - 1].next,
            denoised: step.denoised,
        })
    }
}

impl Iterator for Steps {
    type Item = Result<StepView>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed || self.done >= self.grid.steps() {
            return None;
        }
        // Streamed blocks are put together with their adapters only now.
        let view = self
            .step()
            .map_err(|error| self.acting().or_the_models_fault(error, &[Component::UNet]));
        self.failed = view.is_err();
        Some(view)
    }
}
