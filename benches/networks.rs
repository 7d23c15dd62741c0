//! Parts of a picture's work, on random weights of the true shapes.
//!
//!     cargo bench --bench networks
#![allow(missing_docs, clippy::expect_used)] // criterion's macros

use candle_core::{Device, Tensor};
use colora::nn::{Attend, Conv2d, Feature, FeedForward, Geometry, LayerNorm, attention};
use colora::sampling::{Denoiser, NoiseTable, Sampler, Schedule, SchedulerConfig, Sigmas, sample};
use colora::weights::{MemorySource, Placement, Precision, Products, Scope, Site};
use criterion::{Criterion, criterion_group, criterion_main};
use std::hint::black_box;

fn random(shape: &[usize]) -> Tensor {
    Tensor::randn(0f32, 1.0, shape, &Device::Cpu).expect("a random tensor")
}

fn source(products: Products, weights: &[(&str, &[usize])]) -> MemorySource {
    let mut source = MemorySource::new(Placement { products, ..Placement::default() });
    for (name, shape) in weights {
        let site = Site::new(format!("x.{name}"));
        source.insert(site, &random(shape)).expect("a weight in memory");
    }
    source
}

const BOTH: [Precision; 2] = [Precision::F32, Precision::Bf16];

/// The shapes of SD 1.5 at 512x512 with guidance (batch 2), as layers run them.
fn layers(c: &mut Criterion) {
    let mut group = c.benchmark_group("layers");
    group.sample_size(10);
    for precision in BOTH {
        let products = Products::Packed(precision);
        for (channels, side) in [(320, 64), (640, 32), (1280, 16)] {
            let shape = [channels, channels, 3, 3];
            let weights = source(products, &[("weight", &shape), ("bias", &[channels])]);
            let scope = Scope::new(&weights, "x");
            let conv = Conv2d::new(&scope, channels, channels, Geometry::SAME).expect("a layer");
            let x = Feature::image(&random(&[2, channels, side, side]), products).expect("a map");
            group.bench_function(format!("{precision:?} conv 3x3 {channels} at {side}"), |b| {
                b.iter(|| conv.forward(black_box(&x)));
            });
        }
        for (width, tokens) in [(320, 4096), (640, 1024), (1280, 256)] {
            let weights = block(products, width);
            let scope = Scope::new(&weights, "x");
            let norm = LayerNorm::new(&scope.at("norm"), width, 1e-5).expect("a norm");
            let attend = Attend::new(&scope, width, width, 8).expect("an attention");
            let feed = FeedForward::new(&scope, width).expect("a feed-forward");
            let x = Feature::tokens(&random(&[2, tokens, width]), products).expect("tokens");
            group.bench_function(format!("{precision:?} attention {width} x {tokens}"), |b| {
                b.iter(|| attend.tokens(black_box(&x), &norm, None));
            });
            group.bench_function(format!("{precision:?} feed-forward {width} x {tokens}"), |b| {
                b.iter(|| feed.forward(black_box(&x), &norm));
            });
        }
    }
    group.finish();
}

/// The weights of a transformer block.
fn block(products: Products, width: usize) -> MemorySource {
    let square: &[usize] = &[width, width];
    source(
        products,
        &[
            ("norm.weight", &[width]),
            ("norm.bias", &[width]),
            ("to_q.weight", square),
            ("to_k.weight", square),
            ("to_v.weight", square),
            ("to_out.0.weight", square),
            ("to_out.0.bias", &[width]),
            ("net.0.proj.weight", &[8 * width, width]),
            ("net.0.proj.bias", &[8 * width]),
            ("net.2.weight", &[width, 4 * width]),
            ("net.2.bias", &[width]),
        ],
    )
}

/// The same work by plain candle: what the layers are measured against.
fn plain(c: &mut Criterion) {
    let mut group = c.benchmark_group("plain candle");
    group.sample_size(10);
    let (x, weight) = (random(&[2, 640, 32, 32]), random(&[640, 640, 3, 3]));
    group.bench_function("conv 3x3 640 at 32", |b| {
        b.iter(|| black_box(&x).conv2d(&weight, 1, 1, 1, 1));
    });
    let (x, weight) = (random(&[2048, 640]), random(&[640, 640]));
    group.bench_function("linear 2048x640x640", |b| {
        b.iter(|| black_box(&x).matmul(&weight.t().expect("a matrix")));
    });
    let x = random(&[2, 1024, 640]);
    group.bench_function("attention 640 x 1024", |b| {
        b.iter(|| attention(black_box(&x), &x, &x, 8, None));
    });
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

criterion_group!(benches, layers, plain, samplers);
criterion_main!(benches);
