//! Floor 7. The LoRAs of the store, as a pipeline asks for them.

use crate::error::Result;
use crate::lora::{AdapterFile, LoraRef, Method};
use crate::pipeline::{Cancel, Found, Request, Shelf};
use crate::store::{Progress, Store};

/// The store as a [`Shelf`].
#[derive(Debug)]
pub(super) struct StoreShelf {
    store: Store,
    cancel: Cancel,
}

impl StoreShelf {
    pub(super) fn new(store: Store, cancel: &Cancel) -> Self {
        Self { store, cancel: cancel.clone() }
    }

    /// Downloads what of `loras` is on the hub, while someone watches.
    pub(super) fn fetch(&self, loras: &[LoraRef], progress: Progress<'_>) -> Result<()> {
        for lora in loras.iter().filter(|lora| lora.name.starts_with("hub:")) {
            self.store.lora(&lora.name, &self.cancel, progress)?;
        }
        Ok(())
    }
}

impl Shelf for StoreShelf {
    fn adapter(&self, name: &str) -> Result<Found> {
        let found = self.store.lora(name, &self.cancel, &|_| ())?;
        let weight = found.card.and_then(|card| card.weight);
        Ok(Found { file: AdapterFile::open(found.path)?, weight })
    }
}

/// Puts the LoRAs of the stack `name` before those of the request, and its method in its place
/// unless a flag has chosen one.
pub(super) fn stack(store: &Store, name: &str, chosen: bool, request: &mut Request) -> Result<()> {
    let stack = store.stack(name)?;
    if !chosen {
        request.lora_method = method(&stack)?;
    }
    request.loras.splice(0..0, stack.loras);
    Ok(())
}

/// The method of a stack with its numbers.
pub(super) fn method(stack: &crate::store::Stack) -> Result<Method> {
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
