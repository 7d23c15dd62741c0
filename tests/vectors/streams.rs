//! Runs in f32 with the noise that A1111 and ComfyUI draw for a seed.

use super::shared::{Records, Toy, gap, list, number, numbers, records, seeds, text, values};
use candle_core::{DType, Device, Tensor};
use colora::rng::{Noise, Rng, TorchCpu};
use colora::sampling::{
    Convention, Grid, ImageSeeds, NoiseProcess, NoiseRules, NoiseSource, NoiseTable, PathRules,
    Sampler, SamplerOptions, Sampling, SchedulerConfig, SeededNoise, StepStream, Way,
};
use serde_json::Value;

/// ComfyUI's noise of a batch: one call for all images.
struct OneCall {
    stream: TorchCpu,
    path: SeededNoise,
    brownian: bool,
}

impl OneCall {
    /// All images as the channels of one.
    fn joined(like: &Tensor) -> Tensor {
        like.flatten_all().unwrap().reshape((1, (), 2, 2)).unwrap()
    }
}

impl NoiseSource for OneCall {
    fn between(&mut self, sigma: f64, next: f64, like: &Tensor) -> colora::Result<Tensor> {
        if self.brownian {
            let noise = self.path.between(sigma, next, &Self::joined(like))?;
            return Ok(noise.reshape(like.shape())?);
        }
        let values = self.stream.normal(like.elem_count());
        Ok(Tensor::from_vec(values, like.shape(), like.device())?.to_dtype(like.dtype())?)
    }

    fn partway(&mut self, way: Way, share: f64, like: &Tensor) -> colora::Result<Tensor> {
        if !self.brownian {
            return self.between(way.sigma, way.next, like);
        }
        let noise = self.path.partway(way, share, &Self::joined(like))?;
        Ok(noise.reshape(like.shape())?)
    }
}

fn sampler(record: &Value) -> Option<Sampler> {
    match text(record, "sampler") {
        // Recorded over a list of restarts that is not the program's own.
        "restart" => None,
        name => Some(name.parse().unwrap()),
    }
}

/// The noise of a record, and its start.
fn source(record: &Value, grid: &Grid, brownian: bool) -> (Box<dyn NoiseSource>, Tensor) {
    let shape: Vec<usize> = numbers(&record["shape"]).into_iter().map(|n| n as usize).collect();
    let (low, high) = grid.span();
    if text(record, "tool") == "comfyui" {
        let seed = number(record, "seed") as u64;
        let own = number(record, "sampler_seed") as u64;
        let all = TorchCpu::new(seed).normal(shape.iter().product());
        let start = Tensor::from_vec(all, shape, &Device::Cpu).unwrap();
        let rules = PathRules { rng: Rng::Cpu, low, high, through_logs: false };
        let path = SeededNoise::torch(&[own]).along_paths(rules, vec![own]);
        return (Box::new(OneCall { stream: TorchCpu::new(own), path, brownian }), start);
    }
    let rng: Rng = text(record, "source").parse().unwrap();
    let delta = number(record, "eta_noise_seed_delta") as i64;
    let steps = if delta == 0 { StepStream::GoesOn } else { StepStream::Fresh { rng, delta } };
    let images: Vec<ImageSeeds> =
        seeds(record).into_iter().map(|seed| ImageSeeds { seed, variation: 0 }).collect();
    let rules = NoiseRules { rng, steps, ..NoiseRules::default() };
    let mut noise = SeededNoise::by_rules(rules, &images);
    let start = noise.start((shape[1], shape[2], shape[3]), &Device::Cpu).unwrap();
    if brownian {
        let rules = PathRules { rng, low, high, through_logs: true };
        noise = noise.along_paths(rules, seeds(record));
    }
    (Box::new(noise), start)
}

#[test]
fn runs_with_true_noise_equal_the_tools() {
    let config = SchedulerConfig::default();
    let process = NoiseProcess::VariancePreserving(NoiseTable::new(&config).unwrap());
    for Records { name, values: all } in records() {
        let (mut most, mut count) = (0.0f64, 0);
        for record in list(&all, "true_streams") {
            let Some(sampler) = sampler(record) else { continue };
            let sigmas = numbers(&all["lists"][text(record, "list")]);
            let comfyui = text(record, "tool") == "comfyui";
            // A1111's LCM wraps the model, which these runs do not have.
            let bare = comfyui || sampler == Sampler::Lcm;
            let convention = if bare { Convention::Comfyui } else { Convention::A1111 };
            let mut grid = Grid::from_sigmas(process.clone(), &sigmas).unwrap();
            grid.convention = convention;
            let (mut noise, start) = source(record, &grid, sampler.spec().brownian);
            let scale = if comfyui { sigmas[0].hypot(1.0) } else { sigmas[0] };
            let x = (start.to_dtype(DType::F64).unwrap() * scale).unwrap();
            let integrator = sampler.begin(&SamplerOptions::default(), &config).unwrap();
            let sampling = Sampling { integrator, grid };
            let end = sampling.run(&Toy::default(), &x, &mut *noise).unwrap();
            let far = gap(&values(&end), &numbers(&record["final"]));
            assert!(far <= 2e-5, "{} {}: {far:e}", text(record, "tool"), sampler);
            most = most.max(far);
            count += 1;
        }
        println!("{name}: {count} runs within {most:.1e}");
        assert!(count >= 50, "{count}");
    }
}
