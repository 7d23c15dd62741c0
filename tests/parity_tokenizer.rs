//! Token ids against transformers' `CLIPTokenizer`, on texts chosen to differ.
#![allow(clippy::unwrap_used)] // also outside the test functions

mod support;

use colora::conditioning::{ClipKind, Tokenizer};
use serde_json::Value;

fn goldens() -> Value {
    let path = support::golden("tokenizer.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    let ids = value.as_array().unwrap();
    ids.iter().map(|id| u32::try_from(id.as_u64().unwrap()).unwrap()).collect()
}

/// Compares whole windows of the golden column `name` and returns how many there were.
fn compare(tokenizer: &Tokenizer, goldens: &Value, name: &str) -> usize {
    let length = usize::try_from(goldens["length"].as_u64().unwrap()).unwrap();
    let pad = u32::try_from(goldens["pad"][name].as_u64().unwrap()).unwrap();
    assert_eq!((tokenizer.max_length(), tokenizer.pad()), (length, pad), "{name}");
    let cases = goldens["cases"].as_array().unwrap();
    for case in cases {
        let text = case["text"].as_str().unwrap();
        let mut expected = ids(&case[name]);
        expected.resize(length, pad);
        let found = tokenizer.pad_to_window(&tokenizer.encode(text));
        assert_eq!(found, expected, "{name}: {text:?}");
    }
    cases.len()
}

#[test]
fn embedded_tokenizers_equal_transformers() {
    let goldens = goldens();
    let openai = Tokenizer::embedded(ClipKind::OpenAi).unwrap();
    let openclip = Tokenizer::embedded(ClipKind::OpenClip).unwrap();
    let count = compare(&openai, &goldens, "sd1")
        + compare(&openclip, &goldens, "sd2")
        + compare(&openclip, &goldens, "sdxl2");
    assert!(count > 300, "only {count} cases");
    assert_eq!(u64::from(openai.bos()), goldens["start"].as_u64().unwrap());
    assert_eq!(u64::from(openai.eos()), goldens["end"].as_u64().unwrap());
}

#[test]
fn model_folders_open_with_their_own_padding() {
    for (folder, pads_with_end) in [
        ("sd15/tokenizer", true),
        ("sd2/tokenizer", false),
        ("sdxl/tokenizer", true),
        ("sdxl/tokenizer_2", false),
    ] {
        let tokenizer = Tokenizer::open(support::golden(folder)).unwrap();
        let pad = if pads_with_end { tokenizer.eos() } else { 0 };
        assert_eq!(tokenizer.pad(), pad, "{folder}");
        let window = tokenizer.pad_to_window(&tokenizer.encode("a cat"));
        assert_eq!(window.len(), tokenizer.max_length(), "{folder}");
        assert!(window.iter().all(|&id| (id as usize) < tokenizer.vocab_size()), "{folder}");
    }
}
