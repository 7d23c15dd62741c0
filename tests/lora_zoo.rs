//! Every file of `tests/zoo` against the goldens of the tools that made it, and every bad one against
//! the words of its refusal.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod support;

use candle_core::{DType, Tensor};
use colora::Error;
use colora::family::ModelParts;
use colora::lora::{
    AdapterFile, Apply, Dictionary, Lora, LoraStack, Overlay, ReadOptions, StackEntry, Strength,
};
use colora::weights::{Component, Placement, Site, WeightSource};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

fn zoo(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/zoo").join(name)
}

fn list() -> Value {
    serde_json::from_str(&std::fs::read_to_string(zoo("zoo.json")).unwrap()).unwrap()
}

/// A tiny base and its names.
struct Base {
    source: Arc<dyn WeightSource>,
    dictionary: Dictionary,
}

fn bases() -> BTreeMap<&'static str, Base> {
    ["sd15", "sd2", "sdxl"]
        .into_iter()
        .map(|name| {
            let parts =
                ModelParts::open(&support::golden(name), Placement::default(), None).unwrap();
            let dictionary = Dictionary::new(&*parts.source, parts.family.to_string());
            (name, Base { source: parts.source, dictionary })
        })
        .collect()
}

fn open(path: &Path, base: &Base, options: ReadOptions) -> Result<Lora, Error> {
    Lora::resolve(AdapterFile::open(path)?, &base.dictionary, options)
}

fn compose(lora: &Arc<Lora>, base: &Base, weight: f32) -> Result<Overlay, Error> {
    let strength = Strength { unet: weight, text: weight, ..Strength::default() };
    let stack = LoraStack::new(vec![StackEntry { lora: lora.clone(), strength }]);
    Overlay::compose(base.source.clone(), &base.dictionary, &stack, Apply::Merge, |_| true)
}

fn flat(tensor: &Tensor) -> Vec<f32> {
    tensor.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// Largest difference relative to the largest golden.
fn distance(actual: &[f32], golden: &[f32]) -> f32 {
    assert_eq!(actual.len(), golden.len());
    let scale = golden.iter().fold(1e-30f32, |max, v| max.max(v.abs()));
    let worst = |max: f32, (a, g): (&f32, &f32)| {
        if a.is_finite() { max.max((a - g).abs()) } else { f32::INFINITY }
    };
    actual.iter().zip(golden).fold(0.0, worst) / scale
}

/// The goldens of one file at one multiplier, by site.
fn goldens<'a>(
    all: &'a HashMap<String, Tensor>,
    name: &str,
    suffix: &str,
) -> BTreeMap<String, &'a Tensor> {
    let prefix = format!("{name}/");
    let site = |key: &str| {
        let site = key.strip_prefix(&prefix)?.strip_suffix(suffix)?;
        let plain =
            !site.contains('@') && !site.starts_with('#') && !site.starts_with("embedding.");
        plain.then(|| site.to_owned())
    };
    all.iter().filter_map(|(key, tensor)| Some((site(key)?, tensor))).collect()
}

/// Sum, cosine-weighted sum and norm of a change.
fn sketch(change: &[f32]) -> [f64; 3] {
    let mut out = [0.0; 3];
    for (i, v) in change.iter().enumerate() {
        let v = f64::from(*v);
        out[0] += v;
        out[1] += v * (i as f64).cos();
        out[2] += v * v;
    }
    out[2] = out[2].sqrt();
    out
}

/// Compares one file; an error says where it differs.
fn check(entry: &Value, base: &Base, all: &HashMap<String, Tensor>) -> Result<f32, String> {
    let text = |key: &str| entry[key].as_str().unwrap();
    let lora = open(&zoo(text("file")), base, ReadOptions::default()).map_err(|e| e.to_string())?;
    let lora = Arc::new(lora);
    let expected: Vec<String> = serde_json::from_value(entry["unmatched"].clone()).unwrap();
    if lora.report().unmatched != expected {
        return Err(format!("unmatched {:?}, expected {expected:?}", lora.report().unmatched));
    }
    let sites = entry["sites"].as_u64().unwrap();
    if lora.sites().len() as u64 + entry["empty"].as_u64().unwrap_or(0) < sites {
        return Err(format!("{} sites, expected {sites}", lora.sites().len()));
    }
    if entry["warns"] == true && lora.report().warnings.is_empty() {
        return Err("a warning is due".into());
    }
    let mut worst = 0f32;
    if entry["sketch"] == true {
        worst = worst.max(check_sketch(&lora, base, all, text("goldens"))?);
    } else {
        let multipliers: Vec<f32> = serde_json::from_value(entry["multipliers"].clone()).unwrap();
        for m in multipliers {
            let suffix = if m == 1.0 { String::new() } else { format!("@{m}") };
            worst = worst.max(check_sites(&lora, base, all, (text("goldens"), &suffix), m)?);
        }
    }
    check_words(&lora, entry, all, text("goldens"))?;
    check_overlay(&lora, base)?;
    Ok(worst)
}

fn check_sites(
    lora: &Arc<Lora>,
    base: &Base,
    all: &HashMap<String, Tensor>,
    (name, suffix): (&str, &str),
    m: f32,
) -> Result<f32, String> {
    let (whole, goldens) = (goldens(all, name, ""), goldens(all, name, suffix));
    let ours: BTreeSet<String> = lora.sites().iter().map(ToString::to_string).collect();
    let mut worst = 0f32;
    for (site, golden) in &whole {
        // Only kinds that are not proportional to the multiplier have goldens at others than 1.
        let golden = match goldens.get(site) {
            Some(golden) => flat(golden),
            None => flat(golden).iter().map(|v| v * m).collect(),
        };
        let change = lora.change(&*base.source, &Site::new(site), m).map_err(|e| e.to_string())?;
        let change = change.ok_or_else(|| format!("{site}{suffix} is not changed"))?;
        let error = distance(&change, &golden);
        worst = worst.max(error);
        if error > 1e-5 {
            return Err(format!("{site}{suffix}: off by {error:.1e}"));
        }
    }
    if let Some(extra) = ours.iter().find(|site| !whole.contains_key(*site)) {
        return Err(format!("{extra} must not be changed"));
    }
    Ok(worst)
}

fn check_sketch(
    lora: &Arc<Lora>,
    base: &Base,
    all: &HashMap<String, Tensor>,
    name: &str,
) -> Result<f32, String> {
    let golden = all[&format!("{name}/#sketch")].to_vec2::<f64>().unwrap();
    let mut sites: Vec<String> = lora.sites().iter().map(ToString::to_string).collect();
    sites.sort();
    if sites.len() != golden.len() {
        return Err(format!("{} sites, the sketch has {}", sites.len(), golden.len()));
    }
    let mut worst = 0f64;
    for (site, row) in sites.iter().zip(&golden) {
        let change =
            lora.change(&*base.source, &Site::new(site), 1.0).map_err(|e| e.to_string())?;
        let ours = sketch(&change.ok_or_else(|| format!("{site} is not changed"))?);
        for (ours, theirs) in ours.iter().zip(row) {
            // A sum of many numbers: relative to their norm.
            let error = (ours - theirs).abs() / row[2].max(1e-30);
            worst = worst.max(error);
            if error > 2e-5 {
                return Err(format!("{site}: {ours} instead of {theirs}"));
            }
        }
    }
    Ok(worst as f32)
}

fn check_words(
    lora: &Arc<Lora>,
    entry: &Value,
    all: &HashMap<String, Tensor>,
    name: &str,
) -> Result<(), String> {
    let words = entry["embeddings"].as_object().cloned().unwrap_or_default();
    if lora.inversions().len() != words.len() {
        return Err(format!("{} words, expected {}", lora.inversions().len(), words.len()));
    }
    for word in lora.inversions() {
        for (component, count) in words[&word.token].as_object().unwrap() {
            let encoder = Component::named(component).unwrap();
            let (vectors, rows) = word.vectors(encoder).unwrap().ok_or("no vectors")?;
            let golden = &all[&format!("{name}/embedding.{}.{component}", word.token)];
            if rows as u64 != count.as_u64().unwrap() || distance(&vectors, &flat(golden)) > 0.0 {
                return Err(format!("the vectors of {} differ", word.token));
            }
        }
    }
    Ok(())
}

/// The overlay is base plus change, everything else is the base itself; weight 0 changes no bit.
fn check_overlay(lora: &Arc<Lora>, base: &Base) -> Result<(), String> {
    let overlay = compose(lora, base, 0.7).map_err(|e| e.to_string())?;
    for site in overlay.changed_sites() {
        let shape = overlay.shape(site).unwrap();
        let merged = overlay.get_f32(site, &shape).unwrap();
        let pristine = if base.source.has(site) {
            base.source.get_f32(site, &shape).unwrap()
        } else {
            vec![0.0; merged.len()]
        };
        let change = lora.change(&*base.source, site, 0.7).unwrap().unwrap();
        let sum: Vec<f32> = pristine.iter().zip(&change).map(|(w, c)| w + c).collect();
        if distance(&merged, &sum) > 1e-6 {
            return Err(format!("{site}: merged and added differ by {}", distance(&merged, &sum)));
        }
    }
    let none = compose(lora, base, 0.0).map_err(|e| e.to_string())?;
    if none.changed() != 0 {
        return Err("weight 0 changes something".into());
    }
    Ok(())
}

#[test]
fn every_file_does_what_its_producer_says() {
    let (list, bases) = (list(), bases());
    let all = candle_core::safetensors::load(zoo("goldens.safetensors"), &candle_core::Device::Cpu);
    let all = all.unwrap();
    let mut failures = Vec::new();
    let files = list["files"].as_array().unwrap();
    let mut worst = (0f32, "");
    for entry in files {
        let name = entry["name"].as_str().unwrap();
        match check(entry, &bases[entry["base"].as_str().unwrap()], &all) {
            Ok(error) if error > worst.0 => worst = (error, name),
            Ok(_) => {}
            Err(why) => failures.push(format!("{name}: {why}")),
        }
    }
    println!("{} files, largest error {:.1e} ({})", files.len(), worst.0, worst.1);
    assert!(files.len() > 150, "the zoo has only {} files", files.len());
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn every_bad_file_is_refused_with_its_reason() {
    let (list, bases) = (list(), bases());
    let mut failures = Vec::new();
    let files = list["bad"].as_array().unwrap();
    for entry in files {
        let base = &bases[entry["base"].as_str().unwrap()];
        let strict = entry["options"]["strict"] == true;
        let options = ReadOptions { strict, ..ReadOptions::default() };
        let refused = open(&zoo(entry["file"].as_str().unwrap()), base, options)
            .and_then(|lora| compose(&Arc::new(lora), base, 1.0));
        let words: Vec<String> = serde_json::from_value(entry["error"].clone()).unwrap();
        let name = &entry["name"];
        match refused {
            Ok(_) => failures.push(format!("{name}: accepted")),
            Err(error) => {
                let message = error.to_string().to_lowercase();
                if !words.iter().any(|word| message.contains(&word.to_lowercase())) {
                    failures.push(format!("{name}: `{message}` says none of {words:?}"));
                }
                if error.fault() == colora::Fault::Internal {
                    failures.push(format!("{name}: an internal error: {message}"));
                }
            }
        }
    }
    assert!(files.len() > 90, "only {} bad files", files.len());
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn a_real_community_file_fits_sd15() {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/analog_svd_rank4.safetensors");
    if !path.is_file() {
        println!("skipped: {} is not here", path.display());
        return;
    }
    let source: Arc<dyn WeightSource> =
        Arc::new(colora::family::Blueprint::of(colora::family::Family::Sd1).unwrap());
    let dictionary = Dictionary::new(&*source, "SD 1.x");
    let base = Base { source, dictionary };
    let lora = open(&path, &base, ReadOptions { strict: true, ..ReadOptions::default() }).unwrap();
    assert_eq!((lora.modules().count(), lora.report().used), (192, 384));
    assert!(lora.report().warnings.is_empty(), "{:?}", lora.report().warnings);
}
