//! The log of a search, from which it goes on: `tune.jsonl`, whose first line says what is searched, and a line for
//! each answer.

use super::search::Point;
use crate::error::{Error, Result};
use crate::input;
use serde::{Deserialize, Serialize};
use std::fs::{File, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};

/// The name of the log in the folder of a search.
const NAME: &str = "tune.jsonl";
/// Most bytes of a log.
const LIMIT: u64 = 64 << 20;

/// What is searched: a log goes on only where this is the same.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    /// The version of this format.
    pub v: u32,
    /// The LoRAs with their ranges, as they were written.
    pub loras: Vec<String>,
    /// What decides which pairs are asked about.
    pub seed: u64,
    /// `pairs`, or the command that scores.
    pub judge: String,
    /// What is drawn, but for the LoRAs: the jobs as JSON.
    pub jobs: Vec<serde_json::Value>,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "lowercase", deny_unknown_fields)]
pub enum Line {
    /// Which of two points is better.
    Choice {
        /// One point.
        first: Point,
        /// The other.
        second: Point,
        /// What was chosen.
        chosen: Chosen,
    },
    /// A score.
    Score {
        /// The point.
        point: Point,
        /// Its score.
        score: f64,
    },
}

/// What was chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Chosen {
    /// The first.
    First,
    /// The second.
    Second,
    /// Neither.
    Equal,
    /// Nothing: the pair is not asked about again.
    Skipped,
}

/// An open log, which no other program writes to.
#[derive(Debug)]
pub struct Log {
    path: PathBuf,
    file: File,
}

impl Log {
    /// Opens the log in `folder`, or begins it, and gives the answers that it holds. A last line that a crash has torn
    /// is cut off.
    ///
    /// # Errors
    /// [`Error::BadRequest`] when it is that of another search; [`Error::Lines`] for a line that is none;
    /// [`Error::Unsupported`] when another program has it open; what reading and writing give.
    pub fn open(folder: &Path, head: &Head) -> Result<(Self, Vec<Line>)> {
        let path = folder.join(NAME);
        let wrong = |error| Error::write(&path, error);
        let options = File::options().create(true).append(true).open(&path);
        let file = options.map_err(wrong)?;
        if let Err(TryLockError::WouldBlock) = file.try_lock() {
            let what = format!("a second program in {}", folder.display());
            return Err(Error::unsupported(what, "wait for the first, or choose another folder"));
        }
        let bytes = input::bytes(&path, LIMIT, "a log of a search")?;
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        if whole < bytes.len() {
            file.set_len(whole as u64).map_err(wrong)?;
        }
        let text = input::decode(bytes[..whole].to_vec(), &path)?;
        let mut log = Self { path, file };
        // A search that has no answer yet, perhaps because it was mistyped, is in nobody's way.
        let (first, rest) = match text.split_once('\n') {
            Some((first, rest)) if !rest.is_empty() => (first, rest),
            _ => {
                log.file.set_len(0).map_err(|error| Error::write(&log.path, error))?;
                log.write(head)?;
                return Ok((log, Vec::new()));
            }
        };
        log.check(first, head, folder)?;
        let lines = rest.lines().enumerate().map(|(number, line)| log.line(number + 2, line));
        let lines = lines.collect::<Result<Vec<_>>>()?;
        Ok((log, lines))
    }

    /// Refuses the log of another search.
    fn check(&self, first: &str, head: &Head, folder: &Path) -> Result<()> {
        let there: Head = serde_json::from_str(first)
            .map_err(|error| Error::corrupt(&self.path, format!("line 1: {error}")))?;
        let differs = [
            ("version", there.v != head.v),
            ("LoRAs and ranges", there.loras != head.loras),
            ("seed", there.seed != head.seed),
            ("way to judge", there.judge != head.judge),
            ("pictures", there.jobs != head.jobs),
        ];
        match differs.iter().find(|(_, differs)| *differs) {
            None => Ok(()),
            Some((what, _)) => {
                let why = format!(
                    "this folder holds another search (its {what} differ: {}); choose another folder",
                    there.loras.join(" ")
                );
                Err(Error::bad_request("out", folder.display(), why))
            }
        }
    }

    fn line(&self, number: usize, line: &str) -> Result<Line> {
        serde_json::from_str(line)
            .map_err(|error| Error::corrupt(&self.path, format!("line {number}: {error}")))
    }

    /// Writes an answer to the disk.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub fn push(&mut self, line: &Line) -> Result<()> {
        self.write(line)
    }

    fn write(&mut self, line: &impl Serialize) -> Result<()> {
        let mut text = serde_json::to_string(line)
            .map_err(|error| Error::Internal(format!("a log: {error}")))?;
        text.push('\n');
        let written = self.file.write_all(text.as_bytes()).and_then(|()| self.file.sync_data());
        written.map_err(|error| Error::write(&self.path, error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(lora: &str) -> Head {
        Head { v: 1, loras: vec![lora.into()], seed: 1, judge: "pairs".into(), jobs: Vec::new() }
    }

    #[test]
    fn a_log_goes_on_where_it_ended() {
        let folder = tempfile::tempdir().unwrap();
        let lines = [
            Line::Choice {
                first: vec![0.1, 1.0 / 3.0],
                second: vec![0.5, 0.0],
                chosen: Chosen::Equal,
            },
            Line::Score { point: vec![0.25], score: -3.5e-7 },
        ];
        drop(Log::open(folder.path(), &head("mistyped:0..1")).unwrap());
        let (mut log, none) = Log::open(folder.path(), &head("a:0..1")).unwrap();
        assert!(none.is_empty());
        assert!(matches!(
            Log::open(folder.path(), &head("a:0..1")),
            Err(Error::Unsupported { .. })
        ));
        log.push(&lines[0]).unwrap();
        log.push(&lines[1]).unwrap();
        drop(log);
        let path = folder.path().join(NAME);
        let whole = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, format!("{whole}{{\"event\":\"sco")).unwrap();
        let (mut log, read) = Log::open(folder.path(), &head("a:0..1")).unwrap();
        assert_eq!(read, lines);
        log.push(&lines[1]).unwrap();
        drop(log);
        assert_eq!(Log::open(folder.path(), &head("a:0..1")).unwrap().1.len(), 3);
        let other = Log::open(folder.path(), &head("a:0..2")).unwrap_err().to_string();
        assert!(other.contains("another search") && other.contains("a:0..1"), "{other}");
        std::fs::write(&path, format!("{whole}nonsense\n")).unwrap();
        let error = Log::open(folder.path(), &head("a:0..1")).unwrap_err().to_string();
        assert!(error.contains("line 4"), "{error}");
    }
}
