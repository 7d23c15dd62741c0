//! The table of failures, row by row: what happens, and in which words. Files that are refused as a whole are in
//! `zoo/bad` (`tests/lora_zoo.rs`); here is what only warns, and what depends on the base.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod support;

use candle_core::{DType, Device, Tensor};
use colora::Error;
use colora::family::ModelParts;
use colora::lora::{
    AdapterFile, Apply, Dictionary, Lora, LoraStack, Overlay, ReadOptions, StackEntry, Strength,
};
use colora::weights::{MemorySource, Placement, Site, Weight, WeightSource};
use std::path::{Path, PathBuf};
use std::sync::Arc;

fn zoo(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/zoo/{name}.safetensors"))
}

struct Base {
    source: Arc<dyn WeightSource>,
    dictionary: Dictionary,
}

fn base(name: &str) -> Base {
    let parts = ModelParts::open(&support::golden(name), Placement::default(), None).unwrap();
    let dictionary = Dictionary::new(&*parts.source, parts.family.to_string());
    Base { source: parts.source, dictionary }
}

fn open(name: &str, base: &Base, options: ReadOptions) -> Result<Arc<Lora>, Error> {
    let file = AdapterFile::open(zoo(name))?;
    Lora::resolve(file, &base.dictionary, options).map(Arc::new)
}

fn read(name: &str, base: &Base) -> Arc<Lora> {
    open(name, base, ReadOptions::default()).unwrap()
}

fn stack(entries: &[(&Arc<Lora>, f32)]) -> LoraStack {
    let entry = |(lora, w): &(&Arc<Lora>, f32)| StackEntry {
        lora: Arc::clone(lora),
        strength: Strength { unet: *w, text: *w, ..Strength::default() },
    };
    LoraStack::new(entries.iter().map(entry).collect())
}

fn compose(base: &Base, stack: &LoraStack) -> Overlay {
    let source = base.source.clone();
    Overlay::compose(source, &base.dictionary, stack, Apply::Merge, |_| true).unwrap()
}

/// Largest difference of two overlays.
fn apart(a: &Overlay, b: &Overlay) -> f32 {
    let mut worst = 0f32;
    for site in a.changed_sites().chain(b.changed_sites()) {
        let shape = a.shape(site).unwrap();
        let (a, b) = (a.get_f32(site, &shape).unwrap(), b.get_f32(site, &shape).unwrap());
        worst = a.iter().zip(&b).fold(worst, |w, (a, b)| w.max((a - b).abs()));
    }
    worst
}

fn warns(lora: &Lora, words: &str) {
    let warnings = &lora.report().warnings;
    assert!(warnings.iter().any(|warning| warning.contains(words)), "{words}: {warnings:?}");
}

#[test]
fn alpha_zero_and_orphans_warn() {
    let lora = read("good/sd15-alphas", &base("sd15"));
    warns(&lora, "alpha is 0");
    warns(&lora, "unmatched");
    assert_eq!(lora.report().unmatched, ["lora_unet_mid_block_resnets_0_conv1.alpha"]);
}

#[test]
fn rank_zero_is_counted_and_changes_nothing() {
    let lora = read("good/sd15-rank0", &base("sd15"));
    assert_eq!(lora.report().empty, 1);
}

#[test]
fn a_file_without_effect_warns() {
    warns(&read("good/sd15-zero-up", &base("sd15")), "changes nothing");
}

#[test]
fn unmatched_keys_warn_or_are_an_error() {
    let base = base("sd15");
    let lora = read("good/sd15-unmatched", &base);
    warns(&lora, "4 unmatched keys");
    let strict = ReadOptions { strict: true, ..ReadOptions::default() };
    let error = open("good/sd15-unmatched", &base, strict).unwrap_err();
    assert!(error.to_string().contains("--strict"), "{error}");
    assert_eq!(error.fault().exit_code(), 3);
}

#[test]
fn metadata_does_not_overrule_shapes() {
    let base = base("sd15");
    let (told, lied) = (read("good/sd15-kohya", &base), read("good/sd15-metadata-lies", &base));
    let composed = |lora| compose(&base, &stack(&[(lora, 1.0)]));
    assert_eq!(apart(&composed(&told), &composed(&lied)), 0.0);
}

#[test]
fn broken_modules_are_left_out_on_request() {
    let base = base("sd15");
    let lenient = ReadOptions { allow_nan: true, ..ReadOptions::default() };
    for name in ["bad/nan-up", "bad/inf-up"] {
        let refused = open(name, &base, ReadOptions::default()).and_then(|lora| {
            let (source, stack) = (base.source.clone(), stack(&[(&lora, 1.0)]));
            Overlay::compose(source, &base.dictionary, &stack, Apply::Merge, |_| true)
        });
        let message = refused.unwrap_err().to_string();
        assert!(message.contains("--allow-nan-modules"), "{message}");
        // Alone in its file, the broken module leaves nothing behind but a report.
        let lora = open(name, &base, lenient).unwrap();
        assert_eq!(lora.report().skipped.len(), 1, "{name}");
        assert_eq!(compose(&base, &stack(&[(&lora, 1.0)])).changed(), lora.sites().len());
        warns(&lora, "not finite");
    }
}

#[test]
fn the_first_encoders_old_name_warns_on_sdxl() {
    warns(&read("good/sdxl-te-prefix", &base("sdxl")), "lora_te_");
}

#[test]
fn two_differing_spellings_warn() {
    warns(&read("good/sdxl-twice-differing", &base("sdxl")), "come twice");
}

#[test]
fn the_same_file_twice_adds() {
    let base = base("sd15");
    let lora = read("good/sd15-kohya", &base);
    let twice = compose(&base, &stack(&[(&lora, 0.5), (&lora, 0.75)]));
    let once = compose(&base, &stack(&[(&lora, 1.25)]));
    assert!(apart(&twice, &once) < 1e-5, "{}", apart(&twice, &once));
}

#[test]
fn huge_changes_warn() {
    let base = base("sd15");
    let lora = read("good/sd15-kohya", &base);
    let warnings = |weight| compose(&base, &stack(&[(&lora, weight)])).warnings().join(" ");
    assert!(warnings(100.0).contains("10 times"), "{}", warnings(100.0));
    assert_eq!(warnings(0.01), "");
}

#[test]
fn an_inpainting_base_takes_the_adapter_of_its_family() {
    let base = base("sd15");
    let mut wide = MemorySource::resident(&*base.source).unwrap();
    let site = Site::new("unet.conv_in.weight");
    let shape = base.source.shape(&site).unwrap();
    let Weight::Dense(narrow) = base.source.get(&site, &shape).unwrap() else { unreachable!() };
    // Five more channels: the mask, and the latents of the masked picture.
    let more = Tensor::ones((shape[0], 5, shape[2], shape[3]), DType::F32, &Device::Cpu).unwrap();
    wide.insert(site.clone(), &Tensor::cat(&[&narrow, &more], 1).unwrap()).unwrap();
    let wide = Arc::new(wide);
    let dictionary = Dictionary::new(&*wide, "SD 1.x");
    let file = AdapterFile::open(zoo("good/sd15-lcm-like")).unwrap();
    let lora = Lora::resolve(file, &dictionary, ReadOptions::default()).unwrap();
    let change = lora.change(&*wide, &site, 1.0).unwrap().unwrap();
    let plain = read("good/sd15-lcm-like", &base);
    let expected = plain.change(&*base.source, &site, 1.0).unwrap().unwrap();
    let kernel = shape[2] * shape[3];
    for (ours, theirs) in change.chunks(9 * kernel).zip(expected.chunks(4 * kernel)) {
        assert!(ours[..4 * kernel].iter().zip(theirs).all(|(a, b)| (a - b).abs() < 1e-6));
        assert!(ours[4 * kernel..].iter().all(|v| *v == 0.0));
    }
}

#[test]
fn stacks_over_one_base_run_side_by_side() {
    let base = base("sd15");
    let names = ["good/sd15-kohya", "good/sd15-lyco-loha", "good/sd15-lyco-dora-out"];
    let loras: Vec<Arc<Lora>> = names.iter().map(|name| read(name, &base)).collect();
    let alone: Vec<Overlay> =
        loras.iter().map(|lora| compose(&base, &stack(&[(lora, 0.8)]))).collect();
    let together: Vec<Overlay> = std::thread::scope(|scope| {
        let base = &base;
        let run = move |lora| compose(base, &stack(&[(lora, 0.8)]));
        let threads: Vec<_> = loras.iter().map(|lora| scope.spawn(move || run(lora))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    for (a, b) in alone.iter().zip(&together) {
        assert_eq!(apart(a, b), 0.0);
    }
}
