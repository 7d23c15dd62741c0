//! The network of one estimate as a denoiser: conditioned, guided, and with the deep features that it keeps from
//! step to step.

use super::Plan;
use super::model::Model;
use super::networks::Estimator;
use super::replay::Replays;
use super::residency::{Memory, Stage};
use super::timeline::{Depth, Phase};
use crate::cancel::Cancel;
use crate::conditioning::Conditioning;
use crate::error::{Error, Result};
use crate::models::{DeepFeatures, UNet, UNetInput};
use crate::nn::sinusoid;
use crate::sampling::{
    Denoiser, Grid, Guidance, GuidanceApart, NoiseModel, PredictionKind, Predictor,
};
use crate::weights::{Component, WeightSource};
use candle_core::{DType, Tensor};
use std::cell::{Cell, RefCell};
use std::sync::Arc;

/// The network of one estimate, bound to a plan. [`at`](Self::at) makes a denoiser of it for a step.
pub(super) struct Bound {
    unet: Arc<UNet>,
    texts: Texts,
    /// Strength of guidance, where the negative prompt is evaluated too.
    scale: f64,
    /// Embedded strength of guidance of networks that take it as a number, `[B, width]`.
    guidance: Option<Tensor>,
    /// Channels beside the latents, `[1, C, h, w]`.
    extra: Option<Tensor>,
    dtype: DType,
    merge_tokens: f64,
    kind: PredictionKind,
    grid: Arc<Grid>,
    replays: Arc<Replays>,
    cancel: Cancel,
}

/// Which texts a network is evaluated on.
enum Texts {
    /// The prompt alone.
    Prompt(Listener),
    /// Both prompts in one evaluation, or the prompt alone.
    Together { both: Listener, prompt: Listener },
    /// One prompt after the other, or the prompt alone: half the feature maps at a time.
    Apart { negative: Listener, positive: Listener, prompt: Listener },
}

/// Text features, and the deep features of evaluations on them.
struct Listener {
    conditioning: Conditioning,
    /// What the last full evaluations left; the place is the number of the evaluation within its step.
    deep: RefCell<Vec<Option<DeepFeatures>>>,
}

/// What is the same for all evaluations of a step, and the count of those that were made.
pub(super) struct AtStep<'a> {
    bound: &'a Bound,
    guided: bool,
    depth: Depth,
    evaluations: Cell<usize>,
}

/// One evaluation of a network on some texts.
struct Evaluation<'a> {
    bound: &'a Bound,
    listener: &'a Listener,
    depth: Depth,
    /// Its number within the step, from 0.
    number: usize,
}

impl Listener {
    /// `images`: each row of the features serves so many images.
    fn new(conditioning: &Conditioning, dtype: DType, images: usize) -> Result<Self> {
        let conditioning = conditioning.to_dtype(dtype)?.repeated(images)?;
        Ok(Self { conditioning, deep: RefCell::default() })
    }
}

impl Bound {
    /// The network of `estimator` for latents like `x`, `[B, C, h, w]`.
    pub(super) fn new(
        model: &Model,
        plan: &Plan,
        estimator: &Estimator,
        grid: &Arc<Grid>,
        x: &Tensor,
        cancel: &Cancel,
    ) -> Result<Self> {
        let Estimator { unet, conditioning } = estimator;
        let dtype = model.parts.source.dtype(Component::UNet);
        let images = x.dim(0)?;
        // LCM-distilled networks take the guidance as a number instead of a second evaluation.
        let guidance = match unet.config().time_cond_proj_dim {
            Some(width) => {
                let weight = (plan.guidance_scale - 1.0) as f32 * 1000.0;
                let weights = Tensor::new(vec![weight; images], x.device())?;
                Some(sinusoid(&weights, width, false, 1.0)?)
            }
            None => None,
        };
        let listener = |conditioning: &Conditioning| Listener::new(conditioning, dtype, images);
        let texts = if !plan.guided() || guidance.is_some() {
            Texts::Prompt(listener(conditioning)?)
        } else if model.residency.memory() == Memory::Low && !model.streams() {
            let (negative, positive) = (conditioning.negative()?, conditioning.positive()?);
            let (negative, prompt) = (listener(&negative)?, listener(&positive)?);
            Texts::Apart { negative, positive: listener(&positive)?, prompt }
        } else {
            // Streamed blocks are built once for both.
            let prompt = listener(&conditioning.positive()?)?;
            Texts::Together { both: listener(conditioning)?, prompt }
        };
        Ok(Self {
            unet: unet.clone(),
            texts,
            scale: plan.guidance_scale,
            guidance,
            extra: extra_channels(model, unet, x, cancel)?,
            dtype,
            merge_tokens: plan.merge_tokens,
            kind: model.parts.scheduler.prediction_type,
            grid: grid.clone(),
            replays: model.residency.replays.clone(),
            cancel: cancel.clone(),
        })
    }

    /// The denoiser of one step.
    pub(super) fn at(&self, phase: &Phase) -> AtStep<'_> {
        let Phase { guided, depth, .. } = *phase;
        AtStep { bound: self, guided, depth, evaluations: Cell::new(0) }
    }
}

impl AtStep<'_> {
    /// The evaluation `number` of the step on some texts, as a denoiser.
    fn evaluation<'a>(&'a self, listener: &'a Listener, number: usize) -> impl Denoiser + 'a {
        let Self { bound, depth, .. } = *self;
        let evaluation = Evaluation { bound, listener, depth, number };
        Predictor::new(evaluation, bound.kind, &bound.grid)
    }
}

impl Denoiser for AtStep<'_> {
    fn denoise(&self, x: &Tensor, sigma: f64) -> Result<Tensor> {
        let number = self.evaluations.get();
        self.evaluations.set(number + 1);
        let of = |listener| self.evaluation(listener, number);
        let scale = self.bound.scale;
        match &self.bound.texts {
            Texts::Together { both, .. } if self.guided => {
                Guidance::new(of(both), scale).denoise(x, sigma)
            }
            Texts::Apart { negative, positive, .. } if self.guided => {
                GuidanceApart::new(of(negative), of(positive), scale).denoise(x, sigma)
            }
            Texts::Prompt(prompt)
            | Texts::Together { prompt, .. }
            | Texts::Apart { prompt, .. } => of(prompt).denoise(x, sigma),
        }
    }
}

impl Evaluation<'_> {
    fn predict_input(&self, input: UNetInput<'_>) -> Result<Tensor> {
        let Bound { unet, replays, .. } = self.bound;
        if self.depth == Depth::Whole {
            return replays.predict(unet, input);
        }
        let mut kept = self.listener.deep.borrow_mut();
        if kept.len() <= self.number {
            kept.resize(self.number + 1, None);
        }
        let kept = &mut kept[self.number];
        if let (Depth::Finest, Some(deep)) = (self.depth, &*kept) {
            return unet.forward_shallow(input, deep);
        }
        *kept = None; // not needed any more, and large
        let (out, deep) = unet.forward_keeping(input)?;
        *kept = Some(deep);
        Ok(out)
    }
}

impl NoiseModel for Evaluation<'_> {
    fn predict(&self, x: &Tensor, timestep: f64) -> Result<Tensor> {
        let Bound { extra, dtype, guidance, merge_tokens, cancel, .. } = self.bound;
        let batch = x.dim(0)?;
        let x = match extra {
            Some(extra) => {
                let (_, c, h, w) = extra.dims4()?;
                Tensor::cat(&[x, &extra.broadcast_as((batch, c, h, w))?.contiguous()?], 1)?
            }
            None => x.clone(),
        };
        let timesteps = Tensor::full(timestep as f32, batch, x.device())?;
        let conditioning = &self.listener.conditioning;
        self.predict_input(UNetInput {
            latents: &x.to_dtype(*dtype)?,
            timesteps: &timesteps,
            context: &conditioning.context,
            added: conditioning.added.as_ref(),
            guidance: guidance.as_ref(),
            merge_tokens: *merge_tokens,
            cancel: Some(cancel),
        })
    }
}

/// Channels beside the latents: an inpainting network draws from text alone when its mask is all
/// ones and the picture behind the mask is grey.
fn extra_channels(
    model: &Model,
    unet: &UNet,
    x: &Tensor,
    cancel: &Cancel,
) -> Result<Option<Tensor>> {
    let (_, channels, height, width) = x.dims4()?;
    match unet.config().in_channels.checked_sub(channels) {
        Some(0) => Ok(None),
        Some(extra) if extra == channels + 1 => {
            let around =
                model.residency.unpainted.get(&format!("{height}x{width}"), cancel, || {
                    let factor = model.parts.vae.factor();
                    let size = (1, 3, height * factor, width * factor);
                    let grey = Tensor::zeros(size, DType::F32, x.device())?;
                    let vae = model.encoder(cancel)?;
                    let latents = vae.scale(&vae.encode_until(&grey, cancel)?.mean)?;
                    let mask = Tensor::ones((1, 1, height, width), DType::F32, x.device())?;
                    Ok(Tensor::cat(&[mask, latents], 1)?) // [1, 5, h, w]
                })?;
            model.residency.over(Stage::Encode);
            Ok(Some((*around).clone()))
        }
        _ => Err(Error::unsupported(
            format!("drawing from text with a {}-channel UNet", unet.config().in_channels),
            "this network edits a picture; use a 4-channel (or inpainting) model",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lora::LoraStack;
    use crate::pipeline::event::{Silent, Watch};
    use crate::pipeline::generated::Timings;
    use crate::pipeline::networks::Stacks;
    use crate::pipeline::{Pipeline, Request};

    /// Bounds of one network of the starter, and latents for it.
    struct Fixture {
        pipeline: Pipeline,
        plan: Plan,
        estimator: Estimator,
        x: Tensor,
    }

    impl Fixture {
        fn new() -> Self {
            let options = Pipeline::options().device("cpu".parse().unwrap());
            let pipeline = options.open_starter().unwrap();
            let side = Some(64);
            let request = Request { width: side, height: side, reuse: 2, ..Request::default() };
            let plan = pipeline.plan(&request, 0).unwrap();
            let none = [Stacks { text: LoraStack::default(), unet: LoraStack::default() }];
            let watch = Watch { observer: &Silent, cancel: &Cancel::new() };
            let mut spent = Timings::default();
            let model = &pipeline.model;
            let mut made = model.estimators(&plan, &none, plan.apply, watch, &mut spent).unwrap();
            let numbers: Vec<f32> = (0..256).map(|i| (i as f32 * 0.7).sin()).collect();
            let x = Tensor::from_vec(numbers, (1, 4, 8, 8), &candle_core::Device::Cpu).unwrap();
            Self { estimator: made.remove(0), x, plan, pipeline }
        }

        fn bound(&self) -> Bound {
            let (model, cancel) = (&self.pipeline.model, &Cancel::new());
            let grid = Arc::new(model.grid(&self.plan).unwrap());
            Bound::new(model, &self.plan, &self.estimator, &grid, &self.x, cancel).unwrap()
        }

        /// What the evaluations of a step give for `x` times each number, at falling levels of noise.
        fn step(&self, bound: &Bound, depth: Depth, numbers: &[f64]) -> Vec<Vec<f32>> {
            let step = AtStep { bound, guided: true, depth, evaluations: Cell::new(0) };
            let evaluation = |(i, number): (usize, &f64)| {
                let x0 = step.denoise(&(&self.x * *number).unwrap(), 5.0 - i as f64).unwrap();
                x0.flatten_all().unwrap().to_vec1().unwrap()
            };
            numbers.iter().enumerate().map(evaluation).collect()
        }
    }

    /// The second evaluation of a step reuses what the second one left before, and never what the first one did.
    #[test]
    fn evaluations_of_a_step_keep_features_of_their_own() {
        // Other tests change the instructions that are used, and with them the last bits.
        let _alone = crate::kernels::tests::SETTINGS.lock().unwrap();
        let fixture = Fixture::new();
        let (first, second) = ([5.0, 1.0], [4.0, 2.0]);
        let bound = fixture.bound();
        let whole = fixture.step(&bound, Depth::Keeping, &first);
        assert_eq!(whole, fixture.step(&fixture.bound(), Depth::Whole, &first));
        let finest = fixture.step(&bound, Depth::Finest, &second);
        assert_ne!(finest, fixture.step(&fixture.bound(), Depth::Whole, &second));
        // Each as if it were the only one: the second evaluation of the first step is made alone here.
        let alone = fixture.bound();
        fixture.step(&alone, Depth::Keeping, &first[..1]);
        assert_eq!(fixture.step(&alone, Depth::Finest, &second[..1])[0], finest[0]);
        let other = fixture.bound();
        fixture.step(&other, Depth::Keeping, &[9.0, first[1]]);
        assert_eq!(fixture.step(&other, Depth::Finest, &second)[1], finest[1]);
        // What was not evaluated in the step that kept is evaluated as a whole.
        let short = fixture.bound();
        fixture.step(&short, Depth::Keeping, &first[..1]);
        let more = fixture.step(&short, Depth::Finest, &second);
        assert_eq!(more[1], fixture.step(&fixture.bound(), Depth::Whole, &second)[1]);
    }
}
