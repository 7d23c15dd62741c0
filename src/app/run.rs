//! From a job to saved pictures.

use super::choice::ModelChoice;
use super::event::{Event, Observer};
use super::job::Job;
use super::open::Pool;
use super::save::{Made, SaveOptions, make_folders};
use super::used_files::UsedFiles;
use crate::atomic_file::TemporaryFile;
use crate::error::Result;
use crate::family::Defaults;
use crate::picture::{Picture, png};
use crate::pipeline::{self, Cancel, Generated, Pipeline, Plan, random_seed};
use crate::store::Store;
use std::cell::RefCell;
use std::path::{Path, PathBuf};

/// What a job made.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Work {
    /// The plan that ran.
    pub plan: Plan,
    /// The files of the pictures; empty when the caller took them.
    pub saved: Vec<PathBuf>,
}

/// Makes the pictures of a job and saves them.
///
/// # Errors
/// As [`check`], [`prepare`] and [`Prepared::run`].
pub fn run(
    pool: &Pool,
    job: &Job,
    save: &SaveOptions,
    observer: &dyn Observer,
    cancel: &Cancel,
) -> Result<Work> {
    check(job, save)?;
    prepare(pool, job, save, observer, cancel)?.run(observer, cancel)
}

/// Finds mistakes that need no model: values out of range, and names that cannot be written.
///
/// # Errors
/// [`Error::BadRequest`](crate::Error::BadRequest) naming the field, [`Error::Write`](crate::Error::Write).
pub fn check(job: &Job, save: &SaveOptions) -> Result<()> {
    save.check(&job.request.plan(&Defaults::of_unknown_model(), 0)?)
}

/// Opens the pipeline of a job, downloads what it lacks and plans its pictures; nothing is written.
///
/// # Errors
/// What finding and opening the model gives, and what is wrong with the request.
pub fn prepare<'a>(
    pool: &Pool,
    job: &Job,
    save: &'a SaveOptions,
    observer: &dyn Observer,
    cancel: &Cancel,
) -> Result<Prepared<'a>> {
    // What an observer breaks at is a picture that is saved.
    let transfer = |transfer: &_| {
        let _ = observer.event(&Event::Transfer(transfer));
    };
    pool.fetch(&job.request.loras, &transfer)?;
    let pipeline = pool.open(job, cancel, &transfer)?;
    let below = |event: &pipeline::Event| {
        let _ = observer.event(&Event::Pipeline(event));
    };
    let plan = pipeline.plan_observed(&job.request, random_seed(), &below)?;
    let names = save.names(&plan, pipeline.model_name())?;
    let store = pool.store().clone();
    Ok(Prepared { pipeline, plan, choice: job.choice(), names, store, save })
}

/// One of several pictures that differ in nothing but their seeds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sibling {
    /// Its seed.
    pub seed: u64,
    /// As [`SaveOptions::job`].
    pub job: Option<String>,
}

/// A job whose pipeline is open.
#[derive(Debug)]
pub struct Prepared<'a> {
    /// The pipeline.
    pub pipeline: Pipeline,
    /// What it will do.
    pub plan: Plan,
    /// What the pictures are made with, for their records.
    pub choice: ModelChoice,
    /// The names of the pictures; empty when the caller takes them.
    pub names: Vec<PathBuf>,
    store: Store,
    save: &'a SaveOptions,
}

impl Prepared<'_> {
    /// Makes the pictures and saves each as soon as it is done.
    ///
    /// # Errors
    /// What the networks and saving give; [`Error::Cancelled`](crate::Error::Cancelled) when `cancel` is set or the
    /// observer breaks.
    pub fn run(self, observer: &dyn Observer, cancel: &Cancel) -> Result<Work> {
        self.pipeline.check_memory(&self.plan)?;
        make_folders(&self.names, observer)?;
        let files = self.files(observer, cancel)?;
        let preview = RefCell::new(None);
        let below = |event: &pipeline::Event| {
            let _ = observer.event(&Event::Pipeline(event));
            if let pipeline::Event::Step { image, preview: Some(picture), .. } = event {
                self.show(*image, picture, &mut preview.borrow_mut(), observer);
            }
        };
        let mut saved = Vec::new();
        let mut sink = |image: Generated| {
            preview.take();
            saved.extend(self.save(&image, &files, observer)?);
            Ok(())
        };
        self.pipeline.generate(&self.plan, &below, cancel, &mut sink)?;
        Ok(Work { saved, plan: self.plan })
    }

    /// The files that the pictures are made with, when their records are wanted.
    fn files(&self, observer: &dyn Observer, cancel: &Cancel) -> Result<UsedFiles> {
        if !self.save.metadata {
            return Ok(UsedFiles::default());
        }
        let progress = |file: &Path, done: u64, total: u64| {
            let _ = observer.event(&Event::Hashing { file, done, total });
        };
        let found = UsedFiles::find(&self.store, &self.choice, &self.plan, cancel, &progress)?;
        Ok(UsedFiles { device: Some(self.pipeline.device_name()), ..found })
    }

    /// Makes `siblings` of the job's picture in one evaluation of the network for each step, and hands each over in
    /// [`Event::Saved`] as one picture of its own. No file is written.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn run_siblings(
        self,
        siblings: &[Sibling],
        observer: &dyn Observer,
        cancel: &Cancel,
    ) -> Result<()> {
        let files = self.files(observer, cancel)?;
        let together = Plan { count: siblings.len(), ..self.plan.clone() };
        self.pipeline.check_memory(&together)?;
        let below = |event: &pipeline::Event| {
            let _ = observer.event(&Event::Pipeline(event));
        };
        let seeds: Vec<u64> = siblings.iter().map(|sibling| sibling.seed).collect();
        let mut sink = |image: Generated| {
            let job = siblings.get(image.index).and_then(|sibling| sibling.job.clone());
            let save = SaveOptions { job, hand_over: true, ..self.save.clone() };
            let plan = Plan { seed: image.seed, count: 1, ..self.plan.clone() };
            let image = Generated { index: 0, ..image };
            let (model, choice) = (self.pipeline.model_name(), &self.choice);
            let made = Made { plan: &plan, model, choice, files: &files };
            save.save(&image, None, &made, observer).map(drop)
        };
        self.pipeline.generate_seeds(&self.plan, &seeds, &below, cancel, &mut sink)
    }

    fn save(
        &self,
        image: &Generated,
        files: &UsedFiles,
        observer: &dyn Observer,
    ) -> Result<Option<PathBuf>> {
        let name = self.names.get(image.index).map(PathBuf::as_path);
        let model = self.pipeline.model_name();
        let made = Made { plan: &self.plan, model, choice: &self.choice, files };
        let path = self.save.save(image, name, &made, observer)?;
        let time = image.timings;
        tracing::info!(
            seed = image.seed,
            load = ?time.load, compose = ?time.compose, encode = ?time.encode, sample = ?time.sample, decode = ?time.decode,
            "saved"
        );
        Ok(path)
    }

    /// Writes a preview beside the picture; a preview that fails is no reason to stop.
    fn show(
        &self,
        image: usize,
        picture: &Picture,
        last: &mut Option<TemporaryFile>,
        observer: &dyn Observer,
    ) {
        let Some(name) = self.names.get(image) else { return };
        let path = name.with_extension("preview.png");
        let bytes = png::encode(picture, &png::Texts::default());
        let again = last.as_ref().is_some_and(|preview| preview.path() == path);
        match bytes.and_then(|bytes| png::save(&bytes, &path, again)) {
            Ok(()) if again => {}
            Ok(()) => *last = Some(TemporaryFile::new(path)),
            Err(error) => {
                let _ = observer.event(&Event::NoPreview(&error));
            }
        }
    }
}
