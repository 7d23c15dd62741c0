//! Files of textual inversions of every kind against what A1111 and ComfyUI read from them. The goldens are made by
//! `goldens/embeddings/make_ti_files.py`.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod support;

use colora::lora::Embedding;
use colora::weights::Component;
use serde_json::Value;
use support::golden;

/// The values of the table `seed`: see `formula` in tests/prompts.rs.
fn table(seed: &str, count: usize) -> Vec<f32> {
    let hash = |h: u64, b: u8| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3);
    let hash = format!("ti.{seed}").bytes().fold(0xcbf2_9ce4_8422_2325, hash);
    let uniform = |i: usize| {
        let mut x = (i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(hash);
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^= x >> 31;
        ((x >> 40) as f32 / 8_388_608.0 - 1.0) / 4.0
    };
    (0..count).map(uniform).collect()
}

#[test]
fn files_of_every_kind_are_read() {
    let text = std::fs::read_to_string(golden("embeddings/expected.json")).unwrap();
    let rows: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(rows.as_array().unwrap().len(), 16);
    for row in rows.as_array().unwrap() {
        let name = row["file"].as_str().unwrap();
        let found = Embedding::open(golden(&format!("embeddings/{name}")));
        let found = found.unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(found.word, row["name_in_a1111"].as_str().unwrap(), "{name}");
        for table_row in row["tables"].as_array().unwrap() {
            let (seed, part) = (table_row[0].as_str().unwrap(), table_row[2].as_str().unwrap());
            let rows = table_row[1][0].as_u64().unwrap() as usize;
            let width = table_row[1][1].as_u64().unwrap() as usize;
            let component = match part {
                "clip_g" => Component::TextEncoder2,
                _ => Component::TextEncoder,
            };
            let inversion = found.inversion(|c| (c == component).then_some(width)).unwrap();
            let (values, count) = inversion.vectors(component).unwrap().unwrap();
            assert_eq!((count, values.len()), (rows, rows * width), "{name}");
            let rounded = seed == "picture";
            let half = ["webui_half.pt", "bf16.safetensors"].contains(&name);
            for (ours, exact) in values.iter().zip(table(seed, rows * width)) {
                let theirs = if rounded { (exact * 64.0).round() / 64.0 } else { exact };
                let tolerance = if half {
                    2e-3
                } else if rounded {
                    1.0 / 128.0
                } else {
                    0.0
                };
                assert!((ours - theirs).abs() <= tolerance, "{name}: {ours} {theirs}");
            }
        }
    }
}

#[test]
fn files_that_are_none_are_refused() {
    for name in ["expected.json", "features.safetensors"] {
        assert!(Embedding::open(golden(&format!("embeddings/{name}"))).is_err(), "{name}");
    }
    let folder = tempfile::tempdir().unwrap();
    let picture = colora::Picture::new(8, 8, vec![77; 192]).unwrap();
    for name in ["x.png", "y.webp", "z.jpg"] {
        let path = folder.path().join(name);
        let format = colora::picture::Format::of(&path).unwrap();
        let bytes = format.encode(&picture, &colora::picture::Texts::default()).unwrap();
        std::fs::write(&path, bytes).unwrap();
        let error = Embedding::open(&path).unwrap_err().to_string();
        assert!(error.contains("no embedding is in this picture"), "{name}: {error}");
    }
}
