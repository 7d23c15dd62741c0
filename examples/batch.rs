//! Several images in one evaluation of the network for each step, against the same images one by one.
//!
//!     cargo run --release --example batch -- [MODEL] [IMAGES] [SIDE] [STEPS] [DTYPE] [DEVICE]
//!
//! Prints the seconds of the steps of both, and whether the pictures have the same bytes: on a CPU they do.

#![allow(clippy::print_stdout)] // an example talks

use colora::pipeline::{Generated, Run};
use colora::{Pipeline, Request};
use std::time::Duration;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let argument =
        |at: usize, usual: &str| arguments.get(at).map_or(usual, String::as_str).to_owned();
    let (model, images) = (argument(0, "starter"), argument(1, "4").parse::<usize>()?);
    let side: usize = argument(2, "256").parse()?;
    let options = Pipeline::options()
        .dtype(Some(argument(4, "f32").parse()?))
        .device(argument(5, "cpu").parse()?);
    let pipeline =
        if model == "starter" { options.open_starter()? } else { options.open(&model)? };
    let request = Request {
        prompt: "a red fox in the snow".into(),
        width: Some(side),
        height: Some(side),
        steps: Some(argument(3, "8").parse()?),
        seed: Some(1),
        count: images,
        ..Request::default()
    };
    let run = pipeline.prepare(&pipeline.plan(&request, 0)?)?;
    // Networks are read and memory is there before anything is timed.
    made(&run, &[0])?;
    let mut alone = Vec::new();
    for image in 0..images {
        alone.extend(made(&run, &[image])?);
    }
    let batch = made(&run, &(0..images).collect::<Vec<_>>())?;
    let seconds = |all: &[Generated]| {
        all.iter().map(|image| image.timings.sample).sum::<Duration>().as_secs_f64()
    };
    let (one_by_one, at_once) = (seconds(&alone), seconds(&batch));
    let same = alone.iter().zip(&batch).all(|(a, b)| a.picture.bytes() == b.picture.bytes());
    println!("steps of {images} images of {side}x{side}");
    println!("one by one  {one_by_one:8.3} s");
    println!("at once     {at_once:8.3} s  ({:.2} times as fast)", one_by_one / at_once);
    println!("pictures    {}", if same { "equal to the bit" } else { "differ" });
    Ok(())
}

/// Images of a run, evaluated at once.
fn made(run: &Run, images: &[usize]) -> colora::Result<Vec<Generated>> {
    let mut made = Vec::with_capacity(images.len());
    run.steps(images.iter().copied())?.finish_each(&mut |image| {
        made.push(image);
        Ok(())
    })?;
    Ok(made)
}
