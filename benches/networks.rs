//! Parts of a picture's work, on random weights of the true shapes.
//!
//!     cargo bench --bench networks
#![allow(missing_docs, clippy::expect_used)] // criterion's macros

use candle_core::{Device, Tensor};
use colora::nn::{Conv2d, Geometry, GroupNorm, Linear, attention};
use colora::sampling::{Denoiser, NoiseTable, Sampler, Schedule, SchedulerConfig, Sigmas, sample};
use colora::weights::{MemorySource, Placement, Scope, Site};
use criterion::{Criterion, criterion_group, criterion_main};
use std::hint::black_box;

fn random(shape: &[usize]) -> Tensor {
    Tensor::randn(0f32, 1.0, shape, &Device::Cpu).expect("a random tensor")
}

fn source(weights: &[(&str, &[usize])]) -> MemorySource {
    let mut source = MemorySource::new(Placement::default());
    for (name, shape) in weights {
        let site = Site::new(format!("x.{name}"));
        source.insert(site, &random(shape)).expect("a weight in memory");
    }
    source
}

/// The shapes of SD 1.5 at 512x512 with guidance (batch 2).
fn layers(c: &mut Criterion) {
    let mut group = c.benchmark_group("layers");
    group.sample_size(10);
    for (channels, side) in [(320, 64), (640, 32), (1280, 16)] {
        let weights = source(&[("weight", &[channels, channels, 3, 3]), ("bias", &[channels])]);
        let scope = Scope::new(&weights, "x");
        let conv = Conv2d::new(&scope, channels, channels, Geometry::SAME).expect("a convolution");
        let x = random(&[2, channels, side, side]);
        group.bench_function(format!("conv 3x3 {channels} at {side}x{side}"), |b| {
            b.iter(|| conv.forward(black_box(&x)));
        });
    }
    let weights = source(&[("weight", &[320, 320]), ("bias", &[320])]);
    let linear = Linear::new(&Scope::new(&weights, "x"), 320, 320).expect("a linear layer");
    let x = random(&[2, 4096, 320]);
    group.bench_function("linear 8192x320x320", |b| b.iter(|| linear.forward(black_box(&x))));
    group.bench_function("self-attention 4096 tokens, 8 heads of 40", |b| {
        b.iter(|| attention(black_box(&x), &x, &x, 8, None));
    });
    let weights = source(&[("weight", &[320]), ("bias", &[320])]);
    let norm = GroupNorm::new(&Scope::new(&weights, "x"), 320, 32, 1e-5).expect("a norm");
    let x = random(&[2, 320, 64, 64]);
    group.bench_function("group norm 320 at 64x64", |b| b.iter(|| norm.forward(black_box(&x))));
    group.finish();
}

/// What the samplers themselves cost: a denoiser without a network.
struct Identity;

impl Denoiser for Identity {
    fn denoise(&self, x: &Tensor, _: f64) -> colora::Result<Tensor> {
        Ok(x.clone())
    }
}

fn samplers(c: &mut Criterion) {
    let config = SchedulerConfig::default();
    let table = NoiseTable::new(&config).expect("the table of SD 1.x");
    let x = random(&[1, 4, 64, 64]);
    for sampler in Sampler::ALL {
        let plan = Sigmas::plan(sampler, Schedule::Discrete, 30, &config, &table).expect("a plan");
        c.bench_function(&format!("{sampler}, 30 steps without a network"), |b| {
            b.iter(|| sample(sampler, &Identity, black_box(&x), &plan));
        });
    }
}

criterion_group!(benches, layers, samplers);
criterion_main!(benches);
