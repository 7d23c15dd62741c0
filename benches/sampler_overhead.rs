//! What samplers cost without a network: the time of their own arithmetic and noise.
//!
//!     cargo bench --bench sampler_overhead
//!
//! A line for each sampler: microseconds a step at the latents of the starter model (128 pixels) and of SD 1.5 (512),
//! with a network that returns what it holds. `COLORA_BENCH_STEP` (milliseconds of a step of the starter model, as
//! `colora bench` gives them) adds the share of it.
#![allow(missing_docs, clippy::print_stdout, clippy::unwrap_used)]

use candle_core::{Device, Tensor};
use colora::rng::Rng;
use colora::sampling::{
    Denoiser, NoiseProcess, NoiseTable, PathRules, Sampler, Sampling, SamplingRequest, Schedule,
    SchedulerConfig, SeededNoise,
};
use std::time::Instant;

/// A network that costs nothing: the latents themselves, smaller.
struct Free;

impl Denoiser for Free {
    fn denoise(&self, x: &Tensor, sigma: f64) -> colora::Result<Tensor> {
        Ok((x / (1.0 + sigma * sigma))?)
    }
}

/// Steps of a run, and how often it is repeated.
const STEPS: usize = 20;
const RUNS: usize = 5;

/// Microseconds a step: the fastest of the runs.
fn micros(sampler: Sampler, side: usize) -> f64 {
    let config = SchedulerConfig::default();
    let process = NoiseProcess::VariancePreserving(NoiseTable::new(&config).unwrap());
    let request = SamplingRequest::new(sampler, Schedule::Karras, STEPS);
    let run = || {
        let sampling = Sampling::new(&request, &config, &process).unwrap();
        let mut noise = SeededNoise::torch(&[42]);
        let start = noise.start((4, side, side), &Device::Cpu).unwrap();
        if sampler.spec().brownian {
            let (low, high) = sampling.grid.span();
            let rules = PathRules { rng: Rng::Cpu, low, high, through_logs: true };
            noise = noise.along_paths(rules, vec![42]);
        }
        let x = sampling.grid.start(&start).unwrap();
        let begin = Instant::now();
        sampling.run(&Free, &x, &mut noise).unwrap();
        begin.elapsed().as_secs_f64() * 1e6 / STEPS as f64
    };
    (0..RUNS).map(|_| run()).fold(f64::INFINITY, f64::min)
}

fn main() {
    let step = std::env::var("COLORA_BENCH_STEP").ok().and_then(|ms| ms.parse::<f64>().ok());
    println!("| sampler | µs a step, 128 px | µs a step, 512 px | share of the starter's step |");
    println!("|---|---|---|---|");
    for sampler in Sampler::ALL {
        let (small, large) = (micros(sampler, 16), micros(sampler, 64));
        let share = step.map_or("–".into(), |ms| format!("{:.2} %", small / (ms * 1e3) * 100.0));
        println!("| {sampler} | {small:.0} | {large:.0} | {share} |");
    }
}
