//! From the LoRAs that a plan names to the networks of every step.

use super::cache::Noted;
use super::event::Watch;
use super::phases::{Cast, network_key};
use super::{Cancel, Event, Pipeline, Plan, Silent};
use crate::conditioning::{Conditioning, InversionVectors, TextTowers};
use crate::error::{Error, Result};
use crate::lora::{
    AdapterFile, Apply, Dictionary, Lora, LoraRef, LoraStack, Overlay, StackEntry, Strength,
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

impl Pipeline {
    /// The LoRAs of a request with every weight said, each found and fit for this model.
    pub(super) fn resolve_loras(
        &self,
        loras: &[LoraRef],
        watch: Watch<'_>,
    ) -> Result<Vec<LoraRef>> {
        let resolve = |lora: &LoraRef| {
            let (_, strength) = self.adapter(lora, watch)?;
            Ok(lora.clone().with_strength(strength))
        };
        loras.iter().map(resolve).collect()
    }

    /// One adapter, resolved against this model's names.
    fn adapter(&self, wanted: &LoraRef, watch: Watch<'_>) -> Result<(Arc<Lora>, Strength)> {
        watch.check()?;
        let found = self.shelf.adapter(&wanted.name)?;
        let strength = wanted.strength(found.weight);
        let dictionary = self.dictionary()?;
        let lora = self.loras.get(&found.file.fingerprint()?, watch.cancel, || {
            Lora::resolve(found.file.clone(), &dictionary, self.reading)
        })?;
        for warning in &lora.report().warnings {
            watch.warn(format!("{}: {warning}", wanted.name));
        }
        let prediction = self.parts.scheduler.prediction_type;
        if let Some(warning) = other_prediction(lora.file().metadata(), prediction) {
            watch.warn(format!("{}: {warning}", wanted.name));
        }
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
        self.names.get(&Cancel::new(), || Ok(Dictionary::new(&*self.base, family)))
    }

    /// The stack of a plan.
    ///
    /// # Errors
    /// What finding and reading the adapters gives.
    pub fn stack(&self, plan: &Plan) -> Result<LoraStack> {
        self.stack_watched(plan, Watch { observer: &Silent, cancel: &Cancel::new() })
    }

    /// As [`stack`](Self::stack), with warnings.
    pub(super) fn stack_watched(&self, plan: &Plan, watch: Watch<'_>) -> Result<LoraStack> {
        let entry = |wanted: &LoraRef| {
            let (lora, strength) = self.adapter(wanted, watch)?;
            Ok(StackEntry { lora, strength })
        };
        let entries = plan.loras.iter().map(entry).collect::<Result<_>>()?;
        Ok(LoraStack { entries, method: plan.lora_method })
    }

    /// The features of a plan's texts from towers with a stack.
    pub(super) fn condition_with(
        &self,
        stack: &LoraStack,
        plan: &Plan,
        apply: Apply,
        watch: Watch<'_>,
        cast: &mut Cast,
    ) -> Result<Arc<Conditioning>> {
        let texts = [&plan.prompt, &plan.negative_prompt];
        let settings = (plan.guided(), plan.clip_skip, plan.width, plan.height);
        let key = format!("{texts:?} {settings:?} {apply:?} {}", stack.fingerprint());
        let found = self.conditions.get(&key, watch.cancel, || {
            let begin = Instant::now();
            let Noted { value: towers, mut warnings } =
                self.towers_with(stack, apply, watch, &mut cast.compose)?;
            cast.load += begin.elapsed();
            let begin = Instant::now();
            watch.tell(&Event::Encoding);
            let overflow = towers.overflow(&plan.prompt);
            if overflow > 0 {
                warnings
                    .push(format!("the prompt is {overflow} tokens too long; its end is not seen"));
            }
            let conditioning = self.condition(&towers, plan, watch.cancel)?;
            cast.encode += begin.elapsed();
            Ok(Noted { value: Arc::new(conditioning), warnings })
        })?;
        Ok(told(&found, watch))
    }

    /// The text towers with a stack; the plain ones for an empty one.
    fn towers_with(
        &self,
        stack: &LoraStack,
        apply: Apply,
        watch: Watch<'_>,
        compose: &mut Duration,
    ) -> Result<Noted<TextTowers>> {
        if stack.is_empty() {
            return Ok(Noted { value: self.text_towers(watch)?, warnings: Vec::new() });
        }
        let key = network_key(stack, apply);
        let found = self.towers.get(&key, watch.cancel, || {
            let built = self.overlay(stack, apply, watch, compose, |part| part != "unet").and_then(
                |(source, warnings)| {
                    Ok((self.parts.text_towers_until(&*source, watch.cancel)?, warnings))
                },
            );
            let (towers, mut warnings) = built
                .map_err(|error| self.or_the_models_fault(error, self.parts.text_components()))?;
            let words = self.words(stack, &mut warnings)?;
            let towers = if words.is_empty() { towers } else { towers.with_inversions(&words)? };
            Ok(Noted { value: Arc::new(towers), warnings })
        })?;
        Ok(Noted { value: found.value.clone(), warnings: found.warnings.clone() })
    }

    /// The UNet with a stack; the plain one for an empty one.
    pub(super) fn unet_with(
        &self,
        stack: &LoraStack,
        apply: Apply,
        watch: Watch<'_>,
        compose: &mut Duration,
    ) -> Result<Arc<UNet>> {
        if stack.is_empty() {
            return self.unet(watch);
        }
        let key = network_key(stack, apply);
        let found = self.unets.get(&key, watch.cancel, || {
            let built = self.overlay(stack, apply, watch, compose, |part| part == "unet").and_then(
                |(source, warnings)| {
                    watch.tell(&Event::Loading { component: "UNet" });
                    let unet = self.network(&source, watch.cancel)?;
                    Ok(Noted { value: Arc::new(unet), warnings })
                },
            );
            built.map_err(|error| self.or_the_models_fault(error, &["unet"]))
        })?;
        Ok(told(&found, watch))
    }

    /// The model's weights with a stack, and what a user should know of them.
    fn overlay(
        &self,
        stack: &LoraStack,
        apply: Apply,
        watch: Watch<'_>,
        compose: &mut Duration,
        select: impl Fn(&str) -> bool,
    ) -> Result<(Arc<dyn WeightSource>, Vec<String>)> {
        let begin = Instant::now();
        watch.tell(&Event::Loading { component: "LoRA" });
        let (base, names) = (self.base.clone(), self.dictionary()?);
        let overlay = Overlay::compose_until(base, &names, stack, apply, select, watch.cancel)?;
        let warnings = overlay.warnings().to_vec();
        *compose += begin.elapsed();
        Ok((Arc::new(overlay), warnings))
    }

    /// The words that a stack brings along, as tensors on this device.
    fn words(
        &self,
        stack: &LoraStack,
        warnings: &mut Vec<String>,
    ) -> Result<Vec<InversionVectors>> {
        let components = self.parts.text_components();
        let mut words: Vec<InversionVectors> = Vec::new();
        let all = stack.words();
        warnings.extend(all.warnings());
        for inversion in all.used {
            let vectors = |component: &&str| -> Result<Option<Tensor>> {
                let Some((values, rows)) = inversion.vectors(component)? else { return Ok(None) };
                let width = values.len().checked_div(rows).unwrap_or(0);
                let dtype = self.base.dtype(component);
                let tensor = Tensor::from_vec(values, (rows, width), &Device::Cpu)?;
                Ok(Some(tensor.to_dtype(dtype)?.to_device(self.base.device())?))
            };
            let vectors = components.iter().map(vectors).collect::<Result<_>>()?;
            words.push(InversionVectors { token: inversion.token.clone(), vectors });
        }
        Ok(words)
    }
}

/// The value, after its warnings were told.
fn told<T>(found: &Noted<T>, watch: Watch<'_>) -> Arc<T> {
    found.warnings.iter().for_each(|text| watch.warn(text));
    found.value.clone()
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
