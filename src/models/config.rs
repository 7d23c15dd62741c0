//! Architectures as data: the `config.json` of each component in the diffusers layout.
//!
//! Every field that changes the forward pass is read or, where colora does not build that variant,
//! refused by `validate`; fields that only matter for training are ignored.

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::ops::RangeInclusive;

/// A number for all blocks, or one per block.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum PerBlock<T> {
    /// One entry per block. First, so that a nested list is not read as one entry for all.
    Each(Vec<T>),
    /// One entry for all blocks.
    All(T),
}

impl<T: Clone> PerBlock<T> {
    /// The entry of block `index`; the last one when the list is short.
    pub fn of(&self, index: usize) -> Option<T> {
        match self {
            PerBlock::All(value) => Some(value.clone()),
            PerBlock::Each(values) => values.get(index).or(values.last()).cloned(),
        }
    }
}

/// `unet/config.json`: UNet2DConditionModel.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct UNetConfig {
    /// Latent channels in: 4, 8 (instruct-pix2pix) or 9 (inpainting).
    pub in_channels: usize,
    /// Latent channels out.
    pub out_channels: usize,
    /// Latent side the network was trained at.
    pub sample_size: PerBlock<usize>,
    /// Width of each level.
    pub block_out_channels: Vec<usize>,
    /// `DownBlock2D` or `CrossAttnDownBlock2D` per level.
    pub down_block_types: Vec<String>,
    /// `UNetMidBlock2DCrossAttn`, `UNetMidBlock2D` or none.
    pub mid_block_type: Option<String>,
    /// `UpBlock2D` or `CrossAttnUpBlock2D` per level, coarse to fine.
    pub up_block_types: Vec<String>,
    /// Resnets per level on the way down; one more on the way up.
    pub layers_per_block: PerBlock<usize>,
    /// Transformer blocks in each attention place, per level and optionally per attention.
    pub transformer_layers_per_block: PerBlock<PerBlock<usize>>,
    /// The transformer blocks on the way up, when they are not those of the way down in reverse.
    pub reverse_transformer_layers_per_block: Option<Vec<PerBlock<usize>>>,
    /// Heads per level (the field is misnamed in the format for SD 1.x and 2.x).
    pub attention_head_dim: PerBlock<usize>,
    /// Heads per level where the format names them rightly.
    pub num_attention_heads: Option<PerBlock<usize>>,
    /// Width of the text features.
    pub cross_attention_dim: PerBlock<usize>,
    /// Linear instead of 1×1-convolution projections around the transformers.
    pub use_linear_projection: bool,
    /// `text_time` for SDXL.
    pub addition_embed_type: Option<String>,
    /// Width of each sinusoidal SDXL micro-conditioning number.
    pub addition_time_embed_dim: Option<usize>,
    /// Width of pooled text plus micro-conditioning.
    pub projection_class_embeddings_input_dim: Option<usize>,
    /// Width of the guidance embedding of LCM-distilled networks.
    pub time_cond_proj_dim: Option<usize>,
    /// Width of the time embedding when it is not four times the first level.
    pub time_embedding_dim: Option<usize>,
    /// Groups of each group norm.
    pub norm_num_groups: usize,
    /// ε of each group norm in resnets.
    pub norm_eps: f64,
    /// Cosine before sine in the time embedding.
    pub flip_sin_to_cos: bool,
    /// Frequency shift of the time embedding.
    pub freq_shift: f64,
    /// Padding of the downsampling convolution.
    pub downsample_padding: usize,
    /// Divisor of the mid block's residuals.
    pub mid_block_scale_factor: f64,
    /// Rescale centred samples; no Stable Diffusion does.
    pub center_input_sample: bool,
    /// Activation: `silu`.
    pub act_fn: String,
    /// Kernel of the first convolution.
    pub conv_in_kernel: usize,
    /// Kernel of the last convolution.
    pub conv_out_kernel: usize,
    /// Only `default` is built.
    pub resnet_time_scale_shift: String,
    /// Only `positional` is built.
    pub time_embedding_type: String,
    /// Class conditioning: refused.
    pub class_embed_type: Option<String>,
    /// Number of classes: refused.
    pub num_class_embeds: Option<usize>,
    /// Projection of the text features: refused.
    pub encoder_hid_dim: Option<usize>,
    /// Projection kind of the text features: refused.
    pub encoder_hid_dim_type: Option<String>,
    /// Two transformers per place: refused.
    pub dual_cross_attention: bool,
    /// Cross-attention in place of self-attention: refused.
    pub only_cross_attention: PerBlock<bool>,
    /// Normalised cross-attention: refused.
    pub cross_attention_norm: Option<String>,
    /// `default` or gated: only `default` is built.
    pub attention_type: String,
    /// Activation after the time embedding: refused.
    pub timestep_post_act: Option<String>,
    /// Activation of the time embedding's end: refused.
    pub time_embedding_act_fn: Option<String>,
}

impl Default for UNetConfig {
    fn default() -> Self {
        Self {
            in_channels: 4,
            out_channels: 4,
            sample_size: PerBlock::All(64),
            block_out_channels: vec![320, 640, 1280, 1280],
            down_block_types: ["CrossAttnDownBlock2D"; 3]
                .into_iter()
                .chain(["DownBlock2D"])
                .map(str::to_owned)
                .collect(),
            mid_block_type: Some("UNetMidBlock2DCrossAttn".into()),
            up_block_types: ["UpBlock2D"]
                .into_iter()
                .chain(["CrossAttnUpBlock2D"; 3])
                .map(str::to_owned)
                .collect(),
            layers_per_block: PerBlock::All(2),
            transformer_layers_per_block: PerBlock::All(PerBlock::All(1)),
            reverse_transformer_layers_per_block: None,
            attention_head_dim: PerBlock::All(8),
            num_attention_heads: None,
            cross_attention_dim: PerBlock::All(1280),
            use_linear_projection: false,
            addition_embed_type: None,
            addition_time_embed_dim: None,
            projection_class_embeddings_input_dim: None,
            time_cond_proj_dim: None,
            time_embedding_dim: None,
            norm_num_groups: 32,
            norm_eps: 1e-5,
            flip_sin_to_cos: true,
            freq_shift: 0.0,
            downsample_padding: 1,
            mid_block_scale_factor: 1.0,
            center_input_sample: false,
            act_fn: "silu".into(),
            conv_in_kernel: 3,
            conv_out_kernel: 3,
            resnet_time_scale_shift: "default".into(),
            time_embedding_type: "positional".into(),
            class_embed_type: None,
            num_class_embeds: None,
            encoder_hid_dim: None,
            encoder_hid_dim_type: None,
            dual_cross_attention: false,
            only_cross_attention: PerBlock::All(false),
            cross_attention_norm: None,
            attention_type: "default".into(),
            timestep_post_act: None,
            time_embedding_act_fn: None,
        }
    }
}

/// Widest channel count that a config may ask for; real ones stay below 3,000.
const MAX_WIDTH: usize = 1 << 16;
/// Levels of Stable Diffusion's autoencoders, whose latents are an eighth as wide as the image.
const LEVELS: usize = 4;
/// Most levels of a UNet or an autoencoder that a config may ask for; UNets have 4, later autoencoders 5.
const MAX_LEVELS: usize = 8;
/// The kinds of these levels.
const DOWN: &str = "DownEncoderBlock2D";
const UP: &str = "UpDecoderBlock2D";
/// Most layers of a level, or transformer blocks of a place, that a config may ask for; real ones have 32.
const MAX_DEPTH: usize = 64;
/// Most channels of latents and pictures; real ones have 16.
const MAX_CHANNELS: usize = 64;
/// Most tokens of a text, or numbers that embed one number; real ones have 77 and 320.
const MAX_LENGTH: usize = 4096;

/// Refuses the first number that is outside of its range, for a config of `what`.
fn within(what: &str, numbers: &[(&str, usize, RangeInclusive<usize>)]) -> Result<()> {
    match numbers.iter().find(|(_, found, range)| !range.contains(found)) {
        None => Ok(()),
        Some((field, found, range)) => Err(Error::unsupported(
            format!("a {what} config with {field} = {found}"),
            format!("{} to {} are accepted", range.start(), range.end()),
        )),
    }
}

/// The kinds of the middle block; no block is fine too.
const MID: [&str; 2] = ["UNetMidBlock2DCrossAttn", "UNetMidBlock2D"];
/// Conditions beside the text, as SDXL has them.
const TEXT_TIME: &str = "text_time";

/// A field of a UNet's config that chooses a variant of the network.
struct Variant {
    field: &'static str,
    /// The value in the config.
    found: String,
    /// Whether that is built.
    built: bool,
}

/// Refuses a variant of the UNet.
fn refuse(field: &str, found: &str) -> Result<()> {
    Err(Error::unsupported(
        format!("a UNet config with {field} = {found}"),
        "SD 1.x, SD 2.x, SDXL and networks derived from them are built",
    ))
}

impl UNetConfig {
    /// Refuses numbers that no network has, before anything is made of them.
    fn validate_numbers(&self) -> Result<()> {
        let what = "UNet";
        let widths = 1..=MAX_WIDTH;
        let optional = |field, number: Option<usize>, range: RangeInclusive<usize>| {
            (field, number.unwrap_or(*range.start()), range)
        };
        within(
            what,
            &[
                ("in_channels", self.in_channels, 1..=MAX_CHANNELS),
                ("out_channels", self.out_channels, 1..=MAX_CHANNELS),
                ("time_embedding_dim", self.time_dim(), 1..=8 * MAX_WIDTH),
                optional("addition_time_embed_dim", self.addition_time_embed_dim, 2..=MAX_LENGTH),
                optional("time_cond_proj_dim", self.time_cond_proj_dim, 2..=MAX_LENGTH),
                optional(
                    "projection_class_embeddings_input_dim",
                    self.projection_class_embeddings_input_dim,
                    widths.clone(),
                ),
                ("conv_in_kernel", self.conv_in_kernel, 3..=3),
                ("conv_out_kernel", self.conv_out_kernel, 3..=3),
                // Others draw something else, or nothing at odd sizes.
                ("downsample_padding", self.downsample_padding, 1..=1),
            ],
        )?;
        for level in 0..self.block_out_channels.len() {
            let layers = self.layers_per_block.of(level).unwrap_or(0);
            let width = self.cross_attention_dim.of(level).unwrap_or(0);
            within(
                what,
                &[
                    ("layers_per_block", layers, 1..=MAX_DEPTH),
                    ("cross_attention_dim", width, widths.clone()),
                ],
            )?;
        }
        let up = self.reverse_transformer_layers_per_block.as_deref().unwrap_or_default();
        let down = match &self.transformer_layers_per_block {
            PerBlock::All(depth) => std::slice::from_ref(depth),
            PerBlock::Each(depths) => depths,
        };
        for depth in up.iter().chain(down) {
            let deepest = match depth {
                PerBlock::All(depth) => *depth,
                PerBlock::Each(depths) => depths.iter().copied().max().unwrap_or(0),
            };
            within(what, &[("transformer_layers_per_block", deepest, 0..=MAX_DEPTH)])?;
        }
        Ok(())
    }

    /// Refuses what is inconsistent or not built.
    ///
    /// # Errors
    /// [`Error::Unsupported`] naming the config field.
    pub fn validate(&self) -> Result<()> {
        let widths = &self.block_out_channels;
        if !(1..=MAX_LEVELS).contains(&widths.len()) {
            return refuse("block_out_channels", &format!("{widths:?}"));
        }
        self.validate_numbers()?;
        let rows = self.levels().into_iter().chain(self.variants());
        for Variant { field, found, built } in rows {
            if !built {
                return refuse(field, &found);
            }
        }
        for (level, width) in widths.iter().enumerate() {
            let heads = self.heads(level)?;
            if heads == 0 || !width.is_multiple_of(heads) {
                return refuse("attention_head_dim", &format!("{heads} for width {width}"));
            }
        }
        Ok(())
    }

    /// What has to fit the number of levels and their widths.
    fn levels(&self) -> Vec<Variant> {
        let (widths, groups) = (&self.block_out_channels, self.norm_num_groups);
        let grouped =
            |&width: &usize| (1..=MAX_WIDTH).contains(&width) && width.is_multiple_of(groups);
        let one_each = |field, kinds: &Vec<String>| Variant {
            field,
            found: format!("{kinds:?}"),
            built: kinds.len() == widths.len(),
        };
        vec![
            one_each("down_block_types", &self.down_block_types),
            one_each("up_block_types", &self.up_block_types),
            Variant {
                field: "norm_num_groups",
                found: format!("{groups} for {widths:?}"),
                built: groups > 0 && widths.iter().all(grouped),
            },
        ]
    }

    /// Every field that chooses a variant of the network, as it is found, and whether that variant is built.
    fn variants(&self) -> Vec<Variant> {
        let all = |field, found: &[String], built: [&str; 2]| {
            let odd = found.iter().find(|kind| !built.contains(&kind.as_str()));
            Variant { field, found: odd.cloned().unwrap_or_default(), built: odd.is_none() }
        };
        let one_of = |field, found: &str, built: &[&str]| Variant {
            field,
            found: found.to_owned(),
            built: built.contains(&found),
        };
        let none = |field, found: Option<String>| Variant {
            field,
            built: found.is_none(),
            found: found.unwrap_or_default(),
        };
        let off = |field, on: bool| Variant { field, found: on.to_string(), built: !on };
        let (added, mid) = (self.addition_embed_type.as_deref(), self.mid_block_type.as_deref());
        let sizes = [self.addition_time_embed_dim, self.projection_class_embeddings_input_dim];
        let mut levels = 0..self.block_out_channels.len();
        vec![
            all(
                "down_block_types",
                &self.down_block_types,
                ["DownBlock2D", "CrossAttnDownBlock2D"],
            ),
            all("up_block_types", &self.up_block_types, ["UpBlock2D", "CrossAttnUpBlock2D"]),
            one_of("mid_block_type", mid.unwrap_or(MID[0]), &MID),
            one_of("act_fn", &self.act_fn, &["silu", "swish"]),
            one_of("addition_embed_type", added.unwrap_or(TEXT_TIME), &[TEXT_TIME]),
            Variant {
                field: "addition_time_embed_dim",
                found: "none".into(),
                built: added.is_none() || sizes.iter().all(Option::is_some),
            },
            one_of("resnet_time_scale_shift", &self.resnet_time_scale_shift, &["default"]),
            one_of("time_embedding_type", &self.time_embedding_type, &["positional"]),
            one_of("attention_type", &self.attention_type, &["default"]),
            none("class_embed_type", self.class_embed_type.clone()),
            none("encoder_hid_dim_type", self.encoder_hid_dim_type.clone()),
            none("cross_attention_norm", self.cross_attention_norm.clone()),
            none("timestep_post_act", self.timestep_post_act.clone()),
            none("time_embedding_act_fn", self.time_embedding_act_fn.clone()),
            none("num_class_embeds", self.num_class_embeds.map(|n| n.to_string())),
            none("encoder_hid_dim", self.encoder_hid_dim.map(|n| n.to_string())),
            off(
                "dual_cross_attention or center_input_sample",
                self.dual_cross_attention || self.center_input_sample,
            ),
            off(
                "only_cross_attention",
                levels.any(|i| self.only_cross_attention.of(i) == Some(true)),
            ),
        ]
    }

    /// Heads of the attentions on `level`.
    pub fn heads(&self, level: usize) -> Result<usize> {
        // diffusers: `num_attention_heads or attention_head_dim`, a historical misnomer.
        let heads = self.num_attention_heads.as_ref().unwrap_or(&self.attention_head_dim);
        heads.of(level).ok_or_else(|| {
            Error::unsupported(
                "a UNet config with an empty attention_head_dim",
                "give one per level",
            )
        })
    }

    /// Width of the time embedding.
    pub fn time_dim(&self) -> usize {
        self.time_embedding_dim.unwrap_or(self.block_out_channels[0].saturating_mul(4))
    }

    /// Pixels per side the network was trained at, with an autoencoder of that [`factor`](VaeConfig::factor).
    pub fn native_pixels(&self, vae_factor: usize) -> usize {
        self.sample_size.of(0).unwrap_or(64).saturating_mul(vae_factor)
    }
}

/// `text_encoder/config.json`: CLIPTextModel or CLIPTextModelWithProjection.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ClipConfig {
    /// Tokens in the vocabulary.
    pub vocab_size: usize,
    /// Width.
    pub hidden_size: usize,
    /// Width inside the MLPs.
    pub intermediate_size: usize,
    /// Layers.
    pub num_hidden_layers: usize,
    /// Heads.
    pub num_attention_heads: usize,
    /// Longest sequence.
    pub max_position_embeddings: usize,
    /// `quick_gelu` (OpenAI) or `gelu` (OpenCLIP).
    pub hidden_act: String,
    /// ε of each layer norm.
    pub layer_norm_eps: f64,
    /// Width of the projected pooled output.
    pub projection_dim: usize,
    /// End-of-text id. The value 2 is a historical mistake in many files and means "largest id".
    pub eos_token_id: u32,
    /// Class names, which determine whether there is a projection.
    pub architectures: Vec<String>,
}

impl Default for ClipConfig {
    fn default() -> Self {
        Self {
            vocab_size: 49408,
            hidden_size: 512,
            intermediate_size: 2048,
            num_hidden_layers: 12,
            num_attention_heads: 8,
            max_position_embeddings: 77,
            hidden_act: "quick_gelu".into(),
            layer_norm_eps: 1e-5,
            projection_dim: 512,
            eos_token_id: 49407,
            architectures: Vec::new(),
        }
    }
}

impl ClipConfig {
    /// Whether the pooled output is projected: not in SD 1.x and 2.x, whatever the file holds.
    pub fn projects(&self) -> bool {
        let named = |name: &String| name.ends_with("WithProjection");
        self.architectures.is_empty() || self.architectures.iter().any(named)
    }

    /// Refuses what is inconsistent or not built.
    pub fn validate(&self) -> Result<()> {
        let refuse = |field: &str, found: String| -> Result<()> {
            Err(Error::unsupported(
                format!("a text encoder config with {field} = {found}"),
                "CLIP text towers as in SD 1.x, 2.x and SDXL are built",
            ))
        };
        if self.num_attention_heads == 0
            || !self.hidden_size.is_multiple_of(self.num_attention_heads)
        {
            return refuse("num_attention_heads", self.num_attention_heads.to_string());
        }
        within(
            "text encoder",
            &[
                ("vocab_size", self.vocab_size, 1..=1 << 24),
                ("hidden_size", self.hidden_size, 1..=MAX_WIDTH),
                ("intermediate_size", self.intermediate_size, 1..=8 * MAX_WIDTH),
                ("projection_dim", self.projection_dim, 1..=MAX_WIDTH),
                ("num_hidden_layers", self.num_hidden_layers, 1..=MAX_DEPTH),
                ("max_position_embeddings", self.max_position_embeddings, 3..=MAX_LENGTH),
            ],
        )?;
        if !matches!(self.hidden_act.as_str(), "quick_gelu" | "gelu") {
            return refuse("hidden_act", self.hidden_act.clone());
        }
        Ok(())
    }
}

/// `vae/config.json`: AutoencoderKL.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct VaeConfig {
    /// Picture channels in.
    pub in_channels: usize,
    /// Picture channels out.
    pub out_channels: usize,
    /// Latent channels.
    pub latent_channels: usize,
    /// Width of each level.
    pub block_out_channels: Vec<usize>,
    /// Kinds of the encoder's levels: `DownEncoderBlock2D`.
    pub down_block_types: Vec<String>,
    /// Kinds of the decoder's levels: `UpDecoderBlock2D`.
    pub up_block_types: Vec<String>,
    /// Resnets per level of the encoder; one more in the decoder.
    pub layers_per_block: usize,
    /// Groups of each group norm.
    pub norm_num_groups: usize,
    /// Latents are multiplied by this after encoding. 0.18215 for SD 1.x and 2.x (the inverse
    /// standard deviation of their latents, LDM paper appendix), 0.13025 for SDXL.
    pub scaling_factor: f64,
    /// Latents are shifted by this; only later families do.
    pub shift_factor: Option<f64>,
    /// Mean of each channel of the latents, where the UNet was trained on such as have mean 0 and
    /// deviation 1; takes the place of the shift.
    pub latents_mean: Option<Vec<f64>>,
    /// Standard deviation of each channel; given with the mean.
    pub latents_std: Option<Vec<f64>>,
    /// Whether f16 overflows in the decoder, so that f32 or bf16 must be used.
    pub force_upcast: bool,
    /// 1×1 convolution between encoder and latents.
    pub use_quant_conv: bool,
    /// 1×1 convolution between latents and decoder.
    pub use_post_quant_conv: bool,
    /// Attention in the middle block.
    pub mid_block_add_attention: bool,
    /// Activation: `silu`.
    pub act_fn: String,
    /// Picture side the network was trained at.
    pub sample_size: PerBlock<usize>,
}

impl Default for VaeConfig {
    fn default() -> Self {
        Self {
            in_channels: 3,
            out_channels: 3,
            latent_channels: 4,
            block_out_channels: vec![128, 256, 512, 512],
            down_block_types: vec![DOWN.into(); LEVELS],
            up_block_types: vec![UP.into(); LEVELS],
            layers_per_block: 2,
            norm_num_groups: 32,
            scaling_factor: 0.18215,
            shift_factor: None,
            latents_mean: None,
            latents_std: None,
            force_upcast: true,
            use_quant_conv: true,
            use_post_quant_conv: true,
            mid_block_add_attention: true,
            act_fn: "silu".into(),
            sample_size: PerBlock::All(512),
        }
    }
}

impl VaeConfig {
    /// A config with that many levels, all of the kind that is built.
    pub(crate) fn with_levels(levels: usize) -> Self {
        Self {
            down_block_types: vec![DOWN.into(); levels],
            up_block_types: vec![UP.into(); levels],
            ..Self::default()
        }
    }

    /// Pixels per latent cell along one side: 2^(levels − 1), because every level but the last halves the image.
    /// diffusers calls it `vae_scale_factor`.
    pub fn factor(&self) -> usize {
        1 << (self.block_out_channels.len().clamp(1, MAX_LEVELS) - 1)
    }

    /// Refuses what is inconsistent or not built.
    pub fn validate(&self) -> Result<()> {
        let refuse = |field: &str, found: String| -> Result<()> {
            Err(Error::unsupported(
                format!("a VAE config with {field} = {found}"),
                "AutoencoderKL as in SD 1.x, 2.x and SDXL is built",
            ))
        };
        let levels = self.block_out_channels.len();
        if !(1..=MAX_LEVELS).contains(&levels) {
            return refuse("block_out_channels", format!("{:?}", self.block_out_channels));
        }
        for (field, kinds, built) in [
            ("down_block_types", &self.down_block_types, DOWN),
            ("up_block_types", &self.up_block_types, UP),
        ] {
            if kinds.len() != levels || kinds.iter().any(|kind| kind != built) {
                return refuse(field, format!("{kinds:?}"));
            }
        }
        let groups = self.norm_num_groups;
        if groups == 0
            || self.block_out_channels.iter().any(|&c| c == 0 || c > MAX_WIDTH || c % groups != 0)
        {
            return refuse("norm_num_groups", groups.to_string());
        }
        within(
            "VAE",
            &[
                ("latent_channels", self.latent_channels, 1..=MAX_CHANNELS),
                ("layers_per_block", self.layers_per_block, 1..=MAX_DEPTH),
            ],
        )?;
        self.validate_statistics()?;
        if self.in_channels != 3 || self.out_channels != 3 {
            return refuse("in_channels", self.in_channels.to_string());
        }
        if !matches!(self.act_fn.as_str(), "silu" | "swish") {
            return refuse("act_fn", self.act_fn.clone());
        }
        if !(self.scaling_factor.is_finite() && self.scaling_factor > 0.0) {
            return refuse("scaling_factor", self.scaling_factor.to_string());
        }
        if !self.shift_factor.unwrap_or(0.0).is_finite() {
            return refuse("shift_factor", format!("{:?}", self.shift_factor));
        }
        Ok(())
    }

    /// Mean and deviation are numbers of every channel, or there are none.
    fn validate_statistics(&self) -> Result<()> {
        let (mean, deviation) = (&self.latents_mean, &self.latents_std);
        let fits = |numbers: &Option<Vec<f64>>, fine: fn(&f64) -> bool| {
            numbers.as_ref().is_none_or(|n| n.len() == self.latent_channels && n.iter().all(fine))
        };
        if mean.is_some() == deviation.is_some()
            && fits(mean, |m| m.is_finite())
            && fits(deviation, |d| d.is_finite() && *d > 0.0)
        {
            return Ok(());
        }
        Err(Error::unsupported(
            format!(
                "a VAE config with latents_mean = {mean:?} and latents_std = {deviation:?} for {} channels",
                self.latent_channels
            ),
            "both have a number for each channel, or both are missing",
        ))
    }
}

/// `vae/config.json` of an AutoencoderTiny (TAESD).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TinyVaeConfig {
    /// Latent channels.
    pub latent_channels: usize,
    /// Width of each encoder level.
    pub encoder_block_out_channels: Vec<usize>,
    /// Width of each decoder level.
    pub decoder_block_out_channels: Vec<usize>,
    /// Residual blocks per encoder level.
    pub num_encoder_blocks: Vec<usize>,
    /// Residual blocks per decoder level.
    pub num_decoder_blocks: Vec<usize>,
    /// Latents are multiplied by this after encoding; 1 in every published file.
    pub scaling_factor: f64,
    /// Upsampling per decoder level.
    pub upsampling_scaling_factor: usize,
    /// Activation: `relu`.
    pub act_fn: String,
}

impl Default for TinyVaeConfig {
    fn default() -> Self {
        Self {
            latent_channels: 4,
            encoder_block_out_channels: vec![64; 4],
            decoder_block_out_channels: vec![64; 4],
            num_encoder_blocks: vec![1, 3, 3, 3],
            num_decoder_blocks: vec![3, 3, 3, 1],
            scaling_factor: 1.0,
            upsampling_scaling_factor: 2,
            act_fn: "relu".into(),
        }
    }
}
