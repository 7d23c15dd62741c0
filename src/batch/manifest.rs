//! The log of a folder: a line of JSON for every job that ended. The pictures are the truth; the log says how they were
//! made and what failed.

use super::ready::{Ready, Reason};
use crate::error::{Error, Result};
use crate::input;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::fs::{File, TryLockError};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// What the names of logs begin and end with; between them stands which part of the list it is.
const NAME: (&str, &str) = ("manifest-", ".jsonl");
/// The folder of the logs of chunks that workers claimed.
const CHUNKS: &str = "done";
/// The log of a list that is not shared between machines.
pub const WHOLE: &str = "0";
/// Most bytes of a line.
const LONGEST: u64 = 1 << 20;
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
    /// The name that its contents give, where the user gave another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
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
    /// Sampling steps.
    #[serde(default)]
    pub steps: usize,
    /// When it began, UTC.
    #[serde(default)]
    pub started: Option<String>,
    /// Where the time went; `None` for a picture that was found.
    #[serde(default)]
    pub seconds: Option<Seconds>,
    /// Which attempt it was, from 1.
    #[serde(default)]
    pub attempt: u32,
    /// Who made it.
    #[serde(default)]
    pub worker: String,
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

impl Entry {
    /// What the log says of any end of `job`.
    pub fn of(job: &Ready, status: Status, worker: &str) -> Self {
        let model = job.job().map(|job| job.model_name().to_owned()).unwrap_or_default();
        Self {
            v: 1,
            id: job.id.clone(),
            content: job.is_named().then(|| job.content.clone()),
            line: job.line,
            status,
            file: None,
            sha256: None,
            bytes: None,
            seed: Some(job.seed),
            model,
            stack: job.networks.loras.clone(),
            width: job.width,
            height: job.height,
            steps: job.steps,
            started: None,
            seconds: None,
            attempt: 1,
            worker: worker.to_owned(),
            device: None,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            labels: job.labels.clone(),
            error: None,
        }
    }
}

impl Entry {
    /// Seconds that all stages took.
    pub(super) fn took(&self) -> Option<f64> {
        let Seconds { load, compose, encode, sample, decode, save } = self.seconds?;
        Some(load + compose + encode + sample + decode + save)
    }
}

/// What the last line about a job says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Logged {
    /// What became of it.
    pub status: Status,
    /// The name that its contents gave, where the user gave another.
    pub content: Option<Box<str>>,
    /// The SHA-256 of the picture's file.
    pub sha256: Option<Box<str>>,
    /// Its length.
    pub bytes: Option<u64>,
    /// Which attempt it was, from 1.
    pub attempt: u32,
}

impl From<&Entry> for Logged {
    fn from(entry: &Entry) -> Self {
        Self {
            status: entry.status,
            content: entry.content.as_deref().map(Into::into),
            sha256: entry.sha256.as_deref().map(Into::into),
            bytes: entry.bytes,
            attempt: entry.attempt,
        }
    }
}

/// Logs of a list, one of them open for more lines. That one is locked: two programs at one part of a list would make
/// pictures twice.
#[derive(Debug)]
pub struct Manifest {
    /// Where lines go.
    to: Target,
    /// The last line of each job, of all logs in the folder.
    known: HashMap<Box<str>, Logged>,
    /// Lines that are none: torn by a crash, or damaged.
    pub unreadable: usize,
}

#[derive(Debug)]
enum Target {
    File { path: PathBuf, file: File, synced: Instant },
    Kept(Vec<Entry>),
}

impl Manifest {
    /// Opens the log `manifest-SHARD.jsonl` in `folder`, or begins one; reads the other logs that lie there.
    ///
    /// # Errors
    /// [`Error::Write`]; [`Error::Unsupported`] when another program is at work on this part.
    pub fn open(folder: &Path, shard: &str) -> Result<Self> {
        let path = folder.join(format!("{}{shard}{}", NAME.0, NAME.1));
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
        let to = Target::File { path, file, synced: Instant::now() };
        let mut manifest = Self { to, known: HashMap::new(), unreadable: 0 };
        manifest.unreadable = entries(folder, &mut |entry| manifest.note(&entry))?;
        Ok(manifest)
    }

    /// A log that no file holds; [`take`](Self::take) gives its lines to whoever keeps them elsewhere.
    pub fn kept() -> Self {
        Self { to: Target::Kept(Vec::new()), known: HashMap::new(), unreadable: 0 }
    }

    /// The lines of a log that no file holds, since they were last taken.
    pub fn take(&mut self) -> Vec<Entry> {
        match &mut self.to {
            Target::File { .. } => Vec::new(),
            Target::Kept(entries) => std::mem::take(entries),
        }
    }

    /// What the logs say last of a job.
    pub fn get(&self, id: &str) -> Option<&Logged> {
        self.known.get(id)
    }

    /// Counts a line of another log in, which [`get`](Self::get) then finds.
    pub fn note(&mut self, entry: &Entry) {
        let logged = Logged::from(entry);
        match self.known.get_mut(entry.id.as_str()) {
            Some(known) => *known = logged,
            None => drop(self.known.insert(entry.id.as_str().into(), logged)),
        }
    }

    /// Adds a line, by one write.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub fn push(&mut self, entry: Entry) -> Result<()> {
        self.note(&entry);
        match &mut self.to {
            Target::Kept(entries) => entries.push(entry),
            Target::File { path, file, .. } => {
                let mut line = serde_json::to_string(&entry)
                    .map_err(|error| Error::Internal(format!("a manifest: {error}")))?;
                line.push('\n');
                file.write_all(line.as_bytes()).map_err(|error| Error::write(&path, error))?;
            }
        }
        match &self.to {
            Target::File { synced, .. } if synced.elapsed() >= OFTEN => self.sync(),
            _ => Ok(()),
        }
    }

    /// Writes all lines to the disk.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub fn sync(&mut self) -> Result<()> {
        let Target::File { path, file, synced } = &mut self.to else { return Ok(()) };
        *synced = Instant::now();
        file.sync_data().map_err(|error| Error::write(&path, error))
    }
}

/// Hands every line of all logs in `folder` to `sink`, and returns how many lines are none.
///
/// # Errors
/// What listing and reading give.
pub fn entries(folder: &Path, sink: &mut dyn FnMut(Entry)) -> Result<usize> {
    let io = |error| Error::io(folder, error);
    let mut logs = Vec::new();
    for file in std::fs::read_dir(folder).map_err(io)? {
        let name = file.map_err(io)?.file_name();
        let is_log = |name: &str| name.starts_with(NAME.0) && name.ends_with(NAME.1);
        if name.to_str().is_some_and(is_log) {
            logs.push(folder.join(name));
        }
    }
    // Workers that claim chunks leave one log for each.
    for chunk in std::fs::read_dir(folder.join(CHUNKS)).into_iter().flatten() {
        let path = chunk.map_err(io)?.path();
        if path.extension().is_some_and(|extension| extension == "jsonl") {
            logs.push(path);
        }
    }
    logs.sort();
    let mut unreadable = 0;
    for path in logs {
        unreadable += read(&path, sink)?;
    }
    Ok(unreadable)
}

/// Hands every line of a log to `sink`, and returns how many lines are none.
fn read(path: &Path, sink: &mut dyn FnMut(Entry)) -> Result<usize> {
    let io = |error| Error::io(path, error);
    let mut reader = BufReader::new(input::open(path)?);
    let mut unreadable = 0;
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = reader.by_ref().take(LONGEST).read_until(b'\n', &mut line).map_err(io)?;
        if read == 0 {
            return Ok(unreadable);
        }
        match serde_json::from_slice::<Entry>(&line) {
            Ok(entry) => sink(entry),
            Err(_) if line == b"\n" => {}
            Err(_) => unreadable += 1,
        }
    }
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
        let mut manifest = Manifest::open(folder.path(), WHOLE).unwrap();
        manifest.push(entry("a", Status::Failed)).unwrap();
        manifest.push(entry("b", Status::Done)).unwrap();
        assert!(Manifest::open(folder.path(), WHOLE).is_err(), "two programs at one list");
        drop(manifest);
        let path = folder.path().join("manifest-0.jsonl");
        let mut bytes = std::fs::read(&path).unwrap();
        bytes.truncate(bytes.len() - 9);
        std::fs::write(&path, bytes).unwrap();
        let mut manifest = Manifest::open(folder.path(), WHOLE).unwrap();
        assert_eq!((manifest.unreadable, manifest.get("b")), (1, None));
        manifest.push(entry("a", Status::Done)).unwrap();
        drop(manifest);
        let manifest = Manifest::open(folder.path(), WHOLE).unwrap();
        assert_eq!(manifest.get("a").map(|entry| entry.status), Some(Status::Done));
        assert_eq!(manifest.unreadable, 1);
        // Another part of the list has a log of its own, and reads all.
        let mut other = Manifest::open(folder.path(), "3").unwrap();
        assert_eq!(other.get("a"), manifest.get("a"));
        other.push(entry("c", Status::Done)).unwrap();
        assert!(folder.path().join("manifest-3.jsonl").exists());
        let mut kept = Manifest::kept();
        kept.push(entry("d", Status::Done)).unwrap();
        assert_eq!((kept.take().len(), kept.take().len()), (1, 0));
        assert!(kept.get("d").is_some());
    }
}
