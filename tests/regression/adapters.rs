//! Adapters made and changed in memory, and what they do to a tiny base.

use crate::support;
use colora::Error;
use colora::family::ModelParts;
use colora::lora::{
    AdapterFile, Apply, Dictionary, Lora, LoraStack, Overlay, ReadOptions, StackEntry, Strength,
};
use colora::weights::{Placement, Site, WeightSource};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A small input that showed a fault, under `tests/trust`.
pub(crate) fn trust(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/trust").join(name)
}

/// A file of the zoo.
pub(crate) fn zoo(name: &str) -> PathBuf {
    let name = format!("tests/zoo/good/{name}.safetensors");
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// A tiny base and its names.
pub(crate) struct Base {
    pub(crate) source: Arc<dyn WeightSource>,
    pub(crate) dictionary: Dictionary,
}

impl Base {
    pub(crate) fn open(name: &str) -> Self {
        let parts = ModelParts::open(&support::golden(name), Placement::default(), None).unwrap();
        let dictionary = Dictionary::new(&*parts.source, parts.family.to_string());
        Self { source: parts.source, dictionary }
    }

    pub(crate) fn shape(&self, site: &str) -> Vec<usize> {
        self.source.shape(&Site::new(site)).unwrap()
    }

    pub(crate) fn weight(&self, site: &str) -> Vec<f32> {
        self.source.get_f32(&Site::new(site), &self.shape(site)).unwrap()
    }

    pub(crate) fn read(&self, file: AdapterFile) -> Result<Lora, Error> {
        Lora::resolve(file, &self.dictionary, ReadOptions::default())
    }

    pub(crate) fn read_file(&self, path: &Path) -> Result<Lora, Error> {
        self.read(AdapterFile::open(path)?)
    }

    pub(crate) fn read_tensors(&self, tensors: &Tensors) -> Result<Lora, Error> {
        self.read(AdapterFile::from_vec(tensors.write(), "made.safetensors")?)
    }

    /// What the adapter at full strength adds to a weight.
    pub(crate) fn change(&self, lora: &Lora, site: &str) -> Vec<f32> {
        lora.change(&*self.source, &Site::new(site), 1.0).unwrap().unwrap()
    }

    /// Every change of an adapter at full strength.
    pub(crate) fn changes(&self, lora: &Lora) -> BTreeMap<String, Vec<f32>> {
        let change = |site: &Site| (site.to_string(), self.change(lora, site.as_str()));
        lora.sites().iter().map(change).collect()
    }

    /// Puts the adapters on the base, as drawing does.
    pub(crate) fn compose(&self, loras: &[&Arc<Lora>]) -> Result<Overlay, Error> {
        let entry = |lora: &&Arc<Lora>| StackEntry {
            lora: Arc::clone(lora),
            strength: Strength::default(),
        };
        let stack = LoraStack::new(loras.iter().map(entry).collect());
        Overlay::compose(self.source.clone(), &self.dictionary, &stack, Apply::Merge, |_| true)
    }
}

/// The only error of what must be refused.
pub(crate) fn refused(result: Result<Lora, Error>) -> Error {
    match result {
        Ok(lora) => panic!("{} was accepted: {:?}", lora.name(), lora.report()),
        Err(error) => error,
    }
}

/// Asserts that every word stands in the text.
pub(crate) fn says(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "`{word}` is missing: {text}");
    }
}

/// Asserts that two lists of numbers agree to `tolerance` of the largest.
pub(crate) fn close(what: &str, actual: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(actual.len(), expected.len(), "{what}");
    let scale = expected.iter().fold(1e-30f32, |max, v| max.max(v.abs()));
    let worst = actual.iter().zip(expected).map(|(a, e)| (a - e).abs()).fold(0.0, f32::max);
    assert!(worst <= tolerance * scale, "{what}: off by {:.1e}", worst / scale);
}

/// The tensors of a file with expected changes.
pub(crate) fn expected(case: &str) -> BTreeMap<String, Vec<f32>> {
    let path = trust(case).join("expected.safetensors");
    let tensors = candle_core::safetensors::load(path, &candle_core::Device::Cpu).unwrap();
    let flat = |t: &candle_core::Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    tensors.iter().map(|(name, tensor)| (name.clone(), flat(tensor))).collect()
}

/// A safetensors file, taken apart or made.
#[derive(Clone, Default)]
pub(crate) struct Tensors {
    pub(crate) metadata: BTreeMap<String, String>,
    pub(crate) tensors: BTreeMap<String, (String, Vec<usize>, Vec<u8>)>,
}

impl Tensors {
    pub(crate) fn open(path: &Path) -> Self {
        let bytes = std::fs::read(path).unwrap();
        let length = u64::from_le_bytes(*bytes.first_chunk().unwrap()) as usize;
        let mut header: Map<String, Value> = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
        let metadata = header.remove("__metadata__");
        let metadata = metadata.map(|m| serde_json::from_value(m).unwrap()).unwrap_or_default();
        let tensors = header.into_iter().map(|(key, entry)| {
            let numbers =
                |name: &str| -> Vec<usize> { serde_json::from_value(entry[name].clone()).unwrap() };
            let at = numbers("data_offsets");
            let data = bytes[8 + length + at[0]..8 + length + at[1]].to_vec();
            (key, (entry["dtype"].as_str().unwrap().to_owned(), numbers("shape"), data))
        });
        Self { metadata, tensors: tensors.collect() }
    }

    pub(crate) fn note(mut self, key: &str, value: &str) -> Self {
        self.metadata.insert(key.to_owned(), value.to_owned());
        self
    }

    pub(crate) fn floats(mut self, key: &str, shape: &[usize], values: &[f32]) -> Self {
        let data = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.tensors.insert(key.to_owned(), ("F32".into(), shape.to_vec(), data));
        self
    }

    pub(crate) fn raw(mut self, key: &str, dtype: &str, shape: &[usize], data: &[u8]) -> Self {
        self.tensors.insert(key.to_owned(), (dtype.into(), shape.to_vec(), data.to_vec()));
        self
    }

    /// The same under other keys.
    pub(crate) fn renamed(&self, rename: impl Fn(&str) -> String) -> Self {
        let tensors = self.tensors.iter().map(|(key, tensor)| (rename(key), tensor.clone()));
        Self { metadata: self.metadata.clone(), tensors: tensors.collect() }
    }

    pub(crate) fn write(&self) -> Vec<u8> {
        let mut header = Map::new();
        if !self.metadata.is_empty() {
            header.insert("__metadata__".to_owned(), json!(self.metadata));
        }
        let mut data = Vec::new();
        for (key, (dtype, shape, bytes)) in &self.tensors {
            let offsets = [data.len(), data.len() + bytes.len()];
            let entry = json!({ "dtype": dtype, "shape": shape, "data_offsets": offsets });
            header.insert(key.clone(), entry);
            data.extend(bytes);
        }
        let header = serde_json::to_vec(&header).unwrap();
        [&(header.len() as u64).to_le_bytes()[..], &header, &data].concat()
    }
}

/// So many numbers around zero that follow no simple rule.
pub(crate) fn numbers(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(1);
    let mut next = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
    };
    (0..count).map(|_| next()).collect()
}
