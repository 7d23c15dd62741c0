//! Steps that several requests have in common: their estimates are made once.
//!
//! Two pictures that begin alike (the same noise, networks and texts) and part later, because a LoRA's window ends or a
//! prompt changes at different steps, take the same first steps. Each step has a name, which holds all that it and the
//! steps before it are made of. Where an earlier request took the step of that name, the sampler is given the estimates
//! of then: it computes the same numbers from them, whatever it remembers, and no network is run.

use crate::error::{Error, Result};
use crate::sampling::{Denoiser, Estimates};
use candle_core::Tensor;
use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

/// The estimates of steps that were taken, by the names of the steps.
#[derive(Debug)]
pub(super) struct SharedSteps {
    /// Most bytes that they may have.
    most: u64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    known: HashMap<String, Kept>,
    bytes: u64,
    /// Counts what is asked for.
    clock: u64,
}

#[derive(Debug)]
struct Kept {
    estimates: Arc<Vec<Estimates>>,
    bytes: u64,
    /// When it was last asked for.
    used: u64,
}

impl SharedSteps {
    pub(super) fn new(most: u64) -> Self {
        Self { most, state: Mutex::default() }
    }

    /// The estimates of the step `name`.
    pub(super) fn get(&self, name: &str) -> Option<Arc<Vec<Estimates>>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.clock += 1;
        let now = state.clock;
        let kept = state.known.get_mut(name)?;
        kept.used = now;
        Some(kept.estimates.clone())
    }

    /// Keeps the estimates of the step `name`; those that were not asked for longest go.
    pub(super) fn put(&self, name: &str, estimates: Vec<Estimates>) {
        let bytes = estimates.iter().map(size).sum::<u64>() + name.len() as u64;
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let state = &mut *state;
        state.clock += 1;
        let kept = Kept { estimates: Arc::new(estimates), bytes, used: state.clock };
        let before = state.known.insert(name.to_owned(), kept);
        state.bytes = state.bytes + bytes - before.map_or(0, |kept| kept.bytes);
        while state.bytes > self.most {
            let oldest = state.known.iter().min_by_key(|(_, kept)| kept.used);
            let Some(name) = oldest.map(|(name, _)| name.clone()) else { break };
            state.bytes -= state.known.remove(&name).map_or(0, |kept| kept.bytes);
        }
    }
}

/// Bytes of the numbers of an estimate.
fn size(estimates: &Estimates) -> u64 {
    let bytes = |tensor: &Tensor| (tensor.elem_count() * tensor.dtype().size_in_bytes()) as u64;
    bytes(&estimates.guided) + bytes(&estimates.unguided)
}

/// Notes the estimates that a sampler asks for.
pub(super) struct Recording<'a> {
    model: &'a dyn Denoiser,
    made: RefCell<Vec<Estimates>>,
}

impl<'a> Recording<'a> {
    pub(super) fn of(model: &'a dyn Denoiser) -> Self {
        Self { model, made: RefCell::default() }
    }

    /// What was asked for, in order.
    pub(super) fn made(self) -> Vec<Estimates> {
        self.made.into_inner()
    }
}

impl Denoiser for Recording<'_> {
    fn denoise(&self, x: &Tensor, sigma: f64) -> Result<Tensor> {
        let guided = self.model.denoise(x, sigma)?;
        let noted = Estimates { unguided: guided.clone(), guided: guided.clone() };
        self.made.borrow_mut().push(noted);
        Ok(guided)
    }

    fn estimates(&self, x: &Tensor, sigma: f64) -> Result<Estimates> {
        let made = self.model.estimates(x, sigma)?;
        self.made.borrow_mut().push(made.clone());
        Ok(made)
    }
}

/// Gives a sampler the estimates that an earlier run noted.
pub(super) struct Recorded(RefCell<VecDeque<Estimates>>);

impl Recorded {
    pub(super) fn new(estimates: &[Estimates]) -> Self {
        Self(RefCell::new(estimates.iter().cloned().collect()))
    }
}

impl Denoiser for Recorded {
    fn denoise(&self, x: &Tensor, sigma: f64) -> Result<Tensor> {
        Ok(self.estimates(x, sigma)?.guided)
    }

    fn estimates(&self, _: &Tensor, _: f64) -> Result<Estimates> {
        let next = self.0.borrow_mut().pop_front();
        next.ok_or_else(|| Error::Internal("a shared step asks for more than it did before".into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device};

    fn estimates(value: f32) -> Estimates {
        let guided = Tensor::full(value, (1, 4, 2, 2), &Device::Cpu).unwrap();
        Estimates { unguided: guided.clone(), guided }
    }

    #[test]
    fn what_was_not_asked_for_goes_first() {
        // Each has 2 x 16 numbers of 4 bytes, and a name.
        let shared = SharedSteps::new(3 * 129);
        for name in ["a", "b", "c"] {
            shared.put(name, vec![estimates(1.0)]);
        }
        assert!(shared.get("a").is_some());
        shared.put("d", vec![estimates(2.0)]);
        assert!(shared.get("b").is_none() && shared.get("a").is_some());
        shared.put("d", vec![estimates(2.0)]);
        assert!(shared.get("c").is_some(), "what is put again counts once");
        shared.put("large", (0..9).map(|_| estimates(3.0)).collect());
        assert!(shared.get("a").is_none() && shared.get("large").is_none());
    }

    #[test]
    fn recorded_estimates_come_in_their_order() {
        struct Twice;
        impl Denoiser for Twice {
            fn denoise(&self, x: &Tensor, sigma: f64) -> Result<Tensor> {
                Ok((x * sigma)?)
            }
        }
        let x = Tensor::ones((1, 1, 1, 1), DType::F32, &Device::Cpu).unwrap();
        let recording = Recording::of(&Twice);
        recording.denoise(&x, 2.0).unwrap();
        recording.estimates(&x, 3.0).unwrap();
        let made = recording.made();
        let recorded = Recorded::new(&made);
        let first = recorded.denoise(&x, 9.0).unwrap().flatten_all().unwrap();
        assert_eq!(first.to_vec1::<f32>().unwrap(), [2.0]);
        let second = recorded.estimates(&x, 9.0).unwrap().unguided.flatten_all().unwrap();
        assert_eq!(second.to_vec1::<f32>().unwrap(), [3.0]);
        assert!(recorded.denoise(&x, 9.0).is_err());
    }
}
