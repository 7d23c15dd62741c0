//! The UNet of SD 1.x, SD 2.x, SDXL and networks derived from them, built from the
//! model's own config: diffusers' UNet2DConditionModel 0.42.

mod blocks;
mod context;
mod decoder;
mod encoder;
mod freeu;
mod input;
mod layers;
pub(crate) mod resnet;
mod transformer;

pub use freeu::{FreeU, Version as FreeUVersion};
pub use input::{AddedCondition, AttentionMap, UNetInput};
pub(crate) use input::{InputKind, OwnedInput};
pub use layers::{Layers, Side, Spot};

use super::config::UNetConfig;
use super::part::Origin;
use crate::error::{Error, Result};
use crate::nn::Feature;
use crate::weights::{Component, Scope, WeightSource};
use candle_core::Tensor;
use context::Context;
use decoder::Decoder;
use encoder::Encoder;
use std::sync::Arc;

/// The outputs of the deeper layers of a full evaluation, for evaluations of the finest layers alone. Cloning
/// shares.
#[derive(Debug, Clone)]
pub struct DeepFeatures(Feature);

/// A UNet; immutable.
#[derive(Debug, Clone)]
pub struct UNet {
    encoder: Encoder,
    decoder: Decoder,
    config: UNetConfig,
}

impl UNet {
    /// Builds the network from the weights under `scope` (the component's root).
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a config that is not built, or what reading a weight gives.
    pub fn new(scope: &Scope<'_>, config: &UNetConfig) -> Result<Self> {
        Self::of(&Origin::staying(scope.clone()), config)
    }

    /// The network of the weights of `component` in `source`, of which hardly any stay in memory: blocks are
    /// built for every evaluation, and go again.
    ///
    /// # Errors
    /// As [`new`](Self::new); of blocks when they are evaluated.
    pub fn streamed(
        source: &Arc<dyn WeightSource>,
        component: Component,
        config: &UNetConfig,
    ) -> Result<Self> {
        Self::of(&Origin::streamed(source, component), config)
    }

    fn of(origin: &Origin<'_>, config: &UNetConfig) -> Result<Self> {
        config.validate()?;
        let encoder = Encoder::new(origin, config)?;
        let decoder = Decoder::new(origin, config)?;
        Ok(Self { encoder, decoder, config: config.clone() })
    }

    /// The architecture.
    pub fn config(&self) -> &UNetConfig {
        &self.config
    }

    /// The raw prediction, `[B, Cout, h, w]`.
    ///
    /// # Errors
    /// [`Error::Internal`] when a condition that the architecture needs is absent.
    pub fn forward(&self, input: UNetInput<'_>) -> Result<Tensor> {
        self.full(input, |_| {})
    }

    /// As [`forward`](Self::forward), with what [`forward_shallow`](Self::forward_shallow) starts from.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    pub fn forward_keeping(&self, input: UNetInput<'_>) -> Result<(Tensor, DeepFeatures)> {
        let mut deep = None;
        let out = self.full(input, |x| deep = Some(DeepFeatures(x.clone())))?;
        let deep = deep.ok_or_else(|| Error::Internal("a UNet without levels".into()))?;
        Ok((out, deep))
    }

    /// The prediction of the finest layers over `deep` features of an evaluation at another timestep with
    /// the same batch and sizes.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    ///
    /// # Source
    /// `DeepCache`, Ma, Fang and Wang (2023), section 3.2.
    pub fn forward_shallow(&self, input: UNetInput<'_>, deep: &DeepFeatures) -> Result<Tensor> {
        let conditions = self.conditions(&input)?;
        let context = conditions.context(&input);
        let layers = self.decoder.shallow_layers()? - 1;
        let skips = self.encoder.shallow(input.latents, layers, &context)?;
        self.decoder.shallow(deep.0.clone(), skips, &context)
    }

    /// `keep` gets what the finest layers on the way up start from.
    fn full(&self, input: UNetInput<'_>, keep: impl FnOnce(&Feature)) -> Result<Tensor> {
        let conditions = self.conditions(&input)?;
        let context = conditions.context(&input);
        let encoded = self.encoder.forward(input.latents, &context)?;
        self.decoder.forward(encoded, &context, keep)
    }

    fn conditions(&self, input: &UNetInput<'_>) -> Result<Conditions> {
        let text = self.encoder.text(input)?;
        Ok(Conditions { time: self.encoder.time(input)?, text })
    }
}

/// The conditions of an evaluation as layers take them.
struct Conditions {
    /// Time embedding plus SDXL's added conditions, behind SiLU.
    time: Tensor,
    text: Feature,
}

impl Conditions {
    fn context<'a>(&'a self, input: &UNetInput<'a>) -> Context<'a> {
        let UNetInput { merge_tokens: merge, freeu, perturbed, attention, cancel, .. } = *input;
        let (time, text) = (&self.time, &self.text);
        Context { time, text, merge, freeu, perturbed, attention, cancel }
    }
}

#[cfg(test)]
mod tests;
