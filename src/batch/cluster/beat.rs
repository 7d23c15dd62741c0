//! Signs of life: an object that a worker overwrites again and again while it has a chunk. Others compare its counter
//! with the one they saw before, by their own clock: no clock is compared between machines.

use super::objects::{Objects, Patient};
use crate::batch::manifest::Entry;
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// A sign of life.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Beat {
    /// How many there were before.
    pub(super) n: u64,
    /// Whether the worker gave the chunk back.
    #[serde(default)]
    pub(super) released: bool,
    /// The jobs of the chunk that ended.
    #[serde(default)]
    pub(super) entries: Vec<Entry>,
}

/// The signs of life for one chunk, given by a thread of their own until this value is dropped.
#[derive(Debug)]
pub(super) struct Beating {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    objects: Arc<Patient<dyn Objects>>,
    /// The object of the beats.
    name: String,
    /// The claim of a worker that takes the chunk over.
    successor: String,
    beat: Mutex<Beat>,
    /// Held while the object is written: an older beat never replaces a newer one.
    writing: Mutex<()>,
    lost: AtomicBool,
    over: Mutex<bool>,
    ended: Condvar,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Beating {
    /// Begins: a beat every `interval` into the object `name`.
    ///
    /// # Errors
    /// [`Error::Threads`].
    pub(super) fn start(
        objects: &Arc<Patient<dyn Objects>>,
        name: String,
        successor: String,
        entries: Vec<Entry>,
        interval: Duration,
    ) -> Result<Self> {
        let shared = Arc::new(Shared {
            objects: objects.clone(),
            name,
            successor,
            beat: Mutex::new(Beat { entries, ..Beat::default() }),
            writing: Mutex::default(),
            lost: AtomicBool::new(false),
            over: Mutex::new(false),
            ended: Condvar::new(),
        });
        let mine = shared.clone();
        let work = move || {
            while !mine.wait(interval) {
                // A store that is out of reach is a reason to go on trying, not to stop.
                let _ = mine.look();
            }
        };
        let thread = std::thread::Builder::new().name("beat".into()).spawn(work);
        let thread = thread.map_err(|source| Error::Threads { source })?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Adds the end of a job, which the next beat carries.
    pub(super) fn push(&self, entry: Entry) {
        lock(&self.shared.beat).entries.push(entry);
    }

    /// The ends of jobs so far.
    pub(super) fn entries(&self) -> Vec<Entry> {
        lock(&self.shared.beat).entries.clone()
    }

    /// Gives a sign of life now.
    ///
    /// # Errors
    /// What the store gives.
    pub(super) fn now(&self) -> Result<()> {
        self.shared.look()
    }

    /// Whether another worker has taken the chunk over.
    pub(super) fn is_lost(&self) -> bool {
        self.shared.lost.load(Ordering::Relaxed)
    }

    /// Gives the chunk back, so that others need not wait for it.
    ///
    /// # Errors
    /// What the store gives.
    pub(super) fn release(mut self) -> Result<()> {
        self.stop();
        lock(&self.shared.beat).released = true;
        self.shared.write()
    }

    fn stop(&mut self) {
        *lock(&self.shared.over) = true;
        self.shared.ended.notify_all();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Beating {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Shared {
    /// Waits for the time of the next beat; true when there shall be none.
    fn wait(&self, interval: Duration) -> bool {
        let over = lock(&self.over);
        let waited = self.ended.wait_timeout_while(over, interval, |over| !*over);
        waited.map_or(true, |(over, _)| *over)
    }

    /// Writes a beat, and looks whether somebody took the chunk over.
    fn look(&self) -> Result<()> {
        if self.objects.get(&self.successor)?.is_some() {
            self.lost.store(true, Ordering::Relaxed);
            return Ok(());
        }
        self.write()
    }

    fn write(&self) -> Result<()> {
        let writing = lock(&self.writing);
        let bytes = {
            let mut beat = lock(&self.beat);
            beat.n += 1;
            serde_json::to_vec(&*beat)
        };
        let bytes = bytes.map_err(|error| Error::Internal(format!("a beat: {error}")))?;
        let done = self.objects.put(&self.name, &bytes);
        drop(writing);
        done
    }
}
