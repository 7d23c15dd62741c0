//! `colora batch submit|work`, and `status` of a queue: a PostgreSQL database hands jobs out.

use super::list_args::ListArgs;
use crate::cli::style::Talk;
use anyhow::Result;
use clap::ValueHint;
use std::path::PathBuf;

const SUBMIT: &str = "\
Examples:
  colora batch submit prompts.csv --queue postgres://me@db/art
  colora batch submit prompts.csv --queue \"$QUEUE\" --batch spring -m dreamshaper -s 20

All lines are checked as by `colora batch FILE`. The tables colora_batch and colora_job are made when
they are not there. The same list again adds nothing.";

const WORK: &str = "\
Examples:
  colora batch work --queue postgres://me@db/art -o /shared/out
  colora batch work --queue \"$QUEUE\" -o s3://bucket/spring     (with the feature `cluster`)

Start as many workers as there are GPUs; each ends when all jobs have ended. Models and LoRAs are found
on the worker's machine and have to be those that the batch was submitted with.";

/// What `colora batch submit` accepts.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = SUBMIT)]
pub(crate) struct Submit {
    #[command(flatten)]
    pub(super) list: ListArgs,
    /// Database that hands the jobs out: postgres://USER@HOST/DATABASE
    #[arg(long, value_name = "URL", env = "COLORA_QUEUE", hide_env_values = true)]
    pub(super) queue: String,
    /// Name of the batch in the database [default: the first digits of its list's hash]
    #[arg(long, value_name = "NAME")]
    pub(super) batch: Option<String>,
}

/// What `colora batch work` accepts.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = WORK)]
pub(crate) struct WorkArgs {
    /// Database that hands the jobs out: postgres://USER@HOST/DATABASE
    #[arg(long, value_name = "URL", env = "COLORA_QUEUE", hide_env_values = true)]
    pub(super) queue: String,
    /// The batch to work on [default: all that are not done, the oldest first]
    #[arg(long, value_name = "NAME")]
    pub(super) batch: Option<String>,
    /// Folder or bucket of the pictures, the same for all workers
    #[arg(short, long, value_name = "PLACE", value_hint = ValueHint::DirPath)]
    pub(super) out: PathBuf,
    /// Jobs that are taken at a time [default: 20]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(super) chunk: Option<u32>,
    /// Seconds without a sign of life after which others take a worker's jobs over
    #[arg(long, value_name = "SECONDS", default_value_t = 90.0)]
    pub(super) lease: f64,
    /// How long the picture at work may still take after Ctrl-C or SIGTERM, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 20.0)]
    pub(super) grace: f64,
    /// Worker threads on the CPU [default: one a core]
    #[arg(long, value_name = "N")]
    pub(super) threads: Option<usize>,
    /// Keep one network in memory at a time: the same pixels with less memory, slower
    #[arg(long)]
    pub(super) low_memory: bool,
    /// One JSON object a picture on stdout
    #[arg(long)]
    pub(super) json: bool,
    /// Progress on stderr
    #[arg(long, value_enum, value_name = "KIND", default_value_t)]
    pub(super) progress: crate::cli::flags::ProgressKind,
}

#[cfg(not(feature = "postgres"))]
mod imp {
    use super::{Result, Submit, Talk, WorkArgs};
    use crate::error::Error;
    use crate::hint::Hint;

    fn refuse() -> Result<()> {
        let how = Hint::BuildWith("postgres");
        Err(Error::Unsupported { what: "a queue in a database".into(), how }.into())
    }

    pub(in super::super) fn submit(_: &Submit, _: Talk) -> Result<()> {
        refuse()
    }

    pub(in super::super) fn work(_: &WorkArgs, _: Talk) -> Result<()> {
        refuse()
    }

    pub(in super::super) fn status(_: &str, _: Option<&str>, _: bool) -> Result<()> {
        refuse()
    }
}

#[cfg(feature = "postgres")]
mod imp {
    use super::{Result, Submit, Talk, WorkArgs};
    use crate::app::{Layers, Pool, SCHEMA, Unobserved};
    use crate::batch::cluster::{self, Place, Postgres};
    use crate::batch::{self, Options, Seeding, Source};
    use crate::cli::batch::shared::{self, Hands};
    use crate::cli::batch::{grace, read};
    use crate::cli::progress::Progress;
    use crate::cli::style::{block, result_json, result_line};
    use crate::cli::{interrupt, setup, threads};
    use crate::error::Error;
    use crate::pipeline::{Cancel, Memory, Pipeline};
    use std::path::Path;

    /// Digits of a list's hash that name its batch.
    const NAME: usize = 12;

    /// Adds a list to the queue.
    pub(in super::super) fn submit(args: &Submit, talk: Talk) -> Result<()> {
        let setup = setup()?;
        args.list.machine.limit_threads(&setup, talk)?;
        let cancel = Cancel::new();
        interrupt::install(&cancel)?;
        let pool = Pool::cancelled_by(setup.store.clone(), &cancel);
        let read = read(&args.list, None, &setup, &pool, &cancel, talk)?;
        let name = match &args.batch {
            Some(name) => name.clone(),
            None => read.list.head.plan.chars().take(NAME).collect(),
        };
        let added = cluster::submit(&args.queue, &name, &read.list.head, &read.list.jobs)?;
        let jobs = read.list.jobs.len();
        talk.say(&format!("batch {name}: {jobs} jobs, {added} of them new in the queue"));
        result_line(&name)?;
        match read.left_out {
            0 => Ok(()),
            failed => Err(Error::Jobs { failed, of: jobs + failed }.into()),
        }
    }

    /// Works on batches until all of their jobs have ended.
    pub(in super::super) fn work(args: &WorkArgs, talk: Talk) -> Result<()> {
        let setup = setup()?;
        threads::limit(args.threads.or(setup.settings.config.threads), talk)?;
        let cancel = Cancel::new();
        interrupt::install(&cancel)?;
        let memory = if args.low_memory { Memory::Low } else { Memory::Resident };
        let opened = Pipeline::options().memory(memory);
        let pools = || Pool::cancelled_by(setup.store.clone(), &cancel).opened_with(opened.clone());
        let pool = pools();
        // Every choice was made when the list was submitted: no setting of this machine changes a job.
        let planner = |source: &Source| {
            let (listed, mistakes) =
                batch::list(&source.drafts, &Layers::default(), &setup.store, Seeding::default());
            let mut checked = batch::check(listed, &pool, &Unobserved, &cancel)?;
            checked.mistakes.extend(mistakes);
            Ok(checked)
        };
        let metadata = setup.settings.config.metadata != Some(false);
        let options = Options { metadata, grace: grace(args.grace)?, ..Options::default() };
        let progress = Progress::new(args.progress, talk, args.json);
        let hands = Hands {
            options,
            pools: &pools,
            cancel: &cancel,
            talk,
            progress: &progress,
            json: args.json,
        };
        let objects = shared::open(&args.out)?;
        let (mut failed, mut of) = (0, 0);
        for batch in cluster::batches(&args.queue, args.batch.as_deref())? {
            let counts = batch.counts;
            if counts.open + counts.working == 0 && args.batch.is_none() {
                continue;
            }
            let name = shared::worker();
            let jobs = batch.head.jobs;
            talk.say(&format!("worker {name}: batch {} of {jobs} jobs", batch.name));
            let place = Place {
                url: args.queue.clone(),
                batch: batch.name.clone(),
                worker: name.clone(),
                lease: shared::lease(args.lease)?,
                chunk: args.chunk.map(|chunk| chunk as usize),
            };
            let mut queue = Postgres::open(place, &planner)?;
            let source = Path::new(&batch.name);
            shared::work(&mut queue, &objects, jobs, &name, source, &hands)?;
            let log = format!("manifest-{}.jsonl", batch.name);
            objects.put(&log, queue.log()?.as_bytes())?;
            let lost = queue.counts()?.failed as usize;
            shared::say_end(jobs, lost, talk);
            (failed, of) = (failed + lost, of + jobs);
        }
        match failed {
            0 => Ok(()),
            failed => Err(Error::Jobs { failed, of }.into()),
        }
    }

    /// Prints the batches of a queue.
    pub(in super::super) fn status(queue: &str, name: Option<&str>, json: bool) -> Result<()> {
        for batch in cluster::batches(queue, name)? {
            if json {
                let mut value = serde_json::json!({"schema": SCHEMA, "event": "batch-status"});
                if let (Some(map), Ok(serde_json::Value::Object(fields))) =
                    (value.as_object_mut(), serde_json::to_value(&batch))
                {
                    map.extend(fields);
                }
                result_json(&value.to_string())?;
                continue;
            }
            let counts = batch.counts;
            let mut text = format!(
                "{}  {} jobs of {}, submitted {}\n  {} done, {} failed, {} at work, {} open; {} ended in the last ten minutes",
                batch.name,
                batch.head.jobs,
                batch.head.source,
                batch.created,
                counts.done,
                counts.failed,
                counts.working,
                counts.open,
                batch.recent,
            );
            for (what, count) in &batch.failures {
                text += &format!("\n  failed {count} times, code {what}");
            }
            result_line(block(&text).trim_end())?;
        }
        Ok(())
    }
}

pub(super) use imp::{status, submit, work};
