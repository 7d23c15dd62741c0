//! Merged files do what their stack does, and what PEFT's merges do.

use super::zoo::{Base, distance, files, sites, zoo};
use colora::Cancel;
use colora::lora::write::{Entry, FileDtype, Law, MergeOptions, Metadata, merge, save};
use colora::lora::{AdapterFile, Lora, LoraStack, Method, ReadOptions, StackEntry, Strength};
use colora::weights::{CheckpointFile, Site};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

fn entry(lora: Lora, weight: f32) -> StackEntry {
    let strength = Strength { unet: weight, text: weight, ..Strength::default() };
    StackEntry { lora: Arc::new(lora), strength }
}

fn options(law: Law) -> MergeOptions {
    MergeOptions { law, precision: FileDtype::F32, force: true, cancel: Cancel::new() }
}

/// The sum of what the entries of a stack change, by site.
fn sums(base: &Base, stack: &LoraStack) -> BTreeMap<Site, Vec<f32>> {
    let mut sums: BTreeMap<Site, Vec<f32>> = BTreeMap::new();
    for entry in &stack.entries {
        for site in entry.lora.sites() {
            let change = entry.lora.change(&*base.source, &site, entry.strength.unet);
            let change = change.unwrap().unwrap();
            let sum = sums.entry(site).or_insert_with(|| vec![0.0; change.len()]);
            sum.iter_mut().zip(&change).for_each(|(s, c)| *s += c);
        }
    }
    sums
}

/// Merges, loads the file again and compares; the largest error.
fn compare(base: &Base, stack: &LoraStack, out: &Path, law: Law) -> f32 {
    merge(&*base.source, &base.dictionary, stack, out, &options(law)).unwrap();
    let merged = base.load(out).unwrap();
    let sums = sums(base, stack);
    assert_eq!(sites(&merged), sums.keys().cloned().collect::<Vec<_>>());
    let error = |(site, sum): (&Site, &Vec<f32>)| {
        let change = merged.change(&*base.source, site, 1.0).unwrap().unwrap();
        distance(&change, sum)
    };
    sums.iter().map(error).fold(0.0, f32::max)
}

#[test]
fn side_by_side_is_the_stack() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.safetensors");
    for (base, names) in [
        ("sd15", ["sd15-kohya", "sd15-peft", "sd15-lora-mid", "sd15-lyco-norm", "sd15-peft-bias"]),
        ("sdxl", ["sdxl-kohya", "sdxl-peft", "sdxl-kohya", "sdxl-peft", "sdxl-kohya"]),
    ] {
        let base = Base::named(base);
        let weights = [0.8, -0.5, 1.0, 0.3, 2.0];
        let load = |name: &str| base.load(&zoo(&format!("good/{name}.safetensors"))).unwrap();
        let entries = names.iter().zip(weights).map(|(name, weight)| entry(load(name), weight));
        let stack = LoraStack::new(entries.collect());
        let error = compare(&base, &stack, &out, Law::Cat);
        println!("cat: largest error {error:.1e}");
        assert!(error < 1e-5, "{error}");
    }
}

#[test]
fn every_kind_becomes_a_lora() {
    let (base, folder) = (Base::named("sd15"), tempfile::tempdir().unwrap());
    let out = folder.path().join("out.safetensors");
    let law = Law::Svd { rank: Some(1000), clamp: None, mix: Method::Sum };
    let kinds = ["loha", "lokr", "dora", "oft", "ia3", "glora", "lora", "locon", "full", "norm"];
    let (mut worst, mut count) = (0f32, 0);
    for (name, file, of) in files(&kinds) {
        let big = ["full", "embedding", "mixed"].iter().any(|word| name.ends_with(word));
        if of != "sd15" || big {
            continue;
        }
        let stack = LoraStack::new(vec![entry(base.load(&file).unwrap(), 0.7)]);
        let error = compare(&base, &stack, &out, law);
        // Changes of kinds that depend on the weight are differences of nearly equal numbers.
        assert!(error < 5e-5, "{name}: {error:e}");
        worst = worst.max(error);
        count += 1;
    }
    println!("svd at full rank: {count} files, largest error {worst:.1e}");
    assert!(count > 40, "{count}");
}

#[test]
fn kinds_that_cannot_lie_side_by_side_are_refused_by_name() {
    let (base, folder) = (Base::named("sd15"), tempfile::tempdir().unwrap());
    let out = folder.path().join("out.safetensors");
    for (name, word) in [("lyco-loha", "LoHa"), ("lyco-dora-out", "DoRA")] {
        let lora = base.load(&zoo(&format!("good/sd15-{name}.safetensors"))).unwrap();
        let stack = LoraStack::new(vec![entry(lora, 1.0)]);
        for law in [Law::Cat, Law::Linear] {
            let made = merge(&*base.source, &base.dictionary, &stack, &out, &options(law));
            let error = made.unwrap_err().to_string();
            assert!(error.contains(word) && error.contains("`law` to svd"), "{error}");
            assert!(!out.exists());
        }
    }
}

/// Adapter `name` of `merge.safetensors` in a file of its own.
fn peft_adapter(goldens: &CheckpointFile, name: &str, base: &Base, folder: &Path) -> Lora {
    let prefix = format!("{name}/");
    let mut tensors: BTreeMap<String, Entry<'_>> = BTreeMap::new();
    for key in goldens.names() {
        let Some(inner) = key.strip_prefix(&prefix) else { continue };
        let (shape, values) =
            (goldens.info(key).unwrap().shape.clone(), goldens.read_f32(key, None).unwrap());
        let entry = Entry::values(shape, FileDtype::F32, &values).unwrap();
        tensors.insert(inner.to_owned(), entry);
    }
    let path = folder.join(format!("{name}.safetensors"));
    save(&path, &tensors, &Metadata::new(), true, &Cancel::new()).unwrap();
    let file = AdapterFile::open(&path).unwrap();
    Lora::resolve(file, &base.dictionary, ReadOptions::default()).unwrap()
}

#[test]
fn merges_are_those_of_peft() {
    let (base, folder) = (Base::named("sd15"), tempfile::tempdir().unwrap());
    let goldens = CheckpointFile::open(zoo("merge.safetensors")).unwrap();
    let svd = |rank, clamp, mix| Law::Svd { rank: Some(rank), clamp, mix };
    for (what, law, tolerance) in [
        ("cat", Law::Cat, 1e-5),
        ("linear", Law::Linear, 1e-5),
        ("svd", svd(3, None, Method::Sum), 1e-5),
        ("ties_svd", svd(8, None, Method::Ties { density: 0.5 }), 1e-4),
    ] {
        let (names, weights, _): (String, [f32; 2], serde_json::Value) =
            serde_json::from_str(&goldens.metadata()[what]).unwrap();
        let load = |name: char| peft_adapter(&goldens, &name.to_string(), &base, folder.path());
        let entries = names.chars().zip(weights).map(|(name, weight)| entry(load(name), weight));
        let (stack, out) =
            (LoraStack::new(entries.collect()), folder.path().join("out.safetensors"));
        merge(&*base.source, &base.dictionary, &stack, &out, &options(law)).unwrap();
        let merged = base.load(&out).unwrap();
        let mut worst = 0f32;
        for key in goldens.names().filter(|key| key.starts_with(&format!("{what}/"))) {
            let site = Site::new(&key[what.len() + 1..]);
            let change = merged.change(&*base.source, &site, 1.0).unwrap().unwrap();
            worst = worst.max(distance(&change, &goldens.read_f32(key, None).unwrap()));
        }
        println!("{what}: largest error {worst:.1e}");
        assert!(worst < tolerance, "{what}: {worst:e}");
    }
}
