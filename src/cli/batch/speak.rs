//! What is said during a batch: a path or a JSON object a picture on stdout, progress and a summary on stderr.

use crate::app::{self, SCHEMA};
use crate::batch::{Entry, Event, Ready, Todo};
use crate::cli::progress::Progress;
use crate::cli::style::{Talk, excerpt, result_json, result_path};
use crate::pipeline::Observer;
use anyhow::Result;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::{Duration, Instant};

/// Time between two lines about how far the batch is.
const OFTEN: Duration = Duration::from_secs(10);
/// Most kinds of failures that the summary names, and lines of each.
const MOST: usize = 10;

/// Says what is there already.
pub(super) fn before(todo: &Todo, unreadable: usize, talk: Talk) {
    let jobs = todo.tasks.len();
    let mut parts = Vec::new();
    let mut part = |count: usize, what: &str| {
        if count > 0 {
            parts.push(format!("{count} {what}"));
        }
    };
    part(todo.present, "are there");
    part(todo.failed_before, "failed before (--retry-failed tries them again)");
    part(todo.damaged, "are damaged and are made again");
    let parts = if parts.is_empty() { String::new() } else { format!(": {}", parts.join(", ")) };
    talk.say(&format!("{jobs} jobs{parts}"));
    if todo.unlogged > 0 {
        talk.say(&format!("{} of them were not in the log, which now has them", todo.unlogged));
    }
    if unreadable > 0 {
        talk.say(&format!("warning: {unreadable} lines of the log are torn or damaged"));
    }
}

/// Turns what happens into lines.
pub(super) struct Report<'a> {
    progress: &'a Progress,
    talk: Talk,
    json: bool,
    began: Instant,
    said: Cell<Instant>,
    open: usize,
    made: Cell<usize>,
    /// Pictures that another worker made meanwhile.
    found: Cell<usize>,
    /// The lines of the jobs that failed, by what went wrong.
    failed: RefCell<BTreeMap<String, Vec<usize>>>,
    /// Why a picture could not be reported: nobody reads stdout any more.
    failure: RefCell<Option<anyhow::Error>>,
}

impl<'a> Report<'a> {
    pub(super) fn new(progress: &'a Progress, talk: Talk, json: bool, todo: &Todo) -> Self {
        let open = todo.tasks.len() - todo.present - todo.failed_before;
        let now = Instant::now();
        Self {
            progress,
            talk,
            json,
            began: now,
            said: Cell::new(now),
            open,
            made: Cell::new(0),
            found: Cell::new(0),
            failed: RefCell::default(),
            failure: RefCell::default(),
        }
    }

    /// Why a picture could not be reported.
    pub(super) fn failure(&self) -> Option<anyhow::Error> {
        self.failure.take()
    }

    pub(super) fn event(&self, event: &Event<'_>) -> ControlFlow<()> {
        match event {
            Event::App(app::Event::Transfer(transfer)) => self.progress.transfer(transfer),
            Event::App(app::Event::Pipeline(event)) => self.progress.event(event),
            Event::Made { job, path, entry } => {
                self.made.set(self.made.get() + 1);
                let printed = self.progress.aside(|| self.print(job, path, entry));
                if let Err(error) = printed {
                    *self.failure.borrow_mut() = Some(error);
                    return ControlFlow::Break(());
                }
                self.tell();
            }
            Event::Failed { job, reason } => {
                let mut failed = self.failed.borrow_mut();
                let lines = failed.entry(reason.message.clone()).or_default();
                lines.push(job.line);
                if lines.len() == 1 {
                    let text = format!("line {} failed: {}", job.line, reason.message);
                    self.progress.aside(|| self.talk.say(&text));
                }
            }
            Event::Found { .. } => {
                self.found.set(self.found.get() + 1);
                self.tell();
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }

    /// Prints a picture that is there.
    fn print(&self, job: &Ready, path: &Path, entry: &Entry) -> Result<()> {
        if !self.json {
            return result_path(path);
        }
        let made = job.job()?;
        let line = serde_json::json!({
            "schema": SCHEMA,
            "event": "saved",
            "path": path.to_string_lossy(),
            "id": job.id,
            "line": job.line,
            "index": 0,
            "seed": job.seed,
            "width": job.width,
            "height": job.height,
            "model": made.model_name(),
            "made_with": made.choice(),
            "timings": entry.seconds,
            "sha256": entry.sha256,
            "labels": job.labels,
            "request": made.request,
        });
        result_json(&line.to_string())
    }

    /// Says how far the batch is, now and then.
    fn tell(&self) {
        if self.said.get().elapsed() < OFTEN {
            return;
        }
        self.said.set(Instant::now());
        let failed: usize = self.failed.borrow().values().map(Vec::len).sum();
        let ended = self.made.get() + self.found.get() + failed;
        let each = self.began.elapsed().as_secs_f64() / ended.max(1) as f64;
        let left = time(each * self.open.saturating_sub(ended) as f64);
        let text = format!("{ended} of {}  {each:.1} s each  {left} left", self.open);
        self.progress.aside(|| self.talk.say(&text));
    }

    /// Says what came of the batch.
    pub(super) fn summary(&self, todo: &Todo, left_out: usize, folder: &Path) {
        let failed = self.failed.borrow();
        let count: usize = failed.values().map(Vec::len).sum();
        let open = self.open.saturating_sub(self.made.get() + self.found.get() + count);
        let mut text = format!(
            "{} made in {}, {} made before",
            self.made.get(),
            time(self.began.elapsed().as_secs_f64()),
            todo.present + self.found.get()
        );
        let parts = [
            (count + todo.failed_before, "failed"),
            (left_out, "lines left out"),
            (open, "left to make: run the same command again"),
        ];
        for (count, what) in parts.into_iter().filter(|(count, _)| *count > 0) {
            text += &format!(", {count} {what}");
        }
        self.talk.say(&format!("{text}; {}", folder.display()));
        for (message, lines) in failed.iter().filter(|(_, lines)| lines.len() > 1).take(MOST) {
            let shown: Vec<String> = lines.iter().take(MOST).map(ToString::to_string).collect();
            let more = if lines.len() > MOST { ", …" } else { "" };
            let (all, shown) = (lines.len(), shown.join(", "));
            self.talk
                .say(&format!("failed {all} times (lines {shown}{more}): {}", excerpt(message)));
        }
    }
}

/// A time as people read it.
pub(super) fn time(seconds: f64) -> String {
    match seconds {
        s if s < 120.0 => format!("{s:.0} s"),
        s if s < 7200.0 => format!("{:.0} min", s / 60.0),
        s => format!("{:.1} h", s / 3600.0),
    }
}
