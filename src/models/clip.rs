//! CLIP text towers: CLIP-L (SD 1.x, SDXL), OpenCLIP-H (SD 2.x) and -bigG (SDXL).

use super::config::ClipConfig;
use super::part::built;
use crate::cancel::Cancel;
use crate::error::{Error, Result};
use crate::nn::{Attend, Feature, LayerNorm, Linear, Mlp};
use crate::weights::{Products, Scope};
use candle_core::{DType, Tensor};

/// The outputs of a tower for a batch of token windows.
#[derive(Debug, Clone)]
pub struct ClipOutput {
    /// Features of each token, `[B, T, D]`, after the layer that was asked for.
    pub hidden: Tensor,
    /// Features at the end-of-text token after the last layer, normalised and, where the tower has
    /// a projection, projected: `[B, P]`.
    pub pooled: Tensor,
}

/// A CLIP text tower: Radford et al. (2021); transformers' CLIPTextModel(WithProjection) 5.23.
#[derive(Debug, Clone)]
pub struct ClipTower {
    tokens: Tensor,
    positions: Tensor,
    layers: Vec<Layer>,
    final_norm: LayerNorm,
    projection: Option<Linear>,
    /// Rows of `tokens`: the config's, and those of new words.
    vocabulary: usize,
    products: Products,
    config: ClipConfig,
}

#[derive(Debug, Clone)]
struct Layer {
    norm1: LayerNorm,
    attend: Attend,
    norm2: LayerNorm,
    mlp: Mlp,
}

impl ClipTower {
    /// Builds the tower from the weights under `scope` (the component's root).
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a config that is not built, or what reading a weight gives.
    pub fn new(scope: &Scope<'_>, config: &ClipConfig) -> Result<Self> {
        config.validate()?;
        let width = config.hidden_size;
        let text = scope.at("text_model");
        let embeddings = text.at("embeddings");
        // The embeddings are read first, because their shapes set the length of a text.
        let tokens = embeddings.tensor("token_embedding.weight", &[config.vocab_size, width])?;
        let positions = embeddings
            .tensor("position_embedding.weight", &[config.max_position_embeddings, width])?;
        let layers = built(config.num_hidden_layers, |i| {
            Layer::new(&text.at("encoder.layers").at(i), config)
        })?;
        let projection = scope.at("text_projection");
        let projection = if config.projects() && projection.has("weight") {
            Some(Linear::without_bias(&projection, width, config.projection_dim)?)
        } else {
            None
        };
        Ok(Self {
            tokens,
            positions,
            layers,
            final_norm: LayerNorm::new(&text.at("final_layer_norm"), width, config.layer_norm_eps)?,
            projection,
            vocabulary: config.vocab_size,
            products: scope.products(),
            config: config.clone(),
        })
    }

    /// Layers in the tower.
    pub fn depth(&self) -> usize {
        self.layers.len()
    }

    /// The number of tokens with an embedding, new ones included.
    pub fn vocabulary(&self) -> usize {
        self.vocabulary
    }

    /// Returns the tower with further tokens behind its own; `rows`: `[n, D]`.
    ///
    /// # Errors
    /// [`Error::Tensor`] for rows of another width.
    pub fn with_tokens(&self, rows: &Tensor) -> Result<Self> {
        let mut tower = self.clone();
        tower.tokens = Tensor::cat(&[&self.tokens, rows], 0)?;
        tower.vocabulary += rows.dim(0)?;
        Ok(tower)
    }

    /// Tokens in a window.
    pub fn window(&self) -> usize {
        self.config.max_position_embeddings
    }

    /// Encodes token windows.
    ///
    /// `ids`: `[B, T]` as rows, T at most [`window`](Self::window).
    /// `skip`: how many of the last layers `hidden` leaves out.
    /// `normalise`: whether `hidden` passes the final norm (SD 1.x and 2.x) or not (SDXL).
    ///
    /// # Errors
    /// [`Error::BadRequest`] when `skip` leaves no layer, [`Error::Internal`] for ids out of range.
    pub fn forward(&self, ids: &[Vec<u32>], skip: usize, normalise: bool) -> Result<ClipOutput> {
        self.forward_until(ids, skip, normalise, &Cancel::new())
    }

    /// As [`forward`](Self::forward), until `cancel` is set: it is looked at between layers.
    ///
    /// # Errors
    /// [`Error::Cancelled`], and as [`forward`](Self::forward).
    pub fn forward_until(
        &self,
        ids: &[Vec<u32>],
        skip: usize,
        normalise: bool,
        cancel: &Cancel,
    ) -> Result<ClipOutput> {
        if skip >= self.depth() {
            return Err(Error::bad_request(
                "clip_skip",
                skip + 1,
                format!("the text encoder has only {} layers", self.depth()),
            ));
        }
        let (batch, length) = (ids.len(), ids.first().map_or(0, Vec::len));
        let mut x = Feature::tokens(&self.embed(ids, length)?, self.products)?;
        let mut hidden = None;
        for (index, layer) in self.layers.iter().enumerate() {
            cancel.check()?;
            if index + skip == self.depth() {
                hidden = Some(x.clone());
            }
            x = layer.mlp.forward(&layer.attend.tokens(&x, &layer.norm1, None)?, &layer.norm2)?;
        }
        let hidden = hidden.unwrap_or_else(|| x.clone()).to_tokens()?; // [B, T, D]
        let last = self.final_norm.forward(&x.to_tokens()?)?;
        let ends = (0..batch)
            .map(|b| Ok(last.get(b)?.narrow(0, self.end_of_text(&ids[b]), 1)?))
            .collect::<Result<Vec<_>>>()?;
        let pooled = Tensor::cat(&ends, 0)?; // [B, D]
        let pooled = match &self.projection {
            Some(projection) => projection.forward(&pooled)?,
            None => pooled,
        };
        let hidden = match (normalise, skip) {
            (true, 0) => last,
            (true, _) => self.final_norm.forward(&hidden)?,
            (false, _) => hidden,
        };
        Ok(ClipOutput { hidden, pooled })
    }

    fn embed(&self, ids: &[Vec<u32>], length: usize) -> Result<Tensor> {
        let flat: Vec<u32> = ids.iter().flatten().copied().collect();
        let vocabulary = self.vocabulary;
        if flat.len() != ids.len() * length || length > self.window() {
            return Err(Error::Internal(format!("ragged token windows of {length} tokens")));
        }
        if let Some(id) = flat.iter().find(|&&id| id as usize >= vocabulary) {
            return Err(Error::Internal(format!(
                "the tokenizer gave id {id}, the text encoder knows {vocabulary} tokens"
            )));
        }
        let ids = Tensor::from_vec(flat, (ids.len() * length,), self.tokens.device())?;
        let tokens =
            self.tokens.index_select(&ids, 0)?.reshape(((), length, self.config.hidden_size))?;
        Ok(tokens.broadcast_add(&self.positions.narrow(0, 0, length)?)?)
    }

    /// Index of the token whose features are pooled.
    fn end_of_text(&self, ids: &[u32]) -> usize {
        // Files with eos_token_id = 2 were written before the field was right; there the
        // largest id is the end of text, as in the original code.
        let end = match self.config.eos_token_id {
            // New words have larger ids still.
            2 => {
                let own = |id: &u32| (*id as usize) < self.config.vocab_size;
                ids.iter().copied().filter(own).max().unwrap_or_default()
            }
            id => id,
        };
        ids.iter().position(|&id| id == end).unwrap_or_default()
    }
}

impl Layer {
    fn new(scope: &Scope<'_>, config: &ClipConfig) -> Result<Self> {
        let (width, inner) = (config.hidden_size, config.intermediate_size);
        let norm = |name: &str| LayerNorm::new(&scope.at(name), width, config.layer_norm_eps);
        let quick = config.hidden_act == "quick_gelu";
        let (heads, window) = (config.num_attention_heads, config.max_position_embeddings);
        Ok(Self {
            norm1: norm("layer_norm1")?,
            attend: Attend::causal(&scope.at("self_attn"), width, heads, window)?,
            norm2: norm("layer_norm2")?,
            mlp: Mlp::new(&scope.at("mlp"), width, inner, quick)?,
        })
    }
}

impl ClipOutput {
    /// The output in `dtype`.
    pub fn to_dtype(&self, dtype: DType) -> Result<Self> {
        Ok(Self { hidden: self.hidden.to_dtype(dtype)?, pooled: self.pooled.to_dtype(dtype)? })
    }
}
