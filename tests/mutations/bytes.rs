//! Mutations of bytes of any kind.

use crate::chance::Chance;

/// Changes `bytes` in one to four places; says how.
pub fn mutate(bytes: &mut Vec<u8>, chance: &mut Chance) -> String {
    let times = 1 + chance.below(4);
    let words: Vec<String> = (0..times).map(|_| once(bytes, chance)).collect();
    words.join(", ")
}

fn once(bytes: &mut Vec<u8>, chance: &mut Chance) -> String {
    // Headers are where the meaning is.
    let reach = if chance.below(2) == 0 { bytes.len().min(1024) } else { bytes.len() };
    let at = chance.below(reach);
    let length = 1 + chance.below(64).min(bytes.len().saturating_sub(at + 1));
    let end = (at + length).min(bytes.len());
    match chance.below(8) {
        0 | 1 if !bytes.is_empty() => {
            let bit = chance.below(8);
            bytes[at] ^= 1 << bit;
            format!("bit {bit} of byte {at} turned")
        }
        2 if !bytes.is_empty() => {
            let value = *chance.pick(&[0, 1, 0x7f, 0x80, 0xff, b'"', b'{', b'\n']);
            bytes[at] = value;
            format!("byte {at} is {value}")
        }
        3 => {
            let value = *chance.pick(&[0, 0xff]);
            bytes[at..end].fill(value);
            format!("bytes {at}..{end} are {value}")
        }
        4 => {
            bytes.truncate(at);
            format!("cut at {at}")
        }
        5 => {
            drop(bytes.drain(at..end));
            format!("without bytes {at}..{end}")
        }
        6 => {
            let part = bytes[at..end].to_vec();
            let to = chance.below(bytes.len() + 1);
            bytes.splice(to..to, part);
            format!("bytes {at}..{end} once more at {to}")
        }
        _ => {
            let end = end.min(at + 8);
            bytes[at..end].iter_mut().for_each(|byte| *byte = chance.next() as u8);
            format!("bytes {at}..{end} by chance")
        }
    }
}
