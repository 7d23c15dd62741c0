//! The model and the adapters that a verb works on.

use crate::cli::shelf::other_card;
use crate::cli::style::Talk;
use crate::cli::{interrupt, progress, settings, store};
use crate::error::Result;
use crate::family::ModelParts;
use crate::lora::write::Kept;
use crate::lora::{AdapterFile, Dictionary, Lora, ReadOptions};
use crate::pipeline::Cancel;
use crate::starter;
use crate::store::{Model, STARTER};
use crate::weights::{Placement, WeightSource};
use std::path::PathBuf;
use std::sync::Arc;

/// A model as adapters see it.
#[derive(Debug)]
pub(super) struct Base {
    /// Its parts; weights are read when they are asked for.
    pub(super) parts: ModelParts,
    /// Its weights.
    pub(super) source: Arc<dyn WeightSource>,
    /// Its names.
    pub(super) names: Dictionary,
    /// Where it lies; `None` for the built-in one.
    pub(super) path: Option<PathBuf>,
}

/// What Ctrl-C sets; to be asked for once in a run.
///
/// # Errors
/// When the system refuses the handler.
pub(super) fn cancel() -> anyhow::Result<Cancel> {
    let cancel = Cancel::new();
    interrupt::install(&cancel)?;
    Ok(cancel)
}

/// Opens the model `name`, or the configured one.
///
/// # Errors
/// What finding and opening it gives.
pub(super) fn base(
    name: Option<&str>,
    placement: Placement,
    talk: Talk,
    cancel: &Cancel,
) -> anyhow::Result<Base> {
    let settings = settings()?;
    let configured = settings.config.model.clone().filter(|name| !name.is_empty());
    let name = name.map(str::to_owned).or(configured).unwrap_or_else(|| STARTER.to_owned());
    let progress = progress::Progress::new(progress::ProgressKind::Auto, talk, false);
    let found = store(&settings).resolve(&name, cancel, &|t| progress.transfer(t));
    progress.finish();
    let (parts, path) = match found? {
        Model::Starter => (starter::open(placement, None)?, None),
        Model::Files(path) => (ModelParts::open(&path, placement, None)?, Some(path)),
    };
    let source: Arc<dyn WeightSource> = parts.source.clone();
    let names = Dictionary::new(&*source, parts.family.to_string());
    Ok(Base { parts, source, names, path })
}

/// Opens the adapter `name` for `base`, and says what is worth saying.
///
/// # Errors
/// [`Error::NotFound`] without such a file; as [`Lora::resolve`].
pub(super) fn adapter(name: &str, base: &Base, talk: Talk) -> Result<Lora> {
    let found = store(&settings()?).lora(name, &Cancel::new(), &|_| ())?;
    let file = AdapterFile::open(&found.path)?;
    if let Some(other) = other_card(&found, &file)? {
        talk.say(&format!("warning: {name}: {other}"));
    }
    let lora = Lora::resolve(file, &base.names, ReadOptions::default())?;
    for warning in &lora.report().warnings {
        talk.say(&format!("warning: {name}: {warning}"));
    }
    Ok(lora)
}

/// What new factors hold, in words.
pub(super) fn kept(part: &Kept) -> String {
    let Kept { component, modules, ranks: (low, high), energy } = part;
    let ranks = if low == high { low.to_string() } else { format!("{low} to {high}") };
    let share = energy * 100.0;
    format!("{component}: {modules} modules of rank {ranks} keep {share:.1} % of the change")
}
