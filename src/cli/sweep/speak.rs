//! What is said while cells are made.

use crate::app::{self, SCHEMA};
use crate::batch::{Entry, Event, Ready, Task, Todo};
use crate::cli::progress::Progress;
use crate::cli::style::{Talk, result_json};
use crate::pipeline::Observer as _;
use anyhow::Result;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::{Duration, Instant};

/// Time between two lines about how far the sweep is.
const OFTEN: Duration = Duration::from_secs(10);

/// Turns what happens into lines, and remembers what became of each cell.
pub(super) struct Speaker<'a> {
    progress: &'a Progress,
    talk: Talk,
    json: bool,
    open: usize,
    ended: Cell<usize>,
    said: Cell<Instant>,
    failed: RefCell<BTreeMap<String, String>>,
    seconds: RefCell<BTreeMap<String, f64>>,
    /// Why a cell could not be reported: nobody reads stdout any more.
    failure: RefCell<Option<anyhow::Error>>,
}

impl<'a> Speaker<'a> {
    pub(super) fn new(progress: &'a Progress, talk: Talk, json: bool, todo: &Todo) -> Self {
        Self {
            progress,
            talk,
            json,
            open: todo.tasks.iter().filter(|task| **task != Task::Nothing).count(),
            ended: Cell::new(0),
            said: Cell::new(Instant::now()),
            failed: RefCell::default(),
            seconds: RefCell::default(),
            failure: RefCell::default(),
        }
    }

    /// Why a cell could not be reported.
    pub(super) fn failure(&self) -> Option<anyhow::Error> {
        self.failure.take()
    }

    /// The cells that failed, by their names, and why.
    pub(super) fn failed(&self) -> BTreeMap<String, String> {
        self.failed.take()
    }

    /// How long each cell took, by its name.
    pub(super) fn seconds(&self) -> BTreeMap<String, f64> {
        self.seconds.take()
    }

    pub(super) fn hear(&self, event: &Event<'_>) -> ControlFlow<()> {
        match event {
            Event::App(app::Event::Transfer(transfer)) => self.progress.transfer(transfer),
            Event::App(app::Event::Pipeline(event)) => self.progress.event(event),
            Event::Made { job, path, entry } => {
                if let Some(seconds) = entry.seconds {
                    let seconds = seconds.load
                        + seconds.compose
                        + seconds.encode
                        + seconds.sample
                        + seconds.decode;
                    self.seconds.borrow_mut().insert(job.id.clone(), seconds);
                }
                if let Err(error) = self.progress.aside(|| self.print(job, path, entry)) {
                    *self.failure.borrow_mut() = Some(error);
                    return ControlFlow::Break(());
                }
                self.ended();
            }
            Event::Found { .. } => self.ended(),
            Event::Failed { job, reason } => {
                let message = reason.message.clone();
                let text = format!("a cell failed: {message}");
                self.progress.aside(|| self.talk.say(&text));
                self.failed.borrow_mut().insert(job.id.clone(), message);
                self.ended();
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }

    /// Prints a cell as JSON.
    fn print(&self, job: &Ready, path: &Path, entry: &Entry) -> Result<()> {
        if !self.json {
            return Ok(());
        }
        let made = job.job()?;
        let line = serde_json::json!({
            "schema": SCHEMA, "event": "saved", "path": path.to_string_lossy(), "id": job.id, "index": 0,
            "seed": job.seed, "width": job.width, "height": job.height, "model": made.model_name(),
            "made_with": made.choice(), "timings": entry.seconds, "labels": job.labels, "request": made.request,
        });
        result_json(&line.to_string())
    }

    /// Says how far the sweep is, now and then.
    fn ended(&self) {
        self.ended.set(self.ended.get() + 1);
        if self.said.get().elapsed() >= OFTEN {
            self.said.set(Instant::now());
            let text = format!("{} of {} cells", self.ended.get(), self.open);
            self.progress.aside(|| self.talk.say(&text));
        }
    }
}
