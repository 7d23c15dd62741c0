//! A base and a stack of adapters as one source of weights.

use crate::cancel::Cancel;
use crate::error::{Error, Result};
use crate::lora::Dictionary;
use crate::lora::LoraStack;
use crate::lora::Method;
use crate::lora::apply::merge::{self, Active, Summed};
use crate::lora::delta::Delta;
use crate::room;
use crate::weights::{
    Arrangement, Branch, Component, Packed, Placement, Precision, Products, Site, Weight,
    WeightSource, check_shape, numbers, pack_numbers,
};
use candle_core::{DType, Device, Tensor};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

/// How adapters reach the weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Apply {
    /// Merge, unless the stack varies by step.
    #[default]
    Auto,
    /// Added into the weights before sampling: no cost a step.
    Merge,
    /// Kept beside the weights as low-rank branches: nothing to prepare, some cost a step.
    Bypass,
}

impl std::fmt::Display for Apply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Apply::Auto => "auto",
            Apply::Merge => "merge",
            Apply::Bypass => "bypass",
        })
    }
}

impl std::str::FromStr for Apply {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "auto" => Ok(Apply::Auto),
            "merge" => Ok(Apply::Merge),
            "bypass" => Ok(Apply::Bypass),
            _ => Err(Error::bad_request("apply", text, "expected auto, merge or bypass")),
        }
    }
}

/// Adapters further from their weight than this are suspicious: usually a wrong alpha.
const HUGE: f64 = 10.0;
/// Of so many weights one is looked at for huge changes, if it is small: looking costs more than
/// merging.
const SAMPLED: usize = 16;
const SMALL: usize = 1 << 19;

/// A [`WeightSource`]: the base, with the weights that a stack changes in place of its own.
///
/// Composing never changes the base, so that several overlays can live over one base at once.
#[derive(Debug, Clone)]
pub struct Overlay {
    base: Arc<dyn WeightSource>,
    changed: BTreeMap<Site, Change>,
    warnings: Vec<String>,
}

/// What stands in place of a weight of the base, or beside it.
#[derive(Debug, Clone)]
enum Change {
    Merged(Tensor),
    /// Computed where it is read: layers that pack their weights hold no other copy of it.
    Summed {
        sum: Summed,
        /// Which changes of which files with which multipliers.
        variant: String,
    },
    Beside(Vec<Branch>),
}

/// All changes of one weight or bias.
struct Job<'a> {
    site: Site,
    /// Shape of the base's tensor; of a bias that has to be made, the outputs.
    shape: Vec<usize>,
    /// Whether the base has the site.
    exists: bool,
    active: Vec<Active<'a>>,
    /// Which change of which file each of them is.
    identities: Vec<String>,
}

impl Overlay {
    /// Prepares every weight that `stack` changes, in parallel, from the pristine base.
    ///
    /// Sums of low-rank changes are added while layers pack the weight; everything else, and everything
    /// for layers that do not pack, is computed here.
    ///
    /// `select`: whether the weights of a component are wanted. The whole stack is taken as it is:
    /// step windows and methods that keep adapters apart are the caller's business.
    ///
    /// # Errors
    /// [`Error::Corrupt`] for factors or products that are not finite;
    /// [`Error::BadRequest`] for block weights of another layout; what reading the base gives.
    pub fn compose(
        base: Arc<dyn WeightSource>,
        dictionary: &Dictionary,
        stack: &LoraStack,
        apply: Apply,
        select: impl Fn(Component) -> bool,
    ) -> Result<Self> {
        Self::compose_until(base, dictionary, stack, apply, select, &Cancel::new())
    }

    /// As [`compose`](Self::compose), until `cancel` is set: it is looked at between weights.
    ///
    /// # Errors
    /// [`Error::Cancelled`], and as [`compose`](Self::compose).
    pub fn compose_until(
        base: Arc<dyn WeightSource>,
        dictionary: &Dictionary,
        stack: &LoraStack,
        apply: Apply,
        select: impl Fn(Component) -> bool,
        cancel: &Cancel,
    ) -> Result<Self> {
        let jobs = jobs(&*base, dictionary, stack, select)?;
        let bypass = apply == Apply::Bypass && matches!(stack.method, Method::Sum);
        let done: Vec<Done> = jobs
            .par_iter()
            .enumerate()
            .map(|(i, job)| {
                cancel.check()?;
                job.run(&*base, &stack.method, bypass, i % SAMPLED == 0 && job.is_small())
            })
            .collect::<Result<_>>()?;
        let huge = done.iter().filter(|done| done.ratio > HUGE).count();
        let looked_at = done.iter().filter(|done| done.ratio > 0.0).count();
        let mut warnings = Vec::new();
        if huge * 4 > looked_at {
            warnings.push(format!(
                "the adapters change many weights by more than {HUGE} times their size; a weight or an alpha is probably wrong"
            ));
        }
        let changed = done.into_iter().map(|done| (done.site, done.change)).collect();
        Ok(Self { base, changed, warnings })
    }

    /// How many weights and biases differ from the base.
    pub fn changed(&self) -> usize {
        self.changed.len()
    }

    /// The sites that differ from the base.
    pub fn changed_sites(&self) -> impl Iterator<Item = &Site> {
        self.changed.keys()
    }

    /// Warnings for the user.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }
}

/// A computed weight.
struct Done {
    site: Site,
    change: Change,
    /// Size of the change beside the weight's; 0 where it was not measured.
    ratio: f64,
}

/// Every site that the stack touches with a multiplier other than 0, the largest first.
fn jobs<'a>(
    base: &dyn WeightSource,
    dictionary: &'a Dictionary,
    stack: &'a LoraStack,
    select: impl Fn(Component) -> bool,
) -> Result<Vec<Job<'a>>> {
    let multipliers = stack.multipliers(dictionary)?;
    // By content: sums are then equal to the bit in whatever order the user names adapters.
    let order = if stack.method.is_ordered() {
        (0..stack.entries.len()).collect()
    } else {
        stack.by_content()
    };
    let mut jobs: BTreeMap<Site, Job<'a>> = BTreeMap::new();
    for (adapter, entry) in order.into_iter().enumerate() {
        for (module, changes) in &stack.entries[entry].lora.modules {
            let m = multipliers[entry].of(module);
            if m == 0.0 || !select(Component::of(module)) {
                continue;
            }
            for change in changes {
                let part = if change.weight.is_some() { "weight" } else { "bias" };
                let site = Site::new(format!("{module}.{part}"));
                let job = jobs.entry(site.clone()).or_insert_with(|| {
                    let shape = base.shape(&site);
                    let outputs = || {
                        let weight = base.shape(&Site::new(format!("{module}.weight")));
                        weight.unwrap_or_default().into_iter().take(1).collect()
                    };
                    let exists = shape.is_some();
                    let shape = shape.unwrap_or_else(outputs);
                    Job { site, shape, exists, active: Vec::new(), identities: Vec::new() }
                });
                let file = stack.entries[entry].lora.fingerprint();
                job.identities.push(format!("{file} {}", change.stem));
                job.active.push(Active { module: change, m, adapter });
            }
        }
    }
    let mut jobs: Vec<Job<'a>> = jobs.into_values().collect();
    // The largest first, so that no core is left with a large one at the end.
    jobs.sort_by_key(|job| std::cmp::Reverse(job.shape.iter().product::<usize>()));
    Ok(jobs)
}

impl Job<'_> {
    fn run(
        &self,
        base: &dyn WeightSource,
        method: &Method,
        bypass: bool,
        look: bool,
    ) -> Result<Done> {
        if bypass && let Some(branches) = self.branches() {
            let change = Change::Beside(branches);
            return Ok(Done { site: self.site.clone(), change, ratio: 0.0 });
        }
        let plain = !look && self.exists && *method == Method::Sum;
        let blocked = base.requantised(&self.site).is_some();
        // On a GPU, factors cross the bus instead of weights.
        if plain
            && !blocked
            && !base.device().is_cpu()
            && base.is_exact(&self.site)
            && !self.is_bias()
            && let Some(sum) =
                merge::sum_there(base.get_pristine(&self.site, &self.shape)?.base(), &self.active)?
        {
            return Ok(Done { site: self.site.clone(), change: Change::Merged(sum), ratio: 0.0 });
        }
        if plain && let Some(summed) = Summed::new(&self.shape, &self.active)? {
            // Computed where it is read: into packed numbers, or into blocks.
            let packed = base.products(self.site.component()) != Products::Plain;
            let change = if (packed || blocked) && summed.safe && !self.is_bias() {
                Change::Summed { sum: summed, variant: self.variant() }
            } else {
                self.merged(base, summed.whole(&self.site, base, &self.active)?)?
            };
            return Ok(Done { site: self.site.clone(), change, ratio: 0.0 });
        }
        let pristine = if self.exists {
            base.get_f32(&self.site, &self.shape)?
        } else {
            room::zeros(self.shape.iter().product(), "the weights of adapters")?
        };
        let size = if look { squares(&pristine) } else { 0.0 };
        let before = look.then(|| pristine.clone());
        let merged = if self.is_bias() {
            merge::bias(self.site.as_str(), &pristine, &self.active)?
        } else {
            merge::weight(self.site.as_str(), pristine, &self.shape, &self.active, method)?
        };
        let ratio = match before {
            Some(before) if size > 0.0 => {
                let change: f64 =
                    merged.iter().zip(&before).map(|(a, b)| f64::from(a - b).powi(2)).sum();
                (change / size).sqrt()
            }
            _ => 0.0,
        };
        Ok(Done { site: self.site.clone(), change: self.merged(base, merged)?, ratio })
    }

    /// Which changes of which files with which multipliers.
    fn variant(&self) -> String {
        let line = |(identity, active): (&String, &Active<'_>)| {
            format!("{identity} {:08x}\n", active.m.to_bits())
        };
        self.identities.iter().zip(&self.active).map(line).collect()
    }

    fn is_bias(&self) -> bool {
        self.site.as_str().rsplit('.').next() == Some("bias")
    }

    fn is_small(&self) -> bool {
        self.shape.iter().product::<usize>() <= SMALL
    }

    fn merged(&self, base: &dyn WeightSource, values: Vec<f32>) -> Result<Change> {
        Ok(Change::Merged(placed(base, &self.site, &self.shape, values)?))
    }

    /// The branches that do the same at run time; `None` when some change has no such form.
    fn branches(&self) -> Option<Vec<Branch>> {
        // Tables are looked up, not multiplied.
        if self.site.as_str().contains("embedding.") || self.is_bias() {
            return None;
        }
        let mut branches = Vec::new();
        for (active, identity) in self.active.iter().zip(&self.identities) {
            let Some(change) = &active.module.weight else { continue };
            let Delta::LowRank(low) = &change.delta else { return None };
            if change.dora.is_some() {
                return None;
            }
            branches.push(low.branch(identity.clone(), active.m * change.scale)?);
        }
        Some(branches)
    }
}

/// A changed weight where and as the base keeps its own.
fn placed(
    base: &dyn WeightSource,
    site: &Site,
    shape: &[usize],
    values: Vec<f32>,
) -> Result<Tensor> {
    let tensor = Tensor::from_vec(values, shape, &Device::Cpu)?;
    Ok(tensor.to_dtype(base.dtype(site.component()))?.to_device(base.device())?)
}

fn squares(values: &[f32]) -> f64 {
    values.iter().map(|v| f64::from(*v).powi(2)).sum()
}

impl WeightSource for Overlay {
    fn get(&self, site: &Site, shape: &[usize]) -> Result<Weight> {
        let summed;
        let tensor = match self.changed.get(site) {
            None => return self.base.get(site, shape),
            Some(Change::Beside(branches)) => {
                let base = Box::new(self.base.get(site, shape)?);
                let dtype = self.base.dtype(site.component());
                let dense = |branch: &Branch| branch.dense(dtype, self.base.device());
                let branches = branches.iter().map(dense).collect::<Result<_>>()?;
                return Ok(Weight::Factored { base, branches });
            }
            Some(Change::Merged(tensor)) => tensor,
            Some(Change::Summed { sum, .. }) => {
                let values = sum.whole(site, &*self.base, &[])?;
                let stored = self.base.shape(site).unwrap_or_default();
                summed = placed(&*self.base, site, &stored, values)?;
                &summed
            }
        };
        if tensor.dims() == shape {
            return Ok(Weight::Dense(tensor.clone()));
        }
        if !crate::weights::shapes_agree(tensor.dims(), shape) {
            return Err(Error::ShapeMismatch {
                site: site.to_string(),
                expected: shape.to_vec(),
                found: tensor.dims().to_vec(),
                file: "weights with adapters".to_owned(),
            });
        }
        Ok(Weight::Dense(tensor.reshape(shape)?))
    }

    fn read_f32(&self, site: &Site, first: usize, out: &mut [f32]) -> Result<()> {
        match self.changed.get(site) {
            None | Some(Change::Beside(_)) => self.base.read_f32(site, first, out),
            Some(Change::Summed { sum, .. }) => sum.read(site, &*self.base, first, out),
            Some(Change::Merged(tensor)) => {
                let part = tensor.flatten_all()?.narrow(0, first, out.len())?;
                let part = part.to_device(&Device::Cpu)?.to_dtype(DType::F32)?;
                out.copy_from_slice(&part.to_vec1::<f32>()?);
                Ok(())
            }
        }
    }

    fn pack(
        &self,
        site: &Site,
        shape: &[usize],
        arrangement: Arrangement,
        precision: Precision,
    ) -> Result<Packed> {
        let make = || pack_numbers(self, site, shape, arrangement, precision);
        match self.changed.get(site) {
            Some(Change::Merged(_)) => make(),
            // A stack in which another adapter has a new weight may leave this one as it is.
            Some(Change::Summed { variant, .. }) => {
                self.base.shared(site, variant, arrangement, precision, &make)
            }
            Some(Change::Beside(_)) | None => self.base.pack(site, shape, arrangement, precision),
        }
    }

    fn shared(
        &self,
        site: &Site,
        variant: &str,
        arrangement: Arrangement,
        precision: Precision,
        make: &dyn Fn() -> Result<Packed>,
    ) -> Result<Packed> {
        self.base.shared(site, variant, arrangement, precision, make)
    }

    fn get_f32(&self, site: &Site, shape: &[usize]) -> Result<Vec<f32>> {
        match self.changed.get(site) {
            // On all cores.
            Some(Change::Summed { sum, .. }) => {
                check_shape(self, site, shape)?;
                sum.whole(site, &*self.base, &[])
            }
            Some(Change::Merged(_)) => numbers(self, site, shape),
            Some(Change::Beside(_)) | None => self.base.get_f32(site, shape),
        }
    }

    fn branches(&self, site: &Site) -> Vec<Branch> {
        match self.changed.get(site) {
            Some(Change::Beside(branches)) => branches.clone(),
            Some(Change::Merged(_) | Change::Summed { .. }) => Vec::new(),
            None => self.base.branches(site),
        }
    }

    fn shape(&self, site: &Site) -> Option<Vec<usize>> {
        match self.changed.get(site) {
            Some(Change::Merged(tensor)) => Some(tensor.dims().to_vec()),
            _ => self.base.shape(site),
        }
    }

    fn sites(&self) -> Vec<Site> {
        let mut sites = self.base.sites();
        sites.extend(self.changed.keys().filter(|site| !self.base.has(site)).cloned());
        sites.sort();
        sites
    }

    fn placement(&self) -> &Placement {
        self.base.placement()
    }

    fn beneath(&self, site: &Site) -> Option<&dyn WeightSource> {
        match self.changed.get(site) {
            Some(Change::Merged(_) | Change::Summed { .. }) => None,
            Some(Change::Beside(_)) | None => Some(&*self.base),
        }
    }

    // Sums are made of the base's stored numbers.
    fn forget(&self, site: &Site) {
        self.base.forget(site);
    }
}
