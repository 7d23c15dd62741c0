//! Adapters as data: files of every community format, their algebra, and how several of
//! them become the weights of one model.
//!
//! An [`AdapterFile`] is opened without knowing any model; a [`Lora`] is the same resolved against
//! a [`Dictionary`], the names of one base; a [`LoraStack`] holds which of them act and how strongly;
//! an [`Overlay`] is the [`WeightSource`] of base and stack together.
//! Layers and networks do not depend on this module.
//!
//! Floor 3.

mod apply;
mod delta;
mod factor;
mod read;
pub mod spec;
pub mod write;

pub use apply::method::Method;
pub use apply::overlay::{Apply, Overlay};
pub use apply::stack::{LoraStack, StackEntry, Words};
pub use read::describe::ModuleInfo;
pub use read::dictionary::Dictionary;
pub use read::distilled::Distilled;
pub use read::embedding::Embedding;
pub use read::file::{AdapterFile, Hashes};
pub use read::inversion::Inversion;
pub use read::resolve::{ReadOptions, Report};
pub use spec::{Block, BlockFactors, BlockWeights, Layout, LoraRef, StepWindow, Strength};

use crate::error::Result;
use crate::room;
use crate::weights::{Site, WeightSource};
use apply::merge;
use read::module::Module;
use std::collections::BTreeMap;
use std::sync::Arc;

/// An adapter, resolved against the names of one base. Read-only; share it with [`Arc`].
#[derive(Debug, Clone)]
pub struct Lora {
    file: AdapterFile,
    /// Changes by module, canonical names without `.weight`.
    modules: BTreeMap<String, Vec<Module>>,
    inversions: Vec<Arc<Inversion>>,
    report: Report,
    fingerprint: String,
}

impl Lora {
    /// The file's name without extension.
    pub fn name(&self) -> String {
        self.file.name()
    }

    /// The files behind it.
    pub fn file(&self) -> &AdapterFile {
        &self.file
    }

    /// What fitted, what did not, and what is worth a warning.
    pub fn report(&self) -> &Report {
        &self.report
    }

    /// New words that the file brings along.
    pub fn inversions(&self) -> &[Arc<Inversion>] {
        &self.inversions
    }

    /// A short identity of the contents.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// The modules that it changes, canonical names without `.weight`.
    pub fn modules(&self) -> impl Iterator<Item = &str> {
        self.modules.keys().map(String::as_str)
    }

    /// The sites that it changes: weights, and biases, which the base need not have.
    pub fn sites(&self) -> Vec<Site> {
        let mut sites: Vec<Site> = Vec::new();
        for (module, changes) in &self.modules {
            for (part, has) in [
                ("weight", changes.iter().any(|change| change.weight.is_some())),
                ("bias", changes.iter().any(|change| change.bias.is_some())),
            ] {
                sites.extend(has.then(|| Site::new(format!("{module}.{part}"))));
            }
        }
        sites
    }

    /// What the adapter at multiplier `m` adds to the pristine weight or bias at `site`: W′ − W, f32,
    /// row-major. `None` for a site that it does not change.
    ///
    /// # Errors
    /// Errors of reading the base or the file.
    pub fn change(&self, base: &dyn WeightSource, site: &Site, m: f32) -> Result<Option<Vec<f32>>> {
        let Some((module, part)) = site.as_str().rsplit_once('.') else { return Ok(None) };
        let Some(changes) = self.modules.get(module) else { return Ok(None) };
        let shape = match base.shape(site) {
            Some(shape) => shape,
            None => {
                base.shape(&Site::new(format!("{module}.weight"))).unwrap_or_default()[..1].to_vec()
            }
        };
        let pristine = if base.has(site) {
            base.get_f32(site, &shape)?
        } else {
            room::zeros(shape.iter().product(), "the weights of adapters")?
        };
        let mut change = room::zeros(pristine.len(), "the weights of adapters")?;
        let mut touched = false;
        for module in changes {
            match (part, &module.weight, &module.bias) {
                ("weight", Some(weight), _) => {
                    merge::one(&pristine, &shape, weight, m, &mut change)?;
                }
                ("bias", _, Some(bias)) => bias.add_to(&pristine, m, &mut change)?,
                _ => continue,
            }
            touched = true;
        }
        Ok(touched.then_some(change))
    }
}
