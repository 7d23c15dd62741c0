//! The half of the UNet on the way up: levels, last norm and last convolution.

use super::blocks::Up;
use super::context::Context;
use super::encoder::Encoded;
use crate::error::{Error, Result};
use crate::models::config::UNetConfig;
use crate::models::part::{Origin, built};
use crate::nn::{Conv2d, ConvFusion, Feature, Geometry, GroupNorm};
use candle_core::Tensor;

/// The half on the way up.
#[derive(Debug, Clone)]
pub(super) struct Decoder {
    ups: Vec<Up>,
    norm_out: GroupNorm,
    conv_out: Conv2d,
}

impl Decoder {
    /// Builds the half from the weights of `origin`, the network's root.
    pub(super) fn new(origin: &Origin<'_>, config: &UNetConfig) -> Result<Self> {
        let scope = origin.scope();
        let widths = &config.block_out_channels;
        let (first, groups) = (widths[0], config.norm_num_groups);
        let same = Geometry::same(config.conv_out_kernel);
        let up = |index| Up::new(&origin.at("up_blocks").at(index), config, index);
        Ok(Self {
            ups: built(widths.len(), up)?,
            norm_out: GroupNorm::new(&scope.at("conv_norm_out"), first, groups, config.norm_eps)?,
            conv_out: Conv2d::new(&scope.at("conv_out"), first, config.out_channels, same)?,
        })
    }

    /// The whole way up; `keep` gets what the finest layers start from.
    pub(super) fn forward(
        &self,
        Encoded { mut x, mut skips }: Encoded,
        context: &Context<'_>,
        keep: impl FnOnce(&Feature),
    ) -> Result<Tensor> {
        if let Some((last, ups)) = self.ups.split_last() {
            for up in ups {
                x = up.forward(x, context, &mut skips)?;
            }
            x = last.layers(0..last.deep(), x, context, &mut skips)?;
            keep(&x);
            x = last.layers(last.deep()..last.count(), x, context, &mut skips)?;
        }
        self.finish(&x)
    }

    /// Layers of the finest level that are evaluated at every step when the rest is reused.
    ///
    /// # Errors
    /// [`Error::Internal`] for a network without levels.
    pub(super) fn shallow_layers(&self) -> Result<usize> {
        Ok(self.finest()?.shallow())
    }

    /// The finest layers alone, over what they started from at another step.
    pub(super) fn shallow(
        &self,
        x: Feature,
        mut skips: Vec<Feature>,
        context: &Context<'_>,
    ) -> Result<Tensor> {
        let up = self.finest()?;
        let x = up.layers(up.deep()..up.count(), x, context, &mut skips)?;
        self.finish(&x)
    }

    fn finest(&self) -> Result<&Up> {
        self.ups.last().ok_or_else(|| Error::Internal("a UNet without levels".into()))
    }

    fn finish(&self, x: &Feature) -> Result<Tensor> {
        let out = ConvFusion { norm: Some(&self.norm_out), silu: true, ..ConvFusion::default() };
        self.conv_out.run(x, out)?.to_image()
    }
}
