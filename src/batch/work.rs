//! Makes the pictures of a list that are not there yet. A failure costs its job, a crash at most the picture at work.

use super::check::{Ready, Reason, is_of_file};
use super::grace::Grace;
use super::manifest::{Entry, Manifest, Seconds, Status};
use super::present::{Pictures, Presence};
use crate::app::{self, Moment, Observer, Pool, SaveOptions, Saved};
use crate::atomic_file::{self, Care};
use crate::error::{At, Error, Fault, LineError, Result};
use crate::pipeline::{Cancel, Timings};
use crate::plain::hex;
use sha2::{Digest, Sha256};
use std::cell::RefCell;
use std::io::{ErrorKind, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Failures of colora itself, or of writing, one after the other, after which nothing will go well.
const MOST_IN_A_ROW: usize = 5;

/// How a list is worked off.
#[derive(Debug, Clone)]
pub struct Options {
    /// The folder of pictures, plan and log.
    pub folder: PathBuf,
    /// Whether the contents of pictures that are there are compared with the log.
    pub verify: bool,
    /// Whether jobs that failed are tried again.
    pub retry_failed: bool,
    /// Whether settings are written into the pictures.
    pub metadata: bool,
    /// How long the present picture may still take when a stop is asked for.
    pub grace: Duration,
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
pub enum Happening<'a> {
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
    /// A job failed, and the log says so.
    Failed {
        /// The job.
        job: &'a Ready,
        /// Why.
        reason: &'a Reason,
    },
}

/// Receives what happens; breaking stops the work after the job.
pub type Watcher<'a> = &'a dyn Fn(&Happening<'_>) -> ControlFlow<()>;

/// What the work came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    /// Pictures that were made now.
    pub made: usize,
    /// Jobs that failed now.
    pub failed: usize,
}

/// Work on a folder, which no other program works on.
#[derive(Debug)]
pub struct Work {
    options: Options,
    pictures: Pictures,
    manifest: Manifest,
}

impl Work {
    /// Opens the folder for a list of `jobs` jobs; makes it when it is not there.
    ///
    /// # Errors
    /// [`Error::Write`], and [`Error::Unsupported`] when another program works on it.
    pub fn open(options: Options, jobs: usize) -> Result<Self> {
        atomic_file::make_folder(&options.folder)?;
        let manifest = Manifest::open(&options.folder)?;
        let pictures = Pictures::list(&options.folder, jobs)?;
        Ok(Self { options, pictures, manifest })
    }

    /// Lines of the log that could not be read.
    pub fn unreadable(&self) -> usize {
        self.manifest.unreadable
    }

    /// The file that the picture of a job is, or will be.
    pub fn path(&self, id: &str) -> PathBuf {
        self.pictures.path(id)
    }

    /// Finds out what is there and what is left to do; pictures that the log does not know are added to it.
    ///
    /// # Errors
    /// [`Error::Lines`] naming `source` where another picture has the name of a job; what reading and writing give.
    pub fn todo(&mut self, jobs: &[Ready], source: &Path) -> Result<Todo> {
        let mut todo = Todo::default();
        let mut mistakes = Vec::new();
        for job in jobs {
            let entry = self.manifest.get(&job.id);
            let failed = entry.is_some_and(|entry| entry.status == Status::Failed);
            let task = match self.pictures.look(job, entry, self.options.verify) {
                Ok(Presence::Done) => {
                    todo.present += 1;
                    Task::Nothing
                }
                Ok(Presence::Unlogged { sha256, bytes }) => {
                    todo.present += 1;
                    todo.unlogged += 1;
                    let found = Entry {
                        sha256: Some(sha256),
                        bytes: Some(bytes),
                        file: Some(self.pictures.place(&job.id).to_string_lossy().into_owned()),
                        ..self.entry(job, Status::Done)
                    };
                    self.manifest.push(found)?;
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

    /// Makes the pictures. `pools` gives the pool that opens the models; a GPU that is full gets a fresh one.
    ///
    /// # Errors
    /// [`Error::Cancelled`] when a stop was asked for, [`Error::Write`] when the disk is full or several pictures in a
    /// row cannot be written, [`Error::Internal`] after several failures of colora itself; the failures of single jobs
    /// are in the log.
    pub fn run(
        &mut self,
        jobs: &[Ready],
        todo: &Todo,
        pools: &dyn Fn() -> Pool,
        watcher: Watcher<'_>,
        asked: &Cancel,
    ) -> Result<Tally> {
        let grace = Grace::new(asked, self.options.grace);
        let mut runner = Runner {
            pools,
            pool: pools(),
            watcher,
            grace: &grace,
            broken: Vec::new(),
            in_a_row: 0,
        };
        let mut tally = Tally::default();
        let open = jobs.iter().zip(&todo.tasks).filter(|(_, task)| **task != Task::Nothing);
        let mut ended = Ok(());
        for (job, task) in open {
            if grace.is_asked() {
                ended = Err(Error::Cancelled);
                break;
            }
            if let Err(error) = self.one(job, *task, &mut runner, &mut tally) {
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
        runner: &mut Runner<'_>,
        tally: &mut Tally,
    ) -> Result<()> {
        let _ = (runner.watcher)(&Happening::Begin { job });
        let to = Destination {
            path: self.pictures.path(&job.id),
            force: task == Task::Replace,
            metadata: self.options.metadata,
        };
        let flow = match runner.make(job, &to) {
            Ok(made) => {
                let entry = Entry {
                    file: Some(self.pictures.place(&job.id).to_string_lossy().into_owned()),
                    sha256: Some(made.sha256),
                    bytes: Some(made.bytes),
                    started: Some(made.started),
                    seconds: Some(made.seconds),
                    device: Some(made.device),
                    ..self.entry(job, Status::Done)
                };
                self.manifest.push(entry.clone())?;
                tally.made += 1;
                (runner.watcher)(&Happening::Made { job, path: &to.path, entry: &entry })
            }
            Err(End::Stop(error)) => return Err(error),
            Err(End::Failed(reason)) => {
                let error = Some(reason.clone().into());
                self.manifest.push(Entry { error, ..self.entry(job, Status::Failed) })?;
                tally.failed += 1;
                (runner.watcher)(&Happening::Failed { job, reason: &reason })
            }
        };
        if flow.is_break() { Err(Error::Cancelled) } else { Ok(()) }
    }

    /// What the log says of any end of a job.
    fn entry(&self, job: &Ready, status: Status) -> Entry {
        Entry {
            v: 1,
            id: job.id.clone(),
            line: job.line,
            status,
            file: None,
            sha256: None,
            bytes: None,
            seed: Some(job.plan.seed),
            model: job.job.model_name().to_owned(),
            stack: job.plan.loras.iter().map(ToString::to_string).collect(),
            width: job.plan.width,
            height: job.plan.height,
            started: None,
            seconds: None,
            attempt: self.manifest.get(&job.id).map_or(1, |entry| entry.attempt.saturating_add(1)),
            worker: std::process::id(),
            device: None,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            labels: job.labels.clone(),
            error: None,
        }
    }
}

/// Where a picture goes.
struct Destination {
    path: PathBuf,
    /// Whether a file that is there is replaced.
    force: bool,
    metadata: bool,
}

/// A picture that was made.
struct Made {
    sha256: String,
    bytes: u64,
    started: String,
    seconds: Seconds,
    device: String,
}

/// Why a job did not come to a picture.
enum End {
    /// It failed; the next one may not.
    Failed(Reason),
    /// No other job can go on.
    Stop(Error),
}

/// What outlives a job.
struct Runner<'a> {
    pools: &'a dyn Fn() -> Pool,
    pool: Pool,
    watcher: Watcher<'a>,
    grace: &'a Grace,
    /// LoRA files that could not be used with a model: they are not read again.
    broken: Vec<Broken>,
    /// Failures of colora itself, or of writing, one after the other.
    in_a_row: usize,
}

struct Broken {
    model: String,
    file: PathBuf,
    reason: Reason,
}

impl Runner<'_> {
    /// Makes the picture of a job; a GPU that is full is emptied for a second attempt.
    fn make(&mut self, job: &Ready, to: &Destination) -> Result<Made, End> {
        let known = self
            .broken
            .iter()
            .find(|broken| broken.model == job.model && job.files.contains(&broken.file));
        if let Some(reason) = job.doomed.as_ref().or(known.map(|broken| &broken.reason)) {
            return Err(End::Failed(reason.clone()));
        }
        let mut done = self.attempt(job, to);
        if let Err(Error::DeviceMemory { .. }) = done {
            self.pool = (self.pools)();
            done = self.attempt(job, to);
        }
        match done {
            Ok(made) => {
                self.in_a_row = 0;
                Ok(made)
            }
            Err(error) => Err(self.end(job, error)),
        }
    }

    /// What an error is to the jobs that follow.
    fn end(&mut self, job: &Ready, error: Error) -> End {
        if is_final(&error) {
            return End::Stop(error);
        }
        let of_machine = matches!(error, Error::Write { .. }) || error.fault() == Fault::Internal;
        self.in_a_row = if of_machine { self.in_a_row + 1 } else { 0 };
        if self.in_a_row >= MOST_IN_A_ROW {
            return End::Stop(error);
        }
        let reason = Reason::of(&error);
        let file =
            path_of(&error).and_then(|path| job.files.iter().find(|file| path.starts_with(file)));
        if let Some(file) = file.filter(|_| is_of_file(&error)) {
            let (model, file) = (job.model.clone(), file.clone());
            self.broken.push(Broken { model, file, reason: reason.clone() });
        }
        End::Failed(reason)
    }

    /// One attempt. The picture is on the disk, whole, before it has its name.
    fn attempt(&self, job: &Ready, to: &Destination) -> Result<Made> {
        let save = SaveOptions { hand_over: true, metadata: to.metadata, ..SaveOptions::default() };
        let started = moment();
        let written: RefCell<Option<Result<Made>>> = RefCell::new(None);
        let device = RefCell::new(String::new());
        let observer = |event: &app::Event<'_>| {
            // The work looks at its own flag; whoever asks for a stop watches this one.
            self.grace.is_asked();
            let _ = (self.watcher)(&Happening::App(event));
            if let app::Event::Saved(saved) = event {
                let made = write(saved, to, &started);
                *written.borrow_mut() =
                    Some(made.map(|made| Made { device: device.take(), ..made }));
            }
            ControlFlow::Continue(())
        };
        let observer: &dyn Observer = &observer;
        let prepared = app::prepare(&self.pool, &job.job, &save, observer, self.grace.work())?;
        *device.borrow_mut() = prepared.pipeline.device_name();
        let done = prepared.run(observer, self.grace.work());
        let none = || Err(Error::Internal("a job made no picture".into()));
        match (written.take(), done) {
            (Some(made), _) => made,
            (None, Err(error)) => Err(error),
            (None, Ok(_)) => none(),
        }
    }
}

/// Writes a picture, never over another one.
fn write(saved: &Saved<'_>, to: &Destination, started: &str) -> Result<Made> {
    let begin = Instant::now();
    let bytes = saved.bytes;
    if let Some(folder) = to.path.parent().filter(|folder| !folder.is_dir()) {
        atomic_file::make_folder(folder)?;
    }
    atomic_file::write(&to.path, to.force, Care::Lasting, |file| {
        file.write_all(bytes).map_err(|error| Error::write(&to.path, error))
    })?;
    let Timings { load, compose, encode, sample, decode, .. } = saved.image.timings;
    let seconds = Seconds {
        load: load.as_secs_f64(),
        compose: compose.as_secs_f64(),
        encode: encode.as_secs_f64(),
        sample: sample.as_secs_f64(),
        decode: decode.as_secs_f64(),
        save: begin.elapsed().as_secs_f64(),
    };
    Ok(Made {
        sha256: hex(&Sha256::digest(bytes)),
        bytes: bytes.len() as u64,
        started: started.to_owned(),
        seconds,
        device: String::new(),
    })
}

/// Whether every job that follows would end in the same way, or nobody wants it any more.
fn is_final(error: &Error) -> bool {
    match error {
        Error::Cancelled | Error::Threads { .. } => true,
        Error::Write { source, .. } | Error::Io { source, .. } => matches!(
            source.kind(),
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::ReadOnlyFilesystem
        ),
        Error::At(At { error, .. }) => is_final(error),
        _ => false,
    }
}

/// The file that an error is about.
fn path_of(error: &Error) -> Option<&Path> {
    match error {
        Error::Corrupt { path, .. }
        | Error::UnsafePickle { path, .. }
        | Error::WrongFamily { path, .. }
        | Error::Io { path, .. }
        | Error::At(At { path, .. }) => Some(path),
        _ => None,
    }
}

/// This moment, UTC: `2026-11-28T12:00:00Z`.
fn moment() -> String {
    let Moment { date, time } = Moment::utc();
    let part = |range: std::ops::Range<usize>| time.get(range).unwrap_or("00").to_owned();
    format!("{date}T{}:{}:{}Z", part(0..2), part(2..4), part(4..6))
}
