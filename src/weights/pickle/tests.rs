use super::*;
use crate::weights::CheckpointFile;
use std::io::Write;

fn text(text: &str) -> Vec<u8> {
    let mut bytes = vec![b'X'];
    bytes.extend((text.len() as u32).to_le_bytes());
    bytes.extend(text.as_bytes());
    bytes
}

fn int(number: i32) -> Vec<u8> {
    let mut bytes = vec![b'J'];
    bytes.extend(number.to_le_bytes());
    bytes
}

fn tuple(items: &[Vec<u8>]) -> Vec<u8> {
    [b"(".to_vec(), items.concat(), b"t".to_vec()].concat()
}

fn dict(entries: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let entries: Vec<u8> =
        entries.iter().flat_map(|(k, v)| [text(k), v.clone()].concat()).collect();
    [b"}(".to_vec(), entries, b"u".to_vec()].concat()
}

/// A tensor on storage 0 of `len` floats.
fn tensor(len: i32, offset: i32, shape: &[i32], strides: &[i32]) -> Vec<u8> {
    let ints = |list: &[i32]| tuple(&list.iter().map(|&n| int(n)).collect::<Vec<_>>());
    let kind = b"ctorch\nFloatStorage\n".to_vec();
    let id = tuple(&[text("storage"), kind, text("0"), text("cpu"), int(len)]);
    let storage = [id, b"Q".to_vec()].concat();
    let arguments = tuple(&[storage, int(offset), ints(shape), ints(strides), b"\x89}".to_vec()]);
    [b"ctorch._utils\n_rebuild_tensor_v2\n".to_vec(), arguments, b"R".to_vec()].concat()
}

/// A torch archive whose storage 0 holds 0.0 to 5.0.
fn archive(root: &[u8]) -> Vec<u8> {
    let mut zip = ::zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let options = ::zip::write::SimpleFileOptions::default()
        .compression_method(::zip::CompressionMethod::Stored);
    let floats: Vec<u8> = (0u8..6).flat_map(|i| f32::from(i).to_le_bytes()).collect();
    let pickle = [b"\x80\x02", root, b"."].concat();
    for (name, data) in [("some name/data.pkl", &pickle), ("some name/data/0", &floats)] {
        zip.start_file(name, options).unwrap();
        zip.write_all(data).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

fn open(root: &[u8]) -> Result<CheckpointFile> {
    CheckpointFile::from_vec(archive(root), "x.ckpt")
}

fn why(root: &[u8]) -> String {
    match open(root).unwrap_err() {
        Error::Corrupt { why, .. } => why,
        other => panic!("{other:?}"),
    }
}

fn refused(root: &[u8]) -> String {
    match open(root).unwrap_err() {
        Error::UnsafePickle { symbol, .. } => symbol,
        other => panic!("{other:?}"),
    }
}

#[test]
fn strides_offsets_and_shared_storages() {
    let root = dict(&[
        ("whole", tensor(6, 0, &[2, 3], &[3, 1])),
        ("turned", tensor(6, 0, &[3, 2], &[1, 3])),
        ("end", tensor(6, 4, &[2], &[1])),
        ("scalar", tensor(6, 3, &[], &[])),
        ("none", tensor(6, 6, &[0, 4], &[4, 1])),
        ("repeated", tensor(6, 1, &[2, 2], &[0, 1])),
    ]);
    let file = open(&root).unwrap();
    let read = |name: &str| file.read_f32(name, None).unwrap();
    assert_eq!(read("whole"), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
    assert_eq!(read("turned"), [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]);
    assert_eq!(file.read_f32("turned", Some(1..3)).unwrap(), [1.0, 4.0, 2.0, 5.0]);
    assert_eq!((read("end"), read("scalar"), read("none")), (vec![4.0, 5.0], vec![3.0], vec![]));
    assert_eq!(read("repeated"), [1.0, 2.0, 1.0, 2.0]);
    assert_eq!(file.info("none").unwrap().shape, [0, 4]);
}

#[test]
fn wrappers_are_taken_off_and_nests_are_named() {
    let one = || tensor(6, 0, &[1], &[1]);
    let inner = dict(&[("a", one()), ("n", dict(&[("b", one())]))]);
    let list = [b"](".to_vec(), one(), b"N".to_vec(), one(), b"e".to_vec()].concat();
    let root = dict(&[("epoch", int(3)), ("other", one()), ("state_dict", inner)]);
    assert_eq!(open(&root).unwrap().names().collect::<Vec<_>>(), ["a", "n.b"]);
    // Under a single name, whatever it is, but for those of a model's parts.
    let alone = |name| dict(&[(name, dict(&[("a", one())]))]);
    assert_eq!(open(&alone("weights")).unwrap().names().collect::<Vec<_>>(), ["a"]);
    assert_eq!(open(&alone("unet")).unwrap().names().collect::<Vec<_>>(), ["unet.a"]);
    let file = open(&dict(&[("list", list)])).unwrap();
    assert_eq!(file.names().collect::<Vec<_>>(), ["list.0", "list.2"]);
}

#[test]
fn dangerous_names_are_refused_and_named() {
    let call = b"cos\nsystem\n(X\x04\0\0\0true\x74R";
    assert_eq!(refused(call), "os.system");
    assert_eq!(refused(&dict(&[("state_dict", call.to_vec())])), "os.system");
    // Also as STACK_GLOBAL, INST and for a method of a harmless class.
    let stacked = [text("builtins"), text("eval"), vec![0x93]].concat();
    assert_eq!(refused(&stacked), "builtins.eval");
    assert_eq!(refused(b"(iposix\nsystem\n"), "posix.system");
    assert_eq!(refused(b"ctorch.storage\n_load_from_bytes\n"), "torch.storage._load_from_bytes");
    assert_eq!(refused(b"cx\n\x1b[31m\n"), "x.\u{fffd}[31m");
    let plain = [b"\x80\x02", &call[..], b"."].concat();
    let plain = CheckpointFile::from_vec(plain, "x");
    assert!(matches!(plain, Err(Error::UnsafePickle { .. })));
}

#[test]
fn harmless_objects_become_placeholders() {
    let callback =
        b"cpytorch_lightning.callbacks.model_checkpoint\nModelCheckpoint\n)\x81}b".to_vec();
    let scalar = [
        b"cnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\n(".to_vec(),
        text("f8"),
        b"K\0K\x01tRK\x03b".to_vec(),
        b"U\x021\xfftR".to_vec(),
    ];
    let root = dict(&[
        ("callbacks", callback),
        ("loss", scalar.concat()),
        ("state_dict", dict(&[("a", tensor(6, 0, &[2], &[1]))])),
    ]);
    assert_eq!(open(&root).unwrap().len(), 1);
    // A placeholder is no tensor and no storage.
    let fake = b"ctorch._utils\n_rebuild_tensor_v2\n(cargparse\nNamespace\n)RK\0))\x89}tR";
    assert!(why(fake).contains("storage is none"));
}

#[test]
fn tensors_stay_inside_of_their_storages() {
    for (tensor, expected) in [
        (tensor(6, 0, &[7], &[1]), "reaches beyond"),
        (tensor(6, 5, &[2], &[1]), "reaches beyond"),
        (tensor(6, 0, &[2, 2], &[5, 1]), "reaches beyond"),
        (tensor(7, 0, &[1], &[1]), "needs 28 bytes, has 24"),
        (tensor(6, 0, &[i32::MAX, i32::MAX, i32::MAX], &[0, 0, 0]), "overflows"),
        (tensor(6, 0, &[i32::MAX], &[0]), "too often"),
        (tensor(6, 0, &[-1], &[1]), "no number"),
        (tensor(6, -1, &[1], &[1]), "begins nowhere"),
        (tensor(6, 0, &[1], &[]), "more dimensions"),
    ] {
        let found = why(&dict(&[("a", tensor)]));
        assert!(found.contains(expected), "{found}");
    }
}

#[test]
fn malformed_pickles_are_errors() {
    for root in [
        &b""[..],
        b"R",
        b"0",
        b"t",
        b"(0t",
        b"}Na",
        b"}(Nu",
        b"]N(ue",
        b"h\x05",
        b"g5\n",
        b"X\xff\xff\xff\xff",
        b"\x8d\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\x82\x01",
        b"NQ",
        b"(NtQ",
        b"Nb",
        b"N)R",
        b"(o",
        b"cabc",
        b"\xff",
    ] {
        assert!(matches!(open(root), Err(Error::Corrupt { .. })), "{root:?}");
    }
}

#[test]
fn cycles_and_bombs_end() {
    // A dictionary that holds itself.
    let own = open(b"}q\0X\x01\0\0\0ah\0s").unwrap();
    assert!(own.is_empty());
    // Lists of lists of lists, each holding the one below ten times.
    let mut bomb = b"]q\0".to_vec();
    for level in 0..30u8 {
        bomb.extend(b"](");
        bomb.extend([b'h', level].repeat(10));
        bomb.extend([b'e', b'q', level + 1]);
    }
    assert!(matches!(open(&bomb).unwrap_err().inner(), Error::Limit { .. }));
    // Nesting a million deep: nothing here recurses.
    assert!(
        open(&b"]\x85".iter().chain(b"\x85".repeat(1_000_000).iter()).copied().collect::<Vec<_>>())
            .is_ok()
    );
    let long = [b"N".repeat(MAX_STACK_TEST), b"N".to_vec()].concat();
    assert!(matches!(open(&long).unwrap_err().inner(), Error::Limit { .. }));
}

#[test]
fn short_programs_for_much_memory_end_at_once() {
    let list = |count: usize| [b"]q\0(".to_vec(), b"N".repeat(count), b"e".to_vec()].concat();
    let copied = |name: &str| {
        let import = format!("cbuiltins\n{name}\nq\x02").into_bytes();
        let copies = b"h\x02h\x01R0".repeat(10_000);
        [import, list(100_000), b"\x85q\x010".to_vec(), copies, b"}".to_vec()].concat()
    };
    // One key of 200 kB for many tensors, one list of many entries seen many times, one small storage
    // that many tensors repeat, one long name of a storage.
    let key = [text(&"k".repeat(200_000)), b"q\0".to_vec(), tensor(6, 0, &[1], &[1])].concat();
    let keys = [key, b"q\x010}(".to_vec(), b"h\0h\x01".repeat(60_000), b"u".to_vec()].concat();
    let square = [list(100_000), b"0](".to_vec(), b"h\0".repeat(100_000), b"e".to_vec()].concat();
    let expanded: Vec<(String, Vec<u8>)> =
        (0..100).map(|i| (i.to_string(), tensor(6, 0, &[1000, 1000], &[0, 0]))).collect();
    let expanded: Vec<(&str, Vec<u8>)> =
        expanded.iter().map(|(name, tensor)| (name.as_str(), tensor.clone())).collect();
    for (what, root) in [
        ("lists", copied("list")),
        ("dictionaries", copied("dict")),
        ("keys", keys),
        ("entries", square),
        ("tensors", dict(&expanded)),
    ] {
        let start = std::time::Instant::now();
        assert!(matches!(open(&root).unwrap_err().inner(), Error::Limit { .. }), "{what}");
        assert!(start.elapsed().as_secs() < 5, "{what}: {:?}", start.elapsed());
    }
    let id = tuple(&[
        text("storage"),
        b"ctorch\nFloatStorage\n".to_vec(),
        text(&"k".repeat(1000)),
        text("cpu"),
        int(6),
    ]);
    assert!(why(&[id, b"Q".to_vec()].concat()).contains("no short text"));
}

/// More than the interpreter's stack holds.
const MAX_STACK_TEST: usize = (1 << 20) + 1;

#[test]
fn archives_of_other_kinds() {
    let other = |method| {
        let mut zip = ::zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
        let options = ::zip::write::SimpleFileOptions::default().compression_method(method);
        zip.start_file("a/data.pkl", options).unwrap();
        zip.write_all(b"}.").unwrap();
        zip.finish().unwrap().into_inner()
    };
    let packed = CheckpointFile::from_vec(other(::zip::CompressionMethod::Deflated), "x");
    assert!(matches!(packed.unwrap_err().inner(), Error::Unsupported { .. }));
    let stored = other(::zip::CompressionMethod::Stored);
    assert!(CheckpointFile::from_vec(stored.clone(), "x").unwrap().is_empty());
    for end in 0..stored.len() {
        assert!(CheckpointFile::from_vec(stored[..end].to_vec(), "x").is_err());
    }
}
