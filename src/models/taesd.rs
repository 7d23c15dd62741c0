//! The tiny autoencoder for previews and fast decoding: TAESD, diffusers'
//! AutoencoderTiny 0.42.

use super::config::TinyVaeConfig;
use crate::error::{Error, Result};
use crate::nn::{Conv2d, ConvFusion, Feature, Geometry};
use crate::weights::{Products, Scope};
use candle_core::{DType, Tensor};

/// A tiny autoencoder; immutable.
#[derive(Debug, Clone)]
pub struct TinyVae {
    encoder: Vec<Layer>,
    decoder: Vec<Layer>,
    config: TinyVaeConfig,
    dtype: DType,
    products: Products,
}

#[derive(Debug, Clone)]
enum Layer {
    Conv(Conv2d),
    Relu,
    /// Doubles the size for the convolution that follows.
    Double,
    Block {
        convs: Box<[Conv2d; 3]>,
        skip: Option<Conv2d>,
    },
}

impl TinyVae {
    /// Builds the network from the weights under `scope` (the component's root).
    pub fn new(scope: &Scope<'_>, config: &TinyVaeConfig) -> Result<Self> {
        let encoder = Builder::new(scope.at("encoder.layers")).encoder(config)?;
        Ok(Self { encoder, ..Self::decoder(scope, config)? })
    }

    /// Only the half that decodes.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a config that is not built, or what reading a weight gives.
    pub fn decoder(scope: &Scope<'_>, config: &TinyVaeConfig) -> Result<Self> {
        if config.act_fn != "relu" {
            return Err(Error::unsupported(
                format!("a tiny VAE with act_fn = {}", config.act_fn),
                "relu is built, as in TAESD",
            ));
        }
        if config.upsampling_scaling_factor != 2 {
            return Err(Error::unsupported(
                format!("a tiny VAE that grows by {}", config.upsampling_scaling_factor),
                "factor 2 is built, as in TAESD",
            ));
        }
        let decoder = Builder::new(scope.at("decoder.layers")).decoder(config)?;
        let products = scope.products();
        let (encoder, config) = (Vec::new(), config.clone());
        Ok(Self { encoder, decoder, config, dtype: scope.dtype(), products })
    }

    /// `pictures`: `[B, 3, H, W]` in −1..1. Returns latents as the UNet sees them, `[B, C, h, w]`.
    pub fn encode(&self, pictures: &Tensor) -> Result<Tensor> {
        if self.encoder.is_empty() {
            return Err(Error::Internal(
                "encoding with the half of a small VAE that decodes".into(),
            ));
        }
        let x = ((pictures.to_dtype(self.dtype)? + 1.0)? / 2.0)?;
        Ok((run(&self.encoder, Feature::image(&x, self.products)?)?
            .to_image()?
            .to_dtype(DType::F32)?
            * self.config.scaling_factor)?)
    }

    /// `latents`: `[B, C, h, w]` as the UNet gives them. Returns `[B, 3, f·h, f·w]`, f32, −1..1; f is 8 in TAESD.
    pub fn decode(&self, latents: &Tensor) -> Result<Tensor> {
        let x = (latents.to_dtype(self.dtype)? / self.config.scaling_factor)?;
        let x = ((x / 3.0)?.tanh()? * 3.0)?; // soft clamp of outliers
        let y = run(&self.decoder, Feature::image(&x, self.products)?)?
            .to_image()?
            .to_dtype(DType::F32)?;
        Ok(((y * 2.0)? - 1.0)?)
    }
}

fn run(layers: &[Layer], mut x: Feature) -> Result<Feature> {
    let mut grown = None;
    for layer in layers {
        x = match layer {
            Layer::Conv(conv) => {
                conv.run(&x, ConvFusion { grown: grown.take(), ..ConvFusion::default() })?
            }
            Layer::Relu => x.relu()?,
            Layer::Double => {
                let (height, width) = x.sides()?;
                grown = Some((2 * height, 2 * width));
                x
            }
            Layer::Block { convs, skip } => {
                let [a, b, c] = &**convs;
                let y = b.forward(&a.forward(&x)?.relu()?)?.relu()?;
                let x = skip.as_ref().map_or(Ok(x.clone()), |conv| conv.forward(&x))?;
                c.run(&y, ConvFusion { add: Some(&x), ..ConvFusion::default() })?.relu()?
            }
        };
    }
    Ok(x)
}

/// Counts the positions of torch's `Sequential`.
struct Builder<'a> {
    scope: Scope<'a>,
    layers: Vec<Layer>,
}

impl<'a> Builder<'a> {
    fn new(scope: Scope<'a>) -> Self {
        Self { scope, layers: Vec::new() }
    }

    fn conv(&mut self, from: usize, to: usize, geometry: Geometry) -> Result<()> {
        let scope = self.scope.at(self.layers.len());
        self.layers.push(Layer::Conv(Conv2d::without_bias(&scope, from, to, geometry)?));
        Ok(())
    }

    fn block(&mut self, width: usize) -> Result<()> {
        let scope = self.scope.at(self.layers.len());
        let conv = |i: usize| Conv2d::new(&scope.at("conv").at(i), width, width, Geometry::SAME);
        let skip = scope.at("skip");
        let skip = if skip.has("weight") {
            Some(Conv2d::without_bias(&skip, width, width, Geometry::POINT)?)
        } else {
            None
        };
        self.layers.push(Layer::Block { convs: Box::new([conv(0)?, conv(2)?, conv(4)?]), skip });
        Ok(())
    }

    fn encoder(mut self, config: &TinyVaeConfig) -> Result<Vec<Layer>> {
        let mut before = 3;
        for (i, (&width, &blocks)) in
            config.encoder_block_out_channels.iter().zip(&config.num_encoder_blocks).enumerate()
        {
            let geometry = if i == 0 { Geometry::SAME } else { Geometry::HALVE };
            self.conv(before, width, geometry)?;
            for _ in 0..blocks {
                self.block(width)?;
            }
            before = width;
        }
        self.conv(before, config.latent_channels, Geometry::SAME)?;
        Ok(self.layers)
    }

    fn decoder(mut self, config: &TinyVaeConfig) -> Result<Vec<Layer>> {
        let widths = &config.decoder_block_out_channels;
        let first = widths.first().copied().unwrap_or(64);
        self.conv(config.latent_channels, first, Geometry::SAME)?;
        self.layers.push(Layer::Relu);
        for (i, (&width, &blocks)) in widths.iter().zip(&config.num_decoder_blocks).enumerate() {
            for _ in 0..blocks {
                self.block(width)?;
            }
            let last = i + 1 == widths.len();
            if !last {
                self.layers.push(Layer::Double);
            }
            let to = if last { 3 } else { width };
            self.conv(width, to, Geometry::SAME)?;
        }
        Ok(self.layers)
    }
}
