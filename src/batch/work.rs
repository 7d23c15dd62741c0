//! Makes the pictures of a list, or of a part of it, that are not there yet. A failure costs its job, a crash at most the
//! picture at work.

use super::grace::Grace;
use super::make::{Around, Destination, End, Maker};
use super::manifest::{Entry, Manifest, Status};
use super::present::{Pictures, Presence};
use super::ready::{Ready, Reason};
use crate::app::{self, Pool};
use crate::error::{Error, LineError, Result};
use crate::pipeline::Cancel;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How a list is worked off.
#[derive(Debug, Clone)]
pub struct Options {
    /// Whether the contents of pictures that are there are compared with the log.
    pub verify: bool,
    /// Whether jobs that failed are tried again.
    pub retry_failed: bool,
    /// Whether settings are written into the pictures.
    pub metadata: bool,
    /// How long the present picture may still take when a stop is asked for.
    pub grace: Duration,
    /// What the log calls whoever makes the pictures.
    pub worker: String,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            verify: false,
            retry_failed: false,
            metadata: true,
            grace: Duration::from_secs(20),
            worker: std::process::id().to_string(),
        }
    }
}

/// What there is to do.
#[derive(Debug, Default)]
pub struct Todo {
    /// For each job, in their order, what to do.
    pub tasks: Vec<Task>,
    /// How many pictures are there.
    pub present: usize,
    /// How many pictures are there of which the log said nothing.
    pub unlogged: usize,
    /// Jobs that failed before and are left alone.
    pub failed_before: usize,
    /// How many pictures are damaged and are made again.
    pub damaged: usize,
}

/// What to do with a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    /// Its picture is there, or it failed and is left alone.
    Nothing,
    /// Make it.
    Make,
    /// Make it in the place of a file that is damaged.
    Replace,
}

/// What happens during the work.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// A job begins.
    Begin {
        /// The job.
        job: &'a Ready,
    },
    /// The job at work.
    App(&'a app::Event<'a>),
    /// A picture is there and in the log.
    Made {
        /// The job.
        job: &'a Ready,
        /// The picture's file.
        path: &'a Path,
        /// The line in the log.
        entry: &'a Entry,
    },
    /// The picture of a job is there: another worker was faster.
    Found {
        /// The job.
        job: &'a Ready,
    },
    /// A job failed, and the log says so.
    Failed {
        /// The job.
        job: &'a Ready,
        /// Why.
        reason: &'a Reason,
    },
}

/// Receives events; breaking stops the work after the job.
pub type Observer<'a> = &'a dyn Fn(&Event<'_>) -> ControlFlow<()>;

/// What the work came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    /// Pictures that were made now.
    pub made: usize,
    /// Pictures that another worker made meanwhile.
    pub found: usize,
    /// Jobs that failed now.
    pub failed: usize,
}

/// A worker: pictures, a log, and a model that stays open from one part of the list to the next.
pub struct Work<'a> {
    options: Options,
    pictures: Pictures,
    manifest: Manifest,
    maker: Maker<'a>,
}

impl std::fmt::Debug for Work<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Work").field("options", &self.options).finish_non_exhaustive()
    }
}

impl<'a> Work<'a> {
    /// A worker. `pools` gives the pool that opens the models; a GPU that is full gets a fresh one.
    pub fn new(
        options: Options,
        pictures: Pictures,
        manifest: Manifest,
        pools: &'a dyn Fn() -> Pool,
    ) -> Self {
        Self { options, pictures, manifest, maker: Maker::new(pools) }
    }

    /// The log.
    pub fn manifest(&mut self) -> &mut Manifest {
        &mut self.manifest
    }

    /// The file of a job's picture, to be shown.
    pub fn path(&self, job: &Ready) -> PathBuf {
        self.pictures.path(job)
    }

    /// Finds out what is there and what is left to do; pictures that the log does not know are added to it.
    ///
    /// # Errors
    /// [`Error::Lines`] naming `source` where another picture has the name of a job; what reading and writing give.
    pub fn todo(&mut self, jobs: &[Ready], source: &Path) -> Result<Todo> {
        let mut todo = Todo::default();
        let mut mistakes = Vec::new();
        for job in jobs {
            let logged = self.manifest.get(&job.id);
            let failed = logged.is_some_and(|logged| logged.status == Status::Failed);
            let task = match self.pictures.look(job, logged, self.options.verify) {
                Ok(Presence::Done) => {
                    todo.present += 1;
                    Task::Nothing
                }
                Ok(Presence::Unlogged { sha256, bytes }) => {
                    todo.present += 1;
                    todo.unlogged += 1;
                    self.log_found(job, sha256, bytes)?;
                    Task::Nothing
                }
                Ok(Presence::Damaged) => {
                    todo.damaged += 1;
                    Task::Replace
                }
                Ok(Presence::Absent) if failed && !self.options.retry_failed => {
                    todo.failed_before += 1;
                    Task::Nothing
                }
                Ok(Presence::Absent) => Task::Make,
                Err(error @ Error::BadRequest { .. }) => {
                    mistakes.push(LineError::new(job.line, error));
                    Task::Nothing
                }
                Err(error) => return Err(error),
            };
            todo.tasks.push(task);
        }
        if mistakes.is_empty() {
            Ok(todo)
        } else {
            Err(Error::Lines { path: source.to_path_buf(), mistakes })
        }
    }

    /// Makes the pictures of `jobs` that `todo` names; may be called again for other parts of the list.
    ///
    /// # Errors
    /// [`Error::Cancelled`] when a stop was `asked` for, [`Error::Write`] when the disk is full or several pictures in a
    /// row cannot be written, [`Error::Internal`] after several failures of colora itself; the failures of single jobs
    /// are in the log.
    pub fn run(
        &mut self,
        jobs: &[Ready],
        todo: &Todo,
        observer: Observer<'_>,
        asked: &Cancel,
    ) -> Result<Tally> {
        let grace = Grace::new(asked, self.options.grace);
        let around = Around { observer, grace: &grace };
        let mut tally = Tally::default();
        let open = jobs.iter().zip(&todo.tasks).filter(|(_, task)| **task != Task::Nothing);
        let mut ended = Ok(());
        for (job, task) in open {
            if grace.is_asked() {
                ended = Err(Error::Cancelled);
                break;
            }
            if let Err(error) = self.one(job, *task, &around, &mut tally) {
                ended = Err(error);
                break;
            }
        }
        self.manifest.sync()?;
        ended.map(|()| tally)
    }

    /// Makes one picture and logs it, or logs that it failed.
    ///
    /// # Errors
    /// What ends the work.
    fn one(
        &mut self,
        job: &Ready,
        task: Task,
        around: &Around<'_>,
        tally: &mut Tally,
    ) -> Result<()> {
        if task == Task::Make && self.is_found(job)? {
            return self.found(job, around, tally);
        }
        if (around.observer)(&Event::Begin { job }).is_break() {
            return Err(Error::Cancelled);
        }
        let (name, path) = (self.pictures.name(job), self.pictures.path(job));
        let to = Destination {
            storage: self.pictures.storage(),
            name: name.clone(),
            replace: task == Task::Replace,
            metadata: self.options.metadata,
        };
        let flow = match self.maker.make(job, &to, around) {
            Ok(made) => {
                let entry = Entry {
                    file: Some(name),
                    sha256: Some(made.sha256),
                    bytes: Some(made.bytes),
                    started: Some(made.started),
                    seconds: Some(made.seconds),
                    device: Some(made.device),
                    ..self.entry(job, Status::Done)
                };
                self.manifest.push(entry.clone())?;
                tally.made += 1;
                (around.observer)(&Event::Made { job, path: &path, entry: &entry })
            }
            Err(End::Stop(error)) => return Err(error),
            Err(End::Taken) if self.is_found(job)? => return self.found(job, around, tally),
            Err(End::Taken) => {
                return self.fail(job, &Reason::of(&Error::Exists { path }), around, tally);
            }
            // A storage that did what it was asked, and lost the answer.
            Err(End::Failed(_)) if self.is_found(job).unwrap_or(false) => {
                return self.found(job, around, tally);
            }
            Err(End::Failed(reason)) => return self.fail(job, &reason, around, tally),
        };
        if flow.is_break() { Err(Error::Cancelled) } else { Ok(()) }
    }

    fn fail(
        &mut self,
        job: &Ready,
        reason: &Reason,
        around: &Around<'_>,
        tally: &mut Tally,
    ) -> Result<()> {
        let error = Some(reason.clone().into());
        self.manifest.push(Entry { error, ..self.entry(job, Status::Failed) })?;
        tally.failed += 1;
        let flow = (around.observer)(&Event::Failed { job, reason });
        if flow.is_break() { Err(Error::Cancelled) } else { Ok(()) }
    }

    /// Whether another worker has made the picture since the listing; the log then has it.
    fn is_found(&mut self, job: &Ready) -> Result<bool> {
        match self.pictures.look_again(job, self.manifest.get(&job.id))? {
            Presence::Done => Ok(true),
            Presence::Unlogged { sha256, bytes } => {
                self.log_found(job, sha256, bytes)?;
                Ok(true)
            }
            Presence::Absent | Presence::Damaged => Ok(false),
        }
    }

    fn found(&mut self, job: &Ready, around: &Around<'_>, tally: &mut Tally) -> Result<()> {
        tally.found += 1;
        let flow = (around.observer)(&Event::Found { job });
        if flow.is_break() { Err(Error::Cancelled) } else { Ok(()) }
    }

    /// Adds a picture to the log that was found.
    fn log_found(&mut self, job: &Ready, sha256: String, bytes: u64) -> Result<()> {
        let file = Some(self.pictures.name(job));
        let (sha256, bytes) = (Some(sha256), Some(bytes));
        let entry = Entry { sha256, bytes, file, ..self.entry(job, Status::Done) };
        self.manifest.push(entry)
    }

    /// What the log says of any end of a job.
    fn entry(&self, job: &Ready, status: Status) -> Entry {
        let attempts = self.manifest.get(&job.id).map_or(0, |logged| logged.attempt);
        let attempt = attempts.saturating_add(1);
        Entry { attempt, ..Entry::of(job, status, &self.options.worker) }
    }
}
