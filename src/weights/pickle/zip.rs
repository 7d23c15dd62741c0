//! The archive around a torch file: uncompressed records, read in place.

use super::storage::Region;
use crate::error::{Error, Result};
use std::collections::HashMap;
use std::io::Cursor;
use std::path::{Path, PathBuf};
use zip::{CompressionMethod, ZipArchive};

/// The records of an archive, by name without the leading folder.
#[derive(Debug)]
pub(super) struct Archive {
    path: PathBuf,
    records: HashMap<String, Region>,
}

impl Archive {
    /// Reads the directory of an archive.
    pub(super) fn open(bytes: &[u8], path: &Path) -> Result<Self> {
        let damaged = |e: zip::result::ZipError| {
            Error::corrupt(path, format!("truncated or damaged torch archive: {e}"))
        };
        let mut archive = ZipArchive::new(Cursor::new(bytes)).map_err(damaged)?;
        let folder = folder(&archive, path)?;
        let mut records = HashMap::new();
        for i in 0..archive.len() {
            let record = archive.by_index_raw(i).map_err(damaged)?;
            let name = std::str::from_utf8(record.name_raw()).unwrap_or_default();
            let Some(name) = name.strip_prefix(&folder) else { continue };
            if record.compression() != CompressionMethod::Stored || record.encrypted() {
                return Err(Error::unsupported(
                    format!("{}: a compressed torch archive", path.display()),
                    "save it again with torch.save, or convert it to safetensors",
                ));
            }
            let name = name.to_owned();
            let start = record.data_start().and_then(|start| usize::try_from(start).ok());
            let len = usize::try_from(record.size()).ok();
            let region = start.zip(len).map(|(start, len)| Region { start, len });
            let Some(region) = region.filter(|region| region.of(bytes).is_some()) else {
                let why = format!("truncated: `{}` has no end", name.escape_debug());
                return Err(Error::corrupt(path, why));
            };
            records.insert(name, region);
        }
        let archive = Self { path: path.to_path_buf(), records };
        archive.check(bytes)?;
        Ok(archive)
    }

    fn check(&self, bytes: &[u8]) -> Result<()> {
        if self.records.contains_key("constants.pkl") {
            return Err(Error::unsupported(
                format!("{}: a TorchScript program", self.path.display()),
                "use the weights that it was made from",
            ));
        }
        let order = self.records.get("byteorder").and_then(|region| region.of(bytes));
        if order == Some(b"big") { Err(super::big_endian(&self.path)) } else { Ok(()) }
    }

    /// The place of a record.
    pub(super) fn record(&self, name: &str) -> Result<Region> {
        let missing = || {
            let why = format!("the record `{}` is missing in the archive", name.escape_debug());
            Error::corrupt(&self.path, why)
        };
        self.records.get(name).copied().ok_or_else(missing)
    }
}

/// The folder that holds `data.pkl`, with its slash; torch names it after the file.
fn folder(archive: &ZipArchive<Cursor<&[u8]>>, path: &Path) -> Result<String> {
    let names = archive.file_names_raw().filter_map(|name| std::str::from_utf8(name).ok());
    let mut folders = names.filter_map(|name| {
        name.strip_suffix("data.pkl").filter(|folder| folder.is_empty() || folder.ends_with('/'))
    });
    match (folders.next(), folders.next()) {
        (Some(folder), None) => Ok(folder.to_owned()),
        (Some(_), Some(_)) => Err(Error::corrupt(path, "a torch archive with two data.pkl")),
        (None, _) => Err(Error::corrupt(
            path,
            "a zip archive that torch did not write (no data.pkl); unpack it if it holds a model",
        )),
    }
}
