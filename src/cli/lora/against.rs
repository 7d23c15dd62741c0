//! What a LoRA is looked at against: a model, or the standard models by their names alone.

use crate::cli::generate::open_found;
use crate::cli::shelf::other_card;
use crate::cli::{settings, store};
use crate::error::Error;
use crate::family::{Blueprint, Family};
use crate::lora::{AdapterFile, Dictionary, Lora, ReadOptions};
use crate::pipeline::{Cancel, DeviceChoice, Pipeline};
use crate::store::STARTER;
use crate::weights::WeightSource;
use anyhow::Result;
use std::sync::Arc;

/// A base by name, with the names of its modules.
pub(super) struct Against {
    /// What people call it.
    pub(super) name: String,
    pub(super) source: Arc<dyn WeightSource>,
    pub(super) dictionary: Dictionary,
}

impl Against {
    /// The model that a user named.
    pub(super) fn model(name: &str) -> Result<Self> {
        let model = store(&settings()?).resolve(name, &Cancel::new(), &|_| ())?;
        let pipeline = open_found(Pipeline::options().device(DeviceChoice::Cpu), model)?;
        let family = pipeline.summary().family;
        let source = pipeline.weights();
        let dictionary = Dictionary::new(&*source, family);
        Ok(Self { name: pipeline.model_name().to_owned(), source, dictionary })
    }

    fn standard(family: Family) -> Result<Self> {
        let source = Arc::new(Blueprint::of(family)?);
        let dictionary = Dictionary::new(&*source, family.to_string());
        Ok(Self { name: family.to_string(), source, dictionary })
    }

    /// Resolves `file` against the model that is named, or the first of the standard models and the
    /// starter that it fits.
    pub(super) fn resolve(
        file: &AdapterFile,
        model: Option<&str>,
        options: ReadOptions,
    ) -> Result<(Self, Lora)> {
        if let Some(name) = model {
            let against = Self::model(name)?;
            let lora = Lora::resolve(file.clone(), &against.dictionary, options)?;
            return Ok((against, lora));
        }
        let mut best: Option<(Self, Lora)> = None;
        let mut reason: Option<Error> = None;
        let standard = [Family::Sd1, Family::Sd2, Family::Sdxl, Family::SdxlRefiner];
        let candidates = standard.into_iter().map(Self::standard);
        for against in candidates.chain([Self::model(STARTER)]) {
            let against = against?;
            match Lora::resolve(file.clone(), &against.dictionary, options) {
                Ok(lora) => {
                    let used = lora.report().used;
                    if best.as_ref().is_none_or(|(_, other)| used > other.report().used) {
                        best = Some((against, lora));
                    }
                }
                // A wrong family says less than what is wrong in the right one.
                Err(error) => {
                    if matches!(reason, None | Some(Error::WrongFamily { .. })) {
                        reason = Some(error);
                    }
                }
            }
        }
        match (best, reason) {
            (Some(best), _) => Ok(best),
            (None, Some(error)) => Err(error.into()),
            (None, None) => Err(Error::Internal("no model to look at".into()).into()),
        }
    }
}

/// Opens a LoRA by name or path; and what is wrong with the card beside it.
pub(super) fn open(name: &str) -> Result<(AdapterFile, Option<String>)> {
    let found = store(&settings()?).lora(name, &Cancel::new(), &|_| ())?;
    let file = AdapterFile::open(&found.path)?;
    let warning = other_card(&found, &file)?;
    Ok((file, warning))
}
