//! Progress on stderr: a bar on a terminal, a line a slow stage elsewhere, or JSON.

use super::flags::ProgressKind;
use super::style::{Talk, plain_json, say};
use crate::app::SCHEMA;
use crate::pipeline::{Event, Observer};
use crate::store::Transfer;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle, WeakProgressBar};
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

/// Stages shorter than this are not worth a line.
const SLOW: Duration = Duration::from_secs(1);
/// Time between two lines about the same stage.
const OFTEN: Duration = Duration::from_secs(10);

/// Shows events of a generation and of downloads.
pub(super) struct Progress {
    show: Show,
    stage: RefCell<Stage>,
    /// Warnings that were printed: planning and drawing give the same ones.
    said: RefCell<BTreeSet<String>>,
}

enum Show {
    Bar(ProgressBar),
    Plain,
    Json,
    Nothing,
}

/// The stage at work.
struct Stage {
    name: String,
    began: Instant,
    /// When a line was last written.
    said: Instant,
    /// The last word on it.
    note: String,
    /// The first step that was reported, and when.
    first: Option<(usize, Instant)>,
}

impl Stage {
    fn new(name: &str) -> Self {
        let now = Instant::now();
        Self { name: name.to_owned(), began: now, said: now, note: String::new(), first: None }
    }
}

impl Progress {
    /// Chooses by flags and terminal.
    pub(super) fn new(kind: ProgressKind, talk: Talk, json: bool) -> Self {
        let bar_fits = std::io::stderr().is_terminal() && !json && talk.verbose == 0;
        let show = match kind {
            ProgressKind::None => Show::Nothing,
            ProgressKind::Json => Show::Json,
            ProgressKind::Auto if talk.quiet => Show::Nothing,
            ProgressKind::Auto if bar_fits => Show::Bar(bar()),
            ProgressKind::Auto | ProgressKind::Plain => Show::Plain,
        };
        Self { show, stage: RefCell::new(Stage::new("")), said: RefCell::default() }
    }

    /// Shows a download.
    pub(super) fn transfer(&self, transfer: &Transfer) {
        let Transfer { file, done, total } = transfer;
        if let Show::Json = self.show {
            let json = serde_json::json!({
                "schema": SCHEMA, "event": "transfer", "file": file, "done": done, "total": total,
            });
            return say(&plain_json(&json.to_string()));
        }
        self.enter(&format!("downloading {file}"));
        let all = total.map(|t| format!(" of {}", super::style::bytes(t))).unwrap_or_default();
        self.tell(*done, total.unwrap_or(0), format!("{}{all}", super::style::bytes(*done)));
    }

    /// Runs `write`, which writes to stdout, without the bar in its way.
    pub(super) fn aside<T>(&self, write: impl FnOnce() -> T) -> T {
        match &self.show {
            Show::Bar(bar) => bar.suspend(write),
            _ => write(),
        }
    }

    /// Ends the last stage.
    pub(super) fn finish(&self) {
        self.enter("");
        if let Show::Bar(bar) = &self.show {
            bar.finish_and_clear();
        }
    }

    /// Begins a stage unless it is at work; prints how long the one before took when that was long.
    fn enter(&self, name: &str) {
        let mut stage = self.stage.borrow_mut();
        if stage.name == name {
            return;
        }
        let took = stage.began.elapsed();
        if matches!(self.show, Show::Plain) && took >= SLOW && !stage.name.is_empty() {
            let line = format!("{}  {:.1} s  {}", stage.name, took.as_secs_f64(), stage.note);
            say(line.trim_end());
        }
        *stage = Stage::new(name);
        if let Show::Bar(bar) = &self.show {
            // A bar of no length would look full.
            bar.set_style(style(WAITING));
            bar.set_length(0);
            bar.set_position(0);
            bar.set_prefix(name.to_owned());
            bar.set_message("");
        }
    }

    /// Says a warning, once.
    fn warn(&self, text: &str) {
        if self.said.borrow_mut().insert(text.to_owned()) {
            tracing::warn!("{text}");
        }
    }

    /// Says how far the stage is.
    fn tell(&self, done: u64, all: u64, note: String) {
        let mut stage = self.stage.borrow_mut();
        match &self.show {
            Show::Bar(bar) => {
                bar.set_style(style(if all > 0 { MEASURED } else { WAITING }));
                bar.set_length(all);
                bar.set_position(done);
                bar.set_message(note.clone());
            }
            Show::Plain if stage.said.elapsed() >= OFTEN => {
                say(&format!("{}  {note}", stage.name));
                stage.said = Instant::now();
            }
            _ => {}
        }
        stage.note = note;
    }

    /// Seconds a step, counted from the first step that was reported.
    fn pace(&self, step: usize) -> Option<f64> {
        let mut stage = self.stage.borrow_mut();
        let (first, since) = *stage.first.get_or_insert((step, Instant::now()));
        (step > first).then(|| since.elapsed().as_secs_f64() / (step - first) as f64)
    }
}

impl Observer for Progress {
    fn event(&self, event: &Event) {
        if let Event::Warning { warning } = event {
            self.warn(&warning.to_string());
        }
        if let Show::Json = self.show {
            return say(&plain_json(&json(event)));
        }
        match event {
            Event::Loading { component } => self.enter(&format!("loading {component}")),
            Event::Encoding => self.enter("encoding the prompt"),
            Event::Sampling { image, steps } => {
                self.enter(&format!("picture {}", image + 1));
                self.tell(0, *steps as u64, format!("step 0/{steps}"));
            }
            Event::Step { image, step, steps, sigma, .. } => {
                self.enter(&format!("picture {}", image + 1));
                let each = self.pace(*step);
                self.tell(*step as u64, *steps as u64, step_line(*step, *steps, *sigma, each));
            }
            Event::Decoding { tile, tiles, .. } => {
                self.enter("decoding");
                if *tiles > 1 {
                    self.tell(*tile as u64, *tiles as u64, format!("tile {}/{tiles}", tile + 1));
                }
            }
            Event::Warning { .. } => {}
        }
    }
}

/// A stage of unknown length.
const WAITING: &str = "{spinner} {prefix}  {msg}";
/// A stage that is counted.
const MEASURED: &str = "{spinner} {prefix}  {wide_bar:.cyan/dim}  {msg}";

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

fn bar() -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
    bar.set_style(style(WAITING));
    tick(bar.downgrade());
    bar
}

/// Time between two pictures of the spinner.
const TICK: Duration = Duration::from_millis(120);

/// Turns the spinner as long as there is a bar, in a thread of its own; without one it turns when something
/// happens. The bar's own way to do that panics where no thread can be started.
fn tick(bar: WeakProgressBar) {
    let turn = move || {
        while let Some(bar) = bar.upgrade().filter(|bar| !bar.is_finished()) {
            bar.tick();
            drop(bar);
            std::thread::sleep(TICK);
        }
    };
    let _ = std::thread::Builder::new().name("progress".into()).spawn(turn);
}

/// `step 12/30  σ 2.31  1.8 it/s  eta 10 s`.
fn step_line(step: usize, steps: usize, sigma: f64, each: Option<f64>) -> String {
    let line = format!("step {step}/{steps}  σ {sigma:.2}");
    let Some(each) = each.filter(|e| *e > 0.0) else { return line };
    let speed =
        if each <= 1.0 { format!("{:.1} it/s", 1.0 / each) } else { format!("{each:.1} s/it") };
    let left = each * steps.saturating_sub(step) as f64;
    let eta = if left < 120.0 { format!("{left:.0} s") } else { format!("{:.0} min", left / 60.0) };
    format!("{line}  {speed}  eta {eta}")
}

fn json(event: &Event) -> String {
    let value = match event {
        Event::Loading { component } => serde_json::json!({
            "schema": SCHEMA, "event": "loading", "component": component,
        }),
        Event::Encoding => serde_json::json!({ "schema": SCHEMA, "event": "encoding" }),
        Event::Sampling { image, steps } => serde_json::json!({
            "schema": SCHEMA, "event": "sampling", "image": image, "steps": steps,
        }),
        Event::Step { image, step, steps, sigma, .. } => serde_json::json!({
            "schema": SCHEMA, "event": "step", "image": image, "step": step, "steps": steps,
            "sigma": sigma,
        }),
        Event::Decoding { image, tile, tiles } => serde_json::json!({
            "schema": SCHEMA, "event": "decoding", "image": image, "tile": tile, "tiles": tiles,
        }),
        Event::Warning { warning } => serde_json::json!({
            "schema": SCHEMA, "event": "warning", "text": warning.to_string(),
        }),
    };
    value.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_step_line() {
        let line = |step, each| step_line(step, 30, 2.314, each);
        assert_eq!(line(12, Some(0.5)), "step 12/30  σ 2.31  2.0 it/s  eta 9 s");
        assert_eq!(line(10, Some(10.0)), "step 10/30  σ 2.31  10.0 s/it  eta 3 min");
        assert_eq!(line(1, None), "step 1/30  σ 2.31");
    }

    #[test]
    fn events_as_json() {
        let step = Event::Step { image: 0, step: 1, steps: 2, sigma: 3.5, preview: None };
        assert_eq!(
            json(&step),
            r#"{"schema":1,"event":"step","image":0,"step":1,"steps":2,"sigma":3.5}"#
        );
    }
}
