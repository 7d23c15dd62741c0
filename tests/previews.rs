//! Previews: cheap, of the picture's size, and like the picture.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod support;

use colora::pipeline::Options;
use colora::{Picture, Pipeline, Request};
use std::time::{Duration, Instant};
use support::golden;

/// The last preview of a small picture, the picture, and the time that previews and the decoder took.
fn last_preview(pipeline: &Pipeline, request: &Request) -> (Picture, Picture, [Duration; 2]) {
    let plan = pipeline.plan(request, 1).unwrap();
    let mut steps = pipeline.steps(&plan, 0).unwrap();
    let (mut preview, mut took) = (None, Duration::MAX);
    while let Some(view) = steps.next() {
        let view = view.unwrap();
        let begin = Instant::now();
        preview = Some(steps.preview(&view).unwrap());
        // The first fits the colours, which happens once a pipeline.
        took = took.min(begin.elapsed());
    }
    let generated = steps.finish().unwrap();
    (preview.unwrap(), generated.picture, [took, generated.timings.decode])
}

/// Pearson's correlation of all numbers of two pictures.
fn correlation(a: &Picture, b: &Picture) -> f64 {
    let values = |picture: &Picture| -> Vec<f64> {
        picture.bytes().iter().map(|byte| f64::from(*byte)).collect()
    };
    let (a, b) = (values(a), values(b));
    assert_eq!(a.len(), b.len(), "a preview has the size of the picture");
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    let (mean_a, mean_b) = (mean(&a), mean(&b));
    let sum = |f: &dyn Fn(f64, f64) -> f64| -> f64 {
        a.iter().zip(&b).map(|(a, b)| f(a - mean_a, b - mean_b)).sum()
    };
    sum(&|a, b| a * b) / (sum(&|a, _| a * a) * sum(&|_, b| b * b)).sqrt()
}

#[test]
fn colours_of_latents_look_like_the_picture() {
    let pipeline = Pipeline::options().open_starter().unwrap();
    for prompt in ["a red apple", "a blue house"] {
        let request = Request { prompt: prompt.into(), steps: Some(8), ..Request::default() };
        let (preview, picture, [took, decoded]) = last_preview(&pipeline, &request);
        let like = correlation(&preview, &picture);
        println!("{prompt}: correlation {like:.3}; a preview {took:?}, the decoder {decoded:?}");
        assert!(like > 0.8, "{prompt}: {like}");
    }
}

#[test]
fn previews_change_no_picture() {
    let request = Request { steps: Some(4), ..Request::default() };
    let (_, looked_at, _) = last_preview(&Pipeline::options().open_starter().unwrap(), &request);
    let plain = Pipeline::options().open_starter().unwrap();
    let plan = plain.plan(&request, 1).unwrap();
    assert!(plain.steps(&plan, 0).unwrap().finish().unwrap().picture == looked_at);
}

/// A folder of diffusers, a copy inside the model, and the author's file with its other count of layers.
#[test]
fn a_taesd_makes_previews() {
    let request =
        Request { width: Some(64), height: Some(64), steps: Some(2), ..Request::default() };
    let drawn = |options: Options| last_preview(&options.open(golden("sd15")).unwrap(), &request).0;
    let folder = drawn(Pipeline::options().preview(Some(golden("taesd"))));
    assert!(folder != drawn(Pipeline::options()), "not the colours");
    let place = tempfile::tempdir().unwrap();
    let weights = golden("taesd").join("diffusion_pytorch_model.safetensors");
    let tensors = candle_core::safetensors::load(weights, &candle_core::Device::Cpu).unwrap();
    let renamed = tensors.into_iter().filter_map(|(name, tensor)| {
        let (number, rest) = name.strip_prefix("decoder.layers.")?.split_once('.')?;
        Some((format!("{}.{rest}", number.parse::<usize>().unwrap() + 1), tensor))
    });
    let file = place.path().join("taesd_decoder.safetensors");
    candle_core::safetensors::save(&renamed.collect(), &file).unwrap();
    assert!(drawn(Pipeline::options().preview(Some(file))) == folder);
    let model = place.path().join("model");
    support::copy_folder(&golden("sd15"), &model);
    support::copy_folder(&golden("taesd"), &model.join("taesd"));
    let inside = last_preview(&Pipeline::open(model).unwrap(), &request).0;
    assert!(inside == folder);
    let wrong = Pipeline::options().preview(Some(golden("sd15/vae"))).open(golden("sd15"));
    assert!(wrong.is_err() || last_preview_fails(&wrong.unwrap(), &request));
}

/// A file of another kind is an error when it is opened or when the first preview is made.
fn last_preview_fails(pipeline: &Pipeline, request: &Request) -> bool {
    let plan = pipeline.plan(request, 1).unwrap();
    let mut steps = pipeline.steps(&plan, 0).unwrap();
    let view = steps.next().unwrap().unwrap();
    steps.preview(&view).is_err()
}
