//! Files that are read: regular files alone, opened without waiting, up to a limit.
//!
//! Every file that colora reads comes through here; `clippy.toml` forbids the other ways. A named pipe or
//! a device would be waited for, or read without end; a file of gigabytes in the place of a few settings
//! would fill the memory.
//!
//! Floor 0.

use crate::error::{Error, Result};
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;

/// Opens a regular file for reading, without waiting for a writer of a pipe or for a device.
///
/// # Errors
/// [`Error::Io`], and [`Error::Corrupt`] for folders, pipes, sockets and devices.
pub(crate) fn open(path: &Path) -> Result<File> {
    let mut options = std::fs::OpenOptions::new();
    options.read(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        options.custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY);
    }
    // Windows cannot open a folder as a file: checked first, because the system's own error is less clear.
    if let Ok(kind) = std::fs::metadata(path) {
        regular(path, &kind)?;
    }
    let file = options.open(path).map_err(|e| Error::io(path, e))?;
    // Anew: another file may have taken the name meanwhile.
    regular(path, &file.metadata().map_err(|e| Error::io(path, e))?)?;
    Ok(file)
}

fn regular(path: &Path, kind: &std::fs::Metadata) -> Result<()> {
    let found = match kind.file_type() {
        kind if kind.is_file() => return Ok(()),
        kind if kind.is_dir() => "a folder",
        _ => "a pipe, a socket or a device",
    };
    Err(Error::corrupt(path, format!("this is {found}, expected a regular file")))
}

/// The bytes of the file `path`.
///
/// `limit`: most bytes that are read; `what` names the file in the error: "a card".
///
/// # Errors
/// As [`open`]; [`Error::Corrupt`] for a longer one.
pub(crate) fn bytes(path: &Path, limit: u64, what: &'static str) -> Result<Vec<u8>> {
    from(open(path)?, limit, what, path)
}

/// As [`bytes`]; `None` when there is no such file.
pub(crate) fn bytes_if_there(
    path: &Path,
    limit: u64,
    what: &'static str,
) -> Result<Option<Vec<u8>>> {
    match bytes(path, limit, what) {
        Err(Error::Io { source, .. })
            if matches!(source.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) =>
        {
            Ok(None)
        }
        read => read.map(Some),
    }
}

/// The text of the file `path`, as [`decode`] reads it.
///
/// # Errors
/// As [`bytes`] and [`decode`].
pub(crate) fn text(path: &Path, limit: u64, what: &'static str) -> Result<String> {
    decode(bytes(path, limit, what)?, path)
}

/// As [`text`]; `None` when there is no such file.
pub(crate) fn text_if_there(path: &Path, limit: u64, what: &'static str) -> Result<Option<String>> {
    bytes_if_there(path, limit, what)?.map(|bytes| decode(bytes, path)).transpose()
}

/// Everything that `reader` gives, up to `limit` bytes; `path` names it in errors.
///
/// # Errors
/// [`Error::Io`]; [`Error::Corrupt`] for more.
pub(crate) fn from(
    reader: impl Read,
    limit: u64,
    what: &'static str,
    path: &Path,
) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let read = reader.take(limit.saturating_add(1)).read_to_end(&mut bytes);
    read.map_err(|e| Error::io(path, e))?;
    if bytes.len() as u64 > limit {
        return Err(Error::corrupt(path, format!("over {limit} bytes, the most for {what}")));
    }
    Ok(bytes)
}

/// Text in UTF-8, with a byte order mark or without, or in UTF-16 with one, as tools on Windows write it.
///
/// # Errors
/// [`Error::Corrupt`] for bytes that are none of these.
pub(crate) fn decode(bytes: Vec<u8>, path: &Path) -> Result<String> {
    let wide = |bytes: &[u8], number: fn([u8; 2]) -> u16| {
        let (pairs, rest) = bytes.as_chunks::<2>();
        let units = pairs.iter().map(|pair| number(*pair));
        let text: Option<String> = char::decode_utf16(units).map(std::result::Result::ok).collect();
        let why = "this is text in UTF-16 that breaks off or is damaged; save it as UTF-8";
        text.filter(|_| rest.is_empty()).ok_or_else(|| Error::corrupt(path, why))
    };
    match bytes.as_slice() {
        [0xff, 0xfe, rest @ ..] => wide(rest, u16::from_le_bytes),
        [0xfe, 0xff, rest @ ..] => wide(rest, u16::from_be_bytes),
        [0xef, 0xbb, 0xbf, ..] => decode(bytes[3..].to_vec(), path),
        _ => String::from_utf8(bytes).map_err(|e| {
            let at = e.utf8_error().valid_up_to();
            Error::corrupt(path, format!("expected text in UTF-8; byte {at} is none"))
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(name: &str, bytes: &[u8]) -> (tempfile::TempDir, std::path::PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        (folder, path)
    }

    #[test]
    fn texts_end_at_their_limit() {
        let (_folder, path) = write("x.toml", b"abcd");
        assert_eq!(text(&path, 4, "a test").unwrap(), "abcd");
        let error = text(&path, 3, "a test").unwrap_err();
        assert_eq!(error.fault().exit_code(), 3);
        let message = error.to_string();
        assert!(message.contains("x.toml") && message.contains("over 3 bytes"), "{message}");
        let absent = path.with_file_name("none");
        assert_eq!(text_if_there(&absent, 3, "a test").unwrap(), None);
        assert_eq!(text(&absent, 3, "a test").unwrap_err().fault().exit_code(), 4);
    }

    #[test]
    fn marks_of_windows_are_no_text() {
        let utf16: Vec<u8> = "aé🦊".encode_utf16().flat_map(u16::to_le_bytes).collect();
        let big: Vec<u8> = "aé🦊".encode_utf16().flat_map(u16::to_be_bytes).collect();
        let cases = [
            "aé🦊".as_bytes().to_vec(),
            [b"\xef\xbb\xbf", "aé🦊".as_bytes()].concat(),
            [&b"\xff\xfe"[..], &utf16].concat(),
            [&b"\xfe\xff"[..], &big].concat(),
        ];
        for bytes in cases {
            assert_eq!(decode(bytes, Path::new("x")).unwrap(), "aé🦊");
        }
        for bad in [&b"\xff\xfea"[..], &b"\xff\xfe\x00\xd8"[..], &b"a\xff"[..]] {
            let message = decode(bad.to_vec(), Path::new("x")).unwrap_err().to_string();
            assert!(message.starts_with("x: ") && message.contains("UTF-"), "{message}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn pipes_and_devices_are_refused_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
        assert!(made.success());
        for path in [pipe.as_path(), Path::new("/dev/zero"), folder.path()] {
            let error = bytes(path, 10, "a test").unwrap_err();
            assert_eq!(error.fault().exit_code(), 3, "{error}");
            assert!(error.to_string().contains("expected a regular file"), "{error}");
        }
    }
}
