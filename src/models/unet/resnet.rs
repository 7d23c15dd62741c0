//! The residual block and the samplers between levels; shared by UNet and VAE.

use crate::error::Result;
use crate::nn::{Conv2d, ConvFusion, Feature, Geometry, GroupNorm, Linear};
use crate::weights::Scope;
use candle_core::Tensor;

/// GroupNorm, SiLU, conv, twice, with the time embedding between: diffusers' ResnetBlock2D.
#[derive(Debug, Clone)]
pub(crate) struct Resnet {
    norm1: GroupNorm,
    conv1: Conv2d,
    time: Option<Linear>,
    norm2: GroupNorm,
    conv2: Conv2d,
    shortcut: Option<Conv2d>,
    divisor: f64,
}

/// The settings that all residual blocks of a network share.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ResnetShape {
    /// Groups of each norm.
    pub groups: usize,
    /// ε of each norm.
    pub eps: f64,
    /// Width of the time embedding; none in a VAE.
    pub time: Option<usize>,
    /// The sum with the shortcut is divided by this.
    pub divisor: f64,
}

impl Resnet {
    pub(crate) fn new(
        scope: &Scope<'_>,
        inputs: usize,
        outputs: usize,
        shape: ResnetShape,
    ) -> Result<Self> {
        let norm =
            |name: &str, width| GroupNorm::new(&scope.at(name), width, shape.groups, shape.eps);
        let conv = |name: &str, from| Conv2d::new(&scope.at(name), from, outputs, Geometry::SAME);
        let time = shape
            .time
            .map(|width| Linear::new(&scope.at("time_emb_proj"), width, outputs))
            .transpose()?;
        let shortcut = if inputs == outputs {
            None
        } else {
            let scope = scope.at("conv_shortcut");
            Some(Conv2d::new(&scope, inputs, outputs, Geometry::POINT)?)
        };
        Ok(Self {
            norm1: norm("norm1", inputs)?,
            conv1: conv("conv1", inputs)?,
            time,
            norm2: norm("norm2", outputs)?,
            conv2: conv("conv2", outputs)?,
            shortcut,
            divisor: shape.divisor,
        })
    }

    /// `x`: `[B, inputs, h, w]`; `time`: `[B, width]` after SiLU. Returns `[B, outputs, h, w]`.
    pub(crate) fn forward(&self, x: &Feature, time: Option<&Tensor>) -> Result<Feature> {
        let shift = match (&self.time, time) {
            (Some(project), Some(time)) => Some(project.forward(time)?),
            _ => None,
        };
        let normed = |norm| ConvFusion { norm: Some(norm), silu: true, ..ConvFusion::default() };
        let first = ConvFusion { shift: shift.as_ref(), ..normed(&self.norm1) };
        let y = self.conv1.run(x, first)?;
        let x = match &self.shortcut {
            Some(conv) => &conv.forward(x)?,
            None => x,
        };
        let last = ConvFusion { add: Some(x), divisor: self.divisor, ..normed(&self.norm2) };
        self.conv2.run(&y, last)
    }
}

/// Strided convolution that halves the size.
#[derive(Debug, Clone)]
pub(crate) struct Downsample {
    conv: Conv2d,
}

impl Downsample {
    /// `padding` 0 means: pad only right and bottom, as autoencoders do.
    pub(crate) fn new(scope: &Scope<'_>, channels: usize, padding: usize) -> Result<Self> {
        let geometry = Geometry { padding, ..Geometry::HALVE };
        Ok(Self { conv: Conv2d::new(&scope.at("conv"), channels, channels, geometry)? })
    }

    pub(crate) fn forward(&self, x: &Feature) -> Result<Feature> {
        self.conv.forward(x)
    }
}

/// Nearest upsampling followed by a convolution.
#[derive(Debug, Clone)]
pub(crate) struct Upsample {
    conv: Conv2d,
}

impl Upsample {
    pub(crate) fn new(scope: &Scope<'_>, channels: usize) -> Result<Self> {
        Ok(Self { conv: Conv2d::after_growth(&scope.at("conv"), channels)? })
    }

    /// Grows `x` to height × width, which is twice its size or one less.
    pub(crate) fn forward(&self, x: &Feature, size: (usize, usize)) -> Result<Feature> {
        self.conv.run(x, ConvFusion { grown: Some(size), ..ConvFusion::default() })
    }
}
