//! A queue that is a table of PostgreSQL: a row a job, taken with `SKIP LOCKED`, held by a lease that signs of life
//! extend. The row holds the job's state and its line of the log, so that both change in one statement.
//!
//! # Source
//! PostgreSQL 15, "SELECT", section "The Locking Clause": "can be used to avoid lock contention with multiple consumers
//! accessing a queue-like table".

use super::chance;
use super::queue::{Begin, Hold, Next, Portion, Queue, loaded};
use super::sql::{Connection, row_text};
use crate::batch::check::Checked;
use crate::batch::manifest::{Entry, Status};
use crate::batch::plan_file::{Head, line};
use crate::batch::ready::Ready;
use crate::batch::source::{Format, Source};
use crate::error::{Error, LineError, Result};
use crate::plain::hex;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::fmt;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// Most letters of a batch's name.
const LONGEST: usize = 100;
/// Rows of one statement that adds jobs.
const ROWS: usize = 1000;
/// Jobs that are taken at a time.
const CHUNK: i64 = 20;
/// How often a job is begun before it counts as one that ends its workers.
const ATTEMPTS: u32 = 5;
/// Beats in a lease.
const BEATS: u32 = 4;
/// The longest wait between two looks at other workers.
const LOOK: Duration = Duration::from_secs(10);
/// Digits of what stands for a model and its LoRAs in the table.
const STACK: usize = 16;

/// The tables. The second one is what workers search: by stack for open jobs, by time and by worker for those at work.
const TABLES: &str = "
select pg_advisory_xact_lock(7026352);
create table if not exists colora_batch(
    name text primary key, created timestamptz not null default now(), jobs bigint not null, head jsonb not null);
create table if not exists colora_job(
    batch text not null references colora_batch(name) on delete cascade, id text not null, stack text not null,
    seq bigint not null, body jsonb not null, state smallint not null default 0, attempt int not null default 0,
    worker text, lease_until timestamptz, result jsonb, primary key (batch, id));
create index if not exists colora_job_open on colora_job(batch, stack, seq) where state = 0;
create index if not exists colora_job_leased on colora_job(batch, lease_until) where state = 1;
create index if not exists colora_job_worker on colora_job(worker) where state = 1;";

/// Takes jobs; the braces are which ones and in which order. States: 0 open, 1 at work, 2 done, 3 failed.
const TAKE: &str = "
with c as (select batch, id from colora_job where batch = $1 and {} limit $2 for update skip locked)
update colora_job j set state = 1, worker = $3,
    lease_until = now() + $4::float8 * interval '1 second'
from c where j.batch = c.batch and j.id = c.id returning j.seq, j.attempt, j.body::text";
/// Where a worker begins a job, so that one which ends its workers is found.
const BEGIN: &str = "
update colora_job set attempt = attempt + 1 where batch = $1 and id = $2 and worker = $3 and state = 1";

/// The jobs that are taken, the first that are there: those of the stack in memory, those after the place at which this
/// worker begins, all others, and those whose worker is gone.
const WHICH: [&str; 4] = [
    "state = 0 and stack = $5 order by stack, seq",
    "state = 0 and stack >= $5 order by stack, seq",
    "state = 0 and $5::text is not null order by stack, seq",
    "state = 1 and lease_until < now() and $5::text is not null order by lease_until",
];

/// What is kept of a job.
#[derive(Serialize, Deserialize)]
struct Body<'a> {
    line: usize,
    content: String,
    #[serde(borrow)]
    job: &'a RawValue,
}

/// A row that was taken.
struct Row {
    seq: i64,
    attempt: i32,
    body: String,
}

/// How many jobs of a batch there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Counts {
    /// Not begun.
    pub open: u64,
    /// At work.
    pub working: u64,
    /// Their pictures are there.
    pub done: u64,
    /// Failed.
    pub failed: u64,
}

/// A batch of the database.
#[derive(Debug, Clone, Serialize)]
pub struct Batch {
    /// Its name.
    pub name: String,
    /// When it was submitted, UTC.
    pub created: String,
    /// The list.
    pub head: Head,
    /// Its jobs.
    pub counts: Counts,
    /// Jobs that ended in the last ten minutes.
    pub recent: u64,
    /// Failures by code and message, with their number, the commonest first.
    pub failures: Vec<(String, u64)>,
}

/// Plans the jobs of lines on this machine.
pub type Planner<'a> = &'a dyn Fn(&Source) -> Result<Checked>;

/// How a worker takes part.
#[derive(Debug, Clone)]
pub struct Place {
    /// `postgres://…`.
    pub url: String,
    /// The name of the batch.
    pub batch: String,
    /// What others call the worker; nobody else has the name.
    pub worker: String,
    /// How long a worker may give no sign of life before others take its jobs over.
    pub lease: Duration,
    /// Jobs that are taken at a time.
    pub chunk: Option<usize>,
}

/// A batch of a database, for one worker.
pub struct Postgres<'a> {
    connection: Arc<Connection>,
    place: Place,
    planner: Planner<'a>,
    /// Where in the order of stacks this worker begins.
    start: String,
    /// How often each job of the portion was begun.
    attempts: HashMap<String, u32>,
    /// The job that is made now.
    begun: Option<String>,
    _beats: Beats,
}

impl fmt::Debug for Postgres<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Postgres").field("batch", &self.place.batch).finish_non_exhaustive()
    }
}

/// Adds the ordered list `jobs` to the database `url` as the batch `name`; returns how many of them are new.
///
/// # Errors
/// [`Error::BadRequest`] when another list has the name; what the database gives.
pub fn submit(url: &str, name: &str, head: &Head, jobs: &[Ready]) -> Result<u64> {
    let is_fine = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if name.is_empty() || name.len() > LONGEST || !name.chars().all(is_fine) {
        let why = format!("expected 1 to {LONGEST} letters, digits, dots, underscores and hyphens");
        return Err(Error::bad_request("batch", name, why));
    }
    let connection = Connection::open(url)?;
    connection.tables(TABLES)?;
    let text = head.json()?;
    let sql = "insert into colora_batch(name, jobs, head) values ($1, $2, $3::text::jsonb) on conflict do nothing";
    connection.execute(sql, &[&name, &(jobs.len() as i64), &text])?;
    let there =
        connection.query("select head::text from colora_batch where name = $1", &[&name])?;
    let there = there.first().map(|row| row_text(row, 0)).transpose()?.unwrap_or_default();
    head.compare(&parsed(&there)?, &format!("the batch {name}"))?;
    let sql = "insert into colora_job(batch, id, stack, seq, body)
        select $1, i, s, n, b::jsonb from unnest($2::text[], $3::text[], $4::int8[], $5::text[]) as t(i, s, n, b)
        on conflict do nothing";
    let mut added = 0;
    for (number, part) in jobs.chunks(ROWS).enumerate() {
        let ids: Vec<&str> = part.iter().map(|job| job.id.as_str()).collect();
        let stacks: Vec<String> = part.iter().map(|job| stack(&loaded(job))).collect();
        let places: Vec<i64> = (0..part.len()).map(|at| (number * ROWS + at) as i64).collect();
        let bodies = part.iter().map(body).collect::<Result<Vec<String>>>()?;
        added += connection.execute(sql, &[&name, &ids, &stacks, &places, &bodies])?;
    }
    Ok(added)
}

/// The batches of a database, the oldest first; `name`: that one alone.
///
/// # Errors
/// [`Error::NotFound`] for a name that is not there; what the database gives.
pub fn batches(url: &str, name: Option<&str>) -> Result<Vec<Batch>> {
    let connection = Connection::open(url)?;
    connection.tables(TABLES)?;
    let sql = "select name, to_char(created at time zone 'utc', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"'), head::text
        from colora_batch where $1::text is null or name = $1 order by created, name";
    let mut found = Vec::new();
    for row in connection.query(sql, &[&name])? {
        let (name, created, head) = (row_text(&row, 0)?, row_text(&row, 1)?, row_text(&row, 2)?);
        let (counts, recent) = counts(&connection, &name)?;
        let sql = "select coalesce(result->'error'->>'code', '?') || ': ' || coalesce(result->'error'->>'message', '?'),
            count(*)::text from colora_job where batch = $1 and state = 3 group by 1 order by count(*) desc, 1 limit 20";
        let rows = connection.query(sql, &[&name])?;
        let failure = |row| Ok((row_text(row, 0)?, row_text(row, 1)?.parse().unwrap_or(0)));
        let failures = rows.iter().map(failure).collect::<Result<_>>()?;
        found.push(Batch { name, created, head: parsed(&head)?, counts, recent, failures });
    }
    match name {
        Some(name) if found.is_empty() => {
            let hint = "; `submit` makes one".to_owned();
            Err(Error::NotFound { what: "batch", name: name.to_owned(), hint, how: None })
        }
        _ => Ok(found),
    }
}

/// The jobs of a batch by state, and how many ended in the last ten minutes.
fn counts(connection: &Connection, batch: &str) -> Result<(Counts, u64)> {
    let sql = "select state::text, count(*)::text, (count(*) filter (where lease_until > now() - interval '10 minutes'))::text
        from colora_job where batch = $1 group by state";
    let (mut counts, mut recent) = (Counts::default(), 0);
    for row in connection.query(sql, &[&batch])? {
        let count: u64 = row_text(&row, 1)?.parse().unwrap_or(0);
        let place = match row_text(&row, 0)?.as_str() {
            "0" => &mut counts.open,
            "1" => &mut counts.working,
            "2" => &mut counts.done,
            _ => &mut counts.failed,
        };
        *place = count;
        if !matches!(row_text(&row, 0)?.as_str(), "0" | "1") {
            recent += row_text(&row, 2)?.parse().unwrap_or(0);
        }
    }
    Ok((counts, recent))
}

impl<'a> Postgres<'a> {
    /// The batch of `place`, whose jobs `planner` plans on this machine.
    ///
    /// # Errors
    /// What the database gives; [`Error::Threads`].
    pub fn open(place: Place, planner: Planner<'a>) -> Result<Self> {
        let connection = Arc::new(Connection::open(&place.url)?);
        let beats = Beats::start(&connection, &place)?;
        let start = format!("{:016x}", chance::token());
        let (attempts, begun) = (HashMap::new(), None);
        Ok(Self { connection, place, planner, start, attempts, begun, _beats: beats })
    }

    /// Takes rows, the best that are there.
    fn take(&self, stack: &str) -> Result<Vec<Row>> {
        let chunk = self.place.chunk.map_or(CHUNK, |chunk| chunk as i64).max(1);
        let lease = self.place.lease.as_secs_f64();
        for (number, which) in WHICH.iter().enumerate() {
            let key = if number == 0 { stack } else { &self.start };
            let sql = TAKE.replace("{}", which);
            let (batch, worker) = (&self.place.batch, &self.place.worker);
            let found = self.connection.query(&sql, &[batch, &chunk, worker, &lease, &key])?;
            let row = |row: &_| {
                let (seq, attempt) = (super::sql::row_i64(row, 0)?, super::sql::row_i32(row, 1)?);
                Ok(Row { seq, attempt, body: row_text(row, 2)? })
            };
            let mut rows = found.iter().map(row).collect::<Result<Vec<Row>>>()?;
            if !rows.is_empty() {
                rows.sort_by_key(|row| row.seq);
                return Ok(rows);
            }
        }
        Ok(Vec::new())
    }

    /// The jobs of rows, planned on this machine.
    fn portion(&mut self, rows: &[Row]) -> Result<Portion> {
        let bodies =
            rows.iter().map(|row| body_of(&row.body)).collect::<Result<Vec<Body<'_>>>>()?;
        let mut text = String::new();
        for body in &bodies {
            // As the database writes it, without line breaks.
            text += &body.job.get().replace('\n', " ");
            text.push('\n');
        }
        let path = Path::new("the queue");
        let source = Source::parse(path, &text, Some(Format::Jsonl), false)?;
        let Checked { ready, mut mistakes, .. } = (self.planner)(&source)?;
        let mut jobs = Vec::new();
        for mut job in ready {
            let Some((body, row)) = bodies.iter().zip(rows).nth(job.line.saturating_sub(1)) else {
                continue;
            };
            if job.networks.doomed.is_none() && job.content != body.content {
                let why = "the model or a LoRA on this machine is not the one that the batch was submitted with";
                mistakes.push(LineError::new(body.line, Error::corrupt("the batch", why)));
            }
            (job.line, job.content) = (body.line, body.content.clone());
            self.attempts.insert(job.id.clone(), row.attempt.max(0) as u32);
            jobs.push(job);
        }
        if mistakes.is_empty() && jobs.len() == rows.len() {
            return Ok(Portion { jobs, before: Vec::new() });
        }
        mistakes.sort_by_key(|mistake| mistake.line);
        Err(Error::Lines { path: format!("batch {}", self.place.batch).into(), mistakes })
    }

    /// Gives back what this worker has.
    fn give_back(&self) -> Result<()> {
        let sql = "update colora_job set state = 0, worker = null, lease_until = null where worker = $1 and state = 1";
        self.connection.execute(sql, &[&self.place.worker]).map(drop)
    }

    /// The log of the whole batch, a line a job.
    ///
    /// # Errors
    /// What the database gives.
    pub fn log(&self) -> Result<String> {
        let sql = "select result::text from colora_job where batch = $1 and result is not null order by seq";
        let rows = self.connection.query(sql, &[&self.place.batch])?;
        rows.iter().map(|row| Ok(row_text(row, 0)? + "\n")).collect()
    }

    /// The jobs of the batch.
    ///
    /// # Errors
    /// What the database gives.
    pub fn counts(&self) -> Result<Counts> {
        counts(&self.connection, &self.place.batch).map(|(counts, _)| counts)
    }
}

impl Queue for Postgres<'_> {
    fn next(&mut self, stack_in_memory: &str) -> Result<Next> {
        // Rows that were taken while the answer was lost.
        self.give_back()?;
        self.attempts.clear();
        let rows = self.take(&stack(stack_in_memory))?;
        if !rows.is_empty() {
            return self.portion(&rows).map(|portion| Next::Jobs(Box::new(portion)));
        }
        let Counts { open, working, .. } = self.counts()?;
        if open + working == 0 {
            return Ok(Next::Over);
        }
        Ok(Next::Wait(LOOK.min(self.place.lease / 9)))
    }

    fn begin(&mut self, id: &str) -> Result<Begin> {
        let attempt = self.attempts.entry(id.to_owned()).or_default();
        if *attempt >= ATTEMPTS {
            return Ok(Begin::GaveUp(ATTEMPTS));
        }
        *attempt += 1;
        self.begun = Some(id.to_owned());
        let (batch, worker) = (&self.place.batch, &self.place.worker);
        let changed = self.connection.execute(BEGIN, &[batch, &id, worker])?;
        Ok(if changed > 0 { Begin::Go } else { Begin::Lost })
    }

    fn report(&mut self, entry: Entry) -> Result<Hold> {
        self.begun = None;
        let attempt = self.attempts.get(&entry.id).copied().unwrap_or(1).max(1);
        let state: i16 = if entry.status == Status::Done { 2 } else { 3 };
        let entry = Entry { attempt, ..entry };
        let text = serde_json::to_string(&entry).map_err(internal)?;
        // Whatever the state: the answer to the first try may have been lost. The time is when it ended.
        let sql = "update colora_job set state = $1, result = $2::text::jsonb, lease_until = now()
            where batch = $3 and id = $4 and worker = $5";
        let (batch, worker) = (&self.place.batch, &self.place.worker);
        let changed = self.connection.execute(sql, &[&state, &text, batch, &entry.id, worker])?;
        Ok(if changed > 0 { Hold::Ours } else { Hold::Lost })
    }

    fn finish(&mut self) -> Result<()> {
        Ok(())
    }

    fn release(&mut self) -> Result<()> {
        // A worker that was asked to stop is no sign against its job.
        if let Some(id) = self.begun.take() {
            let sql = "update colora_job set attempt = attempt - 1
                where batch = $1 and id = $2 and worker = $3 and state = 1";
            let (batch, worker) = (&self.place.batch, &self.place.worker);
            self.connection.execute(sql, &[batch, &id, worker])?;
        }
        self.give_back()
    }
}

/// Extends the lease of all jobs of a worker, in a thread of its own until it is dropped.
struct Beats {
    over: Arc<(Mutex<bool>, Condvar)>,
    thread: Option<JoinHandle<()>>,
}

impl Beats {
    fn start(connection: &Arc<Connection>, place: &Place) -> Result<Self> {
        let over = Arc::new((Mutex::new(false), Condvar::new()));
        let (mine, connection, place) = (over.clone(), connection.clone(), place.clone());
        let work = move || {
            let wait = || {
                let lock = mine.0.lock().unwrap_or_else(PoisonError::into_inner);
                let waited = mine.1.wait_timeout_while(lock, place.lease / BEATS, |over| !*over);
                waited.map_or(true, |(over, _)| *over)
            };
            let sql = "update colora_job set lease_until = now() + $2::float8 * interval '1 second'
                where worker = $1 and state = 1";
            while !wait() {
                // A database out of reach is a reason to go on trying, not to stop.
                let _ = connection.execute(sql, &[&place.worker, &place.lease.as_secs_f64()]);
            }
        };
        let thread = std::thread::Builder::new().name("beat".into()).spawn(work);
        let thread = thread.map_err(|source| Error::Threads { source })?;
        Ok(Self { over, thread: Some(thread) })
    }
}

impl Drop for Beats {
    fn drop(&mut self) {
        *self.over.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.over.1.notify_all();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What stands for a model and its LoRAs in the table.
fn stack(loaded: &str) -> String {
    let mut hash = hex(&Sha256::digest(loaded.as_bytes()));
    hash.truncate(STACK);
    hash
}

fn body(job: &Ready) -> Result<String> {
    let text = line(job)?;
    let raw: &RawValue = serde_json::from_str(text.trim_end()).map_err(internal)?;
    let (line, content) = (job.line, job.content.clone());
    serde_json::to_string(&Body { line, content, job: raw }).map_err(internal)
}

fn body_of(text: &str) -> Result<Body<'_>> {
    serde_json::from_str(text).map_err(|error| Error::corrupt("colora_job.body", error.to_string()))
}

fn parsed(head: &str) -> Result<Head> {
    serde_json::from_str(head)
        .map_err(|error| Error::corrupt("colora_batch.head", error.to_string()))
}

#[allow(clippy::needless_pass_by_value)] // as `map_err` gives it
fn internal(error: serde_json::Error) -> Error {
    Error::Internal(format!("a queue: {error}"))
}
