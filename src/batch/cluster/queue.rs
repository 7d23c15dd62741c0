//! Where a worker gets its jobs from, and what it reports.

use crate::batch::manifest::Entry;
use crate::batch::ready::Ready;
use crate::error::Result;
use std::fmt::Debug;
use std::time::Duration;

/// Jobs that one worker has for itself for a while.
#[derive(Debug)]
pub struct Portion {
    /// The jobs, neighbours in the list.
    pub jobs: Vec<Ready>,
    /// What another worker reported of them before it let them go.
    pub before: Vec<Entry>,
}

/// The answer to a worker without jobs.
#[derive(Debug)]
pub enum Next {
    /// These.
    Jobs(Box<Portion>),
    /// None now, but another worker may fail: ask again after this time.
    Wait(Duration),
    /// All jobs have ended.
    Over,
}

/// Whether a worker still has its portion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    /// It has.
    Ours,
    /// Another worker took it over, because this one gave no sign of life.
    Lost,
}

/// The answer to a worker that is about to make a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begin {
    /// It shall.
    Go,
    /// It has lost the portion.
    Lost,
    /// So many workers began this job, and none gave a sign of life afterwards: it fails without another try.
    GaveUp(u32),
}

/// Hands jobs to workers, each to one of them at a time.
pub trait Queue: Debug {
    /// The next jobs; `stack`: the model and the LoRAs that the worker has in memory, as `loaded` writes them.
    ///
    /// # Errors
    /// What the place of the queue gives.
    fn next(&mut self, stack: &str) -> Result<Next>;

    /// Tells the queue which job of the portion is about to be made.
    ///
    /// # Errors
    /// What the place of the queue gives.
    fn begin(&mut self, id: &str) -> Result<Begin>;

    /// Reports the end of a job of the portion.
    ///
    /// # Errors
    /// What the place of the queue gives.
    fn report(&mut self, entry: Entry) -> Result<Hold>;

    /// Ends the portion: all of its jobs have been reported.
    ///
    /// # Errors
    /// What the place of the queue gives.
    fn finish(&mut self) -> Result<()>;

    /// Gives the rest of the portion back at once, because this worker stops.
    ///
    /// # Errors
    /// What the place of the queue gives.
    fn release(&mut self) -> Result<()>;
}

/// What a worker that made `job` has in memory.
pub(super) fn loaded(job: &Ready) -> String {
    format!("{} {}", job.networks.model, job.networks.stack)
}
