//! `colora sweep`: pictures that differ along one, two or three axes, side by side.

mod cells;
mod dry_run;
mod speak;

use super::flags::{ProgressKind, lossy};
use super::machine_flags::MachineFlags;
use super::origin::with_origin;
use super::progress::Progress;
use super::request_flags::RequestFlags;
use super::style::{Talk, result_json, result_path};
use super::{interrupt, setup};
use crate::app::{Layers, Pool, SCHEMA, Setup, Unobserved, resolver};
use crate::batch::{
    self, Checked, Folder, JobList, Manifest, Names, Options, Order, Origin, Pictures, Ready, Work,
};
use crate::error::{Error, Fault, LineError};
use crate::family::Defaults;
use crate::picture::Parameters;
use crate::pipeline::{Cancel, Pipeline, random_seed};
use crate::sweep::{Axis, Cells, Gallery, GridOptions, Sharing, Sweep};
use anyhow::{Context, Result};
use cells::Table;
use clap::ValueHint;
use serde_json::{Map, Value};
use speak::Speaker;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

const EXAMPLES: &str = "\
Examples:
  colora sweep \"a red apple\" --x lora.flat=0..1:0.25 --y lora.gold=0,0.5,1
  colora sweep \"a fox\" --x sampler=euler,dpmpp-2m --y steps=5,10,20 --z seed=1..3
  colora sweep \"a red fox, snow\" --x prompt:red=red,green,blue --y prompt:snow=snow,rain,none
  colora sweep --x \"lora=loras/*.safetensors,none\" --y prompt=@prompts.txt    every LoRA, every line
  colora sweep \"a hero\" --x \"lora=anime-*.safetensors\"                        epochs of a training
  colora sweep \"a fox\" --x \"CFG Scale=5-9 (+2)\" --y \"Prompt S/R=fox,cat\"    as A1111's X/Y/Z plot

Axes: any field of a request by its name or A1111's (steps, guidance, seed, sampler, schedule, size,
clip-skip, \"CFG Scale\" …), numbers of the sampler (eta), model, vae, dtype, stack; lora.NAME (its weight),
lora.NAME.unet, .text, .blocks, .steps, .start, .stop; lora (which one; a glob is all that fit);
prompt (whole ones), prompt:WORD (others in its place), order (pieces in every order).
Values: 1,2,3 with quotes for commas; 0..1:0.25 (a step), 0..1/5 (so many), 1..4; A1111's 1-5, 1-9 (+2),
1-10 [5]; @FILE is a value a line; none leaves it out.

The folder holds sweep.png (the grid), sweep.html (to look through), sweep.json and the cells. The same
command with more values draws only the new cells.";

/// Bytes of the estimates of steps that cells may have in common: 2000 steps of 512x512 pictures.
const SHARED: u64 = 256 << 20;

/// What `colora sweep` accepts.
#[allow(clippy::struct_excessive_bools)] // each is a switch of its own
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// What to draw
    #[arg(value_name = "PROMPT", value_hint = ValueHint::Other)]
    prompt: Option<String>,
    /// Columns: NAME=VALUES
    #[arg(short, long, value_name = "AXIS", required = true, value_parser = lossy(), display_order = 1)]
    x: String,
    /// Rows
    #[arg(short, long, value_name = "AXIS", value_parser = lossy(), display_order = 1)]
    y: Option<String>,
    /// Pages, a grid each
    #[arg(short, long, value_name = "AXIS", requires = "y", value_parser = lossy(), display_order = 1)]
    z: Option<String>,
    /// Model: a name, a file, a folder or hub:owner/name [env: COLORA_MODEL] [default: starter]
    #[arg(short, long, value_name = "MODEL", value_parser = lossy(), value_hint = ValueHint::AnyPath)]
    model: Option<String>,
    /// The fields of all cells.
    #[command(flatten)]
    request: RequestFlags,
    /// LoRAs that belong together, from a file in loras/stacks
    #[arg(long, value_name = "NAME", value_parser = lossy(), help_heading = "LoRA", display_order = 2)]
    stack: Option<String>,

    /// The flags of the machine.
    #[command(flatten)]
    machine: MachineFlags,

    /// Folder of the grid, the page and the cells [default: sweep- and the prompt's words]
    #[arg(short, long, value_name = "FOLDER", value_hint = ValueHint::DirPath, help_heading = "Output", display_order = 5)]
    out: Option<PathBuf>,
    /// Write the grid as WebP, too
    #[arg(long, help_heading = "Output")]
    webp: bool,
    /// Put the pictures into the page, so that it can be sent as one file
    #[arg(long, help_heading = "Output")]
    inline: bool,
    /// Compare cells that are there with the log, byte by byte; damaged ones are made again
    #[arg(long, help_heading = "Output")]
    verify: bool,
    /// How long the cell at work may still take after Ctrl-C or SIGTERM, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 20.0, help_heading = "Output")]
    grace: f64,
    /// Print the cells and what they share, and stop
    #[arg(long, help_heading = "Output")]
    dry_run: bool,
    /// One JSON object a cell and a file on stdout
    #[arg(long, help_heading = "Output")]
    json: bool,
    /// Progress on stderr
    #[arg(long, value_enum, value_name = "KIND", default_value_t, help_heading = "Output")]
    progress: ProgressKind,
}

impl Args {
    /// The values that flags give to all cells.
    fn values(&self) -> Map<String, Value> {
        self.machine.values(self.request.values(), self.prompt.as_ref(), self.model.as_ref())
    }

    /// The axes as they were written.
    fn specs(&self) -> impl Iterator<Item = &String> {
        [Some(&self.x), self.y.as_ref(), self.z.as_ref()].into_iter().flatten()
    }

    /// The folder of the sweep.
    fn folder(&self, prompt: &str) -> PathBuf {
        self.out.clone().unwrap_or_else(|| PathBuf::from(format!("sweep-{}", words(prompt))))
    }
}

/// The words of a prompt as a part of a file name.
fn words(prompt: &str) -> String {
    const MOST: usize = 40;
    let letters = prompt.to_lowercase();
    let words = letters.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
    let mut name = String::new();
    for word in words {
        if !name.is_empty() && name.chars().count() + word.chars().count() >= MOST {
            break;
        }
        let dash = if name.is_empty() { "" } else { "-" };
        name += dash;
        name.extend(word.chars().take(MOST));
    }
    if name.is_empty() { "of-prompts".into() } else { name }
}

/// Runs `colora sweep`.
pub(super) fn run(args: &Args, talk: Talk) -> Result<()> {
    let setup = setup()?;
    args.machine.limit_threads(&setup, talk)?;
    let cancel = Cancel::new();
    interrupt::install(&cancel)?;
    let memory = args.machine.memory();
    let opened = Pipeline::options().memory(memory).shared_steps(SHARED);
    let pools = || Pool::cancelled_by(setup.store.clone(), &cancel).opened_with(opened.clone());
    let (sweep, folder) = sweep(args, &setup)?;
    let cells = sweep.cells(&setup.store)?;
    let first = pools();
    let mut table = check(&sweep, cells, &first, &cancel, talk)?;
    let origin = Origin { source: "sweep".into(), ..Origin::default() };
    let list = JobList::new(std::mem::take(&mut table.jobs), origin, Order::Cost);
    table.jobs.clone_from(&list.jobs);
    let sharing = Sharing::of(&table.jobs, &first, &cancel)?;
    drop(first);
    if args.dry_run {
        return dry_run::print(&sweep, &table, &sharing, &folder, args.json);
    }
    let options = Options {
        verify: args.verify,
        // Whoever asks again wants the picture.
        retry_failed: true,
        metadata: setup.settings.config.metadata != Some(false),
        grace: Duration::try_from_secs_f64(args.grace).map_err(|_| {
            Error::bad_request("grace", args.grace, "expected a number of seconds, at least 0")
        })?,
        ..Options::default()
    };
    refuse_others(&folder)?;
    let place = folder.join(cells::FOLDER);
    let storage = Arc::new(Folder::open(&place)?);
    let manifest = Manifest::open(&place, batch::WHOLE)?;
    let pictures = Pictures::list(storage, Names::of_ids(table.jobs.len()))?;
    let mut work = Work::new(options, pictures, manifest, &pools);
    let todo = work.todo(&table.jobs, &folder)?;
    // A sweep with other values goes on in the same folder.
    list.write(&place, true)?;
    table.gallery(&sweep).write(&folder)?;
    dry_run::say(&sweep, &sharing, &todo, talk);
    let progress = Progress::new(args.progress, talk, args.json);
    let speaker = Speaker::new(&progress, talk, args.json, &todo);
    let done = work.run(&table.jobs, &todo, &|event| speaker.hear(event), &cancel);
    progress.finish();
    if let Some(error) = speaker.failure() {
        return Err(error);
    }
    done?;
    table.failed.extend(speaker.failed());
    table.seconds = speaker.seconds();
    finish(args, &sweep, &table, &folder, talk)
}

/// The sweep that the flags ask for, and its folder.
fn sweep(args: &Args, setup: &Setup) -> Result<(Sweep, PathBuf)> {
    let mut layers = Layers::of(&setup.settings)?;
    layers.caller(args.values());
    let made = || -> Result<(Sweep, PathBuf), Error> {
        let mut job = layers.job()?;
        if let Some(name) = &args.stack {
            let chosen = args.request.sets("lora_method");
            resolver::stack(&setup.store, name, chosen, &mut job.request)?;
        }
        let axes = args.specs().map(|spec| Axis::parse(spec, &setup.store));
        let axes = axes.collect::<Result<Vec<_>, Error>>()?;
        let folder = args.folder(&job.request.prompt);
        let before = Gallery::read(&folder)?;
        let seed = before.and_then(|gallery| gallery.seed).unwrap_or_else(random_seed);
        Ok((Sweep::new(axes, job, seed)?, folder))
    };
    made().map_err(|error| with_origin(error.into(), &layers))
}

/// Plans every cell. What is not found is an error; what does not fit together is a cell that cannot be made.
fn check(sweep: &Sweep, cells: Cells, pool: &Pool, cancel: &Cancel, talk: Talk) -> Result<Table> {
    let Cells { listed, impossible } = cells;
    let checked = batch::check(listed, pool, &Unobserved, cancel)?;
    let Checked { ready, mistakes, same, .. } = checked;
    let mut table = Table { jobs: ready, same: same.into_iter().collect(), ..Table::default() };
    let impossible = impossible.into_iter().map(|(line, error)| LineError::new(line, error));
    for LineError { line, error, .. } in impossible.chain(mistakes) {
        let labels = sweep.labels(line - 1).join(", ");
        let lost = error.fault() == Fault::NotFound || table.jobs.is_empty();
        if lost {
            return Err(anyhow::Error::from(*error).context(format!("the cell {labels}")));
        }
        talk.say(&format!("warning: the cell {labels} cannot be made: {error}"));
        table.impossible.insert(line, error.to_string());
    }
    Ok(table)
}

/// Refuses a folder with a grid that is not a sweep's.
fn refuse_others(folder: &Path) -> Result<()> {
    let is_sweep = folder.join(crate::sweep::FILE).exists();
    let path = folder.join("sweep.png");
    if path.exists() && !is_sweep {
        return Err(Error::Exists { path }).context("this file is not of a sweep");
    }
    Ok(())
}

/// Writes the grid, the page and what the folder holds.
fn finish(args: &Args, sweep: &Sweep, table: &Table, folder: &Path, talk: Talk) -> Result<()> {
    let gallery = table.gallery(sweep);
    gallery.write(folder)?;
    let first = table.jobs.iter().min_by_key(|job| job.line);
    let parameters = first.map(parameters).transpose()?;
    let options = GridOptions { webp: args.webp, parameters, ..GridOptions::default() };
    let written = gallery.draw(folder, "sweep", &options)?;
    for grid in &written {
        if grid.scale < 1.0 {
            let percent = grid.scale * 100.0;
            talk.say(&format!(
                "{}: cells at {percent:.0} % of their size, so that the grid has at most 200 megapixels",
                grid.path.display()
            ));
        }
    }
    for path in written.iter().map(|grid| &grid.path) {
        print(args, "grid", path)?;
    }
    print(args, "page", &gallery.write_page(folder, "sweep", args.inline)?)?;
    let failed = table.failed.len() + table.impossible.len();
    match failed {
        0 => Ok(()),
        failed => Err(Error::Jobs { failed, of: sweep.len() }.into()),
    }
}

/// The settings of a cell as programs exchange them.
fn parameters(ready: &Ready) -> Result<Parameters, Error> {
    let job = ready.job()?;
    let plan = job.request.plan(&Defaults::of_unknown_model(), ready.seed)?;
    Ok(plan.parameters(0, job.model_name()))
}

fn print(args: &Args, event: &str, path: &Path) -> Result<()> {
    if args.json {
        let line = serde_json::json!({
            "schema": SCHEMA, "event": event, "path": path.to_string_lossy(),
        });
        return result_json(&line.to_string());
    }
    result_path(path)
}

#[cfg(test)]
mod tests {
    use super::words;

    #[test]
    fn folders_are_called_after_the_prompt() {
        for (prompt, name) in [
            ("a Red fox, in the snow!", "a-red-fox-in-the-snow"),
            ("", "of-prompts"),
            ("../../x", "x"),
            ("Ж é", "ж-é"),
        ] {
            assert_eq!(words(prompt), name);
        }
        assert!(words(&"word ".repeat(99)).len() <= 40);
        assert_eq!(words(&"w".repeat(99)).len(), 40);
    }
}
