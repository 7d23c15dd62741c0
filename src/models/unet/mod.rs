//! The UNet of SD 1.x, SD 2.x, SDXL and networks derived from them, built from the
//! model's own config: diffusers' UNet2DConditionModel 0.42.

mod blocks;
mod input;
pub(crate) mod resnet;
mod transformer;

pub use input::{AddedCondition, UNetInput};
pub(crate) use input::{InputKind, OwnedInput};

use super::config::UNetConfig;
use super::part::{Origin, built};
use crate::error::{Error, Result};
use crate::nn::{Conv2d, ConvFusion, Feature, Geometry, GroupNorm, Linear, TimeMlp, sinusoid};
use crate::weights::{Products, Scope, WeightSource};
use blocks::{Context, Down, Mid, Up};
use candle_core::Tensor;
use std::sync::Arc;

/// What the deeper layers of a full evaluation gave, for evaluations of the finest layers alone. Cloning
/// shares.
#[derive(Debug, Clone)]
pub struct DeepFeatures(Feature);

/// A UNet; immutable.
#[derive(Debug, Clone)]
pub struct UNet {
    conv_in: Conv2d,
    time: TimeMlp,
    guidance: Option<Linear>,
    added: Option<TimeMlp>,
    downs: Vec<Down>,
    mid: Option<Mid>,
    ups: Vec<Up>,
    norm_out: GroupNorm,
    conv_out: Conv2d,
    products: Products,
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
        component: &str,
        config: &UNetConfig,
    ) -> Result<Self> {
        Self::of(&Origin::streamed(source, component), config)
    }

    fn of(origin: &Origin<'_>, config: &UNetConfig) -> Result<Self> {
        config.validate()?;
        let scope = origin.scope();
        let widths = &config.block_out_channels;
        let (first, levels, time_dim) = (widths[0], widths.len(), config.time_dim());
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
        let (kernel_in, kernel_out) = (config.conv_in_kernel, config.conv_out_kernel);
        Ok(Self {
            conv_in: Conv2d::new(
                &scope.at("conv_in"),
                config.in_channels,
                first,
                Geometry::same(kernel_in),
            )?,
            time: TimeMlp::new(&scope.at("time_embedding"), first, time_dim)?,
            guidance,
            added,
            downs: built(levels, |i| Down::new(&origin.at("down_blocks").at(i), config, i))?,
            mid,
            ups: built(levels, |i| Up::new(&origin.at("up_blocks").at(i), config, i))?,
            norm_out: GroupNorm::new(
                &scope.at("conv_norm_out"),
                first,
                config.norm_num_groups,
                config.norm_eps,
            )?,
            conv_out: Conv2d::new(
                &scope.at("conv_out"),
                first,
                config.out_channels,
                Geometry::same(kernel_out),
            )?,
            products: scope.products(),
            config: config.clone(),
        })
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
        let (time, text) = self.conditions(&input)?;
        let (merge, cancel) = (input.merge_tokens, input.cancel);
        let context = Context { time: &time, text: &text, merge, cancel };
        let (Some(down), Some(up)) = (self.downs.first(), self.ups.last()) else {
            return Err(Error::Internal("a UNet without levels".into()));
        };
        let x = self.conv_in.forward(&Feature::image(input.latents, self.products)?)?;
        let mut skips = vec![x.clone()];
        down.layers(0..up.shallow() - 1, x, &context, &mut skips)?;
        let x = up.layers(up.deep()..up.count(), deep.0.clone(), &context, &mut skips)?;
        self.finish(&x)
    }

    /// `keep` gets what the finest layers on the way up start from.
    fn full(&self, input: UNetInput<'_>, keep: impl FnOnce(&Feature)) -> Result<Tensor> {
        let (time, text) = self.conditions(&input)?;
        let (merge, cancel) = (input.merge_tokens, input.cancel);
        let context = Context { time: &time, text: &text, merge, cancel };
        let mut x = self.conv_in.forward(&Feature::image(input.latents, self.products)?)?;
        let mut skips = vec![x.clone()];
        for down in &self.downs {
            x = down.forward(x, &context, &mut skips)?;
        }
        if let Some(mid) = &self.mid {
            x = mid.forward(x, &context)?;
        }
        if let Some((last, ups)) = self.ups.split_last() {
            for up in ups {
                x = up.forward(x, &context, &mut skips)?;
            }
            x = last.layers(0..last.deep(), x, &context, &mut skips)?;
            keep(&x);
            x = last.layers(last.deep()..last.count(), x, &context, &mut skips)?;
        }
        self.finish(&x)
    }

    /// Time embedding after SiLU, which every use of it asks for, and text.
    fn conditions(&self, input: &UNetInput<'_>) -> Result<(Tensor, Feature)> {
        let text = Feature::tokens(input.context, self.products)?;
        Ok((self.embed_time(input)?.silu()?, text))
    }

    fn finish(&self, x: &Feature) -> Result<Tensor> {
        let out = ConvFusion { norm: Some(&self.norm_out), silu: true, ..ConvFusion::default() };
        self.conv_out.run(x, out)?.to_image()
    }

    /// Time embedding plus SDXL's added conditions, `[B, 4·C₀]`.
    fn embed_time(&self, input: &UNetInput<'_>) -> Result<Tensor> {
        let config = &self.config;
        let dtype = input.latents.dtype();
        let mut time =
            self.sinusoid(input.timesteps, config.block_out_channels[0])?.to_dtype(dtype)?;
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
                let width = config.addition_time_embed_dim.unwrap_or(256);
                let micro = self.sinusoid(&added.micro.flatten_all()?, width)?;
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

    fn sinusoid(&self, numbers: &Tensor, width: usize) -> Result<Tensor> {
        sinusoid(numbers, width, self.config.flip_sin_to_cos, self.config.freq_shift)
    }
}
