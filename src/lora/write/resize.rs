//! A LoRA of lower rank, by the singular values of what it changes.

use super::conversion::{kind, words};
use super::file::{Entry, FileDtype, check_free, passed_on, save};
use super::made::{Kept, Made, Squares, Tally, shared};
use crate::cancel::Cancel;
use crate::error::{Error, Result};
use crate::hint::Hint;
use crate::lora::apply::spectrum::Spectrum;
use crate::lora::delta::{Delta, Matrices};
use crate::lora::read::module::{BiasChange, Module};
use crate::lora::{Dictionary, Lora};
use rayon::prelude::*;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::Path;

/// How a LoRA is made smaller.
#[derive(Debug, Clone)]
pub struct ResizeOptions {
    /// Largest rank.
    pub rank: Option<usize>,
    /// Share of the squares of all elements that has to stay, 0 to 1: each module gets the rank that it
    /// needs.
    pub energy: Option<f64>,
    /// Float type to write; `None` for the file's own.
    pub precision: Option<FileDtype>,
    /// Whether a file may be replaced.
    pub force: bool,
    /// Stops the work between two tensors.
    pub cancel: Cancel,
}

/// The result for one module.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ResizedModule {
    /// Canonical name.
    pub module: String,
    /// Rank before.
    pub old: usize,
    /// Rank now.
    pub new: usize,
    /// Share of the squares that stayed.
    pub energy: f64,
}

/// The result of a resize.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Resized {
    /// Every module with factors.
    pub modules: Vec<ResizedModule>,
    /// The ranks and kept shares of each component.
    pub components: Vec<Kept>,
}

/// Writes `lora` with lower ranks, in kohya's grammar.
///
/// # Errors
/// [`Error::BadRequest`] for ranks and shares out of range; [`Error::Unsupported`] for other kinds
/// than LoRA and LoCon, naming them; [`Error::Exists`]; what reading and writing give.
pub fn resize(
    lora: &Lora,
    names: &Dictionary,
    out: &Path,
    options: &ResizeOptions,
) -> Result<Resized> {
    check(options)?;
    check_free(out, options.force)?;
    let changes: Vec<(&str, &[Module])> =
        lora.modules.iter().map(|(module, changes)| (module.as_str(), &changes[..])).collect();
    let made: Vec<(Made, Option<ResizedModule>, f64)> = changes
        .par_iter()
        .map(|(module, changes)| {
            options.cancel.check()?;
            one(module, changes, options)
        })
        .collect::<Result<_>>()?;
    let precision = options.precision.unwrap_or_else(|| own_precision(lora));
    let inversions = lora.inversions().iter().map(AsRef::as_ref);
    let mut tensors: BTreeMap<String, Entry<'_>> =
        words(inversions, options.precision).into_iter().collect();
    let (mut tally, mut modules, mut ranks) = (Tally::default(), Vec::new(), Vec::new());
    for ((module, _), (made, row, energy)) in changes.iter().zip(made) {
        made.write(module, names, precision, &mut tensors)?;
        if let Some(row) = row {
            let squares = Squares { held: row.energy * energy, all: energy };
            tally.add(module, row.new, squares);
            ranks.push(row.new);
            modules.push(row);
        }
    }
    let metadata = shared(&[lora.file.metadata()], &ranks);
    save(out, &tensors, &passed_on(&metadata, "resize"), options.force, &options.cancel)?;
    Ok(Resized { modules, components: tally.finish() })
}

fn check(options: &ResizeOptions) -> Result<()> {
    match (options.rank, options.energy) {
        (None, None) => {
            let why = "expected a rank or a share of the energy";
            let hint = Hint::Choose(&["rank", "energy"]);
            Err(Error::bad_request("rank", "none", why).with_hint(hint))
        }
        (Some(0), _) => Err(Error::bad_request("rank", 0, "expected at least 1")),
        (_, Some(share)) if !(share > 0.0 && share <= 1.0) => {
            Err(Error::bad_request("energy", share, "expected more than 0, at most 1, e.g. 0.95"))
        }
        _ => Ok(()),
    }
}

/// The widest of the float types of the factors.
fn own_precision(lora: &Lora) -> FileDtype {
    let factors = lora.modules.values().flatten().flat_map(Module::factors);
    let mut found = factors.map(|factor| factor.stored().and_then(FileDtype::of));
    let Some(Some(first)) = found.next() else { return FileDtype::F32 };
    if found.all(|other| other == Some(first)) { first } else { FileDtype::F32 }
}

/// The new change of one module, its line in the report, and the squares of the old change.
fn one(
    module: &str,
    changes: &[Module],
    options: &ResizeOptions,
) -> Result<(Made, Option<ResizedModule>, f64)> {
    let (mut made, mut row, mut energy) = (Made::default(), None, 0.0);
    for change in changes {
        if let Some(BiasChange::Add { values, scale }) = &change.bias {
            made.bias = Some(values.read()?.into_iter().map(|v| v * scale).collect());
            continue;
        }
        let refuse = |kind: &str| {
            Err(Error::unsupported(format!("`{module}`: resizing a {kind}"), Hint::MakeLora))
        };
        if let Some(BiasChange::Set(_)) = &change.bias {
            return refuse("whole bias");
        }
        let Some(weight) = &change.weight else { continue };
        match (&weight.delta, &weight.dora) {
            (_, Some(_)) => return refuse("DoRA"),
            (Delta::Full(factor), _) => {
                made.full = Some(factor.read()?.into_iter().map(|v| v * weight.scale).collect());
            }
            (Delta::LowRank(low), _) => {
                let Some(Matrices { up, mut down, rank }) = low.matrices()? else {
                    return refuse(kind(weight));
                };
                super::scale(&mut down, weight.scale);
                let spectrum = Spectrum::of_product(&up, &down, rank)?;
                let new = new_rank(&spectrum, options);
                energy = spectrum.energy();
                let share = if energy > 0.0 { spectrum.held(new) / energy } else { 1.0 };
                row = Some(ResizedModule {
                    module: module.to_owned(),
                    old: rank,
                    new,
                    energy: share,
                });
                made.low = Some(spectrum.factors(new, None));
            }
            _ => return refuse(kind(weight)),
        }
    }
    Ok((made, row, energy))
}

fn new_rank(spectrum: &Spectrum, options: &ResizeOptions) -> usize {
    let needed = options.energy.map_or(spectrum.len(), |share| spectrum.rank_of(share));
    needed.min(options.rank.unwrap_or(usize::MAX)).clamp(1, spectrum.len().max(1))
}
