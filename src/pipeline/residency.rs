//! Which network stays in memory when: every cache of a pipeline, and one table of what goes after which stage.
//!
//! A new kind of network needs a field of [`Residency`] and a row of [`TABLE`].

use super::Pipeline;
use super::cache::{Lazy, Noted, Recent, Room};
use super::preview::Previewer;
use super::replay::{self, Replays};
use super::shared::SharedSteps;
use crate::conditioning::{Conditioning, TextTowers};
use crate::kernels::{self, Share};
use crate::models::{UNet, Vae};
use crate::weights::{Component, Resident};
use candle_core::Tensor;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What is kept in memory for the next request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Memory {
    /// Every network, once built.
    #[default]
    Resident,
    /// Each network goes when no part of the plan needs it any more.
    OneShot,
    /// Every network goes when its part of the picture is done. On the CPU the UNet is read block by block in
    /// every step; elsewhere prompt and negative prompt are evaluated one after the other.
    Low,
}

/// A stage of an image or of a plan that is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// All texts are encoded.
    Texts,
    /// An image is encoded to latents.
    Encode,
    /// All networks of an image's steps are built.
    Build,
    /// All steps of an image are done.
    Steps,
    /// All steps of a plan are done, and no other request runs.
    Plan,
    /// An image is decoded.
    Decode,
}

/// Something that a pipeline keeps in memory, and the stage after which each mode of memory gives it up.
struct Row {
    /// With [`Memory::OneShot`]; `None`: it stays.
    one_shot: Option<Stage>,
    /// With [`Memory::Low`]; `None`: it stays.
    low: Option<Stage>,
    forget: fn(&Residency),
}

/// What goes when. With [`Memory::Resident`] everything stays.
const TABLE: &[Row] = &[
    // Recordings of evaluations hold memory of the UNets and go before them.
    Row { one_shot: Some(Stage::Plan), low: Some(Stage::Steps), forget: |r| r.replays.clear() },
    Row { one_shot: Some(Stage::Texts), low: Some(Stage::Texts), forget: |r| r.text.clear() },
    Row { one_shot: Some(Stage::Texts), low: Some(Stage::Texts), forget: |r| r.towers.clear() },
    Row { one_shot: Some(Stage::Texts), low: Some(Stage::Texts), forget: |r| r.release_texts() },
    Row { one_shot: Some(Stage::Plan), low: Some(Stage::Steps), forget: |r| r.unet.clear() },
    Row { one_shot: Some(Stage::Plan), low: Some(Stage::Steps), forget: |r| r.unets.clear() },
    // Tensors that built networks do not share are not needed any more.
    Row {
        one_shot: Some(Stage::Build),
        low: Some(Stage::Build),
        forget: |r| r.base.release(Component::UNet),
    },
    Row { one_shot: Some(Stage::Encode), low: Some(Stage::Encode), forget: |r| r.encoder.clear() },
    Row { one_shot: None, low: Some(Stage::Decode), forget: |r| r.decoder.clear() },
    Row { one_shot: None, low: Some(Stage::Decode), forget: |r| r.base.release(Component::Vae) },
    // An opened refiner holds no weights: its networks follow its own table, and go after the last step of an image.
    Row { one_shot: None, low: None, forget: |r| r.refiner.clear() },
    // What makes previews, features and latents are small beside networks.
    Row { one_shot: None, low: None, forget: |r| r.previewer.clear() },
    Row { one_shot: None, low: None, forget: |r| r.conditions.clear() },
    Row { one_shot: None, low: None, forget: |r| r.unpainted.clear() },
    Row { one_shot: None, low: None, forget: |r| r.base.release_all() },
];

/// Everything that a pipeline keeps for later: networks, features, and tensors of weights.
#[derive(Debug)]
pub(super) struct Residency {
    memory: Memory,
    /// The model's weights, shared by everything that is built.
    pub(super) base: Arc<Resident>,
    pub(super) text: Lazy<TextTowers>,
    pub(super) towers: Recent<Noted<TextTowers>>,
    pub(super) conditions: Recent<Noted<Vec<Conditioning>>>,
    pub(super) unet: Lazy<UNet>,
    pub(super) unets: Arc<Recent<Noted<UNet>>>,
    pub(super) encoder: Lazy<Vae>,
    pub(super) decoder: Lazy<Vae>,
    pub(super) previewer: Lazy<Previewer>,
    /// The model that takes over within a run.
    pub(super) refiner: Recent<Pipeline>,
    /// What inpainting networks see beside the latents of an image that is all to be painted, by size.
    pub(super) unpainted: Recent<Tensor>,
    pub(super) replays: Arc<Replays>,
    /// Steps that requests have in common, where such are kept. They are small beside networks.
    pub(super) steps: Option<SharedSteps>,
    /// Requests that are being served.
    requests: AtomicUsize,
    /// Dropped last: it gives back the memory that networks leave.
    _share: Share,
}

impl Residency {
    /// Nothing yet; `stacks`: composed networks of each kind that are kept when the memory mode keeps any.
    pub(super) fn new(base: Resident, memory: Memory, stacks: usize, spare: Option<usize>) -> Self {
        let keeps = memory == Memory::Resident;
        Self {
            memory,
            base: Arc::new(base.keeping_pristine(keeps)),
            text: Lazy::new(),
            towers: Recent::new(stacks),
            conditions: Recent::new(16),
            unet: Lazy::new(),
            unets: Arc::new(Recent::new(stacks)),
            encoder: Lazy::new(),
            decoder: Lazy::new(),
            previewer: Lazy::new(),
            refiner: Recent::new(1),
            unpainted: Recent::new(4),
            replays: Arc::default(),
            steps: None,
            requests: AtomicUsize::new(0),
            _share: Share::new(spare.unwrap_or_else(kernels::usual_budget), keeps),
        }
    }

    /// The same with room for `bytes` of steps that requests have in common.
    pub(super) fn sharing_steps(mut self, bytes: u64) -> Self {
        self.steps = (bytes > 0).then(|| SharedSteps::new(bytes));
        self
    }

    /// The mode by which networks stay or go.
    pub(super) fn memory(&self) -> Memory {
        self.memory
    }

    /// Lets go what is not needed after `stage`.
    pub(super) fn over(&self, stage: Stage) {
        self.forget_after(stage);
        // The next stage can hardly use the buffers that this one left.
        if matches!(stage, Stage::Texts | Stage::Steps | Stage::Decode) {
            kernels::stage_done();
        }
    }

    /// As [`over`](Self::over) after the steps of an image; `last`: of its plan's last image.
    pub(super) fn steps_over(&self, last: bool) {
        // Another request that takes networks in turn would have to build them anew.
        if last && self.requests.load(Ordering::Relaxed) <= 1 {
            self.forget_after(Stage::Plan);
        }
        self.over(Stage::Steps);
    }

    /// Must be held while a request is served that takes the composed UNets `keys` in turn; `whole`: to the end of
    /// its plan.
    pub(super) fn running(self: &Arc<Self>, keys: Vec<String>, whole: bool) -> Running {
        self.requests.fetch_add(1, Ordering::Relaxed);
        Running { _room: self.unets.room(keys), residency: self.clone(), whole }
    }

    fn forget_after(&self, stage: Stage) {
        for row in TABLE {
            let last = match self.memory {
                Memory::Resident => None,
                Memory::OneShot => row.one_shot,
                Memory::Low => row.low,
            };
            if last == Some(stage) {
                (row.forget)(self);
            }
        }
    }

    fn release_texts(&self) {
        for text in Component::ALL.into_iter().filter(|component| component.is_text()) {
            self.base.release(text);
        }
    }
}

impl Drop for Residency {
    /// Networks go before the share, which then gives back the memory that they return.
    fn drop(&mut self) {
        let _working = replay::working();
        for row in TABLE {
            (row.forget)(self);
        }
    }
}

/// A request that is being served. Its networks stay among those that are kept as long as this value lives.
#[derive(Debug)]
pub(super) struct Running {
    _room: Room<Noted<UNet>>,
    residency: Arc<Residency>,
    /// Whether nothing is left of its plan when it is done.
    whole: bool,
}

impl Drop for Running {
    fn drop(&mut self) {
        let others = self.residency.requests.fetch_sub(1, Ordering::Relaxed) > 1;
        if self.whole && !others {
            self.residency.forget_after(Stage::Plan);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cancel::Cancel;
    use crate::weights::{MemorySource, Placement};

    /// A residency whose kinds of things that are kept can be asked for.
    fn filled(memory: Memory) -> Arc<Residency> {
        let source = Arc::new(MemorySource::new(Placement::default()));
        let residency = Residency::new(Resident::new(source), memory, 2, Some(0));
        let tensor = || Ok(Tensor::new(&[0f32], &candle_core::Device::Cpu)?);
        residency.unpainted.get("8x8", &Cancel::new(), tensor).unwrap();
        Arc::new(residency)
    }

    #[test]
    fn every_mode_gives_up_what_the_table_says() {
        let stages =
            [Stage::Texts, Stage::Encode, Stage::Build, Stage::Steps, Stage::Plan, Stage::Decode];
        let gone = |column: fn(&Row) -> Option<Stage>| {
            stages.map(|stage| TABLE.iter().filter(|row| column(row) == Some(stage)).count())
        };
        assert_eq!(gone(|row| row.one_shot), [3, 1, 1, 0, 3, 0]);
        assert_eq!(gone(|row| row.low), [3, 1, 1, 3, 0, 2]);
    }

    #[test]
    fn features_outlive_every_stage() {
        for memory in [Memory::Resident, Memory::OneShot, Memory::Low] {
            let residency = filled(memory);
            let stages = [Stage::Texts, Stage::Encode, Stage::Build, Stage::Plan, Stage::Decode];
            for stage in stages {
                residency.over(stage);
            }
            residency.steps_over(true);
            let missing = || Err(crate::Error::Cancelled);
            assert!(residency.unpainted.get("8x8", &Cancel::new(), missing).is_ok());
        }
    }

    #[test]
    fn requests_are_counted() {
        let residency = filled(Memory::OneShot);
        let first = residency.running(vec!["a".into()], true);
        let second = residency.running(Vec::new(), false);
        assert_eq!(residency.requests.load(Ordering::Relaxed), 2);
        drop((first, second));
        assert_eq!(residency.requests.load(Ordering::Relaxed), 0);
    }
}
