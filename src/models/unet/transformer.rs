//! The transformer between residual blocks: self-attention, cross-attention to the text,
//! gated MLP.

use super::blocks::Context;
use crate::error::Result;
use crate::models::part::{Origin, Part};
use crate::nn::{Attend, Conv2d, ConvFusion, Feature, FeedForward, Geometry, GroupNorm, LayerNorm};
use crate::weights::Scope;

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
}

/// diffusers' Transformer2DModel.
#[derive(Debug, Clone)]
pub(crate) struct Transformer {
    norm: GroupNorm,
    project_in: Conv2d,
    blocks: Vec<Part<Block>>,
    project_out: Conv2d,
    finest: bool,
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
        })
    }

    /// `x`: `[B, C, h, w]`. Returns the same shape.
    pub(super) fn forward(&self, x: &Feature, context: &Context<'_>) -> Result<Feature> {
        let sides = x.sides()?;
        let merge = (self.finest && context.merge > 0.0).then_some((sides, context.merge));
        let into = ConvFusion { norm: Some(&self.norm), ..ConvFusion::default() };
        let mut y = self.project_in.run(x, into)?.into_tokens()?;
        for block in &self.blocks {
            context.check()?;
            y = block.using(|block| block.forward(&y, context.text, merge))?;
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

    /// `x`: `[B, N, C]`, same out. `merge`: sides of the images, and which part of their tokens is merged.
    fn forward(
        &self,
        x: &Feature,
        context: &Feature,
        merge: Option<((usize, usize), f64)>,
    ) -> Result<Feature> {
        let x = match merge {
            Some((sides, ratio)) => self.self_attention.merged(x, &self.norm1, sides, ratio)?,
            None => self.self_attention.tokens(x, &self.norm1, None)?,
        };
        let x = self.cross_attention.tokens(&x, &self.norm2, Some(context))?;
        self.feed_forward.forward(&x, &self.norm3)
    }
}
