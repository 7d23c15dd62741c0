//! Products of bf16 numbers on the CPU: how far whole pictures are from f32.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod support;

use colora::{DTypeChoice, Pipeline, Request};
use support::{draw, golden, psnr};

#[test]
fn pictures_stay_close_to_f32() {
    let request = |prompt: &str| Request {
        prompt: prompt.into(),
        seed: Some(1),
        steps: Some(12),
        ..Request::default()
    };
    let options = |dtype| Pipeline::options().device("cpu".parse().unwrap()).dtype(dtype);
    let half = match options(Some(DTypeChoice::Bf16)).open_starter() {
        Ok(pipeline) => pipeline,
        Err(error) => {
            println!("skipped: {error}");
            return;
        }
    };
    let exact = options(None).open_starter().unwrap();
    for prompt in ["a red apple", "a rocket", "a cat face"] {
        let distance = psnr(&draw(&half, &request(prompt)), &draw(&exact, &request(prompt)));
        println!("{prompt}: {distance:.1} dB");
        // The bar is 40 dB.
        assert!(distance > 40.0, "{prompt}: {distance:.1} dB");
    }
    // Also networks with other shapes: odd channels, strides, linear and 1×1 projections.
    for model in ["sd15", "sdxl"] {
        let open = |dtype| options(dtype).open(golden(model)).unwrap();
        let small =
            Request { width: Some(64), height: Some(48), steps: Some(3), ..request("a cat") };
        let (a, b) = (open(Some(DTypeChoice::Bf16)), open(None));
        let distance = psnr(&draw(&a, &small), &draw(&b, &small));
        println!("{model}: {distance:.1} dB");
        assert!(distance > 30.0, "{model}: {distance:.1} dB");
    }
}
