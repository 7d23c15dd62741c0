//! Nothing silent: remove, rename or damage any key of any file of the zoo, and there is an error or an exact
//! report, never a quiet change.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod support;

use colora::Error;
use colora::family::ModelParts;
use colora::lora::{
    AdapterFile, Apply, Dictionary, Lora, LoraStack, Overlay, ReadOptions, Report, StackEntry,
    Strength,
};
use colora::weights::{Placement, WeightSource};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Keys of a file that are tried; more would only be slower.
const KEYS: usize = 12;

fn zoo(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/zoo").join(name)
}

/// A safetensors file taken apart.
#[derive(Clone)]
struct Tensors {
    metadata: Option<Value>,
    tensors: BTreeMap<String, (String, Vec<usize>, Vec<u8>)>,
}

impl Tensors {
    fn read(path: &Path) -> Self {
        let bytes = std::fs::read(path).unwrap();
        let length = u64::from_le_bytes(*bytes.first_chunk().unwrap()) as usize;
        let mut header: Map<String, Value> = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
        let metadata = header.remove("__metadata__");
        let tensors = header.into_iter().map(|(key, entry)| {
            let numbers =
                |name: &str| -> Vec<usize> { serde_json::from_value(entry[name].clone()).unwrap() };
            let at = numbers("data_offsets");
            let data = bytes[8 + length + at[0]..8 + length + at[1]].to_vec();
            (key, (entry["dtype"].as_str().unwrap().to_owned(), numbers("shape"), data))
        });
        Self { metadata, tensors: tensors.collect() }
    }

    fn write(&self) -> Vec<u8> {
        let mut header = Map::new();
        header.extend(self.metadata.clone().map(|m| ("__metadata__".to_owned(), m)));
        let mut data = Vec::new();
        for (key, (dtype, shape, bytes)) in &self.tensors {
            let offsets = [data.len(), data.len() + bytes.len()];
            let entry = json!({ "dtype": dtype, "shape": shape, "data_offsets": offsets });
            header.insert(key.clone(), entry);
            data.extend(bytes);
        }
        let header = serde_json::to_vec(&header).unwrap();
        let length = (header.len() as u64).to_le_bytes();
        [&length[..], &header, &data].concat()
    }
}

struct Base {
    source: Arc<dyn WeightSource>,
    dictionary: Dictionary,
}

impl Base {
    fn open(name: &str) -> Self {
        let parts = ModelParts::open(&support::golden(name), Placement::default(), None).unwrap();
        let dictionary = Dictionary::new(&*parts.source, parts.family.to_string());
        Self { source: parts.source, dictionary }
    }
}

/// What a file does: its report, and every number of every changed weight, bit by bit.
struct Outcome {
    report: Report,
    changed: BTreeMap<String, Vec<u32>>,
    words: BTreeMap<String, Vec<u32>>,
}

fn outcome(bytes: Vec<u8>, base: &Base, options: ReadOptions) -> Result<Outcome, Error> {
    let file = AdapterFile::from_vec(bytes, "case.safetensors")?;
    let lora = Arc::new(Lora::resolve(file, &base.dictionary, options)?);
    let mut words = BTreeMap::new();
    for word in lora.inversions() {
        for component in word.components() {
            let (values, _) = word.vectors(component)?.unwrap();
            let bits = values.into_iter().map(f32::to_bits).collect();
            words.insert(format!("{} {component}", word.token), bits);
        }
    }
    let entry = StackEntry { lora: lora.clone(), strength: Strength::default() };
    let overlay = Overlay::compose(
        base.source.clone(),
        &base.dictionary,
        &LoraStack::new(vec![entry]),
        Apply::Merge,
        |_| true,
    )?;
    let changed = overlay.changed_sites().map(|site| {
        let values = overlay.get_f32(site, &overlay.shape(site).unwrap()).unwrap();
        (site.to_string(), values.into_iter().map(f32::to_bits).collect())
    });
    let changed = changed.collect();
    Ok(Outcome { report: lora.report().clone(), changed, words })
}

/// The modules and words in which two outcomes differ.
fn difference(a: &Outcome, b: &Outcome) -> BTreeSet<String> {
    let module = |site: &String| site.rsplit_once('.').unwrap().0.to_owned();
    let differ = |a: &BTreeMap<String, Vec<u32>>, b: &BTreeMap<String, Vec<u32>>| {
        let keys: BTreeSet<String> = a.keys().chain(b.keys()).cloned().collect();
        keys.into_iter().filter(|key| a.get(key) != b.get(key)).collect::<Vec<_>>()
    };
    let sites = differ(&a.changed, &b.changed);
    let words = differ(&a.words, &b.words);
    sites.iter().map(module).chain(words).collect()
}

/// Parts without which a module is another, valid module: what they mean when absent is documented.
fn is_optional(key: &str) -> bool {
    [
        "alpha",                 // scale 1
        ".scale",                // alpha / rank
        "dora_scale",            // a plain LoRA
        "lora_magnitude_vector", // the same
        ".bias",                 // the bias stays
        "scale_weight",          // plain fp8
        "weight_scale",          // the same
        "rescale",               // a plain rotation
        "bm.weight",             // B without a core: refused where its shape no longer fits
        // Each of these is a change of its own.
        ".diff",
        ".diff_b",
        ".w_norm",
        ".b_norm",
        ".set_weight",
        "bundle_emb",
        "<s1>",
        "<s2>",
        "bias_size",
    ]
    .iter()
    .any(|part| key.contains(part))
}

/// The files of the zoo that are one safetensors file, with their bases.
fn files() -> Vec<(String, String)> {
    let text = std::fs::read_to_string(zoo("zoo.json")).unwrap();
    let list: Value = serde_json::from_str(&text).unwrap();
    let entries = list["files"].as_array().unwrap().iter();
    // PEFT folders mean something only with their configuration, which bytes in memory have not.
    let single = |file: &str| file.ends_with(".safetensors") && !file.contains("peftfolder");
    let files = entries.filter(|entry| single(entry["file"].as_str().unwrap()));
    let text = |entry: &Value, key: &str| entry[key].as_str().unwrap().to_owned();
    files.map(|entry| (text(entry, "file"), text(entry, "base"))).collect()
}

/// Runs `check` on some keys of every file.
fn every_key(check: impl Fn(&str, &Tensors, &str, &Base, &Outcome) -> Result<(), String>) {
    let bases: BTreeMap<&str, Base> =
        ["sd15", "sd2", "sdxl"].into_iter().map(|name| (name, Base::open(name))).collect();
    let (mut tried, mut failures) = (0, Vec::new());
    for (file, base) in files() {
        let (tensors, base) = (Tensors::read(&zoo(&file)), &bases[base.as_str()]);
        let whole = outcome(tensors.write(), base, ReadOptions::default()).unwrap();
        let step = tensors.tensors.len().div_ceil(KEYS).max(1);
        for key in tensors.tensors.keys().step_by(step) {
            tried += 1;
            if let Err(why) = check(&file, &tensors, key, base, &whole) {
                failures.push(format!("{file}: {key}: {why}"));
            }
        }
    }
    assert!(tried > 1000, "only {tried} keys were tried");
    println!("{tried} keys");
    let shown = failures.iter().take(40).cloned().collect::<Vec<_>>().join("\n");
    assert!(failures.is_empty(), "{} failures:\n{shown}", failures.len());
}

/// One module at most may differ; a fused projection is three.
fn stays_local(whole: &Outcome, now: &Outcome) -> Result<BTreeSet<String>, String> {
    let different = difference(whole, now);
    if different.len() > 3 {
        return Err(format!("{} modules differ", different.len()));
    }
    Ok(different)
}

#[test]
fn a_missing_key_is_an_error_or_reported() {
    every_key(|file, tensors, key, base, whole| {
        // Without one of two differing spellings the other counts, which this file warns of.
        if file.contains("twice-differing") {
            return Ok(());
        }
        let mut without = tensors.clone();
        without.tensors.remove(key);
        let Ok(now) = outcome(without.write(), base, ReadOptions::default()) else { return Ok(()) };
        let different = stays_local(whole, &now)?;
        let reported = now.report.unmatched.len() > whole.report.unmatched.len();
        if different.is_empty() || reported || is_optional(key) {
            return Ok(());
        }
        Err(format!("quietly changed {different:?}"))
    });
}

#[test]
fn a_renamed_key_is_an_error_or_reported() {
    every_key(|_, tensors, key, base, whole| {
        for renamed in [format!("zz{key}"), format!("{key}x"), key.replacen("_block", "_blok", 1)] {
            if renamed == key {
                continue;
            }
            let mut other = tensors.clone();
            let tensor = other.tensors.remove(key).unwrap();
            other.tensors.insert(renamed.clone(), tensor);
            let Ok(now) = outcome(other.write(), base, ReadOptions::default()) else { continue };
            let different = stays_local(whole, &now)?;
            // A bundled word's name is free, and so is the adapter's in `lora_A.NAME`: then nothing
            // else changes.
            let free = different.is_empty() || renamed.starts_with("bundle_emb.");
            if !free && !now.report.unmatched.contains(&renamed) {
                return Err(format!("`{renamed}` is not reported"));
            }
        }
        Ok(())
    });
}

#[test]
fn numbers_that_are_none_are_an_error_or_the_module_is_left_out() {
    every_key(|_, tensors, key, base, whole| {
        let mut broken = tensors.clone();
        let (dtype, _, data) = broken.tensors.get_mut(key).unwrap();
        let nan: &[u8] = match dtype.as_str() {
            "F64" => &f64::NAN.to_le_bytes(),
            "F32" => &f32::NAN.to_le_bytes(),
            "F16" => &[0x00, 0x7e],
            "BF16" => &[0xc0, 0x7f],
            "F8_E4M3" | "F8_E5M2" => &[0x7f],
            _ => return Ok(()),
        };
        if data.is_empty() {
            return Ok(());
        }
        data[..nan.len()].copy_from_slice(nan);
        let bytes = broken.write();
        if let Ok(now) = outcome(bytes.clone(), base, ReadOptions::default()) {
            // Numbers that are never used, such as the alpha of a whole LoKr.
            let different = difference(whole, &now);
            if !different.is_empty() {
                return Err(format!("NaN reached {different:?}"));
            }
            return Ok(());
        }
        let lenient = ReadOptions { allow_nan: true, ..ReadOptions::default() };
        if let Ok(now) = outcome(bytes, base, lenient) {
            stays_local(whole, &now)?;
            if now.report.skipped.is_empty() {
                return Err("a module was left out without a word".into());
            }
        }
        Ok(())
    });
}

#[test]
fn a_wrong_shape_is_an_error() {
    every_key(|file, tensors, key, base, whole| {
        // BOFT has any number of butterfly factors.
        if file.contains("boft") {
            return Ok(());
        }
        let mut cut = tensors.clone();
        let (_, shape, data) = cut.tensors.get_mut(key).unwrap();
        let Some(rows) = shape.first().copied().filter(|rows| *rows > 1) else { return Ok(()) };
        data.truncate(data.len() / rows * (rows - 1));
        shape[0] = rows - 1;
        let Ok(now) = outcome(cut.write(), base, ReadOptions::default()) else { return Ok(()) };
        let word = key.starts_with("bundle_emb.") || key.starts_with('<');
        let reported = now.report.unmatched.len() > whole.report.unmatched.len();
        let different = stays_local(whole, &now)?;
        if word || reported || different.is_empty() {
            return Ok(());
        }
        Err(format!("a row less quietly changed {different:?}"))
    });
}

#[test]
fn damaged_files_never_panic_and_cut_ones_are_refused() {
    // Not a file whose metadata holds its alphas: another number there is another valid file.
    for name in ["sd15-kohya", "sd15-all-kinds", "sdxl-dotted", "sd15-bundle", "sd15-lyco-boft"] {
        let base = Base::open(name.split_once('-').unwrap().0);
        let bytes = std::fs::read(zoo(&format!("good/{name}.safetensors"))).unwrap();
        let whole = outcome(bytes.clone(), &base, ReadOptions::default()).unwrap();
        for part in 0..16 {
            let cut = bytes[..bytes.len() * part / 16].to_vec();
            assert!(outcome(cut, &base, ReadOptions::default()).is_err(), "{name}: {part}/16");
        }
        let header = u64::from_le_bytes(*bytes.first_chunk().unwrap()) as usize + 8;
        let mut state = 1u64;
        for _ in 0..300 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let at = (state >> 33) as usize % header;
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << (state >> 20 & 7);
            let Ok(now) = outcome(flipped, &base, ReadOptions::default()) else { continue };
            // What still loads is the same, or says what is not.
            let different = difference(&whole, &now);
            let reported = now.report != whole.report;
            let local = different.len() <= 3;
            assert!(different.is_empty() || reported || local, "{name}: {different:?}");
        }
    }
}

#[test]
fn broken_settings_are_an_error() {
    let base = Base::open("sd15");
    let mut tensors = Tensors::read(&zoo("good/sd15-peft.safetensors"));
    let text = tensors.metadata.as_mut().unwrap()["lora_adapter_metadata"].take();
    let half: String = text.as_str().unwrap().chars().take(40).collect();
    tensors.metadata.as_mut().unwrap()["lora_adapter_metadata"] = half.into();
    let error = outcome(tensors.write(), &base, ReadOptions::default()).err().unwrap().to_string();
    assert!(error.contains("lora_adapter_metadata"), "{error}");
}
