//! What a program without a command line does with colora, through its public face alone.
#![allow(clippy::unwrap_used)]

use colora::app::{self, Job, Pool, SaveOptions, Unobserved};
use colora::candle_core::Tensor;
use colora::lora::AdapterFile;
use colora::pipeline::{PathResolver, ResolvedLora, Silent};
use colora::sampling::{
    Denoiser, Grid, Integrator, NoiseProcess, NoiseSource, NoiseTable, Sampling, SchedulerConfig, Step,
};
use colora::store::Store;
use colora::{Cancel, Error, Event, Fault, LoraRef, LoraResolver, Pipeline, Request};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

fn loras() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../loras")
}

fn lora(name: &str, weight: f32) -> LoraRef {
    let path = loras().join(name).with_extension("safetensors");
    LoraRef { unet: Some(weight), text: Some(weight), ..LoraRef::new(path.to_string_lossy()) }
}

fn request(loras: Vec<LoraRef>) -> Request {
    Request {
        prompt: "a red apple".into(),
        width: Some(64),
        height: Some(64),
        steps: Some(2),
        seed: Some(1),
        loras,
        ..Request::default()
    }
}

fn pixels(pipeline: &Pipeline, loras: Vec<LoraRef>) -> Vec<u8> {
    pipeline.draw(&request(loras)).unwrap()[0].picture.bytes().to_vec()
}

fn starter() -> Pipeline {
    Pipeline::options().open_starter().unwrap()
}

/// A store that has the repository's LoRAs and nothing of the machine.
fn store() -> Store {
    Store::new(&[], Path::new("nowhere"), &|_| None).with_loras(&[loras()], None)
}

#[test]
fn the_loras_of_a_folder_are_listed() {
    let names: Vec<String> = store().loras().into_iter().map(|entry| entry.name).collect();
    for name in ["flat", "gold", "santa", "wizard"] {
        assert!(names.iter().any(|found| found == name), "{name} is not in {names:?}");
    }
}

#[test]
fn a_stack_of_two_and_another_strength_change_the_picture() {
    let pipeline = starter();
    let plain = pixels(&pipeline, Vec::new());
    let two = pixels(&pipeline, vec![lora("flat", 0.8), lora("santa", 1.0)]);
    let weaker = pixels(&pipeline, vec![lora("flat", 0.4), lora("santa", 1.0)]);
    assert!(plain != two && two != weaker);
    assert_eq!(two, pixels(&pipeline, vec![lora("santa", 1.0), lora("flat", 0.8)]));
    assert_eq!(plain, pixels(&pipeline, vec![lora("flat", 0.0)]));
}

#[test]
fn progress_goes_out_and_another_thread_cancels() {
    let pipeline = starter();
    let plan = pipeline.plan(&request(Vec::new()), 0).unwrap();
    let steps = Mutex::new(Vec::new());
    let observer = |event: &Event| {
        if let Event::Step { step, .. } = event {
            steps.lock().unwrap().push(*step);
        }
    };
    pipeline.generate(&plan, &observer, &Cancel::new(), &mut |_| Ok(())).unwrap();
    assert_eq!(*steps.lock().unwrap(), [1, 2]);

    let cancel = Cancel::new();
    let other = cancel.clone();
    let observer = move |event: &Event| {
        if let Event::Step { .. } = event {
            let other = other.clone();
            std::thread::spawn(move || other.cancel()).join().unwrap();
        }
    };
    let error = pipeline.generate(&plan, &observer, &cancel, &mut |_| Ok(())).unwrap_err();
    assert!(matches!(error, Error::Cancelled), "{error}");
}

#[test]
fn two_threads_share_one_pipeline() {
    let pipeline = Arc::new(starter());
    let expected = pixels(&pipeline, vec![lora("flat", 0.8)]);
    let threads = [0, 1].map(|_| {
        let pipeline = Arc::clone(&pipeline);
        std::thread::spawn(move || pixels(&pipeline, vec![lora("flat", 0.8)]))
    });
    for thread in threads {
        assert_eq!(thread.join().unwrap(), expected);
    }
}

/// Names of this program's own.
#[derive(Debug)]
struct Ours;

impl LoraResolver for Ours {
    fn resolve(&self, name: &str) -> colora::Result<ResolvedLora> {
        match name {
            "ours" => {
                let file = AdapterFile::open(loras().join("flat.safetensors"))?;
                Ok(ResolvedLora { file, weight: Some(0.8) })
            }
            other => PathResolver.resolve(other),
        }
    }
}

#[test]
fn a_program_brings_its_own_source_of_loras() {
    let pipeline = Pipeline::options().lora_resolver(Arc::new(Ours)).open_starter().unwrap();
    let ours = pixels(&pipeline, vec![LoraRef::new("ours")]);
    assert_eq!(ours, pixels(&starter(), vec![lora("flat", 0.8)]));
}

/// Jumps to the estimate of x₀ and adds fresh noise of the next level.
#[derive(Debug)]
struct Jump;

impl Integrator for Jump {
    fn step(
        &mut self,
        model: &dyn Denoiser,
        x: &Tensor,
        grid: &Grid,
        i: usize,
        noise: &mut dyn NoiseSource,
    ) -> colora::Result<Step> {
        let level = grid.levels[i];
        let denoised = model.denoise(x, level.sigma)?;
        let mut x = denoised.clone();
        if level.next > 0.0 {
            let fresh = noise.between(level.sigma, level.next, &x)?;
            x = grid.process.add_noise(&x, &fresh, level.next)?;
        }
        Ok(Step { x, denoised })
    }
}

#[test]
fn a_program_brings_its_own_sampler() {
    let pipeline = starter();
    let plan = pipeline.plan(&request(Vec::new()), 0).unwrap();
    let table = NoiseTable::new(&SchedulerConfig::default()).unwrap();
    let process = NoiseProcess::VariancePreserving(table);
    let grid = Grid::from_sigmas(process, &[14.0, 2.0, 0.0]).unwrap();
    let sampling = Sampling { integrator: Box::new(Jump), grid };
    let run = pipeline.prepare(&plan).unwrap();
    let mut steps = run.steps_with([0], sampling).unwrap();
    assert_eq!(steps.by_ref().map(|step| step.unwrap()).count(), 2);
    let own = steps.finish().unwrap();
    assert_ne!(own.picture.bytes(), pixels(&pipeline, Vec::new()));
}

#[test]
fn errors_are_told_apart_by_kind() {
    let pipeline = starter();
    let missing = pipeline.draw(&request(vec![LoraRef::new("missing")])).unwrap_err();
    assert_eq!(missing.fault(), Fault::NotFound);
    assert!(matches!(missing.inner(), Error::NotFound { what: "LoRA", .. }), "{missing}");
    let wrong = pipeline.draw(&Request { steps: Some(0), ..request(Vec::new()) }).unwrap_err();
    assert_eq!(wrong.fault(), Fault::User);
    let plan = pipeline.plan(&request(Vec::new()), 0).unwrap();
    let cancel = Cancel::new();
    cancel.cancel();
    let stopped = pipeline.generate(&plan, &Silent, &cancel, &mut |_| Ok(())).unwrap_err();
    assert_eq!(stopped.fault(), Fault::Cancelled);
}

#[test]
fn a_job_is_saved_and_its_record_read_back() {
    let folder = std::env::temp_dir().join(format!("colora-walk-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let json = r#"{"device": "cpu", "prompt": "a red apple", "steps": 2, "width": 64, "height": 64,
        "seed": 7, "loras": [{"name": "flat", "weight": 0.8}]}"#;
    let job = Job::from_json(json).unwrap();
    let save = SaveOptions::new(folder.join("apple.png"));
    let work = app::run(&Pool::new(store()), &job, &save, &Unobserved, &Cancel::new()).unwrap();
    let record = app::record::read(&work.saved[0]).unwrap();
    std::fs::remove_dir_all(&folder).unwrap();
    assert_eq!(record.request.seed, Some(7));
    assert_eq!(record.request, work.plan.request_for(0));
}
