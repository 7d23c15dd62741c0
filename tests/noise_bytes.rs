//! The same request gives the same bytes: twice, with one thread and two, alone and among others, for every sampler and
//! every source of noise.
#![allow(clippy::unwrap_used)]

mod support;

use colora::pipeline::{Run, Steps};
use colora::sampling::{NoiseUse, Sampler, Schedule};
use colora::{Pipeline, Request};
use support::golden;

/// Latents at the end of the steps of some images, each by itself.
fn ends(run: &Run, images: &[usize]) -> Vec<Vec<f32>> {
    let mut steps: Steps = run.steps(images.iter().copied()).unwrap();
    steps.by_ref().for_each(|step| drop(step.unwrap()));
    let latents = steps.latents().unwrap();
    let values = |i: usize| latents.get(i).unwrap().flatten_all().unwrap().to_vec1().unwrap();
    (0..images.len()).map(values).collect()
}

fn on_threads<T: Send>(threads: usize, work: impl FnOnce() -> T + Send) -> T {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(work)
}

#[test]
fn every_sampler_and_noise_gives_the_same_bytes() {
    let pipeline = Pipeline::options().device("cpu".parse().unwrap()).open(golden("sd15")).unwrap();
    for sampler in Sampler::ALL {
        // Samplers without noise draw the start alone: one source shows the rest.
        let spec = sampler.spec();
        let silent = matches!(spec.noise, NoiseUse::Never);
        let all = ["cpu", "nv", "cuda:1x256"];
        for rng in &all[..if silent { 1 } else { 3 }] {
            let request = Request {
                prompt: "a cat".into(),
                width: Some(64),
                height: Some(64),
                steps: Some(3),
                count: 2,
                seed: Some(11),
                rng: rng.parse().ok(),
                sampler: Some(sampler),
                schedule: Some(Schedule::Karras),
                guidance_scale: Some(3.0),
                ..Request::default()
            };
            let plan = pipeline.plan(&request, 0).unwrap();
            let run = pipeline.prepare(&plan).unwrap();
            let first = on_threads(1, || ends(&run, &[0]));
            let second = on_threads(2, || ends(&run, &[1]));
            let what = format!("{sampler}, {rng}");
            assert_eq!(on_threads(2, || ends(&run, &[0])), first, "{what}: again");
            assert!(first[0].iter().all(|value| value.is_finite()), "{what}");
            assert_ne!(first, second, "{what}: two seeds");
            if spec.alone {
                assert!(run.steps([0, 1]).is_err(), "{what}");
                continue;
            }
            let both = ends(&run, &[0, 1]);
            assert!(both[0] == first[0] && both[1] == second[0], "{what}: among others");
        }
    }
}

/// Variations, seed resize and ENSD change the picture, and an image of several is the one of its own request.
#[test]
fn variations_are_their_own_requests() {
    let pipeline = Pipeline::options().device("cpu".parse().unwrap()).open(golden("sd15")).unwrap();
    let plain = Request {
        prompt: "a cat".into(),
        width: Some(64),
        height: Some(64),
        steps: Some(2),
        count: 2,
        seed: Some(11),
        sampler: Some(Sampler::EulerA),
        ..Request::default()
    };
    let of = |request: &Request| {
        let plan = pipeline.plan(request, 5).unwrap();
        let all = ends(&pipeline.prepare(&plan).unwrap(), &[0, 1]);
        let again = plan.request_for(1);
        let alone = pipeline.prepare(&pipeline.plan(&again, 99).unwrap()).unwrap();
        assert_eq!(ends(&alone, &[0])[0], all[1]);
        all
    };
    let start = of(&plain);
    let varied = Request { variation_strength: 0.3, variation_seed: Some(4), ..plain.clone() };
    let resized = Request { seed_resize: "48x80".parse().ok(), ..plain.clone() };
    let moved = Request { ensd: 31337, ..plain.clone() };
    for other in [varied, resized, moved, Request { rng: "nv".parse().ok(), ..plain.clone() }] {
        let found = of(&other);
        assert!(found[0] != start[0] && found[1] != start[1] && found[0] != found[1], "{other:?}");
    }
    let none = Request { variation_seed: Some(4), ..plain.clone() };
    assert_eq!(of(&none), start, "a variation of strength 0 is none");
}
