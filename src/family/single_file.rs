//! Checkpoints in one file, with the names of the original code.

use super::check::ConfigPlace;
use super::detect::{self, Kind};
use super::original::Original;
use super::shapes::{Shapes, scheduler};
use super::{
    Architecture, Family, ModelParts, TokenizerSource, basic_defaults, check, few_steps, folder,
};
use crate::conditioning::ClipKind;
use crate::error::{Error, InFile, Result};
use crate::models::VaeConfig;
use crate::sampling::PredictionKind;
use crate::weights::names::{self, Part, Place, UNetNames, VaeNames, prefix};
use crate::weights::{Checkpoint, CheckpointFile, Placement, Site, WeightSource, quantised};
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
    let architecture = match folder::sidecar(path)? {
        Some(architecture) => architecture,
        None => derived(&checkpoint, path, kind)?,
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
            let site = Site::new(format!("vae.{}", names::canonical("vae", &name)));
            file.insert(&mut checkpoint, site, &name, Part::Whole)?;
        }
    } else {
        return Err(match detect::refuse(&file) {
            Error::WrongFamily { path, found, .. } => {
                Error::WrongFamily { path, expected: "a VAE".into(), found }
            }
            other => other,
        });
    }
    let shapes = Shapes { source: &checkpoint, file: path.display().to_string() };
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
            file.insert(checkpoint, Site::new(format!("unet.{site}")), &full, Part::Whole)?;
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
            file.insert(checkpoint, Site::new(format!("vae.{site}")), &full, Part::Whole)?;
        }
    }
    Ok(())
}

fn insert_text(checkpoint: &mut Checkpoint, file: &Original<'_>, family: Family) -> Result<()> {
    match family {
        Family::Sd1 => {
            insert_hf(checkpoint, file, prefix::SD1_TEXT, "text_encoder")?;
            // Some converters left the `transformer` out.
            insert_hf(checkpoint, file, "cond_stage_model.", "text_encoder")
        }
        Family::Sd2 => {
            insert_hf(checkpoint, file, prefix::SD1_TEXT, "text_encoder")?;
            insert_open_clip(checkpoint, file, prefix::SD2_TEXT, "text_encoder")?;
            // The layout of sgm.
            insert_open_clip(checkpoint, file, prefix::REFINER_TEXT, "text_encoder")
        }
        Family::Sdxl => {
            insert_hf(checkpoint, file, prefix::SD1_TEXT, "text_encoder")?;
            insert_hf(checkpoint, file, prefix::GGML_TEXT_2, "text_encoder_2")?;
            insert_hf(checkpoint, file, prefix::SDXL_TEXT, "text_encoder")?;
            insert_open_clip(checkpoint, file, prefix::SDXL_TEXT_2, "text_encoder_2")
        }
        Family::SdxlRefiner => {
            insert_open_clip(checkpoint, file, prefix::REFINER_TEXT, "text_encoder_2")
        }
    }
}

fn insert_hf(
    checkpoint: &mut Checkpoint,
    file: &Original<'_>,
    start: &str,
    component: &str,
) -> Result<()> {
    for name in file.owned_names() {
        let Some(inner) = name.strip_prefix(start) else { continue };
        for (site, part) in names::text_names_of_ggml(inner, rows(file, &name)) {
            file.insert(checkpoint, Site::new(format!("{component}.{site}")), &name, part)?;
        }
    }
    Ok(())
}

fn insert_open_clip(
    checkpoint: &mut Checkpoint,
    file: &Original<'_>,
    start: &str,
    component: &str,
) -> Result<()> {
    for name in file.owned_names() {
        let Some(inner) = name.strip_prefix(start) else { continue };
        for (site, part) in names::text_names_of_open_clip(inner, rows(file, &name)) {
            file.insert(checkpoint, Site::new(format!("{component}.{site}")), &name, part)?;
        }
    }
    Ok(())
}

/// Length of a tensor's first dimension.
fn rows(file: &Original<'_>, name: &str) -> usize {
    file.info(name).and_then(|info| info.shape.first().copied()).unwrap_or(0)
}

/// The architecture that the shapes tell.
fn derived(checkpoint: &Checkpoint, path: &Path, kind: Kind) -> Result<Architecture> {
    let Kind { family, prediction, zero_snr } = kind;
    let shapes = Shapes { source: checkpoint, file: path.display().to_string() };
    let native = match (family, prediction) {
        (Family::Sd1, _) | (Family::Sd2, PredictionKind::Epsilon | PredictionKind::Sample) => 512,
        (Family::Sd2, PredictionKind::V) => 768,
        (Family::Sdxl | Family::SdxlRefiner, _) => 1024,
    };
    let scheduler = scheduler(family, prediction, zero_snr);
    let has_text = |component: &str| checkpoint.components().contains(component);
    let (mut text, mut tokenizers) = (Vec::new(), Vec::new());
    for component in family.text_components() {
        if !has_text(component) {
            return Err(lacks(
                path,
                &format!("text encoder (`{component}`)"),
                "it was saved without one; use a full checkpoint",
            ));
        }
        let open_clip = family == Family::Sd2 || *component == "text_encoder_2";
        text.push(shapes.text(component, open_clip, family == Family::Sd2).in_file(path)?);
        let vocabulary = if open_clip { ClipKind::OpenClip } else { ClipKind::OpenAi };
        tokenizers.push(TokenizerSource::Clip(vocabulary));
    }
    let vae =
        if has_text("vae") { shapes.vae(family).in_file(path)? } else { VaeConfig::default() };
    let unet = shapes.unet(family, native / vae.factor()).in_file(path)?;
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
        force_zeros_for_empty_prompt: family == Family::Sdxl,
        requires_aesthetics_score: family == Family::SdxlRefiner,
    };
    check::configs(&architecture, ConfigPlace::File(path))?;
    check::whole(&architecture, checkpoint, path)?;
    Ok(architecture)
}

/// Every part that the family needs must have weights; the VAE may come from `--vae`.
fn complete(checkpoint: &Checkpoint, architecture: &Architecture, path: &Path) -> Result<()> {
    for component in architecture.family.text_components() {
        let first = format!("{component}.text_model.final_layer_norm.weight");
        if checkpoint.shape(&Site::new(first)).is_none() {
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
