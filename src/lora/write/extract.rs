//! A LoRA out of the difference of two models.

use super::file::{FileDtype, Metadata, check_free, passed_on, save};
use super::made::{Kept, Made, Squares, Tally, describe};
use crate::cancel::Cancel;
use crate::error::{Error, Result};
use crate::lora::Dictionary;
use crate::lora::apply::spectrum::Spectrum;
use crate::weights::{Component, Site, WeightSource};
use rayon::prelude::*;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How a difference becomes factors.
#[derive(Debug, Clone)]
pub struct ExtractOptions {
    /// Rank for linear layers and 1×1 convolutions.
    pub rank: usize,
    /// Rank for larger convolutions; 0 leaves them out.
    pub conv_rank: usize,
    /// Modules of which no element differs by more than this are left out.
    pub threshold: f32,
    /// Whether differences of norms and biases are written too, whole.
    pub full_norms: bool,
    /// Float type to write.
    pub precision: FileDtype,
    /// Whether a file may be replaced.
    pub force: bool,
    /// Stops the work between two tensors.
    pub cancel: Cancel,
}

/// The result of an extraction.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Extracted {
    /// How much of the changes the factors hold, by component.
    pub components: Vec<Kept>,
    /// Modules that do not differ, or by no more than the threshold.
    pub equal: usize,
    /// Norms and biases that differ and were written whole.
    pub whole: usize,
    /// Tensors that differ and are not in the file: norms and biases without `full_norms`, tables of
    /// words, convolutions at `conv_rank` 0.
    pub left_out: Vec<String>,
}

/// Told how many modules of how many are done; an error stops the work.
pub type Tell<'a> = &'a (dyn Fn(usize, usize) -> Result<()> + Sync);

/// The difference of one module.
#[derive(Debug, Default)]
struct Difference {
    made: Made,
    held: f64,
    energy: f64,
    left_out: Vec<String>,
    equal: bool,
}

/// Writes `tuned` − `base` of the UNet and the text encoders as a LoRA in kohya's grammar.
///
/// # Errors
/// [`Error::TensorMissing`] and [`Error::ShapeMismatch`] for models of different make;
/// [`Error::BadRequest`] when they do not differ; [`Error::Exists`]; what reading and writing give.
pub fn extract(
    base: &dyn WeightSource,
    tuned: &dyn WeightSource,
    names: &Dictionary,
    out: &Path,
    options: &ExtractOptions,
    tell: Tell<'_>,
) -> Result<Extracted> {
    if options.rank == 0 {
        return Err(Error::bad_request("rank", 0, "expected at least 1"));
    }
    let threshold = options.threshold;
    if !(threshold >= 0.0 && threshold.is_finite()) {
        return Err(Error::bad_request("threshold", threshold, "expected 0 or more"));
    }
    check_free(out, options.force)?;
    let (modules, done) = (names.modules(), AtomicUsize::new(0));
    let differences: Vec<Difference> = modules
        .par_iter()
        .map(|module| {
            options.cancel.check()?;
            let difference = one(base, tuned, module, options);
            tell(done.fetch_add(1, Ordering::Relaxed) + 1, modules.len())?;
            difference
        })
        .collect::<Result<_>>()?;
    let (mut tensors, mut tally, mut ranks) = (BTreeMap::new(), Tally::default(), Vec::new());
    let mut extracted = Extracted::default();
    for (module, difference) in modules.iter().zip(differences) {
        let Difference { made, held, energy, left_out, equal } = difference;
        made.write(module, names, options.precision, &mut tensors)?;
        if let Some(low) = &made.low {
            tally.add(module, low.rank, Squares { held, all: energy });
            ranks.push(low.rank);
        }
        extracted.whole += usize::from(made.full.is_some()) + usize::from(made.bias.is_some());
        extracted.equal += usize::from(equal);
        extracted.left_out.extend(left_out);
    }
    extracted.components = tally.finish();
    if tensors.is_empty() {
        let why = "the models do not differ in anything that a LoRA can hold";
        return Err(Error::bad_request("tuned", "this model", why));
    }
    let mut metadata = describe(&ranks);
    metadata.extend(family(names));
    save(out, &tensors, &passed_on(&metadata, "extract"), options.force, &options.cancel)?;
    Ok(extracted)
}

fn one(
    base: &dyn WeightSource,
    tuned: &dyn WeightSource,
    module: &str,
    options: &ExtractOptions,
) -> Result<Difference> {
    let mut out = Difference::default();
    let site = Site::new(format!("{module}.weight"));
    let shape = base.shape(&site).unwrap_or_default();
    let weight = difference(base, tuned, &site, &shape, options.threshold)?;
    let site = Site::new(format!("{module}.bias"));
    let bias = match base.shape(&site) {
        Some(shape) => difference(base, tuned, &site, &shape, options.threshold)?,
        None => None,
    };
    out.equal = weight.is_none() && bias.is_none();
    let table = module.contains("embedding") && Component::of(module).is_text();
    let conv = shape.iter().skip(2).product::<usize>() > 1;
    let rank = if conv { options.conv_rank } else { options.rank };
    match weight {
        Some(weight) if shape.len() >= 2 && !table && rank > 0 => {
            let spectrum = Spectrum::of_matrix(&weight, shape[0], rank)?;
            (out.held, out.energy) = (spectrum.held(rank), spectrum.energy());
            out.made.low = Some(spectrum.factors(rank, None));
        }
        Some(weight) if shape.len() == 1 && options.full_norms => out.made.full = Some(weight),
        Some(_) => out.left_out.push(format!("{module}.weight")),
        None => {}
    }
    match bias {
        Some(bias) if options.full_norms => out.made.bias = Some(bias),
        Some(_) => out.left_out.push(format!("{module}.bias")),
        None => {}
    }
    Ok(out)
}

/// tuned − base; `None` when no element differs by more than `threshold`.
fn difference(
    base: &dyn WeightSource,
    tuned: &dyn WeightSource,
    site: &Site,
    shape: &[usize],
    threshold: f32,
) -> Result<Option<Vec<f32>>> {
    let (before, mut after) = (base.get_f32(site, shape)?, tuned.get_f32(site, shape)?);
    after.iter_mut().zip(&before).for_each(|(a, b)| *a -= b);
    if after.iter().any(|v| !v.is_finite()) {
        let why = format!("`{site}` of the tuned or the base model is not finite");
        return Err(Error::corrupt(site.as_str(), why));
    }
    let largest = after.iter().fold(0.0f32, |max, v| max.max(v.abs()));
    Ok((largest > threshold).then_some(after))
}

/// The metadata entry from which other tools read the family; nothing for a model of unusual width.
fn family(names: &Dictionary) -> Metadata {
    let version = match (names.has_component(Component::TextEncoder2), names.context()) {
        (true, _) => "sdxl_base_v1-0",
        (_, Some(768)) => "sd_v1",
        (_, Some(1024)) => "sd_v2",
        _ => return Metadata::new(),
    };
    Metadata::from([("ss_base_model_version".to_owned(), version.to_owned())])
}
