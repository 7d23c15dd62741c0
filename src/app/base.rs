//! The base that a LoRA is looked at with: a model, or a standard model by the names of its weights alone.

use super::resolver::other_card;
use crate::error::{Error, Result};
use crate::family::{Blueprint, Family, ModelParts};
use crate::lora::{AdapterFile, Dictionary, Lora, ReadOptions};
use crate::pipeline::Cancel;
use crate::starter;
use crate::store::{Model, Progress, STARTER, Store};
use crate::weights::{Placement, WeightSource};
use candle_core::DType;
use std::path::PathBuf;
use std::sync::Arc;

/// A base with the names of its modules.
#[derive(Debug)]
pub struct Base {
    /// What people call it.
    pub name: String,
    /// Its weights, read when they are asked for; those of a standard model have shapes alone.
    pub source: Arc<dyn WeightSource>,
    /// The names of its modules.
    pub names: Dictionary,
    /// The opened model; `None` for a standard one.
    model: Option<OpenedModel>,
}

/// The parts of a model, and where it lies.
#[derive(Debug)]
struct OpenedModel {
    parts: ModelParts,
    /// `None` for the built-in one.
    path: Option<PathBuf>,
}

impl Base {
    /// Opens the model `name`.
    ///
    /// # Errors
    /// What finding and opening it gives.
    pub fn open(
        store: &Store,
        name: &str,
        cancel: &Cancel,
        progress: Progress<'_>,
    ) -> Result<Self> {
        let placement = Placement::default();
        let (parts, path) = match store.resolve(name, cancel, progress)? {
            Model::Starter => (starter::open(placement, None)?, None),
            Model::Files(path) => (ModelParts::open(&path, placement, None)?, Some(path)),
        };
        Ok(Self::of(parts, path))
    }

    fn of(parts: ModelParts, path: Option<PathBuf>) -> Self {
        let source: Arc<dyn WeightSource> = parts.source.clone();
        let names = Dictionary::new(&*source, parts.family.to_string());
        Self { name: parts.name.clone(), source, names, model: Some(OpenedModel { parts, path }) }
    }

    fn standard(family: Family) -> Result<Self> {
        let source = Arc::new(Blueprint::of(family)?);
        let names = Dictionary::new(&*source, family.to_string());
        Ok(Self { name: family.to_string(), source, names, model: None })
    }

    /// The same model with weights that are read as `dtype`.
    #[must_use]
    pub fn read_as(mut self, dtype: DType) -> Self {
        if let Some(OpenedModel { mut parts, path }) = self.model.take() {
            parts.read_as(dtype);
            return Self::of(parts, path);
        }
        self
    }

    /// The parts of the model.
    ///
    /// # Errors
    /// [`Error::Internal`] for a standard model, which [`open`](Self::open) does not give.
    pub fn parts(&self) -> Result<&ModelParts> {
        let none = || Error::Internal(format!("{} is known by its names alone", self.name));
        self.model.as_ref().map(|model| &model.parts).ok_or_else(none)
    }

    /// The file or folder of the model; `None` for the built-in one.
    pub fn path(&self) -> Option<&PathBuf> {
        self.model.as_ref()?.path.as_ref()
    }

    /// Resolves a LoRA against the model `name`, or without one against the first of the standard models and the
    /// starter that it fits.
    ///
    /// # Errors
    /// What opening the model gives, and as [`Lora::resolve`].
    pub fn fitting(store: &Store, name: Option<&str>, file: &AdapterFile) -> Result<(Self, Lora)> {
        let options = ReadOptions::default();
        let open = |name: &str| Self::open(store, name, &Cancel::new(), &|_| ());
        if let Some(name) = name {
            let base = open(name)?;
            let lora = Lora::resolve(file.clone(), &base.names, options)?;
            return Ok((base, lora));
        }
        let mut best: Option<(Self, Lora)> = None;
        let mut reason: Option<Error> = None;
        let candidates = Family::ALL.into_iter().map(Self::standard);
        for base in candidates.chain(std::iter::once_with(|| open(STARTER))) {
            let base = base?;
            match Lora::resolve(file.clone(), &base.names, options) {
                Ok(lora) => {
                    let used = lora.report().used;
                    if best.as_ref().is_none_or(|(_, other)| used > other.report().used) {
                        best = Some((base, lora));
                    }
                }
                // A wrong family is less of a reason than what is wrong in the right one.
                Err(error) => {
                    if matches!(reason, None | Some(Error::WrongFamily { .. })) {
                        reason = Some(error);
                    }
                }
            }
        }
        let none = || Error::Internal("no model to look at".into());
        best.ok_or_else(|| reason.unwrap_or_else(none))
    }
}

/// Opens a LoRA by name or path; and what is wrong with the card beside it.
///
/// # Errors
/// [`Error::NotFound`], and what opening the file gives.
pub fn adapter(store: &Store, name: &str) -> Result<(AdapterFile, Option<String>)> {
    let found = store.lora(name, &Cancel::new(), &|_| ())?;
    let file = AdapterFile::open(&found.path)?;
    let warning = other_card(&found, &file)?;
    Ok((file, warning))
}
