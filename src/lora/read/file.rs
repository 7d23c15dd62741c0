//! The files of one adapter: a tensor file, a PEFT folder, or cloneofsimo's lists.

use crate::error::{Error, Result};
use crate::lora::read::foreign;
use crate::lora::read::keys::{self, Key, Role};
use crate::lora::read::ordered;
use crate::lora::read::tuning::Tunings;
use crate::lora::read::whole;
use crate::plain::{self, hex};
use crate::weights::CheckpointFile;
use serde::{Deserialize, Serialize};
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
/// Bytes of the largest file that is copied to memory when it is opened; larger ones are mapped.
const MOST_COPIED: u64 = 512 << 20;
/// How the keys of new words begin.
const WORDS: &str = "bundle_emb.";
/// PEFT's configuration beside its tensors.
const CONFIG: &str = "adapter_config.json";

/// The opened files of one adapter. Cloning is cheap; no tensor is read before it is needed.
#[derive(Debug, Clone)]
pub struct AdapterFile {
    path: PathBuf,
    pub(in crate::lora) main: CheckpointFile,
    /// cloneofsimo's list for the text encoder, beside the one for the UNet.
    pub(in crate::lora) text: Option<CheckpointFile>,
    /// cloneofsimo's words, beside the lists.
    pub(in crate::lora) words: Option<CheckpointFile>,
    pub(in crate::lora) tunings: Tunings,
    hashes: Arc<OnceLock<Hashes>>,
}

/// The hashes by which model sites identify a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hashes {
    /// SHA-256 of the whole file; its first ten letters are called AutoV2.
    pub sha256: String,
    /// SHA-256 of the tensors alone, which editing the metadata does not change; its first twelve
    /// letters are called AutoV3. `None` for pickles.
    pub tensors: Option<String>,
    /// SHA-256 of the 65,536 bytes from 0x100000 on; its first eight letters, AutoV1, were the oldest hash of
    /// models. `None` for files that end before.
    pub window: Option<String>,
}

/// The first byte and the byte behind the last that the oldest hash is of.
const WINDOW: std::ops::Range<usize> = 0x10_0000..0x11_0000;
/// Letters that a hash has at least.
const SHORTEST: usize = 8;

impl Hashes {
    /// Whether `hash`, some or all letters of one, is one of these.
    pub fn has(&self, hash: &str) -> bool {
        let all = [Some(&self.sha256), self.tensors.as_ref(), self.window.as_ref()];
        hash.len() >= SHORTEST && all.into_iter().flatten().any(|known| known.starts_with(hash))
    }

    /// The first eight letters of the hash of a small part of the file.
    pub fn auto_v1(&self) -> Option<&str> {
        self.window.as_deref().map(|hash| &hash[..SHORTEST])
    }

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
        let main = CheckpointFile::open_copied(&file, MOST_COPIED)?;
        let sibling = |end: &str| {
            let stem = file.file_name()?.to_str()?.strip_suffix(".pt")?;
            Some(file.with_file_name(format!("{stem}{end}"))).filter(|path| path.is_file())
        };
        let numbered = main.names().all(|name| name.bytes().all(|b| b.is_ascii_digit()));
        let (text, words) = if numbered && !main.is_empty() {
            let open = |end| {
                sibling(end).map(|file| CheckpointFile::open_copied(&file, MOST_COPIED)).transpose()
            };
            (open(".text_encoder.pt")?, open(".ti.pt")?)
        } else {
            (None, None)
        };
        let config = file.with_file_name(CONFIG);
        let peft = path.is_dir() || file.file_stem().is_some_and(|stem| stem == "adapter_model");
        // Whatever stands there: a pipe or a broken link in its place is an error, no lack of settings.
        let tunings = if peft && config.symlink_metadata().is_ok() {
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
        let first =
            first.map_or(String::new(), |name| format!(", for instance `{}`", plain::value(name)));
        Err(Error::corrupt(&self.path, format!("no key of this file is that of an adapter{first}")))
    }

    /// The error for a file that is no adapter for Stable Diffusion; `None` for what may be one.
    pub(in crate::lora) fn refusal(&self) -> Option<Error> {
        foreign::refusal(&self.main, !self.tunings.is_empty())
    }

    /// Takes a key apart; `None` for a key that no adapter has. Plain weights and biases are whole tensors where a
    /// configuration of PEFT names their component.
    pub(in crate::lora) fn key(&self, name: &str) -> Option<Key> {
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
        let sha256 = self.main.sha256()?.to_owned();
        let window =
            bytes.get(WINDOW.start..).map(|rest| digest(&rest[..rest.len().min(WINDOW.len())]));
        let hashes = Hashes { sha256, tensors: tensors.map(digest), window };
        Ok(self.hashes.get_or_init(|| hashes))
    }

    /// Bytes of all its tensor files.
    pub fn byte_len(&self) -> u64 {
        let files = [Some(&self.main), self.text.as_ref(), self.words.as_ref()];
        files.into_iter().flatten().map(CheckpointFile::byte_len).sum()
    }

    /// The SHA-256 of the whole tensor file, in hexadecimal letters.
    ///
    /// # Errors
    /// [`Error::Corrupt`] for a file that was shortened while it was read.
    pub fn sha256(&self) -> Result<&str> {
        self.main.sha256()
    }

    /// The identity of the contents: a hash of every byte of every file, and of the
    /// configurations beside them. What is cached or ordered by it can never be taken for another adapter.
    ///
    /// # Errors
    /// As [`sha256`](Self::sha256).
    pub fn fingerprint(&self) -> Result<String> {
        let mut hash = Sha256::new();
        let files = [Some(&self.main), self.text.as_ref(), self.words.as_ref()];
        for file in files {
            hash.update(file.map_or(Ok("-"), CheckpointFile::sha256)?);
        }
        // Configurations beside the file change what it means.
        hash.update(format!("{:?}", self.tunings).as_bytes());
        Ok(hex(&hash.finalize()))
    }
}

/// The SHA-256 of `bytes` in hexadecimal digits.
fn digest(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
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
        let print = |alpha| file(alpha, "").fingerprint().unwrap();
        assert_eq!(print(4.0), print(4.0));
        assert_ne!(print(4.0), print(8.0));
    }

    /// A LoRA of which a third differed was taken for another one: three samples of a tensor were hashed.
    #[test]
    fn any_other_byte_is_another_file() {
        let bytes = file(4.0, "").main.bytes().to_vec();
        let print = |bytes: Vec<u8>| {
            AdapterFile::from_vec(bytes, "x.safetensors").unwrap().fingerprint().unwrap()
        };
        let same = print(bytes.clone());
        let file = file(4.0, "");
        let start = file.main.data_start().unwrap();
        let mut random = 0x9e37_79b9_7f4a_7c15u64;
        for (from, to) in [
            (0, (2 << 20) + 20_000),
            ((2 << 20) + 20_000, (2 << 20) + 20_004),
            ((2 << 20) + 20_004, bytes.len() - start),
        ] {
            for _ in 0..12 {
                random = random
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                let at = start + from + (random >> 33) as usize % (to - from);
                let mut other = bytes.clone();
                other[at] ^= 1 << (random % 8);
                assert_ne!(print(other), same, "byte {at}");
            }
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_copy_is_shared_until_the_file_changes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.safetensors");
        let write = |alpha| std::fs::write(&path, file(alpha, "").main.bytes()).unwrap();
        let print = || AdapterFile::open(&path).unwrap().fingerprint().unwrap();
        // Written in place, at once, with the same length and perhaps the same time.
        write(4.0);
        let four = print();
        for _ in 0..20 {
            write(8.0);
            let eight = print();
            write(4.0);
            assert_ne!(four, eight);
            assert_eq!(four, print());
        }
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
        assert_eq!(a.auto_v2(), &hex(&Sha256::digest(bytes))[..10]);
        assert_eq!(a.auto_v3(), Some(&hex(&Sha256::digest(&bytes[start..]))[..12]));
    }
}
