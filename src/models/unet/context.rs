//! The inputs of every layer of the UNet beside the sample.

use super::freeu::FreeU;
use super::input::AttentionMap;
use super::layers::Layers;
use crate::cancel::Cancel;
use crate::error::Result;
use crate::nn::Feature;
use candle_core::Tensor;

/// Everything a forward pass carries beside the sample.
pub(super) struct Context<'a> {
    /// Time embedding after SiLU, `[B, 4·C₀]`.
    pub time: &'a Tensor,
    /// Text features, `[B, T, D]`.
    pub text: &'a Feature,
    /// Which part of the tokens of the finest self-attention is merged.
    pub merge: f64,
    /// The change of the first levels on the way up.
    pub freeu: Option<FreeU>,
    /// Self-attentions in which every token sees itself alone.
    pub perturbed: Option<&'a Layers>,
    /// Gets the map of the middle block's attention.
    pub attention: Option<&'a AttentionMap>,
    /// The flag that stops the pass between two layers.
    pub cancel: Option<&'a Cancel>,
}

impl Context<'_> {
    /// [`Error::Cancelled`](crate::Error::Cancelled) when the pass is to stop.
    pub(super) fn check(&self) -> Result<()> {
        self.cancel.map_or(Ok(()), Cancel::check)
    }
}
