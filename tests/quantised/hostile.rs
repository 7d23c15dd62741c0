//! GGUF files that lie: every one gives an error, and none costs memory or the process.

use colora::weights::CheckpointFile;
use colora::{Error, Fault};

fn text(out: &mut Vec<u8>, text: &[u8]) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text);
}

/// A tensor's row of the table.
struct Row<'a> {
    name: &'a str,
    shape: &'a [u64],
    kind: u32,
    offset: u64,
}

fn file(rows: &[Row<'_>], values: &[u8], count: u64, data: usize) -> Vec<u8> {
    let mut out = b"GGUF\x03\0\0\0".to_vec();
    out.extend((rows.len() as u64).to_le_bytes());
    out.extend(count.to_le_bytes());
    out.extend(values);
    for row in rows {
        text(&mut out, row.name.as_bytes());
        out.extend((row.shape.len() as u32).to_le_bytes());
        row.shape.iter().for_each(|d| out.extend(d.to_le_bytes()));
        out.extend(row.kind.to_le_bytes());
        out.extend(row.offset.to_le_bytes());
    }
    out.resize(out.len().next_multiple_of(32), 0);
    out.extend((0..data).map(|i| (i % 251) as u8));
    out
}

fn good() -> Vec<u8> {
    let mut values = Vec::new();
    text(&mut values, b"general.name");
    values.extend(8u32.to_le_bytes());
    text(&mut values, b"a name");
    text(&mut values, b"list");
    values.extend(9u32.to_le_bytes());
    values.extend(8u32.to_le_bytes());
    values.extend(2u64.to_le_bytes());
    text(&mut values, b"x");
    text(&mut values, b"y");
    let rows = [
        Row { name: "a", shape: &[32, 2], kind: 8, offset: 0 },
        Row { name: "b", shape: &[3], kind: 0, offset: 96 },
    ];
    file(&rows, &values, 2, 96 + 12)
}

fn open(bytes: Vec<u8>) -> Result<CheckpointFile, Error> {
    CheckpointFile::from_vec(bytes, "x.gguf")
}

fn why(bytes: Vec<u8>) -> String {
    let error = open(bytes).unwrap_err();
    assert!(matches!(error.fault(), Fault::File | Fault::Unsupported), "{error}");
    error.to_string()
}

#[test]
fn a_good_file_is_read() {
    let file = open(good()).unwrap();
    assert_eq!(file.names().collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(file.metadata()["general.name"], "a name");
    assert_eq!(file.info("a").unwrap().shape, [2, 32]);
    assert_eq!((file.info("a").unwrap().bytes(), file.info("b").unwrap().bytes()), (68, 12));
    assert_eq!(file.read_f32("a", Some(1..2)).unwrap(), file.read_f32("a", None).unwrap()[32..]);
}

#[test]
fn every_truncation_is_an_error() {
    let whole = good();
    for end in 0..whole.len() {
        why(whole[..end].to_vec());
    }
}

/// Whatever somebody put behind the last tensor was passed over without a word.
#[test]
fn nothing_but_padding_follows_the_last_tensor() {
    let with = |more: usize| [good(), vec![0; more]].concat();
    // The last tensor has 12 bytes, and alignment is 32.
    for more in [1, 20] {
        open(with(more)).unwrap();
    }
    for more in [21, 4096] {
        let error = why(with(more));
        assert!(error.contains(&format!("{} unknown bytes follow", more - 20)), "{error}");
    }
}

#[test]
fn changed_bytes_never_panic() {
    // A small generator, so that every run sees the same files.
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let whole = good();
    for _ in 0..20_000 {
        let mut bytes = whole.clone();
        for _ in 0..=next() % 4 {
            let at = (next() % bytes.len() as u64) as usize;
            bytes[at] = match next() % 4 {
                0 => 0xff,
                1 => 0,
                2 => bytes[at] ^ 1 << (next() % 8),
                _ => next() as u8,
            };
        }
        if let Ok(file) = open(bytes) {
            for name in file.names() {
                let _ = file.read_f32(name, None);
                let _ = file.read_f32(name, Some(0..1));
            }
        }
    }
}

#[test]
fn absurd_counts_are_refused_before_anything_is_made() {
    let with = |at: usize, count: u64| {
        let mut bytes = good();
        bytes[at..at + 8].copy_from_slice(&count.to_le_bytes());
        bytes
    };
    for count in [u64::MAX, 1 << 40, 1000] {
        assert!(why(with(8, count)).contains("tensors are claimed"), "{count}");
        assert!(why(with(16, count)).contains("metadata entries are claimed"), "{count}");
    }
    assert!(why(with(24, u64::MAX)).contains("a key of"));
    let nested = |depth: usize| {
        let mut values = Vec::new();
        text(&mut values, b"k");
        values.extend(9u32.to_le_bytes());
        for _ in 0..depth {
            values.extend(9u32.to_le_bytes());
            values.extend(1u64.to_le_bytes());
        }
        values.extend(0u32.to_le_bytes());
        values.extend(1u64.to_le_bytes());
        values.push(0);
        file(&[Row { name: "a", shape: &[4], kind: 0, offset: 0 }], &values, 1, 16)
    };
    assert!(open(nested(2)).is_ok());
    assert!(why(nested(1000)).contains("arrays in arrays"));
    let mut values = Vec::new();
    text(&mut values, b"k");
    values.extend(9u32.to_le_bytes());
    values.extend(0u32.to_le_bytes());
    values.extend((1u64 << 60).to_le_bytes());
    let row = Row { name: "a", shape: &[4], kind: 0, offset: 0 };
    assert!(why(file(&[row], &values, 1, 16)).contains("elements are claimed"));
    assert!(why(file(&[], &[], 0, 0)).contains("no tensors"));
}

#[test]
fn tensors_lie_inside_the_file_and_apart() {
    let row = |shape: &'static [u64], kind, offset| Row { name: "a", shape, kind, offset };
    let one = |row| why(file(&[row], &[], 0, 64));
    assert!(one(row(&[32], 0, 0)).contains("truncated"));
    assert!(one(row(&[4], 0, 64)).contains("truncated"));
    assert!(one(row(&[4], 0, u64::MAX - 8)).contains("truncated"));
    assert!(one(row(&[u64::MAX, u64::MAX], 0, 0)).contains("cannot have the shape"));
    assert!(one(row(&[1 << 62, 8], 0, 0)).contains("cannot have the shape"));
    assert!(one(row(&[0, 8], 0, 0)).contains("cannot have the shape"));
    assert!(one(row(&[33], 8, 0)).contains("in blocks of 32"));
    assert!(one(row(&[128], 12, 0)).contains("in blocks of 256"));
    assert!(one(row(&[], 0, 0)).contains("0 dimensions"));
    assert!(one(row(&[1; 5], 0, 0)).contains("5 dimensions"));
    let unknown = open(file(&[row(&[4], 99, 0)], &[], 0, 64)).unwrap_err();
    assert_eq!(unknown.fault(), Fault::Unsupported);
    let two = |offset, name| {
        let rows = [row(&[4], 0, 0), Row { name, shape: &[4], kind: 0, offset }];
        open(file(&rows, &[], 0, 64))
    };
    assert!(two(32, "b").is_ok());
    assert!(two(8, "b").unwrap_err().to_string().contains("overlap"));
    assert!(two(32, "a").unwrap_err().to_string().contains("two tensors"));
}

#[test]
fn other_versions_are_named() {
    for (version, what) in [([1, 0, 0, 0], "version 1"), ([0, 0, 0, 3], "big-endian")] {
        let mut bytes = good();
        bytes[4..8].copy_from_slice(&version);
        let error = open(bytes).unwrap_err();
        assert_eq!(error.fault(), Fault::Unsupported);
        assert!(error.to_string().contains(what), "{error}");
    }
    let mut values = Vec::new();
    text(&mut values, b"general.alignment");
    values.extend(4u32.to_le_bytes());
    values.extend(0u32.to_le_bytes());
    let row = Row { name: "a", shape: &[4], kind: 0, offset: 0 };
    assert!(why(file(&[row], &values, 1, 16)).contains("alignment 0"));
}
