//! Floor 4. The transformer between residual blocks: self-attention, cross-attention to the text,
//! gated MLP.

use crate::error::Result;
use crate::nn::{Conv2d, Geometry, GroupNorm, LayerNorm, Linear, attention, geglu};
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
}

/// diffusers' Transformer2DModel.
#[derive(Debug, Clone)]
pub(crate) struct Transformer {
    norm: GroupNorm,
    project_in: Projection,
    blocks: Vec<Block>,
    project_out: Projection,
}

#[derive(Debug, Clone)]
enum Projection {
    Linear(Linear),
    Conv(Conv2d),
}

#[derive(Debug, Clone)]
struct Block {
    norm1: LayerNorm,
    self_attention: Attention,
    norm2: LayerNorm,
    cross_attention: Attention,
    norm3: LayerNorm,
    gate: Linear,
    down: Linear,
}

#[derive(Debug, Clone)]
struct Attention {
    q: Linear,
    k: Linear,
    v: Linear,
    out: Linear,
    heads: usize,
}

impl Transformer {
    pub(crate) fn new(scope: &Scope<'_>, shape: TransformerShape) -> Result<Self> {
        let width = shape.channels;
        let project = |name: &str| -> Result<Projection> {
            let scope = scope.at(name);
            Ok(if shape.linear_projection {
                Projection::Linear(Linear::new(&scope, width, width)?)
            } else {
                Projection::Conv(Conv2d::new(&scope, width, width, Geometry::POINT)?)
            })
        };
        Ok(Self {
            // 1e-6: diffusers' Transformer2DModel, unlike the resnets.
            norm: GroupNorm::new(&scope.at("norm"), width, shape.groups, 1e-6)?,
            project_in: project("proj_in")?,
            blocks: (0..shape.depth)
                .map(|i| Block::new(&scope.at("transformer_blocks").at(i), shape))
                .collect::<Result<_>>()?,
            project_out: project("proj_out")?,
        })
    }

    /// `x`: `[B, C, h, w]`; `context`: `[B, T, D]`. Returns the shape of `x`.
    pub(crate) fn forward(&self, x: &Tensor, context: &Tensor) -> Result<Tensor> {
        let (batch, channels, height, width) = x.dims4()?;
        let y = self.norm.forward(x)?;
        let to_tokens = |y: &Tensor| y.flatten_from(2)?.transpose(1, 2); // [B, N, C]
        let to_image = |y: &Tensor| y.transpose(1, 2)?.reshape((batch, channels, height, width));
        let mut y = match &self.project_in {
            Projection::Linear(linear) => linear.forward(&to_tokens(&y)?.contiguous()?)?,
            Projection::Conv(conv) => to_tokens(&conv.forward(&y)?)?.contiguous()?,
        };
        for block in &self.blocks {
            y = block.forward(&y, context)?;
        }
        let y = match &self.project_out {
            Projection::Linear(linear) => to_image(&linear.forward(&y)?)?,
            Projection::Conv(conv) => conv.forward(&to_image(&y)?)?,
        };
        Ok((x + y)?)
    }
}

impl Block {
    fn new(scope: &Scope<'_>, shape: TransformerShape) -> Result<Self> {
        let width = shape.channels;
        let norm = |name: &str| LayerNorm::new(&scope.at(name), width, 1e-5);
        Ok(Self {
            norm1: norm("norm1")?,
            self_attention: Attention::new(&scope.at("attn1"), width, width, shape.heads)?,
            norm2: norm("norm2")?,
            cross_attention: Attention::new(&scope.at("attn2"), width, shape.context, shape.heads)?,
            norm3: norm("norm3")?,
            gate: Linear::new(&scope.at("ff.net.0.proj"), width, 8 * width)?,
            down: Linear::new(&scope.at("ff.net.2"), 4 * width, width)?,
        })
    }

    /// `x`: `[B, N, C]`, same out.
    fn forward(&self, x: &Tensor, context: &Tensor) -> Result<Tensor> {
        let y = self.norm1.forward(x)?;
        let x = (x + self.self_attention.forward(&y, &y)?)?;
        let x = (&x + self.cross_attention.forward(&self.norm2.forward(&x)?, context)?)?;
        let y = self.gate.forward(&self.norm3.forward(&x)?)?; // [B, N, 8·C]: value, then gate
        Ok((&x + self.down.forward(&geglu(&y)?)?)?)
    }
}

impl Attention {
    fn new(scope: &Scope<'_>, width: usize, context: usize, heads: usize) -> Result<Self> {
        Ok(Self {
            q: Linear::without_bias(&scope.at("to_q"), width, width)?,
            k: Linear::without_bias(&scope.at("to_k"), context, width)?,
            v: Linear::without_bias(&scope.at("to_v"), context, width)?,
            out: Linear::new(&scope.at("to_out.0"), width, width)?,
            heads,
        })
    }

    fn forward(&self, x: &Tensor, context: &Tensor) -> Result<Tensor> {
        let q = self.q.forward(x)?;
        let (k, v) = (self.k.forward(context)?, self.v.forward(context)?);
        self.out.forward(&attention(&q, &k, &v, self.heads, None)?)
    }
}
