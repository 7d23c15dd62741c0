//! LoRAs from files into the weights of a full-size model, in stages.
//!
//!     COLORA_BENCH_MODEL=sd15 COLORA_BENCH_LORAS=loras cargo bench --bench compose
//!
//! The model and the files are made by `benches/peers/make_fullsize.py` and `make_loras.py`; without them
//! the bench says so and stops. One JSON line for 1, 2, 4 and 8 LoRAs of rank 16 and a LoCon of rank 64.
#![allow(missing_docs, clippy::print_stdout, clippy::unwrap_used)]

use colora::family::ModelParts;
use colora::lora::{
    AdapterFile, Apply, Dictionary, Lora, LoraStack, Overlay, ReadOptions, StackEntry, Strength,
};
use colora::weights::{Placement, Resident, WeightSource};
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
    for files in [&many[..1], &many[..2], &many[..4], &many[..], &locon[..]] {
        run(&model, files);
    }
}

/// One stack, cold and then changed.
fn run(model: &Path, files: &[PathBuf]) {
    let parts = ModelParts::open(model, Placement::default(), None).unwrap();
    let begin = Instant::now();
    let dictionary = Dictionary::new(&*parts.source, parts.family.to_string());
    let loras: Vec<Arc<Lora>> = files
        .iter()
        .map(|path| {
            let file = AdapterFile::open(path).unwrap();
            Arc::new(Lora::resolve(file, &dictionary, ReadOptions::default()).unwrap())
        })
        .collect();
    let opened = begin.elapsed();
    let base = Arc::new(Resident::new(parts.source.clone()));
    let stack = |first: f32| {
        let strength = |w| Strength { unet: w, text: w, ..Strength::default() };
        let entry = |(i, lora): (usize, &Arc<Lora>)| StackEntry {
            lora: lora.clone(),
            strength: strength(if i == 0 { first } else { 0.8 }),
        };
        LoraStack::new(loras.iter().enumerate().map(entry).collect())
    };
    let compose = |first: f32| {
        let begin = Instant::now();
        let source: Arc<dyn WeightSource> = base.clone();
        let overlay =
            Overlay::compose(source, &dictionary, &stack(first), Apply::Merge, |_| true).unwrap();
        (overlay, begin.elapsed())
    };
    let (overlay, composed) = compose(0.8);
    let changed = overlay.changed();
    drop(overlay);
    let again: Vec<f64> = (0..5)
        .map(|i| {
            let (overlay, time) = compose(0.1 * i as f32 + 0.1);
            drop(overlay);
            time.as_secs_f64()
        })
        .collect();
    let best = again.iter().copied().fold(f64::INFINITY, f64::min);
    let names: Vec<_> = files.iter().map(|f| f.file_stem().unwrap().to_string_lossy()).collect();
    println!(
        "{}",
        serde_json::json!({
            "peer": "colora", "files": names, "open_s": opened.as_secs_f64(),
            "compose_s": composed.as_secs_f64(),
            "total_s": (opened + composed).as_secs_f64(),
            "reweight_s": best, "sites": changed,
        })
    );
}
