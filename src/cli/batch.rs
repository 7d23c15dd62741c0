//! `colora batch`: from a file of jobs to pictures, each made once.

mod dry_run;
mod speak;

use super::flags::{ProgressKind, lossy};
use super::origin::with_origin;
use super::progress::Progress;
use super::request_flags::RequestFlags;
use super::style::Talk;
use super::{interrupt, setup, threads};
use crate::app::{Layers, Pool, Setup, Unobserved};
use crate::batch::{self, Format, Options, Ready, Seeding, Seeds, Source, Work};
use crate::error::{Error, LineError};
use crate::pipeline::{Cancel, DTypeChoice, DeviceChoice, Memory, Pipeline};
use crate::weights::Quantisation;
use anyhow::{Context, Result};
use clap::{ValueEnum, ValueHint};
use serde_json::{Map, Value};
use speak::Speaker;
use std::path::{Path, PathBuf};
use std::time::Duration;

const EXAMPLES: &str = "\
Examples:
  colora batch prompts.txt                        a prompt a line, into prompts-pictures/
  colora batch prompts.txt                        the same again: goes on where the last run ended
  colora batch jobs.csv -o out -s 20 --dry-run    what would be made, in which order, how large
  colora batch jobs.toml --json | jq -r .path     one JSON object a picture
  generate-jobs | colora batch - --format jsonl -o out

Files: .txt is a prompt a line; a line that begins with -- holds switches: --prompt a fox --steps 20
--lora flat:0.8, or those of AUTOMATIC1111. .csv has a header of fields. .jsonl has an object a
line, or what --json printed. .toml has [defaults], [[job]] and [matrix]. Beside the fields of a
request there are model, id, repeat, stack, label.NAME and lora.NAME.

Flags set what the lines leave open; --seed is the seed of the batch, from which jobs get theirs.

All lines are checked before the first picture. Pictures are called after their contents and never
overwritten; the folder holds the list (plan.jsonl) and a log (manifest-0.jsonl).";

/// What `colora batch` accepts.
#[allow(clippy::struct_excessive_bools)] // each is a switch of its own
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The file of jobs, or `-` for stdin
    #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
    file: PathBuf,
    /// text, csv, jsonl, toml or yaml [default: by the file's name]
    #[arg(long, value_name = "FORMAT")]
    format: Option<Format>,
    /// Model where a line names none [env: COLORA_MODEL] [default: starter]
    #[arg(short, long, value_name = "MODEL", value_parser = lossy(), value_hint = ValueHint::AnyPath)]
    model: Option<String>,
    /// The fields of requests.
    #[command(flatten)]
    request: RequestFlags,
    /// Seeds of jobs without one: own (each another), iterate (--seed, then one more each) or same
    #[arg(
        long,
        value_name = "HOW",
        default_value = "own",
        help_heading = "Picture",
        display_order = 6
    )]
    seeds: Seeds,
    /// Lines of text that begin with # are prompts, too
    #[arg(long)]
    no_comments: bool,
    /// Make the pictures of good lines although others are wrong; exit code 7
    #[arg(long)]
    keep_going: bool,

    /// auto, cpu, cuda, cuda:1 or metal [env: COLORA_DEVICE]
    #[arg(long, value_name = "DEVICE", help_heading = "Machine")]
    device: Option<DeviceChoice>,
    /// f32, tf32, f16 or bf16 [env: COLORA_DTYPE] [default: f32 on a CPU, f16 on a GPU]
    #[arg(long, value_name = "TYPE", help_heading = "Machine")]
    dtype: Option<DTypeChoice>,
    /// Keep the UNet in q8_0 or q4_0 [default: as the file holds it]
    #[arg(long, value_name = "KIND", help_heading = "Machine")]
    quantize: Option<Quantisation>,
    /// A VAE to use instead of the model's own
    #[arg(long, value_name = "PATH", value_hint = ValueHint::AnyPath, help_heading = "Machine")]
    vae: Option<PathBuf>,
    /// Worker threads on the CPU [default: one a core]
    #[arg(long, value_name = "N", help_heading = "Machine")]
    threads: Option<usize>,
    /// Keep one network in memory at a time: the same pixels with less memory, slower
    #[arg(long, help_heading = "Machine")]
    low_memory: bool,

    /// Folder of the pictures, the list and the log [default: the file's name and -pictures]
    #[arg(short, long, value_name = "FOLDER", value_hint = ValueHint::DirPath, help_heading = "Output", display_order = 5)]
    out: Option<PathBuf>,
    /// cost (model, LoRAs, size and prompt change as seldom as they can) or file
    #[arg(long, value_enum, value_name = "ORDER", default_value_t, help_heading = "Output")]
    order: Order,
    /// Compare pictures that are there with the log, byte by byte; damaged ones are made again
    #[arg(long, help_heading = "Output")]
    verify: bool,
    /// Try again what failed in an earlier run
    #[arg(long, help_heading = "Output")]
    retry_failed: bool,
    /// Go over to another list in a folder that has one; pictures of both are kept
    #[arg(long, help_heading = "Output")]
    replan: bool,
    /// How long the picture at work may still take after Ctrl-C or SIGTERM, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 20.0, help_heading = "Output")]
    grace: f64,
    /// Print what would be made, and stop
    #[arg(long, help_heading = "Output")]
    dry_run: bool,
    /// For --dry-run: the time of a picture, to estimate that of all
    #[arg(long, value_name = "SECONDS", requires = "dry_run", help_heading = "Output")]
    seconds_per_picture: Option<f64>,
    /// One JSON object a picture on stdout
    #[arg(long, help_heading = "Output")]
    json: bool,
    /// Progress on stderr
    #[arg(long, value_enum, value_name = "KIND", default_value_t, help_heading = "Output")]
    progress: ProgressKind,
}

/// `--order`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
enum Order {
    /// The cheapest
    #[default]
    Cost,
    /// That of the file
    File,
}

impl Args {
    /// The values that flags give to what lines leave open.
    fn values(&self) -> Map<String, Value> {
        let words = [
            ("model", self.model.clone().filter(|name| !name.is_empty())),
            ("vae", self.vae.as_ref().map(|path| path.to_string_lossy().into_owned())),
            ("dtype", self.dtype.map(|dtype| dtype.to_string())),
            ("quantize", self.quantize.map(|kind| kind.to_string())),
            ("device", self.device.map(|device| device.to_string())),
        ];
        let words =
            words.into_iter().filter_map(|(key, word)| Some((key.to_owned(), word?.into())));
        let mut values: Map<String, Value> =
            self.request.values().clone().into_iter().chain(words).collect();
        values.remove("seed");
        values
    }

    /// How jobs without a seed get one.
    fn seeding(&self) -> Result<Seeding, Error> {
        let seed = match self.request.values().get("seed") {
            None => 0,
            Some(seed) => seed.as_u64().ok_or_else(|| {
                let why = "a batch needs a seed that stays the same, so that it can go on later";
                Error::bad_request("seed", "random", why)
            })?,
        };
        Ok(Seeding { seed, seeds: self.seeds })
    }

    fn folder(&self) -> PathBuf {
        self.out.clone().unwrap_or_else(|| {
            let stem = self.file.file_stem().filter(|_| self.file != Path::new("-"));
            let mut name = stem.unwrap_or("batch".as_ref()).to_owned();
            name.push("-pictures");
            name.into()
        })
    }

    fn options(&self, metadata: bool) -> Result<Options, Error> {
        let grace = Duration::try_from_secs_f64(self.grace).map_err(|_| {
            Error::bad_request("grace", self.grace, "expected a number of seconds, at least 0")
        })?;
        if self.request.sets("preview") {
            let why = "a batch shows no previews";
            return Err(Error::bad_request("preview", "", why));
        }
        let (verify, retry_failed) = (self.verify, self.retry_failed);
        Ok(Options { folder: self.folder(), verify, retry_failed, metadata, grace })
    }
}

/// The list of a file, checked.
struct List {
    /// In the order of the file.
    jobs: Vec<Ready>,
    /// The file's SHA-256.
    sha256: String,
    /// Lines that are wrong and left out.
    left_out: usize,
}

/// Runs `colora batch`.
pub(super) fn run(args: &Args, talk: Talk) -> Result<()> {
    let setup = setup()?;
    threads::limit(args.threads.or(setup.settings.config.threads), talk)?;
    let options = args.options(setup.settings.config.metadata != Some(false))?;
    let cancel = Cancel::new();
    interrupt::install(&cancel)?;
    let memory = if args.low_memory { Memory::Low } else { Memory::Resident };
    let opened = Pipeline::options().memory(memory);
    let pools = || Pool::cancelled_by(setup.store.clone(), &cancel).opened_with(opened.clone());
    let mut list = read(args, &setup, &pools(), &cancel, talk)?;
    let head = batch::Head::of(&list.jobs, &args.file, &list.sha256);
    if args.dry_run {
        let of_file = batch::changes(&list.jobs);
        if args.order == Order::Cost {
            batch::order(&mut list.jobs);
        }
        return dry_run::print(&list.jobs, of_file, &options.folder, args);
    }
    let mut work = Work::open(options.clone(), list.jobs.len())?;
    head.check(&options.folder, args.replan)
        .context("another list is in this folder; --replan goes over to this one")?;
    let lines = list.jobs.clone();
    if args.order == Order::Cost {
        batch::order(&mut list.jobs);
    }
    let todo = work.todo(&list.jobs, &args.file)?;
    head.write(&lines, &options.folder)?;
    drop(lines);
    speak::before(&todo, work.unreadable(), talk);
    let progress = Progress::new(args.progress, talk, args.json);
    let speaker = Speaker::new(&progress, talk, args.json, &todo);
    let done = work.run(&list.jobs, &todo, &pools, &|happening| speaker.hear(happening), &cancel);
    progress.finish();
    speaker.summary(&todo, list.left_out, &options.folder);
    if let Some(error) = speaker.failure() {
        return Err(error);
    }
    let failed = done?.failed + todo.failed_before + list.left_out;
    match failed {
        0 => Ok(()),
        failed => Err(Error::Jobs { failed, of: list.jobs.len() + list.left_out }.into()),
    }
}

/// Reads and checks the file.
fn read(args: &Args, setup: &Setup, pool: &Pool, cancel: &Cancel, talk: Talk) -> Result<List> {
    let mut base = Layers::of(&setup.settings)?;
    base.caller(args.values());
    let seeding = args.seeding()?;
    // What is wrong in flags and settings is not a line's fault.
    let fine = base
        .job()
        .and_then(|job| job.request.plan(&crate::family::Defaults::of_unknown_model(), 0));
    fine.map_err(|error| with_origin(error.into(), &base))?;
    let source = Source::read(&args.file, args.format, !args.no_comments)?;
    let mut mistakes = source.mistakes;
    let (listed, more) = batch::list(&source.drafts, &base, &setup.store, seeding);
    mistakes.extend(more);
    let checked = batch::check(listed, pool, &Unobserved, cancel)?;
    mistakes.extend(checked.mistakes);
    mistakes.sort_by_key(|mistake| mistake.line);
    for remark in source.remarks.iter().chain(&checked.remarks) {
        talk.say(&format!("warning: {remark}"));
    }
    let left_out = mistakes.len();
    refuse(mistakes, args, talk)?;
    if checked.ready.is_empty() && left_out == 0 {
        return Err(Error::corrupt(&args.file, "there is no job in it").into());
    }
    Ok(List { jobs: checked.ready, sha256: source.sha256, left_out })
}

/// Refuses a file with mistakes, or names them and goes on.
fn refuse(mistakes: Vec<LineError>, args: &Args, talk: Talk) -> Result<(), Error> {
    if mistakes.is_empty() {
        return Ok(());
    }
    let error = Error::Lines { path: args.file.clone(), mistakes };
    if !args.keep_going {
        return Err(error);
    }
    talk.say(&format!("warning: left out: {error}"));
    Ok(())
}
