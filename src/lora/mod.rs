//! Floor 3. Adapters as data: files of every community format, their algebra, and how several of
//! them become the weights of one model.
//!
//! An [`AdapterFile`] is opened without knowing any model; a [`Lora`] is the same resolved against
//! a [`Dictionary`], the names of one base; a [`LoraStack`] says which of them act and how strongly;
//! an [`Overlay`] is the [`WeightSource`](crate::weights::WeightSource) of base and stack together.
//! Layers and networks never hear of any of this.

mod delta;
mod dictionary;
mod factor;
mod file;
mod foreign;
mod inversion;
mod keys;
mod merge;
mod method;
mod module;
mod ordered;
mod overlay;
mod read;
pub mod reference;
mod stack;
mod tuning;

pub use dictionary::Dictionary;
pub use file::{AdapterFile, Hashes};
pub use inversion::Inversion;
pub use method::Method;
pub use overlay::{Apply, Overlay};
pub use read::{ReadOptions, Report};
pub use reference::{Block, BlockFactors, BlockWeights, Layout, LoraRef, StepWindow, Strength};
pub use stack::{LoraStack, StackEntry};

use module::Module;
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
}
