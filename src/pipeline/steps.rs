//! Floor 5. One image on its way, as an iterator of steps.

use super::event::Watch;
use super::finite::Suspects;
use super::network::{Clock, Network};
use super::phases::{Cast, Running};
use super::replay::{Mark, Session, working};
use super::{Cancel, Event, Generated, Observer, Pipeline, Plan, Silent, Timings};
use crate::error::{Error, Result};
use crate::kernels::AtWork;
use crate::lora::StepWindow;
use crate::picture::Picture;
use crate::rng::{Noise, TorchCpu};
use crate::sampling::{Denoiser, Integrator, Mean, Sigmas};
use candle_core::Tensor;
use std::time::Instant;

/// Steps that are left at least when their evaluation is recorded, which takes about as long as one.
const WORTH_RECORDING: usize = 3;

/// What a step leaves to look at.
#[derive(Debug, Clone)]
pub struct StepView {
    /// Step just done, from 1.
    pub step: usize,
    /// Steps in all.
    pub steps: usize,
    /// Noise level after the step, k-diffusion convention.
    pub sigma: f64,
    /// The network's estimate of the clean latents, `[1, 4, h, w]`, scaled. On a GPU it belongs to the thread
    /// that takes the steps.
    pub denoised: Tensor,
}

/// One image on its way. Iterate to the end, then [`finish`](Self::finish).
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
pub struct Steps<'a> {
    pipeline: &'a Pipeline,
    /// One for each phase of the plan's LoRAs.
    networks: Vec<Network<'a>>,
    /// For each step the networks whose estimates are averaged.
    acting: Vec<Vec<usize>>,
    integrator: Box<dyn Integrator>,
    /// When guidance acts.
    interval: Option<StepWindow>,
    /// Tells the networks which step it is.
    clock: Clock,
    sigmas: Sigmas,
    x: Tensor,
    done: usize,
    failed: bool,
    index: usize,
    /// Whether this is the plan's last image.
    last: bool,
    seed: u64,
    tile: bool,
    cancel: Cancel,
    timings: Timings,
    /// Where to look when the picture is none.
    suspects: Suspects,
    /// The end of the last step.
    mark: Option<Mark>,
    /// Of an image that is made by itself.
    _running: Option<Running<'a>>,
    /// Behind everything that holds memory of the device.
    _session: (Session, AtWork),
}

impl std::fmt::Debug for Steps<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Steps").field("done", &self.done).field("sigmas", &self.sigmas).finish()
    }
}

impl<'a> Steps<'a> {
    pub(super) fn new(
        pipeline: &'a Pipeline,
        plan: &Plan,
        index: usize,
        cast: Cast,
        (cancel, session): (&Cancel, (Session, AtWork)),
    ) -> Result<Self> {
        let sigmas = pipeline.sigmas(plan)?;
        let seed = plan.seed.wrapping_add(index as u64);
        let latent = plan.size()?.latent(pipeline.parts.vae.factor())?;
        let shape = (1, pipeline.parts.vae.latent_channels, latent.height, latent.width);
        let count = shape.1 * shape.2 * shape.3;
        let noise = TorchCpu::new(seed).normal(count);
        let noise = Tensor::from_vec(noise, shape, pipeline.device())?; // [1, 4, h, w], f32
        let x = (noise * sigmas.init_scale)?;
        let Cast { phases, steps: acting, compose, load, encode } = cast;
        let clock = Clock::default();
        let suspects = Suspects::new(&phases, plan);
        let networks = phases
            .iter()
            .map(|phase| Network::new(pipeline, plan, phase, (&sigmas, &clock, cancel), &x))
            .collect::<Result<_>>()?;
        let timings = Timings { load, compose, encode, ..Timings::default() };
        Ok(Self {
            pipeline,
            networks,
            acting,
            integrator: plan.sampler.integrator(),
            interval: plan.guidance_interval,
            clock,
            sigmas,
            x,
            done: 0,
            failed: false,
            index,
            last: index + 1 >= plan.count,
            seed,
            tile: plan.tile,
            cancel: cancel.clone(),
            timings,
            suspects,
            mark: None,
            _running: None,
            _session: session,
        })
    }

    /// The same, whose request runs as long as it lives.
    pub(super) fn keeping(self, running: Running<'a>) -> Self {
        Self { _running: Some(running), ..self }
    }

    /// The estimate of a step as a picture.
    ///
    /// # Errors
    /// What reading and running the VAE gives.
    pub fn preview(&self, view: &StepView) -> Result<Picture> {
        let watch = Watch { observer: &Silent, cancel: &self.cancel };
        let latents = &view.denoised;
        let picture = self.pipeline.decode(latents, self.tile, watch, |_, _| {});
        picture.map_err(|error| self.suspects.explain(self.pipeline, latents, error))
    }

    /// Latents as they are now, in the scale that the VAE expects at the end: `[1, 4, h, w]`.
    pub fn latents(&self) -> Result<Tensor> {
        self.sigmas.finish(&self.x)
    }

    /// Decodes the image; steps that are still open are taken first.
    ///
    /// # Errors
    /// What running the networks gives.
    pub fn finish(self) -> Result<Generated> {
        let cancel = self.cancel.clone();
        self.finish_observed(&Silent, &cancel)
    }

    pub(super) fn finish_observed(
        mut self,
        observer: &dyn Observer,
        cancel: &Cancel,
    ) -> Result<Generated> {
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
        self.pipeline.steps_done(self.last);
        let begin = Instant::now();
        let watch = Watch { observer, cancel };
        self.pipeline.decoder(watch)?;
        self.timings.load += begin.elapsed();
        let begin = Instant::now();
        let image = self.index;
        let picture = self.pipeline.decode(&latents, self.tile, watch, |tile, tiles| {
            watch.tell(&Event::Decoding { image, tile, tiles });
        });
        let picture =
            picture.map_err(|error| self.suspects.explain(self.pipeline, &latents, error))?;
        self.timings.decode = begin.elapsed();
        self.pipeline.picture_done();
        Ok(Generated { picture, index: image, seed: self.seed, timings: self.timings })
    }

    fn step(&mut self) -> Result<StepView> {
        self.cancel.check()?;
        let begin = Instant::now();
        self.clock.set(self.done);
        let _rounded = self.pipeline.rounding();
        if self.sigmas.steps() - self.done >= WORTH_RECORDING {
            self.pipeline.replays.record();
        }
        let _working = working();
        let guided = self.interval.is_none_or(|w| w.active(self.done, self.sigmas.steps()));
        let acting: Vec<&dyn Denoiser> = self
            .acting
            .get(self.done)
            .map(|phases| phases.iter().map(|i| self.networks[*i].denoiser(guided)).collect())
            .unwrap_or_default();
        let step = match acting[..] {
            [only] => self.integrator.step(only, &self.x, &self.sigmas, self.done)?,
            _ => self.integrator.step(&Mean(acting), &self.x, &self.sigmas, self.done)?,
        };
        self.x = step.x;
        self.done += 1;
        // A GPU has a step in hand and no more, so that progress is true and a picture can be cancelled.
        let mark = Mark::new(self.pipeline.device())?;
        if let Some(before) = self.mark.replace(mark) {
            before.wait()?;
        }
        self.timings.sample += begin.elapsed();
        Ok(StepView {
            step: self.done,
            steps: self.sigmas.steps(),
            sigma: self.sigmas.sigmas[self.done],
            denoised: step.denoised,
        })
    }
}

impl Iterator for Steps<'_> {
    type Item = Result<StepView>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed || self.done >= self.sigmas.steps() {
            return None;
        }
        // Streamed blocks are put together with their adapters only now.
        let view = self.step().map_err(|error| self.pipeline.or_the_models_fault(error, &["unet"]));
        self.failed = view.is_err();
        Some(view)
    }
}
