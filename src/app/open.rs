//! From jobs to open pipelines, which are kept for the next job with the same model.

use super::job::Job;
use super::resolver::StoreResolver;
use crate::error::{Error, Result};
use crate::lora::LoraRef;
use crate::pipeline::{Cancel, DTypeChoice, DeviceChoice, Options, Pipeline};
use crate::store::{Model, Progress, Store, actual};
use crate::weights::Quantisation;
use std::sync::{Arc, Mutex, PoisonError};

/// What a pipeline is opened by: jobs with equal keys share one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelKey {
    /// The model's name; `None` = the starter.
    pub model: Option<String>,
    /// Another VAE than the model's own.
    pub vae: Option<String>,
    /// Float type.
    pub dtype: Option<DTypeChoice>,
    /// Blocks of the UNet's weights.
    pub quantize: Option<Quantisation>,
    /// Where it runs.
    pub device: Option<DeviceChoice>,
}

impl From<&Job> for ModelKey {
    fn from(job: &Job) -> Self {
        let Job { model, vae, dtype, quantize, device, request: _ } = job;
        let (model, vae) = (model.clone(), vae.clone());
        Self { model, vae, dtype: *dtype, quantize: *quantize, device: *device }
    }
}

/// A pipeline, or the place of one that is being opened.
type Slot = Arc<Mutex<Option<Pipeline>>>;

/// Opens pipelines over a store, and keeps the last ones.
///
/// A pool may be shared between threads: jobs with one key wait for the one that opens it, others do not.
#[derive(Debug)]
pub struct Pool {
    store: Store,
    resolver: Arc<StoreResolver>,
    limit: usize,
    base: Options,
    /// The last used one at the end.
    slots: Mutex<Vec<(ModelKey, Slot)>>,
}

impl Pool {
    /// A pool over the models and LoRAs of `store` that keeps one pipeline.
    pub fn new(store: Store) -> Self {
        Self::cancelled_by(store, &Cancel::new())
    }

    /// As [`new`](Self::new); `cancel` ends downloads of LoRAs, too.
    pub fn cancelled_by(store: Store, cancel: &Cancel) -> Self {
        Self {
            resolver: Arc::new(StoreResolver::new(store.clone(), cancel)),
            store,
            limit: 1,
            base: Options::default(),
            slots: Mutex::default(),
        }
    }

    /// How many pipelines are kept at most, at least 1; those that jobs still use stay alive beside.
    #[must_use]
    pub fn limit(mut self, pipelines: usize) -> Self {
        self.limit = pipelines.max(1);
        self
    }

    /// The options of every pipeline, but for those that a job decides: model, VAE, number types, device and LoRAs.
    #[must_use]
    pub fn opened_with(mut self, options: Options) -> Self {
        self.base = options;
        self
    }

    /// The store.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Downloads those of `loras` that are on the hub, and reports the progress.
    ///
    /// # Errors
    /// As [`Store::lora`].
    pub fn fetch(&self, loras: &[LoraRef], progress: Progress<'_>) -> Result<()> {
        self.resolver.fetch(loras, progress)
    }

    /// The pipeline of `job`, opened unless it is open; its model is downloaded when it is on the hub.
    ///
    /// # Errors
    /// What finding and opening the model gives.
    pub fn open(&self, job: &Job, cancel: &Cancel, progress: Progress<'_>) -> Result<Pipeline> {
        let key = ModelKey::from(job);
        let slot = self.slot(&key);
        let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pipeline) = &*slot {
            return Ok(pipeline.clone());
        }
        let model = self.store.resolve(job.model_name(), cancel, progress)?;
        let pipeline = open_found(self.options(&key), model)?;
        *slot = Some(pipeline.clone());
        Ok(pipeline)
    }

    /// The options by which pipelines of `key` are opened.
    pub fn options(&self, key: &ModelKey) -> Options {
        let options = self.base.clone().device(key.device.unwrap_or_default()).dtype(key.dtype);
        let options = options.quantize(key.quantize).vae(key.vae.as_ref().map(actual));
        options.lora_resolver(self.resolver.clone())
    }

    /// The place of a key, and now the last used one; the first goes when there are too many.
    fn slot(&self, key: &ModelKey) -> Slot {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let found = slots.iter().position(|(known, _)| known == key);
        let slot = found.map_or_else(Slot::default, |at| slots.remove(at).1);
        slots.push((key.clone(), slot.clone()));
        let surplus = slots.len().saturating_sub(self.limit);
        slots.drain(..surplus);
        slot
    }
}

/// Opens what the store found.
///
/// # Errors
/// As [`Options::open`].
pub fn open_found(options: Options, model: Model) -> Result<Pipeline, Error> {
    match model {
        Model::Starter => options.open_starter(),
        Model::Files(path) => options.open(path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(dtype: Option<DTypeChoice>) -> Job {
        Job { dtype, device: Some(DeviceChoice::Cpu), ..Job::default() }
    }

    fn same(a: &Pipeline, b: &Pipeline) -> bool {
        Arc::ptr_eq(&a.weights(), &b.weights())
    }

    #[test]
    fn jobs_with_one_model_share_its_pipeline() {
        let folder = tempfile::tempdir().unwrap();
        let home = folder.path().to_path_buf();
        let store = Store::new(&[], folder.path(), &move |_| Some(home.clone().into_os_string()));
        let pool = Pool::new(store);
        let open = |job: &Job| pool.open(job, &Cancel::new(), &|_| ()).unwrap();
        let first = open(&job(None));
        assert!(same(&first, &open(&job(None))));
        let other = open(&job(Some(DTypeChoice::Bf16)));
        assert!(!same(&first, &other));
        assert!(!same(&first, &open(&job(None))), "one is kept");
        let pool = pool.limit(2);
        let open = |job: &Job| pool.open(job, &Cancel::new(), &|_| ()).unwrap();
        let first = open(&job(None));
        open(&job(Some(DTypeChoice::Bf16)));
        assert!(same(&first, &open(&job(None))), "two are kept");
        let missing = Job { model: Some("nowhere".into()), ..Job::default() };
        assert!(pool.open(&missing, &Cancel::new(), &|_| ()).is_err());
    }
}
