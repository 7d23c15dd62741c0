//! SHA-256 of files.

use crate::error::{Error, Result};
use crate::input;
use crate::lora::Hashes;
use crate::pipeline::Cancel;
use crate::plain::hex;
use sha2::{Digest, Sha256};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

/// Receives how many bytes of how many are hashed.
pub type Hashing<'a> = &'a dyn Fn(&Path, u64, u64);

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

/// The first byte and the number of bytes that the oldest hash of model files is of.
const WINDOW: (u64, u64) = (0x10_0000, 0x1_0000);
/// Longest header of a safetensors file.
const MAX_HEADER: u64 = 100 << 20;

/// Every hash by which model sites know the file `path`, in one pass.
///
/// # Errors
/// [`Error::Io`] when it cannot be read, [`Error::Cancelled`].
pub(super) fn hashes(path: &Path, cancel: &Cancel, progress: Hashing<'_>) -> Result<Hashes> {
    let io = |e| Error::io(path, e);
    let mut file = input::open(path)?;
    let length = file.metadata().map_err(io)?.len();
    let (mut whole, mut tensors, mut window) = (Sha256::new(), Sha256::new(), Sha256::new());
    let mut start = None;
    let mut block = vec![0; BLOCK];
    let (mut at, mut read) = (0u64, 1);
    while read > 0 {
        cancel.check()?;
        progress(path, at, length);
        read = file.read(&mut block).map_err(io)?;
        let bytes = &block[..read];
        if at == 0 {
            start = data_start(bytes, length).filter(|_| is_safetensors(path));
        }
        whole.update(bytes);
        if let Some(start) = start {
            tensors.update(&bytes[start.saturating_sub(at).min(read as u64) as usize..]);
        }
        window.update(part(bytes, at, WINDOW.0, WINDOW.0 + WINDOW.1));
        at += read as u64;
    }
    Ok(Hashes {
        sha256: hex(&whole.finalize()),
        tensors: start.map(|_| hex(&tensors.finalize())),
        window: (at > WINDOW.0).then(|| hex(&window.finalize())),
    })
}

/// The oldest hash of the file `path`; `None` for one that ends before.
///
/// # Errors
/// [`Error::Io`].
pub(super) fn window(path: &Path) -> Result<Option<String>> {
    let io = |e| Error::io(path, e);
    let mut file = input::open(path)?;
    file.seek(SeekFrom::Start(WINDOW.0)).map_err(io)?;
    let mut bytes = Vec::new();
    file.take(WINDOW.1).read_to_end(&mut bytes).map_err(io)?;
    Ok((!bytes.is_empty()).then(|| hex(&Sha256::digest(&bytes))))
}

/// What of `bytes`, which stand at `at`, lies between `from` and `to`.
fn part(bytes: &[u8], at: u64, from: u64, to: u64) -> &[u8] {
    let place = |edge: u64| edge.saturating_sub(at).min(bytes.len() as u64) as usize;
    &bytes[place(from)..place(to)]
}

fn is_safetensors(path: &Path) -> bool {
    path.extension().is_some_and(|end| end.eq_ignore_ascii_case("safetensors"))
}

/// Where the tensors of a safetensors file begin.
fn data_start(bytes: &[u8], length: u64) -> Option<u64> {
    let header = u64::from_le_bytes(*bytes.first_chunk()?);
    (header <= MAX_HEADER && header + 8 <= length).then_some(header + 8)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Against hashes of the parts by themselves.
    #[test]
    fn hashes_are_of_the_parts_that_they_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.safetensors");
        let mut bytes = 700_000u64.to_le_bytes().to_vec();
        bytes.extend((0..2_000_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8));
        std::fs::write(&path, &bytes).unwrap();
        let found = hashes(&path, &Cancel::new(), &|_, _, _| ()).unwrap();
        let of = |bytes: &[u8]| hex(&Sha256::digest(bytes));
        assert_eq!(found.sha256, of(&bytes));
        assert_eq!(found.tensors, Some(of(&bytes[700_008..])));
        assert_eq!(found.window, Some(of(&bytes[0x10_0000..0x11_0000])));
        let short = folder.path().join("y.ckpt");
        std::fs::write(&short, &bytes[..99]).unwrap();
        let found = hashes(&short, &Cancel::new(), &|_, _, _| ()).unwrap();
        assert_eq!((found.tensors, found.window), (None, None));
    }
}
