//! Floor 5. From the LoRAs that a plan names to the networks of every step.

use super::{Event, Observer, Pipeline, Plan};
use crate::conditioning::{Conditioning, TextTowers, Word};
use crate::error::{Error, Result};
use crate::lora::{
    AdapterFile, Apply, Dictionary, Lora, LoraRef, LoraStack, Method, Overlay, StackEntry, Strength,
};
use crate::models::UNet;
use crate::sampling::PredictionKind;
use crate::weights::WeightSource;
use candle_core::{Device, Tensor};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// An adapter that a shelf found.
#[derive(Debug, Clone)]
pub struct Found {
    /// The opened file.
    pub file: AdapterFile,
    /// The weight that its author recommends, for requests that name none.
    pub weight: Option<f32>,
}

/// Where a pipeline finds the adapters that requests name.
pub trait Shelf: Send + Sync + std::fmt::Debug {
    /// The adapter called `name`.
    ///
    /// # Errors
    /// [`Error::NotFound`], or what opening the file gives.
    fn adapter(&self, name: &str) -> Result<Found>;
}

/// A shelf for which every name is a path.
#[derive(Debug, Clone, Copy, Default)]
pub struct Paths;

impl Shelf for Paths {
    fn adapter(&self, name: &str) -> Result<Found> {
        if !Path::new(name).exists() {
            let hint = "; expected the path of a file or folder".to_owned();
            return Err(Error::NotFound { what: "LoRA", name: name.to_owned(), hint });
        }
        Ok(Found { file: AdapterFile::open(name)?, weight: None })
    }
}

/// The networks that make one image, and which of them acts at each step.
pub(super) struct Cast {
    /// Each UNet with the features that it listens to.
    pub(super) phases: Vec<(Arc<UNet>, Arc<Conditioning>)>,
    /// For each step the phases whose estimates are averaged.
    pub(super) steps: Vec<Vec<usize>>,
    pub(super) compose: Duration,
    pub(super) load: Duration,
    pub(super) encode: Duration,
}

impl Pipeline {
    /// The LoRAs of a request with every weight said, each found and fit for this model.
    pub(super) fn resolve_loras(&self, loras: &[LoraRef]) -> Result<Vec<LoraRef>> {
        let resolve = |lora: &LoraRef| {
            let (_, strength) = self.adapter(lora)?;
            Ok(lora.clone().with_strength(strength))
        };
        loras.iter().map(resolve).collect()
    }

    /// One adapter, resolved against this model's names.
    fn adapter(&self, wanted: &LoraRef) -> Result<(Arc<Lora>, Strength)> {
        let found = self.shelf.adapter(&wanted.name)?;
        let strength = wanted.strength(found.weight);
        let dictionary = self.dictionary()?;
        let lora = self.loras.get(&found.file.fingerprint()?, || {
            let lora = Lora::resolve(found.file.clone(), &dictionary, self.reading)?;
            for warning in &lora.report().warnings {
                tracing::warn!("{}: {warning}", wanted.name);
            }
            let prediction = self.parts.scheduler.prediction_type;
            if let Some(warning) = other_prediction(lora.file().metadata(), prediction) {
                tracing::warn!("{}: {warning}", wanted.name);
            }
            Ok(lora)
        })?;
        if let Some(blocks) = &strength.blocks
            && let Some(layout) = crate::lora::Layout::of(dictionary.names())
        {
            blocks.check(layout)?;
        }
        Ok((lora, strength))
    }

    /// The names of this model's modules, in every spelling.
    pub fn dictionary(&self) -> Result<Arc<Dictionary>> {
        let family = self.parts.family.to_string();
        self.names.get(|| Ok(Dictionary::new(&*self.base, family)))
    }

    /// The stack of a plan.
    ///
    /// # Errors
    /// What finding and reading the adapters gives.
    pub fn stack(&self, plan: &Plan) -> Result<LoraStack> {
        let entry = |wanted: &LoraRef| {
            let (lora, strength) = self.adapter(wanted)?;
            Ok(StackEntry { lora, strength })
        };
        let entries = plan.loras.iter().map(entry).collect::<Result<_>>()?;
        Ok(LoraStack { entries, method: plan.lora_method })
    }

    /// Builds what makes one image of `plan`.
    pub(super) fn cast(&self, plan: &Plan, observer: &dyn Observer) -> Result<Cast> {
        let stack = self.stack(plan)?;
        let mut cast = Cast {
            phases: Vec::new(),
            steps: Vec::new(),
            compose: Duration::ZERO,
            load: Duration::ZERO,
            encode: Duration::ZERO,
        };
        // Each distinct pair of text and UNet stacks becomes a phase.
        let mut known: BTreeMap<(String, String), usize> = BTreeMap::new();
        let mut wanted: Vec<(LoraStack, LoraStack)> = Vec::new();
        for step in 0..plan.steps {
            let mut now = Vec::new();
            for (text, unet) in acting(&stack, step, plan.steps) {
                let (text, unet) = (text.text_part(), unet.unet_part());
                let key = (text.fingerprint(), unet.fingerprint());
                let next = wanted.len();
                let phase = *known.entry(key).or_insert(next);
                if phase == next {
                    wanted.push((text, unet));
                }
                now.push(phase);
            }
            cast.steps.push(now);
        }
        let apply = match plan.apply {
            Apply::Auto if wanted.len() > 1 => Apply::Bypass,
            Apply::Auto => Apply::Merge,
            chosen => chosen,
        };
        let mut conditions = Vec::with_capacity(wanted.len());
        for (text, _) in &wanted {
            conditions.push(self.condition_with(text, plan, apply, observer, &mut cast)?);
        }
        self.texts_done();
        self.unets.make_room(wanted.len());
        for ((_, unet), conditioning) in wanted.iter().zip(conditions) {
            let begin = Instant::now();
            let unet = self.unet_with(unet, plan, apply, observer, &mut cast.compose)?;
            cast.load += begin.elapsed();
            cast.phases.push((unet, conditioning));
        }
        self.networks_built();
        cast.load = cast.load.saturating_sub(cast.compose);
        Ok(cast)
    }

    fn condition_with(
        &self,
        stack: &LoraStack,
        plan: &Plan,
        apply: Apply,
        observer: &dyn Observer,
        cast: &mut Cast,
    ) -> Result<Arc<Conditioning>> {
        let texts = [&plan.prompt, &plan.negative_prompt];
        let settings = (plan.guided(), plan.clip_skip, plan.width, plan.height);
        let key = format!("{texts:?} {settings:?} {apply:?} {}", stack.fingerprint());
        self.conditions.get(&key, || {
            let begin = Instant::now();
            let towers = self.towers_with(stack, apply, observer, &mut cast.compose)?;
            cast.load += begin.elapsed();
            let begin = Instant::now();
            observer.event(&Event::Encoding);
            let conditioning = self.condition(&towers, plan)?;
            cast.encode += begin.elapsed();
            Ok(conditioning)
        })
    }

    /// The text towers with a stack; the plain ones for an empty one.
    fn towers_with(
        &self,
        stack: &LoraStack,
        apply: Apply,
        observer: &dyn Observer,
        compose: &mut Duration,
    ) -> Result<Arc<TextTowers>> {
        if stack.is_empty() {
            return self.text_towers(observer);
        }
        let key = format!("{apply:?} {}", stack.fingerprint());
        self.towers.get(&key, || {
            let source = self.overlay(stack, apply, observer, compose, |part| part != "unet")?;
            let towers = self.parts.text_towers(&*source)?;
            let words = self.words(stack)?;
            if words.is_empty() { Ok(towers) } else { towers.with_words(&words) }
        })
    }

    /// The UNet with a stack; the plain one for an empty one.
    fn unet_with(
        &self,
        stack: &LoraStack,
        plan: &Plan,
        apply: Apply,
        observer: &dyn Observer,
        compose: &mut Duration,
    ) -> Result<Arc<UNet>> {
        if stack.is_empty() {
            return self.unet(observer);
        }
        let key = format!("{apply:?} {}", stack.fingerprint());
        self.unets.get(&key, || {
            // Said once a network, not once a picture.
            stack.entries.iter().filter_map(|entry| advice(&entry.lora, plan)).for_each(|advice| {
                tracing::warn!("{advice}");
            });
            let source = self.overlay(stack, apply, observer, compose, |part| part == "unet")?;
            observer.event(&Event::Loading { component: "UNet" });
            self.network(&source)
        })
    }

    fn overlay(
        &self,
        stack: &LoraStack,
        apply: Apply,
        observer: &dyn Observer,
        compose: &mut Duration,
        select: impl Fn(&str) -> bool,
    ) -> Result<Arc<dyn WeightSource>> {
        let begin = Instant::now();
        observer.event(&Event::Loading { component: "LoRA" });
        let dictionary = self.dictionary()?;
        let overlay = Overlay::compose(self.base.clone(), &dictionary, stack, apply, select)?;
        for warning in overlay.warnings() {
            tracing::warn!("{warning}");
        }
        *compose += begin.elapsed();
        Ok(Arc::new(overlay))
    }

    /// The words that a stack brings along, as tensors on this device.
    fn words(&self, stack: &LoraStack) -> Result<Vec<Word>> {
        let components = self.parts.text_components();
        let mut words: Vec<Word> = Vec::new();
        let all = stack.words();
        all.warnings().for_each(|warning| tracing::warn!("{warning}"));
        for inversion in all.used {
            let vectors = |component: &&str| -> Result<Option<Tensor>> {
                let Some((values, rows)) = inversion.vectors(component)? else { return Ok(None) };
                let width = values.len().checked_div(rows).unwrap_or(0);
                let dtype = self.base.dtype(component);
                let tensor = Tensor::from_vec(values, (rows, width), &Device::Cpu)?;
                Ok(Some(tensor.to_dtype(dtype)?.to_device(self.base.device())?))
            };
            let vectors = components.iter().map(vectors).collect::<Result<_>>()?;
            words.push(Word { token: inversion.token.clone(), vectors });
        }
        Ok(words)
    }
}

/// The stacks (of text encoders and of the UNet) whose estimates make step `step`.
fn acting(stack: &LoraStack, step: usize, steps: usize) -> Vec<(LoraStack, LoraStack)> {
    let whole = || {
        let mut whole = stack.clone();
        whole.entries.iter_mut().for_each(|entry| entry.strength.steps = None);
        whole
    };
    match stack.method {
        Method::Switch { .. } => {
            let now = stack.at_step(step, steps);
            vec![(now.clone(), now)]
        }
        Method::Composite if !stack.is_empty() => {
            let alone = |one: LoraStack| {
                let now = one.at_step(step, steps);
                (now.clone(), now)
            };
            stack.apart().into_iter().map(alone).collect()
        }
        // Features are computed once: a step window acts on the UNet alone.
        _ => vec![(whole(), stack.at_step(step, steps))],
    }
}

/// What is amiss with a plan for an adapter that makes a model draw in few steps.
fn advice(lora: &Lora, plan: &Plan) -> Option<String> {
    let advice = lora.file().distilled()?.advice(plan.steps, plan.guidance_scale)?;
    Some(format!("{}: {advice}", lora.name()))
}

/// A file that was trained for another kind of prediction loads; it seldom does what it should.
fn other_prediction(metadata: &BTreeMap<String, String>, ours: PredictionKind) -> Option<String> {
    let theirs = metadata.get("modelspec.prediction_type")?;
    let same = match theirs.as_str() {
        "epsilon" => ours == PredictionKind::Epsilon,
        "v" | "v_prediction" => ours == PredictionKind::V,
        _ => true,
    };
    (!same).then(|| format!("trained for {theirs} prediction, the model has {ours:?} prediction"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_predictions_are_said() {
        let metadata = |value: &str| {
            BTreeMap::from([("modelspec.prediction_type".to_owned(), value.to_owned())])
        };
        let ours = PredictionKind::Epsilon;
        assert_eq!(other_prediction(&BTreeMap::new(), ours), None);
        assert_eq!(other_prediction(&metadata("epsilon"), ours), None);
        assert!(other_prediction(&metadata("v"), ours).unwrap().contains("trained for v"));
        assert_eq!(other_prediction(&metadata("v"), PredictionKind::V), None);
    }
}
