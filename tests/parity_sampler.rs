//! Noise schedules against the diffusers schedulers: the same timesteps, the same σ, the same
//! initial scale. The goldens are made by `goldens/make_schedules.py`.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod support;

use colora::sampling::{NoiseTable, Sampler, Schedule, SchedulerConfig, Sigmas};
use serde::Deserialize;
use serde_json::{Map, Value};

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
        let table = NoiseTable::new(&config).unwrap();
        let sampler = match case.scheduler.as_str() {
            "EulerDiscreteScheduler" => Sampler::Euler,
            "DDIMScheduler" => Sampler::Ddim,
            "DPMSolverMultistepScheduler" => Sampler::DpmPp2m,
            other => panic!("no sampler for {other}"),
        };
        let schedule = match (config.use_karras_sigmas, config.use_exponential_sigmas) {
            (Some(true), _) => Schedule::Karras,
            (_, Some(true)) => Schedule::Exponential,
            _ => Schedule::Discrete,
        };
        let what = format!("{} {:?} {} steps", case.scheduler, case.options, case.steps);
        let plan = Sigmas::plan(sampler, schedule, case.steps, &config, &table)
            .unwrap_or_else(|e| panic!("{what}: {e}"));
        // Karras timesteps come from an interpolation in logarithms of f32 numbers.
        close(&format!("{what}: timesteps"), &plan.timesteps, &case.timesteps, 2e-4);
        if sampler == Sampler::Ddim {
            let sigma = |alphas: &[f64]| -> Vec<f64> {
                alphas.iter().map(|a| ((1.0 - a) / a).sqrt()).collect()
            };
            let from = &plan.sigmas[..case.steps];
            close(&format!("{what}: sigmas"), from, &sigma(&case.alphas_cumprod), 2e-4);
            let to = sigma(&case.previous_alphas_cumprod);
            close(&format!("{what}: targets"), &plan.targets, &to, 2e-4);
        } else {
            close(&format!("{what}: sigmas"), &plan.sigmas, &case.sigmas, 2e-5);
        }
        if sampler == Sampler::Euler {
            close(&format!("{what}: scale"), &[plan.init_scale], &[case.init_noise_sigma], 1e-5);
        } else {
            // Unit noise in variance-preserving scale.
            let scale = plan.sigmas[0].hypot(1.0) * case.init_noise_sigma;
            close(&format!("{what}: scale"), &[plan.init_scale], &[scale], 1e-5);
        }
    }
}
