//! Torch files: pickles, read by an interpreter that can build tensors and nothing else.
//!
//! A pickle is a program. This interpreter supports containers, numbers and strings, and the few names
//! by which torch describes tensors; a name that is not on its list ends the reading with
//! [`Error::UnsafePickle`]. Nothing is ever imported or called. Names of harmless objects that
//! training frameworks leave beside the weights are on the list too: they become placeholders
//! without content. Tensors stay in the file until they are asked for.

mod heap;
mod input;
mod machine;
mod storage;
mod symbols;
mod torch;
mod zip;

use super::contents::Contents;
use crate::error::{Error, Result};
use heap::Value;
use machine::Machine;
use std::path::Path;

/// Longest pickle that is interpreted, in bytes; those of real checkpoints have a few MiB.
const MAX_PICKLE: usize = 64 << 20;

/// How a pickle that torch wrote before version 1.6 begins: torch's magic number as a pickle.
const MAGIC: &[u8] = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.";

/// Reads the table of contents of a torch archive (torch 1.6 and later).
///
/// # Source
/// `torch/serialization.py` of torch 2.15: `data.pkl` holds the objects, `data/KEY` each storage.
pub(super) fn read_zip(bytes: &[u8], path: &Path) -> Result<Contents> {
    let archive = zip::Archive::open(bytes, path)?;
    let region = archive.record("data.pkl")?;
    let pickle = region.of(bytes).unwrap_or_default();
    let (machine, root) = Machine::new(pickle, path).run_torch()?;
    torch::contents(&machine.heap, root, (path, bytes.len()), |key| {
        archive.record(&format!("data/{key}"))
    })
}

/// Reads the table of contents of a torch file of the older form: five pickles, then the storages.
///
/// # Source
/// `_legacy_load` in `torch/serialization.py` of torch 2.15.
pub(super) fn read_legacy(bytes: &[u8], path: &Path) -> Result<Contents> {
    let Some(rest) = bytes.strip_prefix(MAGIC) else {
        // It is run in any case, so that a dangerous one is refused as such.
        Machine::new(bytes, path).run_torch()?;
        return Err(Error::corrupt(path, "this is a pickle, but torch did not write it"));
    };
    let start = bytes.len() - rest.len();
    let (version, _) = Machine::at(bytes, start, path).run()?;
    let (system, root) = Machine::at(bytes, version.position(), path).run()?;
    if system.heap.entry(root, "little_endian") == Some(Value::Bool(false)) {
        return Err(big_endian(path));
    }
    let (main, root) = Machine::at(bytes, system.position(), path).run_torch()?;
    let (keys, list) = Machine::at(bytes, main.position(), path).run()?;
    let names = (&keys.heap, list);
    let regions = torch::legacy_regions(bytes, keys.position(), names, &main.heap, path)?;
    torch::contents(&main.heap, root, (path, bytes.len()), |key| {
        let missing = || Error::corrupt(path, format!("the storage {key} is missing"));
        regions.get(&key.to_string()).copied().ok_or_else(missing)
    })
}

fn big_endian(path: &Path) -> Error {
    Error::unsupported(
        format!("the big-endian torch file {}", path.display()),
        "convert it to safetensors on the machine that wrote it",
    )
}

#[cfg(test)]
mod tests;
