//! Files of textual inversions: one new word each, whoever wrote it.

use crate::error::{Error, Result};
use crate::lora::factor::Factor;
use crate::lora::read::embedding_picture;
use crate::lora::read::inversion::Inversion;
use crate::picture::Format;
use crate::plain::hex;
use crate::weights::{CheckpointFile, Component};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Bytes of the largest file that is copied to memory when it is opened.
const MOST_COPIED: u64 = 512 << 20;
/// Vectors of one word: A1111's largest have 75.
const MOST_VECTORS: usize = 1024;
/// What A1111 calls the vectors, and the token numbers beside them.
const PARAMETERS: &str = "string_to_param";
const TOKENS: &str = "string_to_token";

/// The file of a textual inversion.
#[derive(Debug, Clone)]
pub struct Embedding {
    /// The word that calls it: the file's name, or what a picture says.
    pub word: String,
    path: PathBuf,
    sha256: String,
    tables: Vec<Table>,
}

/// Vectors for one text encoder.
#[derive(Debug, Clone)]
struct Table {
    /// The text encoder, where the file names it.
    part: Option<Component>,
    factor: Factor,
}

impl Embedding {
    /// Opens a file of any kind: A1111's, diffusers', of two text encoders, or a picture that holds one.
    ///
    /// # Errors
    /// As [`CheckpointFile::open`]; [`Error::Corrupt`] for a file without vectors.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let (file, word) = if Format::of(path).is_some() {
            let found = embedding_picture::read(path)?;
            (found.file, found.name.unwrap_or(stem))
        } else {
            (CheckpointFile::open_copied(path, MOST_COPIED)?, stem)
        };
        let tables = tables(&file, path)?;
        Ok(Self { word, path: path.to_path_buf(), sha256: file.sha256()?.to_owned(), tables })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// An identity of its word and vectors.
    pub fn fingerprint(&self) -> String {
        hex(&Sha256::digest(format!("{}\n{}", self.word, self.sha256).as_bytes()))
    }

    /// The number of vectors and their width, of each table.
    pub fn shapes(&self) -> Vec<(usize, usize)> {
        self.tables.iter().map(|table| shape(&table.factor)).collect()
    }

    /// Its word for the text encoders of a model; without vectors for those that it does not fit.
    ///
    /// `width`: width of a text encoder's token table; `None` when the model has no such encoder.
    ///
    /// # Errors
    /// [`Error::Corrupt`] when two of its tables fit one text encoder.
    pub fn inversion(&self, width: impl Fn(Component) -> Option<usize>) -> Result<Inversion> {
        let mut parts: BTreeMap<Component, Factor> = BTreeMap::new();
        for Table { part, factor } in &self.tables {
            let fits = |part: &Component| width(*part) == Some(shape(factor).1);
            let encoders = [Component::TextEncoder, Component::TextEncoder2];
            let fitting = part.or_else(|| encoders.into_iter().find(fits)).filter(fits);
            let Some(part) = fitting else { continue };
            if parts.insert(part, factor.clone()).is_some() {
                let why =
                    "two tables of this embedding fit one text encoder; expected one for each";
                return Err(Error::corrupt(&self.path, why));
            }
        }
        Ok(Inversion::new(self.word.clone(), parts))
    }

    /// Reads every vector once.
    ///
    /// # Errors
    /// [`Error::Corrupt`] for vectors that are no finite numbers.
    pub fn check(&self) -> Result<()> {
        self.tables.iter().try_for_each(|table| table.factor.read().map(drop))
    }
}

/// The number of vectors and their width.
fn shape(factor: &Factor) -> (usize, usize) {
    match *factor.shape() {
        [width] => (1, width),
        [count, width] => (count, width),
        _ => (0, 0),
    }
}

fn tables(file: &CheckpointFile, path: &Path) -> Result<Vec<Table>> {
    let named = |name: &&str| !name.split('.').any(|part| part == TOKENS);
    let mut names: Vec<&str> = file.names().filter(named).collect();
    let is_parameter = |name: &&str| name.split('.').any(|part| part == PARAMETERS);
    if names.iter().any(&is_parameter) {
        names.retain(is_parameter);
    }
    let bundled = |name: &&str| name.starts_with(super::inversion::PREFIX);
    if names.iter().any(&bundled) {
        names.retain(bundled);
    }
    let mut tables = Vec::new();
    for name in names {
        let part = match name.rsplit('.').next() {
            Some("clip_l") => Some(Component::TextEncoder),
            Some("clip_g") => Some(Component::TextEncoder2),
            _ => None,
        };
        let Some(factor) = Factor::new(file, name) else { continue };
        let (count, width) = shape(&factor);
        if count == 0 || count > MOST_VECTORS || width == 0 || factor.whole_numbers().is_some() {
            let why = format!(
                "`{}` has the shape {:?}; expected 1 to {MOST_VECTORS} vectors of floats",
                crate::plain::value(name),
                factor.shape()
            );
            return Err(Error::corrupt(path, why));
        }
        tables.push(Table { part, factor });
    }
    if tables.is_empty() {
        return Err(Error::corrupt(path, "this file holds no embedding: no vectors are in it"));
    }
    // A file of many tensors is something else.
    if tables.len() > 4 {
        let why = format!("this file holds {} tensors; an embedding has one or two", tables.len());
        return Err(Error::corrupt(path, why));
    }
    Ok(tables)
}
