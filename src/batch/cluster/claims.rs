//! Claims: workers share a list through a folder or an object store, without any service.
//!
//! The list is cut into chunks of neighbours. A worker that makes the object `claims/CHUNK/0` has the chunk, gives signs
//! of life in `claims/CHUNK/0.beat`, and ends it by making `done/CHUNK.jsonl`, which holds the lines of the log. When
//! signs of life stop, another worker makes `claims/CHUNK/1`, and so on: an epoch each.
//!
//! Claims only save work. That no picture is made twice and none is lost follows from names: a picture has the name
//! of its contents, and making an object never replaces one. Two workers that both think that they have a chunk make the
//! same pictures, and the second one's are dropped.

use super::beat::{Beat, Beating};
use super::chance;
use super::objects::{Objects, Owner, Patient};
use super::queue::{Begin, Hold, Next, Portion, Queue, loaded};
use crate::batch::make::moment;
use crate::batch::manifest::{Entry, Status};
use crate::batch::ready::Ready;
use crate::error::{Error, Result};
use crate::plain::hex;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The object that says how the list is cut.
const CUT: &str = "claims.json";
/// The log of the whole list, written when all chunks are done.
const MERGED: &str = "manifest-claims.jsonl";
/// Most jobs of a chunk where the user gives no number, and how many chunks there are of a short list.
const CHUNK: usize = 200;
const CHUNKS: usize = 100;
/// Beats in the time after which a worker without any is given up.
const BEATS: u32 = 4;
/// Pictures after which a beat comes before its time.
const OFTEN: usize = 10;
/// Claims that others have, met in a row, after which the state is read again.
const MISSES: usize = 8;
/// How many workers begin at the same job, one after the other, before it is given up.
const GIVE_UP: u32 = 4;
/// The longest wait between two looks at other workers.
const LOOK: Duration = Duration::from_secs(10);

/// How a worker takes part.
#[derive(Debug, Clone)]
pub struct Settings {
    /// What others call it.
    pub worker: String,
    /// How long a worker may give no sign of life before others take its chunk over.
    pub lease: Duration,
    /// Jobs of a chunk.
    pub chunk: Option<usize>,
}

/// How the list is cut, the same for all workers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Cut {
    v: u32,
    jobs: usize,
    /// The SHA-256 of the names of the jobs in their order.
    order: String,
    chunk: usize,
}

/// What is known of a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    /// A worker has it; the epoch is the newest one.
    Claimed(u32),
    Done,
}

/// The contents of a claim.
#[derive(Debug, Serialize, Deserialize)]
struct Body {
    worker: String,
    /// What no other claim holds.
    token: String,
    started: String,
    /// How many jobs had ended.
    before: usize,
}

#[derive(Debug)]
struct Chunk {
    jobs: Range<usize>,
    /// What its first job needs in memory.
    first: String,
    state: State,
}

/// The last change that was seen of another worker's beats.
#[derive(Debug)]
struct Watch {
    epoch: u32,
    n: u64,
    since: Instant,
}

/// A chunk that this worker has.
#[derive(Debug)]
struct Claim {
    chunk: usize,
    epoch: u32,
    beats: Beating,
    /// Reports since the last beat that a report caused.
    reports: usize,
    /// Whether no picture has been begun yet of a chunk that was another worker's.
    is_taken_over: bool,
    /// Whether workers before this one came to nothing.
    is_stuck: bool,
}

/// The chunks of a list, and those of this worker.
#[derive(Debug)]
pub struct Claims {
    objects: Arc<Patient<dyn Objects>>,
    settings: Settings,
    jobs: Arc<Vec<Ready>>,
    chunks: Vec<Chunk>,
    watched: HashMap<usize, Watch>,
    claim: Option<Claim>,
    /// Whether the state has been read.
    is_fresh: bool,
}

impl Claims {
    /// The claims on the ordered list `jobs`.
    ///
    /// # Errors
    /// [`Error::BadRequest`] when other workers have another order or other chunks; what the store gives.
    pub fn open(
        objects: Arc<Patient<dyn Objects>>,
        jobs: Arc<Vec<Ready>>,
        settings: Settings,
    ) -> Result<Self> {
        let mut hash = Sha256::new();
        jobs.iter().for_each(|job| hash.update(format!("{}\n", job.id)));
        let usual = (jobs.len() / CHUNKS).clamp(1, CHUNK);
        let mine = Cut {
            v: 1,
            jobs: jobs.len(),
            order: hex(&hash.finalize()),
            chunk: settings.chunk.unwrap_or(usual).max(1),
        };
        let bytes = serde_json::to_vec(&mine).map_err(internal)?;
        let cut = match objects.create(CUT, &bytes)? {
            Owner::Us => mine,
            Owner::Other(bytes) => agreed(&bytes, &mine, settings.chunk, &objects.title(CUT))?,
        };
        let starts = (0..jobs.len()).step_by(cut.chunk);
        let chunks = starts.map(|start| Chunk {
            jobs: start..jobs.len().min(start + cut.chunk),
            first: jobs.get(start).map(loaded).unwrap_or_default(),
            state: State::Open,
        });
        let chunks = chunks.collect();
        let (watched, claim, is_fresh) = (HashMap::new(), None, false);
        Ok(Self { objects, settings, jobs, chunks, watched, claim, is_fresh })
    }

    /// How many chunks there are, and how many of them are done as far as this worker has seen.
    pub fn counts(&self) -> (usize, usize) {
        let done = self.chunks.iter().filter(|chunk| chunk.state == State::Done).count();
        (self.chunks.len(), done)
    }

    /// How many jobs of the list failed, when all have ended.
    ///
    /// # Errors
    /// What the store gives.
    pub fn failed(&self) -> Result<usize> {
        let log = self.objects.get(MERGED)?.unwrap_or_default();
        let lines = log.split(|byte| *byte == b'\n');
        let entries = lines.filter_map(|line| serde_json::from_slice::<Entry>(line).ok());
        Ok(entries.filter(|entry| entry.status == Status::Failed).count())
    }

    /// Reads which chunks are claimed and which are done.
    fn refresh(&mut self) -> Result<()> {
        let number = |text: &str| text.parse::<usize>().ok();
        // What is done is listed last: a chunk that ends in between counts as done.
        for item in self.objects.list("claims/")? {
            let mut parts = item.name.split('/').skip(1);
            let (chunk, epoch) = (parts.next().and_then(number), parts.next());
            let epoch = epoch.and_then(|epoch| epoch.parse::<u32>().ok());
            let chunk = chunk.and_then(|chunk| self.chunks.get_mut(chunk));
            let (Some(chunk), Some(epoch)) = (chunk, epoch) else { continue };
            match chunk.state {
                State::Open => chunk.state = State::Claimed(epoch),
                State::Claimed(before) => chunk.state = State::Claimed(before.max(epoch)),
                State::Done => {}
            }
        }
        for item in self.objects.list("done/")? {
            let name = item.name.strip_prefix("done/").and_then(|name| name.strip_suffix(".jsonl"));
            if let Some(chunk) = name.and_then(number).and_then(|chunk| self.chunks.get_mut(chunk))
            {
                chunk.state = State::Done;
            }
        }
        self.is_fresh = true;
        Ok(())
    }

    /// An open chunk: one that needs what is in memory, else any, so that workers seldom want the same.
    fn candidate(&self, stack: &str) -> Option<usize> {
        let is_open = |at: &usize| self.chunks.get(*at).is_some_and(|c| c.state == State::Open);
        let open: Vec<usize> = (0..self.chunks.len()).filter(is_open).collect();
        let fits = |at: &usize| self.chunks.get(*at).is_some_and(|chunk| chunk.first == stack);
        open.iter().copied().find(fits).or_else(|| open.get(chance::below(open.len())).copied())
    }

    /// Takes a chunk in an epoch, unless another worker has.
    fn claim(&mut self, chunk: usize, epoch: u32) -> Result<Option<Portion>> {
        let before = match epoch.checked_sub(1) {
            Some(before) => self.beat(chunk, before)?.entries,
            None => Vec::new(),
        };
        let body = Body {
            worker: self.settings.worker.clone(),
            token: format!("{:016x}", chance::token()),
            started: moment(),
            before: before.len(),
        };
        let bytes = serde_json::to_vec(&body).map_err(internal)?;
        if self.objects.create(&name(chunk, epoch), &bytes)? != Owner::Us {
            self.set(chunk, State::Claimed(epoch));
            return Ok(None);
        }
        // It may have ended since the state was read.
        if self.objects.get(&done(chunk))?.is_some() {
            self.set(chunk, State::Done);
            return Ok(None);
        }
        let beats = Beating::start(
            &self.objects,
            beat(chunk, epoch),
            name(chunk, epoch + 1),
            before.clone(),
            self.settings.lease / BEATS,
        )?;
        self.set(chunk, State::Claimed(epoch));
        let is_stuck = self.is_stuck(chunk, epoch, before.len())?;
        self.claim =
            Some(Claim { chunk, epoch, beats, reports: 0, is_taken_over: epoch > 0, is_stuck });
        let jobs = self.chunks.get(chunk).map(|chunk| chunk.jobs.clone()).unwrap_or_default();
        let jobs = self.jobs.get(jobs).unwrap_or_default().to_vec();
        Ok(Some(Portion { jobs, before }))
    }

    /// Whether several workers in a row began a chunk with as many ended jobs as there are now.
    fn is_stuck(&self, chunk: usize, epoch: u32, before: usize) -> Result<bool> {
        let Some(first) = epoch.checked_sub(GIVE_UP) else { return Ok(false) };
        for earlier in first + 1..epoch {
            let body = self.objects.get(&name(chunk, earlier))?.unwrap_or_default();
            if serde_json::from_slice::<Body>(&body).map_or(true, |body| body.before != before) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn set(&mut self, chunk: usize, state: State) {
        if let Some(chunk) = self.chunks.get_mut(chunk) {
            chunk.state = state;
        }
    }

    /// The last sign of life for a chunk; the claim itself is the first.
    fn beat(&self, chunk: usize, epoch: u32) -> Result<Beat> {
        let bytes = self.objects.get(&beat(chunk, epoch))?;
        // What is cut short is a sign of life as well.
        Ok(bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default())
    }

    /// Whether the worker of a chunk let it go, or gave no sign of life for so long.
    fn is_given_up(&mut self, chunk: usize, epoch: u32) -> Result<bool> {
        let Beat { n, released, .. } = self.beat(chunk, epoch)?;
        if released {
            return Ok(true);
        }
        let now = Watch { epoch, n, since: Instant::now() };
        let watch = self.watched.entry(chunk).or_insert(now);
        if (watch.epoch, watch.n) != (epoch, n) {
            *watch = Watch { epoch, n, since: Instant::now() };
        }
        Ok(watch.since.elapsed() >= self.settings.lease)
    }

    /// Takes over a chunk whose worker is gone.
    fn take_over(&mut self) -> Result<Option<Portion>> {
        for chunk in 0..self.chunks.len() {
            let State::Claimed(epoch) = self.chunks[chunk].state else { continue };
            if self.is_given_up(chunk, epoch)?
                && let Some(portion) = self.claim(chunk, epoch + 1)?
            {
                return Ok(Some(portion));
            }
        }
        Ok(None)
    }

    /// Writes the log of the whole list, which the worker does that sees its end, and all others that see it as well.
    fn merge(&self) -> Result<()> {
        if self.objects.get(MERGED)?.is_some() {
            return Ok(());
        }
        let mut text = Vec::new();
        for chunk in 0..self.chunks.len() {
            text.extend(self.objects.get(&done(chunk))?.unwrap_or_default());
        }
        self.objects.create(MERGED, &text).map(drop)
    }
}

impl Queue for Claims {
    fn next(&mut self, stack: &str) -> Result<Next> {
        if !self.is_fresh {
            self.refresh()?;
        }
        let mut misses = 0;
        while let Some(chunk) = self.candidate(stack) {
            if let Some(portion) = self.claim(chunk, 0)? {
                return Ok(Next::Jobs(Box::new(portion)));
            }
            misses += 1;
            if misses % MISSES == 0 {
                self.refresh()?;
            }
        }
        self.refresh()?;
        if self.chunks.iter().all(|chunk| chunk.state == State::Done) {
            self.merge()?;
            return Ok(Next::Over);
        }
        match self.take_over()? {
            Some(portion) => Ok(Next::Jobs(Box::new(portion))),
            None => Ok(Next::Wait(LOOK.min(self.settings.lease / 9))),
        }
    }

    fn begin(&mut self, _: &str) -> Result<Begin> {
        let Some(claim) = &mut self.claim else { return Ok(Begin::Lost) };
        if std::mem::take(&mut claim.is_stuck) {
            return Ok(Begin::GaveUp(GIVE_UP));
        }
        // What was found made is reported at once: the worker after this one sees that there was progress.
        if std::mem::take(&mut claim.is_taken_over) {
            claim.beats.now()?;
        }
        Ok(if claim.beats.is_lost() { Begin::Lost } else { Begin::Go })
    }

    fn report(&mut self, entry: Entry) -> Result<Hold> {
        let Some(claim) = &mut self.claim else { return Ok(Hold::Lost) };
        claim.beats.push(Entry { attempt: claim.epoch + 1, ..entry });
        claim.reports += 1;
        if claim.reports >= OFTEN {
            claim.reports = 0;
            claim.beats.now()?;
        }
        if claim.beats.is_lost() {
            let chunk = claim.chunk;
            let next = State::Claimed(claim.epoch + 1);
            self.claim = None;
            self.set(chunk, next);
            return Ok(Hold::Lost);
        }
        Ok(Hold::Ours)
    }

    fn finish(&mut self) -> Result<()> {
        let Some(claim) = self.claim.take() else { return Ok(()) };
        // One line a job, in the order of the chunk; the last one counts.
        let mut ended: BTreeMap<String, Entry> = BTreeMap::new();
        for entry in claim.beats.entries() {
            ended.insert(entry.id.clone(), entry);
        }
        let mut text = String::new();
        let range = self.chunks.get(claim.chunk).map(|chunk| chunk.jobs.clone());
        for job in self.jobs.get(range.unwrap_or_default()).unwrap_or_default() {
            let entry = ended.remove(&job.id).ok_or_else(|| {
                Error::Internal(format!("the job {} of a chunk was not reported", job.id))
            })?;
            text += &serde_json::to_string(&entry).map_err(internal)?;
            text.push('\n');
        }
        // Another worker may have ended it before: its pictures are the same.
        self.objects.create(&done(claim.chunk), text.as_bytes())?;
        self.set(claim.chunk, State::Done);
        Ok(())
    }

    fn release(&mut self) -> Result<()> {
        self.claim.take().map_or(Ok(()), |claim| claim.beats.release())
    }
}

/// How another worker cut the list, if that is what this one does.
fn agreed(bytes: &[u8], mine: &Cut, chunk: Option<usize>, path: &str) -> Result<Cut> {
    let there: Cut =
        serde_json::from_slice(bytes).map_err(|error| Error::corrupt(path, error.to_string()))?;
    if (there.v, there.jobs, &there.order) != (mine.v, mine.jobs, &mine.order) || there.chunk == 0 {
        let why = "other workers share another list or another order of it here; give all workers the same file and \
                   options, or choose another place";
        return Err(Error::bad_request("out", path, why));
    }
    if chunk.is_some_and(|chunk| chunk != there.chunk) {
        let why = format!("other workers have chunks of {} jobs here", there.chunk);
        return Err(Error::bad_request("chunk", mine.chunk, why));
    }
    Ok(there)
}

fn name(chunk: usize, epoch: u32) -> String {
    format!("claims/{chunk:06}/{epoch}")
}

fn beat(chunk: usize, epoch: u32) -> String {
    format!("claims/{chunk:06}/{epoch}.beat")
}

fn done(chunk: usize) -> String {
    format!("done/{chunk:06}.jsonl")
}

#[allow(clippy::needless_pass_by_value)] // as `map_err` gives it
fn internal(error: serde_json::Error) -> Error {
    Error::Internal(format!("claims: {error}"))
}
