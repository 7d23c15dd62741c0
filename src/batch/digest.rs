//! What things are by their contents: canonical JSON, and fingerprints of models.

use crate::error::{Error, Result};
use crate::input;
use crate::plain::hex;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// Bytes of each sample of a large file, and how many there are.
const SAMPLE: u64 = 1 << 16;
const SAMPLES: u64 = 64;
/// How deep a model's folder is looked into.
const DEPTH: usize = 3;

/// JSON with sorted keys and no white space.
///
/// # Source
/// RFC 8785, "JSON Canonicalization Scheme".
pub(super) fn canonical(value: &Value) -> String {
    match value {
        Value::Object(map) => {
            let mut entries: Vec<_> = map.iter().collect();
            entries.sort_by_key(|(key, _)| *key);
            let entry = |(key, value): (&String, &Value)| {
                format!("{}:{}", Value::from(key.as_str()), canonical(value))
            };
            format!("{{{}}}", entries.into_iter().map(entry).collect::<Vec<_>>().join(","))
        }
        Value::Array(values) => {
            format!("[{}]", values.iter().map(canonical).collect::<Vec<_>>().join(","))
        }
        other => other.to_string(),
    }
}

/// A fingerprint of a file or of all files of a folder: names, lengths and samples of the contents. Models hold
/// gigabytes; two of them that differ, differ in nearly every block.
///
/// # Errors
/// What reading gives.
pub(super) fn fingerprint(path: &Path) -> Result<String> {
    let mut hash = Sha256::new();
    if path.is_dir() {
        let mut files = Vec::new();
        collect(path, DEPTH, &mut files)?;
        files.sort();
        for file in files {
            hash.update(file.strip_prefix(path).unwrap_or(&file).as_os_str().as_encoded_bytes());
            sample(&file, &mut hash)?;
        }
    } else {
        sample(path, &mut hash)?;
    }
    Ok(hex(&hash.finalize()))
}

/// The files of a model below `folder`; what is hidden is none of them.
fn collect(folder: &Path, depth: usize, files: &mut Vec<PathBuf>) -> Result<()> {
    let io = |error| Error::io(folder, error);
    for entry in std::fs::read_dir(folder).map_err(io)? {
        let entry = entry.map_err(io)?;
        let path = entry.path();
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            continue;
        }
        if path.is_dir() && depth > 0 {
            collect(&path, depth - 1, files)?;
        } else if path.is_file() {
            files.push(path);
        }
    }
    Ok(())
}

/// Adds the length and samples of a file to `hash`; small files are taken whole.
fn sample(path: &Path, hash: &mut Sha256) -> Result<()> {
    let io = |error| Error::io(path, error);
    let mut file = input::open(path)?;
    let length = file.metadata().map_err(io)?.len();
    hash.update(length.to_le_bytes());
    let last = length.saturating_sub(SAMPLE);
    let whole = length <= SAMPLE * SAMPLES;
    let count = if whole { length.div_ceil(SAMPLE) } else { SAMPLES };
    let mut block = Vec::new();
    for number in 0..count {
        let at = if whole { number * SAMPLE } else { last / (SAMPLES - 1) * number };
        file.seek(SeekFrom::Start(at)).map_err(io)?;
        block.clear();
        file.by_ref().take(SAMPLE).read_to_end(&mut block).map_err(io)?;
        hash.update(&block);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_of_keys_is_no_content() {
        let value = |text: &str| serde_json::from_str::<Value>(text).unwrap();
        let a = canonical(&value(r#"{"b": [1, 2.5], "a": {"d": "x\"y", "c": null}}"#));
        assert_eq!(a, r#"{"a":{"c":null,"d":"x\"y"},"b":[1,2.5]}"#);
    }

    #[test]
    fn a_fingerprint_changes_with_the_contents() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.safetensors");
        let mut bytes = vec![7_u8; 6 << 20];
        std::fs::write(&path, &bytes).unwrap();
        let (file, all) = (fingerprint(&path).unwrap(), fingerprint(folder.path()).unwrap());
        assert_eq!(fingerprint(&path).unwrap(), file);
        for byte in &mut bytes {
            *byte = byte.wrapping_add(1);
        }
        std::fs::write(&path, &bytes).unwrap();
        assert_ne!(fingerprint(&path).unwrap(), file);
        assert_ne!(fingerprint(folder.path()).unwrap(), all);
    }
}
