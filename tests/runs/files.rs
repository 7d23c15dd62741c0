//! LoRA files that change in the middle of a plan.

use crate::batch::{lora, options, request};
use colora::pipeline::Memory;
use colora::{Cancel, Event, Pipeline, Plan, Request};
use std::path::{Path, PathBuf};

/// What happens to a file.
#[derive(Clone, Copy, Debug)]
enum Change {
    /// Another one takes its place.
    Replace,
    /// Another one is written over it.
    Overwrite,
    Delete,
    Truncate,
}

const CHANGES: [Change; 4] = [Change::Replace, Change::Overwrite, Change::Delete, Change::Truncate];

impl Change {
    fn make(self, path: &Path) {
        let other = PathBuf::from(lora("gold", "1").name);
        match self {
            Self::Replace => {
                let new = path.with_extension("new");
                std::fs::copy(other, &new).unwrap();
                std::fs::rename(new, path).unwrap();
            }
            Self::Overwrite => {
                std::fs::copy(other, path).unwrap();
            }
            Self::Delete => std::fs::remove_file(path).unwrap(),
            Self::Truncate => {
                let file = std::fs::File::options().write(true).open(path).unwrap();
                file.set_len(file.metadata().unwrap().len() / 3).unwrap();
            }
        }
    }
}

/// A LoRA's file in a folder of its own.
struct Fixture {
    _folder: tempfile::TempDir,
    path: PathBuf,
}

impl Fixture {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.safetensors");
        std::fs::copy(lora("santa", "1").name, &path).unwrap();
        Self { _folder: folder, path }
    }

    /// With a step window, so that networks are taken in turn; text features depend on the LoRA too.
    fn plan(&self, pipeline: &Pipeline) -> Plan {
        let lora = format!("{}:1:steps=1..2", self.path.display()).parse().unwrap();
        let request = Request { loras: vec![lora], steps: Some(2), count: 3, ..request() };
        pipeline.plan(&request, 0).unwrap()
    }
}

/// The pictures of a plan; after the first one `change` is made to `path`.
fn generate(pipeline: &Pipeline, plan: &Plan, change: Option<Change>, path: &Path) -> Vec<Vec<u8>> {
    let mut pictures = Vec::new();
    let mut sink = |image: colora::Generated| {
        pictures.push(image.picture.bytes().to_vec());
        if let (0, Some(change)) = (image.index, change) {
            change.make(path);
        }
        Ok(())
    };
    pipeline.generate(plan, &|_: &Event| {}, &Cancel::new(), &mut sink).unwrap();
    pictures
}

#[test]
fn a_plan_is_generated_with_the_files_that_it_began_with() {
    for memory in [Memory::Resident, Memory::OneShot, Memory::Low] {
        let open = || options().memory(memory).open_starter().unwrap();
        let fixture = Fixture::new();
        let pipeline = open();
        let expected = generate(&pipeline, &fixture.plan(&pipeline), None, &fixture.path);
        for change in CHANGES {
            let fixture = Fixture::new();
            let pipeline = open();
            let plan = fixture.plan(&pipeline);
            let pictures = generate(&pipeline, &plan, Some(change), &fixture.path);
            assert!(pictures == expected, "{memory:?}: {change:?} changes pictures");
        }
    }
}

/// What a caller does who owns the loop: the file changes before the second image, and in the middle of the third.
fn by_steps(pipeline: &Pipeline, plan: &Plan, change: Option<Change>, path: &Path) -> Vec<Vec<u8>> {
    let run = pipeline.prepare(plan).unwrap();
    let bytes = |steps: colora::pipeline::Steps| steps.finish().unwrap().picture.bytes().to_vec();
    let mut pictures = vec![bytes(run.steps([0]).unwrap())];
    let mut third = run.steps([2]).unwrap();
    third.next().unwrap().unwrap();
    if let Some(change) = change {
        change.make(path);
    }
    pictures.push(bytes(run.steps([1]).unwrap()));
    pictures.push(bytes(third));
    pictures
}

#[test]
fn a_run_steps_with_the_files_that_it_began_with() {
    // Nothing is kept between images: all networks are put together anew from what the run holds.
    for memory in [Memory::Resident, Memory::Low] {
        let open = || options().memory(memory).open_starter().unwrap();
        let fixture = Fixture::new();
        let pipeline = open();
        let expected = by_steps(&pipeline, &fixture.plan(&pipeline), None, &fixture.path);
        for change in CHANGES {
            let fixture = Fixture::new();
            let pipeline = open();
            let plan = fixture.plan(&pipeline);
            let pictures = by_steps(&pipeline, &plan, Some(change), &fixture.path);
            assert!(pictures == expected, "{memory:?}: {change:?} changes pictures");
        }
    }
}

/// The next plan sees the file as it is then.
#[test]
fn the_next_run_reads_files_anew() {
    let fixture = Fixture::new();
    let pipeline = options().open_starter().unwrap();
    let plan = fixture.plan(&pipeline);
    let before = generate(&pipeline, &plan, Some(Change::Replace), &fixture.path);
    assert_ne!(generate(&pipeline, &plan, None, &fixture.path), before);
    Change::Delete.make(&fixture.path);
    let error = pipeline.prepare(&plan).unwrap_err().to_string();
    assert!(error.contains("x.safetensors"), "{error}");
}
