//! The standard models without their weights: names and shapes of everything they hold.
//!
//! An adapter file names modules of its base; with a blueprint it can be looked into, and converted,
//! where no model is at hand. The networks themselves say what they need.

use super::Family;
use crate::error::{Error, Result};
use crate::models::{ClipConfig, ClipTower, PerBlock, UNet, UNetConfig};
use crate::weights::{Scope, Site, Weight, WeightSource};
use candle_core::{DType, Device, Tensor};
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// Names and shapes of a standard model; every weight is zero and takes no memory.
#[derive(Debug)]
pub struct Blueprint {
    shapes: BTreeMap<Site, Vec<usize>>,
}

/// Answers every question with zeros and writes it down.
#[derive(Debug, Default)]
pub(super) struct Recorder {
    asked: Mutex<BTreeMap<Site, Vec<usize>>>,
}

impl Blueprint {
    /// The standard model of a family: SD 1.5, SD 2.1, SDXL base or its refiner.
    ///
    /// # Errors
    /// Never, as long as the networks can be built from their standard configs.
    pub fn of(family: Family) -> Result<Self> {
        let shapes = Self::asked(|recorder| {
            UNet::new(&Scope::new(recorder, "unet"), &unet(family))?;
            for (component, config) in family.text_components().iter().zip(towers(family)) {
                ClipTower::new(&Scope::new(recorder, component), &config)?;
            }
            Ok(())
        })?;
        Ok(Self { shapes })
    }

    /// What networks ask for while `build` builds them; nothing that they can do without.
    pub(super) fn asked(
        build: impl FnOnce(&Recorder) -> Result<()>,
    ) -> Result<BTreeMap<Site, Vec<usize>>> {
        let recorder = Recorder::default();
        build(&recorder)?;
        Ok(recorder.asked.into_inner().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The UNet of the standard model of a family.
pub(super) fn unet(family: Family) -> UNetConfig {
    let strings = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    let sd1 = UNetConfig { cross_attention_dim: PerBlock::All(768), ..UNetConfig::default() };
    let cross = |width: usize, widths: &[usize]| UNetConfig {
        cross_attention_dim: PerBlock::All(width),
        use_linear_projection: true,
        attention_head_dim: PerBlock::Each(widths.iter().map(|width| width / 64).collect()),
        block_out_channels: widths.to_vec(),
        ..UNetConfig::default()
    };
    let xl = |config: UNetConfig, inputs: usize| UNetConfig {
        addition_embed_type: Some("text_time".into()),
        addition_time_embed_dim: Some(256),
        projection_class_embeddings_input_dim: Some(inputs),
        ..config
    };
    let depths = |depths: &[usize]| {
        PerBlock::Each(depths.iter().map(|depth| PerBlock::All(*depth)).collect())
    };
    match family {
        Family::Sd1 => sd1,
        Family::Sd2 => cross(1024, &[320, 640, 1280, 1280]),
        Family::Sdxl => UNetConfig {
            down_block_types: strings(&[
                "DownBlock2D",
                "CrossAttnDownBlock2D",
                "CrossAttnDownBlock2D",
            ]),
            up_block_types: strings(&["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"]),
            transformer_layers_per_block: depths(&[1, 2, 10]),
            ..xl(cross(2048, &[320, 640, 1280]), 2816)
        },
        Family::SdxlRefiner => UNetConfig {
            down_block_types: strings(&[
                "DownBlock2D",
                "CrossAttnDownBlock2D",
                "CrossAttnDownBlock2D",
                "DownBlock2D",
            ]),
            up_block_types: strings(&[
                "UpBlock2D",
                "CrossAttnUpBlock2D",
                "CrossAttnUpBlock2D",
                "UpBlock2D",
            ]),
            transformer_layers_per_block: depths(&[4, 4, 4, 4]),
            ..xl(cross(1280, &[384, 768, 1536, 1536]), 2560)
        },
    }
}

fn towers(family: Family) -> Vec<ClipConfig> {
    let tower = |width: usize, layers: usize, projects: bool| ClipConfig {
        hidden_size: width,
        intermediate_size: width * 4,
        num_hidden_layers: layers,
        num_attention_heads: width / 64,
        projection_dim: width,
        architectures: vec![
            if projects { "CLIPTextModelWithProjection" } else { "CLIPTextModel" }.into(),
        ],
        ..ClipConfig::default()
    };
    match family {
        Family::Sd1 => vec![tower(768, 12, false)],
        Family::Sd2 => vec![tower(1024, 23, false)],
        Family::Sdxl => vec![tower(768, 12, false), tower(1280, 32, true)],
        Family::SdxlRefiner => vec![tower(1280, 32, true)],
    }
}

/// Zeros of any shape that share one number.
fn zeros(shape: &[usize]) -> Result<Weight> {
    let zero = Tensor::zeros((), DType::F32, &Device::Cpu)?;
    Ok(Weight::Dense(zero.broadcast_as(shape)?))
}

impl WeightSource for Recorder {
    fn get(&self, site: &Site, shape: &[usize]) -> Result<Weight> {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        asked.insert(site.clone(), shape.to_vec());
        zeros(shape)
    }

    fn shape(&self, site: &Site) -> Option<Vec<usize>> {
        // Of optional parameters only the projection of a tower exists; its shape is asked for next.
        site.as_str().ends_with("text_projection.weight").then(Vec::new)
    }

    fn sites(&self) -> Vec<Site> {
        Vec::new()
    }

    fn device(&self) -> &Device {
        &Device::Cpu
    }

    fn dtype(&self, _: &str) -> DType {
        DType::F32
    }
}

impl WeightSource for Blueprint {
    fn get(&self, site: &Site, shape: &[usize]) -> Result<Weight> {
        match self.shapes.get(site) {
            Some(_) => zeros(shape),
            None => Err(Error::TensorMissing {
                site: site.to_string(),
                file: "the standard model".to_owned(),
            }),
        }
    }

    fn shape(&self, site: &Site) -> Option<Vec<usize>> {
        self.shapes.get(site).cloned()
    }

    fn sites(&self) -> Vec<Site> {
        self.shapes.keys().cloned().collect()
    }

    fn device(&self) -> &Device {
        &Device::Cpu
    }

    fn dtype(&self, _: &str) -> DType {
        DType::F32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_standard_models_hold_what_they_should() {
        // Linear and convolution modules of the UNet, and of each tower.
        for (family, unet, towers) in [
            (Family::Sd1, 282, [72, 0]),
            (Family::Sd2, 282, [138, 0]),
            (Family::Sdxl, 794, [72, 193]),
        ] {
            let blueprint = Blueprint::of(family).unwrap();
            let count = |component: &str| {
                let counted = blueprint.shapes.iter().filter(|(site, shape)| {
                    site.component() == component
                        && shape.len() > 1
                        && site.as_str().ends_with(".weight")
                        && !site.as_str().contains("embedding.weight")
                });
                counted.count()
            };
            assert_eq!(count("unet"), unet, "{family}");
            assert_eq!([count("text_encoder"), count("text_encoder_2")], towers, "{family}");
        }
        assert!(Blueprint::of(Family::SdxlRefiner).is_ok());
    }
}
