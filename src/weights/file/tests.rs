use super::*;
use crate::weights::names::Part;
use crate::weights::{Component, Placement, Site, WeightSource};

/// A safetensors file of `header` and `data`.
fn file(header: &str, data: &[u8]) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend(data);
    bytes
}

/// `a`: f32 [2, 3] = 0..6, `b`: i16 [2] = 7, 8; the odd header length leaves `a` unaligned.
fn small() -> Vec<u8> {
    let header = r#"{"__metadata__":{"k":"v"},"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},"b":{"dtype":"I16","shape":[2],"data_offsets":[24,28]}}"#;
    let mut data: Vec<u8> = (0..6).flat_map(|i| (i as f32).to_le_bytes()).collect();
    data.extend([7, 0, 8, 0]);
    file(header, &data)
}

fn why(bytes: impl Into<Vec<u8>>) -> String {
    match CheckpointFile::from_vec(bytes.into(), "x").unwrap_err() {
        Error::Corrupt { why, .. } => why,
        other => panic!("{other:?}"),
    }
}

#[test]
fn reads_tensors_and_rows() {
    let file = CheckpointFile::from_vec(small(), "x").unwrap();
    assert_eq!(file.names().collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(file.metadata()["k"], "v");
    assert_eq!(file.read_f32("a", Some(1..2)).unwrap(), [3.0, 4.0, 5.0]);
    assert_eq!(file.read_f32("b", None).unwrap(), [7.0, 8.0]);
    assert!(matches!(file.read_f32("c", None), Err(Error::TensorMissing { .. })));
    assert!(matches!(file.read_f32("a", Some(1..3)), Err(Error::Internal(_))));
    let tensor = file.tensor("a", Some(0..1), DType::F64, &Device::Cpu).unwrap();
    assert_eq!(tensor.to_vec2::<f64>().unwrap(), [[0.0, 1.0, 2.0]]);
    assert!(matches!(
        file.tensor("a", None, DType::U8, &Device::Cpu),
        Err(Error::Unsupported { .. })
    ));
}

#[test]
fn parts_are_views() {
    let file = CheckpointFile::from_vec(small(), "x").unwrap();
    let mut checkpoint = Checkpoint::new("x", Placement::default());
    let (t, row) = (Site::new("unet.t"), Site::new("unet.row"));
    checkpoint.insert(t.clone(), &file, "a", Part::Transposed).unwrap();
    checkpoint.insert(row.clone(), &file, "a", Part::Rows { start: 1, len: 1 }).unwrap();
    let too_far = Part::Rows { start: 1, len: usize::MAX };
    assert!(checkpoint.insert(row.clone(), &file, "a", too_far).is_err());
    let values = checkpoint.get(&t, &[3, 2]).unwrap().base().to_vec2::<f32>().unwrap();
    assert_eq!(values, [[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]]);
    let values = checkpoint.get(&row, &[1, 3, 1, 1]).unwrap();
    assert_eq!(values.base().dims(), [1, 3, 1, 1]);
    assert!(matches!(checkpoint.get(&t, &[2, 3]), Err(Error::ShapeMismatch { .. })));
    assert_eq!(checkpoint.inventory(Component::UNet).parameters, 9);
    assert_eq!(
        Checkpoint::new("y", Placement::default())
            .with_component(Component::UNet, &checkpoint)
            .sites()
            .len(),
        2
    );
}

/// Rows of a transposed matrix cost what they hold, not what the whole matrix does.
#[test]
fn parts_of_a_view_are_gathered_alone() {
    const SIDE: usize = 1024;
    let header = format!(
        r#"{{"a":{{"dtype":"F32","shape":[{SIDE},{SIDE}],"data_offsets":[0,{}]}}}}"#,
        SIDE * SIDE * 4
    );
    let data: Vec<u8> = (0..SIDE * SIDE).flat_map(|i| (i as f32).to_le_bytes()).collect();
    let file = CheckpointFile::from_vec(file(&header, &data), "x").unwrap();
    let mut checkpoint = Checkpoint::new("x", Placement::default());
    let site = Site::new("unet.t");
    checkpoint.insert(site.clone(), &file, "a", Part::Transposed).unwrap();
    let start = std::time::Instant::now();
    for first in (0..SIDE * SIDE - 100).step_by(1000) {
        let mut out = [0.0; 100];
        checkpoint.read_f32(&site, first, &mut out).unwrap();
        for (i, value) in (first..).zip(out) {
            assert_eq!(value as usize, i % SIDE * SIDE + i / SIDE);
        }
    }
    assert!(start.elapsed().as_secs() < 5, "{:?}", start.elapsed());
    assert!(checkpoint.read_f32(&site, SIDE * SIDE - 99, &mut [0.0; 100]).is_err());
}

#[test]
fn says_what_the_file_is() {
    assert!(why("").contains("empty"));
    assert!(why("\n <!DOCTYPE html>").contains("web page"));
    assert!(
        why("version https://git-lfs.example/spec/v1\noid sha256:").contains("git-lfs pointer")
    );
    assert!(why("{\"a\": 1, \"b\": 2}").contains("JSON"));
    assert!(why("abc").contains("3 bytes"));
    assert!(why("abcdefghijkl").contains("neither"));
    let gguf = CheckpointFile::from_vec(b"GGUF\x03\0\0\0{\0\0\0".to_vec(), "x");
    assert!(gguf.is_err());
}

#[test]
fn truncation_is_named_with_both_lengths() {
    let whole = small();
    let cut = &whole[..whole.len() - 3];
    let expected = format!("expected {} bytes, have {}", whole.len(), cut.len());
    assert!(why(cut).contains(&expected), "{}", why(cut));
    assert!(why(&whole[..20]).contains("truncated: expected at least"));
    assert!(why(&whole[..8]).contains("truncated"));
    let mut longer = whole.clone();
    longer.push(0);
    assert!(why(longer).contains("1 unknown bytes"));
    for end in 0..whole.len() {
        assert!(CheckpointFile::from_vec(whole[..end].to_vec(), "x").is_err());
    }
}

#[test]
fn lying_headers_are_refused() {
    let overlap = r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
    assert!(why(file(overlap, &[0; 4])).contains("invalid offset"));
    let span = r#"{"a":{"dtype":"F32","shape":[3],"data_offsets":[0,4]}}"#;
    assert!(why(file(span, &[0; 4])).contains("damaged"));
    let huge =
        r#"{"a":{"dtype":"F32","shape":[4294967296,4294967296,4294967296],"data_offsets":[0,4]}}"#;
    assert!(why(file(huge, &[0; 4])).contains("damaged"));
    let mut long = u64::MAX.to_le_bytes().to_vec();
    long.extend(b"{}");
    assert!(why(long).contains("100000000"));
    assert!(why(file("{]", &[])).contains("damaged"));
    let odd = r#"{"a":{"dtype":"F4","shape":[2],"data_offsets":[0,1]}}"#;
    let odd = CheckpointFile::from_vec(file(odd, &[0]), "x").unwrap();
    assert!(matches!(odd.read_f32("a", None), Err(Error::Unsupported { .. })));
}

#[test]
fn a_length_that_begins_like_a_pickle_is_a_length() {
    for wanted in [0x280usize, 0x380, 0x10580] {
        let inner = r#""a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}"#;
        let header = format!("{{{inner}{}}}", " ".repeat(wanted - inner.len() - 2));
        let file = CheckpointFile::from_vec(file(&header, &[9]), "x").unwrap();
        assert_eq!(file.read_f32("a", None).unwrap(), [9.0]);
    }
}

#[test]
fn a_file_that_stays_as_it_is_is_copied_once() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("loras/flat.safetensors");
    let open = |most| CheckpointFile::open_copied(&path, most).unwrap();
    let (first, second, mapped) = (open(1 << 30), open(1 << 30), open(100));
    assert!(matches!(first.0.bytes, Bytes::Owned(_)) && matches!(mapped.0.bytes, Bytes::Mapped(_)));
    assert!(Arc::ptr_eq(&first.0, &second.0));
    assert_eq!(first.sha256().unwrap(), mapped.sha256().unwrap());
    assert_eq!(first.sha256().unwrap().len(), 64);
}

/// A model that was copied over while it was read ended the whole process.
#[cfg(unix)]
#[test]
fn a_mapped_file_that_shrinks_is_an_error_that_names_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("shrinks.safetensors");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("loras/flat.safetensors");
    std::fs::copy(source, &path).unwrap();
    let file = CheckpointFile::open(&path).unwrap();
    let length = std::fs::metadata(&path).unwrap().len();
    let names: Vec<String> = file.names().map(str::to_owned).collect();
    assert!(file.read_f32(&names[0], None).is_ok());
    std::fs::File::options().write(true).open(&path).unwrap().set_len(length / 2).unwrap();
    let read = names.iter().map(|name| file.read_f32(name, None));
    let errors: Vec<_> = read.filter_map(Result::err).collect();
    assert!(!errors.is_empty());
    for error in errors {
        assert_eq!(error.fault().exit_code(), 3);
        assert!(error.to_string().contains("shrinks.safetensors"), "{error}");
        assert!(error.to_string().contains("shortened"), "{error}");
    }
    assert!(file.sha256().is_err() && file.raw(&names[0], None).is_err());
}
