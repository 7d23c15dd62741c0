//! Checkpoints in one file, with the names of the original code.

use super::check::ConfigPlace;
use super::detect::{self, Kind};
use super::original::Original;
use super::shapes::{Shapes, scheduler};
use super::{
    Architecture, Family, ModelParts, TokenizerSource, basic_defaults, card, check, few_steps,
    folder,
};
use crate::error::{Error, InFile, Result};
use crate::models::VaeConfig;
use crate::sampling::{PredictionKind, Training};
use crate::weights::names::{self, Part, Place, TowerLocation, UNetNames, VaeNames, prefix};
use crate::weights::{
    Checkpoint, CheckpointFile, Component, Placement, Site, WeightSource, quantised,
};
use std::path::Path;

pub(super) fn open(path: &Path, placement: Placement) -> Result<ModelParts> {
    let file = CheckpointFile::open(path)?;
    if quantised::is_own(file.metadata(), path)? {
        return folder::open_held(path, &file, placement);
    }
    let file = Original::new(&file);
    let kind = detect::checkpoint(&file)?;
    if matches!(file.place(), Place::Averages(_)) {
        tracing::info!("{}: {} are there; they are used", path.display(), file.place());
    }
    let mut checkpoint = Checkpoint::new(path.display().to_string(), placement);
    insert_unet(&mut checkpoint, &file)?;
    insert_vae(&mut checkpoint, &file, prefix::VAE)?;
    insert_text(&mut checkpoint, &file, kind.family)?;
    let architecture = if let Some(architecture) = folder::sidecar(path)? {
        architecture
    } else {
        let latents =
            Latents { mean: file.numbers("edm_mean")?, deviation: file.numbers("edm_std")? };
        derived(&checkpoint, path, kind, latents)?
    };
    complete(&checkpoint, &architecture, path)?;
    check::weights(&architecture, &checkpoint)?;
    let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    Ok(architecture.with(name, checkpoint))
}

/// A VAE alone: original names with or without their prefix, or diffusers' names.
pub(super) fn open_vae(
    path: &Path,
    placement: Placement,
    family: Family,
) -> Result<(VaeConfig, Checkpoint)> {
    let file = CheckpointFile::open(path)?;
    if quantised::is_own(file.metadata(), path)? {
        let parts = folder::open_held(path, &file, placement)?;
        return Ok((parts.vae, Checkpoint::clone(&parts.source)));
    }
    let file = Original::new(&file);
    let mut checkpoint = Checkpoint::new(path.display().to_string(), placement);
    if file.has(prefix::VAE) {
        insert_vae(&mut checkpoint, &file, prefix::VAE)?;
    } else if file.has("decoder.up.") {
        insert_vae(&mut checkpoint, &file, "")?;
    } else if file.has("decoder.up_blocks.") {
        for name in file.owned_names() {
            let site = Site::of(Component::Vae, names::canonical(Component::Vae, &name));
            file.insert(&mut checkpoint, site, &name, Part::Whole)?;
        }
    } else {
        return Err(match detect::refuse(&file) {
            Error::WrongFamily { path, found, hint, .. } => {
                Error::WrongFamily { path, expected: "a VAE".into(), found, hint }
            }
            other => other,
        });
    }
    let file = path.display().to_string();
    let shapes = Shapes { source: &checkpoint, component: Component::Vae, file };
    let config = shapes.vae(family).in_file(path)?;
    Ok((config, checkpoint))
}

fn insert_unet(checkpoint: &mut Checkpoint, file: &Original<'_>) -> Result<()> {
    let inner = || file.names().filter_map(|name| name.strip_prefix(prefix::UNET));
    let layout = UNetNames::from_ldm(inner()).ok_or_else(|| {
        let why =
            "the UNet's blocks on the way down and up do not mirror each other, or are too many; the file is incomplete, or another kind of model";
        match file.place() {
            Place::Expected => Error::corrupt(file.path(), why),
            other => Error::corrupt(file.path(), format!("{why} ({other})")),
        }
    })?;
    for name in inner().map(str::to_owned).collect::<Vec<_>>() {
        if let Some(site) = layout.to_diffusers(&name) {
            let full = format!("{}{name}", prefix::UNET);
            file.insert(checkpoint, Site::of(Component::UNet, site), &full, Part::Whole)?;
        }
    }
    Ok(())
}

fn insert_vae(checkpoint: &mut Checkpoint, file: &Original<'_>, start: &str) -> Result<()> {
    let inner = || file.names().filter_map(|name| name.strip_prefix(start));
    let Some(layout) = VaeNames::from_ldm(inner()) else { return Ok(()) };
    for name in inner().map(str::to_owned).collect::<Vec<_>>() {
        if let Some(site) = layout.to_diffusers(&name) {
            let full = format!("{start}{name}");
            file.insert(checkpoint, Site::of(Component::Vae, site), &full, Part::Whole)?;
        }
    }
    Ok(())
}

fn insert_text(checkpoint: &mut Checkpoint, file: &Original<'_>, family: Family) -> Result<()> {
    for location in family.spec().towers.iter().flat_map(|tower| tower.read) {
        insert_tower(checkpoint, file, *location)?;
    }
    Ok(())
}

fn insert_tower(
    checkpoint: &mut Checkpoint,
    file: &Original<'_>,
    location: TowerLocation,
) -> Result<()> {
    for name in file.owned_names() {
        let Some(inner) = name.strip_prefix(location.prefix) else { continue };
        let names = if location.open_clip {
            names::text_names_of_open_clip(inner, rows(file, &name))
        } else {
            names::text_names_of_ggml(inner, rows(file, &name))
        };
        for (site, part) in names {
            file.insert(checkpoint, Site::of(location.component, site), &name, part)?;
        }
    }
    Ok(())
}

/// Length of a tensor's first dimension.
fn rows(file: &Original<'_>, name: &str) -> usize {
    file.info(name).and_then(|info| info.shape.first().copied()).unwrap_or(0)
}

/// Mean and deviation of each channel of the latents, for models that were trained on others than their autoencoder's.
#[derive(Debug, Default)]
struct Latents {
    mean: Option<Vec<f64>>,
    deviation: Option<Vec<f64>>,
}

/// Factor of Playground's latents behind their deviation, as ComfyUI and diffusers have it.
const PLAYGROUND_SCALE: f64 = 0.5;

impl Latents {
    /// The autoencoder with these latents.
    fn of(self, vae: VaeConfig) -> VaeConfig {
        match (self.mean, self.deviation) {
            (Some(mean), Some(deviation)) => VaeConfig {
                latents_mean: Some(mean),
                latents_std: Some(deviation),
                scaling_factor: PLAYGROUND_SCALE,
                ..vae
            },
            _ => vae,
        }
    }
}

/// The architecture, read from the shapes.
fn derived(
    checkpoint: &Checkpoint,
    path: &Path,
    kind: Kind,
    latents: Latents,
) -> Result<Architecture> {
    let Kind { family, prediction, zero_snr, edm } = kind;
    let file = path.display().to_string();
    let shapes = |component| Shapes { source: checkpoint, component, file: file.clone() };
    let native = (family.spec().native_side)(prediction);
    let discrete = scheduler(family, prediction, zero_snr);
    let v = prediction == PredictionKind::V;
    let marked = edm.or(zero_snr.then_some(Training::Discrete { v, zero_snr }));
    let training = card::training(path)?.or(marked);
    let scheduler = training.map_or(discrete.clone(), |training| training.apply(&discrete));
    let components = checkpoint.components();
    let has = |component| components.contains(&component);
    let (mut text, mut tokenizers) = (Vec::new(), Vec::new());
    for tower in family.spec().towers {
        let component = tower.component;
        if !has(component) {
            return Err(lacks(
                path,
                &format!("text encoder (`{component}`)"),
                "it was saved without one; use a full checkpoint",
            ));
        }
        text.push(shapes(component).text(tower).in_file(path)?);
        tokenizers.push(TokenizerSource::Clip(tower.clip));
    }
    let vae = if has(Component::Vae) {
        shapes(Component::Vae).vae(family).in_file(path)?
    } else {
        VaeConfig::default()
    };
    let vae = latents.of(vae);
    vae.validate().in_file(path)?;
    let unet = shapes(Component::UNet).unet(family, native / vae.factor()).in_file(path)?;
    let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let distilled = few_steps::of(&unet, &scheduler, &[name]);
    let basic = basic_defaults(family, (native, vae.factor()), &scheduler).in_file(path)?;
    let fitting = |distilled| few_steps::defaults(distilled, &scheduler, basic);
    let architecture = Architecture {
        family,
        unet,
        text,
        vae,
        defaults: distilled.map_or(basic, fitting),
        scheduler,
        scheduler_file: path.to_path_buf(),
        distilled,
        tokenizers,
        force_zeros_for_empty_prompt: family.spec().zero_negative,
        requires_aesthetics_score: family.spec().aesthetics_score,
    };
    check::configs(&architecture, ConfigPlace::File(path))?;
    check::whole(&architecture, checkpoint, path)?;
    Ok(architecture)
}

/// Every part that the family needs must have weights; the VAE may come from `--vae`.
fn complete(checkpoint: &Checkpoint, architecture: &Architecture, path: &Path) -> Result<()> {
    for component in architecture.family.text_components() {
        let first = Site::of(component, "text_model.final_layer_norm.weight");
        if checkpoint.shape(&first).is_none() {
            return Err(lacks(
                path,
                &format!("text encoder (`{component}`)"),
                "use a full checkpoint",
            ));
        }
    }
    Ok(())
}

fn lacks(path: &Path, part: &str, advice: &str) -> Error {
    Error::corrupt(path, format!("the checkpoint has no {part}; {advice}"))
}
