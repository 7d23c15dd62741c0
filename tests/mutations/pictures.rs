//! Mutations of pictures: chunks of PNGs keep their sums, so that what they say is read.

use crate::chance::Chance;

/// Changes the file of a picture; says how.
pub fn mutate(bytes: &[u8], chance: &mut Chance) -> (Vec<u8>, String) {
    let mut chunks = match chunks(bytes) {
        Some(chunks) if chance.below(3) > 0 => chunks,
        _ => {
            let mut bytes = bytes.to_vec();
            let what = crate::bytes::mutate(&mut bytes, chance);
            return (bytes, what);
        }
    };
    let at = chance.below(chunks.len());
    let kind = String::from_utf8_lossy(&chunks[at].0).into_owned();
    let what = match chance.below(4) {
        0 => {
            drop(chunks.remove(at));
            format!("without {kind}")
        }
        1 => {
            chunks.insert(at, chunks[at].clone());
            format!("{kind} twice")
        }
        _ => format!("{kind}: {}", crate::bytes::mutate(&mut chunks[at].1, chance)),
    };
    let mut out = bytes[..8].to_vec();
    for (kind, data) in chunks {
        out.extend((data.len() as u32).to_be_bytes());
        let body = [&kind[..], &data].concat();
        out.extend(&body);
        out.extend(sum(&body).to_be_bytes());
    }
    (out, what)
}

/// Kinds and data of the chunks of a PNG file.
fn chunks(bytes: &[u8]) -> Option<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut rest = bytes.strip_prefix(b"\x89PNG\r\n\x1a\n")?;
    let mut chunks = Vec::new();
    while !rest.is_empty() {
        let length = u32::from_be_bytes(*rest.first_chunk()?) as usize;
        chunks.push((rest.get(4..8)?.to_vec(), rest.get(8..8 + length)?.to_vec()));
        rest = rest.get(12 + length..)?;
    }
    Some(chunks)
}

/// The sum of a chunk (CRC-32).
fn sum(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| {
            (sum >> 1) ^ (0xedb8_8320 & (sum & 1).wrapping_neg())
        })
    })
}
