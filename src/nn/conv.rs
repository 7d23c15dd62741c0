//! The convolution: the other place that looks inside a weight.

use super::geometry::Geometry;
use super::packed::{PackedLayer, floats};
use super::plain::{self, Added};
use super::stored::Stored;
use super::{Feature, GroupNorm};
use crate::error::Result;
use crate::kernels::{Epilogue, Prologue};
use crate::weights::{DenseBranch, Products, Scope};
use candle_core::Tensor;
use std::sync::Arc;

/// The operations around a convolution, in this order; layers with packed weights do it in one pass.
#[derive(Debug, Clone, Copy)]
pub struct ConvFusion<'a> {
    /// Group norm of the input.
    pub norm: Option<&'a GroupNorm>,
    /// SiLU after the norm.
    pub silu: bool,
    /// Nearest neighbours: height and width to grow to, twice the input's or one less.
    pub grown: Option<(usize, usize)>,
    /// Added to every pixel of the output: `[B, outputs]`.
    pub shift: Option<&'a Tensor>,
    /// Added to the output.
    pub add: Option<&'a Feature>,
    /// The number by which the sum is divided at last.
    pub divisor: f64,
}

impl Default for ConvFusion<'_> {
    fn default() -> Self {
        let (norm, silu, grown, shift, add) = (None, false, None, None, None);
        Self { norm, silu, grown, shift, add, divisor: 1.0 }
    }
}

/// A 2-D convolution, plus the low-rank branches of its weight if it has any.
#[derive(Debug, Clone)]
pub struct Conv2d(Form);

#[derive(Debug, Clone)]
enum Form {
    Plain {
        /// `[outputs, k, k, inputs]`.
        kernel: Stored,
        branches: Arc<[DenseBranch]>,
        bias: Option<Tensor>,
        geometry: Geometry,
    },
    Packed(Box<PackedLayer>),
}

impl Conv2d {
    /// `weight [outputs, inputs, k, k]` and `bias [outputs]`.
    pub fn new(
        scope: &Scope<'_>,
        inputs: usize,
        outputs: usize,
        geometry: Geometry,
    ) -> Result<Self> {
        // `tensor` returns the error that names the missing one.
        scope.tensor("bias", &[outputs])?;
        Self::without_bias(scope, inputs, outputs, geometry)
    }

    /// `weight [outputs, inputs, k, k]`; a bias is used if the source has one.
    pub fn without_bias(
        scope: &Scope<'_>,
        inputs: usize,
        outputs: usize,
        geometry: Geometry,
    ) -> Result<Self> {
        let shape = [outputs, inputs, geometry.kernel, geometry.kernel];
        Self::build(scope, &shape, geometry, false)
    }

    /// A 3×3 convolution that keeps the size of images that grow first ([`ConvFusion::grown`]).
    pub fn after_growth(scope: &Scope<'_>, channels: usize) -> Result<Self> {
        scope.tensor("bias", &[channels])?;
        Self::build(scope, &[channels, channels, 3, 3], Geometry::SAME, true)
    }

    /// A linear layer over the channels of every pixel: `weight [outputs, inputs]`.
    pub fn pixelwise(scope: &Scope<'_>, inputs: usize, outputs: usize) -> Result<Self> {
        scope.tensor("bias", &[outputs])?;
        Self::build(scope, &[outputs, inputs], Geometry::POINT, false)
    }

    fn build(
        scope: &Scope<'_>,
        shape: &[usize],
        geometry: Geometry,
        doubled: bool,
    ) -> Result<Self> {
        if let Products::Packed(precision) = scope.products() {
            let layer = PackedLayer::new(scope, shape, geometry, doubled, precision)?;
            return Ok(Self(Form::Packed(Box::new(layer))));
        }
        let (kernel, branches) = Stored::kernel(scope, shape)?;
        let bias = scope.optional("bias", &shape[..1])?;
        let branches = branches.iter().map(arranged).collect::<Result<_>>()?;
        Ok(Self(Form::Plain { kernel, branches, bias, geometry }))
    }

    /// The convolution of images `[B, inputs, H, W]`.
    pub fn forward(&self, x: &Feature) -> Result<Feature> {
        self.run(x, ConvFusion::default())
    }

    /// The convolution with what happens around it.
    pub fn run(&self, x: &Feature, around: ConvFusion<'_>) -> Result<Feature> {
        match &self.0 {
            Form::Packed(layer) => run_packed(layer, x, around),
            Form::Plain { kernel, branches, bias, geometry } => {
                let x = before(x.plain()?, around)?;
                let mut y = plain::convolve(&x, &kernel.tensor()?, *geometry)?;
                for branch in &**branches {
                    y = (y + branch_output(&x, branch, *geometry)?)?;
                }
                let tensor = around.add.map(Feature::plain).transpose()?;
                let added = Added { bias: bias.as_ref(), shift: around.shift, tensor };
                let y = plain::finish(y, added, 1.0 / around.divisor)?;
                Ok(Feature(super::feature::Form::Plain(y)))
            }
        }
    }
}

fn run_packed(layer: &PackedLayer, x: &Feature, around: ConvFusion<'_>) -> Result<Feature> {
    let parts = x.maps()?;
    let affine = around.norm.map(|norm| norm.affine(parts)).transpose()?;
    let how = Prologue {
        affine: affine.as_ref(),
        silu: around.silu,
        grown: around.grown,
        ..Prologue::default()
    };
    let bias = match around.shift {
        Some(shift) => {
            let shift = floats(shift)?;
            Some(match &layer.bias {
                Some(bias) => shift.iter().zip(bias.iter().cycle()).map(|(s, b)| s + b).collect(),
                None => shift.to_vec(),
            })
        }
        None => None,
    };
    let add = around.add.map(Feature::map).transpose()?;
    let scale = (1.0 / around.divisor) as f32;
    let finish = Epilogue { bias: bias.as_deref(), add: add.as_ref(), scale };
    Ok(Feature::of_map(layer.run(parts, how, finish)?))
}

/// Applies the operations on the input, with plain tensors.
fn before(x: &Tensor, around: ConvFusion<'_>) -> Result<Tensor> {
    let x = match (around.norm, around.silu) {
        (Some(norm), silu) => norm.plain(x, silu)?,
        (None, true) => x.silu()?,
        (None, false) => x.clone(),
    };
    around.grown.map_or(Ok(x.clone()), |sides| plain::upsample_to(&x, sides))
}

/// The factors of a branch as kernels.
fn arranged(branch: &DenseBranch) -> Result<DenseBranch> {
    Ok(DenseBranch {
        down: plain::kernel(&branch.down)?,
        mid: branch.mid.as_ref().map(plain::kernel).transpose()?,
        up: plain::kernel(&branch.up)?,
        scale: branch.scale,
    })
}

/// The spatial factor takes the geometry of the layer, the others are 1×1.
fn branch_output(x: &Tensor, branch: &DenseBranch, geometry: Geometry) -> Result<Tensor> {
    let hidden = match &branch.mid {
        Some(mid) => {
            let hidden = plain::convolve(x, &branch.down, Geometry::POINT)?;
            plain::convolve(&hidden, mid, geometry)?
        }
        None => plain::convolve(x, &branch.down, geometry)?, // [B, H', W', R]
    };
    let y = plain::convolve(&hidden, &branch.up, Geometry::POINT)?;
    Ok((y * f64::from(branch.scale))?)
}
