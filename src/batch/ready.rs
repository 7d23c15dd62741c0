//! A job that was looked at and can be made: its name, its place in the list, and what it shares with others.

use crate::app::Job;
use crate::error::{Error, Result};
use crate::pipeline::Plan;
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::PathBuf;
use std::sync::Arc;

/// Why a job will not be made, in words; the code is that of its [`Fault`](crate::error::Fault).
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

/// A model with its LoRAs: what jobs share that need the same networks.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Networks {
    /// The model, its VAE, number types and device as one text.
    pub model: String,
    /// The LoRAs, their strengths and how they are put together as one text; empty without any.
    pub stack: String,
    /// The LoRAs as a user writes them.
    pub loras: Vec<String>,
    /// The files of the LoRAs.
    pub files: Vec<PathBuf>,
    /// Why the jobs cannot be made: one of the LoRA files cannot be read.
    pub doomed: Option<Reason>,
}

/// A job that is ready to be made.
///
/// A list may have a million of them: what many share is shared, and the job itself is packed.
#[derive(Debug, Clone)]
pub struct Ready {
    /// Its name: the user's, else from its contents.
    pub id: String,
    /// The name that its contents give.
    pub content: String,
    /// The line that asks for it, from 1.
    pub line: usize,
    /// Which of the jobs of that line it is, from 0.
    pub repeat: usize,
    /// The seed.
    pub seed: u64,
    /// Pixels across.
    pub width: usize,
    /// Pixels down.
    pub height: usize,
    /// Sampling steps.
    pub steps: usize,
    /// Words that are kept beside the picture.
    pub labels: BTreeMap<String, String>,
    /// The model and the LoRAs.
    pub networks: Arc<Networks>,
    /// The same number for the same texts.
    pub(super) texts: u64,
    /// The same number for jobs that differ in nothing but their seeds.
    pub(super) siblings: u64,
    /// Model and request as JSON, with every choice made.
    pub(super) packed: Box<str>,
}

impl Ready {
    /// The job of `job`, whose plan is `plan`; its name is `content` unless the user gave one.
    ///
    /// # Errors
    /// [`Error::Internal`] when a request is no JSON, which no request is.
    pub(super) fn pack(job: Job, plan: &Plan, networks: Arc<Networks>) -> Result<Self> {
        let mut texts = DefaultHasher::new();
        (&plan.prompt, &plan.negative_prompt).hash(&mut texts);
        // What cannot be planned whole keeps the words of its file.
        let request = if networks.doomed.is_some() { job.request } else { plan.request_for(0) };
        let job = Job { request, ..job };
        let wrong = |error| Error::Internal(format!("a job: {error}"));
        let mut map = job.to_map()?;
        let packed = serde_json::to_string(&map).map_err(wrong)?;
        map.remove("seed");
        let mut siblings = DefaultHasher::new();
        serde_json::to_string(&map).map_err(wrong)?.hash(&mut siblings);
        Ok(Self {
            id: String::new(),
            content: String::new(),
            line: 0,
            repeat: 0,
            seed: plan.seed,
            width: plan.width,
            height: plan.height,
            steps: plan.steps,
            labels: BTreeMap::new(),
            networks,
            texts: texts.finish(),
            siblings: siblings.finish(),
            packed: packed.into(),
        })
    }

    /// Whether the user gave the name.
    pub fn is_named(&self) -> bool {
        self.id != self.content
    }

    /// Model and request, with every choice made.
    ///
    /// # Errors
    /// [`Error::Internal`] when what was packed cannot be read, which does not happen.
    pub fn job(&self) -> Result<Job> {
        Job::from_json(&self.packed).map_err(|error| Error::Internal(format!("a job: {error}")))
    }

    /// The job as JSON: one object with the keys of [`Job`].
    pub fn json(&self) -> &str {
        &self.packed
    }

    /// A job for tests of what needs no network.
    #[cfg(test)]
    pub(super) fn sample(line: usize, model: &str, stack: &str, width: usize) -> Self {
        use crate::family::Defaults;
        use crate::pipeline::Request;
        let request = Request { width: Some(width), ..Request::default() };
        let plan = request.plan(&Defaults::of_unknown_model(), 0).unwrap_or_else(|e| panic!("{e}"));
        let files = stack.split(' ').filter(|file| !file.is_empty()).map(PathBuf::from).collect();
        let networks =
            Networks { model: model.into(), stack: stack.into(), files, ..Networks::default() };
        let job = Job { request, ..Job::default() };
        let ready = Self::pack(job, &plan, Arc::new(networks)).unwrap_or_else(|e| panic!("{e}"));
        Self { id: line.to_string(), content: line.to_string(), line, ..ready }
    }
}
