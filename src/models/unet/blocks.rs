//! The levels of a UNet: down, middle and up.

use super::context::Context;
use super::freeu::Rung;
use super::layers::{Side, Spot};
use super::resnet::{Downsample, Resnet, ResnetShape, Upsample};
use super::transformer::{Transformer, TransformerShape};
use crate::error::Result;
use crate::models::config::{PerBlock, UNetConfig};
use crate::models::part::{Origin, Part};
use crate::nn::Feature;
use crate::weights::Products;
use std::ops::Range;

/// Layers on the way up, and as many on the way down less one, that are evaluated at every step when
/// the rest is reused.
const SHALLOW: usize = 2;

/// One level on the way down.
#[derive(Debug, Clone)]
pub(super) struct Down {
    resnets: Vec<Part<Resnet>>,
    attentions: Vec<Part<Transformer>>,
    downsample: Option<Part<Downsample>>,
}

impl Down {
    pub(super) fn new(origin: &Origin<'_>, config: &UNetConfig, level: usize) -> Result<Self> {
        let widths = &config.block_out_channels;
        let (width, before) = (widths[level], widths[level.saturating_sub(1)]);
        let layers = config.layers_per_block.of(level).unwrap_or(2);
        let resnet = resnet_shape(config, 1.0);
        let resnets = (0..layers)
            .map(|j| {
                let inputs = if j == 0 { before } else { width };
                residual(&origin.at("resnets").at(j), inputs, width, resnet)
            })
            .collect::<Result<_>>()?;
        let depths = config.transformer_layers_per_block.of(level);
        let attentions = if config.down_block_types[level].starts_with("CrossAttn") {
            let spot = Spot { side: Side::Down, level, index: 0 };
            attentions(origin, config, (level, spot), layers, depths.as_ref())?
        } else {
            Vec::new()
        };
        let downsample = if level + 1 == widths.len() {
            None
        } else {
            let (origin, padding) = (origin.at("downsamplers.0"), config.downsample_padding);
            Some(origin.part(move |origin| Downsample::new(origin.scope(), width, padding))?)
        };
        Ok(Self { resnets, attentions, downsample })
    }

    /// Pushes every intermediate sample onto `skips` for the way up.
    pub(super) fn forward(
        &self,
        x: Feature,
        context: &Context<'_>,
        skips: &mut Vec<Feature>,
    ) -> Result<Feature> {
        let mut x = self.layers(0..self.resnets.len(), x, context, skips)?;
        if let Some(downsample) = &self.downsample {
            x = downsample.using(|layer| layer.forward(&x))?;
            skips.push(x.clone());
        }
        Ok(x)
    }

    /// As [`forward`](Self::forward), some layers alone.
    pub(super) fn layers(
        &self,
        layers: Range<usize>,
        mut x: Feature,
        context: &Context<'_>,
        skips: &mut Vec<Feature>,
    ) -> Result<Feature> {
        for (j, resnet) in self.resnets.iter().enumerate().take(layers.end).skip(layers.start) {
            context.check()?;
            x = resnet.using(|layer| layer.forward(&x, Some(context.time)))?;
            if let Some(attention) = self.attentions.get(j) {
                x = attention.using(|layer| layer.forward(&x, context))?;
            }
            skips.push(x.clone());
        }
        Ok(x)
    }
}

/// The bottom of the UNet.
#[derive(Debug, Clone)]
pub(super) struct Mid {
    resnets: Vec<Part<Resnet>>,
    attention: Option<Part<Transformer>>,
}

impl Mid {
    pub(super) fn new(origin: &Origin<'_>, config: &UNetConfig) -> Result<Self> {
        let level = config.block_out_channels.len() - 1;
        let width = config.block_out_channels[level];
        let resnet = resnet_shape(config, config.mid_block_scale_factor);
        let crossed = config.mid_block_type.as_deref() == Some("UNetMidBlock2DCrossAttn");
        // diffusers builds the plain middle block with a single resnet.
        let resnets = (0..if crossed { 2 } else { 1 })
            .map(|j| residual(&origin.at("resnets").at(j), width, width, resnet))
            .collect::<Result<_>>()?;
        let attention = if crossed {
            let depth = match config.transformer_layers_per_block.of(level) {
                Some(PerBlock::Each(depths)) => depths.last().copied().unwrap_or(1),
                Some(PerBlock::All(depth)) => depth,
                None => 1,
            };
            let spot = Spot { side: Side::Mid, level: 0, index: 0 };
            let shape = transformer_shape(config, level, depth, spot)?;
            Some(origin.at("attentions.0").part(move |origin| Transformer::new(origin, shape))?)
        } else {
            None
        };
        Ok(Self { resnets, attention })
    }

    pub(super) fn forward(&self, mut x: Feature, context: &Context<'_>) -> Result<Feature> {
        for (j, resnet) in self.resnets.iter().enumerate() {
            context.check()?;
            if j == 1
                && let Some(attention) = &self.attention
            {
                x = attention.using(|layer| layer.forward(&x, context))?;
            }
            x = resnet.using(|layer| layer.forward(&x, Some(context.time)))?;
        }
        Ok(x)
    }
}

/// One level on the way up.
#[derive(Debug, Clone)]
pub(super) struct Up {
    resnets: Vec<Part<Resnet>>,
    attentions: Vec<Part<Transformer>>,
    upsample: Option<Part<Upsample>>,
    rung: Rung,
    products: Products,
}

impl Up {
    /// `index` counts from the coarsest level.
    pub(super) fn new(origin: &Origin<'_>, config: &UNetConfig, index: usize) -> Result<Self> {
        let widths = &config.block_out_channels;
        let last = widths.len() - 1;
        let level = last - index;
        let width = widths[level];
        let before = widths[(level + 1).min(last)];
        let after = widths[level.saturating_sub(1)];
        let layers = config.layers_per_block.of(level).unwrap_or(2) + 1;
        let resnet = resnet_shape(config, 1.0);
        let resnets = (0..layers)
            .map(|j| {
                let inputs = if j == 0 { before } else { width };
                let skip = if j + 1 == layers { after } else { width };
                residual(&origin.at("resnets").at(j), inputs + skip, width, resnet)
            })
            .collect::<Result<_>>()?;
        let depths = match &config.reverse_transformer_layers_per_block {
            Some(depths) => depths.get(index).or(depths.last()).cloned(),
            None => config.transformer_layers_per_block.of(level),
        };
        let attentions = if config.up_block_types[index].starts_with("CrossAttn") {
            let spot = Spot { side: Side::Up, level: index, index: 0 };
            attentions(origin, config, (level, spot), layers, depths.as_ref())?
        } else {
            Vec::new()
        };
        let upsample = if level == 0 {
            None
        } else {
            let origin = origin.at("upsamplers.0");
            Some(origin.part(move |origin| Upsample::new(origin.scope(), width))?)
        };
        let rung = Rung { level: index, base: widths[0] };
        let products = origin.scope().products();
        Ok(Self { resnets, attentions, upsample, rung, products })
    }

    /// Layers.
    pub(super) fn count(&self) -> usize {
        self.resnets.len()
    }

    /// The number of layers of the finest level that are evaluated at every step.
    pub(super) fn shallow(&self) -> usize {
        SHALLOW.min(self.count()).max(1)
    }

    /// The number of layers of the finest level before those.
    pub(super) fn deep(&self) -> usize {
        self.count().saturating_sub(self.shallow())
    }

    pub(super) fn forward(
        &self,
        x: Feature,
        context: &Context<'_>,
        skips: &mut Vec<Feature>,
    ) -> Result<Feature> {
        let x = self.layers(0..self.count(), x, context, skips)?;
        match (&self.upsample, skips.last()) {
            // Sizes that are not multiples of 2^levels were rounded up on the way down.
            (Some(upsample), Some(skip)) => {
                let sides = skip.sides()?;
                upsample.using(|layer| layer.forward(&x, sides))
            }
            (Some(upsample), None) => {
                let (height, width) = x.sides()?;
                upsample.using(|layer| layer.forward(&x, (2 * height, 2 * width)))
            }
            (None, _) => Ok(x),
        }
    }

    /// Some layers alone, without the upsampling behind the last.
    pub(super) fn layers(
        &self,
        layers: Range<usize>,
        mut x: Feature,
        context: &Context<'_>,
        skips: &mut Vec<Feature>,
    ) -> Result<Feature> {
        for (j, resnet) in self.resnets.iter().enumerate().take(layers.end).skip(layers.start) {
            context.check()?;
            let skip = skips.pop().ok_or_else(|| {
                crate::Error::unsupported(
                    "a UNet config whose up blocks have more layers than its down blocks",
                    "check layers_per_block in unet/config.json",
                )
            })?;
            let skip = match context.freeu {
                Some(freeu) => {
                    let changed = freeu.apply(self.rung, x, skip, self.products)?;
                    x = changed.0;
                    changed.1
                }
                None => skip,
            };
            let both = x.concat_channels(&skip)?;
            x = resnet.using(|layer| layer.forward(&both, Some(context.time)))?;
            if let Some(attention) = self.attentions.get(j) {
                x = attention.using(|layer| layer.forward(&x, context))?;
            }
        }
        Ok(x)
    }
}

fn residual(
    origin: &Origin<'_>,
    inputs: usize,
    outputs: usize,
    shape: ResnetShape,
) -> Result<Part<Resnet>> {
    origin.part(move |origin| Resnet::new(origin.scope(), inputs, outputs, shape))
}

fn resnet_shape(config: &UNetConfig, divisor: f64) -> ResnetShape {
    ResnetShape {
        groups: config.norm_num_groups,
        eps: config.norm_eps,
        time: Some(config.time_dim()),
        divisor,
    }
}

fn transformer_shape(
    config: &UNetConfig,
    level: usize,
    depth: usize,
    spot: Spot,
) -> Result<TransformerShape> {
    Ok(TransformerShape {
        channels: config.block_out_channels[level],
        heads: config.heads(level)?,
        context: config.cross_attention_dim.of(level).unwrap_or(768),
        depth,
        groups: config.norm_num_groups,
        linear_projection: config.use_linear_projection,
        finest: config.down_block_types.iter().position(|t| t.starts_with("CrossAttn"))
            == Some(level),
        spot,
    })
}

fn attentions(
    origin: &Origin<'_>,
    config: &UNetConfig,
    (level, first): (usize, Spot),
    count: usize,
    depths: Option<&PerBlock<usize>>,
) -> Result<Vec<Part<Transformer>>> {
    (0..count)
        .map(|j| {
            let depth = depths.and_then(|d| d.of(j)).unwrap_or(1);
            let shape = transformer_shape(config, level, depth, Spot { index: j, ..first })?;
            origin.at("attentions").at(j).part(move |origin| Transformer::new(origin, shape))
        })
        .collect()
}
