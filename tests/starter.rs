//! The model that is built in: it opens, draws, listens to the prompt and stays small.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use colora::{Cancel, Picture, Pipeline, Request};
use std::path::{Path, PathBuf};

/// Most bytes of the whole folder, and of one file.
const FOLDER: u64 = 40 << 20;
const FILE: u64 = 16 << 20;

fn draw(pipeline: &Pipeline, prompt: &str, seed: u64) -> Picture {
    let request =
        Request { prompt: prompt.into(), seed: Some(seed), steps: Some(12), ..Request::default() };
    let plan = pipeline.plan(&request, 0).unwrap();
    let mut picture = None;
    let silent = |_: &colora::Event| {};
    pipeline
        .generate(&plan, &silent, &Cancel::new(), &mut |image| {
            picture = Some(image.picture);
            Ok(())
        })
        .unwrap();
    picture.unwrap()
}

/// Mean of red, green and blue over the middle of a picture.
fn middle(picture: &Picture) -> [f64; 3] {
    let (width, height) = (picture.width(), picture.height());
    let mut sum = [0.0; 3];
    let mut count = 0.0;
    for y in height / 3..2 * height / 3 {
        for x in width / 3..2 * width / 3 {
            let at = 3 * (y * width + x);
            for (channel, value) in sum.iter_mut().zip(&picture.bytes()[at..at + 3]) {
                *channel += f64::from(*value);
            }
            count += 1.0;
        }
    }
    sum.map(|s| s / count)
}

#[test]
fn it_draws_what_it_is_asked_for() {
    let pipeline = Pipeline::options().device(colora::DeviceChoice::Cpu).open_starter().unwrap();
    for seed in [1, 2] {
        let [red, green, blue] = middle(&draw(&pipeline, "a red apple", seed));
        assert!(red > green + 40.0 && red > blue + 40.0, "a red apple of {red} {green} {blue}");
        let [red, green, blue] = middle(&draw(&pipeline, "blue heart", seed));
        assert!(blue > green + 40.0 && blue > red + 40.0, "a blue heart of {red} {green} {blue}");
    }
    let corner = draw(&pipeline, "red apple", 1).bytes()[..3].to_vec();
    assert!(corner.iter().all(|v| *v > 215), "the background is white, not {corner:?}");
}

#[test]
fn the_same_seed_draws_the_same_bytes() {
    let pipeline = Pipeline::options().device(colora::DeviceChoice::Cpu).open_starter().unwrap();
    let again = Pipeline::options().device(colora::DeviceChoice::Cpu).open_starter().unwrap();
    let picture = draw(&pipeline, "rocket", 3);
    assert!(picture.bytes() == draw(&again, "rocket", 3).bytes());
    assert!(picture.bytes() != draw(&pipeline, "rocket", 4).bytes());
}

#[test]
fn the_built_in_files_are_the_folder() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/starter");
    let built_in = Pipeline::options().device(colora::DeviceChoice::Cpu).open_starter().unwrap();
    let opened = Pipeline::options().device(colora::DeviceChoice::Cpu).open(&folder).unwrap();
    assert!(draw(&built_in, "cat face", 5).bytes() == draw(&opened, "cat face", 5).bytes());
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

#[test]
fn it_stays_small() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/starter");
    let sizes: Vec<u64> =
        files(&folder).iter().map(|path| std::fs::metadata(path).unwrap().len()).collect();
    assert!(sizes.iter().sum::<u64>() <= FOLDER, "{} bytes", sizes.iter().sum::<u64>());
    assert!(sizes.iter().all(|size| *size <= FILE));
}
