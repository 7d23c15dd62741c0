//! What the integration tests share.
#![allow(dead_code, unreachable_pub, clippy::print_stdout, clippy::unwrap_used)] // each test file uses a part

use candle_core::{Device, Tensor};
use colora::{Cancel, Event, Picture, Pipeline, Request};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// A file of `tests/goldens`, in the repository that `COLORA_ROOT` names when tests were built elsewhere.
pub fn golden(name: &str) -> PathBuf {
    let root = std::env::var_os("COLORA_ROOT");
    let root = root.map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).into(), PathBuf::from);
    root.join("tests/goldens").join(name)
}

/// Copies a folder; links become what they lead to.
pub fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for item in std::fs::read_dir(from).unwrap() {
        let path = item.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy_folder(&path, &target);
        } else {
            std::fs::copy(path, target).unwrap();
        }
    }
}

/// The only picture of a request.
pub fn draw(pipeline: &Pipeline, request: &Request) -> Picture {
    let plan = pipeline.plan(request, 0).unwrap();
    let mut picture = None;
    let mut sink = |image: colora::Generated| {
        picture = Some(image.picture);
        Ok(())
    };
    pipeline.generate(&plan, &|_: &Event| {}, &Cancel::new(), &mut sink).unwrap();
    picture.unwrap()
}

/// Peak signal-to-noise ratio in dB.
pub fn psnr(a: &Picture, b: &Picture) -> f64 {
    assert_eq!(a.bytes().len(), b.bytes().len());
    let squares: f64 =
        a.bytes().iter().zip(b.bytes()).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum();
    10.0 * (255.0f64.powi(2) * a.bytes().len() as f64 / squares.max(1e-9)).log10()
}

/// All tensors of a golden safetensors file.
pub fn tensors(name: &str) -> HashMap<String, Tensor> {
    candle_core::safetensors::load(golden(name), &Device::Cpu)
        .unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// Largest difference relative to the largest golden value, with its place.
pub fn assert_close(what: &str, actual: &Tensor, golden: &Tensor, tolerance: f32) {
    assert_eq!(actual.dims(), golden.dims(), "{what}: shape");
    let flat = |t: &Tensor| {
        let t = t.to_dtype(candle_core::DType::F32).unwrap();
        t.flatten_all().unwrap().to_vec1::<f32>().unwrap()
    };
    let (a, g) = (flat(actual), flat(golden));
    let scale = g.iter().fold(1e-12f32, |m, v| m.max(v.abs()));
    let (index, error) = a
        .iter()
        .zip(&g)
        .map(|(a, g)| if a.is_nan() { f32::INFINITY } else { (a - g).abs() / scale })
        .enumerate()
        .fold((0, 0.0), |worst, (i, e)| if e > worst.1 { (i, e) } else { worst });
    assert!(
        error <= tolerance,
        "{what}: relative error {error:.2e} at {index} (got {}, golden {}), at most {tolerance:.0e}",
        a[index],
        g[index]
    );
    println!("{what}: relative error {error:.1e}");
}
