//! An image of a batch is the image made alone, to the bit.

use crate::support::{copy_folder, golden};
use candle_core::DType;
use colora::lora::{Apply, LoraRef, Method};
use colora::pipeline::{Memory, Options};
use colora::weights::Quantisation;
use colora::{Cancel, DTypeChoice, Event, Pipeline, Plan, Request, Sampler};
use std::cell::RefCell;
use std::path::{Path, PathBuf};

const IMAGES: usize = 4;

pub(crate) fn options() -> Options {
    Pipeline::options().device("cpu".parse().unwrap())
}

pub(crate) fn lora(name: &str, rest: &str) -> LoraRef {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("loras").join(name);
    format!("{}.safetensors:{rest}", path.display()).parse().unwrap()
}

fn zoo(name: &str, rest: &str) -> LoraRef {
    let path: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/zoo/good").join(name);
    format!("{}.safetensors:{rest}", path.display()).parse().unwrap()
}

/// Sides that fill neither tiles nor vectors, and a seed whose successors wrap.
pub(crate) fn request() -> Request {
    Request {
        prompt: "a red apple".into(),
        negative_prompt: "blurry".into(),
        width: Some(72),
        height: Some(56),
        steps: Some(3),
        guidance_scale: Some(4.0),
        seed: Some(u64::MAX - 1),
        count: IMAGES,
        ..Request::default()
    }
}

/// The latents of some images of a plan after all steps, each as bits.
fn latents(pipeline: &Pipeline, plan: &Plan, images: &[usize]) -> Vec<Vec<u32>> {
    let mut steps = pipeline.prepare(plan).unwrap().steps(images.iter().copied()).unwrap();
    assert_eq!(steps.images().collect::<Vec<_>>(), images);
    for view in steps.by_ref() {
        assert_eq!(view.unwrap().denoised.dim(0).unwrap(), images.len());
    }
    let latents = steps.latents().unwrap().to_dtype(DType::F32).unwrap();
    let rows = latents.flatten_from(1).unwrap().to_vec2::<f32>().unwrap();
    rows.into_iter().map(|row| row.into_iter().map(f32::to_bits).collect()).collect()
}

fn assert_alike(what: &str, pipeline: &Pipeline, request: &Request) {
    let plan = pipeline.plan(request, 0).unwrap();
    let batch = latents(pipeline, &plan, &[0, 1, 2, 3]);
    for (image, batch) in batch.iter().enumerate() {
        let alone = latents(pipeline, &plan, &[image]);
        assert!(alone[0] == *batch, "{what}: image {image} of a batch is another one");
    }
    assert_ne!(batch[0], batch[1], "{what}");
    // The order within a batch, and what else is in it, do not matter.
    let other = latents(pipeline, &plan, &[2, 0]);
    assert!(other == [batch[2].clone(), batch[0].clone()], "{what}: the order matters");
}

/// Everything that happens in a run, one by one.
fn requests() -> Vec<(&'static str, Request)> {
    let windows = vec![lora("flat", "0.8:steps=0..2"), lora("santa", "1:steps=1..3")];
    let both = vec![lora("flat", "0.8"), lora("santa", "1")];
    vec![
        ("plain", request()),
        ("without guidance", Request { guidance_scale: Some(1.0), ..request() }),
        ("DDIM", Request { sampler: Some(Sampler::Ddim), ..request() }),
        ("noise in every step", Request { sampler: "euler-a".parse().ok(), ..request() }),
        ("two evaluations", Request { sampler: "heun".parse().ok(), reuse: 2, ..request() }),
        ("LCM", Request { sampler: "lcm".parse().ok(), ..request() }),
        ("LoRAs", Request { loras: both.clone(), ..request() }),
        ("bypassed LoRAs", Request { loras: both.clone(), apply: Apply::Bypass, ..request() }),
        ("step windows", Request { loras: windows.clone(), ..request() }),
        (
            "switch",
            Request { loras: both.clone(), lora_method: Method::Switch { period: 1 }, ..request() },
        ),
        ("composite", Request { loras: both, lora_method: Method::Composite, ..request() }),
        (
            "all savers and windows",
            Request {
                guidance_interval: "1..3".parse().ok(),
                reuse: 2,
                merge_tokens: 0.5,
                steps: Some(4),
                loras: windows,
                ..request()
            },
        ),
    ]
}

#[test]
fn in_f32() {
    let pipeline = options().dtype(Some(DTypeChoice::F32)).open_starter().unwrap();
    for (what, request) in requests() {
        assert_alike(what, &pipeline, &request);
    }
}

#[test]
fn in_bf16() {
    let pipeline = options().dtype(Some(DTypeChoice::Bf16)).open_starter().unwrap();
    for (what, request) in requests() {
        assert_alike(what, &pipeline, &request);
    }
}

#[test]
fn in_blocks_and_block_by_block() {
    let blocks = options().quantize(Some(Quantisation::Q8_0)).open_starter().unwrap();
    let low = options().memory(Memory::Low).open_starter().unwrap();
    for (what, request) in requests().into_iter().filter(|(what, _)| what.contains("windows")) {
        assert_alike(what, &blocks, &request);
        assert_alike(what, &low, &request);
    }
}

/// Conditions beside the text, channels beside the latents, and guidance as a number.
#[test]
fn of_other_architectures() {
    let alike = |name: &str, folder: &Path, loras: Vec<LoraRef>| {
        let pipeline = options().open(folder).unwrap();
        let small = Request { width: Some(64), height: Some(64), ..request() };
        assert_alike(name, &pipeline, &Request { loras, reuse: 2, ..small });
    };
    alike("sd15", &golden("sd15"), vec![zoo("sd15-f32", "1:steps=0..0.5")]);
    alike("sdxl", &golden("sdxl"), Vec::new());
    for variant in ["inpaint", "lcm"] {
        let folder = tempfile::tempdir().unwrap();
        copy_folder(&golden("sd15"), folder.path());
        copy_folder(&golden("variants").join(variant), &folder.path().join("unet"));
        alike(variant, folder.path(), Vec::new());
    }
}

#[test]
fn a_plan_in_batches_has_the_same_pictures_and_events() {
    let made = |batch: usize| {
        let pipeline = options().batch(batch).open_starter().unwrap();
        let request = Request { loras: vec![lora("santa", "1")], preview: 2, ..request() };
        let plan = pipeline.plan(&request, 0).unwrap();
        let events = RefCell::new(Vec::new());
        let observer = |event: &Event| match event {
            Event::Sampling { image, .. } => events.borrow_mut().push((*image, 0, None)),
            Event::Step { image, step, preview, .. } => {
                let preview = preview.as_ref().map(|picture| picture.bytes().to_vec());
                events.borrow_mut().push((*image, *step, preview));
            }
            _ => {}
        };
        let mut images = Vec::new();
        let mut sink = |image: colora::Generated| {
            images.push((image.index, image.seed, image.picture.bytes().to_vec()));
            Ok(())
        };
        pipeline.generate(&plan, &observer, &Cancel::new(), &mut sink).unwrap();
        let mut events = events.into_inner();
        events.sort();
        (images, events)
    };
    let (images, events) = made(1);
    let seeds: Vec<u64> = images.iter().map(|(_, seed, _)| *seed).collect();
    assert_eq!(seeds, [u64::MAX - 1, u64::MAX, 0, 1]);
    assert_eq!(events.len(), IMAGES * 4);
    for batch in [3, 100] {
        assert!(made(batch) == (images.clone(), events.clone()), "batches of {batch}");
    }
}

#[test]
fn images_that_cannot_be() {
    let pipeline = options().open_starter().unwrap();
    let run = pipeline.prepare(&pipeline.plan(&request(), 0).unwrap()).unwrap();
    assert!(run.steps([]).unwrap_err().to_string().contains("at least one image"));
    assert!(run.steps(0..2).unwrap().finish().is_err());
}

#[test]
fn a_request_without_a_seed_is_another_picture_each_time() {
    let pipeline = options().open_starter().unwrap();
    let request = Request { steps: Some(1), count: 2, seed: None, ..request() };
    let images = pipeline.draw(&request).unwrap();
    assert_eq!(images.len(), 2);
    assert_eq!(images[1].seed, images[0].seed + 1);
    let again = pipeline.draw(&Request { seed: Some(images[1].seed), count: 1, ..request.clone() });
    assert_eq!(again.unwrap()[0].picture.bytes(), images[1].picture.bytes());
    let others: std::collections::HashSet<u64> =
        (0..4).map(|_| pipeline.plan_random(&request).unwrap().seed).collect();
    assert!(others.len() > 2);
}

/// Each image of a batch has feature maps of its own.
#[test]
fn a_batch_takes_more_memory() {
    let sample = |batch: usize, count: usize| {
        let pipeline = options().batch(batch).open_starter().unwrap();
        let plan = pipeline.plan(&Request { count, ..request() }, 0).unwrap();
        pipeline.budget(&plan).unwrap().sample
    };
    assert!(sample(4, 4) > sample(1, 4));
    assert_eq!(sample(4, 1), sample(1, 1));
}
