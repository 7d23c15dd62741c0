//! The network of one estimate as a denoiser: conditioned, guided, and with the deep features that it keeps from
//! step to step.

use super::Plan;
use super::guiding::Guiding;
use super::model::Model;
use super::networks::Estimator;
use super::replay::Replays;
use super::residency::{Memory, Stage};
use super::timeline::{Depth, Phase};
use crate::cancel::Cancel;
use crate::conditioning::Conditioning;
use crate::error::{Error, Result};
use crate::models::{AttentionMap, DeepFeatures, FreeU, UNet, UNetInput};
use crate::nn::sinusoid;
use crate::sampling::{
    At, Condition, Denoiser, Estimates, Grid, NoiseModel, PredictionKind, Predictor,
};
use crate::weights::{Component, WeightSource};
use candle_core::{DType, Tensor};
use std::cell::{Cell, RefCell};
use std::sync::Arc;

/// The network of one estimate, bound to a plan. [`at`](Self::at) makes a denoiser of it for a step.
pub(super) struct Bound {
    unet: Arc<UNet>,
    texts: Texts,
    /// How much each of the prompts counts.
    weights: Vec<f64>,
    /// How estimates are guided.
    guiding: Guiding,
    /// What guidance evaluates beside the texts.
    beside: Beside,
    freeu: Option<FreeU>,
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
    /// The first prompt alone.
    Prompt(Listener),
    /// The negative prompt and all prompts in one evaluation, or the first prompt alone.
    Together { all: Listener, prompt: Listener },
    /// One after the other, or the first prompt alone: fewer feature maps at a time.
    Apart { negative: Listener, prompts: Vec<Listener>, prompt: Listener },
}

/// Texts of evaluations that are made for guidance alone.
struct Beside {
    /// The first prompt, with perturbed attention.
    perturbed: Option<Listener>,
    /// For blurred latents: the negative prompt, and the first prompt where guidance leaves the other out.
    blurred: Option<[Listener; 2]>,
    /// The last map of attention.
    map: RefCell<Option<Tensor>>,
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
    /// Its number, from 0.
    step: usize,
    guided: bool,
    depth: Depth,
    evaluations: Cell<usize>,
}

/// The estimates that guidance combines.
struct Branches {
    negative: Tensor,
    conditions: Vec<Condition>,
}

/// One evaluation of a network on some texts.
struct Evaluation<'a> {
    bound: &'a Bound,
    listener: &'a Listener,
    depth: Depth,
    /// Its number within the step, from 0.
    number: usize,
    /// Whether attention is perturbed.
    perturbed: bool,
    /// Gets the map of attention.
    map: Option<&'a AttentionMap>,
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
        let kind = model.scheduler(plan).prediction_type;
        let guiding = Guiding::new(plan, kind, &grid.process);
        let prompt = listener(&conditioning.positive()?)?;
        let texts = if !plan.guided() || guidance.is_some() {
            Texts::Prompt(prompt)
        } else if model.residency.memory() == Memory::Low && !model.streams() {
            let prompts = 0..conditioning.weights.len();
            Texts::Apart {
                negative: listener(&conditioning.negative()?)?,
                prompts: prompts
                    .map(|i| listener(&conditioning.prompt(i)?))
                    .collect::<Result<_>>()?,
                prompt,
            }
        } else {
            // Streamed blocks are built once for all.
            Texts::Together { all: listener(conditioning)?, prompt }
        };
        Ok(Self {
            unet: unet.clone(),
            texts,
            weights: conditioning.weights.clone(),
            beside: Beside::new(&guiding, conditioning, dtype, images)?,
            guiding,
            freeu: plan.freeu,
            guidance,
            extra: extra_channels(model, unet, x, cancel)?,
            dtype,
            merge_tokens: plan.merge_tokens,
            kind,
            grid: grid.clone(),
            replays: model.residency.replays.clone(),
            cancel: cancel.clone(),
        })
    }

    /// The denoiser of step `step`, from 0.
    pub(super) fn at(&self, phase: &Phase, step: usize) -> AtStep<'_> {
        let Phase { guided, depth, .. } = *phase;
        AtStep { bound: self, step, guided, depth, evaluations: Cell::new(0) }
    }
}

impl Beside {
    fn new(
        guiding: &Guiding,
        conditioning: &Conditioning,
        dtype: DType,
        images: usize,
    ) -> Result<Self> {
        let listener = |conditioning: &Conditioning| Listener::new(conditioning, dtype, images);
        let prompt = conditioning.positive()?;
        let blurred = match &guiding.sag {
            Some(_) => Some([listener(&conditioning.negative()?)?, listener(&prompt)?]),
            None => None,
        };
        let perturbed = guiding.pag.as_ref().map(|_| listener(&prompt)).transpose()?;
        Ok(Self { perturbed, blurred, map: RefCell::default() })
    }
}

impl<'a> AtStep<'a> {
    /// The evaluation `number` of the step on some texts.
    fn evaluation(&self, listener: &'a Listener, number: usize) -> Evaluation<'a> {
        let Self { bound, depth, .. } = *self;
        Evaluation { bound, listener, depth, number, perturbed: false, map: None }
    }

    /// The estimates on the negative prompt and on each prompt, from one evaluation.
    fn together(&self, all: &Evaluation<'_>, x: &Tensor, sigma: f64) -> Result<Branches> {
        let weights = &self.bound.weights;
        let batch = x.dim(0)?;
        let inputs = vec![x; 1 + weights.len()];
        let found = all.denoise(&Tensor::cat(&inputs, 0)?, sigma)?;
        let part = |place: usize| found.narrow(0, place * batch, batch);
        let conditions = weights
            .iter()
            .zip(1..)
            .map(|(weight, place)| Ok(Condition { x0: part(place)?, weight: *weight }));
        Ok(Branches { negative: part(0)?, conditions: conditions.collect::<Result<_>>()? })
    }

    /// The estimates that guidance combines; those on the first prompt alone where it does not act. `map` gets that
    /// of the first of them.
    fn branches(
        &self,
        number: usize,
        (x, sigma): (&Tensor, f64),
        guided: bool,
        map: Option<&AttentionMap>,
    ) -> Result<Branches> {
        let of = |listener| Evaluation { map, ..self.evaluation(listener, number) };
        match &self.bound.texts {
            Texts::Together { all, .. } if guided => self.together(&of(all), x, sigma),
            Texts::Apart { negative, prompts, .. } if guided => {
                let negative = of(negative).denoise(x, sigma)?;
                let conditions = prompts.iter().zip(&self.bound.weights).map(|(prompt, weight)| {
                    let x0 = self.evaluation(prompt, number).denoise(x, sigma)?;
                    Ok(Condition { x0, weight: *weight })
                });
                Ok(Branches { negative, conditions: conditions.collect::<Result<_>>()? })
            }
            Texts::Prompt(prompt)
            | Texts::Together { prompt, .. }
            | Texts::Apart { prompt, .. } => {
                Ok(Branches { negative: of(prompt).denoise(x, sigma)?, conditions: Vec::new() })
            }
        }
    }

    /// Away from perturbed attention.
    fn perturbed(&self, number: usize, at: &At<'_>, prompt: &Tensor) -> Result<Option<Tensor>> {
        let Bound { guiding, beside, grid, .. } = self.bound;
        let (Some(pag), Some(listener)) = (&guiding.pag, &beside.perturbed) else {
            return Ok(None);
        };
        let timestep = grid.process.training_timestep(at.sigma, grid.rule);
        let scale = pag.at(timestep, grid.process.table().len());
        if scale <= 0.0 {
            return Ok(None);
        }
        let evaluation = Evaluation { perturbed: true, ..self.evaluation(listener, number) };
        let perturbed = evaluation.denoise(at.x, at.sigma)?;
        Ok(Some(((prompt - perturbed)? * scale)?))
    }

    /// Away from what is blurred where the network looks, from the estimate `x0` with this map of attention.
    fn blurred(
        &self,
        number: usize,
        at: &At<'_>,
        (x0, guided): (&Tensor, bool),
        map: Option<Tensor>,
    ) -> Result<Option<Tensor>> {
        let Bound { guiding, beside, .. } = self.bound;
        let (Some(sag), Some([negative, prompt])) = (&guiding.sag, &beside.blurred) else {
            return Ok(None);
        };
        // Evaluations of the finest layers alone have no map: the last one serves.
        if map.is_some() {
            *beside.map.borrow_mut() = map;
        }
        let Some(map) = beside.map.borrow().clone() else { return Ok(None) };
        let map = map.narrow(0, 0, at.x.dim(0)?)?;
        let degraded = sag.degraded(x0, &map)?;
        let x = (at.x + (&degraded - x0)?)?;
        let listener = if guided { negative } else { prompt };
        let found = self.evaluation(listener, number).denoise(&x, at.sigma)?;
        Ok(Some(((degraded - found)? * sag.scale)?))
    }
}

impl Denoiser for AtStep<'_> {
    fn denoise(&self, x: &Tensor, sigma: f64) -> Result<Tensor> {
        Ok(self.estimates(x, sigma)?.guided)
    }

    fn estimates(&self, x: &Tensor, sigma: f64) -> Result<Estimates> {
        let number = self.evaluations.get();
        self.evaluations.set(number + 1);
        let guiding = &self.bound.guiding;
        let guided = self.guided && guiding.acts(self.step, number, sigma);
        let map = guiding.sag.map(|_| AttentionMap::default());
        let branches = self.branches(number, (x, sigma), guided, map.as_ref())?;
        let Branches { negative, conditions } = branches;
        let mut at = At { x, sigma, push: None };
        let prompt = conditions.first().map_or(&negative, |condition| &condition.x0);
        let map = map.and_then(|map| map.take());
        let pushes = [
            self.perturbed(number, &at, prompt)?,
            self.blurred(number, &at, (&negative, guided), map)?,
        ];
        for push in pushes.into_iter().flatten() {
            at.push = Some(match at.push {
                Some(sum) => (sum + push)?,
                None => push,
            });
        }
        guiding.rule.combine(&at, negative, &conditions)
    }
}

impl Denoiser for Evaluation<'_> {
    fn denoise(&self, x: &Tensor, sigma: f64) -> Result<Tensor> {
        let Bound { kind, grid, .. } = self.bound;
        Predictor::new(self, *kind, grid).denoise(x, sigma)
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

impl NoiseModel for &Evaluation<'_> {
    fn predict(&self, x: &Tensor, timestep: f64) -> Result<Tensor> {
        let Bound { extra, dtype, guidance, merge_tokens, guiding, freeu, cancel, .. } = self.bound;
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
            freeu: *freeu,
            perturbed: guiding.pag.as_ref().filter(|_| self.perturbed).map(|pag| &pag.layers),
            attention: self.map,
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
    use crate::pipeline::script::Script;
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
            let none =
                [Stacks { text: LoraStack::default(), unet: LoraStack::default(), wording: 0 }];
            let script = Script::new(&plan);
            let watch = Watch { observer: &Silent, cancel: &Cancel::new() };
            let mut spent = Timings::default();
            let model = &pipeline.model;
            let mut made =
                model.estimators(&plan, &script, &none, plan.apply, watch, &mut spent).unwrap();
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
            let step = AtStep { bound, step: 0, guided: true, depth, evaluations: Cell::new(0) };
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
