//! Floor 3. The gated MLP of a transformer block, with its norm and its residual.

use super::activation::geglu;
use super::feature::Form;
use super::packed::PackedLayer;
use super::{Feature, LayerNorm, Linear};
use crate::error::Result;
use crate::kernels::{Arrangement, Finish, gated, multiply_gated};
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
                let y = gate.forward(&norm.forward(x)?)?; // [B, N, 8·C]: value, then gate
                Ok(Feature(Form::Plain((x + self.down.forward(&geglu(&y)?)?)?)))
            }
            Gate::Packed(gate) => {
                let (x, down) = (x.map()?, self.down.packed()?);
                let y = norm.operand(&x, gate.precision);
                let y = match (gate.once(), &gate.bias) {
                    (Some(weight), Some(bias)) if weight.arrangement() == Arrangement::Gated => {
                        multiply_gated(&y, weight, bias, down.precision)
                    }
                    _ => gated(&gate.multiply(&y, Finish::default()), down.precision),
                };
                let finish = Finish { add: Some(&x), ..Finish::default() };
                Ok(Feature::of_map(down.multiply(&y, finish)))
            }
        }
    }
}
