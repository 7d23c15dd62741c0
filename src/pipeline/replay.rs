//! Evaluations of a UNet that start as a whole on a GPU: hundreds of launches cost as much time there as their work.
//!
//! The first evaluation of some shapes rehearses, the next is recorded before it, and all others are replayed: by
//! plans of many steps, and by all images of a plan. A recording belongs to the thread that made it: an image that
//! moves to another thread is evaluated there as it comes, and recorded anew. Elsewhere nothing is recorded.

use crate::error::{Error, Result};
use crate::kernels::Recording;
use crate::models::{InputKind, OwnedInput, UNet, UNetInput};
use candle_core::Tensor;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::ThreadId;

pub(super) use crate::kernels::{Mark, Session, working};

/// Networks and shapes that are remembered; a recording holds the memory of an evaluation.
const MOST: usize = 3;
/// A recording that was not used by so many predictions makes room for others. This is more than plans that take
/// networks in turn need to come back to one: else each would push the next one out.
const FORGOTTEN: u64 = 16;

/// What was recorded of the UNets of a pipeline.
#[derive(Debug, Default)]
pub(super) struct Replays {
    known: Mutex<Recordings>,
}

#[derive(Debug, Default)]
struct Recordings {
    /// The longest unused first.
    known: Vec<Known>,
    predictions: u64,
}

#[derive(Debug)]
struct Known {
    /// Number of the last prediction that it served.
    used: u64,
    unet: Weak<UNet>,
    /// Of the inputs that it serves.
    kind: InputKind,
    state: State,
}

#[derive(Debug)]
enum State {
    /// By this thread, with this input and this output.
    Rehearsed(ThreadId, OwnedInput, Tensor),
    Recorded(Recording),
    /// It cannot be recorded.
    Refused,
}

impl Known {
    /// The prediction, if it was recorded by this thread. Replays need memory of their own, which may be missing;
    /// then there are none.
    fn replay(&mut self, parts: &[Tensor]) -> Option<Tensor> {
        let State::Recorded(recording) = &self.state else { return None };
        if !recording.is_mine() {
            return None;
        }
        match recording.replay(parts) {
            Ok(prediction) => Some(prediction),
            Err(error) => {
                tracing::debug!("the UNet is not replayed: {error}");
                self.state = State::Refused;
                None
            }
        }
    }
}

/// What is to be done for a prediction.
enum Answer {
    /// It was replayed.
    Replayed(Tensor),
    /// It is evaluated, and nothing is remembered of it.
    Evaluate,
    /// It is evaluated so that it can be recorded; the number of the prediction.
    Rehearse(u64),
}

impl Recordings {
    /// Looks for a recording of `unet` for inputs of this `kind`, whose tensors are `parts`.
    fn answer(&mut self, unet: &Arc<UNet>, kind: &InputKind, parts: &[Tensor]) -> Answer {
        self.predictions += 1;
        let used = self.predictions;
        let known = &mut self.known;
        known.retain(|known| known.unet.strong_count() > 0);
        let is_this = |known: &Known| {
            std::ptr::eq(known.unet.as_ptr(), Arc::as_ptr(unet)) && known.kind == *kind
        };
        if let Some(at) = known.iter().position(is_this) {
            let mut found = known.remove(at);
            found.used = used;
            if let Some(prediction) = found.replay(parts) {
                known.push(found);
                return Answer::Replayed(prediction);
            }
            if matches!(found.state, State::Refused) {
                known.push(found);
                return Answer::Evaluate;
            }
        } else if known.len() == MOST {
            if used - known[0].used < FORGOTTEN {
                return Answer::Evaluate;
            }
            known.remove(0);
        }
        Answer::Rehearse(used)
    }
}

impl Replays {
    fn lock(&self) -> MutexGuard<'_, Recordings> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The UNet's prediction.
    pub(super) fn predict(&self, unet: &Arc<UNet>, input: UNetInput<'_>) -> Result<Tensor> {
        // A map of attention is a second output, which recordings do not have.
        let plain = input.merge_tokens > 0.0 || input.attention.is_some();
        if !input.latents.device().is_cuda() || plain {
            return unet.forward(input);
        }
        let owned = input.owned();
        let kind = owned.kind();
        let answer = self.lock().answer(unet, &kind, &owned.tensors());
        let used = match answer {
            Answer::Replayed(prediction) => return Ok(prediction),
            Answer::Evaluate => return unet.forward(input),
            Answer::Rehearse(used) => used,
        };
        let output = Recording::rehearse(input.latents, || unet.forward(input))?;
        let state = State::Rehearsed(std::thread::current().id(), owned, output.clone());
        self.lock().known.push(Known { used, unet: Arc::downgrade(unet), kind, state });
        Ok(output)
    }

    /// Records what this thread rehearsed, unless others are at work.
    pub(super) fn record(&self) {
        for known in &mut self.lock().known {
            let (State::Rehearsed(thread, input, output), Some(unet)) =
                (&known.state, known.unet.upgrade())
            else {
                continue;
            };
            if *thread != std::thread::current().id() {
                continue;
            }
            let work = |tensors: &[Tensor]| {
                let input = input.with_tensors(tensors);
                let input = input.ok_or_else(|| Error::Internal("a recording of others".into()))?;
                // What is recorded is recorded whole: nothing stops it.
                unet.forward(input.borrowed())
            };
            match Recording::new(&input.tensors(), output, work) {
                Ok(Some(recording)) => known.state = State::Recorded(recording),
                Ok(None) => {}
                Err(error) => {
                    tracing::debug!("the UNet is not recorded: {error}");
                    known.state = State::Refused;
                }
            }
        }
    }

    /// Forgets everything.
    pub(super) fn clear(&self) {
        self.lock().known.clear();
    }
}
