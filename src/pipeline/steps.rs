//! Floor 5. One image on its way, as an iterator of steps.

use super::adapters::Cast;
use super::{Cancel, Event, Generated, Observer, Pipeline, Plan, Silent, Timings};
use crate::conditioning::Conditioning;
use crate::error::{Error, Result};
use crate::models::{UNet, UNetInput};
use crate::nn::sinusoid;
use crate::picture::Picture;
use crate::rng::{Noise, TorchCpu};
use crate::sampling::{
    Denoiser, Guidance, Integrator, Mean, NoiseModel, PredictionKind, Predictor, Sigmas,
};
use crate::weights::WeightSource;
use candle_core::{DType, Tensor};
use std::sync::Arc;
use std::time::Instant;

/// What a step leaves to look at.
#[derive(Debug, Clone)]
pub struct StepView {
    /// Step just done, from 1.
    pub step: usize,
    /// Steps in all.
    pub steps: usize,
    /// Noise level after the step, k-diffusion convention.
    pub sigma: f64,
    /// The network's estimate of the clean latents, `[1, 4, h, w]`, scaled.
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
    denoisers: Vec<Box<dyn Denoiser + 'a>>,
    /// For each step the denoisers whose estimates are averaged.
    acting: Vec<Vec<usize>>,
    integrator: Box<dyn Integrator>,
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
        cancel: Cancel,
    ) -> Result<Self> {
        let sigmas = pipeline.sigmas(plan)?;
        let seed = plan.seed.wrapping_add(index as u64);
        let latent = plan.size()?.latent();
        let shape = (1, pipeline.parts.vae.latent_channels, latent.height, latent.width);
        let count = shape.1 * shape.2 * shape.3;
        let noise = TorchCpu::new(seed).normal(count);
        let noise = Tensor::from_vec(noise, shape, pipeline.device())?; // [1, 4, h, w], f32
        let x = (noise * sigmas.init_scale)?;
        let Cast { phases, steps: acting, compose, load, encode } = cast;
        let denoisers = phases
            .iter()
            .map(|(unet, features)| denoiser(pipeline, plan, unet.clone(), features, &sigmas, &x))
            .collect::<Result<_>>()?;
        let timings = Timings { load, compose, encode, ..Timings::default() };
        Ok(Self {
            pipeline,
            denoisers,
            acting,
            integrator: plan.sampler.integrator(),
            sigmas,
            x,
            done: 0,
            failed: false,
            index,
            last: index + 1 >= plan.count,
            seed,
            tile: plan.tile,
            cancel,
            timings,
        })
    }

    /// The estimate of a step as a picture.
    ///
    /// # Errors
    /// What reading and running the VAE gives.
    pub fn preview(&self, view: &StepView) -> Result<Picture> {
        self.pipeline.decode(&view.denoised, self.tile, &Silent, |_, _| self.cancel.check())
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
        let latents = self.latents()?;
        self.denoisers.clear();
        self.pipeline.steps_done(self.last);
        let begin = Instant::now();
        self.pipeline.decoder(observer)?;
        self.timings.load += begin.elapsed();
        let begin = Instant::now();
        let image = self.index;
        let picture = self.pipeline.decode(&latents, self.tile, observer, |tile, tiles| {
            cancel.check()?;
            observer.event(&Event::Decoding { image, tile, tiles });
            Ok(())
        })?;
        self.timings.decode = begin.elapsed();
        self.pipeline.picture_done();
        Ok(Generated { picture, index: image, seed: self.seed, timings: self.timings })
    }

    fn step(&mut self) -> Result<StepView> {
        self.cancel.check()?;
        let begin = Instant::now();
        let acting: Vec<&dyn Denoiser> = self
            .acting
            .get(self.done)
            .map(|phases| phases.iter().map(|i| &*self.denoisers[*i]).collect())
            .unwrap_or_default();
        let step = match acting[..] {
            [only] => self.integrator.step(only, &self.x, &self.sigmas, self.done)?,
            _ => self.integrator.step(&Mean(acting), &self.x, &self.sigmas, self.done)?,
        };
        self.x = step.x;
        self.done += 1;
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
        let view = self.step();
        self.failed = view.is_err();
        Some(view)
    }
}

/// The chain network → prediction → guidance.
fn denoiser<'a>(
    pipeline: &'a Pipeline,
    plan: &Plan,
    unet: Arc<UNet>,
    conditioning: &Conditioning,
    sigmas: &Sigmas,
    x: &Tensor,
) -> Result<Box<dyn Denoiser + 'a>> {
    let dtype = pipeline.parts.source.dtype("unet");
    // LCM-distilled networks take the guidance as a number instead of a second evaluation.
    let guidance = match unet.config().time_cond_proj_dim {
        Some(width) => {
            let weight = Tensor::new(&[(plan.guidance_scale - 1.0) as f32 * 1000.0], x.device())?;
            Some(sinusoid(&weight, width, false, 1.0)?)
        }
        None => None,
    };
    let embedded = guidance.is_some();
    let model = BoundUNet {
        extra: extra_channels(pipeline, &unet, x)?,
        unet,
        conditioning: conditioning.to_dtype(dtype)?,
        guidance,
        dtype,
    };
    let kind: PredictionKind = pipeline.parts.scheduler.prediction_type;
    let predictor = Predictor::new(model, kind, pipeline.table.clone(), sigmas);
    Ok(if plan.guided() && !embedded {
        Box::new(Guidance::new(predictor, plan.guidance_scale))
    } else {
        Box::new(predictor)
    })
}

/// Channels beside the latents: an inpainting network draws from text alone when its mask is all
/// ones and the picture behind the mask is grey.
fn extra_channels(pipeline: &Pipeline, unet: &UNet, x: &Tensor) -> Result<Option<Tensor>> {
    let (_, channels, height, width) = x.dims4()?;
    match unet.config().in_channels.checked_sub(channels) {
        Some(0) => Ok(None),
        Some(extra) if extra == channels + 1 => {
            let size = (1, 3, height * crate::size::VAE_FACTOR, width * crate::size::VAE_FACTOR);
            let grey = Tensor::zeros(size, DType::F32, x.device())?;
            let vae = pipeline.encoder()?;
            let latents = vae.scale(&vae.encode(&grey)?.mean)?;
            let mask = Tensor::ones((1, 1, height, width), DType::F32, x.device())?;
            Ok(Some(Tensor::cat(&[mask, latents], 1)?)) // [1, 5, h, w]
        }
        _ => Err(Error::unsupported(
            format!("drawing from text with a {}-channel UNet", unet.config().in_channels),
            "this network edits a picture; use a 4-channel (or inpainting) model",
        )),
    }
}

/// A UNet with everything but latents and timestep filled in.
struct BoundUNet {
    unet: Arc<UNet>,
    conditioning: Conditioning,
    guidance: Option<Tensor>,
    extra: Option<Tensor>,
    dtype: DType,
}

impl NoiseModel for BoundUNet {
    fn predict(&self, x: &Tensor, timestep: f64) -> Result<Tensor> {
        let batch = x.dim(0)?;
        let x = match &self.extra {
            Some(extra) => {
                let (_, c, h, w) = extra.dims4()?;
                Tensor::cat(&[x, &extra.broadcast_as((batch, c, h, w))?.contiguous()?], 1)?
            }
            None => x.clone(),
        };
        let timesteps = Tensor::full(timestep as f32, batch, x.device())?;
        self.unet.forward(UNetInput {
            latents: &x.to_dtype(self.dtype)?,
            timesteps: &timesteps,
            context: &self.conditioning.context,
            added: self.conditioning.added.as_ref(),
            guidance: self.guidance.as_ref(),
        })
    }
}
