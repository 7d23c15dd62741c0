//! The list of a folder's jobs: `plan.jsonl`, a line each, and `plan.json`, which is written when all lines are there.

use super::order::Order;
use super::ready::Ready;
use crate::atomic_file::{self, Care};
use crate::error::{Error, Result};
use crate::input;
use crate::plain::hex;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::io::{BufRead, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

/// The head of the list.
pub(super) const HEAD: &str = "plan.json";
/// The list.
pub(super) const LINES: &str = "plan.jsonl";
/// Most bytes of a head.
const LIMIT: u64 = 1 << 20;

/// What a folder's list is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// The version of this format.
    pub v: u32,
    /// The version of colora that made the list.
    pub version: String,
    /// The name of the file of jobs.
    pub source: String,
    /// The SHA-256 of its text.
    pub source_sha256: String,
    /// The seed of the batch.
    #[serde(default)]
    pub seed: u64,
    /// In which order the jobs are made.
    #[serde(default)]
    pub order: Order,
    /// The template of the pictures' names; `None` = their ids.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub names: Option<String>,
    /// How many jobs there are.
    pub jobs: usize,
    /// The SHA-256 of their names and contents in the order of the file.
    pub plan: String,
}

/// Where a list comes from.
#[derive(Debug, Clone, Default)]
pub struct Origin {
    /// The name of the file of jobs, or of what made the list.
    pub source: PathBuf,
    /// The SHA-256 of its text.
    pub sha256: String,
    /// The seed of the batch.
    pub seed: u64,
    /// The template of the pictures' names; `None` = their ids.
    pub names: Option<String>,
}

impl Head {
    /// The head of the list `jobs`, which are in the order of the file.
    pub fn of(jobs: &[Ready], origin: Origin, order: Order) -> Self {
        let mut hash = Sha256::new();
        for job in jobs {
            hash.update(format!("{} {}\n", job.id, job.content).as_bytes());
        }
        Self {
            v: 1,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            source: origin.source.to_string_lossy().into_owned(),
            source_sha256: origin.sha256,
            seed: origin.seed,
            order,
            names: origin.names,
            jobs: jobs.len(),
            plan: hex(&hash.finalize()),
        }
    }

    /// The head in `folder`, if there is one.
    ///
    /// # Errors
    /// What reading it gives, [`Error::Corrupt`] when it is none.
    pub fn read(folder: &Path) -> Result<Option<Self>> {
        let path = folder.join(HEAD);
        let Some(text) = input::text_if_there(&path, LIMIT, "the head of a plan")? else {
            return Ok(None);
        };
        serde_json::from_str(&text).map(Some).map_err(|e| Error::corrupt(&path, e.to_string()))
    }

    /// Refuses a folder that holds another list, unless `replan` says that this one takes its place.
    ///
    /// # Errors
    /// [`Error::BadRequest`] for another list, what reading it gives.
    pub fn check(&self, folder: &Path, replan: bool) -> Result<()> {
        match Self::read(folder)? {
            Some(there) if !replan => self.compare(&there, &folder.display().to_string()),
            _ => Ok(()),
        }
    }

    /// Refuses the list `there` of a place unless it is this one.
    ///
    /// # Errors
    /// [`Error::BadRequest`] for another list.
    pub(super) fn compare(&self, there: &Self, place: &str) -> Result<()> {
        if there.plan == self.plan && there.names == self.names {
            return Ok(());
        }
        if there.plan == self.plan {
            let of = |head: &Self| head.names.clone().unwrap_or_else(|| "{id}".into());
            let why = format!("the pictures that are there are called {}", of(there));
            return Err(Error::bad_request("name", of(self), why));
        }
        let why = format!(
            "this folder holds the pictures of another list ({} jobs of {}, plan {}; this one has {} jobs, plan {}); to \
             replan goes over to this one and keeps what both have; or choose another folder",
            there.jobs,
            there.source,
            short(&there.plan),
            self.jobs,
            short(&self.plan)
        );
        Err(Error::bad_request("out", place, why))
    }

    /// Makes `jobs`, which this is the head of, the list of `folder`, unless it is.
    ///
    /// # Errors
    /// What reading and writing give.
    pub fn write(&self, jobs: &[Ready], folder: &Path) -> Result<()> {
        if Self::read(folder)?.is_some_and(|there| there == *self) {
            return Ok(());
        }
        let path = folder.join(LINES);
        atomic_file::write(&path, true, Care::Lasting, |file| {
            let mut file = BufWriter::new(file);
            let wrong = |error| Error::write(&path, error);
            for job in jobs {
                file.write_all(line(job)?.as_bytes()).map_err(wrong)?;
            }
            file.flush().map_err(wrong)
        })?;
        let (path, head) = (folder.join(HEAD), self.json()?);
        atomic_file::write(&path, true, Care::Lasting, |file| {
            file.write_all(head.as_bytes()).map_err(|error| Error::write(&path, error))
        })
    }

    /// The head as the text of `plan.json`.
    ///
    /// # Errors
    /// [`Error::Internal`] when it is no JSON, which does not happen.
    pub fn json(&self) -> Result<String> {
        serde_json::to_string_pretty(self).map(|text| text + "\n").map_err(internal)
    }
}

/// Hands the name of every job of the list in `folder` to `sink`, in the order of the list.
///
/// # Errors
/// What reading gives, [`Error::Corrupt`] for a line that is none, what `sink` returns.
pub(super) fn ids(folder: &Path, sink: &mut dyn FnMut(String) -> Result<()>) -> Result<()> {
    #[derive(Deserialize)]
    struct Line {
        id: String,
    }
    let path = folder.join(LINES);
    let mut reader = BufReader::new(input::open(&path)?);
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = reader.by_ref().take(LIMIT).read_until(b'\n', &mut line);
        if read.map_err(|error| Error::io(&path, error))? == 0 {
            return Ok(());
        }
        let Line { id } =
            serde_json::from_slice(&line).map_err(|e| Error::corrupt(&path, e.to_string()))?;
        sink(id)?;
    }
}

/// A job as a line that `colora batch` reads again.
pub(super) fn line(job: &Ready) -> Result<String> {
    let id = serde_json::to_string(&job.id).map_err(internal)?;
    let rest = job.json().strip_prefix('{').unwrap_or("}");
    let labels = if job.labels.is_empty() {
        String::new()
    } else {
        format!(r#""labels":{},"#, serde_json::to_string(&job.labels).map_err(internal)?)
    };
    Ok(format!("{{\"id\":{id},{labels}{rest}\n"))
}

fn short(hash: &str) -> &str {
    hash.get(..12).unwrap_or(hash)
}

#[allow(clippy::needless_pass_by_value)] // as `map_err` gives it
fn internal(error: serde_json::Error) -> Error {
    Error::Internal(format!("a plan: {error}"))
}
