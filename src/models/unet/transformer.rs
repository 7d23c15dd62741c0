//! The transformer between residual blocks: self-attention, cross-attention to the text,
//! gated MLP.

use super::context::Context;
use super::layers::{Side, Spot};
use crate::error::Result;
use crate::models::part::{Origin, Part};
use crate::nn::{Attend, Conv2d, ConvFusion, Feature, FeedForward, Geometry, GroupNorm, LayerNorm};
use crate::weights::Scope;
use candle_core::Tensor;

/// Shape of one attention place.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TransformerShape {
    pub channels: usize,
    pub heads: usize,
    pub context: usize,
    pub depth: usize,
    pub groups: usize,
    pub linear_projection: bool,
    /// Whether no attention of the network has more tokens.
    pub finest: bool,
    /// Where it stands.
    pub spot: Spot,
}

/// diffusers' Transformer2DModel.
#[derive(Debug, Clone)]
pub(crate) struct Transformer {
    norm: GroupNorm,
    project_in: Conv2d,
    blocks: Vec<Part<Block>>,
    project_out: Conv2d,
    finest: bool,
    spot: Spot,
}

/// How the self-attention of a block is evaluated.
#[derive(Debug, Clone, Copy)]
enum Seeing {
    /// Every token sees all.
    All,
    /// As [`All`](Self::All), with a part of the tokens merged: sides of the images, and which part.
    Merged((usize, usize), f64),
    /// Every token sees itself alone.
    Itself,
}

#[derive(Debug, Clone)]
struct Block {
    norm1: LayerNorm,
    self_attention: Attend,
    norm2: LayerNorm,
    cross_attention: Attend,
    norm3: LayerNorm,
    feed_forward: FeedForward,
}

impl Transformer {
    pub(super) fn new(origin: &Origin<'_>, shape: TransformerShape) -> Result<Self> {
        let scope = origin.scope();
        let width = shape.channels;
        let project = |name: &str| {
            let scope = scope.at(name);
            if shape.linear_projection {
                Conv2d::pixelwise(&scope, width, width)
            } else {
                Conv2d::new(&scope, width, width, Geometry::POINT)
            }
        };
        Ok(Self {
            // 1e-6: diffusers' Transformer2DModel, unlike the resnets.
            norm: GroupNorm::new(&scope.at("norm"), width, shape.groups, 1e-6)?,
            project_in: project("proj_in")?,
            blocks: (0..shape.depth)
                .map(|i| {
                    let origin = origin.at("transformer_blocks").at(i);
                    origin.part(move |origin| Block::new(origin.scope(), shape))
                })
                .collect::<Result<_>>()?,
            project_out: project("proj_out")?,
            finest: shape.finest,
            spot: shape.spot,
        })
    }

    fn seeing(&self, sides: (usize, usize), context: &Context<'_>) -> Seeing {
        if context.perturbed.is_some_and(|layers| layers.hold(self.spot)) {
            Seeing::Itself
        } else if self.finest && context.merge > 0.0 {
            Seeing::Merged(sides, context.merge)
        } else {
            Seeing::All
        }
    }

    /// `x`: `[B, C, h, w]`. Returns the same shape.
    pub(super) fn forward(&self, x: &Feature, context: &Context<'_>) -> Result<Feature> {
        let sides = x.sides()?;
        let seeing = self.seeing(sides, context);
        let into = ConvFusion { norm: Some(&self.norm), ..ConvFusion::default() };
        let mut y = self.project_in.run(x, into)?.into_tokens()?;
        for (i, block) in self.blocks.iter().enumerate() {
            context.check()?;
            if i == 0
                && self.spot.side == Side::Mid
                && let Some(map) = context.attention
            {
                map.put(block.using(|block| block.attention_map(&y, sides))?);
            }
            y = block.using(|block| block.forward(&y, context.text, seeing))?;
        }
        let out = ConvFusion { add: Some(x), ..ConvFusion::default() };
        self.project_out.run(&y.into_image(sides)?, out)
    }
}

impl Block {
    fn new(scope: &Scope<'_>, shape: TransformerShape) -> Result<Self> {
        let width = shape.channels;
        let norm = |name: &str| LayerNorm::new(&scope.at(name), width, 1e-5);
        let attend =
            |name: &str, context| Attend::new(&scope.at(name), width, context, shape.heads);
        Ok(Self {
            norm1: norm("norm1")?,
            self_attention: attend("attn1", width)?,
            norm2: norm("norm2")?,
            cross_attention: attend("attn2", shape.context)?,
            norm3: norm("norm3")?,
            feed_forward: FeedForward::new(&scope.at("ff"), width)?,
        })
    }

    /// How much each token of images of `sides` is looked at: `[B, h, w]`.
    fn attention_map(&self, x: &Feature, (height, width): (usize, usize)) -> Result<Tensor> {
        let map = self.self_attention.map(x, &self.norm1)?;
        Ok(map.reshape(((), height, width))?)
    }

    /// `x`: `[B, N, C]`, same out.
    fn forward(&self, x: &Feature, context: &Feature, seeing: Seeing) -> Result<Feature> {
        let attention = &self.self_attention;
        let x = match seeing {
            Seeing::All => attention.tokens(x, &self.norm1, None)?,
            Seeing::Merged(sides, ratio) => attention.merged(x, &self.norm1, sides, ratio)?,
            Seeing::Itself => attention.itself(x, &self.norm1)?,
        };
        let x = self.cross_attention.tokens(&x, &self.norm2, Some(context))?;
        self.feed_forward.forward(&x, &self.norm3)
    }
}
