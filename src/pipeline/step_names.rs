//! Names for the networks, texts and steps of a run: what has equal names in two runs is the same, and is made once.
//!
//! The name of a step holds all that it and the steps before it are made of. A field of a plan that is not in one of the
//! two lists below makes a plan's steps nameless, so that a new field is never overlooked.

use super::Plan;
use super::guidance::GuidanceInterval;
use super::networks::{Estimator, Stacks, network_key};
use super::timeline::{Depth, Phase, Timeline};
use crate::conditioning::Conditioning;
use crate::error::{Error, Result};
use crate::lora::Apply;
use crate::models::AddedCondition;
use crate::plain::hex;
use crate::sampling::Grid;
use candle_core::{DType, Tensor};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::collections::HashMap;

/// Fields of a plan that act on all steps.
const OF_ALL: [&str; 9] = [
    "width",
    "height",
    "steps",
    "sampler",
    "sampler_options",
    "schedule",
    "seed",
    "merge_tokens",
    "reuse",
];
/// Fields that act by way of what a step's name holds, or on no step at all.
const OF_EACH: [&str; 12] = [
    "prompt",
    "negative_prompt",
    "prompt_syntax",
    "guidance_scale",
    "guidance_interval",
    "clip_skip",
    "loras",
    "lora_method",
    "apply",
    "count",
    "tile",
    "preview",
];

/// What a run takes of what other runs take, too: things with equal names are made once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Shares {
    /// Its UNets, each with its LoRAs.
    pub networks: Vec<String>,
    /// Its texts, each with the LoRAs of the text encoders.
    pub texts: Vec<String>,
    /// Its steps in their order; none where they are not shared.
    pub steps: Vec<String>,
}

/// What the names of steps are made of.
pub(super) struct Naming<'a> {
    pub(super) plan: &'a Plan,
    pub(super) timeline: &'a Timeline,
    pub(super) grid: &'a Grid,
    pub(super) stacks: &'a [Stacks],
    pub(super) apply: Apply,
    /// Whether the network takes the strength of guidance as a number.
    pub(super) embedded: bool,
}

impl Naming<'_> {
    /// The names of the steps of an image; `text` names the features of an estimate, with or without guidance. None for
    /// plans with something in them that is not known to act on single steps alone.
    ///
    /// # Errors
    /// What `text` gives.
    fn steps(
        &self,
        seeds: &[u64],
        text: &dyn Fn(usize, bool) -> Result<String>,
    ) -> Result<Option<Vec<String>>> {
        let Some(mut name) = self.all(seeds)? else { return Ok(None) };
        let mut names = Vec::with_capacity(self.timeline.steps());
        for step in 0..self.timeline.steps() {
            let mut hash = Sha256::new();
            hash.update(&name);
            for phase in self.timeline.at(step) {
                let Phase { estimate, guided, depth } = *phase;
                if depth != Depth::Whole {
                    return Ok(None);
                }
                let stack = self.stacks.get(estimate);
                let network = stack.map(|stack| self.network(stack)).unwrap_or_default();
                let scale = (guided || self.embedded).then_some(self.plan.guidance_scale);
                let text = text(estimate, guided)?;
                // Whether a step lies in an interval of noise levels is known when it is taken.
                let interval = self.plan.guidance_interval.as_ref();
                let interval = interval.filter(|i| !matches!(i, GuidanceInterval::Steps(_)));
                hash.update(format!("{network}\n{text}\n{guided} {scale:?} {interval:?}\n"));
            }
            name = hex(&hash.finalize());
            names.push(name.clone());
        }
        Ok(Some(names))
    }

    /// The name of what all steps have in common.
    fn all(&self, seeds: &[u64]) -> Result<Option<String>> {
        let plan = serde_json::to_value(self.plan)
            .map_err(|error| Error::Internal(format!("a plan: {error}")))?;
        let Value::Object(mut fields) = plan else { return Ok(None) };
        fields.retain(|key, _| !OF_EACH.contains(&key.as_str()));
        if fields.keys().any(|key| !OF_ALL.contains(&key.as_str())) {
            return Ok(None);
        }
        fields.remove("seed");
        let text = format!("{seeds:?}\n{}\n{:?}", Value::Object(fields), self.grid);
        Ok(Some(hex(&Sha256::digest(text.as_bytes()))))
    }

    /// The name of a UNet with its LoRAs.
    fn network(&self, stacks: &Stacks) -> String {
        if stacks.unet.is_empty() { String::new() } else { network_key(&stacks.unet, self.apply) }
    }

    /// The names of an image's steps by the numbers of its features.
    ///
    /// # Errors
    /// What reading tensors gives.
    pub(super) fn by_features(
        &self,
        seeds: &[u64],
        estimators: &[Estimator],
    ) -> Result<Option<Vec<String>>> {
        let mut known: HashMap<(usize, bool), String> = HashMap::new();
        for (place, estimator) in estimators.iter().enumerate() {
            let conditioning = &estimator.conditioning;
            known.insert((place, true), fingerprint(conditioning)?);
            known.insert((place, false), fingerprint(&conditioning.positive()?)?);
        }
        let text = |estimate, guided| {
            let found = known.get(&(estimate, guided)).cloned();
            found.ok_or_else(|| Error::Internal("an estimate without features".into()))
        };
        self.steps(seeds, &text)
    }

    /// The names of an image's steps by the words of its texts, which need no network: features of equal texts may still
    /// differ, because other texts of a schedule stand beside them.
    fn by_words(&self) -> Result<Option<Vec<String>>> {
        self.steps(&[self.plan.seed], &|estimate, guided| Ok(self.words(estimate, guided)))
    }

    fn words(&self, estimate: usize, guided: bool) -> String {
        let Some(stacks) = self.stacks.get(estimate) else { return String::new() };
        let script = self.timeline.script();
        let Some(wording) = script.wordings().get(stacks.wording) else { return String::new() };
        let (parts, negatives) = (script.prompts(), script.negatives());
        let prompts = parts.iter().zip(&wording.prompts).map(|(texts, place)| texts.get(*place));
        let prompt: Vec<_> = prompts.collect();
        let negative = negatives.get(wording.negative).filter(|_| guided);
        let weights = script.weights();
        let Plan { prompt_syntax, clip_skip, width, height, .. } = self.plan;
        let stack = if stacks.text.is_empty() {
            String::new()
        } else {
            network_key(&stacks.text, self.apply)
        };
        format!(
            "{stack}\n{prompt:?} {weights:?} {negative:?} {prompt_syntax} {clip_skip} {width}x{height}"
        )
    }

    /// What a run has in common with others.
    ///
    /// # Errors
    /// [`Error::Internal`] for a plan that is no JSON, which no plan is.
    pub(super) fn shares(&self) -> Result<Shares> {
        let mut shares = Shares::default();
        for (place, stacks) in self.stacks.iter().enumerate() {
            shares.networks.push(self.network(stacks));
            shares.texts.push(self.words(place, self.plan.guided()));
        }
        for names in [&mut shares.networks, &mut shares.texts] {
            names.sort();
            names.dedup();
        }
        shares.steps = self.by_words()?.unwrap_or_default();
        Ok(shares)
    }
}

/// A name for all numbers of features.
fn fingerprint(conditioning: &Conditioning) -> Result<String> {
    let Conditioning { context, weights, added } = conditioning;
    let mut hash = Sha256::new();
    let mut update = |tensor: &Tensor| -> Result<()> {
        let numbers = tensor.flatten_all()?.to_dtype(DType::F32)?.to_vec1::<f32>()?;
        hash.update(format!("{:?}", tensor.dims()));
        hash.update(bytemuck::cast_slice::<f32, u8>(&numbers));
        Ok(())
    };
    update(context)?;
    if let Some(AddedCondition { pooled, micro }) = added {
        update(pooled)?;
        update(micro)?;
    }
    hash.update(format!("{weights:?}"));
    Ok(hex(&hash.finalize()))
}
