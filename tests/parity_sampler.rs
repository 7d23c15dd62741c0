//! Noise schedules against the diffusers schedulers: the same timesteps, the same σ, the same
//! initial scale; and whole runs with each setting that diffusers' schedulers have. The goldens are made by
//! `goldens/make_schedules.py` and `goldens/make_samplers.py`.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod support;

use candle_core::{Device, Tensor};
use colora::Error;
use colora::sampling::{
    Level, NoNoise, NoiseModel, NoiseProcess, NoiseTable, Predictor, Sampler, Sampling,
    SamplingRequest, Schedule, SchedulerConfig,
};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Deserialize)]
struct Goldens {
    base: Map<String, Value>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    scheduler: String,
    options: Map<String, Value>,
    steps: usize,
    timesteps: Vec<f64>,
    #[serde(default)]
    sigmas: Vec<f64>,
    #[serde(default)]
    alphas_cumprod: Vec<f64>,
    #[serde(default)]
    previous_alphas_cumprod: Vec<f64>,
    init_noise_sigma: f64,
}

fn goldens() -> Goldens {
    let text = std::fs::read_to_string(support::golden("schedules.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn sampler(scheduler: &str) -> Sampler {
    match scheduler {
        "EulerDiscreteScheduler" => Sampler::Euler,
        "DDIMScheduler" => Sampler::Ddim,
        "DPMSolverMultistepScheduler" => Sampler::DpmPp2m,
        other => panic!("no sampler for {other}"),
    }
}

fn schedule(config: &SchedulerConfig) -> Schedule {
    match (config.use_karras_sigmas, config.use_exponential_sigmas) {
        (Some(true), _) => Schedule::Karras,
        (_, Some(true)) => Schedule::Exponential,
        _ => Schedule::Discrete,
    }
}

fn plan(sampler: Sampler, config: &SchedulerConfig, steps: usize) -> colora::Result<Sampling> {
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

#[test]
fn schedules_equal_diffusers() {
    let Goldens { base, cases } = goldens();
    assert!(cases.len() >= 100, "only {} cases", cases.len());
    for case in &cases {
        let mut config = base.clone();
        config.extend(case.options.clone());
        let config: SchedulerConfig = serde_json::from_value(Value::Object(config)).unwrap();
        let sampler = sampler(&case.scheduler);
        let what = format!("{} {:?} {} steps", case.scheduler, case.options, case.steps);
        let grid =
            plan(sampler, &config, case.steps).unwrap_or_else(|e| panic!("{what}: {e}")).grid;
        let each = |number: fn(&Level) -> f64| grid.levels.iter().map(number).collect::<Vec<_>>();
        let sigmas = each(|level| level.sigma);
        // Karras timesteps come from an interpolation in logarithms of f32 numbers.
        close(&format!("{what}: timesteps"), &each(|l| l.timestep), &case.timesteps, 2e-4);
        if sampler == Sampler::Ddim {
            let sigma = |alphas: &[f64]| -> Vec<f64> {
                alphas.iter().map(|a| ((1.0 - a) / a).sqrt()).collect()
            };
            close(&format!("{what}: sigmas"), &sigmas, &sigma(&case.alphas_cumprod), 2e-4);
            let to = sigma(&case.previous_alphas_cumprod);
            close(&format!("{what}: targets"), &each(|l| l.target), &to, 2e-4);
        } else {
            let all = [sigmas.clone(), vec![grid.end()]].concat();
            close(&format!("{what}: sigmas"), &all, &case.sigmas, 2e-5);
        }
        if sampler == Sampler::Euler {
            close(&format!("{what}: scale"), &[grid.start_scale], &[case.init_noise_sigma], 1e-5);
        } else {
            // Unit noise in variance-preserving scale.
            let scale = sigmas[0].hypot(1.0) * case.init_noise_sigma;
            close(&format!("{what}: scale"), &[grid.start_scale], &[scale], 1e-5);
        }
    }
}

#[derive(Deserialize)]
struct Runs {
    /// Every key of each scheduler, with its default.
    keys: BTreeMap<String, BTreeMap<String, Value>>,
    shape: (usize, usize, usize, usize),
    noise: Vec<f32>,
    pattern: Vec<f32>,
    cases: Vec<Run>,
}

#[derive(Deserialize)]
struct Run {
    scheduler: String,
    config: Value,
    steps: usize,
    latents: Vec<f32>,
}

fn runs() -> Runs {
    let text = std::fs::read_to_string(support::golden("samplers.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// The network of the goldens.
struct Formula(Tensor);

impl NoiseModel for Formula {
    fn predict(&self, x: &Tensor, timestep: f64) -> colora::Result<Tensor> {
        Ok((((x * 0.6)? - (&self.0 * 0.5)?)? + 0.2 * timestep / 1000.0)?)
    }
}

#[test]
fn runs_equal_diffusers() {
    let Runs { shape, noise, pattern, cases, .. } = runs();
    let tensor = |values: &[f32]| Tensor::from_slice(values, shape, &Device::Cpu).unwrap();
    for case in &cases {
        let what = format!("{} {}", case.scheduler, case.config);
        let config: SchedulerConfig = serde_json::from_value(case.config.clone()).unwrap();
        config.validate().unwrap_or_else(|e| panic!("{what}: {e}"));
        let sampling = plan(sampler(&case.scheduler), &config, case.steps)
            .unwrap_or_else(|e| panic!("{what}: {e}"));
        let model = Formula(tensor(&pattern));
        let model = Predictor::new(model, config.prediction_type, &sampling.grid);
        let start = sampling.grid.start(&tensor(&noise)).unwrap();
        let end = sampling.run(&model, &start, &mut NoNoise).unwrap();
        // Where a run does not end at zero, diffusers' Euler leaves its scale as it is: 4e-4 more.
        support::assert_close(&what, &end, &tensor(&case.latents), 2e-4);
    }
    assert!(cases.len() >= 50, "only {} runs", cases.len());
}

/// What colora does with a key.
#[derive(Clone, Copy)]
enum Deed {
    /// These samplers follow it, others do not use it.
    Followed(&'static [Sampler]),
    /// Refused when a model is opened.
    Refused,
    /// Refused by DPM++ alone, which alone has it.
    RefusedByDpm,
    /// Chooses the schedule of requests that leave it open.
    Schedule,
    /// No pipeline of Stable Diffusion uses it.
    Idle,
}

const ALL: &[Sampler] = &[Sampler::Ddim, Sampler::Euler, Sampler::DpmPp2m];
const DDIM: &[Sampler] = &[Sampler::Ddim];
const DPM: &[Sampler] = &[Sampler::DpmPp2m];
const NOT_EULER: &[Sampler] = &[Sampler::Ddim, Sampler::DpmPp2m];
const NOT_DDIM: &[Sampler] = &[Sampler::Euler, Sampler::DpmPp2m];

/// Every key of the three schedulers with a value that shows what is done with it, and the keys it needs beside.
fn deeds() -> Vec<(&'static str, Value, Value, Deed)> {
    use Deed::{Followed, Idle, Refused, RefusedByDpm, Schedule};
    let (plain, threshold) = (json!({}), json!({"thresholding": true}));
    let (leading, karras) =
        (json!({"timestep_spacing": "leading"}), json!({"use_karras_sigmas": true}));
    vec![
        ("num_train_timesteps", json!(500), plain.clone(), Followed(ALL)),
        ("beta_start", json!(0.001), plain.clone(), Followed(ALL)),
        ("beta_end", json!(0.01), plain.clone(), Followed(ALL)),
        ("beta_schedule", json!("linear"), plain.clone(), Followed(ALL)),
        ("trained_betas", json!(vec![0.001; 1000]), plain.clone(), Followed(ALL)),
        ("trained_betas", json!([0.001, 0.002]), plain.clone(), Refused),
        ("prediction_type", json!("v_prediction"), plain.clone(), Followed(ALL)),
        ("prediction_type", json!("sample"), plain.clone(), Followed(ALL)),
        ("timestep_spacing", json!("trailing"), plain.clone(), Followed(ALL)),
        ("steps_offset", json!(3), leading, Followed(ALL)),
        ("rescale_betas_zero_snr", json!(true), plain.clone(), Followed(ALL)),
        ("set_alpha_to_one", json!(true), plain.clone(), Followed(DDIM)),
        ("clip_sample", json!(true), plain.clone(), Followed(DDIM)),
        ("clip_sample_range", json!(2.0), json!({"clip_sample": true}), Followed(DDIM)),
        ("clip_sample_range", json!(-1.0), plain.clone(), Refused),
        ("thresholding", json!(true), plain.clone(), Followed(NOT_EULER)),
        ("dynamic_thresholding_ratio", json!(0.9), threshold.clone(), Followed(NOT_EULER)),
        ("dynamic_thresholding_ratio", json!(1.5), plain.clone(), Refused),
        ("sample_max_value", json!(2.0), threshold, Followed(NOT_EULER)),
        ("sample_max_value", json!(0.0), plain.clone(), Refused),
        ("final_sigmas_type", json!("sigma_min"), plain.clone(), Followed(NOT_DDIM)),
        ("final_sigmas_type", json!("sigma_max"), plain.clone(), Refused),
        // diffusers' DPM++ follows these two where another class left them; its DDIM has no such schedules.
        ("sigma_min", json!(0.1), karras.clone(), Followed(ALL)),
        ("sigma_min", json!(0.0), plain.clone(), Refused),
        ("sigma_max", json!(10.0), karras, Followed(ALL)),
        ("sigma_max", json!(0.05), json!({"sigma_min": 0.1}), Refused),
        ("use_karras_sigmas", json!(true), plain.clone(), Schedule),
        ("use_exponential_sigmas", json!(true), plain.clone(), Schedule),
        ("use_karras_sigmas", json!(true), json!({"use_exponential_sigmas": true}), Refused),
        ("use_beta_sigmas", json!(true), plain.clone(), Refused),
        ("use_lu_lambdas", json!(true), plain.clone(), Refused),
        ("use_flow_sigmas", json!(true), plain.clone(), Refused),
        ("interpolation_type", json!("log_linear"), plain.clone(), Refused),
        ("timestep_type", json!("continuous"), plain.clone(), Refused),
        ("variance_type", json!("learned_range"), plain.clone(), Refused),
        ("algorithm_type", json!("sde-dpmsolver++"), plain.clone(), RefusedByDpm),
        ("solver_type", json!("heun"), plain.clone(), Followed(DPM)),
        ("solver_type", json!("adams"), plain.clone(), RefusedByDpm),
        ("solver_order", json!(1), plain.clone(), Followed(DPM)),
        ("solver_order", json!(3), plain.clone(), RefusedByDpm),
        ("lower_order_final", json!(false), plain.clone(), Followed(DPM)),
        ("euler_at_final", json!(true), json!({"lower_order_final": false}), Followed(DPM)),
        ("lambda_min_clipped", json!(-2.0), plain.clone(), Followed(DPM)),
        // They change the noise of flow matching alone.
        ("flow_shift", json!(3.0), plain.clone(), Idle),
        ("use_dynamic_shifting", json!(true), plain.clone(), Idle),
        ("time_shift_type", json!("linear"), plain, Idle),
    ]
}

/// A base config with these keys.
fn config_of(keys: &[&Value]) -> SchedulerConfig {
    let mut config = json!({
        "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1,
        "clip_sample": false, "set_alpha_to_one": false,
    });
    for (key, value) in keys.iter().flat_map(|keys| keys.as_object().unwrap()) {
        config[key] = value.clone();
    }
    serde_json::from_value(config).unwrap()
}

/// What a config asks of a sampler.
fn asked(sampler: Sampler, config: &SchedulerConfig) -> colora::Result<impl PartialEq + use<>> {
    let Sampling { integrator, grid } = plan(sampler, config, 8)?;
    // What an integrator shows are the settings that it was given.
    Ok((grid, format!("{integrator:?}"), config.prediction_type))
}

/// diffusers' pipelines follow keys of `scheduler_config.json` that were ignored without a word.
#[test]
fn every_key_of_diffusers_is_followed_or_refused() {
    let deeds = deeds();
    let listed: BTreeSet<&str> = deeds.iter().map(|(key, ..)| *key).collect();
    let Runs { keys, .. } = runs();
    let theirs: BTreeSet<&str> =
        keys.values().flat_map(|keys| keys.keys().map(String::as_str)).collect();
    assert_eq!(listed, theirs);
    for (key, value, beside, deed) in &deeds {
        let (without, with) = (config_of(&[beside]), config_of(&[beside, &json!({ *key: value })]));
        let refused = |result: colora::Result<()>| match result {
            Err(Error::Unsupported { what, .. }) => assert!(what.contains(key), "{key}: {what}"),
            other => panic!("{key} = {value}: {other:?}"),
        };
        if let Deed::Refused = deed {
            refused(with.validate());
            continue;
        }
        with.validate().unwrap_or_else(|e| panic!("{key} = {value}: {e}"));
        for sampler in Sampler::ALL {
            let what = format!("{key} = {value}, {sampler}");
            match deed {
                Deed::RefusedByDpm if sampler == Sampler::DpmPp2m => {
                    refused(asked(sampler, &with).map(drop));
                }
                _ => {
                    let follows = match deed {
                        Deed::Followed(samplers) => samplers.contains(&sampler),
                        Deed::Schedule => true,
                        _ => false,
                    };
                    let same = asked(sampler, &without).unwrap() == asked(sampler, &with).unwrap();
                    assert_eq!(!same, follows, "{what}");
                }
            }
        }
    }
}

/// What a file leaves out is as diffusers has it then, not as SD 1.x has it.
#[test]
fn absent_keys_are_those_of_diffusers() {
    let Runs { keys, .. } = runs();
    for (scheduler, defaults) in keys {
        let sampler = sampler(&scheduler);
        let empty: SchedulerConfig = serde_json::from_value(json!({})).unwrap();
        let full: SchedulerConfig = serde_json::from_value(json!(defaults)).unwrap();
        full.validate().unwrap();
        assert!(asked(sampler, &empty).unwrap() == asked(sampler, &full).unwrap(), "{scheduler}");
    }
}
