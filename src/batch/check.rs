//! Looks at models and LoRAs before the first picture, plans every job, and names it by its contents.

use super::digest::{canonical, fingerprint};
use super::list::Listed;
use crate::app::{self, Job, ModelKey, Observer, Pool, SaveOptions};
use crate::error::{Error, Fault, LineError, Result};
use crate::family::Defaults;
use crate::lora::AdapterFile;
use crate::pipeline::{Cancel, Plan};
use crate::plain::hex;
use crate::store::Model;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

/// Hexadecimal digits of the name of a job: 80 bits.
const DIGITS: usize = 20;

/// Why a job will not be made, in words; the code is that of its [`Fault`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason {
    /// The exit code of its fault.
    pub code: u8,
    /// What went wrong.
    pub message: String,
}

impl Reason {
    /// The reason that an error gives.
    pub(super) fn of(error: &Error) -> Self {
        let cause = std::error::Error::source(error).map(|cause| format!(": {cause}"));
        let message = format!("{error}{}", cause.unwrap_or_default());
        Self { code: error.fault().exit_code(), message }
    }
}

/// A job that is ready to be made.
#[derive(Debug, Clone)]
pub struct Ready {
    /// Its name: the user's, else from its contents.
    pub id: String,
    /// Whether the user gave the name.
    pub named: bool,
    /// The name that its contents give.
    pub content: String,
    /// The line that asks for it.
    pub line: usize,
    /// Model and request.
    pub job: Job,
    /// What the pipeline will do.
    pub plan: Plan,
    /// Words that are kept beside the picture.
    pub labels: BTreeMap<String, String>,
    /// The model, its VAE, number types and device as one text.
    pub model: String,
    /// The LoRAs, their strengths and how they are put together as one text; empty without any.
    pub stack: String,
    /// The files of its LoRAs.
    pub files: Vec<PathBuf>,
    /// Why it cannot be made: one of its LoRA files cannot be read.
    pub doomed: Option<Reason>,
}

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
    done: Checked,
}

impl<'a> Checker<'a> {
    fn new(pool: &'a Pool, observer: &'a dyn Observer, cancel: &'a Cancel) -> Self {
        let (loras, held) = (HashMap::new(), Default::default());
        Self { pool, observer, cancel, loras, held, done: Checked::default() }
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
        let model = match found {
            Model::Starter => format!("starter {}", env!("CARGO_PKG_VERSION")),
            Model::Files(path) => fingerprint(&path)?,
        };
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
        let content = json!({"v": 1, "model": identity, "plan": plan, "loras": prints});
        let mut content = hex(&Sha256::digest(canonical(&content).as_bytes()));
        content.truncate(DIGITS);
        let stack = if plan.loras.is_empty() {
            String::new()
        } else {
            json!([plan.loras, plan.lora_method, plan.apply]).to_string()
        };
        Ok(Some(Ready {
            named: listed.id.is_some(),
            id: listed.id.unwrap_or_else(|| content.clone()),
            content,
            line: listed.line,
            model: format!("{:?}", ModelKey::from(&listed.job)),
            job: listed.job,
            plan,
            labels: listed.labels,
            stack,
            files,
            doomed,
        }))
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

/// Whether an error is one of a file that cannot be used.
pub(super) fn is_of_file(error: &Error) -> bool {
    matches!(error.fault(), Fault::File | Fault::Unsupported | Fault::NotFound)
}

/// Keeps the first of jobs that are the same.
fn unique(jobs: impl Iterator<Item = Ready>, done: &mut Checked) {
    let mut lines: HashMap<String, usize> = HashMap::new();
    for job in jobs {
        match lines.get(&job.id) {
            Some(line) if job.named => {
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
