//! The files of `tests/zoo` and the tiny bases.

use colora::Error;
use colora::family::ModelParts;
use colora::lora::{AdapterFile, Dictionary, Lora, ReadOptions};
use colora::weights::{CheckpointFile, Placement, Site, WeightSource};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A file of the zoo.
pub(crate) fn zoo(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/zoo").join(name)
}

/// Name, file and base of every good file of these kinds.
pub(crate) fn files(kinds: &[&str]) -> Vec<(String, PathBuf, String)> {
    let list: Value =
        serde_json::from_str(&std::fs::read_to_string(zoo("zoo.json")).unwrap()).unwrap();
    let text = |entry: &Value, key: &str| entry[key].as_str().unwrap().to_owned();
    let files = list["files"].as_array().unwrap().iter();
    files
        .filter(|entry| kinds.contains(&entry["kind"].as_str().unwrap()))
        .map(|entry| (text(entry, "name"), zoo(&text(entry, "file")), text(entry, "base")))
        .collect()
}

/// A tiny base and its names.
pub(crate) struct Base {
    pub(crate) parts: ModelParts,
    pub(crate) source: Arc<dyn WeightSource>,
    pub(crate) dictionary: Dictionary,
}

impl Base {
    pub(crate) fn open(path: &Path) -> Self {
        let parts = ModelParts::open(path, Placement::default(), None).unwrap();
        let source: Arc<dyn WeightSource> = parts.source.clone();
        let dictionary = Dictionary::new(&*source, parts.family.to_string());
        Base { parts, source, dictionary }
    }

    pub(crate) fn named(name: &str) -> Self {
        Self::open(&crate::support::golden(name))
    }

    pub(crate) fn load(&self, path: &Path) -> Result<Lora, Error> {
        Lora::resolve(AdapterFile::open(path)?, &self.dictionary, ReadOptions::default())
    }

    pub(crate) fn weight(&self, site: &Site) -> Vec<f32> {
        self.source.get_f32(site, &self.source.shape(site).unwrap()).unwrap()
    }
}

/// Sites and changes at full strength.
pub(crate) fn changes(lora: &Lora, base: &Base) -> Vec<(Site, Vec<f32>)> {
    let change = |site: Site| {
        let change = lora.change(&*base.source, &site, 1.0).unwrap().unwrap();
        (site, change)
    };
    lora.sites().into_iter().map(change).collect()
}

/// What an adapter changes, in name order.
pub(crate) fn sites(lora: &Lora) -> Vec<Site> {
    let mut sites = lora.sites();
    sites.sort();
    sites
}

/// Name, type, shape without ones, and numbers of a tensor.
pub(crate) type Row = (String, String, Vec<usize>, Vec<f32>);

/// All tensors of a file.
pub(crate) fn contents(path: &Path) -> Vec<Row> {
    let file = CheckpointFile::open(path).unwrap();
    let row = |name: &str| {
        let info = file.info(name).unwrap();
        let shape = info.shape.iter().copied().filter(|d| *d != 1).collect();
        // The type of a number that travels as text is not kept.
        let dtype = if name.rsplit('.').next() == Some("alpha") {
            String::new()
        } else {
            info.dtype.to_string()
        };
        (name.to_owned(), dtype, shape, file.read_f32(name, None).unwrap())
    };
    file.names().map(row).collect()
}

/// Largest difference beside the largest expected number.
pub(crate) fn distance(actual: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(actual.len(), expected.len());
    let scale = expected.iter().fold(1e-30f32, |max, v| max.max(v.abs()));
    actual.iter().zip(expected).fold(0.0f32, |max, (a, e)| max.max((a - e).abs())) / scale
}
