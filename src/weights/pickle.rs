//! Floor 2. Torch files (stand-in until the restricted reader is delivered).

use super::file::Contents;
use crate::error::{Error, Result};
use std::path::Path;

pub(super) fn read_zip(_: &[u8], path: &Path) -> Result<Contents> {
    Err(Error::unsupported(format!("the torch file {}", path.display()), "convert it to safetensors"))
}

pub(super) fn read_legacy(_: &[u8], path: &Path) -> Result<Contents> {
    Err(Error::unsupported(format!("the torch file {}", path.display()), "convert it to safetensors"))
}
