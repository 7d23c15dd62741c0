//! LoRAs from files into the weights of a full-size model, in stages.
//!
//!     COLORA_BENCH_MODEL=sd15 COLORA_BENCH_LORAS=loras cargo bench --bench compose
//!
//! The model and the files are made by `benches/peers/make_fullsize.py` and `make_loras.py`; without them
//! the bench says so and stops. One JSON line for 1, 2, 4 and 8 LoRAs of rank 16, a LoCon of rank 64, and one of
//! each, in bf16 and in f32, each measured in a process of its own, whose memory is as fresh as that of a program that
//! just started; the files are dropped from the page cache before they are opened. With `COLORA_BENCH_DEVICE=cuda` in
//! f16 on that device instead.
#![allow(missing_docs, clippy::print_stdout, clippy::unwrap_used)]

use candle_core::{DType, Device};
use colora::DeviceChoice;
use colora::conditioning::TextTowers;
use colora::family::ModelParts;
use colora::lora::{
    AdapterFile, Apply, Dictionary, Lora, LoraStack, Overlay, ReadOptions, StackEntry, Strength,
};
use colora::models::UNet;
use colora::pipeline::{peak_memory, reset_peak_memory};
use colora::weights::{Placement, Precision, Products, Resident, Scope, WeightSource};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

fn main() {
    let variable = |name| std::env::var_os(name).map(PathBuf::from);
    let (Some(model), Some(loras)) =
        (variable("COLORA_BENCH_MODEL"), variable("COLORA_BENCH_LORAS"))
    else {
        println!("skipped: COLORA_BENCH_MODEL and COLORA_BENCH_LORAS are not set");
        return;
    };
    let many: Vec<PathBuf> = (0..8).map(|i| loras.join(format!("r16-{i}.safetensors"))).collect();
    let locon = [loras.join("locon64.safetensors")];
    // The weight that changes is the first file's.
    let both = [many[0].clone(), locon[0].clone()];
    let stacks = [&many[..1], &many[..2], &many[..4], &many[..], &locon[..], &both[..]];
    let places = places();
    if let Some(case) = std::env::var(CASE).ok().and_then(|case| case.parse::<usize>().ok()) {
        return run(&model, &places[case / stacks.len()], stacks[case % stacks.len()]);
    }
    for case in 0..places.len() * stacks.len() {
        let mut child = std::process::Command::new(std::env::current_exe().unwrap());
        assert!(child.env(CASE, case.to_string()).status().unwrap().success(), "case {case}");
    }
}

/// Which case a child measures.
const CASE: &str = "COLORA_BENCH_CASE";

/// Where it runs, and in which numbers.
fn places() -> Vec<(&'static str, Placement)> {
    if let Ok(name) = std::env::var("COLORA_BENCH_DEVICE") {
        let device = name.parse::<DeviceChoice>().unwrap().open().unwrap();
        let (dtype, products) = (DType::F16, Products::Plain);
        return vec![("F16", Placement { device, dtype, products, ..Placement::default() })];
    }
    let packed =
        |precision| Placement { products: Products::Packed(precision), ..Placement::default() };
    vec![("Bf16", packed(Precision::Bf16)), ("F32", packed(Precision::F32))]
}

/// One stack in one precision: cold, and then with one strength changed again and again.
///
/// The network of the base stays, as in a program that draws with and without adapters; networks with
/// adapters share with it what no adapter touches.
fn run(model: &Path, (precision, placement): &(&str, Placement), files: &[PathBuf]) {
    let device = &placement.device;
    let parts = ModelParts::open(model, placement.clone(), None).unwrap();
    let base = Arc::new(Resident::new(parts.source.clone()));
    let (plain, built) = timed(device, || networks(&parts, &*base));
    for file in files {
        evict(file);
    }
    let before = resident();
    let ((dictionary, loras), opened) = timed(device, || {
        let dictionary = Dictionary::new(&*parts.source, parts.family.to_string());
        let open = |path: &PathBuf| {
            let file = AdapterFile::open(path).unwrap();
            Arc::new(Lora::resolve(file, &dictionary, ReadOptions::default()).unwrap())
        };
        let loras: Vec<Arc<Lora>> = files.iter().map(open).collect();
        (dictionary, loras)
    });
    let compose = |apply: Apply, first: f32| {
        let strength = |w| Strength { unet: w, text: w, ..Strength::default() };
        let entry = |(i, lora): (usize, &Arc<Lora>)| StackEntry {
            lora: lora.clone(),
            strength: strength(if i == 0 { first } else { 0.8 }),
        };
        let stack = LoraStack::new(loras.iter().enumerate().map(entry).collect());
        let source: Arc<dyn WeightSource> = base.clone();
        Overlay::compose(source, &dictionary, &stack, apply, |_| true).unwrap()
    };
    reset_peak_memory();
    let (overlay, composed) = timed(device, || compose(Apply::Merge, 0.8));
    let changed = overlay.changed();
    let (network, packed) = timed(device, || networks(&parts, &overlay));
    drop(overlay);
    let (peak, after) = (peak_memory().unwrap_or(0), resident());
    // As in a pipeline, the last stack stays while the next one is made, and the one before goes first.
    let again = |first: (UNet, TextTowers), apply: Apply| -> Vec<(f64, f64)> {
        let mut last = first;
        let mut before_last = None;
        let times = (0..7).map(|i| {
            drop(before_last.take());
            let (overlay, composed) = timed(device, || compose(apply, 0.1 * i as f32 + 0.1));
            let (network, packed) = timed(device, || networks(&parts, &overlay));
            before_last = Some(std::mem::replace(&mut last, network));
            (composed, packed)
        });
        // The first one takes fresh memory.
        times.skip(2).collect()
    };
    let middle = |times: &[(f64, f64)], time: fn(&(f64, f64)) -> f64| {
        let mut times: Vec<f64> = times.iter().map(time).collect();
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    };
    let merged = again(network, Apply::Merge);
    let (network, bypassed) = timed(device, || networks(&parts, &compose(Apply::Bypass, 0.8)));
    let bypasses = again(network, Apply::Bypass);
    drop(plain);
    let names: Vec<_> = files.iter().map(|f| f.file_stem().unwrap().to_string_lossy()).collect();
    let megabytes = |bytes: u64| bytes.saturating_sub(before) / 1_000_000;
    println!(
        "{}",
        serde_json::json!({
            "peer": "colora", "precision": precision, "files": names, "sites": changed,
            "base_build_s": built, "open_s": opened, "compose_s": composed, "build_s": packed,
            "open_compose_s": opened + composed, "total_s": opened + composed + packed,
            "recompose_s": middle(&merged, |t| t.0), "rebuild_s": middle(&merged, |t| t.1),
            "reweight_s": middle(&merged, |t| t.0 + t.1),
            "bypass_s": bypassed, "bypass_reweight_s": middle(&bypasses, |t| t.0 + t.1),
            "peak_extra_mb": megabytes(peak), "kept_extra_mb": megabytes(after),
        })
    );
}

/// The networks that adapters change.
fn networks(parts: &ModelParts, source: &dyn WeightSource) -> (UNet, TextTowers) {
    let unet = UNet::new(&Scope::new(source, "unet"), &parts.unet).unwrap();
    (unet, parts.text_towers(source).unwrap())
}

fn timed<T>(device: &Device, work: impl FnOnce() -> T) -> (T, f64) {
    let begin = Instant::now();
    let done = work();
    device.synchronize().unwrap();
    (done, begin.elapsed().as_secs_f64())
}

/// Bytes of the process that are in memory now, mapped files included.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|l| l.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// Drops a file from the page cache.
#[cfg(target_os = "linux")]
fn evict(path: &Path) {
    use std::os::fd::AsRawFd;
    let file = std::fs::File::open(path).unwrap();
    // SAFETY: advice about an open file changes nothing in memory.
    #[allow(unsafe_code)]
    unsafe {
        libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED);
    }
}

#[cfg(not(target_os = "linux"))]
fn evict(_: &Path) {}
