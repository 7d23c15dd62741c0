//! Samplers and schedules against runs that were recorded from k-diffusion, ComfyUI and A1111 themselves:
//! `goldens/recorded.json`, picked by `goldens/make_recorded.py`.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod support;

use candle_core::{Device, Tensor};
use colora::sampling::{
    Convention, Denoiser, Estimates, Grid, ListedNoise, NoiseProcess, NoiseTable, NoiseUse,
    Sampler, SamplerOptions, Sampling, SamplingRequest, Schedule, SchedulerConfig,
};
use serde::Deserialize;
use serde_json::Value;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use support::golden;

#[derive(Deserialize)]
struct Recorded {
    start: Vec<f64>,
    noise_list: Vec<Vec<f64>>,
    lists: BTreeMap<String, Vec<f64>>,
    runs: Vec<Run>,
    levels: Vec<Levels>,
}

#[derive(Deserialize)]
struct Run {
    tool: String,
    sampler: String,
    #[serde(default)]
    guided: bool,
    list: String,
    #[serde(default)]
    options: BTreeMap<String, Value>,
    /// σ and x of every evaluation; of long runs σ alone.
    evals: Vec<Vec<Value>>,
    /// The interval of every draw; none where the tool does not pass it on.
    draws: Vec<Option<(f64, f64)>>,
    #[serde(rename = "final")]
    end: Vec<f64>,
}

#[derive(Deserialize)]
struct Levels {
    tool: String,
    schedule: String,
    n: usize,
    family: Option<String>,
    sigmas: Vec<f64>,
}

fn recorded() -> Recorded {
    serde_json::from_str(&std::fs::read_to_string(golden("recorded.json")).unwrap()).unwrap()
}

/// The denoiser of data at ±1 with a spread of 0.25, which notes what it is asked; guided it has two texts.
#[derive(Default)]
struct Toy {
    guided: bool,
    asked: RefCell<Vec<(f64, Vec<f64>)>>,
}

/// The estimate for data moved by `shift`.
fn toy(x: &Tensor, sigma: f64, shift: f64) -> colora::Result<Tensor> {
    let v = 0.0625 + sigma * sigma;
    let y = (x - shift)?;
    let pull = ((&y / v)?.tanh()? * (sigma * sigma))?;
    Ok(((((y * 0.0625)? + pull)? / v)? + shift)?)
}

impl Denoiser for Toy {
    fn denoise(&self, x: &Tensor, sigma: f64) -> colora::Result<Tensor> {
        Ok(self.estimates(x, sigma)?.guided)
    }

    fn estimates(&self, x: &Tensor, sigma: f64) -> colora::Result<Estimates> {
        let values = x.flatten_all()?.to_vec1::<f64>()?;
        self.asked.borrow_mut().push((sigma, values));
        let unguided = toy(x, sigma, 0.0)?;
        if !self.guided {
            return Ok(Estimates { guided: unguided.clone(), unguided });
        }
        let guided = (&unguided + ((toy(x, sigma, 0.3)? - &unguided)? * 3.0)?)?;
        Ok(Estimates { guided, unguided })
    }
}

fn tensor(values: &[f64]) -> Tensor {
    Tensor::new(values, &Device::Cpu).unwrap()
}

fn gap(ours: &[f64], theirs: &[f64]) -> f64 {
    assert_eq!(ours.len(), theirs.len());
    let gap = |(a, b): (&f64, &f64)| (a - b).abs() / b.abs().max(1.0);
    ours.iter().zip(theirs).map(gap).fold(0.0, f64::max)
}

/// The sampler of a record, with its options; none where colora has no such option.
fn asked(run: &Run) -> Option<(Sampler, SamplerOptions)> {
    let mut name = match run.tool.as_str() {
        "k-diffusion" => format!("sample_{}", run.sampler),
        _ => run.sampler.clone(),
    };
    let mut options = SamplerOptions::default();
    for (option, value) in &run.options {
        match (option.as_str(), value.as_f64()) {
            ("solver_type", _) if value == "heun" => name = "dpmpp_2m_sde_heun".into(),
            ("solver_type", _) => {}
            ("max_order", Some(order)) => options = options.with("order", order),
            (_, Some(number)) => options = options.with(option, number),
            _ => return None,
        }
    }
    let sampler: Sampler = name.parse().unwrap();
    sampler.spec().check(&options).is_ok().then_some((sampler, options))
}

/// The numerical integrals of some tools are coarser than ours, and UniPC, and DPM fast where it adds noise, were
/// recorded in f32.
fn tolerance(sampler: Sampler) -> f64 {
    match sampler {
        Sampler::UniPc | Sampler::UniPcBh2 | Sampler::DpmFast => 3e-4,
        Sampler::Lms => 1e-8,
        Sampler::ErSde => 1e-5,
        Sampler::Restart => 2e-4,
        Sampler::Deis => 2e-6,
        // Differences of the lengths of its steps accumulate.
        Sampler::DpmAdaptive => 2e-3,
        _ => 1e-9,
    }
}

fn grid(sampler: Sampler, run: &Run, list: &[f64], process: &NoiseProcess) -> Option<Grid> {
    let mut sigmas = list.to_vec();
    if matches!(sampler, Sampler::UniPc | Sampler::UniPcBh2) {
        // ComfyUI's ends there, and does nothing in one step.
        *sigmas.last_mut().unwrap() = 0.001;
        if sigmas.len() < 3 {
            return None;
        }
    }
    if run.sampler == "restart" && sigmas.len() < 20 {
        return None;
    }
    let mut grid = Grid::from_sigmas(process.clone(), &sigmas).unwrap();
    grid.convention = match run.tool.as_str() {
        "comfyui" => Convention::Comfyui,
        // A1111's LCM wraps the model, which these runs do not have.
        _ if run.sampler == "lcm" => Convention::Comfyui,
        _ => Convention::A1111,
    };
    if let Some(pairs) = sampler.spec().grids.diffusers.pairs {
        let at = grid.levels[0];
        let level = |pair: &colora::sampling::Pair| colora::sampling::Level {
            sigma: pair.sigma,
            next: pair.next,
            target: pair.next,
            ..at
        };
        grid.levels = pairs(&sigmas).iter().map(level).collect();
    }
    Some(grid)
}

/// Every evaluation, every draw and the end.
#[test]
fn runs_equal_those_of_the_tools() {
    let recorded = recorded();
    let config = SchedulerConfig::default();
    let process = NoiseProcess::VariancePreserving(NoiseTable::new(&config).unwrap());
    let (mut worst, mut wrong) = (BTreeMap::<String, (usize, f64)>::new(), Vec::new());
    for (n, run) in recorded.runs.iter().enumerate() {
        let what = format!("{n}: {} {} {} {:?}", run.tool, run.sampler, run.list, run.options);
        let Some((sampler, mut options)) = asked(run) else { continue };
        let list = &recorded.lists.get(&run.list).cloned().unwrap_or_else(|| karras(&run.list));
        let Some(grid) = grid(sampler, run, list, &process) else { continue };
        if matches!(sampler, Sampler::UniPc | Sampler::UniPcBh2) {
            options = options.with("order", (grid.steps() - 1).clamp(1, 3) as f64);
        }
        let integrator = sampler.begin(&options, &config).unwrap();
        let x = (tensor(&recorded.start) * list[0]).unwrap();
        let eta = sampler.spec().noise == NoiseUse::Eta;
        if eta && list.len() == 2 {
            // Between one level and itself the tools do nothing; colora takes the estimate.
            continue;
        }
        // Those draw without noise to add too, and count one more at the end.
        let never = eta || matches!(sampler.spec().noise, NoiseUse::Never);
        let unused = run.tool == "k-diffusion" && sampler.spec().noise == NoiseUse::Churn;
        let mut noise = ListedNoise::new(recorded.noise_list.iter().map(|n| tensor(n)));
        let churned = options.get("s_churn").is_some_and(|churn| churn > 0.0);
        if unused && churned {
            // k-diffusion draws outside of the bounds of churn, and throws it away.
            continue;
        }
        let model = Toy { guided: run.guided, ..Toy::default() };
        let mut sampling = Sampling { integrator, grid };
        let mut x = x;
        for i in 0..sampling.grid.steps() {
            x = sampling.integrator.step(&model, &x, &sampling.grid, i, &mut noise).unwrap().x;
        }
        let evals = model.asked.into_inner();
        let mut most = gap(&x.to_vec1::<f64>().unwrap(), &run.end);
        if evals.len() != run.evals.len() {
            wrong.push(format!("{what}: {} evaluations of {}", evals.len(), run.evals.len()));
            continue;
        }
        for ((sigma, x), theirs) in evals.iter().zip(&run.evals) {
            most = most.max(gap(&[*sigma], &[theirs[0].as_f64().unwrap()]));
            if let Some(theirs) = theirs.get(1) {
                let theirs: Vec<f64> = serde_json::from_value(theirs.clone()).unwrap();
                most = most.max(gap(x, &theirs));
            }
        }
        if most.is_nan() || most > tolerance(sampler) {
            wrong.push(format!("{what}: {most:e}"));
        }
        let drawn = run.draws.len();
        if !never && !unused && noise.asked.len() != drawn && options.get("eta") != Some(0.0) {
            wrong.push(format!("{what}: {} draws of {drawn}", noise.asked.len()));
        }
        for (ours, theirs) in noise.asked.iter().zip(&run.draws) {
            let theirs = theirs.unwrap_or(*ours);
            let far = gap(&[ours.0, ours.1], &[theirs.0, theirs.1]);
            if far > if eta { 1e-6 } else { 1e-9 } {
                wrong.push(format!("{what}: noise of {ours:?}, theirs of {theirs:?}"));
            }
        }
        let entry = worst.entry(sampler.to_string()).or_default();
        *entry = (entry.0 + 1, entry.1.max(most));
    }
    for (sampler, (runs, gap)) in &worst {
        println!("{sampler}: {runs} runs, largest error {gap:.1e}");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    measured(&worst);
    assert!(worst.len() >= 15, "only {} samplers", worst.len());
}

/// A list of Karras et al. by its name: `karras N` over the table of Stable Diffusion.
fn karras(name: &str) -> Vec<f64> {
    let n: usize = name.split(' ').nth(1).unwrap().parse().unwrap();
    let root = |sigma: f64| sigma.powf(1.0 / 7.0);
    let (low, high) = (root(0.029_167_535), root(14.614_642));
    let at = |i: usize| (high + i as f64 / (n - 1) as f64 * (low - high)).powi(7);
    (0..n).map(at).chain([0.0]).collect()
}

/// A sampler is proven by these records, or by those of `parity_newer_samplers` or the first three's.
#[test]
fn every_sampler_is_proven() {
    let recorded = recorded();
    let known: BTreeSet<_> =
        recorded.runs.iter().filter_map(|run| Some(asked(run)?.0.name())).collect();
    let first = [Sampler::DpmPp2m, Sampler::Euler, Sampler::Ddim];
    // Runs of diffusers and of A1111 in `vectors`.
    let vectors = [Sampler::DpmPp3m, Sampler::DdimCfgPp];
    for sampler in Sampler::ALL {
        let golden = golden(&format!("samplers/{sampler}.json")).exists();
        let proven = golden
            || vectors.contains(&sampler)
            || first.contains(&sampler)
            || known.contains(sampler.name());
        assert!(proven, "{sampler} is compared with nothing");
    }
}

/// Our name of a record's schedule; none where colora follows the other tool.
fn schedule(record: &Levels) -> Option<Schedule> {
    let comfyui = record.tool == "comfyui";
    let sdxl = record.family.as_deref() == Some("sdxl");
    Some(match (record.schedule.as_str(), comfyui) {
        // One step of A1111's begins at the lowest level.
        ("align_your_steps", _) if record.n == 1 => return None,
        ("align_your_steps", _) if sdxl => Schedule::AlignYourStepsSdxl,
        ("AlignYourSteps" | "SDTurbo" | "Automatic", _) | ("kl_optimal", false) => return None,
        ("ddim", false) => Schedule::DdimUniform,
        (name, true) => Schedule::from_comfyui(name)?,
        (name, false) => name.parse().unwrap(),
    })
}

#[test]
fn levels_equal_those_of_the_tools() {
    let config = SchedulerConfig::default();
    let process = NoiseProcess::VariancePreserving(NoiseTable::new(&config).unwrap());
    let mut seen = BTreeMap::<String, (usize, f64)>::new();
    for record in recorded().levels {
        let what = format!("{} {} {}", record.tool, record.schedule, record.n);
        let Some(schedule) = schedule(&record) else { continue };
        if schedule == Schedule::DdimUniform && record.sigmas.len() != record.n + 1 {
            continue; // Theirs takes a step more.
        }
        let request = SamplingRequest::new(Sampler::UniPc, schedule, record.n);
        let grid = Sampling::new(&request, &config, &process).unwrap().grid;
        let ours: Vec<f64> = grid.levels.iter().map(|l| l.sigma).chain([grid.end()]).collect();
        assert_eq!(ours.len(), record.sigmas.len(), "{what}: {ours:?}");
        let far = |(a, b): (&f64, &f64)| (a - b).abs() / b.abs().max(1e-9);
        let far = ours.iter().zip(&record.sigmas).map(far).fold(0.0, f64::max);
        // Their tables have f64 factors, ours the f32 ones of diffusers.
        assert!(far < 3e-5, "{what}: {far:e}\n{ours:?}\n{:?}", record.sigmas);
        let entry = seen.entry(schedule.to_string()).or_default();
        *entry = (entry.0 + 1, entry.1.max(far));
    }
    println!("{seen:?}");
    assert!(seen.len() >= 11, "{seen:?}");
}

/// `docs/samplers-measured.md`; `UPDATE_DOCS=1` writes it anew.
fn measured(worst: &BTreeMap<String, (usize, f64)>) {
    let mut text = "# How far samplers are from their references\n\n\
        Runs of k-diffusion 0.1.1, ComfyUI 0.3.64 and A1111 1.10.1 on a toy denoiser with listed noise, every \
        evaluation and the end (`tests/parity_recorded.rs`; UniPC was recorded in f32); whole pictures of diffusers \
        0.42.1 on tiny models of SD 1.5, SD 2 and SDXL (`tests/parity_newer_samplers.rs`, `tests/parity_pictures.rs`).\n\n\
        | `--sampler` | runs | largest error | pictures of diffusers |\n|---|---|---|---|\n"
        .to_owned();
    let first = [Sampler::DpmPp2m, Sampler::Euler, Sampler::Ddim];
    for sampler in Sampler::ALL {
        let (runs, gap) =
            worst.get(sampler.name()).map_or(("–".into(), "–".into()), |(n, gap)| {
                (n.to_string(), format!("below 1e{}", gap.log10().ceil()))
            });
        let golden = golden(&format!("samplers/{sampler}.json")).exists();
        let pictures = if golden || first.contains(&sampler) { "within 2/255" } else { "–" };
        text += &format!("| `{sampler}` | {runs} | {gap} | {pictures} |\n");
    }
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/samplers-measured.md");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(path, &text).unwrap();
    }
    let found = std::fs::read_to_string(path).unwrap_or_default();
    assert!(found == text, "{path}: run again with UPDATE_DOCS=1");
}
