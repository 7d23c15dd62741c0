//! The layout of colora's own quantised files.
//!
//! # The own layout
//! A safetensors file with this metadata (all values are text, as the format wants):
//!
//! | key | value |
//! |---|---|
//! | `colora.format` | `quantised` |
//! | `colora.format_version` | `1`; others are refused |
//! | `colora.blocks` | JSON: for the name of every tensor in blocks `{"type": "q8_0", "shape": [..]}` |
//! | `colora.files` | JSON: path to text of each file of the diffusers layout without weights |
//!
//! Tensors bear canonical names ([`Site`]). One in blocks is stored as U8 `[blocks, bytes of a block]`;
//! a block is 32 neighbouring inputs of one output, in ggml's form (`q8_0`: f16 scale, 32 × i8; `q4_0`:
//! f16 scale, 16 bytes, the byte i holding the numbers i and i + 16). Blocks follow each other output by
//! output, tap by tap, input by input: a kernel `[O, I, kh, kw]` is stored in the order O, kh, kw, I, which
//! is the order in which the CPU's products read it, so that packing takes the blocks as they are. All
//! other tensors are floats.

use super::block_type::Blocks;
use super::contents::{Contents, TensorInfo};
use super::{Component, Site};
use crate::error::{Error, Result};
use crate::kernels::{GROUP, Quantisation};
use safetensors::Dtype;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

/// Metadata key of colora's own format.
pub(crate) const FORMAT: &str = "colora.format";
/// Metadata key of its version.
pub(crate) const VERSION: &str = "colora.format_version";
/// Metadata key of the table of blocks.
pub(crate) const BLOCKS: &str = "colora.blocks";
/// Metadata key of the files of the diffusers layout.
pub(crate) const FILES: &str = "colora.files";
/// The format's name.
pub(crate) const QUANTISED: &str = "quantised";
/// The version that is written and read.
pub(crate) const CURRENT: &str = "1";

/// Whether `site` is a weight that quantised models keep in blocks: matrices and kernels of the UNet whose
/// inputs fill blocks, but for its first and last convolution, which are small and sensitive.
pub(crate) fn is_quantisable(site: &Site, shape: &[usize]) -> bool {
    let name = site.as_str();
    let edge = ["conv_in.", "conv_out."].iter().any(|edge| site.path().starts_with(edge));
    site.component() == Component::UNet
        && name.ends_with(".weight")
        && !edge
        && !name.contains("embedding.weight")
        && matches!(shape, [_, inputs] | [_, inputs, _, _] if *inputs > 0 && inputs % GROUP == 0)
}

/// A row of the table of blocks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Row {
    /// Name of the blocks' type.
    #[serde(rename = "type")]
    pub(crate) kind: String,
    /// Shape of the weight.
    pub(crate) shape: Vec<usize>,
}

/// Whether `metadata` is that of an own quantised file.
///
/// # Errors
/// [`Error::Unsupported`] for a format or version that this program does not support.
pub(crate) fn is_own(metadata: &BTreeMap<String, String>, path: &Path) -> Result<bool> {
    let Some(format) = metadata.get(FORMAT) else { return Ok(false) };
    let version = metadata.get(VERSION).map_or("none", String::as_str);
    if (format.as_str(), version) == (QUANTISED, CURRENT) {
        return Ok(true);
    }
    Err(Error::unsupported(
        format!("{}: the format `{format}`, version {version}", path.display()),
        format!("this colora reads `{QUANTISED}`, version {CURRENT}; take a newer one"),
    ))
}

/// Gives the tensors in blocks of an own file their real shapes.
pub(super) fn apply(contents: &mut Contents, path: &Path) -> Result<()> {
    if !is_own(&contents.metadata, path)? {
        return Ok(());
    }
    let table = contents.metadata.get(BLOCKS).map_or("{}", String::as_str);
    let table: BTreeMap<String, Row> = serde_json::from_str(table)
        .map_err(|e| Error::corrupt(path, format!("`{BLOCKS}` is not the expected JSON: {e}")))?;
    for (name, row) in table {
        let wrong = |why: &str| Error::corrupt(path, format!("`{name}` of `{BLOCKS}`: {why}"));
        let entry = contents.entries.get_mut(&name).ok_or_else(|| wrong("no such tensor"))?;
        let kind: Quantisation =
            row.kind.parse().map_err(|_| wrong("expected the type q8_0 or q4_0"))?;
        let elements = row.shape.iter().try_fold(1usize, |n, d| n.checked_mul(*d));
        let fits = matches!(row.shape[..], [_, inputs] | [_, inputs, _, _] if inputs % GROUP == 0);
        let blocks = elements.filter(|_| fits).map(|elements| elements / GROUP);
        let stored = [blocks.unwrap_or(0), kind.block_bytes()];
        if blocks.is_none() || entry.info.dtype != Dtype::U8 || entry.info.shape != stored {
            return Err(wrong(&format!(
                "the shape {:?} of {kind} does not go with {:?} of {}",
                row.shape, entry.info.shape, entry.info.dtype
            )));
        }
        let blocks = Blocks { kind: kind.into(), taps_first: true };
        entry.info = TensorInfo { dtype: Dtype::U8, shape: row.shape, blocks: Some(blocks) };
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_and_sensitive_weights_stay_plain() {
        let is = |name: &str, shape: &[usize]| is_quantisable(&Site::new(name), shape);
        assert!(is("unet.time_embedding.linear_1.weight", &[1280, 320]));
        assert!(is("unet.mid_block.resnets.0.conv1.weight", &[64, 64, 3, 3]));
        assert!(!is("unet.conv_out.weight", &[4, 320, 3, 3]));
        assert!(!is("unet.conv_in.weight", &[320, 32, 3, 3]));
        assert!(!is("unet.mid_block.resnets.0.norm1.weight", &[64]));
        assert!(!is("unet.mid_block.resnets.0.conv1.bias", &[64]));
        assert!(!is("unet.mid_block.resnets.0.conv1.weight", &[64, 48, 3, 3]));
        assert!(!is("vae.decoder.mid_block.resnets.0.conv1.weight", &[64, 64, 3, 3]));
        assert!(!is("text_encoder.text_model.encoder.layers.0.mlp.fc1.weight", &[64, 64]));
    }
}
