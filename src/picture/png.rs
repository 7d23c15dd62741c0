//! PNG files with the settings that made their picture.

pub use super::texts::Texts;

use super::embedded::{Embedded, Place};
use super::{Picture, exif};
use crate::atomic_file::{self, Care};
use crate::error::{Error, InFile, Result};
use crate::input;
use png::DecodingError;
use std::fs::File;
use std::io::{BufRead, BufReader, Cursor, Seek, Write};
use std::path::Path;

/// Longest text that is written, in bytes of UTF-8.
pub const MAX_TEXT: usize = 4 << 20;
/// Longest text that is read, inflated: other programs store whole graphs.
pub const MAX_READ: usize = 16 << 20;

/// Bytes that the chunks of a file may take in memory: room for a few texts.
const MAX_CHUNKS: usize = 4 * MAX_READ;

/// Keyword under which AUTOMATIC1111 and most other programs keep their text.
const PARAMETERS: &str = "parameters";
/// Keyword of our own JSON.
const COLORA: &str = "colora";
/// Keyword of XMP.
const XMP: &str = "XML:com.adobe.xmp";

/// The bytes of a PNG file.
///
/// A text of Latin-1 characters becomes a `tEXt` chunk, any other an uncompressed `iTXt` chunk, both
/// before the pixels. PNG texts cannot hold U+0000: it becomes U+FFFD.
///
/// # Errors
/// [`Error::Limit`] for a text over [`MAX_TEXT`].
///
/// # Examples
/// ```
/// use colora::picture::{Picture, png};
///
/// let red = Picture::new(2, 1, vec![255, 0, 0, 255, 0, 0])?;
/// let texts = png::Texts { parameters: Some("a red line\nSteps: 1".into()), colora: None };
/// let bytes = png::encode(&red, &texts)?;
/// assert!(bytes.starts_with(b"\x89PNG"));
/// # Ok::<(), colora::Error>(())
/// ```
pub fn encode(picture: &Picture, texts: &Texts) -> Result<Vec<u8>> {
    let side = |pixels: usize| u32::try_from(pixels).map_err(|_| internal(&pixels));
    let mut bytes = Vec::new();
    let mut encoder =
        png::Encoder::new(&mut bytes, side(picture.width())?, side(picture.height())?);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    for (keyword, text) in [(PARAMETERS, &texts.parameters), (COLORA, &texts.colora)] {
        if let Some(text) = text {
            add_text(&mut encoder, keyword, text)?;
        }
    }
    let mut writer = encoder.write_header().map_err(|e| internal(&e))?;
    writer.write_image_data(picture.bytes()).map_err(|e| internal(&e))?;
    writer.finish().map_err(|e| internal(&e))?;
    Ok(bytes)
}

/// Writes `bytes` as the file `path`, whole or not at all.
///
/// The bytes go to a temporary file in the same folder, which then takes the name, and to the disk when
/// the system likes; a reader never
/// sees half a file, and without `force` two writers never overwrite each other.
///
/// # Errors
/// [`Error::Exists`] when there is such a file and `force` is false; [`Error::Write`] when the
/// folder is missing or cannot be written; [`Error::BadRequest`] for a folder, a socket or a disk. Pipes
/// and devices are written through.
pub fn save(bytes: &[u8], path: impl AsRef<Path>, force: bool) -> Result<()> {
    let path = path.as_ref();
    let fill = |file: &mut File| file.write_all(bytes).map_err(|e| Error::write(path, e));
    atomic_file::write(path, force, Care::Usual, fill)
}

/// Our two texts inside the PNG file `path`, without decoding its pixels.
///
/// Understands `tEXt`, `zTXt` and `iTXt`, before or after the pixels; the first of each keyword
/// counts.
///
/// # Errors
/// [`Error::Io`] when the file cannot be read, [`Error::Corrupt`] when it is no PNG or when a text does not
/// inflate to at most [`MAX_READ`] bytes.
pub fn read_texts(path: impl AsRef<Path>) -> Result<Texts> {
    let path = path.as_ref();
    let source = BufReader::new(input::open(path)?);
    Ok(ours(&texts_of(source, path, &[PARAMETERS, COLORA]).in_file(path)?))
}

fn ours(found: &Embedded) -> Texts {
    let text = |place: &Place| found.get(place).map(str::to_owned);
    let parameters = text(&Place::Keyword(PARAMETERS.into()));
    Texts { parameters, colora: text(&Place::Colora) }
}

/// As [`read_texts`] for the bytes of a file, which `path` names in errors.
///
/// # Errors
/// As [`read_texts`].
pub fn texts_in(bytes: &[u8], path: impl AsRef<Path>) -> Result<Texts> {
    let path = path.as_ref();
    Ok(ours(&texts_of(Cursor::new(bytes), path, &[PARAMETERS, COLORA]).in_file(path)?))
}

/// Every text inside the PNG file `path`.
///
/// # Errors
/// As [`read_texts`].
pub(super) fn texts(path: &Path) -> Result<Embedded> {
    // What stands behind the pixels is looked for when nothing that says how the picture was made stands before.
    const TELLING: [&str; 8] =
        [COLORA, PARAMETERS, "prompt", "invokeai_metadata", "sd-metadata", "Dream", "Comment", XMP];
    texts_of(BufReader::new(input::open(path)?), path, &TELLING)
}

/// The texts of `source`; those behind the pixels when none of `telling` stands before.
fn texts_of(source: impl BufRead + Seek, path: &Path, telling: &[&str]) -> Result<Embedded> {
    let limits = png::Limits { bytes: MAX_CHUNKS };
    let mut decoder = png::Decoder::new_with_limits(source, limits);
    decoder.set_ignore_iccp_chunk(true);
    let mut reader = decoder.read_info().map_err(|e| unreadable(path, e))?;
    let found = collect(reader.info(), path)?;
    let told = |keyword: &&str| found.keyword(keyword).is_some();
    if found.get(&Place::Colora).is_some() || telling.iter().any(told) {
        return Ok(found);
    }
    match reader.finish() {
        // A file cut short still has the texts that came before the cut.
        Ok(()) | Err(DecodingError::Format(_) | DecodingError::IoError(_)) => {
            collect(reader.info(), path)
        }
        Err(e) => Err(unreadable(path, e)),
    }
}

fn collect(info: &png::Info<'_>, path: &Path) -> Result<Embedded> {
    let mut found = Embedded::default();
    found.set_size((info.width, info.height));
    for chunk in &info.uncompressed_latin1_text {
        put(&mut found, &chunk.keyword, from_latin1(&chunk.text));
    }
    let why = |keyword: &str, error: DecodingError| {
        let why = format!("the text `{keyword}` does not inflate to {MAX_READ} bytes: {error}");
        Error::corrupt(path, why)
    };
    for chunk in &info.utf8_text {
        let mut chunk = chunk.clone();
        let text = chunk.decompress_text_with_limit(MAX_READ).and_then(|()| chunk.get_text());
        put(&mut found, &chunk.keyword, text.map_err(|e| why(&chunk.keyword, e))?);
    }
    for chunk in &info.compressed_latin1_text {
        let mut chunk = chunk.clone();
        let text = chunk.decompress_text_with_limit(MAX_READ).and_then(|()| chunk.get_text());
        put(&mut found, &chunk.keyword, from_latin1(&text.map_err(|e| why(&chunk.keyword, e))?));
    }
    if let Some(block) = &info.exif_metadata {
        exif::read(block.to_vec(), &mut found);
    }
    Ok(found)
}

fn put(found: &mut Embedded, keyword: &str, text: String) {
    let place = match keyword {
        COLORA => Place::Colora,
        XMP => Place::Xmp,
        _ => Place::Keyword(keyword.to_owned()),
    };
    found.put(place, text);
}

/// The text of a chunk of Latin-1, which some writers fill with UTF-8.
fn from_latin1(text: &str) -> String {
    let bytes = text.chars().map(|c| u8::try_from(u32::from(c)).unwrap_or(b'?')).collect();
    let plain = text.is_ascii();
    let utf8 = || String::from_utf8(bytes).ok();
    (!plain).then(utf8).flatten().unwrap_or_else(|| text.to_owned())
}

fn add_text<W: Write>(encoder: &mut png::Encoder<'_, W>, keyword: &str, text: &str) -> Result<()> {
    check_length(text)?;
    let text = text.replace('\0', "\u{fffd}");
    let latin1 = text.chars().all(|c| u32::from(c) <= 0xff);
    let added = if latin1 {
        encoder.add_text_chunk(keyword.into(), text)
    } else {
        encoder.add_itxt_chunk(keyword.into(), text)
    };
    added.map_err(|e| internal(&e))
}

fn check_length(text: &str) -> Result<()> {
    if text.len() <= MAX_TEXT {
        return Ok(());
    }
    Err(Error::Limit {
        what: "bytes of a text in a PNG file",
        allowed: MAX_TEXT as u64,
        asked: text.len() as u64,
    })
}

/// The encoder writes to memory and gets valid sizes, so only a mistake of ours can fail it.
fn internal(error: &dyn std::fmt::Display) -> Error {
    Error::Internal(format!("a PNG file could not be encoded: {error}"))
}

fn unreadable(path: &Path, error: DecodingError) -> Error {
    match error {
        DecodingError::IoError(e) if e.kind() != std::io::ErrorKind::UnexpectedEof => {
            Error::io(path, e)
        }
        DecodingError::LimitsExceeded => {
            Error::corrupt(path, format!("its chunks take more than {MAX_CHUNKS} bytes"))
        }
        other => Error::corrupt(path, format!("expected a PNG picture: {other}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use png::text_metadata::{ITXtChunk, ZTXtChunk};

    fn picture() -> Picture {
        Picture::new(5, 3, (0..45).collect()).unwrap()
    }

    fn texts(parameters: &str, colora: &str) -> Texts {
        Texts { parameters: Some(parameters.into()), colora: Some(colora.into()) }
    }

    fn texts_in(bytes: &[u8]) -> Result<Texts> {
        Ok(ours(&texts_of(Cursor::new(bytes), Path::new("x.png"), &[PARAMETERS, COLORA])?))
    }

    fn holds(bytes: &[u8], chunk: &[u8]) -> bool {
        bytes.windows(chunk.len()).any(|w| w == chunk)
    }

    #[test]
    fn pixels_and_texts_survive() {
        let given = texts("café, 100 °C\nSteps: 1", "{\"prompt\":\"猫 🐈\"}");
        let bytes = encode(&picture(), &given).unwrap();
        assert!(holds(&bytes, b"tEXtparameters\0caf\xe9") && holds(&bytes, b"iTXtcolora\0"));
        assert_eq!(texts_in(&bytes).unwrap(), given);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.png");
        save(&bytes, &path, false).unwrap();
        assert_eq!(Picture::open(&path).unwrap(), picture());
        assert_eq!(read_texts(&path).unwrap(), given);
        let bare = encode(&picture(), &Texts::default()).unwrap();
        assert_eq!(texts_in(&bare).unwrap(), Texts::default());
    }

    #[test]
    fn never_overwrites_without_force() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.png");
        save(b"first", &path, false).unwrap();
        assert!(matches!(save(b"second", &path, false), Err(Error::Exists { .. })));
        assert_eq!(std::fs::read(&path).unwrap(), b"first");
        save(b"third", &path, true).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"third");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "no temporary file stays");
        let nowhere = folder.path().join("no/such/a.png");
        assert!(matches!(save(b"x", nowhere, true), Err(Error::Write { .. })));
    }

    #[test]
    fn reads_compressed_texts_and_texts_behind_the_pixels() {
        let mut bytes = Vec::new();
        let mut writer = png::Encoder::new(&mut bytes, 1, 1).write_header().unwrap();
        writer.write_image_data(&[7]).unwrap();
        writer.write_text_chunk(&ZTXtChunk::new(PARAMETERS, "late")).unwrap();
        let mut json = ITXtChunk::new(COLORA, "ü→");
        json.compressed = true;
        writer.write_text_chunk(&json).unwrap();
        writer.finish().unwrap();
        assert_eq!(texts_in(&bytes).unwrap(), texts("late", "ü→"));
    }

    #[test]
    fn limits_hold_both_ways() {
        let long = "x".repeat(MAX_TEXT + 1);
        let given = Texts { parameters: Some(long), colora: None };
        assert!(matches!(encode(&picture(), &given), Err(Error::Limit { .. })));
        let mut bytes = Vec::new();
        let mut encoder = png::Encoder::new(&mut bytes, 1, 1);
        encoder.add_ztxt_chunk(PARAMETERS.into(), "x".repeat(MAX_READ + 1)).unwrap();
        encoder.write_header().unwrap().write_image_data(&[7]).unwrap();
        assert!(bytes.len() < 200_000, "a small bomb");
        assert!(matches!(texts_in(&bytes), Err(Error::Corrupt { .. })));
    }

    #[test]
    fn cut_or_garbled_files_do_not_panic() {
        let bytes = encode(&picture(), &texts("a", "é→")).unwrap();
        for end in 0..bytes.len() {
            let _ = texts_in(&bytes[..end]);
            let mut garbled = bytes.clone();
            garbled[end] ^= 0x55;
            let _ = texts_in(&garbled);
        }
        assert!(matches!(texts_in(b"GIF89a"), Err(Error::Corrupt { .. })));
        let nul = encode(&picture(), &texts("a\0b", "")).unwrap();
        assert_eq!(texts_in(&nul).unwrap(), texts("a\u{fffd}b", ""));
    }
}
