//! Whole pictures with adapters against the diffusers pipelines, and what stacks promise.
//! The goldens are made by `zoo/make_zoo.py --pictures`.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod support;

use candle_core::Tensor;
use colora::lora::{Apply, LoraRef, Method, StepWindow};
use colora::sampling::{Sampler, Schedule};
use colora::{Pipeline, Request};
use serde_json::Value;
use std::path::{Path, PathBuf};
use support::{assert_close, golden};

fn zoo(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/zoo").join(name)
}

/// A file of the zoo at one weight.
fn lora(file: &str, weight: f32) -> LoraRef {
    let name = zoo(file).to_str().unwrap().to_owned();
    LoraRef { unet: Some(weight), text: Some(weight), ..LoraRef::new(name) }
}

const A: &str = "good/sd15-uniform-a.safetensors";
const B: &str = "good/sd15-uniform-b.safetensors";

/// A small picture of the tiny SD 1.5 model.
fn request(loras: Vec<LoraRef>) -> Request {
    Request {
        prompt: "a photo of a cat".into(),
        negative_prompt: "blurry, low quality".into(),
        width: Some(64),
        height: Some(64),
        steps: Some(4),
        guidance_scale: Some(5.0),
        sampler: Some(Sampler::Euler),
        schedule: Some(Schedule::Discrete),
        seed: Some(0),
        loras,
        ..Request::default()
    }
}

fn sd15() -> Pipeline {
    Pipeline::open(golden("sd15")).unwrap()
}

/// Final latents of a request.
fn latents(pipeline: &Pipeline, request: &Request) -> Tensor {
    let plan = pipeline.plan(request, 0).unwrap();
    let mut steps = pipeline.steps(&plan, 0).unwrap();
    for step in steps.by_ref() {
        step.unwrap();
    }
    steps.latents().unwrap()
}

fn bits(latents: &Tensor) -> Vec<u32> {
    let flat = latents.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    flat.into_iter().map(f32::to_bits).collect()
}

/// Largest difference of two latents.
fn apart(a: &Tensor, b: &Tensor) -> f32 {
    let difference = (a - b).unwrap().abs().unwrap().flatten_all().unwrap();
    difference.max(0).unwrap().to_scalar().unwrap()
}

#[test]
fn pictures_with_adapters_equal_diffusers() {
    let text = std::fs::read_to_string(zoo("pictures.json")).unwrap();
    let cases: Value = serde_json::from_str(&text).unwrap();
    let arrays =
        candle_core::safetensors::load(zoo("pictures.safetensors"), &candle_core::Device::Cpu)
            .unwrap();
    for case in cases["cases"].as_array().unwrap() {
        let text = |key: &str| case[key].as_str().unwrap();
        let number = |key: &str| case[key].as_u64().unwrap() as usize;
        let adapters = case["adapters"].as_array().unwrap();
        let wanted = adapters
            .iter()
            .map(|a| lora(a["file"].as_str().unwrap(), a["weight"].as_f64().unwrap() as f32));
        let request = Request {
            prompt: text("prompt").into(),
            negative_prompt: text("negative_prompt").into(),
            width: Some(number("width")),
            height: Some(number("height")),
            steps: Some(number("steps")),
            guidance_scale: case["guidance_scale"].as_f64(),
            sampler: Some(match text("scheduler") {
                "EulerDiscreteScheduler" => Sampler::Euler,
                "DDIMScheduler" => Sampler::Ddim,
                other => panic!("no sampler for {other}"),
            }),
            seed: case["seed"].as_u64(),
            ..request(wanted.collect())
        };
        for apply in [Apply::Merge, Apply::Bypass] {
            let name = format!("{} ({apply})", text("name"));
            let pipeline = Pipeline::open(golden(text("model"))).unwrap();
            let plan = pipeline.plan(&Request { apply, ..request.clone() }, 0).unwrap();
            let mut steps = pipeline.steps(&plan, 0).unwrap();
            for step in steps.by_ref() {
                step.unwrap();
            }
            let theirs = &arrays[&format!("{}.latents", text("name"))];
            let ours = steps.latents().unwrap().reshape(theirs.dims()).unwrap();
            assert_close(&name, &ours, theirs, 1e-3);
            let picture = steps.finish().unwrap().picture;
            let theirs = &arrays[&format!("{}.picture", text("name"))];
            let theirs = theirs.flatten_all().unwrap().to_vec1::<u8>().unwrap();
            assert_eq!(picture.bytes().len(), theirs.len());
            let differences = picture.bytes().iter().zip(&theirs).map(|(a, b)| a.abs_diff(*b));
            let worst = differences.max().unwrap();
            println!("{name}: largest difference {worst}/255");
            assert!(worst <= 2, "{name}: a pixel differs by {worst}/255");
        }
    }
}

#[test]
fn weight_zero_and_nothing_are_the_same_to_the_bit() {
    let pipeline = sd15();
    let plain = bits(&latents(&pipeline, &request(Vec::new())));
    for apply in [Apply::Merge, Apply::Bypass] {
        let none = Request { apply, ..request(vec![lora(A, 0.0), lora(B, 0.0)]) };
        assert_eq!(bits(&latents(&pipeline, &none)), plain);
    }
    // Also after another stack was there.
    assert_ne!(bits(&latents(&pipeline, &request(vec![lora(A, 1.0)]))), plain);
    assert_eq!(bits(&latents(&pipeline, &request(Vec::new()))), plain);
}

#[test]
fn the_order_of_a_sum_does_not_change_a_bit() {
    let stack = || vec![lora(A, 0.8), lora(B, -0.4), lora("good/sd15-lyco-loha.safetensors", 0.5)];
    let forward = bits(&latents(&sd15(), &request(stack())));
    let mut turned = stack();
    turned.reverse();
    assert_eq!(bits(&latents(&sd15(), &request(turned))), forward);
    // Adapters that depend on the weight see what others made only when asked to.
    let mixed = |method, turned: bool| {
        let mut loras = vec![
            lora("good/sd15-lyco-locon.safetensors", 1.0),
            lora("good/sd15-lyco-dora-out.safetensors", 0.9),
        ];
        if turned {
            loras.reverse();
        }
        latents(&sd15(), &Request { lora_method: method, ..request(loras) })
    };
    assert_eq!(bits(&mixed(Method::Sum, false)), bits(&mixed(Method::Sum, true)));
    assert!(apart(&mixed(Method::Sequential, false), &mixed(Method::Sequential, true)) > 1e-4);
}

#[test]
fn changing_weights_goes_back_to_the_pristine_base() {
    let pipeline = sd15();
    let first = bits(&latents(&pipeline, &request(vec![lora(A, 0.7)])));
    for weight in [1.0, -2.0, 0.3, 5.0] {
        latents(&pipeline, &request(vec![lora(A, weight), lora(B, 0.2)]));
    }
    assert_eq!(bits(&latents(&pipeline, &request(vec![lora(A, 0.7)]))), first);
}

#[test]
fn stacks_draw_side_by_side_over_one_base() {
    let stacks = || {
        vec![
            vec![],
            vec![lora(A, 0.7)],
            vec![lora(B, 1.0)],
            vec![lora(A, 0.4), lora(B, -0.6)],
            vec![lora("good/sd15-lyco-loha.safetensors", 1.0), lora(A, 1.0)],
        ]
    };
    for apply in [Apply::Merge, Apply::Bypass] {
        let draw = |pipeline: &Pipeline, loras| {
            bits(&latents(pipeline, &Request { apply, ..request(loras) }))
        };
        let alone: Vec<_> = stacks().into_iter().map(|stack| draw(&sd15(), stack)).collect();
        let pipeline = sd15();
        let together: Vec<_> = std::thread::scope(|scope| {
            let (pipeline, draw) = (&pipeline, &draw);
            let run = |stack| scope.spawn(move || draw(pipeline, stack));
            let threads: Vec<_> = stacks().into_iter().map(run).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(together == alone, "{apply}: stacks disturb each other");
        assert!((1..alone.len()).all(|i| alone[i] != alone[i - 1]), "the stacks draw alike");
    }
}

#[test]
fn step_windows_switch_the_adapter_on_and_off() {
    let pipeline = sd15();
    let windowed = |steps: Option<StepWindow>| {
        let text_off = LoraRef { text: Some(0.0), steps, ..lora(A, 1.0) };
        latents(&pipeline, &Request { apply: Apply::Merge, ..request(vec![text_off]) })
    };
    let plain = latents(&pipeline, &request(Vec::new()));
    let always = windowed(None);
    let window = |a, b| Some(StepWindow::fractions(a, b).unwrap());
    assert_eq!(bits(&windowed(window(0.0, 1.0))), bits(&always));
    let first_half = windowed(window(0.0, 0.5));
    assert!(apart(&first_half, &plain) > 1e-3 && apart(&first_half, &always) > 1e-3);
    // No step of four lies in the window.
    let never = Some(StepWindow::steps(9, Some(12)).unwrap());
    assert_eq!(bits(&windowed(never)), bits(&plain));
    let bypassed = {
        let text_off = LoraRef { text: Some(0.0), steps: window(0.0, 0.5), ..lora(A, 1.0) };
        latents(&pipeline, &Request { apply: Apply::Bypass, ..request(vec![text_off]) })
    };
    assert!(apart(&bypassed, &first_half) < 1e-3);
}

#[test]
fn switch_and_composite_follow_their_paper() {
    let pipeline = sd15();
    let run = |method, loras: Vec<LoraRef>| {
        let apply = Apply::Merge;
        latents(&pipeline, &Request { lora_method: method, apply, ..request(loras) })
    };
    let alone = |file| run(Method::Sum, vec![lora(file, 1.0)]);
    // One adapter, or twice the same, is that adapter.
    let twice = vec![lora(A, 1.0), lora(A, 1.0)];
    assert_eq!(bits(&run(Method::Switch { period: 1 }, twice.clone())), bits(&alone(A)));
    assert!(apart(&run(Method::Composite, twice), &alone(A)) < 1e-5);
    // A period as long as the run leaves only the first.
    let both = || vec![lora(A, 1.0), lora(B, 1.0)];
    assert_eq!(bits(&run(Method::Switch { period: 4 }, both())), bits(&alone(A)));
    let switched = run(Method::Switch { period: 2 }, both());
    assert!(apart(&switched, &alone(A)) > 1e-3 && apart(&switched, &alone(B)) > 1e-3);
    // The first step of a composite is the mean of the two: Euler is linear in the estimate.
    let one_step = |method, loras| {
        let request =
            Request { lora_method: method, steps: Some(1), apply: Apply::Merge, ..request(loras) };
        latents(&pipeline, &request)
    };
    let mean = (one_step(Method::Sum, vec![lora(A, 1.0)])
        + one_step(Method::Sum, vec![lora(B, 1.0)]))
    .unwrap();
    let mean = (mean / 2.0).unwrap();
    assert!(apart(&one_step(Method::Composite, both()), &mean) < 1e-5);
}

#[test]
fn tags_in_the_prompt_are_loras() {
    let pipeline = sd15();
    let path = zoo(A);
    let tagged = Request {
        prompt: format!("a photo of a cat <lora:{}:0.8>", path.display()),
        ..request(Vec::new())
    };
    let plan = pipeline.plan(&tagged, 0).unwrap();
    assert_eq!((plan.prompt.as_str(), plan.loras.len()), ("a photo of a cat", 1));
    let flagged = request(vec![lora(A, 0.8)]);
    assert_eq!(bits(&latents(&pipeline, &tagged)), bits(&latents(&pipeline, &flagged)));
    // The request in the picture makes it again, whatever its prompt looks like.
    let odd = Request { prompt: r"a \<lora:x:1> sign".into(), ..request(Vec::new()) };
    let plan = pipeline.plan(&odd, 0).unwrap();
    assert_eq!(plan.prompt, "a <lora:x:1> sign");
    assert_eq!(pipeline.plan(&plan.request_for(0), 0).unwrap().prompt, plan.prompt);
    let open = Request { prompt: "a cat <lora:x".into(), ..request(Vec::new()) };
    assert!(pipeline.plan(&open, 0).unwrap_err().to_string().contains('^'));
}

#[test]
fn new_words_reach_the_text_encoder() {
    let pipeline = sd15();
    let with = |prompt: &str, loras: Vec<LoraRef>| {
        latents(&pipeline, &Request { prompt: prompt.into(), ..request(loras) })
    };
    let bundle = || vec![lora("good/sd15-bundle-only.safetensors", 1.0)];
    let plain = with("a photo of a cat", Vec::new());
    assert_eq!(bits(&with("a photo of a cat", bundle())), bits(&plain), "words that are not used");
    let word = with("a photo of old-star", bundle());
    assert!(apart(&word, &with("a photo of old-star", Vec::new())) > 1e-4);
    assert_eq!(bits(&with("a photo of OLD-STAR", bundle())), bits(&word), "case does not matter");
}

#[test]
fn new_words_reach_both_text_encoders() {
    let pipeline = Pipeline::open(golden("sdxl")).unwrap();
    // Nothing but the words acts.
    let words = || vec![lora("good/sdxl-onetrainer.safetensors", 0.0)];
    let with = |prompt: &str, loras| {
        latents(&pipeline, &Request { prompt: prompt.into(), ..request(loras) })
    };
    let plain = "a photo of a cat";
    assert_eq!(bits(&with(plain, words())), bits(&with(plain, Vec::new())));
    for word in ["my token", "v1.5 style"] {
        let prompt = format!("a photo of {word}");
        assert!(apart(&with(&prompt, words()), &with(&prompt, Vec::new())) > 1e-4, "{word}");
    }
}

#[test]
fn the_same_word_of_two_files_does_not_depend_on_order() {
    let folder = tempfile::tempdir().unwrap();
    let cpu = candle_core::Device::Cpu;
    let first = zoo("good/sd15-bundle-only.safetensors");
    let words = candle_core::safetensors::load(&first, &cpu).unwrap();
    let turned = words.into_iter().map(|(key, values)| (key, values.neg().unwrap()));
    let second = folder.path().join("turned.safetensors");
    candle_core::safetensors::save(&turned.collect(), &second).unwrap();
    let draw = |files: &[&Path]| {
        let named = |path: &&Path| LoraRef::new(path.to_str().unwrap());
        let loras = files.iter().map(named).collect();
        let prompt = "a photo of old-star".into();
        bits(&latents(&sd15(), &Request { prompt, ..request(loras) }))
    };
    let both = draw(&[&first, &second]);
    assert_eq!(both, draw(&[&second, &first]));
    let (one, other) = (draw(&[&first]), draw(&[&second]));
    assert!(one != other && (both == one || both == other), "one of the two words is used");
}

#[test]
fn files_of_other_families_are_refused_before_anything_runs() {
    let pipeline = sd15();
    let wrong = request(vec![lora("good/sdxl-uniform-a.safetensors", 1.0)]);
    let error = pipeline.plan(&wrong, 0).unwrap_err();
    assert_eq!(error.fault().exit_code(), 3);
    assert!(error.to_string().contains("SDXL"), "{error}");
}

#[test]
fn methods_of_task_arithmetic() {
    let pipeline = sd15();
    let stack = || vec![lora(A, 0.8), lora("good/sd15-lyco-loha.safetensors", 0.5)];
    let run = |method: &str| {
        let request = Request { lora_method: method.parse().unwrap(), ..request(stack()) };
        latents(&pipeline, &request)
    };
    let sum = run("sum");
    assert_eq!(bits(&run("cat")), bits(&sum));
    // Every rank is kept, every entry is kept: the sum again.
    for whole in ["svd:rank=4096", "dare:density=1", "sequential"] {
        assert!(apart(&run(whole), &sum) < 2e-3, "{whole}: {}", apart(&run(whole), &sum));
    }
    for other in ["svd:rank=1", "ties:density=0.2", "dare:density=0.3,seed=1", "dare-ties"] {
        assert!(apart(&run(other), &sum) > 1e-3, "{other}");
    }
    assert_eq!(bits(&run("dare:seed=3")), bits(&run("dare:seed=3")));
    // Nor does the order of the adapters choose other entries.
    let turned = stack().into_iter().rev().collect();
    let turned = Request { lora_method: "dare:seed=3".parse().unwrap(), ..request(turned) };
    assert_eq!(bits(&latents(&sd15(), &turned)), bits(&run("dare:seed=3")));
    assert!(apart(&run("dare:seed=3"), &run("dare:seed=4")) > 1e-3);
}
