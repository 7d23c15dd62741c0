//! The MLPs of transformer blocks, with their norm and their residual.

use super::feature::Form;
use super::packed::PackedLayer;
use super::plain;
use super::{Feature, LayerNorm, Linear};
use crate::error::{Error, Result};
use crate::kernels::{Epilogue, Gelu, activated};
use crate::weights::{Products, Scope};

/// x + down(value · GELU(gate)), value and gate being halves of one linear layer over norm(x).
#[derive(Debug, Clone)]
pub struct FeedForward {
    gate: Gate,
    down: Linear,
}

#[derive(Debug, Clone)]
enum Gate {
    Plain(Linear),
    Packed(PackedLayer),
}

impl FeedForward {
    /// `net.0.proj [8·width, width]`, `net.2 [width, 4·width]`, both with bias.
    pub fn new(scope: &Scope<'_>, width: usize) -> Result<Self> {
        let gate = scope.at("net.0.proj");
        let gate = match scope.products() {
            Products::Plain => Gate::Plain(Linear::new(&gate, width, 8 * width)?),
            Products::Packed(precision) => {
                gate.tensor("bias", &[8 * width])?;
                Gate::Packed(PackedLayer::gated(&gate, &[8 * width, width], precision)?)
            }
        };
        Ok(Self { gate, down: Linear::new(&scope.at("net.2"), 4 * width, width)? })
    }

    /// Tokens `[B, N, width]`, same out.
    pub fn forward(&self, x: &Feature, norm: &LayerNorm) -> Result<Feature> {
        match &self.gate {
            Gate::Plain(gate) => {
                let x = x.plain()?;
                let (y, bias) = gate.product(&norm.forward(x)?)?; // [B, N, 8·C]: value, then gate
                let bias = bias.ok_or_else(|| Error::Internal("a gate without bias".into()))?;
                Ok(Feature(Form::Plain(self.down.plain(&plain::gated(&y, bias)?, Some(x))?)))
            }
            Gate::Packed(gate) => {
                let (x, down) = (x.map()?, self.down.packed()?);
                let y = norm.operand(&x, gate.precision)?;
                let y = gate.multiply_gated(&y, down.precision)?;
                let finish = Epilogue { add: Some(&x), ..Epilogue::default() };
                Ok(Feature::of_map(down.multiply(&y, finish)?))
            }
        }
    }
}

/// x + fc2(GELU(fc1(norm(x)))).
#[derive(Debug, Clone)]
pub struct Mlp {
    fc1: Linear,
    fc2: Linear,
    quick: bool,
}

impl Mlp {
    /// `fc1 [inner, width]` and `fc2 [width, inner]`, both with bias; `quick`: OpenAI's x·σ(1.702·x).
    pub fn new(scope: &Scope<'_>, width: usize, inner: usize, quick: bool) -> Result<Self> {
        let fc1 = Linear::new(&scope.at("fc1"), width, inner)?;
        Ok(Self { fc1, fc2: Linear::new(&scope.at("fc2"), inner, width)?, quick })
    }

    /// Tokens `[B, N, width]`, same out.
    pub fn forward(&self, x: &Feature, norm: &LayerNorm) -> Result<Feature> {
        if let Form::Plain(x) = &x.0 {
            let y = plain::gelu(&self.fc1.forward(&norm.forward(x)?)?, self.quick)?;
            return Ok(Feature(Form::Plain(self.fc2.plain(&y, Some(x))?)));
        }
        let (x, fc1, fc2) = (x.map()?, self.fc1.packed()?, self.fc2.packed()?);
        let kind = if self.quick { Gelu::Quick } else { Gelu::Exact };
        let y = fc1.multiply(&norm.operand(&x, fc1.precision)?, Epilogue::default())?;
        let y = activated(&y, kind, fc2.precision)?;
        Ok(Feature::of_map(fc2.multiply(&y, Epilogue { add: Some(&x), ..Epilogue::default() })?))
    }
}
