//! Makes the pictures of a list, or of a part of it, that are not there yet. A failure costs its job, a crash at most the
//! picture at work.

use super::event::{Event, Observer};
use super::grace::Grace;
use super::make::{Around, Destination, End, Made, Maker};
use super::manifest::{Entry, Manifest, Status};
use super::present::{Pictures, Presence};
use super::ready::{Ready, Reason};
use crate::app::Pool;
use crate::error::{Error, LineError, Result};
use crate::pipeline::Cancel;
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
    /// How many pictures that differ in nothing but their seeds are evaluated at once.
    pub batch: usize,
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
            batch: 1,
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
        let open = jobs.iter().zip(todo.tasks.iter().copied());
        let open: Vec<_> = open.filter(|(_, task)| *task != Task::Nothing).collect();
        let mut rest = &open[..];
        let mut ended = Ok(());
        while let Some(((job, task), _)) = rest.split_first() {
            if grace.is_asked() {
                ended = Err(Error::Cancelled);
                break;
            }
            let (now, later) = rest.split_at(siblings(rest, self.options.batch));
            rest = later;
            let done = match now {
                [_] => self.one(job, *task, &around, &mut tally),
                _ => self.several(now, &around, &mut tally),
            };
            if let Err(error) = done {
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
        if task == Task::Make && self.has_ended(job, around, tally)? {
            return Ok(());
        }
        if (around.observer)(&Event::Begin { job }).is_break() {
            return Err(Error::Cancelled);
        }
        let to = Destination {
            storage: self.pictures.storage(),
            name: self.pictures.name(job),
            replace: task == Task::Replace,
            metadata: self.options.metadata,
        };
        match self.maker.make(job, &to, around) {
            Ok(made) => self.made(job, made, around, tally),
            Err(End::Stop(error)) => Err(error),
            Err(End::Taken) if self.has_ended(job, around, tally)? => Ok(()),
            Err(End::Taken) => {
                let path = self.pictures.path(job);
                self.fail(job, &Reason::of(&Error::Exists { path }), around, tally)
            }
            // A storage that did what it was asked, and lost the answer.
            Err(End::Failed(_)) if self.is_found(job).unwrap_or(false) => found(job, around, tally),
            Err(End::Failed(reason)) => self.fail(job, &reason, around, tally),
        }
    }

    /// Makes pictures that differ in nothing but their seeds at once; what that did not make, alone.
    ///
    /// # Errors
    /// What ends the work.
    fn several(
        &mut self,
        open: &[(&Ready, Task)],
        around: &Around<'_>,
        tally: &mut Tally,
    ) -> Result<()> {
        let mut jobs = Vec::new();
        for (job, _) in open {
            if self.has_ended(job, around, tally)? {
                continue;
            }
            if (around.observer)(&Event::Begin { job }).is_break() {
                return Err(Error::Cancelled);
            }
            jobs.push(*job);
        }
        let to = jobs.iter().map(|job| Destination {
            storage: self.pictures.storage(),
            name: self.pictures.name(job),
            replace: false,
            metadata: self.options.metadata,
        });
        let to: Vec<Destination<'_>> = to.collect();
        let made = self.maker.make_siblings(&jobs, &to, around)?;
        let mut stopped = Ok(());
        // All that is there goes into the log, whatever is asked meanwhile.
        let mut left = Vec::new();
        for (job, made) in jobs.into_iter().zip(made) {
            match made {
                Some(made) => stopped = self.made(job, made, around, tally).and(stopped),
                None => left.push(job),
            }
        }
        stopped?;
        left.into_iter().try_for_each(|job| self.one(job, Task::Make, around, tally))
    }

    /// Logs a picture that was made.
    fn made(
        &mut self,
        job: &Ready,
        made: Made,
        around: &Around<'_>,
        tally: &mut Tally,
    ) -> Result<()> {
        let entry = Entry {
            file: Some(self.pictures.name(job)),
            sha256: Some(made.sha256),
            bytes: Some(made.bytes),
            started: Some(made.started),
            seconds: Some(made.seconds),
            device: Some(made.device),
            ..self.entry(job, Status::Done)
        };
        self.manifest.push(entry.clone())?;
        tally.made += 1;
        let path = self.pictures.path(job);
        let flow = (around.observer)(&Event::Made { job, path: &path, entry: &entry });
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

    /// Whether nothing is left to do: another worker has made the picture since the listing, or has put another one in
    /// its place, which is a failure of this job alone.
    fn has_ended(&mut self, job: &Ready, around: &Around<'_>, tally: &mut Tally) -> Result<bool> {
        match self.is_found(job) {
            Ok(false) => Ok(false),
            Ok(true) => found(job, around, tally).map(|()| true),
            Err(error @ Error::BadRequest { .. }) => {
                self.fail(job, &Reason::of(&error), around, tally).map(|()| true)
            }
            Err(error) => Err(error),
        }
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

    /// Adds a picture to the log that was found.
    fn log_found(&mut self, job: &Ready, sha256: String, bytes: u64) -> Result<()> {
        let file = Some(self.pictures.name(job));
        let (sha256, bytes) = (Some(sha256), Some(bytes));
        let entry = Entry { file, sha256, bytes, ..self.entry(job, Status::Done) };
        self.manifest.push(entry)
    }

    /// What the log says of any end of a job.
    fn entry(&self, job: &Ready, status: Status) -> Entry {
        let attempts = self.manifest.get(&job.id).map_or(0, |logged| logged.attempt);
        let attempt = attempts.saturating_add(1);
        Entry { attempt, ..Entry::of(job, status, &self.options.worker) }
    }
}

/// Counts and reports a picture that another worker has made in the meantime.
fn found(job: &Ready, around: &Around<'_>, tally: &mut Tally) -> Result<()> {
    tally.found += 1;
    let flow = (around.observer)(&Event::Found { job });
    if flow.is_break() { Err(Error::Cancelled) } else { Ok(()) }
}

/// How many of the first jobs are made at once: those that differ in nothing but their seeds, at most `most`.
fn siblings(open: &[(&Ready, Task)], most: usize) -> usize {
    let Some((first, _)) = open.first() else { return 0 };
    let fits = |(job, task): &&(&Ready, Task)| {
        *task == Task::Make
            && job.siblings == first.siblings
            && job.networks == first.networks
            && job.networks.doomed.is_none()
    };
    open.iter().take(most.max(1)).take_while(fits).count().max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn siblings_are_jobs_that_differ_in_their_seeds() {
        let jobs = [(1, "", 64), (2, "", 64), (3, "", 72), (4, "a", 72), (5, "a", 72)];
        let jobs = jobs.map(|(line, stack, width)| Ready::sample(line, "m", stack, width));
        let tasks = [Task::Make, Task::Make, Task::Make, Task::Make, Task::Replace];
        let open: Vec<_> = jobs.iter().zip(tasks).collect();
        let counts: Vec<usize> = (0..5).map(|at| siblings(&open[at..], 9)).collect();
        assert_eq!(counts, [2, 1, 1, 1, 1]);
        assert_eq!((siblings(&open, 1), siblings(&[], 9)), (1, 0));
    }
}
