//! The LoRAs of the store, as a pipeline asks for them.

use crate::error::{Error, Result};
use crate::lora::{AdapterFile, LoraRef, Method};
use crate::pipeline::{Cancel, LoraResolver, Request, ResolvedLora};
use crate::store::{Card, FoundLora, Model, Progress, Store};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

/// Finds the LoRAs that requests name in a store.
#[derive(Debug)]
pub struct StoreResolver {
    store: Store,
    cancel: Cancel,
    /// What was warned of.
    said: Mutex<BTreeSet<String>>,
}

impl StoreResolver {
    /// A resolver over `store`; `cancel` ends its downloads.
    pub fn new(store: Store, cancel: &Cancel) -> Self {
        Self { store, cancel: cancel.clone(), said: Mutex::default() }
    }

    /// Downloads those of `loras` that are on the hub, and reports the progress.
    ///
    /// # Errors
    /// As [`Store::lora`].
    pub fn fetch(&self, loras: &[LoraRef], progress: Progress<'_>) -> Result<()> {
        for lora in loras.iter().filter(|lora| lora.name.starts_with("hub:")) {
            self.store.lora(&lora.name, &self.cancel, progress)?;
        }
        Ok(())
    }
}

impl LoraResolver for StoreResolver {
    fn embeddings(&self) -> Vec<(String, PathBuf)> {
        self.store.embeddings().into_iter().map(|entry| (entry.name, entry.path)).collect()
    }

    fn resolve(&self, name: &str) -> Result<ResolvedLora> {
        let found = self.store.lora(name, &self.cancel, &|_| ())?;
        let file = AdapterFile::open(&found.path)?;
        if let Some(other) = other_card(&found, &file)? {
            let warning = format!("{}: {other}", found.path.display());
            let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
            if !said.contains(&warning) {
                tracing::warn!("{warning}");
                said.insert(warning);
            }
        }
        let weight = found.card.and_then(|card| card.weight);
        Ok(ResolvedLora { file, weight })
    }

    fn model(&self, name: &str) -> Result<PathBuf> {
        match self.store.resolve(name, &self.cancel, &|_| ())? {
            Model::Files(path) => Ok(path),
            Model::Starter => {
                let why = "the starter has no second model; expected one of the same family";
                Err(Error::bad_request("refiner", name, why))
            }
        }
    }
}

/// What is wrong when the card beside a LoRA was written for another file.
///
/// # Errors
/// As [`AdapterFile::sha256`].
pub fn other_card(found: &FoundLora, file: &AdapterFile) -> Result<Option<String>> {
    let Some(card) = found.card.as_ref().filter(|card| card.sha256.is_some()) else {
        return Ok(None);
    };
    let sum = file.sha256()?;
    Ok((card.describes(sum) == Some(false)).then(|| {
        let beside = Card::path(&found.path);
        let said = card.sha256.as_deref().unwrap_or_default();
        format!(
            "this is not the file that its card {} describes: its SHA-256 is {sum}, the card says {said}",
            beside.display()
        )
    }))
}

/// Puts the LoRAs of the stack `name` before those of the request, and its method in its place
/// unless a flag has chosen one.
///
/// # Errors
/// As [`Store::stack`], and for a method that does not exist.
pub fn stack(store: &Store, name: &str, chosen: bool, request: &mut Request) -> Result<()> {
    let stack = store.stack(name)?;
    if !chosen {
        request.lora_method = method(&stack)?;
    }
    request.loras.splice(0..0, stack.loras);
    Ok(())
}

/// The method of a stack with its numbers.
fn method(stack: &crate::store::Stack) -> Result<Method> {
    let Some(name) = &stack.method else { return Ok(Method::default()) };
    let numbers = [
        stack.density.map(|x| format!("density={x}")),
        stack.seed.map(|n| format!("seed={n}")),
        stack.rank.map(|n| format!("rank={n}")),
        stack.period.map(|n| format!("period={n}")),
    ];
    let numbers: Vec<String> = numbers.into_iter().flatten().collect();
    format!("{name}:{}", numbers.join(",")).parse()
}
