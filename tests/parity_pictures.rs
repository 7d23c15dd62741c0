//! Whole pictures against the diffusers pipelines: same weights, same seed, same pixels.
//! The goldens are made by `goldens/make_pictures.py`.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod support;

use colora::family::ModelParts;
use colora::sampling::{Sampler, Schedule, SchedulerConfig};
use colora::weights::Placement;
use colora::{Pipeline, Request};
use serde::Deserialize;
use serde_json::Value;
use support::{assert_close, golden, tensors};

/// Largest difference of a pixel's colour.
const PIXEL: i32 = 2;
/// Largest difference of the final latents, relative to their largest value.
const LATENTS: f32 = 1e-3;

#[derive(Deserialize)]
struct Goldens {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    model: String,
    scheduler: String,
    scheduler_config: Value,
    prompt: Value,
    negative_prompt: Value,
    guidance_scale: f64,
    seed: Value,
    width: usize,
    height: usize,
    steps: usize,
    #[serde(default)]
    clip_skip: usize,
    // What this version of colora does not do.
    init: Option<String>,
    crops_coords_top_left: Option<Value>,
    prompt_2: Option<String>,
}

impl Case {
    /// Why colora cannot draw this case yet.
    fn beyond(&self) -> Option<&'static str> {
        if self.init.is_some() {
            Some("image to image is not built yet")
        } else if self.crops_coords_top_left.is_some() || self.prompt_2.is_some() {
            Some("crops and second prompts are not built yet")
        } else if self.model == "sdxl" && self.negative_prompt == "" {
            Some("an empty negative prompt is the zero tensor, diffusers' default")
        } else {
            None
        }
    }

    fn pipeline(&self) -> (Pipeline, Schedule) {
        let mut parts = ModelParts::open(&golden(&self.model), Placement::default(), None).unwrap();
        let config: SchedulerConfig =
            serde_json::from_value(self.scheduler_config.clone()).unwrap();
        let karras = config.use_karras_sigmas == Some(true);
        parts.scheduler = config;
        let schedule = if karras { Schedule::Karras } else { Schedule::Discrete };
        (Pipeline::options().over(parts).unwrap(), schedule)
    }

    fn request(
        &self,
        prompt: &Value,
        negative: &Value,
        seed: &Value,
        schedule: Schedule,
    ) -> Request {
        Request {
            prompt: prompt.as_str().unwrap().into(),
            negative_prompt: negative.as_str().unwrap_or_default().into(),
            // diffusers reads no syntax and cuts a prompt after its window.
            prompt_syntax: Some(colora::prompt::PromptSyntax::Plain),
            width: Some(self.width),
            height: Some(self.height),
            steps: Some(self.steps),
            guidance_scale: Some(self.guidance_scale),
            sampler: Some(match self.scheduler.as_str() {
                "EulerDiscreteScheduler" => Sampler::Euler,
                "DDIMScheduler" => Sampler::Ddim,
                "DPMSolverMultistepScheduler" => Sampler::DpmPp2m,
                other => panic!("no sampler for {other}"),
            }),
            schedule: Some(schedule),
            seed: seed.as_u64(),
            // diffusers counts the layers that are left out.
            clip_skip: Some(self.clip_skip + 1),
            ..Request::default()
        }
    }
}

/// The items of a list, or the one value.
fn items(value: &Value) -> Vec<Value> {
    value.as_array().cloned().unwrap_or_else(|| vec![value.clone()])
}

#[test]
fn pictures_equal_diffusers() {
    let text = std::fs::read_to_string(golden("pictures.json")).unwrap();
    // Python's JSON has infinities.
    let goldens: Goldens = serde_json::from_str(&text.replace("-Infinity", "null")).unwrap();
    let arrays = tensors("pictures.safetensors");
    let mut drawn = 0;
    for case in &goldens.cases {
        if let Some(reason) = case.beyond() {
            println!("{}: skipped, {reason}", case.name);
            continue;
        }
        let (pipeline, schedule) = case.pipeline();
        let (prompts, negatives) = (items(&case.prompt), items(&case.negative_prompt));
        for (index, seed) in items(&case.seed).iter().enumerate() {
            let request = case.request(&prompts[index], &negatives[index], seed, schedule);
            let plan = pipeline.plan(&request, 0).unwrap();
            let mut steps = pipeline.steps(&plan, 0).unwrap();
            for step in steps.by_ref() {
                step.unwrap();
            }
            let pick = |what: &str, rank: usize| {
                let all = &arrays[&format!("{}.{what}", case.name)];
                if all.rank() == rank { all.clone() } else { all.get(index).unwrap() }
            };
            let latents = steps.latents().unwrap().squeeze(0).unwrap();
            assert_close(&case.name, &latents, &pick("latents", 3), LATENTS);
            let picture = steps.finish().unwrap().picture;
            let golden = pick("picture", 3).flatten_all().unwrap().to_vec1::<u8>().unwrap();
            assert_eq!(picture.bytes().len(), golden.len(), "{}: size", case.name);
            let worst = picture
                .bytes()
                .iter()
                .zip(&golden)
                .map(|(a, b)| (i32::from(*a) - i32::from(*b)).abs())
                .max()
                .unwrap();
            println!("{}: largest difference {worst}/255", case.name);
            assert!(worst <= PIXEL, "{}: a pixel differs by {worst}/255", case.name);
            drawn += 1;
        }
    }
    assert!(drawn >= 40, "only {drawn} pictures were compared");
}
