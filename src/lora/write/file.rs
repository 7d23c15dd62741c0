//! Writing safetensors: one tensor after another, whole or not at all.

use crate::atomic_file::{self, Care, Place, Together, is_stdout};
use crate::cancel::Cancel;
use crate::error::{Error, Result};
use crate::lora::factor::Factor;
use crate::lora::read::header;
use half::{bf16, f16};
use safetensors::Dtype;
use serde_json::{Map, Value, json};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// What the files written here are called.
const EXTENSION: &str = "safetensors";

/// Free-form text of a file's header.
pub type Metadata = BTreeMap<String, String>;

/// Notes that describe other bytes than the ones written here.
const STALE: [&str; 5] = [
    "sshs_model_hash",
    "sshs_legacy_hash",
    "modelspec.hash_sha256",
    "lora_adapter_metadata",
    "colora.operation",
];

/// A float type to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FileDtype {
    /// 32 bits.
    #[default]
    F32,
    /// 16 bits, 11 of them precision; up to 65504.
    F16,
    /// 16 bits, 8 of them precision; as far as 32 bits reach.
    Bf16,
}

impl FromStr for FileDtype {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "f32" => Ok(FileDtype::F32),
            "f16" => Ok(FileDtype::F16),
            "bf16" => Ok(FileDtype::Bf16),
            _ => Err(Error::bad_request("dtype", text, "expected f32, f16 or bf16")),
        }
    }
}

impl FileDtype {
    /// The type's name in a file.
    pub fn dtype(self) -> Dtype {
        match self {
            FileDtype::F32 => Dtype::F32,
            FileDtype::F16 => Dtype::F16,
            FileDtype::Bf16 => Dtype::BF16,
        }
    }

    /// The precision that a file holds; `None` for other types.
    pub fn of(dtype: Dtype) -> Option<Self> {
        [FileDtype::F32, FileDtype::F16, FileDtype::Bf16].into_iter().find(|p| p.dtype() == dtype)
    }

    /// The numbers as bytes.
    ///
    /// # Errors
    /// [`Error::BadRequest`] for numbers that this type cannot hold.
    pub fn encode(self, values: &[f32]) -> Result<Vec<u8>> {
        match self {
            FileDtype::F32 => Ok(values.iter().flat_map(|v| v.to_le_bytes()).collect()),
            FileDtype::Bf16 => {
                Ok(values.iter().flat_map(|v| bf16::from_f32(*v).to_le_bytes()).collect())
            }
            FileDtype::F16 => {
                let halves: Vec<f16> = values.iter().map(|v| f16::from_f32(*v)).collect();
                if halves.iter().zip(values).any(|(h, v)| h.is_infinite() && v.is_finite()) {
                    let why = "some numbers are beyond 65504; expected bf16 or f32";
                    return Err(Error::bad_request("dtype", "f16", why));
                }
                Ok(halves.into_iter().flat_map(f16::to_le_bytes).collect())
            }
        }
    }

    /// Whether `value` survives in this type.
    fn holds(self, value: f32) -> bool {
        match self {
            FileDtype::F32 => true,
            FileDtype::F16 => f16::from_f32(value).to_f32() == value,
            FileDtype::Bf16 => bf16::from_f32(value).to_f32() == value,
        }
    }
}

/// Gives the bytes of a tensor when its turn comes.
type Bytes<'a> = Box<dyn Fn() -> Result<Cow<'a, [u8]>> + 'a>;

/// A tensor to be written.
pub struct Entry<'a> {
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Bytes<'a>,
}

impl std::fmt::Debug for Entry<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Entry { dtype, shape, .. } = self;
        f.debug_struct("Entry").field("dtype", dtype).field("shape", shape).finish_non_exhaustive()
    }
}

impl<'a> Entry<'a> {
    /// A tensor whose numbers are computed when it is written.
    pub fn lazy(
        shape: Vec<usize>,
        precision: FileDtype,
        values: impl Fn() -> Result<Vec<f32>> + 'a,
    ) -> Self {
        let bytes = move || Ok(Cow::Owned(precision.encode(&values()?)?));
        Self { dtype: precision.dtype(), shape, bytes: Box::new(bytes) }
    }

    /// A tensor whose numbers are known.
    ///
    /// # Errors
    /// As [`FileDtype::encode`].
    pub fn values(shape: Vec<usize>, precision: FileDtype, values: &[f32]) -> Result<Self> {
        let bytes = precision.encode(values)?;
        let bytes: Bytes<'a> = Box::new(move || Ok(Cow::Owned(bytes.clone())));
        Ok(Self { dtype: precision.dtype(), shape, bytes })
    }

    /// A tensor whose bytes are made when it is written.
    pub fn bytes(
        shape: Vec<usize>,
        dtype: Dtype,
        bytes: impl Fn() -> Result<Vec<u8>> + 'a,
    ) -> Self {
        Self { dtype, shape, bytes: Box::new(move || Ok(Cow::Owned(bytes()?))) }
    }

    /// A tensor of a file, copied bit by bit unless another precision is wanted.
    pub(super) fn copy(factor: &'a Factor, shape: Vec<usize>, wanted: Option<FileDtype>) -> Self {
        match (wanted, factor.stored()) {
            (None, Some(dtype)) => Self { dtype, shape, bytes: Box::new(move || factor.raw()) },
            (wanted, _) => Self::lazy(shape, wanted.unwrap_or_default(), move || factor.read()),
        }
    }

    /// A single number in `like` if that type can hold it, else in 32 bits.
    pub(super) fn scalar(value: f32, like: Dtype) -> Self {
        let precision = FileDtype::of(like).filter(|p| p.holds(value)).unwrap_or_default();
        Self::lazy(Vec::new(), precision, move || Ok(vec![value]))
    }

    /// Element type in the file.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn size(&self) -> usize {
        self.shape.iter().product::<usize>() * self.dtype.bitsize() / 8
    }
}

/// The metadata of a source as it stands in what is made of it: without what would be wrong, with a
/// note of the operation.
pub(super) fn passed_on(source: &Metadata, operation: &str) -> Metadata {
    let mut metadata = source.clone();
    metadata.retain(|key, _| !STALE.contains(&key.as_str()) && !header::is_entry(key));
    metadata.insert("colora.operation".into(), operation.into());
    metadata.insert("colora.version".into(), env!("CARGO_PKG_VERSION").into());
    metadata
}

/// Finds out whether a safetensors file may and can be written at `path`, before the work for it begins;
/// makes its folder.
///
/// # Errors
/// [`Error::Exists`] when something is there and `force` does not allow to replace it, [`Error::BadRequest`]
/// for a folder, for stdout and for a name of another kind of file, [`Error::Write`].
pub fn check_free(path: &Path, force: bool) -> Result<()> {
    if path == Path::new("-") || is_stdout(path) {
        let why =
            "weights are not written to stdout; name a file, or a pipe such as >(gzip > x.gz)";
        return Err(Error::bad_request("output", path.display(), why));
    }
    if let Place::Stream { .. } = Place::of(path)? {
        return atomic_file::prepare(path).map(drop);
    }
    // By such a name nothing would find it, or read it as what it is not.
    if path.extension().is_some_and(|extension| extension != EXTENSION) {
        let why =
            format!("a safetensors file is written; expected a name that ends with .{EXTENSION}");
        return Err(Error::bad_request("output", path.display(), why));
    }
    if !force && Place::of(path)? == Place::Taken {
        return Err(Error::Exists { path: path.to_path_buf() });
    }
    atomic_file::prepare(path).map(drop)
}

/// Writes a safetensors file, which is on the disk before it takes its name; returns its size in bytes.
///
/// Pipes and devices are written through.
///
/// # Errors
/// [`Error::Exists`] without `force`; [`Error::Write`]; [`Error::Cancelled`] between two tensors when `cancel`
/// was set; what computing a tensor gives.
pub fn save(
    path: &Path,
    tensors: &BTreeMap<String, Entry<'_>>,
    metadata: &Metadata,
    force: bool,
    cancel: &Cancel,
) -> Result<u64> {
    check_free(path, force)?;
    atomic_file::write(path, force, Care::Lasting, |file| {
        contents(file, path, tensors, metadata, cancel)
    })
}

/// Writes a safetensors file that will take its name `path` with others; returns where it lies meanwhile.
///
/// # Errors
/// As [`save`].
pub(crate) fn save_among(
    all: &mut Together,
    path: &Path,
    tensors: &BTreeMap<String, Entry<'_>>,
    metadata: &Metadata,
    cancel: &Cancel,
) -> Result<PathBuf> {
    let written = all.file(path, |file| contents(file, path, tensors, metadata, cancel))?;
    Ok(written.0)
}

/// Fills the file `path`.
fn contents(
    file: &mut File,
    path: &Path,
    tensors: &BTreeMap<String, Entry<'_>>,
    metadata: &Metadata,
    cancel: &Cancel,
) -> Result<u64> {
    let mut order: Vec<(&String, &Entry<'_>)> = tensors.iter().collect();
    // Wide types first, so that every tensor lies at a multiple of its element's size.
    order.sort_by_key(|(name, entry)| (std::cmp::Reverse(entry.dtype.bitsize()), *name));
    let header = header(&order, metadata)?;
    let io = |e| Error::write(path, e);
    let mut file = std::io::BufWriter::with_capacity(1 << 20, file);
    file.write_all(&(header.len() as u64).to_le_bytes()).map_err(io)?;
    file.write_all(&header).map_err(io)?;
    let mut size = 8 + header.len() as u64;
    for (name, entry) in order {
        cancel.check()?;
        let bytes = (entry.bytes)()?;
        if bytes.len() != entry.size() {
            let (found, shape) = (bytes.len(), &entry.shape);
            let why = format!("`{name}`: {found} bytes for {shape:?} of {}", entry.dtype);
            return Err(Error::Internal(why));
        }
        file.write_all(&bytes).map_err(io)?;
        size += bytes.len() as u64;
    }
    file.flush().map_err(io)?;
    Ok(size)
}

/// The table of contents, padded to a multiple of eight bytes.
fn header(order: &[(&String, &Entry<'_>)], metadata: &Metadata) -> Result<Vec<u8>> {
    let mut table = Map::new();
    if !metadata.is_empty() {
        table.insert("__metadata__".into(), json!(metadata));
    }
    let mut start = 0;
    for (name, entry) in order {
        let end = start + entry.size();
        let row = json!({
            "dtype": entry.dtype.to_string(), "shape": entry.shape, "data_offsets": [start, end],
        });
        table.insert((*name).clone(), row);
        start = end;
    }
    let text = serde_json::to_vec(&Value::Object(table));
    let mut text = text.map_err(|e| Error::Internal(format!("a header as JSON: {e}")))?;
    text.resize(text.len().next_multiple_of(8), b' ');
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::CheckpointFile;

    #[test]
    fn what_is_written_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.safetensors");
        let values = vec![1.0, -0.5, 3.25, 1e-3, 0.0, 7.0];
        let entry = |p| Entry::values(vec![2, 3], p, &values).unwrap();
        let tensors = BTreeMap::from([
            ("half".to_owned(), entry(FileDtype::F16)),
            ("brain".to_owned(), entry(FileDtype::Bf16)),
            ("whole".to_owned(), entry(FileDtype::F32)),
            ("alpha".to_owned(), Entry::scalar(0.1, Dtype::F16)),
        ]);
        let metadata = Metadata::from([("ss_note".to_owned(), "ä\n\"x\"".to_owned())]);
        save(&path, &tensors, &metadata, false, &Cancel::new()).unwrap();
        let file = CheckpointFile::open(&path).unwrap();
        assert_eq!(file.metadata(), &metadata);
        assert_eq!(file.read_f32("whole", None).unwrap(), values);
        assert_eq!(file.read_f32("alpha", None).unwrap(), [0.1], "0.1 needs 32 bits");
        assert_eq!(file.info("half").unwrap().dtype, Dtype::F16);
        let half = file.read_f32("half", None).unwrap();
        assert!(half.iter().zip(&values).all(|(a, b)| (a - b).abs() < 1e-5));
        let again = save(&path, &tensors, &metadata, false, &Cancel::new()).unwrap_err();
        assert!(matches!(again, Error::Exists { .. }));
        let before = std::fs::read(&path).unwrap();
        save(&path, &tensors, &metadata, true, &Cancel::new()).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), before, "the same bytes every time");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing left over");
    }

    #[test]
    fn a_failure_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.safetensors");
        let large = Entry::lazy(vec![1], FileDtype::F16, || Ok(vec![1e6]));
        let tensors = BTreeMap::from([("a".to_owned(), large)]);
        let error = save(&path, &tensors, &Metadata::new(), false, &Cancel::new()).unwrap_err();
        assert!(error.to_string().contains("bf16"), "{error}");
        let cancel = Cancel::new();
        cancel.cancel();
        let small = Entry::lazy(vec![1], FileDtype::F16, || Ok(vec![1.0]));
        let tensors = BTreeMap::from([("a".to_owned(), small)]);
        let error = save(&path, &tensors, &Metadata::new(), false, &cancel).unwrap_err();
        assert!(matches!(error, Error::Cancelled), "{error}");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        for name in ["a.gguf", "a.ckpt", "a.safetensors.png"] {
            let error = check_free(&folder.path().join(name), true).unwrap_err();
            assert!(error.to_string().contains(".safetensors"), "{error}");
        }
        check_free(&folder.path().join("new/a"), true).unwrap();
        assert!(folder.path().join("new").is_dir());
    }
}
