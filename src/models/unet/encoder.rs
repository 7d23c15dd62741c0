//! The half of the UNet on the way down: first convolution, embedded conditions, levels and middle block.
//!
//! A network that steers a UNet from beside it (ControlNet) is this half once more, with a hint added to the
//! first convolution and a convolution of its own behind every [`Encoded`] feature.

use super::blocks::{Down, Mid};
use super::context::Context;
use super::input::UNetInput;
use crate::error::{Error, Result};
use crate::models::config::UNetConfig;
use crate::models::part::{Origin, built};
use crate::nn::{Conv2d, Feature, Geometry, Linear, TimeMlp, sinusoid};
use crate::weights::Products;
use candle_core::Tensor;

/// The half on the way down.
#[derive(Debug, Clone)]
pub(super) struct Encoder {
    conv_in: Conv2d,
    time: TimeMlp,
    guidance: Option<Linear>,
    added: Option<TimeMlp>,
    downs: Vec<Down>,
    mid: Option<Mid>,
    products: Products,
    numbers: NumberEmbedding,
}

/// How numbers, timesteps and sizes, become vectors.
#[derive(Debug, Clone, Copy)]
struct NumberEmbedding {
    /// Width of an embedded timestep.
    time: usize,
    /// Width of each embedded size.
    size: usize,
    cosine_first: bool,
    shift: f64,
}

/// The outputs of the encoder half for the decoder half.
pub(super) struct Encoded {
    /// The output of the middle block.
    pub(super) x: Feature,
    /// The outputs of the first convolution and of every layer, the coarsest last.
    pub(super) skips: Vec<Feature>,
}

impl Encoder {
    /// Builds the half from the weights of `origin`, the network's root.
    pub(super) fn new(origin: &Origin<'_>, config: &UNetConfig) -> Result<Self> {
        let scope = origin.scope();
        let widths = &config.block_out_channels;
        let (first, time_dim) = (widths[0], config.time_dim());
        let guidance = config
            .time_cond_proj_dim
            .map(|dim| Linear::without_bias(&scope.at("time_embedding.cond_proj"), dim, first))
            .transpose()?;
        let added = match config.projection_class_embeddings_input_dim {
            Some(dim) if config.addition_embed_type.is_some() => {
                Some(TimeMlp::new(&scope.at("add_embedding"), dim, time_dim)?)
            }
            _ => None,
        };
        let mid = match config.mid_block_type {
            Some(_) => Some(Mid::new(&origin.at("mid_block"), config)?),
            None => None,
        };
        let same = Geometry::same(config.conv_in_kernel);
        let down = |level| Down::new(&origin.at("down_blocks").at(level), config, level);
        Ok(Self {
            conv_in: Conv2d::new(&scope.at("conv_in"), config.in_channels, first, same)?,
            time: TimeMlp::new(&scope.at("time_embedding"), first, time_dim)?,
            guidance,
            added,
            downs: built(widths.len(), down)?,
            mid,
            products: scope.products(),
            numbers: NumberEmbedding {
                time: first,
                size: config.addition_time_embed_dim.unwrap_or(256),
                cosine_first: config.flip_sin_to_cos,
                shift: config.freq_shift,
            },
        })
    }

    /// The whole way down.
    pub(super) fn forward(&self, latents: &Tensor, context: &Context<'_>) -> Result<Encoded> {
        let mut x = self.first(latents)?;
        let mut skips = vec![x.clone()];
        for down in &self.downs {
            x = down.forward(x, context, &mut skips)?;
        }
        if let Some(mid) = &self.mid {
            x = mid.forward(x, context)?;
        }
        Ok(Encoded { x, skips })
    }

    /// The outputs of the first `layers` layers of the finest level, for the decoder half.
    pub(super) fn shallow(
        &self,
        latents: &Tensor,
        layers: usize,
        context: &Context<'_>,
    ) -> Result<Vec<Feature>> {
        let Some(down) = self.downs.first() else {
            return Err(Error::Internal("a UNet without levels".into()));
        };
        let x = self.first(latents)?;
        let mut skips = vec![x.clone()];
        down.layers(0..layers, x, context, &mut skips)?;
        Ok(skips)
    }

    fn first(&self, latents: &Tensor) -> Result<Feature> {
        self.conv_in.forward(&Feature::image(latents, self.products)?)
    }

    /// The text features as layers read them.
    pub(super) fn text(&self, input: &UNetInput<'_>) -> Result<Feature> {
        Feature::tokens(input.context, self.products)
    }

    /// Time embedding plus SDXL's added conditions behind SiLU, which every use of it asks for: `[B, 4·C₀]`.
    pub(super) fn time(&self, input: &UNetInput<'_>) -> Result<Tensor> {
        Ok(self.embed_time(input)?.silu()?)
    }

    fn embed_time(&self, input: &UNetInput<'_>) -> Result<Tensor> {
        let dtype = input.latents.dtype();
        let mut time = self.numbers.embed(input.timesteps, self.numbers.time)?.to_dtype(dtype)?;
        match (&self.guidance, input.guidance) {
            (Some(project), Some(guidance)) => {
                time = (time + project.forward(&guidance.to_dtype(dtype)?)?)?;
            }
            (None, Some(_)) => {
                return Err(Error::Internal("this UNet takes no guidance embedding".into()));
            }
            _ => {}
        }
        let time = self.time.forward(&time)?;
        match (&self.added, input.added) {
            (Some(mlp), Some(added)) => {
                let (batch, numbers) = added.micro.dims2()?;
                let width = self.numbers.size;
                let micro = self.numbers.embed(&added.micro.flatten_all()?, width)?;
                let micro = micro.reshape((batch, numbers * width))?.to_dtype(dtype)?;
                let both = Tensor::cat(&[&added.pooled.to_dtype(dtype)?, &micro], 1)?;
                Ok((time + mlp.forward(&both)?)?)
            }
            (Some(_), None) => {
                Err(Error::Internal("this UNet needs pooled text and sizes (SDXL)".into()))
            }
            (None, _) => Ok(time),
        }
    }
}

impl NumberEmbedding {
    fn embed(self, numbers: &Tensor, width: usize) -> Result<Tensor> {
        sinusoid(numbers, width, self.cosine_first, self.shift)
    }
}
