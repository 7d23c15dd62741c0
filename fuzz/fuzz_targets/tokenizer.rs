#![no_main]
//! Any text through CLIP's tokenizer: every id is in the vocabulary, every window is full.

use colora::conditioning::{ClipKind, Tokenizer};
use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;

static TOKENIZER: LazyLock<Tokenizer> =
    LazyLock::new(|| Tokenizer::embedded(ClipKind::OpenAi).expect("the embedded vocabulary"));

fuzz_target!(|text: &str| {
    let ids = TOKENIZER.encode(text);
    let window = TOKENIZER.pad_to_window(&ids);
    assert_eq!(window.len(), TOKENIZER.max_length());
    assert!(window.iter().all(|id| (*id as usize) < TOKENIZER.vocab_size()));
});
