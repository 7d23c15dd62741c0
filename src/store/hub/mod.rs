//! Downloads from a hub into the shared cache (feature `hub`).
//!
//! A repository's folder holds `blobs` by content hash, `snapshots` of links to them by commit, and
//! `refs` from branch to commit. Other tools read and write the same folders, so the order matters:
//! a blob appears only whole and checked, a ref only after its snapshot.

mod http;
#[cfg(test)]
mod tests;
mod wanted;

pub(super) use wanted::{adapter, model};

use super::cache::{HubCache, HubId, is_commit, is_relative, without_secrets};
use super::digest::sha256;
use super::{Progress, Transfer};
use crate::atomic_file::{self, Care};
use crate::error::{Error, Result};
use crate::pipeline::Cancel;
use crate::suggest::did_you_mean;
use http::{Client, Failure, Meta};
use std::fs::{self, File, TryLockError};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Times that one file is tried; each try goes on where the last one broke off.
const ATTEMPTS: u32 = 5;
/// Pause before the second try; doubles with each.
const PAUSE: Duration = Duration::from_millis(if cfg!(test) { 1 } else { 500 });
/// Bytes read between two looks at the cancel flag.
const BLOCK: usize = 1 << 18;

/// Chooses what to download among the files of a repository; the error names what is wrong with them.
pub(super) type Choose = fn(&[String]) -> Result<Vec<String>, String>;

/// Brings `id` into the cache and returns its file or folder; `choose` decides which files are
/// wanted when `id` names none.
pub(super) fn pull(
    cache: &HubCache,
    id: &HubId,
    choose: Choose,
    cancel: &Cancel,
    progress: Progress<'_>,
) -> Result<PathBuf> {
    if cache.offline() {
        let root = cache.root().display();
        return Err(missing(
            id,
            format!(
                "; HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE is set and the cache {root} lacks it"
            ),
        ));
    }
    let pull = Pull { cache, id, client: Client::new(cache), cancel, progress };
    let (commit, files) = pull.listing()?;
    let wanted = match &id.file {
        Some(file) if files.contains(file) => vec![file.clone()],
        Some(file) => {
            let near = did_you_mean(file, files.iter().map(String::as_str));
            return Err(missing(id, format!("; the repository has no such file{near}")));
        }
        None => choose(&files).map_err(|why| missing(id, format!("; {why}")))?,
    };
    for file in &wanted {
        pull.file(&commit, file)?;
    }
    let folder = cache.folder(&id.repo);
    if !is_commit(&id.revision) {
        write_whole(&folder.join("refs").join(&id.revision), commit.as_bytes())?;
    }
    let snapshot = folder.join("snapshots").join(&commit);
    match &wanted[..] {
        [single] if single != "model_index.json" => Ok(snapshot.join(single)),
        _ => Ok(snapshot),
    }
}

struct Pull<'a> {
    cache: &'a HubCache,
    id: &'a HubId,
    client: Client,
    cancel: &'a Cancel,
    progress: Progress<'a>,
}

impl Pull<'_> {
    /// The commit behind the revision and the repository's files.
    fn listing(&self) -> Result<(String, Vec<String>)> {
        let revision = http::encode(&self.id.revision).replace('/', "%2F");
        let url =
            format!("{}/api/models/{}/revision/{revision}", self.cache.endpoint(), self.id.repo);
        let text = self.patiently(|| self.client.text(&url))?;
        let broken = || {
            missing(self.id, format!("; {} did not answer with a file list", without_secrets(&url)))
        };
        let json: serde_json::Value = serde_json::from_str(&text).map_err(|_| broken())?;
        let commit = json["sha"].as_str().filter(|c| is_commit(c)).ok_or_else(broken)?;
        let files = json["siblings"].as_array().ok_or_else(broken)?;
        let names = files.iter().filter_map(|f| f["rfilename"].as_str());
        Ok((commit.to_owned(), names.filter(|n| is_relative(n)).map(str::to_owned).collect()))
    }

    /// Brings one file into the cache.
    fn file(&self, commit: &str, file: &str) -> Result<()> {
        let endpoint = self.cache.endpoint();
        let url = format!("{endpoint}/{}/resolve/{commit}/{}", self.id.repo, http::encode(file));
        let meta = self.patiently(|| self.client.head(&url))?;
        let folder = self.cache.folder(&self.id.repo);
        let blob = folder.join("blobs").join(&meta.etag);
        let locks = self.cache.root().join(".locks").join(folder.file_name().unwrap_or_default());
        let lock = self.lock(&locks.join(format!("{}.lock", meta.etag)))?;
        if !blob.exists() {
            make_parent(&blob)?;
            self.download(&url, file, &blob, &meta, lock.is_some())?;
        }
        link(&blob, &folder.join("snapshots").join(commit), file)
    }

    /// `alone`: whether no other process can write to the unfinished file, so that it can be continued.
    fn download(&self, url: &str, file: &str, blob: &Path, meta: &Meta, alone: bool) -> Result<()> {
        let part = blob.with_file_name(unfinished(&meta.etag, alone));
        let done = self
            .patiently(|| self.append(url, file, &part, meta))
            .and_then(|()| check(&part, meta, self.cancel));
        if done.is_err() && !alone {
            // Nobody would find it again.
            let _ = fs::remove_file(&part);
        }
        done?;
        // It is called by its hash: a power cut must not leave other bytes under that name.
        let synced = File::options().write(true).open(&part).and_then(|file| file.sync_all());
        synced.map_err(|e| Error::write(&part, e))?;
        fs::rename(&part, blob).map_err(|e| Error::write(blob, e))
    }

    /// Reads what is missing of `part`, from its end.
    fn append(&self, url: &str, file: &str, part: &Path, meta: &Meta) -> Result<(), Failure> {
        let fatal = |e| Failure::Fatal(Error::write(part, e));
        let mut out = File::options().append(true).create(true).open(part).map_err(fatal)?;
        let mut done = out.metadata().map_err(fatal)?.len();
        if meta.size == Some(done) {
            return Ok(());
        }
        let (mut body, resumed) = self.client.body(url, done)?;
        if !resumed {
            out.set_len(0).map_err(fatal)?;
            done = 0;
        }
        let mut block = vec![0; BLOCK];
        loop {
            self.cancel.check().map_err(Failure::Fatal)?;
            let read = body.read(&mut block).map_err(|e| Failure::Link(e.to_string()))?;
            if read == 0 {
                break;
            }
            out.write_all(&block[..read]).map_err(fatal)?;
            done += read as u64;
            (self.progress)(&Transfer { file: file.to_owned(), done, total: meta.size });
        }
        match meta.size {
            Some(size) if done < size => Err(Failure::Link(format!("{done} of {size} bytes came"))),
            _ => Ok(()),
        }
    }

    /// Runs `request` again after failures that pass by themselves.
    fn patiently<T>(&self, request: impl Fn() -> Result<T, Failure>) -> Result<T> {
        let mut attempt = 0;
        loop {
            self.cancel.check()?;
            match request() {
                Ok(value) => return Ok(value),
                Err(failure) if failure.passes() && attempt + 1 < ATTEMPTS => {
                    std::thread::sleep(PAUSE * (1 << attempt));
                    attempt += 1;
                }
                Err(failure) => return Err(self.explain(failure)),
            }
        }
    }

    fn explain(&self, failure: Failure) -> Error {
        let endpoint = self.cache.shown_endpoint();
        match failure {
            Failure::Fatal(error) => error,
            Failure::Status(status @ (401 | 403)) => missing(
                self.id,
                format!(
                    " for you ({endpoint} answers {status}); it may be private, gated or misspelt: accept its terms on its page, then set HF_TOKEN"
                ),
            ),
            Failure::Status(404) => {
                missing(self.id, format!(" at {endpoint} (404); check owner, name and revision"))
            }
            Failure::Status(status) => {
                missing(self.id, format!(" to be had from {endpoint}; it answers {status}"))
            }
            Failure::Link(why) => missing(
                self.id,
                format!(
                    " in the cache {}, and {endpoint} could not be read ({why}); if this machine is offline, copy the model here and pass its path; what was downloaded is kept for the next try",
                    self.cache.root().display()
                ),
            ),
        }
    }

    /// Waits until no other process downloads the same file; `None` in a folder without file locks.
    fn lock(&self, path: &Path) -> Result<Option<File>> {
        make_parent(path)?;
        let file = File::options().create(true).append(true).open(path);
        let file = file.map_err(|e| Error::write(path, e))?;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Some(file)),
                // Some network folders have no file locks; two downloads then do the work twice.
                Err(TryLockError::Error(_)) => return Ok(None),
                Err(TryLockError::WouldBlock) => {
                    self.cancel.check()?;
                    std::thread::sleep(Duration::from_millis(100));
                }
            }
        }
    }
}

/// The name of a file until all of it is there: the name that other tools use too, or a unique one.
fn unfinished(etag: &str, alone: bool) -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    if alone {
        return format!("{etag}.incomplete");
    }
    // Other machines may have the same process ids.
    let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("{etag}.{}-{time:x}-{count}.incomplete", std::process::id())
}

fn missing(id: &HubId, hint: String) -> Error {
    Error::NotFound { what: "model", name: format!("hub:{id}"), hint, how: None }
}

fn make_parent(path: &Path) -> Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder).map_err(|e| Error::write(folder, e))
}

/// Compares size and, for large files, whose tag is their SHA-256, content; discards what differs.
fn check(part: &Path, meta: &Meta, cancel: &Cancel) -> Result<()> {
    let io = |e| Error::io(part, e);
    let length = fs::metadata(part).map_err(io)?.len();
    let mut wrong = meta.size.filter(|&s| s != length).map(|s| format!("{length} bytes, not {s}"));
    if wrong.is_none() && meta.etag.len() == 64 {
        let hash = sha256(part, cancel)?;
        wrong = (hash != meta.etag.to_lowercase())
            .then(|| format!("SHA-256 {hash}, not {}", meta.etag));
    }
    let Some(wrong) = wrong else { return Ok(()) };
    fs::remove_file(part).map_err(|e| Error::write(part, e))?;
    Err(Error::corrupt(part, format!("the download has {wrong}; it was discarded, try again")))
}

/// Makes `snapshot/file` a link to `blob`, or a copy where links are not to be had.
fn link(blob: &Path, snapshot: &Path, file: &str) -> Result<()> {
    let pointer = snapshot.join(file);
    if pointer.exists() {
        return Ok(());
    }
    make_parent(&pointer)?;
    // A link whose blob is gone.
    let _ = fs::remove_file(&pointer);
    let up = "../".repeat(2 + file.matches('/').count());
    let target = format!("{up}blobs/{}", blob.file_name().unwrap_or_default().to_string_lossy());
    symlink(&target, &pointer)
        .or_else(|_| fs::hard_link(blob, &pointer))
        .or_else(|_| fs::copy(blob, &pointer).map(drop))
        .map_err(|e| Error::write(pointer, e))
}

#[cfg(unix)]
fn symlink(target: &str, pointer: &Path) -> std::io::Result<()> {
    std::os::unix::fs::symlink(target, pointer)
}

#[cfg(not(unix))]
fn symlink(_: &str, _: &Path) -> std::io::Result<()> {
    // Windows asks for a privilege that users lack.
    Err(std::io::ErrorKind::Unsupported.into())
}

fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    make_parent(path)?;
    atomic_file::write(path, true, Care::Lasting, |file| {
        file.write_all(bytes).map_err(|e| Error::write(path, e))
    })
}
