//! Few steps of every sampler and schedule by every program's rules, and samplers that are others in disguise.

use super::shared::{Toy, gap, values};
use candle_core::{DType, Device, Tensor};
use colora::rng::Rng;
use colora::sampling::{
    Convention, Grid, ListedNoise, NoiseProcess, NoiseTable, PathRules, PredictionKind, Sampler,
    SamplerOptions, Sampling, SamplingRequest, Schedule, SchedulerConfig, SeededNoise,
};

fn process(config: &SchedulerConfig) -> NoiseProcess {
    NoiseProcess::VariancePreserving(NoiseTable::new(config).unwrap())
}

/// What a run with noise of seed 42 ends at; none where it is refused.
fn end(request: &SamplingRequest, config: &SchedulerConfig) -> Option<Vec<f64>> {
    let grid = request.grid(config, &process(config)).ok()?;
    let integrator = request.sampler.begin(&request.options, config).unwrap();
    let mut noise = SeededNoise::torch(&[42]);
    let start = noise.start((4, 2, 2), &Device::Cpu).unwrap().to_dtype(DType::F64).unwrap();
    if request.sampler.spec().brownian {
        let (low, high) = grid.span();
        let rules = PathRules { rng: Rng::Cpu, low, high, through_logs: true };
        noise = noise.along_paths(rules, vec![42]);
    }
    let x = grid.start(&start).unwrap();
    let sampling = Sampling { integrator, grid };
    Some(values(&sampling.run(&Toy::default(), &x, &mut noise).unwrap()))
}

/// Also from σ = 4500, where v-prediction with zero terminal SNR begins.
#[test]
fn few_steps_of_everything_are_finite() {
    let plain = SchedulerConfig::default();
    let zero_snr = SchedulerConfig {
        rescale_betas_zero_snr: true,
        prediction_type: PredictionKind::V,
        ..SchedulerConfig::default()
    };
    let mut refused = Vec::new();
    for sampler in Sampler::ALL {
        for schedule in Schedule::ALL {
            for convention in [Convention::Diffusers, Convention::A1111, Convention::Comfyui] {
                for (steps, config) in [(1, &plain), (2, &plain), (3, &plain), (3, &zero_snr)] {
                    let mut request = SamplingRequest::new(sampler, schedule, steps);
                    request.convention = convention;
                    let what = format!("{sampler}, {schedule}, {convention:?}, {steps}");
                    match end(&request, config) {
                        None => refused.push(what),
                        Some(end) => {
                            // Polynomials through levels of 4500 and 0 reach far.
                            let most = if config.rescale_betas_zero_snr { 1e6 } else { 200.0 };
                            let fine = end.iter().all(|v| v.is_finite() && v.abs() < most);
                            assert!(fine, "{what}: {end:?}");
                        }
                    }
                }
            }
        }
    }
    // A1111's DDIM makes a step less than asked.
    let none = |what: &String| what.contains("A1111, 1");
    let others: Vec<_> = refused.iter().filter(|what| !none(what)).collect();
    assert!(others.is_empty(), "{} refused: {others:?}", others.len());
}

/// A run over one list of levels with listed noise.
fn listed(sampler: Sampler, options: &str) -> Vec<f64> {
    let config = SchedulerConfig::default();
    let grid =
        Grid::from_sigmas(process(&config), &[14.6, 4.8, 1.27, 0.5, 0.25, 0.03, 0.0]).unwrap();
    let options: SamplerOptions =
        if options.is_empty() { SamplerOptions::default() } else { options.parse().unwrap() };
    let integrator = sampler.begin(&options, &config).unwrap();
    let tensor = |seed: f64| {
        let values: Vec<f64> = (0..8).map(|i| (seed + f64::from(i) * 1.7).sin() * 1.3).collect();
        Tensor::new(values, &Device::Cpu).unwrap()
    };
    let mut noise = ListedNoise::new((0..20).map(|i| tensor(f64::from(i))));
    let x = (tensor(0.3) * 14.6).unwrap();
    values(&Sampling { integrator, grid }.run(&Toy::default(), &x, &mut noise).unwrap())
}

#[test]
fn samplers_that_are_others_in_disguise() {
    for (one, its, other, others) in [
        (Sampler::Ddim, "eta=0.5", Sampler::EulerA, "eta=0.5"),
        (Sampler::Ddim, "", Sampler::Euler, ""),
        (Sampler::Ddpm, "", Sampler::EulerA, ""),
        (Sampler::DpmPp2mSde, "eta=0", Sampler::DpmPp2m, ""),
        (Sampler::DpmPpSde, "eta=0", Sampler::DpmPp2sA, "eta=0"),
        (Sampler::ResMultistepA, "", Sampler::DpmPp2mSdeHeun, ""),
        // Without guidance the unguided estimate is the guided one.
        (Sampler::EulerCfgPp, "", Sampler::Euler, ""),
        (Sampler::EulerACfgPp, "", Sampler::EulerA, ""),
        (Sampler::DpmPp2mCfgPp, "", Sampler::DpmPp2m, ""),
        (Sampler::ResMultistepCfgPp, "", Sampler::ResMultistep, ""),
        (Sampler::GradientEstimationCfgPp, "", Sampler::GradientEstimation, ""),
    ] {
        let far = gap(&listed(one, its), &listed(other, others));
        assert!(far < 1e-9, "{one} {its} and {other} {others}: {far:e}");
    }
}
