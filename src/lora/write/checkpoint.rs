//! A whole model in one file, under the names of the original code, which every tool reads.

use super::file::{Entry, FileDtype, Metadata, save, save_among};
use crate::atomic_file::Together;
use crate::cancel::Cancel;
use crate::error::{Error, Result};
use crate::hint::Hint;
use crate::weights::names::{Part, TowerLocation, UNetNames, VaeNames, open_clip_name, prefix};
use crate::weights::{Component, Site, WeightSource};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// How a checkpoint is written.
#[derive(Debug, Clone)]
pub struct CheckpointOptions {
    /// The text towers of the family.
    pub towers: Vec<TowerLocation>,
    /// Float type to write.
    pub precision: FileDtype,
    /// Notes for the header.
    pub metadata: Metadata,
    /// Whether a file may be replaced.
    pub force: bool,
    /// Stops the work between two tensors.
    pub cancel: Cancel,
}

/// Writes all weights of `source` as one safetensors file, a tensor after another.
///
/// Returns the number of tensors.
///
/// # Errors
/// [`Error::Unsupported`] for weights that the original code has no name for; [`Error::Exists`]; what
/// reading and writing give.
pub fn checkpoint(
    source: &dyn WeightSource,
    out: &Path,
    options: &CheckpointOptions,
) -> Result<usize> {
    let tensors = tensors(source, options)?;
    save(out, &tensors, &options.metadata, options.force, &options.cancel)?;
    Ok(tensors.len())
}

/// As [`checkpoint`], for a file that will take its name with others; returns where it lies meanwhile, and
/// the number of tensors.
///
/// # Errors
/// As [`checkpoint`].
#[cfg_attr(not(feature = "cli"), allow(dead_code))] // a verb of the command line
pub(crate) fn checkpoint_among(
    all: &mut Together,
    source: &dyn WeightSource,
    out: &Path,
    options: &CheckpointOptions,
) -> Result<(PathBuf, usize)> {
    let tensors = tensors(source, options)?;
    let staged = save_among(all, out, &tensors, &options.metadata, &options.cancel)?;
    Ok((staged, tensors.len()))
}

/// All tensors of such a file.
fn tensors<'a>(
    source: &'a dyn WeightSource,
    options: &CheckpointOptions,
) -> Result<BTreeMap<String, Entry<'a>>> {
    let sites = source.sites();
    let inner = |component: Component| {
        sites.iter().filter(move |site| site.component() == component).map(Site::path)
    };
    let layout = UNetNames::from_diffusers(inner(Component::UNet))
        .ok_or_else(|| Error::unsupported("a model without UNet blocks", "choose another model"))?;
    let levels = inner(Component::Vae).filter_map(level).max().unwrap_or(0) + 1;
    let names = Names { layout, vae: VaeNames::new(levels), towers: &options.towers };
    let mut rows: BTreeMap<String, Vec<Piece>> = BTreeMap::new();
    for site in &sites {
        let shape = source.shape(site).unwrap_or_default();
        let (name, part) = names.of(site, &shape).ok_or_else(|| {
            Error::unsupported(format!("`{site}` in a file of the original code"), Hint::WriteLora)
        })?;
        rows.entry(name).or_default().push(Piece { site: site.clone(), shape, part });
    }
    let entry = |(name, pieces): (String, Vec<Piece>)| {
        let entry = entry(source, &name, pieces, options.precision)?;
        Ok((name, entry))
    };
    rows.into_iter().map(entry).collect()
}

/// The level of an autoencoder's weight on the way down.
fn level(name: &str) -> Option<usize> {
    name.strip_prefix("encoder.down_blocks.")?.split('.').next()?.parse().ok()
}

/// A weight inside a tensor of the original code.
#[derive(Debug)]
struct Piece {
    site: Site,
    shape: Vec<usize>,
    part: Part,
}

struct Names<'a> {
    layout: UNetNames,
    vae: VaeNames,
    towers: &'a [TowerLocation],
}

impl Names<'_> {
    /// Name and part of the tensor that holds a weight.
    fn of(&self, site: &Site, shape: &[usize]) -> Option<(String, Part)> {
        let (component, name) = (site.component(), site.path());
        let whole = |prefix: &str, name: String| Some((format!("{prefix}{name}"), Part::Whole));
        match component {
            Component::UNet => whole(prefix::UNET, self.layout.to_ldm(name)?),
            Component::Vae => whole(prefix::VAE, self.vae.to_ldm(name)?),
            _ => {
                let tower = self.towers.iter().find(|tower| tower.component == component)?;
                if !tower.open_clip {
                    return whole(tower.prefix, name.to_owned());
                }
                let width = shape.first().copied().unwrap_or(0);
                let (name, part) = open_clip_name(name, width)?;
                Some((format!("{}{name}", tower.prefix), part))
            }
        }
    }
}

/// The tensor `name` made of its pieces.
fn entry<'a>(
    source: &'a dyn WeightSource,
    name: &str,
    mut pieces: Vec<Piece>,
    precision: FileDtype,
) -> Result<Entry<'a>> {
    pieces.sort_by_key(|piece| match piece.part {
        Part::Rows { start, .. } => start,
        _ => 0,
    });
    let mut shape = pieces.first().map(|piece| piece.shape.clone()).unwrap_or_default();
    let fused = pieces.iter().any(|piece| matches!(piece.part, Part::Rows { .. }));
    if fused != (pieces.len() > 1) || fused && pieces.len() != 3 {
        let why = format!("`{name}` would be made of {} weights", pieces.len());
        return Err(Error::unsupported(why, Hint::WriteLora));
    }
    if let (true, Some(rows)) = (fused, shape.first_mut()) {
        *rows *= pieces.len();
    }
    let transposed = pieces.iter().any(|piece| piece.part == Part::Transposed);
    if transposed {
        shape.reverse();
    }
    // The original autoencoder has 1×1 convolutions where diffusers has linear layers.
    if name.contains("mid.attn_1.") && shape.len() == 2 {
        shape.extend([1, 1]);
    }
    Ok(Entry::lazy(shape, precision, move || {
        let mut all = Vec::new();
        for piece in &pieces {
            let values = source.get_f32(&piece.site, &piece.shape)?;
            let rows = piece.shape.first().copied().unwrap_or(1);
            all.extend(if transposed {
                crate::lora::delta::transposed(&values, rows)
            } else {
                values
            });
        }
        Ok(all)
    }))
}
