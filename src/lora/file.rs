//! Floor 3. The files of one adapter: a tensor file, a PEFT folder, or cloneofsimo's lists.

use super::keys::{self, Key, Role};
use super::tuning::Tunings;
use super::{foreign, ordered, whole};
use crate::error::{Error, Result};
use crate::weights::CheckpointFile;
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

/// What a folder with an adapter may call its tensor file, most telling first.
const FOLDER_FILES: [&str; 6] = [
    "adapter_model.safetensors",
    "adapter_model.bin",
    "pytorch_lora_weights.safetensors",
    "pytorch_lora_weights.bin",
    "lora_weight.safetensors",
    "lora_weight.pt",
];
/// How the keys of new words begin.
const WORDS: &str = "bundle_emb.";
/// PEFT's configuration beside its tensors.
const CONFIG: &str = "adapter_config.json";

/// The opened files of one adapter. Cloning is cheap; no tensor is read before it is needed.
#[derive(Debug, Clone)]
pub struct AdapterFile {
    path: PathBuf,
    pub(super) main: CheckpointFile,
    /// cloneofsimo's list for the text encoder, beside the one for the UNet.
    pub(super) text: Option<CheckpointFile>,
    /// cloneofsimo's words, beside the lists.
    pub(super) words: Option<CheckpointFile>,
    pub(super) tunings: Tunings,
    hashes: Arc<OnceLock<Hashes>>,
}

/// The hashes by which communities know a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hashes {
    /// SHA-256 of the whole file; its first ten letters are called AutoV2.
    pub sha256: String,
    /// SHA-256 of the tensors alone, which editing the metadata does not change; its first twelve
    /// letters are called AutoV3. `None` for pickles.
    pub tensors: Option<String>,
}

impl Hashes {
    /// The first ten letters of the file's hash.
    pub fn auto_v2(&self) -> &str {
        &self.sha256[..10]
    }

    /// The first twelve letters of the tensors' hash.
    pub fn auto_v3(&self) -> Option<&str> {
        self.tensors.as_deref().map(|hash| &hash[..12])
    }
}

impl AdapterFile {
    /// Opens an adapter: a file of any kind that holds tensors, or a folder with one.
    ///
    /// # Errors
    /// As [`CheckpointFile::open`]; [`Error::Corrupt`] for a folder without an adapter.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let file = if path.is_dir() { inside(path)? } else { path.to_path_buf() };
        let main = CheckpointFile::open(&file)?;
        let sibling = |end: &str| {
            let stem = file.file_name()?.to_str()?.strip_suffix(".pt")?;
            Some(file.with_file_name(format!("{stem}{end}"))).filter(|path| path.is_file())
        };
        let numbered = main.names().all(|name| name.bytes().all(|b| b.is_ascii_digit()));
        let (text, words) = if numbered && !main.is_empty() {
            let open = |end| sibling(end).map(CheckpointFile::open).transpose();
            (open(".text_encoder.pt")?, open(".ti.pt")?)
        } else {
            (None, None)
        };
        let config = file.with_file_name(CONFIG);
        let peft = path.is_dir() || file.file_stem().is_some_and(|stem| stem == "adapter_model");
        let tunings = if peft && config.is_file() {
            Tunings::from_config(&config)?
        } else {
            Tunings::from_metadata(&main)?
        };
        Ok(Self { path: path.to_path_buf(), main, text, words, tunings, hashes: Arc::default() })
    }

    /// An adapter whose bytes are in memory; `name` stands for its path.
    ///
    /// # Errors
    /// As [`CheckpointFile::from_vec`].
    pub fn from_vec(bytes: Vec<u8>, name: impl Into<PathBuf>) -> Result<Self> {
        let path = name.into();
        let main = CheckpointFile::from_vec(bytes, &path)?;
        let tunings = Tunings::from_metadata(&main)?;
        Ok(Self { path, main, text: None, words: None, tunings, hashes: Arc::default() })
    }

    /// Refuses what is no adapter for any model, by its keys alone.
    ///
    /// # Errors
    /// [`Error::WrongFamily`] for checkpoints and adapters of other families, [`Error::Corrupt`] for a file
    /// without any key that an adapter has.
    pub fn check(&self) -> Result<()> {
        if let Some(error) = self.refusal() {
            return Err(error);
        }
        let known = |name: &str| {
            let role = self.key(name).map(|key| key.role);
            let numbered = !name.is_empty() && name.bytes().all(|b| b.is_ascii_digit());
            let ordered = numbered || ordered::is_key(name) || name.starts_with(WORDS);
            ordered || role.is_some_and(|role| role != Role::Weight)
        };
        if self.main.names().any(known) {
            return Ok(());
        }
        let first = self.main.names().next();
        let first = first.map_or(String::new(), |name| format!(", for instance `{name}`"));
        Err(Error::corrupt(&self.path, format!("no key of this file is that of an adapter{first}")))
    }

    /// The error for a file that is no adapter for Stable Diffusion; `None` for what may be one.
    pub(super) fn refusal(&self) -> Option<Error> {
        foreign::refusal(&self.main, !self.tunings.is_empty())
    }

    /// Takes a key apart; `None` for a key that no adapter has. Plain weights and biases are whole tensors where a
    /// configuration of PEFT speaks of their component.
    pub(super) fn key(&self, name: &str) -> Option<Key> {
        let whole = || whole::split(name).filter(|key| self.tunings.of(&key.stem).is_some());
        whole().or_else(|| keys::split(name))
    }

    /// The file or folder that was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file that holds the tensors.
    pub fn tensor_file(&self) -> &CheckpointFile {
        &self.main
    }

    /// The file's name without extension.
    pub fn name(&self) -> String {
        let name = if self.path.is_dir() { self.path.file_name() } else { self.path.file_stem() };
        name.unwrap_or(self.path.as_os_str()).to_string_lossy().into_owned()
    }

    /// Free-form text that the trainer wrote.
    pub fn metadata(&self) -> &std::collections::BTreeMap<String, String> {
        self.main.metadata()
    }

    /// Hashes of the tensor file; computed once.
    ///
    /// # Errors
    /// [`Error::Io`] when the file cannot be read.
    pub fn hashes(&self) -> Result<&Hashes> {
        if let Some(hashes) = self.hashes.get() {
            return Ok(hashes);
        }
        let bytes = self.main.bytes();
        let tensors = self.main.data_start().and_then(|start| bytes.get(start..));
        let hashes = Hashes { sha256: hex(bytes), tensors: tensors.map(hex) };
        Ok(self.hashes.get_or_init(|| hashes))
    }

    /// A short identity of the contents, cheap for files of any size: the table of contents, small
    /// tensors, and samples of every large one.
    pub fn fingerprint(&self) -> String {
        let mut hash = Sha256::new();
        for file in
            [Some(&self.main), self.text.as_ref(), self.words.as_ref()].into_iter().flatten()
        {
            sample(file, &mut hash);
        }
        // Configurations beside the file change what it means.
        hash.update(format!("{:?}", self.tunings).as_bytes());
        letters(&hash.finalize())
    }
}

/// Feeds the size, the beginning, the end, and something of every tensor into `hash`: files of one
/// trainer differ in nothing else, and one that was edited perhaps in a single alpha.
fn sample(file: &CheckpointFile, hash: &mut Sha256) {
    const BLOCK: usize = 512;
    const HEAD: usize = 1 << 20;
    let bytes = file.bytes();
    hash.update((bytes.len() as u64).to_le_bytes());
    hash.update(&bytes[..bytes.len().min(file.data_start().unwrap_or(HEAD).min(HEAD))]);
    hash.update(&bytes[bytes.len().saturating_sub(BLOCK)..]);
    for name in file.names() {
        // What cannot be read is refused where it is used.
        let Ok(data) = file.raw(name, None) else { continue };
        hash.update(name);
        if data.len() <= 3 * BLOCK {
            hash.update(&data);
            continue;
        }
        for start in [0, data.len() / 2, data.len() - BLOCK] {
            hash.update(&data[start..start + BLOCK]);
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    letters(&Sha256::digest(bytes))
}

/// A digest in hexadecimal letters.
pub(super) fn letters(digest: &[u8]) -> String {
    digest.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

/// The tensor file inside a folder.
fn inside(folder: &Path) -> Result<PathBuf> {
    let found = FOLDER_FILES.iter().map(|name| folder.join(name)).find(|path| path.is_file());
    found.ok_or_else(|| {
        let names = FOLDER_FILES.join(", ");
        Error::corrupt(folder, format!("a folder without an adapter; expected one of {names}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// A file of 4 MB with an alpha between two large factors, at no round place.
    fn file(alpha: f32, metadata: &str) -> AdapterFile {
        let (down, up) = ((2 << 20) + 20_000, 2 << 20);
        let entry = |kind: &str, size: usize, start: usize, end: usize| {
            let shape = [(end - start) / size];
            json!({ "dtype": kind, "shape": shape, "data_offsets": [start, end] })
        };
        let header = json!({
            "__metadata__": { "note": metadata },
            "a.lora_down.weight": entry("F16", 2, 0, down),
            "a.alpha": entry("F32", 4, down, down + 4),
            "a.lora_up.weight": entry("F16", 2, down + 4, down + 4 + up),
        });
        let header = serde_json::to_vec(&header).unwrap();
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(&header);
        bytes.resize(bytes.len() + down, 0);
        bytes.extend(alpha.to_le_bytes());
        bytes.resize(bytes.len() + up, 0);
        AdapterFile::from_vec(bytes, "x.safetensors").unwrap()
    }

    #[test]
    fn one_other_number_is_another_file() {
        let print = |alpha| file(alpha, "").fingerprint();
        assert_eq!(print(4.0), print(4.0));
        assert_ne!(print(4.0), print(8.0));
    }

    #[test]
    fn hashes_are_those_of_the_communities() {
        let (plain, noted) = (file(4.0, ""), file(4.0, "edited"));
        let (a, b) = (plain.hashes().unwrap(), noted.hashes().unwrap());
        assert_ne!(a.sha256, b.sha256);
        // AutoV3 leaves out the header, so that editing metadata does not change it.
        assert_eq!(a.auto_v3(), b.auto_v3());
        let bytes = plain.main.bytes();
        let start = 8 + u64::from_le_bytes(*bytes.first_chunk().unwrap()) as usize;
        assert_eq!(a.auto_v2(), &letters(&Sha256::digest(bytes))[..10]);
        assert_eq!(a.auto_v3(), Some(&letters(&Sha256::digest(&bytes[start..]))[..12]));
    }
}
