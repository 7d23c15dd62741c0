//! The log of a folder: a line of JSON for every job that ended. The pictures are the truth; the log says how they were
//! made and what failed.

use super::check::Reason;
use crate::error::{Error, Result};
use crate::input;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::fs::{File, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The log's name; other parts of a list that is shared between machines will have other numbers.
const NAME: &str = "manifest-0.jsonl";
/// Most bytes of a log.
const LIMIT: u64 = 4 << 30;
/// Time between two writes to the disk.
const OFTEN: Duration = Duration::from_secs(1);

/// What became of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Its picture is there.
    Done,
    /// It could not be made.
    Failed,
}

/// Seconds that each part of a picture took.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Seconds {
    /// Reading and building networks.
    pub load: f64,
    /// Putting LoRAs into the weights.
    pub compose: f64,
    /// Encoding the texts.
    pub encode: f64,
    /// Sampling.
    pub sample: f64,
    /// Decoding.
    pub decode: f64,
    /// Writing the picture.
    pub save: f64,
}

/// Why a job failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The exit code of its fault.
    pub code: u8,
    /// What went wrong.
    pub message: String,
}

impl From<Reason> for Failure {
    fn from(Reason { code, message }: Reason) -> Self {
        Self { code, message }
    }
}

/// A line of the log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// The version of this format.
    pub v: u32,
    /// The job's name.
    pub id: String,
    /// The line that asked for it.
    pub line: usize,
    /// What became of it.
    pub status: Status,
    /// The picture's file, below the folder.
    #[serde(default)]
    pub file: Option<String>,
    /// The SHA-256 of the picture's file.
    #[serde(default)]
    pub sha256: Option<String>,
    /// Its length.
    #[serde(default)]
    pub bytes: Option<u64>,
    /// The seed.
    #[serde(default)]
    pub seed: Option<u64>,
    /// The model, as the user names it.
    #[serde(default)]
    pub model: String,
    /// The LoRAs.
    #[serde(default)]
    pub stack: Vec<String>,
    /// Pixels across.
    #[serde(default)]
    pub width: usize,
    /// Pixels down.
    #[serde(default)]
    pub height: usize,
    /// When it began, UTC.
    #[serde(default)]
    pub started: Option<String>,
    /// Where the time went; `None` for a picture that was found.
    #[serde(default)]
    pub seconds: Option<Seconds>,
    /// Which attempt it was, from 1.
    #[serde(default)]
    pub attempt: u32,
    /// The process that made it.
    #[serde(default)]
    pub worker: u32,
    /// Where it was made.
    #[serde(default)]
    pub device: Option<String>,
    /// The version of colora.
    #[serde(default)]
    pub version: String,
    /// Words that are kept beside the picture.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Why it failed.
    #[serde(default)]
    pub error: Option<Failure>,
}

/// The log of a folder, open for more lines. It is locked: two programs at one list would make pictures twice.
#[derive(Debug)]
pub struct Manifest {
    path: PathBuf,
    file: File,
    /// The last line of each job.
    known: HashMap<String, Entry>,
    /// Lines that are none: torn by a crash, or damaged.
    pub unreadable: usize,
    synced: Instant,
}

impl Manifest {
    /// Opens the log in `folder`, or begins one.
    ///
    /// # Errors
    /// [`Error::Write`]; [`Error::Unsupported`] when another program is at work in the folder.
    pub fn open(folder: &Path) -> Result<Self> {
        let path = folder.join(NAME);
        let wrong = |error| Error::write(&path, error);
        let options = File::options().create(true).read(true).append(true).open(&path);
        let mut file = options.map_err(wrong)?;
        if let Err(TryLockError::WouldBlock) = file.try_lock() {
            let what = format!("a second program in {}", folder.display());
            return Err(Error::unsupported(what, "wait for the first, or choose another folder"));
        }
        // What a crash has torn is ended, so that the next line begins one.
        let length = file.metadata().map_err(wrong)?.len();
        if length > 0 {
            file.seek(SeekFrom::Start(length - 1)).map_err(wrong)?;
            let mut last = [0];
            file.read_exact(&mut last).map_err(wrong)?;
            if last != *b"\n" {
                file.write_all(b"\n").map_err(wrong)?;
            }
        }
        let (known, unreadable) = read(&path)?;
        Ok(Self { path, file, known, unreadable, synced: Instant::now() })
    }

    /// What the log says last of a job.
    pub fn get(&self, id: &str) -> Option<&Entry> {
        self.known.get(id)
    }

    /// Adds a line, by one write.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub fn push(&mut self, entry: Entry) -> Result<()> {
        let mut line = serde_json::to_string(&entry)
            .map_err(|error| Error::Internal(format!("a manifest: {error}")))?;
        line.push('\n');
        self.file.write_all(line.as_bytes()).map_err(|error| Error::write(&self.path, error))?;
        self.known.insert(entry.id.clone(), entry);
        if self.synced.elapsed() >= OFTEN { self.sync() } else { Ok(()) }
    }

    /// Writes all lines to the disk.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub fn sync(&mut self) -> Result<()> {
        self.synced = Instant::now();
        self.file.sync_data().map_err(|error| Error::write(&self.path, error))
    }
}

/// The last line of each job, and how many lines are none. A picture that is done stays so.
fn read(path: &Path) -> Result<(HashMap<String, Entry>, usize)> {
    let bytes = input::bytes_if_there(path, LIMIT, "a manifest")?.unwrap_or_default();
    let mut known = HashMap::new();
    let mut unreadable = 0;
    for line in bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        match serde_json::from_slice::<Entry>(line) {
            Ok(entry) => drop(known.insert(entry.id.clone(), entry)),
            Err(_) => unreadable += 1,
        }
    }
    Ok((known, unreadable))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(id: &str, status: Status) -> Entry {
        let line = format!(r#"{{"v":1,"id":"{id}","line":1,"status":"done"}}"#);
        Entry { status, ..serde_json::from_str(&line).unwrap() }
    }

    #[test]
    fn torn_lines_cost_only_themselves() {
        let folder = tempfile::tempdir().unwrap();
        let mut manifest = Manifest::open(folder.path()).unwrap();
        manifest.push(entry("a", Status::Failed)).unwrap();
        manifest.push(entry("b", Status::Done)).unwrap();
        assert!(Manifest::open(folder.path()).is_err(), "two programs at one list");
        drop(manifest);
        let path = folder.path().join(NAME);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes.truncate(bytes.len() - 9);
        std::fs::write(&path, bytes).unwrap();
        let mut manifest = Manifest::open(folder.path()).unwrap();
        assert_eq!((manifest.unreadable, manifest.get("b")), (1, None));
        manifest.push(entry("a", Status::Done)).unwrap();
        drop(manifest);
        let manifest = Manifest::open(folder.path()).unwrap();
        assert_eq!(manifest.get("a").map(|entry| entry.status), Some(Status::Done));
        assert_eq!(manifest.unreadable, 1);
    }
}
