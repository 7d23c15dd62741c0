//! The autoencoder between pictures and latents: diffusers' AutoencoderKL 0.42.

use super::config::VaeConfig;
use super::unet::resnet::{Downsample, Resnet, ResnetShape, Upsample};
use crate::cancel::Cancel;
use crate::error::{Error, Result};
use crate::hint::Hint;
use crate::nn::{Attend, Conv2d, ConvFusion, Feature, Geometry, GroupNorm};
use crate::room;
use crate::weights::{Products, Scope};
use candle_core::{DType, Tensor};

/// ε of every group norm in a VAE.
const EPS: f64 = 1e-6;

/// An autoencoder; immutable. The encoder is only built when its weights exist.
#[derive(Debug, Clone)]
pub struct Vae {
    encoder: Option<Encoder>,
    decoder: Option<Decoder>,
    config: VaeConfig,
    dtype: DType,
    products: Products,
}

/// Mean and logarithm of the variance of encoded latents, both `[B, C, h, w]`, unscaled.
#[derive(Debug, Clone)]
pub struct Moments {
    /// Mean.
    pub mean: Tensor,
    /// Natural logarithm of the variance, clamped to −30..20 as the reference does.
    pub log_variance: Tensor,
}

/// How large pictures are decoded in pieces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tiling {
    /// Side of a tile in latent cells.
    pub tile: usize,
    /// Cells that neighbouring tiles share and blend over.
    pub overlap: usize,
}

impl Default for Tiling {
    fn default() -> Self {
        // 64 cells are 512 px at factor 8, the size that VAEs are trained at; a quarter is blended.
        Self { tile: 64, overlap: 16 }
    }
}

impl Vae {
    /// Builds the network from the weights under `scope` (the component's root).
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a config that is not built, or what reading a weight gives.
    pub fn new(scope: &Scope<'_>, config: &VaeConfig) -> Result<Self> {
        let has_encoder = scope.has("encoder.conv_in.weight");
        let encoder = if has_encoder { Self::encoder(scope, config)?.encoder } else { None };
        Ok(Self { encoder, ..Self::decoder(scope, config)? })
    }

    /// Only the half that encodes.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn encoder(scope: &Scope<'_>, config: &VaeConfig) -> Result<Self> {
        let vae = Self::empty(scope, config)?;
        Ok(Self { encoder: Some(Encoder::new(scope, config)?), ..vae })
    }

    /// Only the half that decodes.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn decoder(scope: &Scope<'_>, config: &VaeConfig) -> Result<Self> {
        let vae = Self::empty(scope, config)?;
        Ok(Self { decoder: Some(Decoder::new(scope, config)?), ..vae })
    }

    fn empty(scope: &Scope<'_>, config: &VaeConfig) -> Result<Self> {
        config.validate()?;
        let (config, dtype, products) = (config.clone(), scope.dtype(), scope.products());
        Ok(Self { encoder: None, decoder: None, config, dtype, products })
    }

    /// The architecture.
    pub fn config(&self) -> &VaeConfig {
        &self.config
    }

    /// Encodes pictures.
    ///
    /// `pictures`: `[B, 3, H, W]` in −1..1. Returns unscaled moments.
    ///
    /// # Errors
    /// [`Error::Unsupported`] when the file has no encoder.
    pub fn encode(&self, pictures: &Tensor) -> Result<Moments> {
        self.encode_until(pictures, &Cancel::new())
    }

    /// As [`encode`](Self::encode), until `cancel` is set: it is looked at between layers.
    ///
    /// # Errors
    /// [`Error::Cancelled`], and as [`encode`](Self::encode).
    pub fn encode_until(&self, pictures: &Tensor, cancel: &Cancel) -> Result<Moments> {
        let encoder = self.encoder.as_ref().ok_or_else(|| {
            Error::unsupported("encoding with a VAE that has only a decoder", Hint::WholeVae)
        })?;
        let pictures = Feature::image(&pictures.to_dtype(self.dtype)?, self.products)?;
        let moments = encoder.forward(&pictures, cancel)?.to_image()?; // [B, 2·C, h, w]
        let channels = self.config.latent_channels;
        let part = |start| moments.narrow(1, start, channels)?.to_dtype(DType::F32);
        Ok(Moments { mean: part(0)?, log_variance: part(channels)?.clamp(-30f32, 20f32)? })
    }

    /// Latents as the UNet sees them: the mean, shifted and scaled.
    pub fn scale(&self, latents: &Tensor) -> Result<Tensor> {
        if let Some((mean, deviation)) = self.statistics(latents)? {
            let centred = (latents.broadcast_sub(&mean)? * self.config.scaling_factor)?;
            return Ok(centred.broadcast_div(&deviation)?);
        }
        let shift = self.config.shift_factor.unwrap_or(0.0);
        Ok(((latents - shift)? * self.config.scaling_factor)?)
    }

    /// The inverse of [`scale`](Self::scale).
    fn unscale(&self, latents: &Tensor) -> Result<Tensor> {
        if let Some((mean, deviation)) = self.statistics(latents)? {
            let wide = (latents.broadcast_mul(&deviation)? / self.config.scaling_factor)?;
            return Ok(wide.broadcast_add(&mean)?);
        }
        let shift = self.config.shift_factor.unwrap_or(0.0);
        Ok(((latents / self.config.scaling_factor)? + shift)?)
    }

    /// Mean and deviation of the channels of latents, `[1, C, 1, 1]`, as diffusers' SDXL pipelines use them.
    fn statistics(&self, latents: &Tensor) -> Result<Option<(Tensor, Tensor)>> {
        let (Some(mean), Some(deviation)) = (&self.config.latents_mean, &self.config.latents_std)
        else {
            return Ok(None);
        };
        let column = |numbers: &[f64]| -> Result<Tensor> {
            let numbers: Vec<f32> = numbers.iter().map(|&number| number as f32).collect();
            let shape = (1, numbers.len(), 1, 1);
            let column = Tensor::from_vec(numbers, shape, latents.device())?;
            Ok(column.to_dtype(latents.dtype())?)
        };
        Ok(Some((column(mean)?, column(deviation)?)))
    }

    /// Decodes latents as the UNet gives them.
    ///
    /// `latents`: `[B, C, h, w]`, scaled. Returns `[B, 3, f·h, f·w]`, f32, about −1..1, where f is
    /// [`VaeConfig::factor`].
    ///
    /// # Errors
    /// [`Error::Internal`] when only the other half was built.
    pub fn decode(&self, latents: &Tensor) -> Result<Tensor> {
        self.decode_until(latents, &Cancel::new())
    }

    /// As [`decode`](Self::decode), until `cancel` is set: it is looked at between layers.
    ///
    /// # Errors
    /// [`Error::Cancelled`], and as [`decode`](Self::decode).
    pub fn decode_until(&self, latents: &Tensor, cancel: &Cancel) -> Result<Tensor> {
        let decoder = self.decoder.as_ref().ok_or_else(|| {
            Error::Internal("decoding with the half of a VAE that encodes".into())
        })?;
        let latents = self.unscale(latents)?;
        let latents = Feature::image(&latents.to_dtype(self.dtype)?, self.products)?;
        Ok(decoder.forward(&latents, cancel)?.to_image()?.to_dtype(DType::F32)?)
    }

    /// Decodes tile by tile and blends, so that memory depends on the tile only.
    ///
    /// Pictures differ slightly from [`decode`](Self::decode): each tile has its own statistics.
    pub fn decode_tiled(
        &self,
        latents: &Tensor,
        tiling: Tiling,
        progress: impl FnMut(usize, usize) -> Result<()>,
    ) -> Result<Tensor> {
        self.decode_tiled_until(latents, tiling, &Cancel::new(), progress)
    }

    /// As [`decode_tiled`](Self::decode_tiled), until `cancel` is set: it is looked at between layers.
    ///
    /// # Errors
    /// [`Error::Cancelled`], and as [`decode_tiled`](Self::decode_tiled).
    pub fn decode_tiled_until(
        &self,
        latents: &Tensor,
        tiling: Tiling,
        cancel: &Cancel,
        mut progress: impl FnMut(usize, usize) -> Result<()>,
    ) -> Result<Tensor> {
        let (batch, _, height, width) = latents.dims4()?;
        let rows = tile_starts(height, tiling);
        let columns = tile_starts(width, tiling);
        let total = rows.len() * columns.len();
        let factor = self.config.factor();
        let (full_h, full_w) = (height * factor, width * factor);
        let mut sum = room::zeros::<f32>(batch * 3 * full_h * full_w, "a picture")?;
        let mut weight = room::zeros::<f32>(full_h * full_w, "a picture")?;
        for (index, (&y, &x)) in
            rows.iter().flat_map(|y| columns.iter().map(move |x| (y, x))).enumerate()
        {
            progress(index, total)?;
            let (tile_h, tile_w) = (tiling.tile.min(height), tiling.tile.min(width));
            let tile = latents.narrow(2, y, tile_h)?.narrow(3, x, tile_w)?.contiguous()?;
            let pixels = self.decode_until(&tile, cancel)?.flatten_all()?.to_vec1::<f32>()?;
            let ramp_y = ramp(tile_h * factor, tiling.overlap * factor);
            let ramp_x = ramp(tile_w * factor, tiling.overlap * factor);
            let (top, left) = (y * factor, x * factor);
            for (j, wy) in ramp_y.iter().enumerate() {
                for (i, wx) in ramp_x.iter().enumerate() {
                    let target = (top + j) * full_w + left + i;
                    weight[target] += wy * wx;
                    for plane in 0..batch * 3 {
                        let source = (plane * ramp_y.len() + j) * ramp_x.len() + i;
                        sum[plane * full_h * full_w + target] += pixels[source] * wy * wx;
                    }
                }
            }
        }
        for plane in sum.chunks_mut(full_h * full_w) {
            for (value, weight) in plane.iter_mut().zip(&weight) {
                *value /= weight;
            }
        }
        Ok(Tensor::from_vec(sum, (batch, 3, full_h, full_w), latents.device())?)
    }
}

/// First cells of the tiles that cover `length` cells; the last tile is moved back to fit.
fn tile_starts(length: usize, tiling: Tiling) -> Vec<usize> {
    let stride = tiling.tile.saturating_sub(tiling.overlap).max(1);
    let last = length.saturating_sub(tiling.tile);
    let mut starts: Vec<usize> = (0..last).step_by(stride).collect();
    starts.push(last);
    starts
}

/// Blending weights along one side: rising over the overlap, flat, falling.
fn ramp(length: usize, overlap: usize) -> Vec<f32> {
    (0..length)
        .map(|i| {
            let edge = (i + 1).min(length - i) as f32;
            (edge / (overlap + 1) as f32).min(1.0)
        })
        .collect()
}

fn shape(config: &VaeConfig) -> ResnetShape {
    ResnetShape { groups: config.norm_num_groups, eps: EPS, time: None, divisor: 1.0 }
}

#[derive(Debug, Clone)]
struct Encoder {
    conv_in: Conv2d,
    levels: Vec<(Vec<Resnet>, Option<Downsample>)>,
    mid: Mid,
    norm_out: GroupNorm,
    conv_out: Conv2d,
    quantise: Option<Conv2d>,
}

impl Encoder {
    fn new(root: &Scope<'_>, config: &VaeConfig) -> Result<Self> {
        let scope = root.at("encoder");
        let widths = &config.block_out_channels;
        let (first, last) = (widths[0], widths[widths.len() - 1]);
        let moments = 2 * config.latent_channels;
        let level = |i: usize| -> Result<_> {
            let block = scope.at("down_blocks").at(i);
            let before = widths[i.saturating_sub(1)];
            let resnets = (0..config.layers_per_block)
                .map(|j| {
                    let inputs = if j == 0 { before } else { widths[i] };
                    Resnet::new(&block.at("resnets").at(j), inputs, widths[i], shape(config))
                })
                .collect::<Result<Vec<_>>>()?;
            let downsample = if i + 1 == widths.len() {
                None
            } else {
                Some(Downsample::new(&block.at("downsamplers.0"), widths[i], 0)?)
            };
            Ok((resnets, downsample))
        };
        let quantise = if config.use_quant_conv {
            Some(Conv2d::new(&root.at("quant_conv"), moments, moments, Geometry::POINT)?)
        } else {
            None
        };
        Ok(Self {
            conv_in: Conv2d::new(&scope.at("conv_in"), config.in_channels, first, Geometry::SAME)?,
            levels: (0..widths.len()).map(level).collect::<Result<_>>()?,
            mid: Mid::new(&scope.at("mid_block"), last, config)?,
            norm_out: GroupNorm::new(
                &scope.at("conv_norm_out"),
                last,
                config.norm_num_groups,
                EPS,
            )?,
            conv_out: Conv2d::new(&scope.at("conv_out"), last, moments, Geometry::SAME)?,
            quantise,
        })
    }

    fn forward(&self, x: &Feature, cancel: &Cancel) -> Result<Feature> {
        let mut x = self.conv_in.forward(x)?;
        for (resnets, downsample) in &self.levels {
            for resnet in resnets {
                cancel.check()?;
                x = resnet.forward(&x, None)?;
            }
            if let Some(downsample) = downsample {
                x = downsample.forward(&x)?;
            }
        }
        let out = ConvFusion { norm: Some(&self.norm_out), silu: true, ..ConvFusion::default() };
        let x = self.conv_out.run(&self.mid.forward(&x, cancel)?, out)?;
        self.quantise.as_ref().map_or(Ok(x.clone()), |conv| conv.forward(&x))
    }
}

#[derive(Debug, Clone)]
struct Decoder {
    post_quantise: Option<Conv2d>,
    conv_in: Conv2d,
    mid: Mid,
    levels: Vec<(Vec<Resnet>, Option<Upsample>)>,
    norm_out: GroupNorm,
    conv_out: Conv2d,
}

impl Decoder {
    fn new(root: &Scope<'_>, config: &VaeConfig) -> Result<Self> {
        let scope = root.at("decoder");
        let widths: Vec<usize> = config.block_out_channels.iter().rev().copied().collect();
        let (coarse, fine) = (widths[0], widths[widths.len() - 1]);
        let channels = config.latent_channels;
        let level = |i: usize| -> Result<_> {
            let block = scope.at("up_blocks").at(i);
            let before = widths[i.saturating_sub(1)];
            let resnets = (0..=config.layers_per_block)
                .map(|j| {
                    let inputs = if j == 0 { before } else { widths[i] };
                    Resnet::new(&block.at("resnets").at(j), inputs, widths[i], shape(config))
                })
                .collect::<Result<Vec<_>>>()?;
            let upsample = if i + 1 == widths.len() {
                None
            } else {
                Some(Upsample::new(&block.at("upsamplers.0"), widths[i])?)
            };
            Ok((resnets, upsample))
        };
        let post_quantise = if config.use_post_quant_conv {
            Some(Conv2d::new(&root.at("post_quant_conv"), channels, channels, Geometry::POINT)?)
        } else {
            None
        };
        Ok(Self {
            post_quantise,
            conv_in: Conv2d::new(&scope.at("conv_in"), channels, coarse, Geometry::SAME)?,
            mid: Mid::new(&scope.at("mid_block"), coarse, config)?,
            levels: (0..widths.len()).map(level).collect::<Result<_>>()?,
            norm_out: GroupNorm::new(
                &scope.at("conv_norm_out"),
                fine,
                config.norm_num_groups,
                EPS,
            )?,
            conv_out: Conv2d::new(
                &scope.at("conv_out"),
                fine,
                config.out_channels,
                Geometry::SAME,
            )?,
        })
    }

    fn forward(&self, x: &Feature, cancel: &Cancel) -> Result<Feature> {
        let x = match &self.post_quantise {
            Some(conv) => conv.forward(x)?,
            None => x.clone(),
        };
        let mut x = self.mid.forward(&self.conv_in.forward(&x)?, cancel)?;
        for (resnets, upsample) in &self.levels {
            for resnet in resnets {
                cancel.check()?;
                x = resnet.forward(&x, None)?;
            }
            if let Some(upsample) = upsample {
                cancel.check()?;
                let (height, width) = x.sides()?;
                x = upsample.forward(&x, (2 * height, 2 * width))?;
            }
        }
        cancel.check()?;
        let out = ConvFusion { norm: Some(&self.norm_out), silu: true, ..ConvFusion::default() };
        self.conv_out.run(&x, out)
    }
}

/// Resnet, single-head self-attention, resnet.
#[derive(Debug, Clone)]
struct Mid {
    first: Resnet,
    attention: Option<(GroupNorm, Attend)>,
    second: Resnet,
}

impl Mid {
    fn new(scope: &Scope<'_>, width: usize, config: &VaeConfig) -> Result<Self> {
        let resnet =
            |j: usize| Resnet::new(&scope.at("resnets").at(j), width, width, shape(config));
        let attention = if config.mid_block_add_attention {
            let scope = scope.at("attentions.0");
            let groups = config.norm_num_groups;
            let norm = GroupNorm::new(&scope.at("group_norm"), width, groups, EPS)?;
            Some((norm, Attend::new(&scope, width, width, 1)?))
        } else {
            None
        };
        Ok(Self { first: resnet(0)?, attention, second: resnet(1)? })
    }

    fn forward(&self, x: &Feature, cancel: &Cancel) -> Result<Feature> {
        let mut x = self.first.forward(x, None)?;
        cancel.check()?;
        if let Some((norm, attention)) = &self.attention {
            x = attention.image(&x, norm)?;
        }
        cancel.check()?;
        self.second.forward(&x, None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_cover_and_fit() {
        for length in [1, 8, 63, 64, 65, 100, 128, 300] {
            let tiling = Tiling::default();
            let starts = tile_starts(length, tiling);
            let side = tiling.tile.min(length);
            assert_eq!(starts[0], 0);
            assert_eq!(starts[starts.len() - 1] + side, length);
            assert!(starts.windows(2).all(|w| w[1] > w[0] && w[1] - w[0] <= tiling.tile));
        }
    }

    #[test]
    fn ramps_are_positive_and_symmetric() {
        let r = ramp(64, 16);
        assert!(r.iter().all(|w| *w > 0.0 && *w <= 1.0));
        assert!(r.iter().zip(r.iter().rev()).all(|(a, b)| (a - b).abs() < 1e-6));
    }
}
