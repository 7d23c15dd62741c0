//! Where tensors go, as what, and how layers multiply by them.

use super::{Component, Precision, Quantisation};
use candle_core::{DType, Device};

/// How layers multiply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Products {
    /// Layers multiply with candle, on whatever device the tensors are.
    #[default]
    Plain,
    /// Layers multiply on the CPU, with weights packed in this precision.
    Packed(Precision),
}

/// Where tensors go and as what.
#[derive(Debug, Clone)]
pub struct Placement {
    /// The device that computes.
    pub device: Device,
    /// Float type of text encoders and UNet.
    pub dtype: DType,
    /// Float type of the autoencoder, which may overflow in f16.
    pub vae_dtype: DType,
    /// How layers multiply.
    pub products: Products,
    /// In which blocks packed UNet weights are kept; `None` for those of the file, if it has any.
    pub quantise: Option<Quantisation>,
}

impl Default for Placement {
    /// The CPU, in f32, with packed weights.
    fn default() -> Self {
        Self { products: Products::Packed(Precision::F32), ..PLAIN }
    }
}

/// The CPU, in f32, with weights as they are.
const PLAIN: Placement = Placement {
    device: Device::Cpu,
    dtype: DType::F32,
    vae_dtype: DType::F32,
    products: Products::Plain,
    quantise: None,
};

impl Placement {
    /// The CPU, in f32, with weights as they are: for sources of shapes alone.
    pub fn plain() -> &'static Self {
        static PLACEMENT: Placement = PLAIN;
        &PLACEMENT
    }

    /// Float type of the tensors of `component`.
    pub fn dtype_of(&self, component: Component) -> DType {
        if component == Component::Vae { self.vae_dtype } else { self.dtype }
    }

    /// How layers of `component` multiply: all alike so far.
    pub fn products_of(&self, _: Component) -> Products {
        self.products
    }
}
