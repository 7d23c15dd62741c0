//! Hashes of files that pictures were made with, by the names that the files had there.

use serde::{Deserialize, Serialize};

/// What a hash is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Subject {
    /// A model.
    Model,
    /// A LoRA.
    Lora,
    /// A textual inversion.
    Embedding,
}

/// The hash of a file that a picture was made with, and what the file was called there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedHash {
    /// What it is of.
    pub subject: Subject,
    /// What the file was called, without extension.
    pub name: String,
    /// Small hexadecimal digits, some or all of a hash.
    pub hash: String,
}

impl NamedHash {
    /// The hash as it was written: spaces and a leading `0x` do not count, nor does the case.
    pub(super) fn new(subject: Subject, name: impl Into<String>, hash: &str) -> Self {
        let hash = hash.trim().to_lowercase();
        let hash = hash.strip_prefix("0x").unwrap_or(&hash).to_owned();
        Self { subject, name: name.into(), hash }
    }

    /// Whether a file can be found by it. That of nothing circulates as one of files.
    pub(super) fn is_usable(&self) -> bool {
        const OF_NOTHING: &str = "e3b0c442";
        let long = (8..=64).contains(&self.hash.len());
        let hex = self.hash.bytes().all(|byte| byte.is_ascii_hexdigit());
        long && hex && !self.hash.starts_with(OF_NOTHING)
    }
}
