//! `colora batch`: from a file of jobs to pictures, each made once.

mod dry_run;
mod list_args;
mod queue;
mod shared;
mod speak;
mod status;

use super::flags::ProgressKind;
use super::origin::with_origin;
use super::progress::Progress;
use super::style::Talk;
use super::{interrupt, setup};
use crate::app::{Layers, Pool, Setup, Unobserved};
use crate::batch::{
    self, Folder, JobList, Manifest, Names, Options, Part, Pictures, Sharding, Source, Work,
};
use crate::error::{Error, LineError};
use crate::pipeline::{Cancel, Pipeline};
use anyhow::{Context, Result};
use clap::builder::TypedValueParser;
use clap::{ValueEnum, ValueHint};
use list_args::ListArgs;
use shared::Hands;
use speak::Report;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

const EXAMPLES: &str = "\
Examples:
  colora batch prompts.txt                        a prompt a line, into prompts-pictures/
  colora batch prompts.txt                        the same again: goes on where the last run ended
  colora batch jobs.csv -o out -s 20 --dry-run    what would be made, in which order, how large
  colora batch old-pictures/ -m dreamshaper       the pictures of a folder with another model
  colora batch status prompts-pictures            how many are done, failed and open, and how long it takes
  colora batch jobs.toml --json | jq -r .path     one JSON object a picture
  generate-jobs | colora batch - --format jsonl -o out

Files: .txt is a prompt a line; a line that begins with -- holds switches: --prompt a fox --steps 20
--lora flat:0.8, or those of AUTOMATIC1111. .csv has a header of fields. .jsonl has an object a
line, or what --json printed. .toml has [defaults], [[job]] and [matrix], .yaml the same. Beside the
fields of a request there are model, id, from, repeat, stack, label.NAME and lora.NAME. Pictures and
folders of pictures are made again, with what flags change.

Flags set what the lines leave open; --seed is the seed of the batch, from which jobs get theirs.

All lines are checked before the first picture. Pictures are called after their contents and never
overwritten; the folder holds the list (plan.jsonl) and a log (manifest-0.jsonl).";

/// What `colora batch` accepts.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = EXAMPLES, args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Option<Verb>,
    #[command(flatten)]
    run: RunArgs,
}

/// The verbs of `colora batch`.
#[derive(Debug, Clone, clap::Subcommand)]
enum Verb {
    /// Show how far the batch in a folder is, or those of a queue in a database
    Status(status::Args),
    /// Add the jobs of a file to a queue in a database
    Submit(Box<queue::Submit>),
    /// Make the pictures of jobs that a queue in a database hands out
    Work(queue::WorkArgs),
}

/// The flags of a run.
#[allow(clippy::struct_excessive_bools)] // each is a switch of its own
#[derive(Debug, Clone, clap::Args)]
struct RunArgs {
    #[command(flatten)]
    list: ListArgs,
    #[command(flatten)]
    shared: Shared,
    /// Folder of the pictures, the list and the log [default: the file's name and -pictures]
    #[arg(short, long, value_name = "FOLDER", value_hint = ValueHint::DirPath, help_heading = "Output", display_order = 5)]
    out: Option<PathBuf>,
    /// Compare pictures that are there with the log, byte by byte; damaged ones are made again
    #[arg(long, help_heading = "Output")]
    verify: bool,
    /// Try again what failed in an earlier run
    #[arg(long, help_heading = "Output")]
    retry_failed: bool,
    /// Go over to another list in a folder that has one; pictures of both are kept
    #[arg(long, help_heading = "Output")]
    replan: bool,
    /// Refuse a folder that holds a batch already, instead of going on with it
    #[arg(long, conflicts_with = "replan", help_heading = "Output")]
    fresh: bool,
    /// Names of the pictures: text with {id}, {line}, {repeat}, {seed}, {model}, {prompt}, {width}, {height}, {steps} and
    /// {label.NAME} [default: {id}]
    #[arg(long, value_name = "TEMPLATE", help_heading = "Output")]
    name: Option<String>,
    /// Pictures that differ in nothing but their seeds and are evaluated at once: the same pictures on a CPU; on a GPU it may
    /// be faster and takes more memory
    #[arg(long, value_name = "N", default_value_t = 1, help_heading = "Machine")]
    batch_size: usize,
    /// How long the picture at work may still take after Ctrl-C or SIGTERM, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 20.0, help_heading = "Output")]
    grace: f64,
    /// Print what would be made, and stop
    #[arg(long, help_heading = "Output")]
    dry_run: bool,
    /// For --dry-run: the time of a picture, to estimate that of all
    #[arg(long, value_name = "SECONDS", requires = "dry_run", help_heading = "Output")]
    seconds_per_picture: Option<f64>,
    /// For --dry-run: make one picture with few steps to estimate the time of all; nothing is written
    #[arg(
        long,
        requires = "dry_run",
        conflicts_with = "seconds_per_picture",
        help_heading = "Output"
    )]
    measure: bool,
    /// One JSON object a picture on stdout
    #[arg(long, help_heading = "Output")]
    json: bool,
    /// Progress on stderr
    #[arg(long, value_enum, value_name = "KIND", default_value_t, help_heading = "Output")]
    progress: ProgressKind,
}

/// The flags of a list that several machines share.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct Shared {
    /// Make this part of the list: I/N, auto or auto/N [default: auto, by Slurm, Kubernetes and others]
    #[arg(long, value_name = "I/N", conflicts_with = "claim", help_heading = "Many machines")]
    shard: Option<Sharding>,
    /// Share the list with every other worker that has the same folder or bucket
    #[arg(long, help_heading = "Many machines")]
    claim: bool,
    /// Jobs that a worker claims at a time [default: a hundredth of the list, at most 200]
    #[arg(long, value_name = "N", value_parser = chunk(), help_heading = "Many machines")]
    chunk: Option<usize>,
    /// Seconds without a sign of life after which others take a worker's jobs over
    #[arg(long, value_name = "SECONDS", default_value_t = 90.0, help_heading = "Many machines")]
    lease: f64,
}

/// A number of jobs.
fn chunk() -> impl clap::builder::TypedValueParser<Value = usize> {
    clap::value_parser!(u32).range(1..=100_000).map(|chunk| chunk as usize)
}

/// `--job-order`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
enum Order {
    /// The cheapest
    #[default]
    Cost,
    /// That of the file
    File,
}

impl RunArgs {
    fn folder(&self) -> PathBuf {
        self.out.clone().unwrap_or_else(|| {
            let file = self.list.file();
            let stem = file.file_stem().filter(|_| file != Path::new("-"));
            let mut name = stem.unwrap_or("batch".as_ref()).to_owned();
            name.push("-pictures");
            name.into()
        })
    }

    /// Whether the list is shared by claims; what cannot be done then is refused.
    ///
    /// # Errors
    /// [`Error::BadRequest`].
    fn is_claimed(&self, place: &Path) -> Result<bool, Error> {
        // Whoever writes to a bucket shares it.
        let is_claimed = self.shared.claim || shared::is_url(place);
        let refused = [
            (self.fresh, "fresh", "workers that share a place join what is there"),
            (self.name.is_some(), "name", "pictures that workers share are called by their ids"),
            (self.replan, "replan", "a list that workers share stays; choose another place"),
            (
                self.retry_failed,
                "retry_failed",
                "the same command without claims, in the same folder, does that",
            ),
            (
                self.verify,
                "verify",
                "the same command without claims, in the same folder, does that",
            ),
            (self.shared.shard.is_some(), "shard", "workers that share a bucket claim chunks"),
        ];
        match refused.into_iter().find(|(is_set, ..)| is_claimed && *is_set) {
            Some((_, field, why)) => Err(Error::bad_request(field, "", why)),
            None => Ok(is_claimed),
        }
    }

    /// Refuses a folder that holds a list, when a fresh one is wanted.
    ///
    /// # Errors
    /// [`Error::BadRequest`]; what reading gives.
    fn check_fresh(&self, folder: &Path) -> Result<(), Error> {
        if self.fresh && !shared::is_url(folder) && batch::Head::read(folder)?.is_some() {
            let why =
                "there is a batch already; choose another folder, or go on with it without --fresh";
            return Err(Error::bad_request("out", folder.display(), why));
        }
        Ok(())
    }

    fn options(&self, metadata: bool) -> Result<Options, Error> {
        let grace = grace(self.grace)?;
        if self.list.request.sets("preview") {
            let why = "a batch shows no previews";
            return Err(Error::bad_request("preview", "", why));
        }
        let (verify, retry_failed) = (self.verify, self.retry_failed);
        Ok(Options {
            verify,
            retry_failed,
            metadata,
            grace,
            batch: self.batch_size,
            ..Options::default()
        })
    }
}

impl From<Order> for batch::Order {
    fn from(order: Order) -> Self {
        match order {
            Order::Cost => Self::Cost,
            Order::File => Self::File,
        }
    }
}

/// How long the picture at work may still take.
fn grace(seconds: f64) -> Result<Duration, Error> {
    Duration::try_from_secs_f64(seconds).map_err(|_| {
        Error::bad_request("grace", seconds, "expected a number of seconds, at least 0")
    })
}

/// The list of a file, checked.
struct List {
    list: JobList,
    /// Lines that are wrong and left out.
    left_out: usize,
}

/// Runs `colora batch` and its verbs.
pub(super) fn run(args: &Args, talk: Talk) -> Result<()> {
    match &args.verb {
        Some(Verb::Status(status)) => status::run(status),
        Some(Verb::Submit(submit)) => queue::submit(submit, talk),
        Some(Verb::Work(work)) => queue::work(work, talk),
        None => make(&args.run, talk),
    }
}

/// Makes the pictures of a file of jobs.
fn make(args: &RunArgs, talk: Talk) -> Result<()> {
    let setup = setup()?;
    args.list.machine.limit_threads(&setup, talk)?;
    let options = args.options(setup.settings.config.metadata != Some(false))?;
    let cancel = Cancel::new();
    interrupt::install(&cancel)?;
    let memory = args.list.machine.memory();
    let opened = Pipeline::options().memory(memory).batch(args.batch_size);
    let pools = || Pool::cancelled_by(setup.store.clone(), &cancel).opened_with(opened.clone());
    let folder = args.folder();
    args.check_fresh(&folder)?;
    let names = args.name.as_deref().map(Names::by).transpose()?;
    let List { mut list, left_out } =
        read(&args.list, Some(&folder), &setup, &pools(), &cancel, talk)?;
    list.head.names.clone_from(&args.name);
    let names = names.unwrap_or_else(|| Names::of_ids(list.jobs.len()));
    refuse(names.check(&list.jobs), &args.list, false, talk)?;
    if args.dry_run {
        return dry_run::print(&list, &folder, args, &pools(), &cancel);
    }
    let progress = Progress::new(args.progress, talk, args.json);
    if args.is_claimed(&folder)? {
        let (pools, cancel) = (&pools, &cancel);
        let hands = Hands { options, pools, cancel, talk, progress: &progress, json: args.json };
        let jobs = list.jobs.len();
        let failed = shared::run(list, &folder, &args.shared, &hands)? + left_out;
        return ended(failed, jobs + left_out);
    }
    let (part, log) = part(args, &list, talk)?;
    let jobs = list.jobs.get(part).unwrap_or_default();
    let storage = Arc::new(Folder::open(&folder)?);
    let manifest = Manifest::open(&folder, &log)?;
    let unreadable = manifest.unreadable;
    let pictures = Pictures::list(storage, names)?;
    let mut work = Work::new(options, pictures, manifest, &pools);
    list.head
        .check(&folder, args.replan)
        .context("another list is in this folder; --replan goes over to this one")?;
    let todo = work.todo(jobs, args.list.file())?;
    list.write(&folder, args.replan)?;
    // Another worker may have written another list at the same moment: one of the two is there now.
    list.head.check(&folder, false)?;
    speak::before(&todo, unreadable, talk);
    let report = Report::new(&progress, talk, args.json, &todo);
    let done = work.run(jobs, &todo, &|event| report.event(event), &cancel);
    progress.finish();
    report.summary(&todo, left_out, &folder);
    if let Some(error) = report.failure() {
        return Err(error);
    }
    ended(done?.failed + todo.failed_before + left_out, jobs.len() + left_out)
}

/// The end of a run in which so many jobs failed.
fn ended(failed: usize, of: usize) -> Result<()> {
    if failed == 0 { Ok(()) } else { Err(Error::Jobs { failed, of }.into()) }
}

/// The part of the list that this program makes, and what its log is called.
fn part(args: &RunArgs, list: &JobList, talk: Talk) -> Result<(Range<usize>, String), Error> {
    let sharding = args.shared.shard.unwrap_or(Sharding::Auto { count: None });
    let whole = (0..list.jobs.len(), batch::WHOLE.to_owned());
    let Some(Part { shard, engine, others }) = sharding.part(&|name| std::env::var(name).ok())?
    else {
        return Ok(whole);
    };
    let block = shard.block(&list.jobs);
    let by = engine.map_or(String::new(), |engine| format!(", by {engine}"));
    talk.say(&format!("part {shard} of the list{by}: {} of {} jobs", block.len(), list.jobs.len()));
    if !others.is_empty() {
        talk.say(&format!("variables of {} are set as well and not used", others.join(", ")));
    }
    Ok((block, format!("{}-of-{}", shard.index + 1, shard.count)))
}

/// Reads and checks the file.
fn read(
    args: &ListArgs,
    place: Option<&Path>,
    setup: &Setup,
    pool: &Pool,
    cancel: &Cancel,
    talk: Talk,
) -> Result<List> {
    let mut base = Layers::of(&setup.settings)?;
    base.caller(args.values());
    let seeding = args.seeding(place)?;
    // What is wrong in flags and settings is not a line's fault.
    let fine = base
        .job()
        .and_then(|job| job.request.plan(&crate::family::Defaults::of_unknown_model(), 0));
    fine.map_err(|error| with_origin(error.into(), &base))?;
    let mut source = source(args)?;
    let mut mistakes = std::mem::take(&mut source.mistakes);
    let (listed, more) = batch::list(&source.drafts, &base, &setup.store, seeding);
    // A large file takes its memory once, not twice.
    drop(std::mem::take(&mut source.drafts));
    mistakes.extend(more);
    let checked = batch::check(listed, pool, &Unobserved, cancel)?;
    mistakes.extend(checked.mistakes);
    mistakes.sort_by_key(|mistake| mistake.line);
    for remark in source.remarks.iter().chain(&checked.remarks) {
        talk.say(&format!("warning: {remark}"));
    }
    let is_limit = |mistake: &LineError| matches!(*mistake.error, Error::Limit { .. });
    if mistakes.iter().any(is_limit) {
        talk.say("hint: --max-jobs N allows more jobs");
    }
    let left_out = mistakes.len();
    refuse(mistakes, args, args.keep_going, talk)?;
    if checked.ready.is_empty() && left_out == 0 {
        return Err(Error::corrupt(args.file(), "there is no job in it").into());
    }
    let (source, sha256) = (args.file().to_path_buf(), source.sha256);
    let origin = batch::Origin { source, sha256, seed: seeding.seed, names: None };
    Ok(List { list: JobList::new(checked.ready, origin, args.job_order.into()), left_out })
}

/// Reads the file of jobs, or the records of pictures.
fn source(args: &ListArgs) -> Result<Source, Error> {
    if args.format.is_none() && batch::is_picture(args.file()) {
        let first = [args.file().to_path_buf()];
        let paths: Vec<PathBuf> = first.into_iter().chain(args.more.iter().cloned()).collect();
        return Source::pictures(&paths);
    }
    if let Some(more) = args.more.first() {
        let why = "one file of jobs at a time; several are read only when all are pictures";
        return Err(Error::bad_request("file", more.display(), why));
    }
    Source::read(args.file(), args.format, !args.no_comments)
}

/// Refuses a file with mistakes, or names them and goes on.
fn refuse(
    mistakes: Vec<LineError>,
    args: &ListArgs,
    keep_going: bool,
    talk: Talk,
) -> Result<(), Error> {
    if mistakes.is_empty() {
        return Ok(());
    }
    let error = Error::Lines { path: args.file().to_path_buf(), mistakes };
    if !keep_going {
        return Err(error);
    }
    talk.say(&format!("warning: left out: {error}"));
    Ok(())
}
