//! EXIF blocks: where JPEG and WebP files keep texts.
//!
//! A1111 keeps its text in the tag `UserComment`; colora's own record stands in `MakerNote`, which belongs to the maker.

use super::Texts;
use super::embedded::{Embedded, Place};
use ::exif::{Reader, Value};

/// Numbers of tags.
const MAKE: u16 = 0x010f;
const MODEL: u16 = 0x0110;
const SOFTWARE: u16 = 0x0131;
const MAKER_NOTE: u16 = 0x927c;
const USER_COMMENT: u16 = 0x9286;
const EXIF_IFD: u16 = 0x8769;
/// Types of values.
const LONG: u16 = 4;
const UNDEFINED: u16 = 7;

/// What colora's maker note begins with.
const OURS: &[u8] = b"colora\0";
/// What a comment begins with that is UTF-16.
const UNICODE: &[u8] = b"UNICODE\0";
/// The length of the code of a comment's characters.
const CODE: usize = 8;

/// Puts the texts of the EXIF block `bytes` into `found`; a broken block gives those before the break.
pub(super) fn read(bytes: Vec<u8>, found: &mut Embedded) {
    let read = Reader::new().continue_on_error(true).read_raw(bytes);
    let Ok(read) = read.or_else(|error| error.distill_partial_result(|_| ())) else { return };
    for field in read.fields() {
        let bytes = match &field.value {
            Value::Undefined(bytes, _) | Value::Byte(bytes) => bytes.clone(),
            Value::Ascii(parts) => parts.join(&0),
            _ => continue,
        };
        let (place, text) = match field.tag.number() {
            USER_COMMENT => (Place::UserComment, user_comment(&bytes)),
            MAKER_NOTE => match bytes.strip_prefix(OURS) {
                Some(ours) => (Place::Colora, lossy(ours)),
                None => (Place::MakerNote, lossy(&bytes)),
            },
            MAKE => (Place::Make, lossy(&bytes)),
            MODEL => (Place::Model, lossy(&bytes)),
            SOFTWARE => (Place::Software, lossy(&bytes)),
            _ => continue,
        };
        // Cameras leave comments empty.
        if !text.trim().is_empty() {
            found.put(place, text);
        }
    }
}

/// The EXIF block that holds `texts`, big-endian.
pub(super) fn block(texts: &Texts) -> Vec<u8> {
    let mut entries: Vec<(u16, Vec<u8>)> = Vec::new();
    if let Some(own) = &texts.colora {
        entries.push((MAKER_NOTE, [OURS, own.as_bytes()].concat()));
    }
    if let Some(parameters) = &texts.parameters {
        entries.push((USER_COMMENT, comment(parameters)));
    }
    let mut block = b"MM\0\x2a\0\0\0\x08".to_vec();
    let entry = |block: &mut Vec<u8>, tag: u16, kind: u16, count: usize, value: usize| {
        block.extend(tag.to_be_bytes());
        block.extend(kind.to_be_bytes());
        block.extend((count as u32).to_be_bytes());
        block.extend((value as u32).to_be_bytes());
    };
    block.extend(1u16.to_be_bytes());
    // The Exif directory follows the main one, which has one entry and no successor.
    let place = block.len() + 12 + 4;
    entry(&mut block, EXIF_IFD, LONG, 1, place);
    block.extend([0; 4]);
    block.extend((entries.len() as u16).to_be_bytes());
    let mut at = place + 2 + 12 * entries.len() + 4;
    for (tag, bytes) in &entries {
        entry(&mut block, *tag, UNDEFINED, bytes.len(), at);
        at += bytes.len();
    }
    block.extend([0; 4]);
    for (_, bytes) in entries {
        block.extend(bytes);
    }
    block
}

/// A comment as A1111 writes it: UTF-16, big-endian, without a byte order mark.
fn comment(text: &str) -> Vec<u8> {
    let units = text.encode_utf16().flat_map(u16::to_be_bytes);
    UNICODE.iter().copied().chain(units).collect()
}

/// The text of a comment, whoever wrote it: the standard's codes, none at all, and either order of bytes.
pub(super) fn user_comment(bytes: &[u8]) -> String {
    let (code, text) = bytes.split_at_checked(CODE).unwrap_or((&[], bytes));
    match code {
        UNICODE => utf16(text),
        b"ASCII\0\0\0" | b"JIS\0\0\0\0\0" | [0, 0, 0, 0, 0, 0, 0, 0] => lossy(text),
        _ => lossy(bytes),
    }
}

/// UTF-16 by its byte order mark, or else in the order in which more of the high bytes are zero; big-endian when no
/// order has more.
fn utf16(bytes: &[u8]) -> String {
    let zeros = |offset: usize| bytes.iter().skip(offset).step_by(2).filter(|b| **b == 0).count();
    let (bytes, little) = match bytes {
        [0xff, 0xfe, rest @ ..] => (rest, true),
        [0xfe, 0xff, rest @ ..] => (rest, false),
        _ => (bytes, zeros(1) > zeros(0)),
    };
    let unit = |pair: &[u8]| {
        let pair = [pair[0], pair.get(1).copied().unwrap_or_default()];
        if little { u16::from_le_bytes(pair) } else { u16::from_be_bytes(pair) }
    };
    let units: Vec<u16> = bytes.chunks(2).map(unit).collect();
    String::from_utf16_lossy(&units).trim_end_matches('\0').to_owned()
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim_end_matches('\0').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_read_as_it_was_written() {
        let texts = Texts {
            parameters: Some("a café\n猫 😀".into()),
            colora: Some("{\"prompt\":\"猫\"}".into()),
        };
        let mut found = Embedded::default();
        read(block(&texts), &mut found);
        assert_eq!(found.get(&Place::UserComment), texts.parameters.as_deref());
        assert_eq!(found.get(&Place::Colora), texts.colora.as_deref());
    }

    #[test]
    fn comments_of_every_code() {
        for (bytes, text) in [
            (&b"UNICODE\0\0a\0b"[..], "ab"),
            (b"UNICODE\0a\0b\0", "ab"),
            (b"UNICODE\0\xff\xfea\0", "a"),
            (b"UNICODE\0\xfe\xff\0a", "a"),
            (b"UNICODE\0\x73\x2b", "猫"),
            (b"ASCII\0\0\0ab\0", "ab"),
            (b"\0\0\0\0\0\0\0\0ab", "ab"),
            (b"{\"prompt\": \"x\"}", "{\"prompt\": \"x\"}"),
            (b"ab", "ab"),
            (b"UNICODE\0", ""),
            (b"UNICODE\0\0a\0", "a"),
        ] {
            assert_eq!(user_comment(bytes), text, "{bytes:?}");
        }
    }
}
