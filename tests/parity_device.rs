//! The plain path, which GPUs take, beside the CPU's own operators: the same pictures.
//!
//! Runs on the CPU always, and on the device that `COLORA_TEST_DEVICE` names (`cuda`, `metal`).
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod support;

use candle_core::{DType, Device};
use colora::family::ModelParts;
use colora::lora::{Apply, LoraRef};
use colora::weights::{Placement, Products, Quantisation};
use colora::{DeviceChoice, Picture, Pipeline, Request};
use support::golden;

/// Largest difference of a pixel's colour in f32.
const PIXEL: i32 = 2;
/// Least peak signal-to-noise ratio of 16-bit floats, in dB.
const HALF: f64 = 30.0;

fn devices() -> Vec<(String, Device)> {
    let mut devices = vec![("cpu".to_owned(), Device::Cpu)];
    match std::env::var("COLORA_TEST_DEVICE") {
        Ok(name) => {
            let device = name.parse::<DeviceChoice>().unwrap().open().unwrap();
            devices.push((name, device));
        }
        Err(_) => println!("skipped: COLORA_TEST_DEVICE names no GPU"),
    }
    devices
}

/// An adapter of every kind of layer for `sd15`, at some weight and applied in some way.
type Adapter = Option<(f32, Apply)>;

fn draw(model: &str, placement: Placement, adapter: Adapter) -> Picture {
    let parts = ModelParts::open(&golden(model), placement, None).unwrap();
    let pipeline = Pipeline::options().over(parts).unwrap();
    let request = Request {
        prompt: "a cat on a chair".into(),
        negative_prompt: "blurry".into(),
        width: Some(72),
        height: Some(64),
        steps: Some(4),
        guidance_scale: Some(5.0),
        seed: Some(7),
        loras: adapter.map(|(weight, _)| lora(weight)).into_iter().collect(),
        apply: adapter.map_or(Apply::Auto, |(_, apply)| apply),
        ..Request::default()
    };
    support::draw(&pipeline, &request)
}

fn lora(weight: f32) -> LoraRef {
    let file = golden("../zoo/good/sd15-kohya-full.safetensors");
    let name = file.to_str().unwrap().to_owned();
    LoraRef { unet: Some(weight), text: Some(weight), ..LoraRef::new(name) }
}

/// Largest difference of a pixel's colour.
fn difference(a: &Picture, b: &Picture) -> i32 {
    let each = a.bytes().iter().zip(b.bytes()).map(|(a, b)| i32::from(*a) - i32::from(*b));
    each.map(i32::abs).max().unwrap_or(0)
}

/// Draws plainly on every device and in every type, and compares with the CPU's operators.
fn compare(model: &str, adapter: Adapter, quantise: Option<Quantisation>) {
    let what = adapter.map_or_else(|| model.to_owned(), |how| format!("{model} with {how:?}"));
    let what = quantise.map_or_else(|| what.clone(), |kind| format!("{what} in {kind}"));
    let here = Placement { quantise, ..Placement::default() };
    let ours = draw(model, here.clone(), adapter);
    for (name, device) in devices() {
        let placement =
            Placement { device: device.clone(), products: Products::Plain, ..here.clone() };
        let picture = draw(model, placement.clone(), adapter);
        let (worst, psnr) = (difference(&picture, &ours), support::psnr(&picture, &ours));
        println!("{what} on {name}, f32: largest difference {worst}/255, {psnr:.1} dB");
        assert!(worst <= PIXEL, "{what} on {name}: {worst}/255");
        if device.is_cpu() {
            continue;
        }
        for dtype in [DType::F16, DType::BF16] {
            let placement = Placement { dtype, ..placement.clone() };
            let psnr = support::psnr(&draw(model, placement, adapter), &ours);
            println!("{what} on {name}, {dtype:?}: {psnr:.1} dB");
            assert!(psnr >= HALF, "{what} on {name}, {dtype:?}: {psnr:.1} dB");
        }
    }
}

#[test]
fn plain_tensors_draw_what_the_cpu_operators_draw() {
    for model in ["sd15", "sd2", "sdxl"] {
        compare(model, None, None);
    }
}

#[test]
fn adapters_do_the_same() {
    for apply in [Apply::Merge, Apply::Bypass] {
        compare("sd15", Some((0.7, apply)), None);
    }
}

#[test]
fn weights_in_blocks_do_the_same() {
    for kind in Quantisation::ALL {
        compare("sd15", None, Some(kind));
        for apply in [Apply::Merge, Apply::Bypass] {
            compare("sd15", Some((0.7, apply)), Some(kind));
        }
    }
}

/// Evaluations are recorded on some devices: what one thread does must never end up in another's recording.
#[test]
fn threads_share_a_device() {
    for (name, device) in devices() {
        let placement = Placement { device, products: Products::Plain, ..Placement::default() };
        let parts = ModelParts::open(&golden("sd15"), placement, None).unwrap();
        let pipeline = Pipeline::options().over(parts).unwrap();
        let request = |seed| Request {
            prompt: "a cat".into(),
            width: Some(64),
            height: Some(64),
            steps: Some(12),
            seed: Some(seed),
            ..Request::default()
        };
        let alone: Vec<Picture> =
            (0..4).map(|seed| support::draw(&pipeline, &request(seed))).collect();
        let together: Vec<Picture> = std::thread::scope(|scope| {
            let (pipeline, request) = (&pipeline, &request);
            let draw = |seed| scope.spawn(move || support::draw(pipeline, &request(seed)));
            let running: Vec<_> = (0..4).map(draw).collect();
            running.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        for (a, b) in alone.iter().zip(&together) {
            assert_eq!(difference(a, b), 0, "on {name}");
        }
    }
}
