//! How far a list is: what its logs say together.

use super::manifest::{Entry, Failure, Status, entries};
use super::plan_file::{Head, ids};
use crate::error::{Error, Result};
use serde::Serialize;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

/// Pictures of each worker that its speed is measured by: the last ones, because an earlier run may have been on
/// another machine.
const RECENT: usize = 100;
/// A worker whose last picture is older than this many pictures' time has ended.
const LONG_AGO: f64 = 20.0;

/// The last line about a job.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// The job's name.
    pub id: String,
    /// The line that asked for it; 0 where no log has it yet.
    pub line: usize,
    /// `done`, `failed` or `open`.
    pub state: &'static str,
    /// The picture's file, below the folder.
    pub file: Option<String>,
    /// The seed.
    pub seed: Option<u64>,
    /// Seconds that it took.
    pub seconds: Option<f64>,
    /// Which attempt it was.
    pub attempt: u32,
    /// The exit code of what went wrong.
    pub code: Option<u8>,
    /// What went wrong.
    pub error: Option<String>,
}

/// Jobs that failed for the same reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Failed {
    /// The exit code of what went wrong.
    pub code: u8,
    /// What went wrong, of the first of them.
    pub message: String,
    /// How many jobs.
    pub jobs: usize,
    /// The lines of the first of them.
    pub lines: Vec<usize>,
}

/// How far a list is.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct State {
    /// Jobs of the list.
    pub jobs: usize,
    /// Jobs whose pictures are made.
    pub done: usize,
    /// Jobs that failed.
    pub failed: usize,
    /// Jobs that no log has.
    pub open: usize,
    /// Pictures a second of all workers together that are at work, else of those that were last.
    pub rate: Option<f64>,
    /// Seconds until all are done at that rate.
    pub seconds_left: Option<f64>,
    /// Mean seconds of a picture.
    pub seconds_each: Option<f64>,
    /// How many workers made a picture a moment ago.
    pub workers: usize,
    /// Bytes of the pictures.
    pub bytes: u64,
    /// Lines of the logs that are none.
    pub unreadable: usize,
    /// What went wrong, by code; the most frequent first.
    pub errors: Vec<Failed>,
}

/// Reads the list and the logs in `folder`; `now`: seconds since 1970. Hands the state of each job to `rows`, in the order
/// of the list.
///
/// # Errors
/// [`Error::NotFound`] when the folder holds no list; what reading gives.
pub fn status(folder: &Path, now: f64, rows: &mut dyn FnMut(Row) -> Result<()>) -> Result<State> {
    if Head::read(folder)?.is_none() {
        let (name, hint) = (folder.display().to_string(), "; it has no plan.json".to_owned());
        return Err(Error::NotFound { what: "batch", name, hint, how: None });
    }
    let mut last: HashMap<String, Entry> = HashMap::new();
    let mut speeds: BTreeMap<String, Speed> = BTreeMap::new();
    let unreadable = entries(folder, &mut |entry| {
        if let (Some(began), Some(took)) =
            (entry.started.as_deref().and_then(seconds), entry.took())
        {
            speeds.entry(entry.worker.clone()).or_default().note(began, took);
        }
        last.insert(entry.id.clone(), entry);
    })?;
    let mut state = State {
        jobs: 0,
        done: 0,
        failed: 0,
        open: 0,
        rate: None,
        seconds_left: None,
        seconds_each: None,
        workers: 0,
        bytes: 0,
        unreadable,
        errors: Vec::new(),
    };
    let mut errors: BTreeMap<(u8, String), Failed> = BTreeMap::new();
    ids(folder, &mut |id| {
        let entry = last.remove(&id);
        state.count(entry.as_ref(), &mut errors);
        rows(row(id, entry))
    })?;
    state.errors = errors.into_values().collect();
    state.errors.sort_by_key(|failed| std::cmp::Reverse(failed.jobs));
    state.measure(&speeds, now);
    Ok(state)
}

impl State {
    fn count(&mut self, entry: Option<&Entry>, errors: &mut BTreeMap<(u8, String), Failed>) {
        self.jobs += 1;
        match entry {
            None => self.open += 1,
            Some(entry) if entry.status == Status::Done => {
                self.done += 1;
                self.bytes = self.bytes.saturating_add(entry.bytes.unwrap_or(0));
            }
            Some(entry) => {
                self.failed += 1;
                let unknown = || Failure { code: 1, message: "unknown".into() };
                let Failure { code, message } = entry.error.clone().unwrap_or_else(unknown);
                let key = (code, message.clone());
                let none = Failed { code, message, jobs: 0, lines: Vec::new() };
                let failed = errors.entry(key).or_insert(none);
                failed.jobs += 1;
                if failed.lines.len() < 10 {
                    failed.lines.push(entry.line);
                }
            }
        }
    }

    fn measure(&mut self, speeds: &BTreeMap<String, Speed>, now: f64) {
        let measured: Vec<&Speed> = speeds.values().filter(|speed| speed.each() > 0.0).collect();
        let is_active = |speed: &&&Speed| now - speed.end() <= LONG_AGO * speed.each().max(1.0);
        let active: Vec<&Speed> = measured.iter().filter(is_active).copied().collect();
        self.workers = active.len();
        // Without anybody at work the last one tells how fast it would be.
        let newest = measured.iter().copied().max_by(|a, b| a.end().total_cmp(&b.end()));
        let used = if active.is_empty() { newest.into_iter().collect() } else { active };
        if used.is_empty() {
            return;
        }
        let rate: f64 = used.iter().map(|speed| 1.0 / speed.each()).sum();
        let each: f64 = used.iter().map(|speed| speed.each()).sum();
        self.seconds_each = Some(each / used.len() as f64);
        self.rate = Some(rate);
        self.seconds_left = Some(self.open as f64 / rate);
    }
}

/// When a worker made its last pictures.
#[derive(Debug, Default)]
struct Speed {
    /// Beginning and seconds of each.
    recent: std::collections::VecDeque<(f64, f64)>,
}

impl Speed {
    fn note(&mut self, began: f64, took: f64) {
        if self.recent.len() == RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back((began, took));
    }

    /// When the last picture was made.
    fn end(&self) -> f64 {
        self.recent.back().map_or(0.0, |(began, took)| began + took)
    }

    /// Mean seconds that a picture took. What lies between two pictures is not counted: it may be a night.
    fn each(&self) -> f64 {
        let all: f64 = self.recent.iter().map(|(_, took)| took).sum();
        all / self.recent.len().max(1) as f64
    }
}

fn row(id: String, entry: Option<Entry>) -> Row {
    let Some(entry) = entry else {
        let (file, seed, seconds, code, error) = Default::default();
        return Row { id, line: 0, state: "open", file, seed, seconds, attempt: 0, code, error };
    };
    let seconds = entry.took();
    let (code, error) = entry.error.map(|error| (error.code, error.message)).unzip();
    Row {
        id,
        line: entry.line,
        state: if entry.status == Status::Done { "done" } else { "failed" },
        file: entry.file,
        seed: entry.seed,
        seconds,
        attempt: entry.attempt,
        code,
        error,
    }
}

/// Seconds since 1970 of `2026-11-28T12:00:00Z`.
///
/// # Source
/// Howard Hinnant, "chrono-compatible low-level date algorithms", `days_from_civil`.
fn seconds(text: &str) -> Option<f64> {
    let part = |from: usize, to: usize| text.get(from..to)?.parse::<i64>().ok();
    let (year, month, day) = (part(0, 4)?, part(5, 7)?, part(8, 10)?);
    let (hour, minute, second) = (part(11, 13)?, part(14, 16)?, part(17, 19)?);
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468;
    Some((days * 86_400 + hour * 3600 + minute * 60 + second) as f64)
}

#[cfg(test)]
mod tests {
    use super::super::manifest::{Manifest, Seconds};
    use super::super::order::Order;
    use super::super::pace::Pace;
    use super::super::plan_file::Origin;
    use super::super::ready::Ready;
    use super::*;

    #[test]
    fn dates_are_seconds() {
        assert_eq!(seconds("1970-01-01T00:00:00Z"), Some(0.0));
        assert_eq!(seconds("2000-02-29T00:00:00Z"), Some(951_782_400.0));
        assert_eq!(seconds("2026-11-28T00:00:01Z"), Some(1_795_824_001.0));
        assert_eq!(seconds("soon"), None);
    }

    #[test]
    fn logs_together_tell_how_far_a_list_is() {
        let folder = tempfile::tempdir().unwrap();
        let read = |now: f64| {
            let mut rows = Vec::new();
            let state = status(folder.path(), now, &mut |row| {
                rows.push(row);
                Ok(())
            });
            state.map(|state| (state, rows))
        };
        assert!(matches!(read(0.0), Err(Error::NotFound { .. })));
        let jobs: Vec<Ready> = (1..=6).map(|line| Ready::sample(line, "m", "", 64)).collect();
        Head::of(&jobs, Origin::default(), Order::Cost).write(&jobs, folder.path()).unwrap();
        let (state, _) = read(0.0).unwrap();
        assert_eq!((state.jobs, state.open, state.rate), (6, 6, None));
        let done = |job: &Ready, worker: &str, started: &str| Entry {
            started: Some(started.into()),
            bytes: Some(10),
            seconds: Some(Seconds { sample: 1.5, decode: 0.5, ..Seconds::default() }),
            ..Entry::of(job, Status::Done, worker)
        };
        let failed = |job: &Ready| Entry {
            error: Some(Failure { code: 3, message: "bad".into() }),
            ..Entry::of(job, Status::Failed, "a")
        };
        let mut first = Manifest::open(folder.path(), "1-of-2").unwrap();
        first.push(failed(&jobs[0])).unwrap();
        first.push(done(&jobs[0], "a", "1970-01-01T00:00:10Z")).unwrap();
        first.push(failed(&jobs[1])).unwrap();
        first.push(failed(&jobs[2])).unwrap();
        let mut second = Manifest::open(folder.path(), "2-of-2").unwrap();
        second.push(done(&jobs[3], "b", "1970-01-01T00:00:11Z")).unwrap();
        let (state, rows) = read(14.0).unwrap();
        assert_eq!((state.done, state.failed, state.open, state.bytes), (2, 2, 2, 20));
        assert_eq!((state.workers, state.rate, state.seconds_left), (2, Some(1.0), Some(2.0)));
        let bad = Failed { code: 3, message: "bad".into(), jobs: 2, lines: vec![2, 3] };
        assert_eq!(state.errors, [bad]);
        let states: Vec<&str> = rows.iter().map(|row| row.state).collect();
        assert_eq!(states, ["done", "failed", "failed", "done", "open", "open"]);
        assert_eq!((rows[0].seconds, rows[1].code), (Some(2.0), Some(3)));
        let pace = Pace::of(folder.path()).unwrap().unwrap();
        assert_eq!((pace.pictures, pace.seconds(&jobs[0])), (2, 2.0));
        // Long after, one worker alone stands for the speed.
        let (state, _) = read(1e6).unwrap();
        assert_eq!((state.workers, state.rate), (0, Some(0.5)));
    }
}
