//! `colora tune`: weights of LoRAs found by choosing between two pictures, or by a program that scores them.

mod flags;
mod page;
mod pair;
mod stroke;
mod terminal;

use super::as_command::stack_flags;
use super::flags::{ProgressKind, lossy};
use super::machine_flags::MachineFlags;
use super::origin::with_origin;
use super::progress::Progress;
use super::style::{Talk, result_json, result_line, value};
use super::{interrupt, setup};
use crate::app::base::Base;
use crate::app::{Job, Layers, Pool, SCHEMA, Setup, resolver};
use crate::atomic_file;
use crate::batch::{self, Seeding, Source};
use crate::error::{Error, Result as Checked};
use crate::lora::{Layout, LoraRef, Method};
use crate::pipeline::{Cancel, MAX_COUNT, Pipeline, Request};
use crate::store::Stack;
use crate::tune::search::{Duels, Scores};
use crate::tune::{
    Artist, Head, Judge, Limits, Line, Log, Outcome, Scorer, Session, Space, Studio, Told,
};
use anyhow::Result;
use clap::ValueHint;
use flags::TuneFlags;
use serde_json::{Map, Value, json};
use std::path::PathBuf;
use std::time::Duration;
use stroke::StrokeLine;

const EXAMPLES: &str = "\
Examples:
  colora tune \"a red apple\" --lora flat:0..1 --lora gold:0..1 --save apple
  colora tune --page \"a wizard\" -l wizard:0.4..1.2 -l flat:0..0.8      choose in a browser
  colora tune --prompts faces.txt --seeds 2 -l ink:0..1 -l fox:0..1    several pictures a stack
  colora tune \"a fox\" -l ink:unet=0..1,text=0..1                       UNet and text apart
  colora tune \"a fox\" -l ink:0..1:mid=0..1,out=0..1                    blocks: base, in, mid, out
  colora tune \"a fox\" -l ink:1:stop=0.3..1                             until which step
  colora tune \"a fox\" -l ink:0..1 --score 'python3 aesthetic.py {}'    a program decides
  colora --stack apple \"a green apple\"                                 what was saved

Two pictures are shown: 1 or 2 is the better one, = neither, s skips the pair, q ends. It is not a
contest: what you see decides where the next pair lies, so that some 10 to 25 answers are enough
for up to four ranges. Numbers without a range stay as they are.

Pictures and answers are kept in the folder; the same command goes on where it was ended.";

/// The name of the folder without another.
const FOLDER: &str = "tune";

/// What `colora tune` accepts.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// What to draw
    #[arg(value_name = "PROMPT", required_unless_present = "prompts", value_hint = ValueHint::Other)]
    prompt: Option<String>,
    /// Model: a name, a file, a folder or hub:owner/name [env: COLORA_MODEL] [default: starter]
    #[arg(short, long, value_name = "MODEL", value_parser = lossy(), value_hint = ValueHint::AnyPath)]
    model: Option<String>,
    /// The fields of the request; LoRAs may have ranges.
    #[command(flatten)]
    request: TuneFlags,
    /// LoRAs that are always there, from a file in loras/stacks
    #[arg(long, value_name = "NAME", value_parser = lossy(), help_heading = "LoRA", display_order = 2)]
    stack: Option<String>,

    /// A file of prompts as `colora batch` reads it: every stack is drawn with each
    #[arg(long, value_name = "FILE", conflicts_with = "prompt", value_hint = ValueHint::FilePath, help_heading = "Search")]
    prompts: Option<PathBuf>,
    /// How many seeds every stack is drawn with, from --seed on [default: 1, and seed 0]
    #[arg(
        long,
        value_name = "N",
        default_value_t = 1,
        hide_default_value = true,
        help_heading = "Search"
    )]
    seeds: usize,
    /// Choose on a page in a browser of this machine instead of the terminal
    #[arg(long, conflicts_with = "score", help_heading = "Search")]
    page: bool,
    /// A program that prints a number for a picture, more is better; {} is the picture's path. No shell
    /// reads it
    #[arg(long, value_name = "COMMAND", help_heading = "Search")]
    score: Option<String>,
    /// Longest that the program may take for a picture
    #[arg(long, value_name = "SECONDS", default_value_t = 120.0, help_heading = "Search")]
    score_limit: f64,
    /// Most answers, or scores
    #[arg(long, value_name = "N", default_value_t = 25, help_heading = "Search")]
    most: usize,
    /// End when it is this sure that no other weights would win 3 of 4 times against the best
    #[arg(long, value_name = "P", default_value_t = 0.8, help_heading = "Search")]
    sure: f64,

    /// The flags of the machine.
    #[command(flatten)]
    machine: MachineFlags,

    /// Folder of pictures and answers
    #[arg(short, long, value_name = "FOLDER", default_value = FOLDER, value_hint = ValueHint::DirPath, help_heading = "Output", display_order = 5)]
    out: PathBuf,
    /// Save the stack under this name, for --stack
    #[arg(long, value_name = "NAME", value_parser = lossy(), help_heading = "Output", display_order = 6)]
    save: Option<String>,
    /// Overwrite a stack of the same name
    #[arg(long, requires = "save", help_heading = "Output", display_order = 7)]
    force: bool,
    /// One JSON object on stdout instead of flags
    #[arg(long, help_heading = "Output")]
    json: bool,
}

/// What is searched, and with what.
struct Search {
    /// What is drawn with every stack.
    jobs: Vec<Job>,
    /// LoRAs that are always there.
    fixed: Vec<LoraRef>,
    method: Method,
    space: Space,
    /// The LoRAs with their ranges, as they were written.
    texts: Vec<String>,
    seed: u64,
}

/// Runs `colora tune`.
pub(super) fn run(args: &Args, talk: Talk) -> Result<()> {
    let setup = setup()?;
    args.machine.limit_threads(&setup, talk)?;
    let limits = args.limits()?;
    let scorer = args.scorer()?;
    let mut layers = Layers::of(&setup.settings)?;
    layers.caller(args.values());
    let cancel = Cancel::new();
    interrupt::install(&cancel)?;
    let search =
        args.search(&layers, &setup, &cancel, talk).map_err(|e| with_origin(e.into(), &layers))?;
    if let Some(name) = &args.save {
        Stack::check_name(name)?;
        refuse_taken(name, args.force, &setup)?;
    }
    atomic_file::make_folder(&args.out)?;
    let head = search.head(scorer.as_ref())?;
    let (mut log, before) = Log::open(&args.out, &head)?;
    if !before.is_empty() {
        talk.say(&format!("going on after {} answers in {}", before.len(), args.out.display()));
    }
    let artist = Artist::new(args.studio(&search, &setup))?;
    let session =
        Session { space: &search.space, artist: &artist, log: &mut log, limits, cancel: &cancel };
    let outcome = args.seek(session, &search, &before, scorer.as_ref(), talk);
    if let Err(Error::Cancelled) = outcome {
        let folder = args.out.display();
        talk.say(&format!("the answers are in {folder}; the same command goes on"));
    }
    if let Some(outcome) = outcome? {
        args.finish(&outcome, &search, &setup, talk)
    } else {
        talk.say("no answer was given; nothing was found");
        Ok(())
    }
}

/// A judge of the command line.
trait Front: Judge {
    /// The search is over.
    fn end(&mut self) {}
}

impl Args {
    /// The values that flags give to every job, but for the LoRAs.
    fn values(&self) -> Map<String, Value> {
        self.machine.values(self.request.values(), self.prompt.as_ref(), self.model.as_ref())
    }

    fn limits(&self) -> Checked<Limits> {
        if self.most == 0 {
            return Err(Error::bad_request("most", 0, "expected at least 1"));
        }
        if !(self.sure > 0.0 && self.sure <= 1.0) {
            let why = "expected a probability, such as 0.8; 1 goes on to the most answers";
            return Err(Error::bad_request("sure", self.sure, why));
        }
        let margin = if self.score.is_some() { 0.1 } else { 0.75 };
        Ok(Limits { most: self.most, sure: self.sure, margin })
    }

    fn scorer(&self) -> Checked<Option<Scorer>> {
        let limit = Duration::try_from_secs_f64(self.score_limit).map_err(|_| {
            Error::bad_request("score_limit", self.score_limit, "expected a number of seconds")
        })?;
        self.score.as_deref().map(|command| Scorer::new(command, limit)).transpose()
    }

    fn search(
        &self,
        layers: &Layers,
        setup: &Setup,
        cancel: &Cancel,
        talk: Talk,
    ) -> Checked<Search> {
        let texts = self.request.loras().to_vec();
        let jobs = self.jobs(layers, setup)?;
        let mut fixed = Request::default();
        let chosen = self.request.sets("lora_method");
        if let Some(name) = &self.stack {
            resolver::stack(&setup.store, name, chosen, &mut fixed)?;
        }
        let first = jobs.first().ok_or_else(|| {
            Error::corrupt(self.prompts.clone().unwrap_or_default(), "there is no job in it")
        })?;
        let layout = || {
            let progress = Progress::new(ProgressKind::Auto, talk, false);
            let base =
                Base::open(&setup.store, first.model_name(), cancel, &|t| progress.transfer(t));
            progress.finish();
            Layout::of(base?.names.names()).ok_or_else(|| {
                let why = "this model has another number of blocks than SD and SDXL; leave base, in, mid and out away";
                Error::bad_request("lora", texts.join(" "), why)
            })
        };
        let space = Space::read(&texts, &layout)?;
        let seed = first.request.seed.unwrap_or(0);
        let method = if chosen { first.request.lora_method } else { fixed.lora_method };
        let jobs = jobs.into_iter().map(|mut job| {
            job.request.loras.splice(0..0, fixed.loras.iter().cloned());
            job.request.lora_method =
                if self.stack.is_some() { method } else { job.request.lora_method };
            job
        });
        Ok(Search { jobs: jobs.collect(), fixed: fixed.loras, method, space, texts, seed })
    }

    /// What is drawn with every stack: each prompt with each seed.
    fn jobs(&self, layers: &Layers, setup: &Setup) -> Checked<Vec<Job>> {
        if !(1..=MAX_COUNT).contains(&self.seeds) {
            return Err(Error::bad_request("seeds", self.seeds, "expected at least 1"));
        }
        if self.request.sets("count") {
            let why =
                "every stack is drawn once for each prompt and seed; give the number of seeds";
            return Err(Error::bad_request("count", "", why));
        }
        let mut job = layers.job()?;
        job.request.preview = 0;
        let seed = job.request.seed.unwrap_or(0);
        let jobs = match &self.prompts {
            None => vec![job],
            Some(path) => {
                let source = Source::read(path, None, true)?;
                let seeding = Seeding { seed, ..Seeding::default() };
                let (listed, more) = batch::list(&source.drafts, layers, &setup.store, seeding);
                let mut mistakes = source.mistakes;
                mistakes.extend(more);
                if !mistakes.is_empty() {
                    return Err(Error::Lines { path: path.clone(), mistakes });
                }
                listed.into_iter().map(|listed| listed.job).collect()
            }
        };
        let seeded = |job: &Job, number: usize| {
            let mut job = job.clone();
            let first = job.request.seed.unwrap_or(seed);
            job.request.seed = Some(first.wrapping_add(number as u64));
            job.request.count = 1;
            job
        };
        let each = jobs.iter().flat_map(|job| (0..self.seeds).map(move |n| seeded(job, n)));
        Ok(each.collect())
    }

    fn studio(&self, search: &Search, setup: &Setup) -> Studio {
        let memory = self.machine.memory();
        let (store, halt) = (setup.store.clone(), Cancel::new());
        let ends = halt.clone();
        let pools = move || {
            let options = Pipeline::options().memory(memory);
            Pool::cancelled_by(store.clone(), &ends).opened_with(options)
        };
        let metadata = setup.settings.config.metadata != Some(false);
        let folder = self.out.join("pictures");
        let jobs = search.jobs.clone();
        Studio { jobs, folder, metadata, pools: Box::new(pools), halt }
    }

    /// Searches until the best stack is found; `None` without any answer.
    fn seek(
        &self,
        mut session: Session<'_>,
        search: &Search,
        before: &[Line],
        scorer: Option<&Scorer>,
        talk: Talk,
    ) -> Checked<Option<Outcome>> {
        let cube = search.space.cube(search.seed);
        if let Some(scorer) = scorer {
            let mut line = StrokeLine::new(talk);
            let told = &mut |told: Told<'_>| tell(told, &mut line, talk);
            return session.score(Scores::new(cube), before, scorer, told);
        }
        let mut judge = self.judge(search, talk)?;
        let outcome = session.choose(Duels::new(cube), before, &mut *judge)?;
        judge.end();
        Ok(outcome)
    }

    fn judge(&self, search: &Search, talk: Talk) -> Checked<Box<dyn Front>> {
        let rows = search.rows();
        if self.page {
            return Ok(Box::new(page::Page::new(rows, talk)?));
        }
        Ok(Box::new(terminal::Terminal::new(self.out.clone(), rows, talk)?))
    }

    /// Prints the stack, and saves it.
    fn finish(&self, found: &Outcome, search: &Search, setup: &Setup, talk: Talk) -> Result<()> {
        let best = &found.best;
        let sure = found.sure * 100.0;
        let answers = found.answers;
        talk.say(&format!("{sure:.0} % sure after {answers} answers: {}", best.words));
        for picture in &best.pictures {
            talk.say(&format!("its picture: {}", picture.display()));
        }
        let loras: Vec<LoraRef> = search.fixed.iter().chain(&best.stack).cloned().collect();
        let stack = Stack::of(loras.clone(), search.method);
        if !self.json {
            // What was found is not lost where it cannot be saved.
            result_line(&value(&stack_flags(&loras, search.method)))?;
        }
        let saved =
            self.save.as_ref().map(|name| setup.store.save_stack(name, &stack, None, self.force));
        let saved = saved.transpose()?;
        if let Some((path, name)) = saved.as_ref().zip(self.save.as_ref()) {
            talk.say(&format!("saved {}; use it with --stack {name}", path.display()));
        }
        if !self.json {
            return Ok(());
        }
        let pictures: Vec<_> = best.pictures.iter().map(|path| path.to_string_lossy()).collect();
        let saved = saved.map(|path| path.to_string_lossy().into_owned());
        let line = json!({
            "schema": SCHEMA, "event": "tuned", "stack": stack, "sure": found.sure,
            "answers": answers, "ended_sure": found.ended_sure, "pictures": pictures, "saved": saved,
        });
        result_json(&line.to_string())
    }
}

impl Search {
    /// What a log begins with.
    fn head(&self, scorer: Option<&Scorer>) -> Checked<Head> {
        let jobs = self.jobs.iter().map(|job| {
            let mut map = job.to_map()?;
            map.remove("device");
            Ok(Value::Object(map))
        });
        Ok(Head {
            v: 1,
            loras: self.texts.clone(),
            seed: self.seed,
            judge: scorer.map_or("pairs", Scorer::text).to_owned(),
            jobs: jobs.collect::<Checked<_>>()?,
        })
    }

    /// The names of the rows of a pair of stacks: prompts and seeds, as far as they differ.
    fn rows(&self) -> Vec<String> {
        let prompts = self.jobs.iter().any(|job| job.request.prompt != self.jobs[0].request.prompt);
        let seeds = self.jobs.iter().any(|job| job.request.seed != self.jobs[0].request.seed);
        let row = |job: &Job| {
            let prompt = prompts.then(|| job.request.prompt.clone());
            let seed = job.request.seed.filter(|_| seeds && !prompts);
            prompt
                .into_iter()
                .chain(seed.map(|seed| format!("seed {seed}")))
                .collect::<Vec<_>>()
                .join(", ")
        };
        self.jobs.iter().map(row).collect()
    }
}

/// Refuses a name that is taken before the search, not after it.
fn refuse_taken(name: &str, force: bool, setup: &Setup) -> Checked<()> {
    match setup.store.stack_path(name) {
        Ok(path) if !force => Err(Error::Exists { path }),
        _ => Ok(()),
    }
}

/// Says what a scored stack came to.
fn tell(told: Told<'_>, line: &mut StrokeLine, talk: Talk) {
    match told {
        Told::Stroke(stroke) => line.show(stroke),
        Told::Score { number, candidate, score } => {
            line.clear();
            talk.say(&format!("{number}: {score}  {}", candidate.words));
        }
    }
}
