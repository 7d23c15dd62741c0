//! `colora bench`: what this machine gives at most, and what a model gets of it.

use super::flags::ProgressKind;
use super::origin::with_origin;
use super::progress::Progress;
use super::style::{Talk, bytes, result_json, result_line, value};
use super::{interrupt, setup, threads};
use crate::app::{Job, Layers, ModelKey, Pool, SCHEMA, open_found};
use crate::error::Error;
use crate::lora::{Apply, LoraRef};
use crate::pipeline::{
    Cancel, Ceilings, DTypeChoice, DeviceChoice, KernelKind, Measured, Memory, Options, Pipeline,
    Plan, Request, Work, peak_memory, reset_peak_memory,
};
use crate::sampling::{Sampler, Schedule};
use crate::size::ImageSize;
use crate::store::Model;
use crate::weights::{Instructions, Precision};
use anyhow::Result;
use clap::ValueHint;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

const EXAMPLES: &str = "\
Examples:
  colora bench                                     the starter model
  colora bench -m dreamshaper --dtype bf16 --repeat 3
  colora bench -l flat -l wizard                   what LoRAs cost
  colora bench --cpu avx2                          with narrower vector instructions
  colora bench --json | jq .summary.step.median

The work is the same every time: one picture of one prompt, guidance on, Euler. With --repeat the
model is opened anew, from memory if the system kept its file; minimum, median and maximum are
of all runs together. Nothing is saved.

Operations (GFLOP) are counted by the plain algorithms, a multiplication and an addition as two.
Convolutions that need fewer products (Winograd's) may therefore exceed the ceiling, which is
the rate of the innermost kernel on numbers in the first-level cache. Peak memory counts pages
of mapped files. Other work on the machine makes everything slower: compare runs side by side.";

/// Most runs.
const MOST: usize = 1000;

/// What `colora bench` accepts.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// Model: a name, a file, a folder or hub:owner/name [env: COLORA_MODEL] [default: starter]
    #[arg(short, long, value_name = "MODEL", value_parser = super::flags::lossy(), value_hint = ValueHint::AnyPath)]
    model: Option<String>,
    /// A LoRA, as of generate; repeat for more
    #[arg(short, long = "lora", value_name = "NAME[:W]", value_parser = super::flags::lora(), value_hint = ValueHint::AnyPath)]
    loras: Vec<LoraRef>,
    /// auto, merge (into the weights) or bypass (beside them) [default: auto]
    #[arg(long, value_name = "HOW")]
    apply: Option<Apply>,
    /// Width and height [default: by model]
    #[arg(long, value_name = "WxH")]
    size: Option<ImageSize>,
    /// Sampling steps
    #[arg(short, long, value_name = "N", default_value_t = 3)]
    steps: usize,
    /// How often all is done
    #[arg(long, value_name = "N", default_value_t = 1)]
    repeat: usize,
    /// auto, cpu, cuda, cuda:1 or metal [env: COLORA_DEVICE]
    #[arg(long, value_name = "DEVICE", help_heading = "Machine")]
    device: Option<DeviceChoice>,
    /// f32, tf32, f16 or bf16 [env: COLORA_DTYPE] [default: by device]
    #[arg(long, value_name = "TYPE", help_heading = "Machine")]
    dtype: Option<DTypeChoice>,
    /// Worker threads on the CPU [default: one a core]
    #[arg(long, value_name = "N", help_heading = "Machine")]
    threads: Option<usize>,
    /// Use no wider vector instructions than portable, neon, avx2, avx512 or avx512-bf16
    /// [default: the widest]
    #[arg(long, value_name = "SET", help_heading = "Machine")]
    cpu: Option<Instructions>,
    /// Keep as little in memory as possible, as of generate
    #[arg(long, help_heading = "Machine")]
    low_memory: bool,
    /// Print one JSON object
    #[arg(long, help_heading = "Output")]
    json: bool,
}

/// Runs `colora bench`.
pub(super) fn run(args: &Args, talk: Talk) -> Result<()> {
    let setup = setup()?;
    threads::limit(args.threads.or(setup.settings.config.threads), talk)?;
    if !(1..=MOST).contains(&args.repeat) {
        let why = format!("expected 1 to {MOST}");
        return Err(Error::bad_request("repeat", args.repeat, why).into());
    }
    let request = args.request();
    request.plan(&crate::family::Defaults::of_unknown_model(), 0)?;
    if let Some(set) = args.cpu {
        set.limit()?;
    }
    let cancel = Cancel::new();
    interrupt::install(&cancel)?;
    let progress = Progress::new(ProgressKind::Auto, talk, args.json);
    let mut layers = Layers::of(&setup.settings)?;
    layers.caller(args.model_words());
    let job = layers.job().map_err(|error| with_origin(error.into(), &layers))?;
    // What is measured is the same whatever is usual here.
    let job = Job { request, vae: None, ..job };
    let memory = if args.low_memory { Memory::Low } else { Memory::OneShot };
    let pool =
        Pool::cancelled_by(setup.store, &cancel).opened_with(Pipeline::options().memory(memory));
    let bench = Bench { job: &job, pool: &pool, cancel: &cancel, progress: &progress };
    let report = bench.run(args.repeat);
    progress.finish();
    let report = report?;
    if args.json {
        return result_json(&report.json().to_string());
    }
    report.lines().iter().try_for_each(|line| result_line(line))
}

impl Args {
    fn request(&self) -> Request {
        Request {
            prompt: "a red fox in the snow".into(),
            negative_prompt: "blurry".into(),
            width: self.size.map(ImageSize::width),
            height: self.size.map(ImageSize::height),
            steps: Some(self.steps),
            guidance_scale: Some(7.5),
            sampler: Some(Sampler::Euler),
            schedule: Some(Schedule::Discrete),
            seed: Some(1),
            loras: self.loras.clone(),
            apply: self.apply.unwrap_or_default(),
            ..Request::default()
        }
    }

    /// The values of these flags that choose and place the model.
    fn model_words(&self) -> serde_json::Map<String, Value> {
        let words = [
            ("model", self.model.clone().filter(|name| !name.is_empty())),
            ("device", self.device.map(|device| device.to_string())),
            ("dtype", self.dtype.map(|dtype| dtype.to_string())),
        ];
        words.into_iter().filter_map(|(key, word)| Some((key.to_owned(), word?.into()))).collect()
    }
}

/// What is to be measured.
struct Bench<'a> {
    job: &'a Job,
    pool: &'a Pool,
    cancel: &'a Cancel,
    progress: &'a Progress,
}

/// One time through all of it.
struct Round {
    open: Duration,
    measured: Measured,
    peak: Option<u64>,
}

/// Everything that was found.
struct Report {
    model: String,
    plan: Plan,
    place: Place,
    ceilings: Option<Ceilings>,
    rounds: Vec<Round>,
}

/// The machine and the types that it ran with.
struct Place {
    device: String,
    /// How the UNet multiplies, on a CPU.
    precision: Option<Precision>,
    dtype: &'static str,
}

impl Place {
    fn of(pipeline: &Pipeline, asked: Option<DTypeChoice>) -> Self {
        let precision = pipeline.precision();
        let dtype = match (precision, asked) {
            (Some(Precision::F32), _) | (None, Some(DTypeChoice::F32)) => "f32",
            (Some(Precision::Bf16), _) | (None, Some(DTypeChoice::Bf16)) => "bf16",
            (None, Some(DTypeChoice::Tf32)) => "tf32",
            (None, _) => "f16",
        };
        let device = pipeline.device_name();
        Self { device, precision, dtype }
    }
}

impl Bench<'_> {
    fn run(&self, repeat: usize) -> Result<Report> {
        let request = &self.job.request;
        let transfer = |transfer: &_| self.progress.transfer(transfer);
        let found = self.pool.store().resolve(self.job.model_name(), self.cancel, &transfer)?;
        let options = || self.pool.options(&ModelKey::from(self.job));
        self.pool.fetch(&request.loras, &transfer)?;
        // Mistakes are found before anything is measured.
        let pipeline = open_found(options(), found.clone())?;
        let plan = pipeline.plan(request, 0)?;
        pipeline.check_memory(&plan)?;
        let place = Place::of(&pipeline, self.job.dtype);
        let model = pipeline.model_name().to_owned();
        drop(pipeline);
        let ceilings = place.precision.map(|_| Ceilings::measure()).transpose()?;
        let rounds = (0..repeat).map(|_| self.round(options(), &found));
        let rounds = rounds.collect::<Result<_, Error>>()?;
        Ok(Report { model, plan, place, ceilings, rounds })
    }

    fn round(&self, options: Options, found: &Model) -> Result<Round, Error> {
        let counted = reset_peak_memory();
        let begin = Instant::now();
        let pipeline = open_found(options, found.clone())?;
        let plan = pipeline.plan(&self.job.request, 0)?;
        let open = begin.elapsed();
        let measured = pipeline.measure(&plan, self.progress, self.cancel)?;
        Ok(Round { open, measured, peak: peak_memory().filter(|_| counted) })
    }
}

/// Smallest, middle and largest of some times, in seconds.
struct Spread {
    min: f64,
    median: f64,
    max: f64,
}

impl Spread {
    fn of(times: impl Iterator<Item = Duration>) -> Self {
        let mut times: Vec<f64> = times.map(|time| time.as_secs_f64()).collect();
        times.sort_by(f64::total_cmp);
        let at = |i: usize| times.get(i).copied().unwrap_or_default();
        let half = times.len() / 2;
        // Of an even number the mean of the middle two.
        let median = if times.len().is_multiple_of(2) {
            f64::midpoint(at(half.wrapping_sub(1)), at(half))
        } else {
            at(half)
        };
        Self { min: at(0), median, max: at(times.len().saturating_sub(1)) }
    }

    fn json(&self) -> Value {
        json!({ "min": self.min, "median": self.median, "max": self.max })
    }
}

/// A part of the work: what it took, and the operations of those parts that are mostly products.
struct Part {
    name: &'static str,
    spread: Spread,
    operations: Option<u64>,
    /// Operations a second in the median, and their share of the ceiling.
    rate: Option<f64>,
    share: Option<f64>,
}

impl Report {
    fn parts(&self) -> Vec<Part> {
        let all = |time: fn(&Round) -> Duration| Spread::of(self.rounds.iter().map(time));
        let steps = Spread::of(self.rounds.iter().flat_map(|round| round.measured.steps.clone()));
        let first = self.rounds.first().map(|round| &round.measured);
        let parts = [
            ("open", all(|round| round.open), None),
            ("load", all(|round| round.measured.timings.load), None),
            ("compose", all(|round| round.measured.timings.compose), None),
            ("encode", all(|round| round.measured.timings.encode), None),
            ("step", steps, first.and_then(|measured| measured.step_work)),
            (
                "decode",
                all(|round| round.measured.timings.decode),
                first.and_then(|measured| measured.decode_work),
            ),
        ];
        let ceiling = self.place.precision.zip(self.ceilings).map(|(p, c)| c.rate(p));
        let part = |(name, spread, work): (_, Spread, Option<Work>)| {
            let operations = work.map(|work| work.operations());
            let timed = operations.filter(|_| spread.median > 0.0);
            let rate = timed.map(|count| count as f64 / spread.median);
            let share = rate.zip(ceiling).map(|(rate, ceiling)| rate / ceiling);
            Part { name, spread, operations, rate, share }
        };
        parts.into_iter().map(part).collect()
    }

    /// Where the last step and the decoding of the first round spent their time, the longest first.
    fn kernels(&self) -> Vec<(&'static str, Vec<Kernel>)> {
        let Some(Round { measured, .. }) = self.rounds.first() else { return Vec::new() };
        let step = measured.steps.last().copied().unwrap_or_default();
        let parts = [
            ("step", measured.step_work, step),
            ("decode", measured.decode_work, measured.timings.decode),
        ];
        let known = parts.into_iter().filter_map(|(name, work, whole)| Some((name, work?, whole)));
        known.map(|(name, work, whole)| (name, Kernel::all(&work, whole))).collect()
    }

    fn peak(&self) -> Option<u64> {
        self.rounds.iter().filter_map(|round| round.peak).max()
    }

    fn json(&self) -> Value {
        let mut summary = serde_json::Map::new();
        for part in self.parts() {
            let mut value = part.spread.json();
            if let (Some(object), Some(operations)) = (value.as_object_mut(), part.operations) {
                object.insert("operations".into(), operations.into());
                object.insert("operations_per_second".into(), part.rate.into());
                object.insert("share_of_ceiling".into(), part.share.into());
            }
            summary.insert(part.name.into(), value);
        }
        let mut kernels = serde_json::Map::new();
        for (name, parts) in self.kernels() {
            kernels.insert(name.into(), parts.iter().map(Kernel::json).collect());
        }
        let ceilings = self.ceilings.map(|ceilings| {
            json!({
                "f32_operations_per_second": ceilings.f32,
                "bf16_operations_per_second": ceilings.bf16,
                "read_bytes_per_second": ceilings.read,
                "copy_bytes_per_second": ceilings.copy,
            })
        });
        let runs: Vec<Value> = self.rounds.iter().map(Round::json).collect();
        json!({
            "schema": SCHEMA, "event": "bench", "version": env!("CARGO_PKG_VERSION"),
            "model": self.model, "width": self.plan.width, "height": self.plan.height,
            "steps": self.plan.steps, "loras": self.plan.loras.len(),
            "device": self.place.device, "dtype": self.place.dtype,
            "instructions": self.place.precision.map(|_| Instructions::used().name()),
            "threads": rayon::current_num_threads(),
            "ceilings": ceilings, "summary": summary, "peak_bytes": self.peak(), "kernels": kernels, "runs": runs,
        })
    }

    fn lines(&self) -> Vec<String> {
        let Place { device, precision, dtype } = &self.place;
        let on = match precision {
            Some(_) => {
                let threads = rayon::current_num_threads();
                format!("{device}, {}, {threads} threads", Instructions::used().name())
            }
            None => device.clone(),
        };
        let plan = &self.plan;
        let mut head =
            format!("{}  {}x{}  {dtype} on {on}", value(&self.model), plan.width, plan.height);
        if !plan.loras.is_empty() {
            head += &format!("  LoRAs: {}", plan.loras.len());
        }
        let mut lines = vec![head];
        if let Some(Ceilings { f32, bf16, read, copy }) = self.ceilings {
            lines.push(format!(
                "ceilings  f32 {:.0} GFLOP/s  bf16 {:.0} GFLOP/s  memory read {:.0} GB/s  copy {:.0} GB/s",
                f32 / 1e9,
                bf16 / 1e9,
                read / 1e9,
                copy / 1e9
            ));
        }
        lines.push(String::new());
        lines.push("seconds      min  median     max    GFLOP  GFLOP/s  of ceiling".into());
        for part in self.parts() {
            let Spread { min, median, max } = part.spread;
            let mut line = format!("{:8} {min:7.3} {median:7.3} {max:7.3}", part.name);
            if let (Some(operations), Some(rate)) = (part.operations, part.rate) {
                line += &format!(" {:8.1} {:8.1}", operations as f64 / 1e9, rate / 1e9);
            }
            if let Some(share) = part.share {
                line += &format!(" {:9.0} %", 100.0 * share);
            }
            lines.push(line);
        }
        for (name, kernels) in self.kernels() {
            lines.push(String::new());
            lines.push(format!("{name:<22} seconds  GFLOP/s"));
            lines.extend(kernels.iter().map(Kernel::line));
        }
        if let Some(peak) = self.peak() {
            lines.push(format!("memory   {} at most", bytes(peak)));
        }
        lines
    }
}

/// The operators of one kind.
struct Kernel {
    name: &'static str,
    seconds: f64,
    operations: u64,
    /// The share of the whole.
    share: f64,
}

/// Cells of a bar of the whole.
const BAR: f64 = 40.0;

impl Kernel {
    /// Every kind that took time, and the rest of `whole`.
    fn all(work: &Work, whole: Duration) -> Vec<Self> {
        let whole = whole.as_secs_f64();
        let kernel = |name, seconds: f64, operations| {
            let share = if whole > 0.0 { seconds / whole } else { 0.0 };
            Self { name, seconds, operations, share }
        };
        let mut kernels: Vec<Self> = KernelKind::ALL
            .iter()
            .map(|kind| (kind.name(), work.of(*kind)))
            .map(|(name, (operations, time))| kernel(name, time.as_secs_f64(), operations))
            .collect();
        let rest = whole - kernels.iter().map(|kernel| kernel.seconds).sum::<f64>();
        kernels.push(kernel("everything else", rest.max(0.0), 0));
        kernels.retain(|kernel| kernel.seconds > 0.0);
        kernels.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
        kernels
    }

    fn line(&self) -> String {
        let Self { name, seconds, operations, share } = self;
        let rate = match operations {
            0 => String::new(),
            count => format!("{:.0}", *count as f64 / seconds / 1e9),
        };
        let bar = "█".repeat((share * BAR).round() as usize);
        format!("  {name:22} {seconds:7.3} {rate:>8} {:3.0} % {bar}", 100.0 * share)
    }

    fn json(&self) -> Value {
        let Self { name, seconds, operations, share } = self;
        json!({ "kernel": name, "seconds": seconds, "operations": operations, "share": share })
    }
}

impl Round {
    fn json(&self) -> Value {
        let timings = self.measured.timings;
        let steps: Vec<f64> = self.measured.steps.iter().map(Duration::as_secs_f64).collect();
        json!({
            "open": self.open.as_secs_f64(), "load": timings.load.as_secs_f64(),
            "compose": timings.compose.as_secs_f64(), "encode": timings.encode.as_secs_f64(),
            "steps": steps, "decode": timings.decode.as_secs_f64(), "peak_bytes": self.peak,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_of_times() {
        let of = |times: &[u64]| Spread::of(times.iter().map(|t| Duration::from_secs(*t)));
        for (times, expected) in [
            (&[3, 1, 2][..], (1.0, 2.0, 3.0)),
            (&[4, 1, 2, 3], (1.0, 2.5, 4.0)),
            (&[5], (5.0, 5.0, 5.0)),
            (&[], (0.0, 0.0, 0.0)),
        ] {
            let spread = of(times);
            assert_eq!((spread.min, spread.median, spread.max), expected);
        }
    }
}
