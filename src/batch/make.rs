//! Makes one picture. What outlives a job is kept from one to the next: the open model, LoRA files that cannot be used,
//! and how often in a row something failed that no job is to blame for.

use super::check::is_of_file;
use super::event::{Event, Observer};
use super::grace::Grace;
use super::manifest::Seconds;
use super::ready::{Ready, Reason};
use super::storage::Storage;
use crate::app::{self, Moment, Pool, SaveOptions, Saved};
use crate::error::{At, Error, Fault, Result};
use crate::pipeline::Timings;
use crate::plain::hex;
use sha2::{Digest, Sha256};
use std::cell::RefCell;
use std::io::ErrorKind;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Failures of colora itself, or of writing, one after the other, after which nothing will go well.
const MOST_IN_A_ROW: usize = 5;

/// Where a picture goes.
pub(super) struct Destination<'a> {
    pub(super) storage: &'a dyn Storage,
    pub(super) name: String,
    /// Whether a file that is there is replaced.
    pub(super) replace: bool,
    /// Whether settings are written into the picture.
    pub(super) metadata: bool,
}

/// A picture that was made.
pub(super) struct Made {
    pub(super) sha256: String,
    pub(super) bytes: u64,
    pub(super) started: String,
    pub(super) seconds: Seconds,
    pub(super) device: String,
}

/// Why a job did not come to a picture.
pub(super) enum End {
    /// It failed; the next one may not.
    Failed(Reason),
    /// Another worker was faster.
    Taken,
    /// No other job can go on.
    Stop(Error),
}

/// What outlives a job.
pub(super) struct Maker<'a> {
    pools: &'a dyn Fn() -> Pool,
    pool: Pool,
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

/// What happens around one job.
pub(super) struct Around<'a> {
    pub(super) observer: Observer<'a>,
    pub(super) grace: &'a Grace,
}

impl<'a> Maker<'a> {
    /// `pools` gives the pool that opens the models; a GPU that is full gets a fresh one.
    pub(super) fn new(pools: &'a dyn Fn() -> Pool) -> Self {
        Self { pools, pool: pools(), broken: Vec::new(), in_a_row: 0 }
    }

    /// Makes the picture of a job; a GPU that is full is emptied for a second attempt.
    pub(super) fn make(
        &mut self,
        job: &Ready,
        to: &Destination<'_>,
        around: &Around<'_>,
    ) -> Result<Made, End> {
        let networks = &job.networks;
        let is_known = |broken: &&Broken| {
            broken.model == networks.model && networks.files.contains(&broken.file)
        };
        let known = self.broken.iter().find(is_known).map(|broken| &broken.reason);
        if let Some(reason) = networks.doomed.as_ref().or(known) {
            return Err(End::Failed(reason.clone()));
        }
        let mut done = self.attempt(job, to, around);
        if let Err(Error::DeviceMemory { .. }) = done {
            self.pool = (self.pools)();
            done = self.attempt(job, to, around);
        }
        done.map_err(|error| self.end(job, error)).inspect(|_| self.in_a_row = 0)
    }

    /// Makes the pictures of jobs that differ in nothing but their seeds in one evaluation of the network for each step.
    /// What is not made then is to be made alone, where its failure is its own.
    ///
    /// # Errors
    /// What no other job can go on after.
    pub(super) fn make_siblings(
        &mut self,
        jobs: &[&Ready],
        to: &[Destination<'_>],
        around: &Around<'_>,
    ) -> Result<Vec<Option<Made>>> {
        let written = RefCell::new(Vec::new());
        match self.attempt_siblings(jobs, to, around, &written) {
            Err(error) if is_final(&error) => return Err(error),
            Err(Error::DeviceMemory { .. }) => self.pool = (self.pools)(),
            Ok(()) | Err(_) => {}
        }
        let mut made = written.into_inner();
        self.in_a_row = if made.iter().any(Option::is_some) { 0 } else { self.in_a_row };
        made.resize_with(jobs.len(), || None);
        Ok(made)
    }

    fn attempt_siblings(
        &self,
        jobs: &[&Ready],
        to: &[Destination<'_>],
        around: &Around<'_>,
        written: &RefCell<Vec<Option<Made>>>,
    ) -> Result<()> {
        let (Some(first), Some(metadata)) = (jobs.first(), to.first().map(|to| to.metadata)) else {
            return Ok(());
        };
        let save = SaveOptions { hand_over: true, metadata, ..SaveOptions::default() };
        let (started, device) = (moment(), RefCell::new(String::new()));
        let observer = |event: &app::Event<'_>| {
            around.grace.is_asked();
            let _ = (around.observer)(&Event::App(event));
            let mut written = written.borrow_mut();
            if let (app::Event::Saved(saved), Some(to)) = (event, to.get(written.len())) {
                let made = write(saved, to, &started).ok();
                let device = device.borrow().clone();
                written.push(made.map(|made| Made { device, ..made }));
            }
            ControlFlow::Continue(())
        };
        let observer: &dyn app::Observer = &observer;
        let cancel = around.grace.work();
        let prepared = app::prepare(&self.pool, &first.job()?, &save, observer, cancel)?;
        *device.borrow_mut() = prepared.pipeline.device_name();
        let sibling =
            |job: &&Ready| app::Sibling { seed: job.seed, job: Some(job.content.clone()) };
        let siblings: Vec<app::Sibling> = jobs.iter().map(sibling).collect();
        prepared.run_siblings(&siblings, observer, cancel)
    }

    /// What an error is to the jobs that follow.
    fn end(&mut self, job: &Ready, error: Error) -> End {
        if is_final(&error) {
            return End::Stop(error);
        }
        if matches!(error, Error::Exists { .. }) {
            return End::Taken;
        }
        let of_machine = matches!(error, Error::Write { .. }) || error.fault() == Fault::Internal;
        self.in_a_row = if of_machine { self.in_a_row + 1 } else { 0 };
        if self.in_a_row >= MOST_IN_A_ROW {
            return End::Stop(error);
        }
        let reason = Reason::of(&error);
        let files = &job.networks.files;
        let file =
            path_of(&error).and_then(|path| files.iter().find(|file| path.starts_with(file)));
        if let Some(file) = file.filter(|_| is_of_file(&error)) {
            let (model, file) = (job.networks.model.clone(), file.clone());
            self.broken.push(Broken { model, file, reason: reason.clone() });
        }
        End::Failed(reason)
    }

    /// One attempt. The picture is written, whole and lasting, before it has its name.
    fn attempt(&self, job: &Ready, to: &Destination<'_>, around: &Around<'_>) -> Result<Made> {
        let save = SaveOptions {
            hand_over: true,
            metadata: to.metadata,
            job: Some(job.content.clone()),
            ..SaveOptions::default()
        };
        let started = moment();
        let written: RefCell<Option<Result<Made>>> = RefCell::new(None);
        let device = RefCell::new(String::new());
        let observer = |event: &app::Event<'_>| {
            // The work looks at its own flag; whoever asks for a stop watches this one.
            around.grace.is_asked();
            let _ = (around.observer)(&Event::App(event));
            if let app::Event::Saved(saved) = event {
                let made = write(saved, to, &started);
                let made = made.map(|made| Made { device: device.take(), ..made });
                *written.borrow_mut() = Some(made);
            }
            ControlFlow::Continue(())
        };
        let observer: &dyn app::Observer = &observer;
        let cancel = around.grace.work();
        let prepared = app::prepare(&self.pool, &job.job()?, &save, observer, cancel)?;
        *device.borrow_mut() = prepared.pipeline.device_name();
        let done = prepared.run(observer, cancel);
        let none = || Err(Error::Internal("a job made no picture".into()));
        match (written.take(), done) {
            (Some(made), _) => made,
            (None, Err(error)) => Err(error),
            (None, Ok(_)) => none(),
        }
    }
}

/// Writes a picture, never over another one.
fn write(saved: &Saved<'_>, to: &Destination<'_>, started: &str) -> Result<Made> {
    let begin = Instant::now();
    let bytes = saved.bytes;
    if to.replace {
        to.storage.replace(&to.name, bytes)?;
    } else {
        to.storage.create(&to.name, bytes)?;
    }
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
pub(super) fn moment() -> String {
    let Moment { date, time } = Moment::utc();
    let part = |range: std::ops::Range<usize>| time.get(range).unwrap_or("00").to_owned();
    format!("{date}T{}:{}:{}Z", part(0..2), part(2..4), part(4..6))
}
