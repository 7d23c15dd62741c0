//! Runs of diffusers' schedulers with a generator's own noise.

use super::shared::{Records, Toy, gap, list, number, numbers, records, text, values};
use candle_core::{DType, Device};
use colora::rng::Rng;
use colora::sampling::{
    NoiseProcess, NoiseTable, PathRules, Sampler, SamplerOptions, Sampling, SamplingRequest,
    Schedule, SchedulerConfig, SeededNoise,
};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// The sampler of a record; none for what is not built.
fn sampler(record: &Value) -> Option<Sampler> {
    let options = &record["options"];
    let third = options["solver_order"] == 3;
    Some(match (text(record, "scheduler"), text(options, "algorithm_type")) {
        ("DPMSolverMultistepScheduler", "") if third => Sampler::DpmPp3m,
        ("DPMSolverMultistepScheduler", "") => Sampler::DpmPp2m,
        // Their relatives here follow k-diffusion: another list, and a Brownian path.
        // The second is for networks of audio.
        ("DPMSolverMultistepScheduler" | "IPNDMScheduler", _) => return None,
        // With Runge and Kutta's steps first.
        ("PNDMScheduler", _) if options["skip_prk_steps"] == false => return None,
        ("DDPMScheduler", _) if options["variance_type"] == "fixed_large" => return None,
        ("UniPCMultistepScheduler", _) if options["solver_type"] == "bh1" => Sampler::UniPc,
        ("UniPCMultistepScheduler", _) => Sampler::UniPcBh2,
        (name, _) => name.parse().unwrap(),
    })
}

/// The record's config, as a model's file has it.
fn config(record: &Value) -> SchedulerConfig {
    let mut config = json!({
        "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear",
        "num_train_timesteps": 1000, "steps_offset": 1, "timestep_spacing": text(record, "spacing"),
    });
    let options = record["options"].as_object().unwrap();
    let ours = [
        "eta",
        "noise_sampler_seed",
        "skip_prk_steps",
        "variance_type",
        "use_beta_sigmas",
        "use_lu_lambdas",
    ];
    let kept = options.iter().filter(|(key, _)| !ours.contains(&key.as_str()));
    let kept: Vec<_> = kept.map(|(key, value)| (key.clone(), value.clone())).collect();
    config.as_object_mut().unwrap().extend(kept);
    // These never end at zero in diffusers.
    if ["DEISMultistepScheduler", "SASolverScheduler"].contains(&text(record, "scheduler")) {
        config["final_sigmas_type"] = "sigma_min".into();
    }
    serde_json::from_value(config).unwrap()
}

fn schedule(options: &Value) -> Schedule {
    let on = |key: &str| options[key] == true;
    match () {
        () if on("use_karras_sigmas") => Schedule::Karras,
        () if on("use_exponential_sigmas") || on("use_lu_lambdas") => Schedule::Exponential,
        () if on("use_beta_sigmas") => Schedule::Beta,
        () => Schedule::Discrete,
    }
}

fn run(record: &Value, sampler: Sampler) -> Vec<f64> {
    let config = config(record);
    let process = NoiseProcess::VariancePreserving(NoiseTable::new(&config).unwrap());
    let steps = number(record, "steps") as usize;
    let mut request = SamplingRequest::new(sampler, schedule(&record["options"]), steps);
    if let Some(eta) = record["options"]["eta"].as_f64() {
        request.options = SamplerOptions::default().with("eta", eta);
    }
    let sampling = Sampling::new(&request, &config, &process).unwrap();
    let mut noise = SeededNoise::torch(&[42]);
    let start = noise.start((4, 2, 2), &Device::Cpu).unwrap().to_dtype(DType::F64).unwrap();
    if sampler.spec().brownian {
        let (low, high) = sampling.grid.span();
        let rules = PathRules { rng: Rng::Cpu, low, high, through_logs: true };
        noise = noise.along_paths(rules, vec![42]);
    }
    let x = sampling.grid.start(&start).unwrap();
    values(&sampling.run(&Toy::default(), &x, &mut noise).unwrap())
}

#[test]
fn runs_equal_diffusers() {
    for Records { name, values } in records() {
        let (mut most, mut wrong) = (BTreeMap::<String, (usize, f64)>::new(), Vec::new());
        for record in list(&values["diffusers"], "runs") {
            let theirs = numbers(&record["final"]);
            let Some(sampler) = sampler(record) else { continue };
            if theirs.iter().any(|value| !value.is_finite()) || theirs.is_empty() {
                continue;
            }
            let ours = run(record, sampler);
            let far = gap(&ours, &theirs);
            let zero_snr = record["options"]["rescale_betas_zero_snr"] == true;
            let tolerance = match text(record, "scheduler") {
                _ if zero_snr => 2e-3,
                // diffusers leaves the end as it is; colora divides it by √(1 + σ²), 4e-4 more than 1.
                _ if record["options"]["final_sigmas_type"] == "sigma_min" => 1e-3,
                "UniPCMultistepScheduler" | "SASolverScheduler" => 2e-3,
                // Its Brownian path is asked at points whose last bits count.
                "DPMSolverSDEScheduler" => 1e-2,
                _ => 1e-4,
            };
            let what = format!("{} {}", text(record, "scheduler"), record["options"]);
            if far.is_nan() || far > tolerance {
                let (spacing, steps) = (text(record, "spacing"), number(record, "steps"));
                wrong.push(format!("{what} {spacing} {steps}: {far:e}"));
            }
            let entry = most.entry(what).or_default();
            *entry = (entry.0 + 1, entry.1.max(far));
        }
        for (what, (runs, far)) in &most {
            println!("{name}: {what}: {runs} runs within {far:.1e}");
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
        assert!(most.len() >= 35, "{}", most.len());
    }
}
