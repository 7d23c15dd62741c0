//! Architectures read off the shapes of a checkpoint that carries no config.

use super::Family;
use super::spec::{CLIP_HEAD, Heads, TextTower};
use crate::error::{Error, Result};
use crate::models::{ClipConfig, PerBlock, UNetConfig, VaeConfig};
use crate::sampling::{PredictionKind, SchedulerConfig};
use crate::weights::{Checkpoint, Component, Site, WeightSource};

/// Looks up the shapes of one component's weights by their paths in it.
pub(super) struct Shapes<'a> {
    pub source: &'a Checkpoint,
    pub component: Component,
    /// The file or folder, for messages.
    pub file: String,
}

impl Shapes<'_> {
    fn find(&self, path: &str) -> Option<Vec<usize>> {
        self.source.shape(&Site::of(self.component, path))
    }

    fn dim(&self, path: &str, index: usize) -> Result<usize> {
        let shape = self.find(path).and_then(|shape| shape.get(index).copied());
        shape.ok_or_else(|| Error::TensorMissing {
            site: self.component.path(path),
            file: self.file.clone(),
        })
    }

    /// How many consecutive indices `prefix.0`, `prefix.1` … have a `suffix`.
    fn count(&self, prefix: &str, suffix: &str) -> usize {
        // No list of blocks or layers is that long.
        (0..4096).take_while(|i| self.find(&format!("{prefix}.{i}.{suffix}")).is_some()).count()
    }

    /// The UNet's architecture.
    pub(super) fn unet(&self, family: Family, sample_size: usize) -> Result<UNetConfig> {
        let levels = self.count("down_blocks", "resnets.0.conv1.weight");
        let mut config = UNetConfig {
            in_channels: self.dim("conv_in.weight", 1)?,
            out_channels: self.dim("conv_out.weight", 0)?,
            sample_size: PerBlock::All(sample_size),
            time_embedding_dim: Some(self.dim("time_embedding.linear_1.weight", 0)?),
            norm_num_groups: 32,
            ..UNetConfig::default()
        };
        let (mut widths, mut layers, mut depths) = (Vec::new(), Vec::new(), Vec::new());
        for level in 0..levels {
            let block = format!("down_blocks.{level}");
            widths.push(self.dim(&format!("{block}.resnets.0.conv1.weight"), 0)?);
            layers.push(self.count(&format!("{block}.resnets"), "conv1.weight"));
            depths.push(self.depths(&block)?);
        }
        let kind = |side: &str, depths: &[usize]| {
            if depths.is_empty() {
                format!("{side}Block2D")
            } else {
                format!("CrossAttn{side}Block2D")
            }
        };
        let ups = (0..levels)
            .map(|i| self.depths(&format!("up_blocks.{i}")))
            .collect::<Result<Vec<_>>>()?;
        config.down_block_types = depths.iter().map(|d| kind("Down", d)).collect();
        config.up_block_types = ups.iter().map(|d| kind("Up", d)).collect();
        let mid = self.depths("mid_block")?;
        config.mid_block_type = match (mid.first(), self.find("mid_block.resnets.0.conv1.weight")) {
            (Some(_), _) => Some("UNetMidBlock2DCrossAttn".into()),
            (None, Some(_)) => Some("UNetMidBlock2D".into()),
            (None, None) => None,
        };
        if let (Some(last), Some(depth)) = (depths.last_mut(), mid.first())
            && last.is_empty()
        {
            // The middle block takes its depth from the coarsest level.
            last.push(*depth);
        }
        config.transformer_layers_per_block = PerBlock::Each(nested(depths));
        config.reverse_transformer_layers_per_block = Some(nested(ups));
        config.layers_per_block = PerBlock::Each(layers);
        let heads = |width: &usize| family.spec().heads.of(*width);
        config.attention_head_dim = PerBlock::Each(widths.iter().map(heads).collect());
        config.block_out_channels = widths;
        self.conditions(&mut config)?;
        config.validate()?;
        Ok(config)
    }

    /// Transformer blocks in each attention of a block.
    fn depths(&self, block: &str) -> Result<Vec<usize>> {
        let count = self.count(&format!("{block}.attentions"), "norm.weight");
        (0..count)
            .map(|j| {
                let place = format!("{block}.attentions.{j}.transformer_blocks");
                // There is at least one.
                self.dim(&format!("{place}.0.norm1.weight"), 0)?;
                Ok(self.count(&place, "norm1.weight"))
            })
            .collect()
    }

    /// Text width, projection kind and SDXL's added conditions.
    fn conditions(&self, config: &mut UNetConfig) -> Result<()> {
        let cross = "attn2.to_k.weight";
        let first = self
            .source
            .sites()
            .into_iter()
            .find(|site| site.component() == self.component && site.path().ends_with(cross));
        if let Some(site) = first {
            config.cross_attention_dim = PerBlock::All(self.dim(site.path(), 1)?);
            let place = site.path().split(".transformer_blocks").next().unwrap_or_default();
            let rank = self.find(&format!("{place}.proj_in.weight")).map_or(4, |s| s.len());
            config.use_linear_projection = rank == 2;
        }
        if self.find("add_embedding.linear_1.weight").is_some() {
            config.addition_embed_type = Some("text_time".into());
            config.addition_time_embed_dim = Some(256); // sgm's ConcatTimestepEmbedderND
            config.projection_class_embeddings_input_dim =
                Some(self.dim("add_embedding.linear_1.weight", 1)?);
        }
        if self.find("time_embedding.cond_proj.weight").is_some() {
            config.time_cond_proj_dim = Some(self.dim("time_embedding.cond_proj.weight", 1)?);
        }
        Ok(())
    }

    /// A text tower's architecture. Some converters leave out the layers that are never used.
    pub(super) fn text(&self, tower: &TextTower) -> Result<ClipConfig> {
        let layers = "text_model.encoder.layers";
        let depth = self.count(layers, "layer_norm1.weight");
        let embeddings = "text_model.embeddings";
        let width = self.dim(&format!("{embeddings}.token_embedding.weight"), 1)?;
        let projection = self.find("text_projection.weight");
        let config = ClipConfig {
            vocab_size: self.dim(&format!("{embeddings}.token_embedding.weight"), 0)?,
            hidden_size: width,
            intermediate_size: self.dim(&format!("{layers}.0.mlp.fc1.weight"), 0)?,
            num_hidden_layers: if depth == tower.stored_layers { tower.layers } else { depth },
            num_attention_heads: Heads::Width(CLIP_HEAD).of(width),
            max_position_embeddings: self
                .dim(&format!("{embeddings}.position_embedding.weight"), 0)?,
            hidden_act: tower.activation().into(),
            architectures: vec![tower.class().into()],
            projection_dim: projection.and_then(|s| s.first().copied()).unwrap_or(width),
            ..ClipConfig::default()
        };
        config.validate()?;
        Ok(config)
    }

    /// Every autoencoder for four channels of latents has these.
    fn vae_is_whole(&self) -> Result<()> {
        let encoder = self.find("encoder.conv_in.weight").is_some();
        let four = self.dim("decoder.conv_in.weight", 1)? == 4;
        for (wanted, site) in [
            (four, "post_quant_conv.weight"),
            (four && encoder, "quant_conv.weight"),
            (four, "decoder.mid_block.attentions.0.group_norm.weight"),
        ] {
            if wanted {
                self.dim(site, 0)?;
            }
        }
        Ok(())
    }

    /// The autoencoder's architecture, of the component `vae`.
    pub(super) fn vae(&self, family: Family) -> Result<VaeConfig> {
        let levels = self.count("decoder.up_blocks", "resnets.0.conv1.weight");
        let mut widths = (0..levels)
            .map(|i| self.dim(&format!("decoder.up_blocks.{i}.resnets.0.conv1.weight"), 0))
            .collect::<Result<Vec<_>>>()?;
        widths.reverse();
        self.vae_is_whole()?;
        let config = VaeConfig {
            block_out_channels: widths,
            layers_per_block: self
                .count("decoder.up_blocks.0.resnets", "conv1.weight")
                .saturating_sub(1),
            latent_channels: self.dim("decoder.conv_in.weight", 1)?,
            scaling_factor: family.spec().latent_scale,
            use_quant_conv: self.find("quant_conv.weight").is_some(),
            use_post_quant_conv: self.find("post_quant_conv.weight").is_some(),
            mid_block_add_attention: self
                .find("decoder.mid_block.attentions.0.group_norm.weight")
                .is_some(),
            ..VaeConfig::with_levels(levels)
        };
        config.validate()?;
        Ok(config)
    }
}

fn nested(depths: Vec<Vec<usize>>) -> Vec<PerBlock<usize>> {
    let one = |d: Vec<usize>| if d.is_empty() { PerBlock::All(1) } else { PerBlock::Each(d) };
    depths.into_iter().map(one).collect()
}

/// The noise that a family was trained with, as diffusers' converter writes it.
pub(super) fn scheduler(
    family: Family,
    prediction: PredictionKind,
    zero_snr: bool,
) -> SchedulerConfig {
    SchedulerConfig {
        prediction_type: prediction,
        steps_offset: 1,
        set_alpha_to_one: Some(false),
        timestep_spacing: family.spec().spacing,
        rescale_betas_zero_snr: zero_snr,
        ..SchedulerConfig::default()
    }
}
