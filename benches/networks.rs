//! Every kernel against plain candle, on random weights of the true shapes, and the samplers.
//!
//!     cargo bench --bench networks
#![allow(missing_docs, clippy::expect_used)] // criterion's macros

use candle_core::{Device, Tensor};
use colora::nn::{
    Attend, Conv2d, ConvFusion, Feature, FeedForward, Geometry, GroupNorm, LayerNorm, Linear, Mlp,
};
use colora::sampling::{
    Denoiser, NoiseProcess, NoiseTable, Sampler, Sampling, SamplingRequest, Schedule,
    SchedulerConfig, SeededNoise,
};
use colora::weights::{MemorySource, Placement, Precision, Products, Scope, Site};
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, criterion_group, criterion_main};
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

/// Plain candle first: it is what the kernels are measured against.
const KINDS: [(&str, Products); 3] = [
    ("plain", Products::Plain),
    ("f32", Products::Packed(Precision::F32)),
    ("bf16", Products::Packed(Precision::Bf16)),
];

/// Calls `bench` for each kind of product, in a group of this name.
fn each(
    c: &mut Criterion,
    name: &str,
    bench: impl Fn(&mut BenchmarkGroup<'_, WallTime>, &str, Products),
) {
    let mut group = c.benchmark_group(name);
    group.sample_size(10);
    for (kind, products) in KINDS {
        bench(&mut group, kind, products);
    }
    group.finish();
}

/// The shapes of SD 1.5 at 512x512 with guidance (batch 2): the convolutions, by each of their ways.
fn convolutions(c: &mut Criterion) {
    for (name, inputs, outputs, side, geometry) in [
        ("Winograd convolution 320 at 64", 320, 320, 64, Geometry::SAME),
        ("Winograd convolution 640 at 32", 640, 640, 32, Geometry::SAME),
        ("direct convolution 1280 at 16", 1280, 1280, 16, Geometry::SAME),
        ("direct convolution 2560 to 1280 at 8", 2560, 1280, 8, Geometry::SAME),
        ("halving convolution 320 at 64", 320, 320, 64, Geometry::HALVE),
        ("convolution of single pixels 960 to 320 at 64", 960, 320, 64, Geometry::POINT),
    ] {
        let kernel = if geometry == Geometry::POINT { 1 } else { 3 };
        let shape = [outputs, inputs, kernel, kernel];
        each(c, name, |group, kind, products| {
            let weights = source(products, &[("weight", &shape), ("bias", &[outputs])]);
            let conv = Conv2d::new(&Scope::new(&weights, "x"), inputs, outputs, geometry);
            let conv = conv.expect("a layer");
            let x = Feature::image(&random(&[2, inputs, side, side]), products).expect("a map");
            group.bench_function(kind, |b| b.iter(|| conv.forward(black_box(&x))));
        });
    }
    each(c, "doubling convolution 640 at 32", |group, kind, products| {
        let weights = source(products, &[("weight", &[640, 640, 3, 3]), ("bias", &[640])]);
        let conv = Conv2d::after_growth(&Scope::new(&weights, "x"), 640).expect("a layer");
        let x = Feature::image(&random(&[2, 640, 32, 32]), products).expect("a map");
        let around = ConvFusion { grown: Some((64, 64)), ..ConvFusion::default() };
        group.bench_function(kind, |b| b.iter(|| conv.run(black_box(&x), around)));
    });
    each(c, "group norm, SiLU and convolution 320 at 64", |group, kind, products| {
        let weights = source(
            products,
            &[
                ("weight", &[320, 320, 3, 3]),
                ("bias", &[320]),
                ("norm.weight", &[320]),
                ("norm.bias", &[320]),
            ],
        );
        let scope = Scope::new(&weights, "x");
        let conv = Conv2d::new(&scope, 320, 320, Geometry::SAME).expect("a layer");
        let norm = GroupNorm::new(&scope.at("norm"), 320, 32, 1e-5).expect("a norm");
        let x = Feature::image(&random(&[2, 320, 64, 64]), products).expect("a map");
        let around = ConvFusion { norm: Some(&norm), silu: true, ..ConvFusion::default() };
        group.bench_function(kind, |b| b.iter(|| conv.run(black_box(&x), around)));
    });
}

/// Linear layers, attention and feed-forward of the transformers, with their norms, and those of a text tower.
fn transformers(c: &mut Criterion) {
    for (width, tokens) in [(320, 4096), (640, 1024), (1280, 256)] {
        let token =
            |products| Feature::tokens(&random(&[2, tokens, width]), products).expect("tokens");
        each(c, &format!("self-attention {width} x {tokens}"), |group, kind, products| {
            let weights = block(products, width, width);
            let (attend, norm) = attend(&weights, width, width);
            let x = token(products);
            group.bench_function(kind, |b| b.iter(|| attend.tokens(black_box(&x), &norm, None)));
        });
        each(c, &format!("cross-attention {width} x {tokens}"), |group, kind, products| {
            let weights = block(products, width, 768);
            let (attend, norm) = attend(&weights, width, 768);
            let text = Feature::tokens(&random(&[2, 77, 768]), products).expect("a text");
            let x = token(products);
            group.bench_function(kind, |b| {
                b.iter(|| attend.tokens(black_box(&x), &norm, Some(&text)));
            });
        });
        each(c, &format!("feed-forward {width} x {tokens}"), |group, kind, products| {
            let weights = block(products, width, width);
            let scope = Scope::new(&weights, "x");
            let norm = LayerNorm::new(&scope.at("norm"), width, 1e-5).expect("a norm");
            let feed = FeedForward::new(&scope, width).expect("a feed-forward");
            let x = token(products);
            group.bench_function(kind, |b| b.iter(|| feed.forward(black_box(&x), &norm)));
        });
    }
    each(c, "linear layer 2048 x 640 x 640", |group, kind, products| {
        let weights = source(products, &[("weight", &[640, 640]), ("bias", &[640])]);
        let linear = Linear::new(&Scope::new(&weights, "x"), 640, 640).expect("a layer");
        let x = random(&[2, 1024, 640]);
        group.bench_function(kind, |b| b.iter(|| linear.forward(black_box(&x))));
    });
    each(c, "text MLP 768 x 154", |group, kind, products| {
        let weights = source(
            products,
            &[
                ("fc1.weight", &[3072, 768]),
                ("fc1.bias", &[3072]),
                ("fc2.weight", &[768, 3072]),
                ("fc2.bias", &[768]),
                ("norm.weight", &[768]),
                ("norm.bias", &[768]),
            ],
        );
        let scope = Scope::new(&weights, "x");
        let mlp = Mlp::new(&scope, 768, 3072, true).expect("an MLP");
        let norm = LayerNorm::new(&scope.at("norm"), 768, 1e-5).expect("a norm");
        let x = Feature::tokens(&random(&[2, 77, 768]), products).expect("a text");
        group.bench_function(kind, |b| b.iter(|| mlp.forward(black_box(&x), &norm)));
    });
}

/// Reading and packing weights: what opening a model mostly is.
fn packing(c: &mut Criterion) {
    for (name, shape) in [("linear 1280 x 1280", &[1280, 1280][..]), ("3x3 640", &[640, 640, 3, 3])]
    {
        each(c, &format!("building {name}"), |group, kind, products| {
            let weights = source(products, &[("weight", shape), ("bias", &shape[..1])]);
            let scope = Scope::new(&weights, "x");
            group.bench_function(kind, |b| {
                b.iter(|| match shape {
                    [outputs, inputs] => Linear::new(&scope, *inputs, *outputs).map(|_| ()),
                    _ => Conv2d::new(&scope, shape[1], shape[0], Geometry::SAME).map(|_| ()),
                });
            });
        });
    }
}

fn attend(weights: &MemorySource, width: usize, context: usize) -> (Attend, LayerNorm) {
    let scope = Scope::new(weights, "x");
    let norm = LayerNorm::new(&scope.at("norm"), width, 1e-5).expect("a norm");
    (Attend::new(&scope, width, context, 8).expect("an attention"), norm)
}

/// The weights of a transformer block.
fn block(products: Products, width: usize, context: usize) -> MemorySource {
    let square: &[usize] = &[width, width];
    source(
        products,
        &[
            ("norm.weight", &[width]),
            ("norm.bias", &[width]),
            ("to_q.weight", square),
            ("to_k.weight", &[width, context]),
            ("to_v.weight", &[width, context]),
            ("to_out.0.weight", square),
            ("to_out.0.bias", &[width]),
            ("net.0.proj.weight", &[8 * width, width]),
            ("net.0.proj.bias", &[8 * width]),
            ("net.2.weight", &[width, 4 * width]),
            ("net.2.bias", &[width]),
        ],
    )
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
    let process = NoiseProcess::VariancePreserving(table);
    let x = random(&[1, 4, 64, 64]);
    for sampler in Sampler::ALL {
        let request = SamplingRequest::new(sampler, Schedule::Discrete, 30);
        let sampling = || Sampling::new(&request, &config, &process).expect("a plan");
        c.bench_function(&format!("{sampler}, 30 steps without a network"), |b| {
            b.iter(|| sampling().run(&Identity, black_box(&x), &mut SeededNoise::torch(&[1])));
        });
    }
}

criterion_group!(benches, convolutions, transformers, packing, samplers);
criterion_main!(benches);
