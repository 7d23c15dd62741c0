//! Whether the parts of a model belong together, and whether a single file holds all of them.
//!
//! Each part may be sound and come from another model; networks built of such parts stop in the middle, or draw
//! something else.

use super::blueprint::Blueprint;
use super::spec::TextTower;
use super::{Architecture, Family};
use crate::error::{Error, Result};
use crate::models::{UNet, UNetConfig, Vae};
use crate::weights::{Checkpoint, Component, Scope, Site, WeightSource};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Numbers beside the text where the sizes end in an aesthetic score.
const SIZES_WITH_SCORE: usize = 5;
/// And where they do not.
const SIZES: usize = 6;

/// The real text encoder of `width`; towers of less than half of its layers are models for tests.
fn real_tower(width: usize) -> Option<&'static TextTower> {
    Family::ALL.into_iter().flat_map(|family| family.spec().towers).find(|t| t.width == width)
}

/// Where the configs of a model lie.
#[derive(Debug, Clone, Copy)]
pub(super) enum ConfigPlace<'a> {
    /// Each in a folder of its part.
    Folder(&'a Path),
    /// All follow from one file.
    File(&'a Path),
}

impl ConfigPlace<'_> {
    /// The file that describes `part`.
    fn of(self, part: Component) -> PathBuf {
        match self {
            ConfigPlace::Folder(root) => root.join(part.name()).join("config.json"),
            ConfigPlace::File(path) => path.to_path_buf(),
        }
    }
}

/// Compares the parts' configs.
///
/// # Errors
/// [`Error::WrongFamily`] or [`Error::Corrupt`], with what was expected and what was found.
pub(super) fn configs(architecture: &Architecture, place: ConfigPlace<'_>) -> Result<()> {
    let Architecture { unet, text, vae, .. } = architecture;
    let width: usize = text.iter().map(|tower| tower.hidden_size).sum();
    for level in 0..unet.block_out_channels.len() {
        let found = unet.cross_attention_dim.of(level).unwrap_or(0);
        if found != width {
            return Err(Error::WrongFamily {
                path: place.of(Component::UNet),
                expected: format!("one for width {width}, which the text encoders have"),
                found: format!("a UNet for text features of width {found}"),
                hint: None,
            });
        }
    }
    if unet.out_channels != vae.latent_channels {
        return Err(Error::WrongFamily {
            path: place.of(Component::Vae),
            expected: format!("one with {}, which the UNet has", unet.out_channels),
            found: format!("a VAE with {} latent channels", vae.latent_channels),
            hint: None,
        });
    }
    conditions(architecture, place)
}

/// What the UNet takes beside the features of the text.
fn conditions(architecture: &Architecture, place: ConfigPlace<'_>) -> Result<()> {
    let Architecture { family, unet, text, .. } = architecture;
    if !family.spec().sizes {
        return match unet.addition_embed_type {
            None => Ok(()),
            Some(_) => Err(Error::WrongFamily {
                path: place.of(Component::UNet),
                expected: format!("the UNet of an {family} model, which takes the text alone"),
                found: "a UNet that takes sizes or a picture beside the text (SDXL, unCLIP)".into(),
                hint: None,
            }),
        };
    }
    for (component, tower) in family.text_components().into_iter().zip(text) {
        if tower.num_hidden_layers < 2 {
            let why = "num_hidden_layers = 1: the features come from the layer before the last, which is missing";
            return Err(Error::corrupt(place.of(component), why));
        }
    }
    let (Some(each), Some(found), Some(tower)) = (
        unet.addition_time_embed_dim.filter(|_| unet.addition_embed_type.is_some()),
        unet.projection_class_embeddings_input_dim,
        text.last(),
    ) else {
        let file = place.of(Component::UNet).display().to_string();
        let site = Component::UNet.path("add_embedding.linear_1.weight");
        return Err(lacks(file, &site));
    };
    if !tower.projects() {
        let why = "text_encoder_2 is no CLIPTextModelWithProjection, whose pooled text SDXL needs";
        return Err(Error::corrupt(place.of(Component::TextEncoder2), why));
    }
    let count = if architecture.requires_aesthetics_score { SIZES_WITH_SCORE } else { SIZES };
    let pooled = tower.projection_dim;
    let expected = pooled.saturating_add(each.saturating_mul(count));
    if found == expected {
        return Ok(());
    }
    let kind = if count == SIZES { "a base model" } else { "a refiner" };
    Err(Error::corrupt(
        place.of(Component::UNet),
        format!(
            "the UNet takes {found} numbers beside the text; expected {expected}: {pooled} of the pooled text and {count} times {each}, the sizes of {kind}"
        ),
    ))
}

/// Looks for the weights without which a model draws something, but not what it should.
///
/// # Errors
/// [`Error::TensorMissing`].
pub(super) fn weights(architecture: &Architecture, source: &Checkpoint) -> Result<()> {
    let projecting = architecture.family.spec().towers.iter().filter(|tower| tower.projects);
    for TextTower { component, .. } in projecting {
        let projection = Site::of(*component, "text_projection.weight");
        if source.shape(&projection).is_none() {
            return Err(lacks(source.file_of(*component), projection.as_str()));
        }
    }
    Ok(())
}

/// Looks for gaps in a single file, whose shapes alone show what it holds: a part that is missing makes another
/// architecture of it.
///
/// # Errors
/// [`Error::TensorMissing`] or [`Error::Corrupt`].
pub(super) fn whole(architecture: &Architecture, source: &Checkpoint, path: &Path) -> Result<()> {
    attentions(architecture.family, &architecture.unet, path)?;
    layers(architecture, source, path)?;
    let needed = Blueprint::asked(|recorder| {
        UNet::new(&Scope::new(recorder, Component::UNet), &architecture.unet)?;
        let scope = Scope::new(recorder, Component::Vae);
        Vae::encoder(&scope, &architecture.vae)?;
        Vae::decoder(&scope, &architecture.vae).map(drop)
    })?;
    let unused = source.sites().into_iter().find(|site| {
        let checked = matches!(site.component(), Component::UNet | Component::Vae);
        checked && site.as_str().ends_with(".weight") && !needed.contains_key(site)
    });
    match unused {
        None => Ok(()),
        Some(site) => Err(Error::corrupt(
            path,
            format!(
                "`{site}` belongs to a layer of which other weights are missing; the file is incomplete, or of another kind of model"
            ),
        )),
    }
}

/// Levels have transformers on both ways, or on neither; those of the real models are known.
fn attentions(family: Family, unet: &UNetConfig, path: &Path) -> Result<()> {
    let listens = |kinds: &[String]| -> Vec<bool> {
        kinds.iter().map(|kind| kind.starts_with("CrossAttn")).collect()
    };
    let (down, mut up) = (listens(&unet.down_block_types), listens(&unet.up_block_types));
    up.reverse();
    let mut expected = vec![down.clone()];
    let known = (family.spec().unet)();
    if known.block_out_channels == unet.block_out_channels {
        expected.push(listens(&known.down_block_types));
    }
    if expected.iter().all(|expected| *expected == down && *expected == up) {
        return Ok(());
    }
    let list = |levels: &[bool]| -> String {
        let places = levels.iter().enumerate().filter(|(_, has)| **has);
        let places: Vec<String> = places.map(|(i, _)| i.to_string()).collect();
        if places.is_empty() { "no level".into() } else { format!("levels {}", places.join(", ")) }
    };
    Err(Error::corrupt(
        path,
        format!(
            "the UNet has transformers on {} on the way down and on {} on the way up; expected {} on both; the file is incomplete",
            list(&down),
            list(&up),
            list(expected.last().unwrap_or(&down)),
        ),
    ))
}

/// Text towers have all their layers: none behind a gap, and as many as the real towers of their width.
fn layers(architecture: &Architecture, source: &Checkpoint, path: &Path) -> Result<()> {
    let sites = source.sites();
    let components = architecture.family.text_components().into_iter();
    for (component, config) in components.zip(&architecture.text) {
        let start = format!("{component}.text_model.encoder.layers.");
        let number = |site: &Site| -> Option<usize> {
            site.as_str().strip_prefix(&start)?.split('.').next()?.parse().ok()
        };
        let found: BTreeSet<usize> = sites.iter().filter_map(number).collect();
        let count = found.len();
        let known = real_tower(config.hidden_size);
        let gap = (0..count).find(|layer| !found.contains(layer));
        let short = known.is_some_and(|tower| {
            ![tower.layers, tower.stored_layers].contains(&count) && 2 * count >= tower.layers
        });
        if gap.is_some() || short {
            let expected = match known {
                Some(tower) => tower.layers.to_string(),
                None => found.last().map_or(0, |last| last + 1).to_string(),
            };
            return Err(Error::corrupt(
                path,
                format!(
                    "`{component}` has {count} layers, expected {expected}; the file is incomplete"
                ),
            ));
        }
    }
    Ok(())
}

fn lacks(file: String, site: &str) -> Error {
    Error::TensorMissing { site: site.to_owned(), file }
}
