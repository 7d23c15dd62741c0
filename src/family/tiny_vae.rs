//! The small autoencoder that makes previews: TAESD, as a folder of diffusers or as a file of its author.

use super::{ModelParts, folder};
use crate::error::{Error, Result};
use crate::models::TinyVaeConfig;
use crate::weights::names::Part;
use crate::weights::{Checkpoint, CheckpointFile, Component, Placement, Site, WeightSource};
use std::path::Path;

/// An opened small autoencoder: its architecture and weights, under the component `vae`.
#[derive(Debug, Clone)]
pub struct TinyVaeParts {
    /// The architecture.
    pub config: TinyVaeConfig,
    /// The weights.
    pub source: Checkpoint,
}

impl ModelParts {
    /// Opens a small autoencoder for this model's latents: a folder of diffusers' `AutoencoderTiny`, or a file like
    /// `taesd_decoder.safetensors`.
    ///
    /// # Errors
    /// What is wrong with the files; [`Error::WrongFamily`] for other latents.
    pub fn open_tiny_vae(&self, path: &Path) -> Result<TinyVaeParts> {
        let source = &*self.source;
        let placement = Placement {
            device: source.device().clone(),
            dtype: source.dtype(Component::UNet),
            vae_dtype: source.dtype(Component::Vae),
            products: source.products(Component::Vae),
            quantise: None,
        };
        let parts = if path.is_dir() {
            let (config, source) = folder::open_tiny_vae(path, placement)?;
            TinyVaeParts { config, source }
        } else {
            open_file(path, placement)?
        };
        let (expected, found) = (self.vae.latent_channels, parts.config.latent_channels);
        if expected != found {
            return Err(Error::WrongFamily {
                path: path.to_path_buf(),
                expected: format!("a small VAE with {expected} latent channels"),
                found: format!("one with {found}"),
                hint: None,
            });
        }
        Ok(parts)
    }
}

/// A file that holds the decoder alone, whose layers are counted with a clamp before the first.
fn open_file(path: &Path, placement: Placement) -> Result<TinyVaeParts> {
    let file = CheckpointFile::open(path)?;
    let mut source = Checkpoint::new(path.display().to_string(), placement);
    let names: Vec<String> = file.names().map(str::to_owned).collect();
    for name in names {
        let site = if name.starts_with("decoder.layers.") {
            Some(name.clone())
        } else {
            name.split_once('.').and_then(|(number, rest)| {
                let number: usize = number.parse().ok()?;
                Some(format!("decoder.layers.{}.{rest}", number.checked_sub(1)?))
            })
        };
        if let Some(site) = site {
            source.insert(Site::new(format!("vae.{site}")), &file, &name, Part::Whole)?;
        }
    }
    let first = source.shape(&Site::new("vae.decoder.layers.0.weight"));
    let Some([width, channels, ..]) = first.as_deref() else {
        return Err(Error::WrongFamily {
            path: path.to_path_buf(),
            expected: "the decoder of a TAESD".into(),
            found: "a file without its first layer".into(),
            hint: None,
        });
    };
    let config = TinyVaeConfig {
        latent_channels: *channels,
        decoder_block_out_channels: vec![*width; 4],
        ..TinyVaeConfig::default()
    };
    Ok(TinyVaeParts { config, source })
}
