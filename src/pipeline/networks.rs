//! The networks of a plan's estimates, each with its LoRAs, and the features that it attends to.

use super::Plan;
use super::cache::Noted;
use super::event::{Event, Watch};
use super::generated::Timings;
use super::model::Model;
use super::residency::Stage;
use super::script::Script;
use super::warning::Warning;
use crate::conditioning::{Conditioning, InversionVectors, TextTowers};
use crate::error::{Error, Result};
use crate::lora::{Apply, LoraStack, Overlay};
use crate::models::UNet;
use crate::prompt::PromptSyntax;
use crate::weights::{Component, WeightSource};
use candle_core::{Device, Tensor};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The LoRAs of one estimate.
#[derive(Debug, Clone)]
pub(super) struct Stacks {
    pub(super) text: LoraStack,
    pub(super) unet: LoraStack,
    /// The place of its texts among the wordings of the plan's script.
    pub(super) wording: usize,
}

/// What makes one estimate of the clean latents.
#[derive(Debug)]
pub(super) struct Estimator {
    pub(super) unet: Arc<UNet>,
    /// The features that the UNet attends to.
    pub(super) conditioning: Conditioning,
}

/// What a network with a stack is remembered by.
pub(super) fn network_key(stack: &LoraStack, apply: Apply) -> String {
    format!("{apply:?} {}", stack.fingerprint())
}

impl Model {
    /// Builds the networks of `plan`'s estimates, one for each of `stacks`; `spent` gets the time that it took.
    pub(super) fn estimators(
        &self,
        plan: &Plan,
        script: &Script,
        stacks: &[Stacks],
        apply: Apply,
        watch: Watch<'_>,
        spent: &mut Timings,
    ) -> Result<Vec<Estimator>> {
        let mut conditions = Vec::with_capacity(stacks.len());
        for Stacks { text, wording, .. } in stacks {
            watch.check()?;
            let found = self.condition_with(text, plan, script, apply, watch, spent)?;
            let found = found.get(*wording).cloned();
            conditions
                .push(found.ok_or_else(|| Error::Internal("a text that is not there".into()))?);
        }
        self.residency.over(Stage::Texts);
        let mut estimators = Vec::with_capacity(stacks.len());
        for (Stacks { unet, .. }, conditioning) in stacks.iter().zip(conditions) {
            watch.check()?;
            let begin = Instant::now();
            let unet = self.unet_with(unet, apply, watch, &mut spent.compose)?;
            spent.load += begin.elapsed();
            estimators.push(Estimator { unet, conditioning });
        }
        self.residency.over(Stage::Build);
        spent.load = spent.load.saturating_sub(spent.compose);
        Ok(estimators)
    }

    /// The features of a plan's texts from towers with a stack, one for each wording of its script.
    fn condition_with(
        &self,
        stack: &LoraStack,
        plan: &Plan,
        script: &Script,
        apply: Apply,
        watch: Watch<'_>,
        spent: &mut Timings,
    ) -> Result<Arc<Vec<Conditioning>>> {
        let settings = (plan.guided(), plan.clip_skip, plan.width, plan.height, plan.micro());
        let texts = (script, plan.prompt_syntax, plan.emphasis, plan.encode_empty);
        let key = format!("{texts:?} {settings:?} {apply:?} {}", stack.fingerprint());
        let found = self.residency.conditions.get(&key, watch.cancel, || {
            let begin = Instant::now();
            let Noted { value: towers, mut warnings } =
                self.towers_with(stack, apply, watch, &mut spent.compose)?;
            spent.load += begin.elapsed();
            let begin = Instant::now();
            watch.tell(&Event::Encoding);
            // Other syntaxes divide a long prompt.
            let cut = plan.prompt_syntax == PromptSyntax::Plain;
            let overflow = if cut { towers.overflow(&plan.prompt) } else { 0 };
            if overflow > 0 {
                warnings.push(Warning::PromptTooLong { tokens: overflow });
            }
            let conditioning = self.condition(&towers, plan, script, watch.cancel)?;
            spent.encode += begin.elapsed();
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
        let found = self.residency.towers.get(&key, watch.cancel, || {
            let built = self.overlay(stack, apply, watch, compose, Component::is_text).and_then(
                |(source, warnings)| {
                    Ok((self.parts.text_towers_until(&*source, watch.cancel)?, warnings))
                },
            );
            let (towers, mut warnings) = built
                .map_err(|error| self.or_the_models_fault(error, &self.parts.text_components()))?;
            let words = self.words(stack, &mut warnings)?;
            let towers = if words.is_empty() { towers } else { towers.with_inversions(&words)? };
            Ok(Noted { value: Arc::new(towers), warnings })
        })?;
        Ok(Noted { value: found.value.clone(), warnings: found.warnings.clone() })
    }

    /// The UNet with a stack; the plain one for an empty one.
    fn unet_with(
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
        let found = self.residency.unets.get(&key, watch.cancel, || {
            let built = self
                .overlay(stack, apply, watch, compose, |part| part == Component::UNet)
                .and_then(|(source, warnings)| {
                    watch.tell(&Event::Loading { component: "UNet" });
                    let unet = self.network(&source, watch.cancel)?;
                    Ok(Noted { value: Arc::new(unet), warnings })
                });
            built.map_err(|error| self.or_the_models_fault(error, &[Component::UNet]))
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
        select: impl Fn(Component) -> bool,
    ) -> Result<(Arc<dyn WeightSource>, Vec<Warning>)> {
        let begin = Instant::now();
        watch.tell(&Event::Loading { component: "LoRA" });
        let (base, names) = (self.residency.base.clone(), self.dictionary()?);
        let overlay = Overlay::compose_until(base, &names, stack, apply, select, watch.cancel)?;
        let warnings = overlay.warnings().iter();
        let warnings = warnings.map(|text| Warning::Stack { text: text.clone() }).collect();
        *compose += begin.elapsed();
        Ok((Arc::new(overlay), warnings))
    }

    /// The words that a stack brings along, as tensors on this device.
    fn words(
        &self,
        stack: &LoraStack,
        warnings: &mut Vec<Warning>,
    ) -> Result<Vec<InversionVectors>> {
        let components = self.parts.text_components();
        let mut words: Vec<InversionVectors> = Vec::new();
        let all = stack.words();
        warnings.extend(all.lost.iter().map(|(lora, word)| Warning::WordTwice {
            lora: lora.clone(),
            word: (*word).to_owned(),
        }));
        let bundled = all.used.iter().map(|word| (*word, false));
        for (inversion, own_file) in bundled.chain(all.files.iter().map(|word| (*word, true))) {
            let vectors = |component: &Component| -> Result<Option<Tensor>> {
                let Some((values, rows)) = inversion.vectors(*component)? else { return Ok(None) };
                let width = values.len().checked_div(rows).unwrap_or(0);
                let dtype = self.residency.base.dtype(*component);
                let tensor = Tensor::from_vec(values, (rows, width), &Device::Cpu)?;
                Ok(Some(tensor.to_dtype(dtype)?.to_device(self.residency.base.device())?))
            };
            let vectors = components.iter().map(vectors).collect::<Result<_>>()?;
            words.push(InversionVectors { token: inversion.token.clone(), vectors, own_file });
        }
        Ok(words)
    }
}

/// The value, after its warnings were told.
fn told<T>(found: &Noted<T>, watch: Watch<'_>) -> Arc<T> {
    found.warnings.iter().for_each(|warning| watch.warn(warning.clone()));
    found.value.clone()
}
