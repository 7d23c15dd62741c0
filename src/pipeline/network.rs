//! Floor 5. The network of one phase as a denoiser: conditioned, guided, and with what it remembers from
//! step to step.

use super::replay::Replays;
use super::{Memory, Pipeline, Plan};
use crate::cancel::Cancel;
use crate::conditioning::Conditioning;
use crate::error::{Error, Result};
use crate::models::{Deep, UNet, UNetInput};
use crate::nn::sinusoid;
use crate::sampling::{
    Denoiser, Guidance, GuidanceApart, NoiseModel, PredictionKind, Predictor, Sigmas,
};
use crate::weights::WeightSource;
use candle_core::{DType, Tensor};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Which step it is, counted from 0; set by whoever takes the steps, read by what he steps with.
#[derive(Debug, Clone, Default)]
pub(super) struct Clock(Arc<AtomicUsize>);

impl Clock {
    pub(super) fn set(&self, step: usize) {
        self.0.store(step, Ordering::Relaxed);
    }

    fn step(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// The denoisers of one phase of a plan's LoRAs.
pub(super) struct Network<'a> {
    whole: Box<dyn Denoiser + 'a>,
    /// On the prompt alone, for steps outside of the interval of guidance.
    alone: Option<Box<dyn Denoiser + 'a>>,
}

impl<'a> Network<'a> {
    /// The chain network → prediction → guidance.
    pub(super) fn new(
        pipeline: &'a Pipeline,
        plan: &Plan,
        (unet, conditioning): &(Arc<UNet>, Arc<Conditioning>),
        (sigmas, clock, cancel): (&Sigmas, &Clock, &Cancel),
        x: &Tensor,
    ) -> Result<Self> {
        let dtype = pipeline.parts.source.dtype("unet");
        // LCM-distilled networks take the guidance as a number instead of a second evaluation.
        let guidance = match unet.config().time_cond_proj_dim {
            Some(width) => {
                let weight = (plan.guidance_scale - 1.0) as f32 * 1000.0;
                let weight = Tensor::new(&[weight], x.device())?;
                Some(sinusoid(&weight, width, false, 1.0)?)
            }
            None => None,
        };
        let guided = plan.guided() && guidance.is_none();
        let extra = extra_channels(pipeline, unet, x, cancel)?;
        let predictor = |conditioning: &Conditioning| -> Result<_> {
            let model = BoundUNet {
                unet: unet.clone(),
                conditioning: conditioning.to_dtype(dtype)?,
                guidance: guidance.clone(),
                extra: extra.clone(),
                dtype,
                merge_tokens: plan.merge_tokens,
                reuse: (plan.reuse > 1).then(|| Reuse::new(plan.reuse, clock.clone())),
                replays: pipeline.replays.clone(),
                cancel: cancel.clone(),
            };
            let kind: PredictionKind = pipeline.parts.scheduler.prediction_type;
            Ok(Predictor::new(model, kind, pipeline.table.clone(), sigmas))
        };
        if !guided {
            return Ok(Self { whole: Box::new(predictor(conditioning)?), alone: None });
        }
        let scale = plan.guidance_scale;
        // Streamed blocks are built once for both.
        let apart = pipeline.memory == Memory::Low && !pipeline.streams();
        let whole: Box<dyn Denoiser + 'a> = if apart {
            let negative = predictor(&conditioning.negative()?)?;
            Box::new(GuidanceApart::new(negative, predictor(&conditioning.positive()?)?, scale))
        } else {
            Box::new(Guidance::new(predictor(conditioning)?, scale))
        };
        let alone: Option<Box<dyn Denoiser + 'a>> = match plan.guidance_interval {
            Some(_) => Some(Box::new(predictor(&conditioning.positive()?)?)),
            None => None,
        };
        Ok(Self { whole, alone })
    }

    /// What denoises a step at which guidance acts, or does not.
    pub(super) fn denoiser(&self, guided: bool) -> &(dyn Denoiser + 'a) {
        match &self.alone {
            Some(alone) if !guided => &**alone,
            _ => &*self.whole,
        }
    }
}

/// Channels beside the latents: an inpainting network draws from text alone when its mask is all
/// ones and the picture behind the mask is grey.
fn extra_channels(
    pipeline: &Pipeline,
    unet: &UNet,
    x: &Tensor,
    cancel: &Cancel,
) -> Result<Option<Tensor>> {
    let (_, channels, height, width) = x.dims4()?;
    match unet.config().in_channels.checked_sub(channels) {
        Some(0) => Ok(None),
        Some(extra) if extra == channels + 1 => {
            let around = pipeline.unpainted.get(&format!("{height}x{width}"), cancel, || {
                let factor = pipeline.parts.vae.factor();
                let size = (1, 3, height * factor, width * factor);
                let grey = Tensor::zeros(size, DType::F32, x.device())?;
                let vae = pipeline.encoder(cancel)?;
                let latents = vae.scale(&vae.encode_until(&grey, cancel)?.mean)?;
                let mask = Tensor::ones((1, 1, height, width), DType::F32, x.device())?;
                Ok(Tensor::cat(&[mask, latents], 1)?) // [1, 5, h, w]
            })?;
            pipeline.encoded();
            Ok(Some((*around).clone()))
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
    reuse: Option<Reuse>,
    replays: Arc<Replays>,
    merge_tokens: f64,
    cancel: Cancel,
}

/// Deep features from one full evaluation to the next.
struct Reuse {
    /// Steps between full evaluations.
    every: usize,
    clock: Clock,
    /// What the last full evaluation left, and its step.
    kept: Mutex<Option<(usize, Deep)>>,
}

impl Reuse {
    fn new(every: usize, clock: Clock) -> Self {
        Self { every, clock, kept: Mutex::new(None) }
    }

    fn predict(&self, unet: &UNet, input: UNetInput<'_>) -> Result<Tensor> {
        let now = self.clock.step();
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let young = kept.as_ref().filter(|(made, _)| now.saturating_sub(*made) < self.every);
        if let Some((_, deep)) = young {
            return unet.forward_shallow(input, deep);
        }
        *kept = None; // not needed any more, and large
        let (out, deep) = unet.forward_keeping(input)?;
        *kept = Some((now, deep));
        Ok(out)
    }
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
        let input = UNetInput {
            latents: &x.to_dtype(self.dtype)?,
            timesteps: &timesteps,
            context: &self.conditioning.context,
            added: self.conditioning.added.as_ref(),
            guidance: self.guidance.as_ref(),
            merge_tokens: self.merge_tokens,
            cancel: Some(&self.cancel),
        };
        match &self.reuse {
            Some(reuse) => reuse.predict(&self.unet, input),
            None => self.replays.predict(&self.unet, input),
        }
    }
}
