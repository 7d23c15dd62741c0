//! Steps that several requests have in common: their estimates are made once.
//!
//! Two pictures that begin alike (the same noise, networks and texts) and part later, because a LoRA's window ends or a
//! prompt changes at different steps, take the same first steps. Each step has a name, which holds all that it and the
//! steps before it are made of. Where an earlier request took the step of that name, the sampler is given the estimates
//! of then: it computes the same numbers from them, whatever it remembers, and no network is run.

use super::Plan;
use super::networks::{Estimator, Stacks, network_key};
use super::timeline::{Depth, Phase, Timeline};
use crate::conditioning::Conditioning;
use crate::error::{Error, Result};
use crate::lora::Apply;
use crate::models::AddedCondition;
use crate::plain::hex;
use crate::sampling::{Denoiser, Estimates, Grid};
use candle_core::{DType, Tensor};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

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

/// The estimates of steps that were taken, by the names of the steps.
#[derive(Debug)]
pub(super) struct SharedSteps {
    /// Most bytes that they may have.
    most: u64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    known: HashMap<String, Kept>,
    bytes: u64,
    /// Counts what is asked for.
    clock: u64,
}

#[derive(Debug)]
struct Kept {
    estimates: Arc<Vec<Estimates>>,
    bytes: u64,
    /// When it was last asked for.
    used: u64,
}

impl SharedSteps {
    pub(super) fn new(most: u64) -> Self {
        Self { most, state: Mutex::default() }
    }

    /// The estimates of the step `name`.
    pub(super) fn get(&self, name: &str) -> Option<Arc<Vec<Estimates>>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.clock += 1;
        let now = state.clock;
        let kept = state.known.get_mut(name)?;
        kept.used = now;
        Some(kept.estimates.clone())
    }

    /// Keeps the estimates of the step `name`; those that were not asked for longest go.
    pub(super) fn put(&self, name: &str, estimates: Vec<Estimates>) {
        let bytes = estimates.iter().map(size).sum::<u64>() + name.len() as u64;
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let state = &mut *state;
        state.clock += 1;
        let kept = Kept { estimates: Arc::new(estimates), bytes, used: state.clock };
        let before = state.known.insert(name.to_owned(), kept);
        state.bytes = state.bytes + bytes - before.map_or(0, |kept| kept.bytes);
        while state.bytes > self.most {
            let oldest = state.known.iter().min_by_key(|(_, kept)| kept.used);
            let Some(name) = oldest.map(|(name, _)| name.clone()) else { break };
            state.bytes -= state.known.remove(&name).map_or(0, |kept| kept.bytes);
        }
    }
}

/// Bytes of the numbers of an estimate.
fn size(estimates: &Estimates) -> u64 {
    let bytes = |tensor: &Tensor| (tensor.elem_count() * tensor.dtype().size_in_bytes()) as u64;
    bytes(&estimates.guided) + bytes(&estimates.unguided)
}

/// Notes the estimates that a sampler asks for.
pub(super) struct Recording<'a> {
    model: &'a dyn Denoiser,
    made: RefCell<Vec<Estimates>>,
}

impl<'a> Recording<'a> {
    pub(super) fn of(model: &'a dyn Denoiser) -> Self {
        Self { model, made: RefCell::default() }
    }

    /// What was asked for, in order.
    pub(super) fn made(self) -> Vec<Estimates> {
        self.made.into_inner()
    }
}

impl Denoiser for Recording<'_> {
    fn denoise(&self, x: &Tensor, sigma: f64) -> Result<Tensor> {
        let guided = self.model.denoise(x, sigma)?;
        let noted = Estimates { unguided: guided.clone(), guided: guided.clone() };
        self.made.borrow_mut().push(noted);
        Ok(guided)
    }

    fn estimates(&self, x: &Tensor, sigma: f64) -> Result<Estimates> {
        let made = self.model.estimates(x, sigma)?;
        self.made.borrow_mut().push(made.clone());
        Ok(made)
    }
}

/// Gives a sampler the estimates that an earlier run noted.
pub(super) struct Recorded(RefCell<VecDeque<Estimates>>);

impl Recorded {
    pub(super) fn new(estimates: &[Estimates]) -> Self {
        Self(RefCell::new(estimates.iter().cloned().collect()))
    }
}

impl Denoiser for Recorded {
    fn denoise(&self, x: &Tensor, sigma: f64) -> Result<Tensor> {
        Ok(self.estimates(x, sigma)?.guided)
    }

    fn estimates(&self, _: &Tensor, _: f64) -> Result<Estimates> {
        let next = self.0.borrow_mut().pop_front();
        next.ok_or_else(|| Error::Internal("a shared step asks for more than it did before".into()))
    }
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
                hash.update(format!("{network}\n{text}\n{guided} {scale:?}\n"));
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
        let (prompt, negative) = script.pairs().get(stacks.wording).copied().unwrap_or_default();
        let prompt = script.prompts().get(prompt).copied().unwrap_or_default();
        let negative = script.negatives().get(negative).copied().filter(|_| guided);
        let Plan { prompt_syntax, clip_skip, width, height, .. } = self.plan;
        let stack = if stacks.text.is_empty() {
            String::new()
        } else {
            network_key(&stacks.text, self.apply)
        };
        format!("{stack}\n{prompt:?} {negative:?} {prompt_syntax} {clip_skip} {width}x{height}")
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

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    fn estimates(value: f32) -> Estimates {
        let guided = Tensor::full(value, (1, 4, 2, 2), &Device::Cpu).unwrap();
        Estimates { unguided: guided.clone(), guided }
    }

    #[test]
    fn what_was_not_asked_for_goes_first() {
        // Each has 2 x 16 numbers of 4 bytes, and a name.
        let shared = SharedSteps::new(3 * 129);
        for name in ["a", "b", "c"] {
            shared.put(name, vec![estimates(1.0)]);
        }
        assert!(shared.get("a").is_some());
        shared.put("d", vec![estimates(2.0)]);
        assert!(shared.get("b").is_none() && shared.get("a").is_some());
        shared.put("d", vec![estimates(2.0)]);
        assert!(shared.get("c").is_some(), "what is put again counts once");
        shared.put("large", (0..9).map(|_| estimates(3.0)).collect());
        assert!(shared.get("a").is_none() && shared.get("large").is_none());
    }

    #[test]
    fn recorded_estimates_come_in_their_order() {
        struct Twice;
        impl Denoiser for Twice {
            fn denoise(&self, x: &Tensor, sigma: f64) -> Result<Tensor> {
                Ok((x * sigma)?)
            }
        }
        let x = Tensor::ones((1, 1, 1, 1), DType::F32, &Device::Cpu).unwrap();
        let recording = Recording::of(&Twice);
        recording.denoise(&x, 2.0).unwrap();
        recording.estimates(&x, 3.0).unwrap();
        let made = recording.made();
        let recorded = Recorded::new(&made);
        let first = recorded.denoise(&x, 9.0).unwrap().flatten_all().unwrap();
        assert_eq!(first.to_vec1::<f32>().unwrap(), [2.0]);
        let second = recorded.estimates(&x, 9.0).unwrap().unguided.flatten_all().unwrap();
        assert_eq!(second.to_vec1::<f32>().unwrap(), [3.0]);
        assert!(recorded.denoise(&x, 9.0).is_err());
    }
}
