//! Several adapters as one LoRA.
//!
//! # Source
//! `cat`, `linear` and `svd` are PEFT 0.21's `add_weighted_adapter`; with another mix than the sum `svd`
//! is its `ties_svd`, `dare_linear_svd` and so on.

use super::conversion::{kind, words};
use super::file::{Entry, FileDtype, Metadata, check_free, passed_on, save};
use super::made::{Kept, Made, Squares, Tally, shared};
use crate::cancel::Cancel;
use crate::error::{Error, Result};
use crate::hint::Hint;
use crate::lora::apply::merge::{self, Active};
use crate::lora::apply::spectrum::{LowRankFactors, Spectrum};
use crate::lora::delta::{Delta, Matrices};
use crate::lora::read::module::WeightChange;
use crate::lora::{Dictionary, LoraStack, Method};
use crate::weights::{Site, WeightSource};
use rayon::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// How factors become one pair.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Law {
    /// Side by side: exact, ranks add up.
    Cat,
    /// Added factor by factor, of equal ranks: small and quick, with cross terms (PEFT's `linear`).
    Linear,
    /// The best factors of a rank for what `mix` makes of the changes.
    Svd {
        /// Rank; `None` for the largest of the adapters'.
        rank: Option<usize>,
        /// Quantile of the elements at which larger ones are cut off.
        clamp: Option<f32>,
        /// How changes are put together; methods that keep adapters apart are refused.
        mix: Method,
    },
}

/// How a merge is written.
#[derive(Debug, Clone)]
pub struct MergeOptions {
    /// How factors become one pair.
    pub law: Law,
    /// Float type to write.
    pub precision: FileDtype,
    /// Whether a file may be replaced.
    pub force: bool,
    /// Stops the work between two tensors.
    pub cancel: Cancel,
}

/// How much of the changes the new file holds, by component.
pub type Merged = Vec<Kept>;

/// One module: its changes by all adapters.
type Job<'a> = (&'a str, Vec<Active<'a>>);

/// Writes the adapters of `stack`, at their strengths, as one LoRA in kohya's grammar.
///
/// The method of the stack itself is not looked at. New words come along; see [`LoraStack::words`].
///
/// # Errors
/// [`Error::Unsupported`] for kinds that the law cannot take, naming them; [`Error::BadRequest`] for
/// adapters that work at some steps only; [`Error::Exists`]; what reading and writing give.
pub fn merge(
    base: &dyn WeightSource,
    names: &Dictionary,
    stack: &LoraStack,
    out: &Path,
    options: &MergeOptions,
) -> Result<Merged> {
    check_free(out, options.force)?;
    check(stack, options.law)?;
    let jobs = jobs(names, stack)?;
    let law = options.law;
    let made: Vec<(Made, f64, f64)> = jobs
        .par_iter()
        .map(|job| options.cancel.check().and_then(|()| one(base, job, law)))
        .collect::<Result<_>>()?;
    let (mut tally, mut ranks) = (Tally::default(), Vec::new());
    let mut tensors: BTreeMap<String, Entry<'_>> =
        words(stack.words().used, Some(options.precision)).into_iter().collect();
    for ((module, _), (made, held, energy)) in jobs.iter().zip(&made) {
        made.write(module, names, options.precision, &mut tensors)?;
        if let Some(low) = &made.low {
            tally.add(module, low.rank, Squares { held: *held, all: *energy });
            ranks.push(low.rank);
        }
    }
    save(out, &tensors, &notes(stack, &ranks), options.force, &options.cancel)?;
    Ok(tally.finish())
}

fn check(stack: &LoraStack, law: Law) -> Result<()> {
    if stack.is_empty() {
        return Err(Error::bad_request("lora", "", "expected at least one"));
    }
    if stack.entries.iter().any(|entry| entry.strength.steps.is_some()) {
        let why = "a merged file works at all steps; leave the window out";
        return Err(Error::bad_request("steps", "a window", why));
    }
    match law {
        Law::Svd { mix, .. } if mix.is_apart() => {
            let why = "these methods keep adapters apart; expected svd, ties, dare or dare-ties";
            Err(Error::bad_request("lora_method", mix.name(), why))
        }
        Law::Svd { clamp: Some(share), .. } if !(share > 0.5 && share <= 1.0) => {
            Err(Error::bad_request("clamp", share, "expected more than 0.5, at most 1, e.g. 0.99"))
        }
        Law::Svd { rank: Some(0), .. } => Err(Error::bad_request("rank", 0, "expected at least 1")),
        _ => Ok(()),
    }
}

/// Every module that the stack touches with a multiplier other than 0, adapters in their order.
fn jobs<'a>(names: &Dictionary, stack: &'a LoraStack) -> Result<Vec<Job<'a>>> {
    let multipliers = stack.multipliers(names)?;
    let mut jobs: BTreeMap<&str, Vec<Active<'a>>> = BTreeMap::new();
    let order = stack.by_content();
    for (i, (entry, multiplier)) in stack.entries.iter().zip(&multipliers).enumerate() {
        let adapter = order.iter().position(|place| *place == i).unwrap_or(i);
        for (module, changes) in &entry.lora.modules {
            let m = multiplier.of(module);
            if m != 0.0 {
                let active = changes.iter().map(|module| Active { module, m, adapter });
                jobs.entry(module).or_default().extend(active);
            }
        }
    }
    if jobs.is_empty() {
        let names: Vec<String> = stack.entries.iter().map(|entry| entry.lora.name()).collect();
        let why = "nothing is changed at these weights; expected one that is not 0";
        return Err(Error::bad_request("lora", names.join(", "), why));
    }
    Ok(jobs.into_iter().collect())
}

/// The new change of one module, the squares that its factors hold, and those of the change.
fn one(base: &dyn WeightSource, (module, active): &Job<'_>, law: Law) -> Result<(Made, f64, f64)> {
    let site = Site::new(format!("{module}.weight"));
    let shape = base.shape(&site).unwrap_or_default();
    let changes: Vec<(Active<'_>, &WeightChange)> =
        active.iter().filter_map(|a| Some((*a, a.module.weight.as_ref()?))).collect();
    let job = Weight { base, site: &site, shape: &shape, changes };
    let mut made = Made { bias: bias(base, module, active)?, ..Made::default() };
    let (mut held, mut energy) = (0.0, 0.0);
    if job.changes.is_empty() {
        return Ok((made, held, energy));
    }
    match law {
        Law::Svd { mix, .. } if shape.len() < 2 => made.full = Some(job.mixed(mix)?),
        _ if shape.len() < 2 => made.full = Some(job.mixed(Method::Sum)?),
        Law::Cat => job.cat(&mut made)?,
        Law::Linear => made.low = Some(job.linear()?),
        Law::Svd { rank, clamp, mix } => {
            let rank = rank.unwrap_or_else(|| job.largest_rank());
            let spectrum = job.spectrum(rank, mix)?;
            (held, energy) = (spectrum.held(rank), spectrum.energy());
            made.low = Some(spectrum.factors(rank, clamp));
        }
    }
    Ok((made, held, energy))
}

/// The changes of one weight.
struct Weight<'a> {
    base: &'a dyn WeightSource,
    site: &'a Site,
    shape: &'a [usize],
    changes: Vec<(Active<'a>, &'a WeightChange)>,
}

impl Weight<'_> {
    /// Plain factors of a change, with all scales in `down`; `None` for kinds without.
    fn factors(active: &Active<'_>, change: &WeightChange) -> Result<Option<LowRankFactors>> {
        let Delta::LowRank(low) = &change.delta else { return Ok(None) };
        if change.dora.is_some() {
            return Ok(None);
        }
        let amount = active.m * change.scale;
        Ok(low.matrices()?.map(|Matrices { up, mut down, rank }| {
            super::scale(&mut down, amount);
            LowRankFactors { up, down, rank }
        }))
    }

    fn refuse(&self, change: &WeightChange, law: &str) -> Error {
        let kind = if change.dora.is_some() { "DoRA" } else { kind(change) };
        Error::unsupported(
            format!("`{}`: a {kind} in a merge by {law}", self.site),
            Hint::set_because("law", "svd", "it takes every kind"),
        )
    }

    /// Factors side by side; whole differences are added.
    fn cat(&self, made: &mut Made) -> Result<()> {
        let mut parts = Vec::new();
        for (active, change) in &self.changes {
            match (Self::factors(active, change)?, &change.delta) {
                (Some(factors), _) => parts.push(factors),
                (None, Delta::Full(_)) if change.dora.is_none() => {
                    let size = self.shape.iter().product();
                    let full = made.full.get_or_insert_with(|| vec![0.0; size]);
                    change.delta.add_to(full, self.shape, active.m * change.scale)?;
                }
                _ => return Err(self.refuse(change, "cat")),
            }
        }
        made.low = (!parts.is_empty()).then(|| stack(&parts));
        Ok(())
    }

    /// PEFT's sums of factors: √|σ| on both, the sign on `down`.
    fn linear(&self) -> Result<LowRankFactors> {
        let mut sum: Option<LowRankFactors> = None;
        for (active, change) in &self.changes {
            let plain = Active { m: 1.0, ..*active };
            let unscaled = WeightChange { scale: 1.0, ..(*change).clone() };
            let Some(mut factors) = Self::factors(&plain, &unscaled)? else {
                return Err(self.refuse(change, "linear"));
            };
            let amount = active.m * change.scale;
            let root = amount.abs().sqrt();
            super::scale(&mut factors.up, root);
            super::scale(&mut factors.down, amount.signum() * root);
            match &mut sum {
                None => sum = Some(factors),
                Some(sum) if sum.rank == factors.rank => {
                    crate::lora::delta::add(&mut sum.up, &factors.up, 1.0);
                    crate::lora::delta::add(&mut sum.down, &factors.down, 1.0);
                }
                Some(sum) => {
                    let why = format!(
                        "`{}` has ranks {} and {}; linear needs equal ones, choose cat or svd",
                        self.site, sum.rank, factors.rank
                    );
                    return Err(Error::bad_request("lora_method", "linear", why));
                }
            }
        }
        sum.ok_or_else(|| Error::Internal(format!("no change of {}", self.site)))
    }

    fn largest_rank(&self) -> usize {
        let smaller = self.shape[0].min(self.shape[1..].iter().product());
        let ranks = self.changes.iter().map(|(_, change)| change.delta.rank().unwrap_or(smaller));
        ranks.max().unwrap_or(1).clamp(1, smaller.max(1))
    }

    fn spectrum(&self, rank: usize, mix: Method) -> Result<Spectrum> {
        let parts = self.changes.iter().map(|(active, change)| Self::factors(active, change));
        let parts: Option<Vec<LowRankFactors>> = parts.collect::<Result<_>>()?;
        match (mix, parts) {
            (Method::Sum, Some(parts)) => {
                let LowRankFactors { up, down, rank } = stack(&parts);
                Spectrum::of_product(&up, &down, rank)
            }
            _ => Spectrum::of_matrix(&self.mixed(mix)?, self.shape[0], rank),
        }
    }

    /// The whole change by all adapters.
    fn mixed(&self, mix: Method) -> Result<Vec<f32>> {
        let pristine = self.base.get_f32(self.site, self.shape)?;
        let after = match mix {
            Method::Sum | Method::Sequential => {
                let active: Vec<Active<'_>> = self.changes.iter().map(|(a, _)| *a).collect();
                let site = self.site.as_str();
                let mut after = merge::weight(site, pristine.clone(), self.shape, &active, &mix)?;
                after.iter_mut().zip(&pristine).for_each(|(after, before)| *after -= before);
                after
            }
            _ => merge::mixed(self.site.as_str(), &pristine, self.shape, &self.changes, &mix)?,
        };
        Ok(after)
    }
}

/// Factors side by side: one pair whose product is the sum of all products.
fn stack(parts: &[LowRankFactors]) -> LowRankFactors {
    let rank = parts.iter().map(|part| part.rank).sum();
    let rows = parts.first().map_or(0, |part| part.up.len().checked_div(part.rank).unwrap_or(0));
    let mut up = Vec::with_capacity(rows * rank);
    for row in 0..rows {
        for part in parts {
            up.extend_from_slice(&part.up[row * part.rank..(row + 1) * part.rank]);
        }
    }
    LowRankFactors {
        up,
        down: parts.iter().flat_map(|part| part.down.iter().copied()).collect(),
        rank,
    }
}

/// The sum of the changes of the module's bias.
fn bias(base: &dyn WeightSource, module: &str, active: &[Active<'_>]) -> Result<Option<Vec<f32>>> {
    let biases: Vec<_> =
        active.iter().filter_map(|a| Some((a.m, a.module.bias.as_ref()?))).collect();
    if biases.is_empty() {
        return Ok(None);
    }
    let site = Site::new(format!("{module}.bias"));
    let outputs =
        || base.shape(&Site::new(format!("{module}.weight"))).unwrap_or_default()[..1].to_vec();
    let pristine = match base.shape(&site) {
        Some(shape) => base.get_f32(&site, &shape)?,
        None => vec![0.0; outputs().iter().product()],
    };
    let mut change = vec![0.0; pristine.len()];
    for (m, bias) in biases {
        bias.add_to(&pristine, m, &mut change)?;
    }
    Ok(Some(change))
}

/// The metadata that all sources share, and the names of the sources.
fn notes(stack: &LoraStack, ranks: &[usize]) -> Metadata {
    let sources: Vec<&Metadata> =
        stack.entries.iter().map(|entry| entry.lora.file.metadata()).collect();
    let names: BTreeSet<String> = stack
        .entries
        .iter()
        .map(|entry| format!("{}:{}", entry.lora.name(), entry.strength))
        .collect();
    let names: Vec<String> = names.into_iter().collect();
    passed_on(&shared(&sources, ranks), &format!("merge {}", names.join(" + ")))
}
