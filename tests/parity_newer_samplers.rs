//! The samplers that joined after the first three, against diffusers and k-diffusion: noise levels, runs with the
//! generator's own noise, steps with listed noise, and whole pictures. A sampler's goldens are
//! `goldens/samplers/NAME.json` and `.safetensors`, made by `goldens/make_newer_samplers.py`.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod support;

use candle_core::{DType, Device, Tensor};
use colora::family::ModelParts;
use colora::sampling::{
    Denoiser, Grid, Integrator, Level, ListedNoise, NoiseModel, NoiseProcess, NoiseSource,
    NoiseTable, NoiseUse, Predictor, Sampler, SamplerOptions, Sampling, SamplingRequest, Schedule,
    SchedulerConfig, SeededNoise, Start, Step,
};
use colora::weights::Placement;
use colora::{Error, Pipeline, Request};
use serde::Deserialize;
use serde_json::Value;
use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use support::{assert_close, golden, tensors};

/// Samplers whose goldens are `schedules.json`, `samplers.json` and `pictures.json`.
const FIRST: [Sampler; 3] = [Sampler::DpmPp2m, Sampler::Euler, Sampler::Ddim];

#[derive(Deserialize)]
struct Goldens {
    scheduler: String,
    shape: (usize, usize, usize, usize),
    pattern: Vec<f32>,
    grids: Vec<GridCase>,
    runs: Vec<RunCase>,
    pictures: Vec<PictureCase>,
    k_diffusion: Recorded,
}

#[derive(Deserialize)]
struct GridCase {
    config: SchedulerConfig,
    steps: usize,
    refused: Option<String>,
    #[serde(default)]
    timesteps: Vec<f64>,
    #[serde(default)]
    sigmas: Vec<f64>,
    #[serde(default)]
    alphas_cumprod: Vec<f64>,
    #[serde(default)]
    init_noise_sigma: f64,
}

#[derive(Deserialize)]
struct RunCase {
    config: SchedulerConfig,
    steps: usize,
    seeds: Vec<u64>,
    latents: Vec<f32>,
}

#[derive(Deserialize)]
struct PictureCase {
    name: String,
    model: String,
    /// A UNet that takes the place of the model's.
    unet: Option<String>,
    scheduler_config: SchedulerConfig,
    prompt: Value,
    negative_prompt: Value,
    guidance_scale: f64,
    seed: Value,
    width: usize,
    height: usize,
    steps: usize,
}

/// Runs of k-diffusion's functions on a toy denoiser.
#[derive(Deserialize)]
struct Recorded {
    start: Vec<f64>,
    noise_list: Vec<Vec<f64>>,
    trajectories: Vec<Trajectory>,
}

#[derive(Deserialize)]
struct Trajectory {
    sigmas: Vec<f64>,
    #[serde(default)]
    options: SamplerOptions,
    /// σ and x of every evaluation.
    evals: Vec<(f64, Vec<f64>)>,
    /// The interval of every draw; none where the function does not pass it on.
    draws: Vec<Option<(f64, f64)>>,
    #[serde(rename = "final")]
    end: Vec<f64>,
}

/// The samplers that this file is about, with their goldens.
fn newer() -> Vec<(Sampler, Goldens)> {
    // Samplers without a scheduler in diffusers are proven by `parity_recorded`.
    let has = |sampler: &Sampler| golden(&format!("samplers/{sampler}.json")).exists();
    let all = Sampler::ALL.into_iter().filter(|s| !FIRST.contains(s) && has(s));
    let read = |sampler: Sampler| {
        let path = golden(&format!("samplers/{sampler}.json"));
        let text =
            std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let goldens: Goldens = serde_json::from_str(&text).unwrap();
        assert_eq!(sampler.spec().names.diffusers, Some(goldens.scheduler.as_str()));
        (sampler, goldens)
    };
    all.map(read).collect()
}

fn schedule(config: &SchedulerConfig) -> Schedule {
    match (config.use_karras_sigmas, config.use_exponential_sigmas) {
        (Some(true), _) => Schedule::Karras,
        (_, Some(true)) => Schedule::Exponential,
        _ => Schedule::Discrete,
    }
}

fn plan(sampler: Sampler, config: &SchedulerConfig, steps: usize) -> colora::Result<Sampling> {
    config.validate()?;
    let process = NoiseProcess::VariancePreserving(NoiseTable::new(config)?);
    let request = SamplingRequest::new(sampler, schedule(config), steps);
    Sampling::new(&request, config, &process)
}

fn close(what: &str, ours: &[f64], golden: &[f64], tolerance: f64) {
    assert_eq!(ours.len(), golden.len(), "{what}: length");
    for (i, (a, b)) in ours.iter().zip(golden).enumerate() {
        assert!((a - b).abs() <= tolerance * b.abs().max(1.0), "{what}[{i}]: {a}, golden {b}");
    }
}

/// Schedulers that evaluate twice a step list inner levels twice.
fn once(list: &[f64], evaluations: u8) -> Vec<f64> {
    let repeated =
        |i: usize| evaluations == 2 && i > 0 && i + 1 < list.len() && i.is_multiple_of(2);
    list.iter().enumerate().filter(|(i, _)| !repeated(*i)).map(|(_, v)| *v).collect()
}

#[test]
fn grids_equal_diffusers() {
    for (sampler, goldens) in newer() {
        for case in &goldens.grids {
            let what =
                format!("{sampler}, {} steps, {:?}", case.steps, case.config.timestep_spacing);
            // With one step and Karras's levels, diffusers' list for SA-Solver ends where it begins: a step that does
            // nothing.
            let karras = case.config.use_karras_sigmas == Some(true);
            if sampler == Sampler::SaSolver && case.steps == 1 && karras {
                continue;
            }
            let planned = plan(sampler, &case.config, case.steps);
            if case.refused.is_some() {
                assert!(matches!(planned, Err(Error::BadRequest { .. })), "{what}");
                continue;
            }
            let grid = planned.unwrap_or_else(|e| panic!("{what}: {e}")).grid;
            let each =
                |number: fn(&Level) -> f64| grid.levels.iter().map(number).collect::<Vec<_>>();
            let sigmas = each(|level| level.sigma);
            // Of those with middles the goldens hold the levels alone.
            let middles = goldens.scheduler.starts_with("KDPM2");
            let evaluations = if middles { 1 } else { sampler.spec().evaluations };
            // The list of timesteps has no end that is evaluated: its last entry is a second evaluation too.
            let mut timesteps = case.timesteps.clone();
            timesteps.push(f64::NAN);
            let mut timesteps = once(&timesteps, evaluations);
            timesteps.pop();
            if middles {
                // KDPM2 gives its network whole timesteps; the levels, compared below, are exact.
                let ours = each(|l| l.timestep);
                let gap =
                    ours.iter().zip(&timesteps).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
                assert!(gap <= 0.5, "{what}: timesteps differ by {gap}");
            } else {
                close(&format!("{what}: timesteps"), &each(|l| l.timestep), &timesteps, 2e-4);
            }
            let scale = if case.alphas_cumprod.is_empty() {
                let all = [sigmas.clone(), vec![grid.end()]].concat();
                close(&format!("{what}: sigmas"), &all, &once(&case.sigmas, evaluations), 2e-5);
                let unit = sampler.spec().grids.diffusers.start == Start::UnitNoise;
                if unit { sigmas[0].hypot(1.0) } else { case.init_noise_sigma }
            } else {
                let sigma = |a: &f64| ((1.0 - a) / a).sqrt();
                let theirs: Vec<f64> = case.alphas_cumprod.iter().map(sigma).collect();
                close(&format!("{what}: sigmas"), &sigmas, &theirs, 2e-4);
                // Unit noise in variance-preserving scale.
                sigmas[0].hypot(1.0) * case.init_noise_sigma
            };
            close(&format!("{what}: scale"), &[grid.start_scale], &[scale], 1e-5);
        }
        assert!(goldens.grids.len() >= 20, "{sampler}: only {} grids", goldens.grids.len());
    }
}

/// The network of the goldens.
struct Formula(Tensor);

impl NoiseModel for Formula {
    fn predict(&self, x: &Tensor, timestep: f64) -> colora::Result<Tensor> {
        let pattern = (&self.0 * 0.5)?.broadcast_as(x.shape())?;
        Ok((((x * 0.6)? - pattern)? + 0.2 * timestep / 1000.0)?)
    }
}

/// Noise goes on where the initial latents end, and each image of a batch has its own.
#[test]
fn runs_equal_diffusers() {
    for (sampler, goldens) in newer() {
        let (_, channels, height, width) = goldens.shape;
        let image = (channels, height, width);
        let tensor = |images: usize, values: &[f32]| {
            Tensor::from_slice(values, (images, channels, height, width), &Device::Cpu).unwrap()
        };
        for case in &goldens.runs {
            let what = format!("{sampler}, {} steps, {:?}", case.steps, case.config);
            let sampling =
                plan(sampler, &case.config, case.steps).unwrap_or_else(|e| panic!("{what}: {e}"));
            let model = Formula(tensor(1, &goldens.pattern));
            let model = Predictor::new(model, case.config.prediction_type, &sampling.grid);
            let mut noise = SeededNoise::torch(&case.seeds);
            let start = noise.start(image, &Device::Cpu).unwrap();
            let start = sampling.grid.start(&start).unwrap();
            let end = sampling.run(&model, &start, &mut noise).unwrap();
            assert_close(&what, &end, &tensor(case.seeds.len(), &case.latents), 2e-4);
        }
        assert!(goldens.runs.len() >= 9, "{sampler}: only {} runs", goldens.runs.len());
    }
}

/// The denoiser of data at ±1 with a spread of 0.25, which notes what it is asked.
#[derive(Default)]
struct Toy(RefCell<Vec<(f64, Vec<f64>)>>);

impl Denoiser for Toy {
    fn denoise(&self, x: &Tensor, sigma: f64) -> colora::Result<Tensor> {
        let values = x.flatten_all()?.to_vec1::<f64>()?;
        self.0.borrow_mut().push((sigma, values));
        let v = 0.0625 + sigma * sigma;
        let pull = ((x / v)?.tanh()? * (sigma * sigma))?;
        Ok((((x * 0.0625)? + pull)? / v)?)
    }
}

/// Every evaluation, every draw and the end.
#[test]
fn steps_equal_k_diffusion() {
    let config = SchedulerConfig::default();
    let process = NoiseProcess::VariancePreserving(NoiseTable::new(&config).unwrap());
    for (sampler, Goldens { k_diffusion: recorded, .. }) in newer() {
        let tensor = |values: &[f64]| Tensor::new(values, &Device::Cpu).unwrap();
        // k-diffusion's functions with churn draw outside of its bounds too; ComfyUI's are in `parity_recorded`.
        let churned = |run: &&Trajectory| run.options.get("s_churn").is_some();
        let built = |run: &&Trajectory| sampler.spec().check(&run.options).is_ok() && !churned(run);
        let runs: Vec<_> = recorded.trajectories.iter().filter(built).collect();
        println!("{sampler}: {} of {} runs", runs.len(), recorded.trajectories.len());
        for (n, run) in runs.into_iter().enumerate() {
            let what = format!("{sampler}, run {n}");
            let grid = Grid::from_sigmas(process.clone(), &run.sigmas).unwrap();
            let integrator = sampler.begin(&run.options, &config).unwrap();
            let x = (tensor(&recorded.start) * run.sigmas[0]).unwrap();
            let mut noise = ListedNoise::new(recorded.noise_list.iter().map(|n| tensor(n)));
            let model = Toy::default();
            let end = Sampling { integrator, grid }.run(&model, &x, &mut noise).unwrap();
            close(&what, &end.to_vec1::<f64>().unwrap(), &run.end, 1e-9);
            let evals = model.0.into_inner();
            assert_eq!(evals.len(), run.evals.len(), "{what}: evaluations");
            for ((sigma, x), (their_sigma, theirs)) in evals.iter().zip(&run.evals) {
                close(&what, &[*sigma], &[*their_sigma], 1e-12);
                close(&what, x, theirs, 1e-9);
            }
            // k-diffusion's functions with churn draw where none is asked for, and do not use it.
            if matches!(sampler.spec().noise, NoiseUse::Never | NoiseUse::Churn | NoiseUse::Eta) {
                assert!(noise.asked.is_empty(), "{what}");
            } else {
                let draws: Vec<_> = run.draws.iter().copied().flatten().collect();
                assert_eq!(noise.asked, draws, "{what}");
            }
        }
    }
}

impl PictureCase {
    /// The pipeline, and the folder that its files are in.
    fn pipeline(&self) -> (Pipeline, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        support::copy_folder(&golden(&self.model), folder.path());
        if let Some(unet) = &self.unet {
            std::fs::remove_dir_all(folder.path().join("unet")).unwrap();
            support::copy_folder(&golden(unet), &folder.path().join("unet"));
        }
        let mut parts = ModelParts::open(folder.path(), Placement::default(), None).unwrap();
        parts.scheduler = self.scheduler_config.clone();
        (Pipeline::options().over(parts).unwrap(), folder)
    }

    fn request(&self, sampler: Sampler, index: usize) -> Request {
        let text = |value: &Value| item(value, index).as_str().unwrap_or_default().to_owned();
        Request {
            prompt: text(&self.prompt),
            negative_prompt: text(&self.negative_prompt),
            width: Some(self.width),
            height: Some(self.height),
            steps: Some(self.steps),
            guidance_scale: Some(self.guidance_scale),
            sampler: Some(sampler),
            schedule: Some(schedule(&self.scheduler_config)),
            seed: item(&self.seed, index).as_u64(),
            ..Request::default()
        }
    }
}

/// An item of a list, or the one value.
fn item(value: &Value, index: usize) -> &Value {
    value.as_array().map_or(value, |list| &list[index])
}

#[test]
fn pictures_equal_diffusers() {
    for (sampler, goldens) in newer() {
        let arrays = tensors(&format!("samplers/{sampler}.safetensors"));
        for case in &goldens.pictures {
            let (pipeline, _folder) = case.pipeline();
            for index in 0..case.seed.as_array().map_or(1, Vec::len) {
                let plan = pipeline.plan(&case.request(sampler, index), 0).unwrap();
                let mut steps = pipeline.steps(&plan, 0).unwrap();
                for step in steps.by_ref() {
                    step.unwrap();
                }
                let pick = |what: &str, rank: usize| {
                    let all = &arrays[&format!("{}.{what}", case.name)];
                    if all.rank() == rank { all.clone() } else { all.get(index).unwrap() }
                };
                let latents = steps.latents().unwrap().squeeze(0).unwrap();
                assert_close(&case.name, &latents, &pick("latents", 3), 1e-3);
                let picture = steps.finish().unwrap().picture;
                let golden = pick("picture", 3).flatten_all().unwrap().to_vec1::<u8>().unwrap();
                let gap = |(a, b): (&u8, &u8)| (i32::from(*a) - i32::from(*b)).abs();
                let worst = picture.bytes().iter().zip(&golden).map(gap).max().unwrap();
                println!("{sampler}, {}: largest difference {worst}/255", case.name);
                assert_eq!(picture.bytes().len(), golden.len(), "{}: size", case.name);
                assert!(worst <= 2, "{sampler}, {}: a pixel differs by {worst}/255", case.name);
            }
        }
        assert!(goldens.pictures.len() >= 4, "{sampler}: only {} pictures", goldens.pictures.len());
    }
}

/// What of a noise stream the batch uses does not depend on its other images.
#[test]
fn a_batch_is_its_images_alone() {
    let config = SchedulerConfig::default();
    // What takes one image at a time is never run on several.
    for sampler in Sampler::ALL.into_iter().filter(|sampler| !sampler.spec().alone) {
        let run = |seeds: &[u64]| {
            let sampling = plan(sampler, &config, 4).unwrap();
            let mut noise = SeededNoise::torch(seeds);
            let start = noise.start((4, 3, 5), &Device::Cpu).unwrap();
            let start = sampling.grid.start(&start).unwrap();
            let pattern = Tensor::ones((1, 4, 3, 5), DType::F32, &Device::Cpu).unwrap();
            let model = Predictor::new(Formula(pattern), config.prediction_type, &sampling.grid);
            sampling.run(&model, &start, &mut noise).unwrap()
        };
        let batch = run(&[3, 8]);
        for (i, seed) in [3, 8].into_iter().enumerate() {
            let values = |x: &Tensor| x.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            let of_batch = batch.narrow(0, i, 1).unwrap();
            assert_eq!(values(&of_batch), values(&run(&[seed])), "{sampler}, seed {seed}");
        }
    }
}

/// Counts its steps and leaves them to a sampler.
#[derive(Debug)]
struct Counted(Box<dyn Integrator>, Arc<AtomicUsize>);

impl Integrator for Counted {
    fn step(
        &mut self,
        model: &dyn Denoiser,
        x: &Tensor,
        grid: &Grid,
        i: usize,
        noise: &mut dyn NoiseSource,
    ) -> colora::Result<Step> {
        self.1.fetch_add(1, Ordering::Relaxed);
        self.0.step(model, x, grid, i, noise)
    }
}

#[test]
fn a_program_brings_its_own_sampler() {
    let pipeline = Pipeline::options().open(golden("sd15")).unwrap();
    let request = Request {
        prompt: "a cat".into(),
        width: Some(64),
        height: Some(64),
        steps: Some(3),
        sampler: Some(Sampler::Heun),
        schedule: Some(Schedule::Discrete),
        ..Request::default()
    };
    let plan = pipeline.plan(&request, 7).unwrap();
    let run = pipeline.prepare(&plan).unwrap();
    let config = ModelParts::open(&golden("sd15"), Placement::default(), None).unwrap().scheduler;
    let own = |sampler: Sampler, steps: usize| {
        let count = Arc::new(AtomicUsize::new(0));
        let Sampling { integrator, grid } = self::plan(sampler, &config, steps).unwrap();
        let integrator = Box::new(Counted(integrator, count.clone()));
        (Sampling { integrator, grid }, count)
    };
    let end = |mut steps: colora::pipeline::Steps| {
        steps.by_ref().for_each(|step| drop(step.unwrap()));
        steps.latents().unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap()
    };
    let (heun, count) = own(Sampler::Heun, 3);
    let expected = end(run.steps([0]).unwrap());
    assert_eq!(end(run.steps_with([0], heun).unwrap()), expected);
    assert_eq!(count.load(Ordering::Relaxed), 3);
    let (euler, _) = own(Sampler::Euler, 3);
    assert_ne!(end(run.steps_with([0], euler).unwrap()), expected);
    let (longer, _) = own(Sampler::Heun, 4);
    let error = run.steps_with([0], longer).unwrap_err();
    assert!(matches!(error, Error::BadRequest { field: "steps", .. }), "{error}");
}
