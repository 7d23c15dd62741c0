//! The phases of a plan: which stacks of LoRAs act at which step, and their networks.

use super::cache::{Noted, Room};
use super::event::Watch;
use super::{Memory, Pipeline, Plan};
use crate::conditioning::Conditioning;
use crate::error::Result;
use crate::lora::{Apply, Lora, LoraStack, Method};
use crate::models::UNet;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Which stacks act at which step. Made once a plan, so that all its images are drawn with the same files.
#[derive(Debug)]
pub(super) struct Phases {
    /// Each distinct pair of text and UNet stacks.
    stacks: Vec<(LoraStack, LoraStack)>,
    /// For each step the phases whose estimates are averaged.
    steps: Vec<Vec<usize>>,
    apply: Apply,
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

/// A request that is being served: as long as it lives, its networks stay among those that are remembered.
pub(super) struct Running<'a> {
    pipeline: &'a Pipeline,
    /// Whether nothing is left of its plan when it is done.
    whole: bool,
    _room: Room<'a, Noted<UNet>>,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let pipeline = self.pipeline;
        let others = pipeline.requests.fetch_sub(1, Ordering::Relaxed) > 1;
        if self.whole && !others && pipeline.memory == Memory::Save {
            pipeline.forget_networks();
        }
    }
}

impl Phases {
    fn new(stack: &LoraStack, plan: &Plan) -> Self {
        let mut known: BTreeMap<(String, String), usize> = BTreeMap::new();
        let mut stacks: Vec<(LoraStack, LoraStack)> = Vec::new();
        let mut steps = Vec::with_capacity(plan.steps);
        for step in 0..plan.steps {
            let mut now = Vec::new();
            for (text, unet) in acting(stack, step, plan.steps) {
                let (text, unet) = (text.text_part(), unet.unet_part());
                let key = (text.fingerprint(), unet.fingerprint());
                let next = stacks.len();
                let phase = *known.entry(key).or_insert(next);
                if phase == next {
                    stacks.push((text, unet));
                }
                now.push(phase);
            }
            steps.push(now);
        }
        let apply = match plan.apply {
            Apply::Auto if stacks.len() > 1 => Apply::Bypass,
            Apply::Auto => Apply::Merge,
            chosen => chosen,
        };
        Self { stacks, steps, apply }
    }

    /// The keys of the composed UNets that the plan takes in turn.
    fn networks(&self) -> Vec<String> {
        let composed = self.stacks.iter().map(|(_, unet)| unet).filter(|unet| !unet.is_empty());
        composed.map(|unet| network_key(unet, self.apply)).collect()
    }
}

impl Pipeline {
    /// To be held while a request with these phases is served; `whole`: to the end of its plan.
    pub(super) fn running(&self, phases: &Phases, whole: bool) -> Running<'_> {
        self.requests.fetch_add(1, Ordering::Relaxed);
        Running { pipeline: self, whole, _room: self.unets.room(phases.networks()) }
    }

    /// The phases of `plan`, each adapter found and read.
    pub(super) fn phases(&self, plan: &Plan, watch: Watch<'_>) -> Result<Phases> {
        self.notes(plan).into_iter().for_each(|note| watch.warn(note));
        let phases = Phases::new(&self.stack_watched(plan, watch)?, plan);
        let entries = phases.stacks.iter().flat_map(|(_, unet)| &unet.entries);
        entries.filter_map(|entry| advice(&entry.lora, plan)).for_each(|text| watch.warn(text));
        Ok(phases)
    }

    /// Builds what makes one image of `plan`.
    pub(super) fn cast(&self, plan: &Plan, phases: &Phases, watch: Watch<'_>) -> Result<Cast> {
        let mut cast = Cast {
            phases: Vec::with_capacity(phases.stacks.len()),
            steps: phases.steps.clone(),
            compose: Duration::ZERO,
            load: Duration::ZERO,
            encode: Duration::ZERO,
        };
        let apply = phases.apply;
        let mut conditions = Vec::with_capacity(phases.stacks.len());
        for (text, _) in &phases.stacks {
            watch.check()?;
            conditions.push(self.condition_with(text, plan, apply, watch, &mut cast)?);
        }
        self.texts_done();
        for ((_, unet), conditioning) in phases.stacks.iter().zip(conditions) {
            watch.check()?;
            let begin = Instant::now();
            let unet = self.unet_with(unet, apply, watch, &mut cast.compose)?;
            cast.load += begin.elapsed();
            cast.phases.push((unet, conditioning));
        }
        self.networks_built();
        cast.load = cast.load.saturating_sub(cast.compose);
        Ok(cast)
    }
}

/// What a network with a stack is remembered by.
pub(super) fn network_key(stack: &LoraStack, apply: Apply) -> String {
    format!("{apply:?} {}", stack.fingerprint())
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
