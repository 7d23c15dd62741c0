//! SHA-256 of files.

use crate::error::{Error, Result};
use crate::input;
use crate::pipeline::Cancel;
use crate::plain::hex;
use sha2::{Digest, Sha256};
use std::io::{Read, Write};
use std::path::Path;

/// Bytes read between two looks at the cancel flag.
const BLOCK: usize = 1 << 18;

/// The SHA-256 of a file, in small hexadecimal digits.
pub(super) fn sha256(path: &Path, cancel: &Cancel) -> Result<String> {
    copy(path, &mut std::io::sink(), path, cancel)
}

/// Copies the bytes of a file to `to`, which is called `target`, and gives their SHA-256.
///
/// # Errors
/// [`Error::Io`] for the file that is read, [`Error::Write`] for the one that is written.
pub(super) fn copy(
    path: &Path,
    to: &mut dyn Write,
    target: &Path,
    cancel: &Cancel,
) -> Result<String> {
    let io = |e| Error::io(path, e);
    let mut file = input::open(path)?;
    let mut hash = Sha256::new();
    let mut block = vec![0; BLOCK];
    loop {
        cancel.check()?;
        match file.read(&mut block).map_err(io)? {
            0 => return Ok(hex(&hash.finalize())),
            read => {
                hash.update(&block[..read]);
                to.write_all(&block[..read]).map_err(|e| Error::write(target, e))?;
            }
        }
    }
}
