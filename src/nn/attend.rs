//! An attention layer with its norm and its residual.

use super::attention::{causal_mask, looked_at};
use super::feature::Form;
use super::packed::PackedLayer;
use super::plain;
use super::{Feature, GroupNorm, LayerNorm, Linear};
use crate::error::{Error, Result};
use crate::hint::Hint;
use crate::kernels::{
    self, Epilogue, FeatureMap, Heads, Operand, Precision, Prologue, TokenMerging,
};
use crate::weights::{Products, Scope};
use candle_core::Tensor;

/// x + out(attention(q(norm(x)), k(y), v(y))), where y is norm(x) itself or a text.
#[derive(Debug, Clone)]
pub struct Attend {
    q: Linear,
    k: Linear,
    v: Linear,
    out: Linear,
    heads: usize,
    /// Whether tokens see only those before them and themselves.
    causal: bool,
    /// How plain tensors are kept from seeing more, for the longest text.
    mask: Option<Tensor>,
}

impl Attend {
    /// `to_q [width, width]`, `to_k` and `to_v [width, context]`, `to_out.0 [width, width]`; the first
    /// three have no bias in a transformer.
    pub fn new(scope: &Scope<'_>, width: usize, context: usize, heads: usize) -> Result<Self> {
        Ok(Self {
            q: Linear::without_bias(&scope.at("to_q"), width, width)?,
            k: Linear::without_bias(&scope.at("to_k"), context, width)?,
            v: Linear::without_bias(&scope.at("to_v"), context, width)?,
            out: Linear::new(&scope.at("to_out.0"), width, width)?,
            heads,
            causal: false,
            mask: None,
        })
    }

    /// `q_proj`, `k_proj`, `v_proj` and `out_proj` `[width, width]`, all with bias: a text, each token of
    /// which, `window` at most, sees only those before it and itself.
    pub fn causal(scope: &Scope<'_>, width: usize, heads: usize, window: usize) -> Result<Self> {
        let square = |name: &str| Linear::new(&scope.at(name), width, width);
        let (q, k, v) = (square("q_proj")?, square("k_proj")?, square("v_proj")?);
        let mask = match scope.products() {
            Products::Plain => Some(causal_mask(window, scope.dtype(), scope.device())?),
            Products::Packed(_) => None,
        };
        Ok(Self { q, k, v, out: square("out_proj")?, heads, causal: true, mask })
    }

    /// Tokens `[B, N, width]`, attending to themselves or to `context` `[B, T, context]`.
    pub fn tokens(
        &self,
        x: &Feature,
        norm: &LayerNorm,
        context: Option<&Feature>,
    ) -> Result<Feature> {
        if let Form::Plain(x) = &x.0 {
            let y = norm.forward(x)?;
            let y = self.plain(&y, context.map_or(Ok(&y), Feature::plain)?, x)?;
            return Ok(Feature(Form::Plain(y)));
        }
        let (x, precision) = (x.map()?, self.q.packed()?.precision);
        let y = norm.operand(&x, precision)?;
        match context {
            None => self.packed(&x, &y, &y),
            Some(context) => {
                let precision = self.k.packed()?.precision;
                let context = Operand::new(context.maps()?, Prologue::default(), precision)?;
                self.packed(&x, &y, &context)
            }
        }
    }

    /// As [`tokens`](Self::tokens) of images of `sides`, attending to themselves, but with up to the
    /// `ratio` of them that are most like others merged with those.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for layers that multiply plainly.
    ///
    /// # Source
    /// Token merging for Stable Diffusion, Bolya and Hoffman (2023), with fixed targets.
    pub fn merged(
        &self,
        x: &Feature,
        norm: &LayerNorm,
        sides: (usize, usize),
        ratio: f64,
    ) -> Result<Feature> {
        if let Form::Plain(_) = &x.0 {
            return Err(Error::unsupported(
                "merging tokens on this device",
                Hint::any_of([Hint::LeaveOut("merge_tokens"), Hint::set("device", "cpu")]),
            ));
        }
        let (x, precision) = (x.map()?, self.q.packed()?.precision);
        let y = norm.map(&x)?;
        let Some(merging) = TokenMerging::new(&y, sides, ratio, precision)? else {
            return self.tokens(&Feature::of_map(x), norm, None);
        };
        let y = Operand::new(&[merging.merge(&y)?], Prologue::default(), precision)?;
        let y = self.attention(&y, &y, None)?;
        Ok(Feature::of_map(merging.unmerge(&y, &x)?))
    }

    /// As [`tokens`](Self::tokens), but every token attends to itself alone: its value is the result. Perturbed
    /// attention guidance, Ahn et al. (2024).
    pub fn itself(&self, x: &Feature, norm: &LayerNorm) -> Result<Feature> {
        if let Form::Plain(x) = &x.0 {
            let value = self.v.forward(&norm.forward(x)?)?;
            return Ok(Feature(Form::Plain(self.out.plain(&value, Some(x))?)));
        }
        let x = x.map()?;
        let y = norm.operand(&x, self.q.packed()?.precision)?;
        let value = self.v.packed()?.multiply(&y, Epilogue::default())?;
        let out = self.out.packed()?;
        let value = Operand::new(&[value], Prologue::default(), out.precision)?;
        let y = out.multiply(&value, Epilogue { add: Some(&x), ..Epilogue::default() })?;
        Ok(Feature::of_map(y))
    }

    /// How much each of the tokens `[B, N, width]` is attended to by all of them, the mean over the heads: `[B, N]`,
    /// f32. The entries of a sample have the sum N.
    pub fn map(&self, x: &Feature, norm: &LayerNorm) -> Result<Tensor> {
        let (q, k) = if let Form::Plain(x) = &x.0 {
            let y = norm.forward(x)?;
            (self.q.forward(&y)?, self.k.forward(&y)?)
        } else {
            let y = norm.operand(&x.map()?, self.q.packed()?.precision)?;
            let product = |layer: &Linear| layer.packed()?.multiply(&y, Epilogue::default());
            (product(&self.q)?.to_tokens()?, product(&self.k)?.to_tokens()?)
        };
        looked_at(&q, &k, self.heads)
    }

    /// The pixels of images `[B, width, H, W]`, attending to themselves.
    pub fn image(&self, x: &Feature, norm: &GroupNorm) -> Result<Feature> {
        if let Form::Plain(image) = &x.0 {
            let tokens = norm.plain(image, false)?.flatten(1, 2)?; // [B, N, C]
            let y = self.plain(&tokens, &tokens, &image.flatten(1, 2)?)?;
            return Ok(Feature(Form::Plain(y.reshape(image.shape())?)));
        }
        let maps = x.maps()?;
        let affine = norm.affine(maps)?;
        let how = Prologue { affine: Some(&affine), ..Prologue::default() };
        let y = Operand::new(maps, how, self.q.packed()?.precision)?;
        self.packed(&x.map()?, &y, &y)
    }

    /// x + out(attention) of plain tensors.
    fn plain(&self, y: &Tensor, context: &Tensor, x: &Tensor) -> Result<Tensor> {
        let (q, k, v) = (self.q.forward(y)?, self.k.forward(context)?, self.v.forward(context)?);
        let tokens = y.dim(1)?;
        let seen = |mask: &Tensor| mask.narrow(0, 0, tokens)?.narrow(1, 0, tokens);
        let mask = self.mask.as_ref().map(seen).transpose()?;
        self.out.plain(&plain::attention(&q, &k, &v, self.heads, mask.as_ref())?, Some(x))
    }

    fn packed(&self, x: &FeatureMap, y: &Operand, context: &Operand) -> Result<Feature> {
        Ok(Feature::of_map(self.attention(y, context, Some(x))?))
    }

    fn attention(
        &self,
        y: &Operand,
        context: &Operand,
        add: Option<&FeatureMap>,
    ) -> Result<FeatureMap> {
        let product = |layer: &PackedLayer, x: &Operand| layer.multiply(x, Epilogue::default());
        let q = product(self.q.packed()?, y)?;
        let (k, v) = (product(self.k.packed()?, context)?, product(self.v.packed()?, context)?);
        let out = self.out.packed()?;
        let heads = Heads { count: self.heads, causal: self.causal };
        // Texts are short: exact scores cost nothing there.
        let precision = if heads.causal { Precision::F32 } else { out.precision };
        let y = kernels::attention(&q, &k, &v, heads, precision)?;
        let y = Operand::new(&[y], Prologue::default(), out.precision)?;
        out.multiply(&y, Epilogue { add, ..Epilogue::default() })
    }
}
