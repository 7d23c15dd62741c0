//! Looks at models and LoRAs before the first picture, plans every job, and names it by its contents.

use super::digest::{canonical, fingerprint};
use super::list::Listed;
use super::ready::{Networks, Ready, Reason};
use crate::app::{self, Job, ModelKey, Observer, Pool, SaveOptions};
use crate::error::{Error, Fault, LineError, Result};
use crate::family::Defaults;
use crate::lora::AdapterFile;
use crate::pipeline::{Cancel, Plan};
use crate::plain::hex;
use crate::store::Model;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

/// Hexadecimal digits of the name of a job: 80 bits.
const DIGITS: usize = 20;

/// What came of a list.
#[derive(Debug, Default)]
pub struct Checked {
    /// The jobs in the order of the file.
    pub ready: Vec<Ready>,
    /// What is wrong.
    pub mistakes: Vec<LineError>,
    /// What the user may want to know.
    pub remarks: Vec<String>,
    /// Lines that ask for the same picture as an earlier one, and that line.
    pub same: Vec<(usize, usize)>,
}

/// What is known of a LoRA by its name.
#[derive(Clone)]
enum Known {
    Good {
        path: PathBuf,
        fingerprint: String,
    },
    /// There is such a file, but it cannot be used.
    Bad(PathBuf, Reason),
    /// The first line that names it has said so.
    Absent,
}

/// Looks at every job.
///
/// # Errors
/// [`Error::Cancelled`]; what is wrong with a job is among the [`mistakes`](Checked::mistakes).
pub fn check(
    listed: Vec<Listed>,
    pool: &Pool,
    observer: &dyn Observer,
    cancel: &Cancel,
) -> Result<Checked> {
    let mut checker = Checker::new(pool, observer, cancel);
    // One model after the other, because a pool keeps few open; the order of the file comes back below.
    let mut models: Vec<(ModelKey, Vec<(usize, Listed)>)> = Vec::new();
    let mut places: HashMap<String, usize> = HashMap::new();
    for (place, listed) in listed.into_iter().enumerate() {
        let key = ModelKey::from(&listed.job);
        let at = *places.entry(format!("{key:?}")).or_insert(models.len());
        if at == models.len() {
            models.push((key, Vec::new()));
        }
        models[at].1.push((place, listed));
    }
    let mut ready = Vec::new();
    for (_, jobs) in models {
        checker.model(jobs, &mut ready)?;
    }
    ready.sort_by_key(|(place, _)| *place);
    checker.done.mistakes.sort_by_key(|mistake| mistake.line);
    let mut done = checker.done;
    unique(ready.into_iter().map(|(_, ready)| ready), &mut done);
    Ok(done)
}

struct Checker<'a> {
    pool: &'a Pool,
    observer: &'a dyn Observer,
    cancel: &'a Cancel,
    loras: HashMap<String, Known>,
    /// The LoRA files of the job that was looked at last: the next one with the same shares their contents.
    held: (Vec<PathBuf>, Vec<AdapterFile>),
    /// What refiners are by their contents, by name.
    refiners: HashMap<String, String>,
    /// Models with their LoRAs, by both as texts.
    shared: HashMap<(String, String), Arc<Networks>>,
    done: Checked,
}

impl<'a> Checker<'a> {
    fn new(pool: &'a Pool, observer: &'a dyn Observer, cancel: &'a Cancel) -> Self {
        let (loras, held, refiners, shared) = Default::default();
        Self { pool, observer, cancel, loras, held, refiners, shared, done: Checked::default() }
    }

    /// Plans the jobs of one model.
    fn model(
        &mut self,
        mut jobs: Vec<(usize, Listed)>,
        ready: &mut Vec<(usize, Ready)>,
    ) -> Result<()> {
        let Some((_, first)) = jobs.first() else { return Ok(()) };
        let identity = match self.identity(&first.job) {
            Ok(identity) => identity,
            Err(Error::Cancelled) => return Err(Error::Cancelled),
            // The other lines have the same mistake.
            Err(error) => {
                self.done.mistakes.push(LineError::new(first.line, error));
                return Ok(());
            }
        };
        // Files are read once for all jobs with the same ones.
        jobs.sort_by_cached_key(|(_, listed)| {
            let loras = listed.job.request.loras.iter();
            loras.map(|lora| lora.name.clone()).collect::<Vec<_>>()
        });
        for (place, listed) in jobs {
            self.cancel.check()?;
            let line = listed.line;
            match self.job(listed, &identity) {
                Ok(Some(job)) => ready.push((place, job)),
                Ok(None) => {}
                Err(Error::Cancelled) => return Err(Error::Cancelled),
                Err(error) => self.done.mistakes.push(LineError::new(line, error)),
            }
        }
        Ok(())
    }

    /// Opens the model of `job`, and tells its contents.
    fn identity(&self, job: &Job) -> Result<Value> {
        let transfer = |transfer: &_| {
            let _ = self.observer.event(&app::Event::Transfer(transfer));
        };
        let found = self.pool.store().resolve(job.model_name(), self.cancel, &transfer)?;
        self.pool.open(job, self.cancel, &transfer)?;
        let model = print_of(found)?;
        let vae =
            job.vae.as_ref().map(|path| fingerprint(&crate::store::actual(path))).transpose()?;
        let choice = job.choice();
        Ok(json!({"model": model, "vae": vae, "dtype": choice.dtype, "quantize": choice.quantize}))
    }

    /// Plans a job; `None` when a LoRA is missing of which an earlier line has told.
    fn job(&mut self, listed: Listed, identity: &Value) -> Result<Option<Ready>> {
        let rough = listed.job.request.plan(&Defaults::of_unknown_model(), 0)?;
        let (mut files, mut prints, mut doomed) = (Vec::new(), Vec::new(), None);
        for lora in &rough.loras {
            match self.lora(&lora.name)? {
                Known::Good { path, fingerprint } => {
                    files.push(path);
                    prints.push(fingerprint);
                }
                Known::Bad(path, reason) => {
                    prints.push(path.to_string_lossy().into_owned());
                    doomed = Some(reason);
                }
                Known::Absent => return Ok(None),
            }
        }
        self.hold(&files);
        // A pipeline would refuse it for the file that is bad.
        let plan = if doomed.is_some() {
            rough
        } else {
            let save = SaveOptions { hand_over: true, ..SaveOptions::default() };
            app::prepare(self.pool, &listed.job, &save, self.observer, self.cancel)?.plan
        };
        let mut content = json!({"v": 1, "model": identity, "plan": plan, "loras": prints});
        if let Some(name) = &plan.refiner {
            content["refiner"] = self.refiner(name)?.into();
        }
        let mut content = hex(&Sha256::digest(canonical(&content).as_bytes()));
        content.truncate(DIGITS);
        let networks = self.networks(&listed.job, &plan, files, doomed);
        let ready = Ready::pack(listed.job, &plan, networks)?;
        Ok(Some(Ready {
            id: listed.id.unwrap_or_else(|| content.clone()),
            content,
            line: listed.line,
            repeat: listed.repeat,
            labels: listed.labels,
            ..ready
        }))
    }

    /// The model and the LoRAs of a plan, which jobs with the same ones share.
    fn networks(
        &mut self,
        job: &Job,
        plan: &Plan,
        files: Vec<PathBuf>,
        doomed: Option<Reason>,
    ) -> Arc<Networks> {
        let stack = if plan.loras.is_empty() {
            String::new()
        } else {
            json!([plan.loras, plan.lora_method, plan.apply]).to_string()
        };
        let mut model = format!("{:?}", ModelKey::from(job));
        if let Some(refiner) = &plan.refiner {
            model += &format!(" refined by {refiner}");
        }
        let key = (model, stack);
        let found = self.shared.entry(key).or_insert_with_key(|(model, stack)| {
            Arc::new(Networks {
                model: model.clone(),
                stack: stack.clone(),
                loras: plan.loras.iter().map(ToString::to_string).collect(),
                files,
                doomed,
            })
        });
        found.clone()
    }

    /// What a refiner is by its contents, which are read once.
    fn refiner(&mut self, name: &str) -> Result<String> {
        if let Some(print) = self.refiners.get(name) {
            return Ok(print.clone());
        }
        let print = print_of(self.pool.store().resolve(name, self.cancel, &|_| ())?)?;
        self.refiners.insert(name.to_owned(), print.clone());
        Ok(print)
    }

    /// Keeps `files` open until there are others.
    fn hold(&mut self, files: &[PathBuf]) {
        if self.held.0 != files {
            let open = files.iter().filter_map(|file| AdapterFile::open(file).ok());
            self.held = (files.to_vec(), open.collect());
        }
    }

    /// What is known of the LoRA `name`, which is read when it is met for the first time.
    ///
    /// # Errors
    /// [`Error::NotFound`] and the like, once.
    fn lora(&mut self, name: &str) -> Result<Known> {
        if let Some(known) = self.loras.get(name) {
            return Ok(known.clone());
        }
        let found = match self.pool.store().lora(name, self.cancel, &|_| ()) {
            Ok(found) => found,
            Err(error) => {
                self.loras.insert(name.to_owned(), Known::Absent);
                return Err(error);
            }
        };
        let read = AdapterFile::open(&found.path).and_then(|file| file.fingerprint());
        let known = match read {
            Ok(fingerprint) => Known::Good { path: found.path, fingerprint },
            Err(error) if is_of_file(&error) => {
                let reason = Reason::of(&error);
                self.done
                    .remarks
                    .push(format!("jobs with the LoRA {name} will fail: {}", reason.message));
                Known::Bad(found.path, reason)
            }
            Err(error) => return Err(error),
        };
        self.loras.insert(name.to_owned(), known.clone());
        Ok(known)
    }
}

/// What a model is by its contents.
fn print_of(model: Model) -> Result<String> {
    match model {
        Model::Starter => Ok(format!("starter {}", env!("CARGO_PKG_VERSION"))),
        Model::Files(path) => fingerprint(&path),
    }
}

/// Whether an error is one of a file that cannot be used.
pub(super) fn is_of_file(error: &Error) -> bool {
    matches!(error.fault(), Fault::File | Fault::Unsupported | Fault::NotFound)
}

/// Keeps the first of jobs that are the same.
fn unique(jobs: impl Iterator<Item = Ready>, done: &mut Checked) {
    let mut lines: HashMap<String, usize> = HashMap::new();
    for job in jobs {
        match lines.get(&job.id) {
            Some(line) if job.is_named() => {
                let why = format!("line {line} has the same; names are unique");
                done.mistakes
                    .push(LineError::new(job.line, Error::bad_request("id", &job.id, why)));
            }
            Some(line) => {
                done.same.push((job.line, *line));
                done.remarks
                    .push(format!("line {} asks for the same picture as line {line}", job.line));
            }
            None => {
                lines.insert(job.id.clone(), job.line);
                done.ready.push(job);
            }
        }
    }
}
