//! A model as one file with a quantised UNet: see the layout in `weights::quantised`.

use super::{Family, ModelParts, TOKENIZER_FILES, TokenizerSource};
use crate::cancel::Cancel;
use crate::error::{Error, Result};
use crate::input;
use crate::kernels::GROUP;
use crate::lora::write::{Entry, FileDtype, Metadata, check_free, save};
use crate::weights::blocked;
use crate::weights::quantised::{self, Row, is_quantisable};
use crate::weights::{Quantisation, Site, WeightSource};
use safetensors::Dtype;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::Path;

/// Longest file of a vocabulary that is read, in bytes.
const MAX_VOCABULARY: u64 = 64 << 20;

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Converted {
    /// Weights in blocks.
    pub quantised: usize,
    /// Other tensors.
    pub plain: usize,
    /// Bytes of the file.
    pub bytes: u64,
}

/// Writes the model `parts` to `out`: the UNet's matrices and kernels in blocks of `kind`, the rest as
/// f16 (f32 where numbers are beyond f16), its settings and vocabularies in the header.
///
/// # Errors
/// [`Error::Exists`] without `force`; [`Error::Cancelled`] when `cancel` was set; [`Error::Corrupt`] for weights that are not finite; what reading
/// and writing give.
pub fn quantise(
    parts: &ModelParts,
    kind: Quantisation,
    out: &Path,
    force: bool,
    cancel: &Cancel,
) -> Result<Converted> {
    check_free(out, force)?;
    let source = &*parts.source;
    let sites: Vec<(Site, Vec<usize>)> = source
        .sites()
        .into_iter()
        .filter_map(|site| source.shape(&site).map(|shape| (site, shape)))
        .collect();
    let mut tensors = BTreeMap::new();
    let mut table = BTreeMap::new();
    for (site, shape) in &sites {
        cancel.check()?;
        let entry = if is_quantisable(site, shape) {
            let row = Row { kind: kind.name().to_owned(), shape: shape.clone() };
            table.insert(site.to_string(), row);
            let blocks = shape.iter().product::<usize>() / GROUP;
            let stored = vec![blocks, kind.block_bytes()];
            Entry::bytes(stored, Dtype::U8, || blocks_of(source, site, shape, kind))
        } else {
            let values = source.get_f32(site, shape)?;
            source.forget(site);
            let large = values.iter().any(|v| v.is_finite() && v.abs() > f32::from(half::f16::MAX));
            let precision = if large { FileDtype::F32 } else { FileDtype::F16 };
            Entry::lazy(shape.clone(), precision, || source.get_f32(site, shape))
        };
        tensors.insert(site.to_string(), entry);
    }
    let json = |what: serde_json::Result<String>| {
        what.map_err(|e| Error::Internal(format!("a header as JSON: {e}")))
    };
    let note = |key: &str, value: String| (key.to_owned(), value);
    let metadata = Metadata::from([
        note(quantised::FORMAT, quantised::QUANTISED.into()),
        note(quantised::VERSION, quantised::CURRENT.into()),
        note(quantised::BLOCKS, json(serde_json::to_string(&table))?),
        note(quantised::FILES, json(serde_json::to_string(&files(parts)?))?),
        note("colora.operation", format!("quantize {} to {kind}", parts.name)),
        note("colora.version", env!("CARGO_PKG_VERSION").into()),
    ]);
    let bytes = save(out, &tensors, &metadata, force, cancel)?;
    Ok(Converted { quantised: table.len(), plain: tensors.len() - table.len(), bytes })
}

/// The blocks of a weight, output by output, tap by tap.
fn blocks_of(
    source: &dyn WeightSource,
    site: &Site,
    shape: &[usize],
    kind: Quantisation,
) -> Result<Vec<u8>> {
    let values = source.get_f32(site, shape)?;
    source.forget(site);
    if let Some(at) = values.iter().position(|v| !v.is_finite()) {
        let why = format!("element {at} is {}, expected a finite number", values[at]);
        return Err(Error::corrupt(site.as_str(), why));
    }
    Ok(blocked::blocks_of(kind, shape, &values))
}

/// The settings of a model as files of the diffusers layout.
fn files(parts: &ModelParts) -> Result<BTreeMap<String, String>> {
    fn json(value: &impl Serialize) -> Result<String> {
        serde_json::to_string(value).map_err(|e| Error::Internal(format!("a config as JSON: {e}")))
    }
    let class = match parts.family {
        Family::Sd1 | Family::Sd2 => "StableDiffusionPipeline",
        Family::Sdxl | Family::SdxlRefiner => "StableDiffusionXLPipeline",
    };
    let mut index = serde_json::json!({
        "_class_name": class,
        "force_zeros_for_empty_prompt": parts.force_zeros_for_empty_prompt,
        "requires_aesthetics_score": parts.requires_aesthetics_score,
    });
    if parts.distilled.is_some() {
        // How to use it may be in its name alone.
        index["_name_or_path"] = parts.name.clone().into();
    }
    let defaults = parts.defaults;
    let mut recommended = toml::Table::new();
    recommended.insert("default_size".into(), defaults.size.to_string().into());
    recommended.insert("default_steps".into(), (defaults.steps as i64).into());
    recommended.insert("default_guidance".into(), defaults.guidance_scale.into());
    recommended.insert("default_sampler".into(), defaults.sampler.to_string().into());
    recommended.insert("default_schedule".into(), defaults.schedule.to_string().into());
    let mut files = BTreeMap::from([
        ("model_index.json".to_owned(), index.to_string()),
        ("colora.toml".to_owned(), recommended.to_string()),
        ("unet/config.json".to_owned(), json(&parts.unet)?),
        ("vae/config.json".to_owned(), json(&parts.vae)?),
        ("scheduler/scheduler_config.json".to_owned(), json(&parts.scheduler)?),
    ]);
    let towers = parts.text_components().iter().zip(&parts.text).zip(&parts.tokenizers);
    for ((tower, config), tokenizer) in towers {
        files.insert(format!("{tower}/config.json"), json(config)?);
        let folder = tower.replace("text_encoder", "tokenizer");
        for (name, text) in vocabulary(tokenizer)? {
            files.insert(format!("{folder}/{name}"), text);
        }
    }
    Ok(files)
}

/// The files of a tokenizer; none for CLIP's own, which is in the program.
fn vocabulary(source: &TokenizerSource) -> Result<Vec<(String, String)>> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    match source {
        TokenizerSource::Clip(_) => Ok(Vec::new()),
        TokenizerSource::Held { files, .. } => Ok(files.clone()),
        TokenizerSource::Static { files, .. } => {
            Ok(files.iter().map(|(name, bytes)| ((*name).to_owned(), text(bytes))).collect())
        }
        TokenizerSource::Folder(folder) => {
            // Reading them returns the precise error.
            source.open()?;
            let mut files = Vec::new();
            for name in TOKENIZER_FILES {
                let path = folder.join(name);
                if let Some(bytes) = input::bytes_if_there(&path, MAX_VOCABULARY, "a vocabulary")? {
                    files.push((name.to_owned(), text(&bytes)));
                }
            }
            Ok(files)
        }
    }
}
