//! The plain path, which GPUs take, beside the CPU's own operators: the same pictures.
//!
//! Runs on the CPU always, and on the device that `COLORA_TEST_DEVICE` names (`cuda`, `metal`).
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod support;

use candle_core::{DType, Device};
use colora::family::ModelParts;
use colora::weights::{Placement, Products};
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

fn draw(model: &str, placement: Placement) -> Picture {
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
        ..Request::default()
    };
    support::draw(&pipeline, &request)
}

/// Largest difference of a pixel's colour.
fn difference(a: &Picture, b: &Picture) -> i32 {
    let each = a.bytes().iter().zip(b.bytes()).map(|(a, b)| i32::from(*a) - i32::from(*b));
    each.map(i32::abs).max().unwrap_or(0)
}

#[test]
fn plain_tensors_draw_what_the_cpu_operators_draw() {
    for model in ["sd15", "sd2", "sdxl"] {
        let ours = draw(model, Placement::default());
        for (name, device) in devices() {
            let placement = Placement {
                device: device.clone(),
                products: Products::Plain,
                ..Placement::default()
            };
            let picture = draw(model, placement.clone());
            let (worst, psnr) = (difference(&picture, &ours), support::psnr(&picture, &ours));
            println!("{model} on {name}, f32: largest difference {worst}/255, {psnr:.1} dB");
            assert!(worst <= PIXEL, "{model} on {name}: {worst}/255");
            if device.is_cpu() {
                continue;
            }
            for dtype in [DType::F16, DType::BF16] {
                let placement = Placement { dtype, ..placement.clone() };
                let psnr = support::psnr(&draw(model, placement), &ours);
                println!("{model} on {name}, {dtype:?}: {psnr:.1} dB");
                assert!(psnr >= HALF, "{model} on {name}, {dtype:?}: {psnr:.1} dB");
            }
        }
    }
}
