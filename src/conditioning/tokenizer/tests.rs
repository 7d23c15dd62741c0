//! Tests on a vocabulary of 517 tokens that knows one word, `cat`.

use super::*;
use proptest::prelude::*;

const SMALL_MERGES: &str = "#version: 0.2\nc a\nca t</w>\n! !</w>\n";
const CAT: u32 = 513;
const BOS: u32 = 515;
const EOS: u32 = 516;

fn small_vocab() -> Vec<u8> {
    let merges = files::merges(SMALL_MERGES.as_bytes(), Path::new("merges.txt")).unwrap();
    serde_json::to_vec(&clip_vocabulary(&merges, &TokenizerOptions::default())).unwrap()
}

fn small(config: &str, special_tokens: Option<&str>) -> Tokenizer {
    let files = TokenizerFiles {
        vocab: Some(&small_vocab()),
        merges: Some(SMALL_MERGES.as_bytes()),
        config: Some(config.as_bytes()),
        special_tokens: special_tokens.map(str::as_bytes),
        ..TokenizerFiles::default()
    };
    Tokenizer::from_bytes(&files, "small").unwrap()
}

#[test]
fn windows_have_start_end_and_padding() {
    let tokenizer = small(r#"{"model_max_length": 6}"#, None);
    let ids = tokenizer.encode("CAT\n cat");
    assert_eq!(ids, [CAT, CAT]);
    assert_eq!(tokenizer.pad_to_window(&ids), [BOS, CAT, CAT, EOS, EOS, EOS]);
    assert_eq!(tokenizer.pad_to_window(&[7; 9]), [BOS, 7, 7, 7, 7, EOS]);
    assert!(tokenizer.encode(" \t\n").is_empty());
    assert_eq!((tokenizer.vocab_size(), tokenizer.pad()), (517, EOS));
    let unlimited = small(r#"{"model_max_length": 1000000000000000019884624838656}"#, None);
    assert_eq!(unlimited.max_length(), 77);
}

#[test]
fn the_padding_token_is_special_in_texts_too() {
    // Answers of transformers 5.23 for the same files.
    let object = r#"{"content": "<|endoftext|>", "normalized": true}"#;
    let config = format!(r#"{{"eos_token": {object}, "pad_token": "<|endoftext|>"}}"#);
    let map = format!(r#"{{"eos_token": {object}, "pad_token": "!"}}"#);
    let sd2 = small(&config, Some(&map));
    assert_eq!(sd2.encode("cat!! cat ! <|ENDOFTEXT|>"), [CAT, 0, 0, CAT, 0, EOS]);
    assert_eq!(sd2.pad_to_window(&[])[..4], [BOS, EOS, 0, 0]);
    // The padding role comes last and matches as written only.
    let sd1 = small(&config, None);
    assert_eq!(sd1.encode("cat!! cat ! <|endoftext|>"), [CAT, 514, CAT, 256, EOS]);
    assert!(sd1.encode("<|ENDOFTEXT|>").len() > 8);
}

#[test]
fn config_with_added_tokens_outweighs_the_map() {
    let config = r#"{"pad_token": "!", "added_tokens_decoder":
        {"0": {"content": "!", "normalized": false}, "516": {"content": "<|endoftext|>", "normalized": true}}}"#;
    let tokenizer = small(config, Some(r#"{"pad_token": "<|endoftext|>"}"#));
    assert_eq!((tokenizer.pad(), tokenizer.encode("<|EndOfText|>!")), (0, vec![EOS, 0]));
}

#[test]
fn tokenizer_json_alone_will_do() {
    let vocab: serde_json::Value = serde_json::from_slice(&small_vocab()).unwrap();
    for merges in
        [r#"["c a", "ca t</w>", "! !</w>"]"#, r#"[["c","a"], ["ca","t</w>"], ["!","!</w>"]]"#]
    {
        let file = format!(
            r#"{{"version": "1.0", "added_tokens": [{{"id": 516, "content": "<|endoftext|>", "normalized": true}},
            {{"id": 517, "content": "<sks>", "normalized": false}}], "model": {{"type": "BPE",
            "end_of_word_suffix": "</w>", "vocab": {vocab}, "merges": {merges}}}}}"#
        );
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("tokenizer.json"), file).unwrap();
        let tokenizer = Tokenizer::open(folder.path()).unwrap();
        assert_eq!(tokenizer.encode("cat!!<sks><|ENDOFTEXT|>"), [CAT, 514, 517, EOS]);
    }
}

#[test]
fn broken_files_are_named() {
    let from = |vocab: &str, merges: &str| {
        let options = TokenizerOptions { origin: "here".into(), ..Default::default() };
        let error =
            Tokenizer::from_files(vocab.as_bytes(), merges.as_bytes(), &options).unwrap_err();
        assert!(matches!(error, Error::Corrupt { .. }), "{error}");
        error.to_string()
    };
    let good = r#"{"a": 0, "b": 1, "<|startoftext|>": 2, "<|endoftext|>": 3}"#;
    assert!(from("[", "").contains("here/vocab.json"));
    assert!(from(r#"{"a": -1}"#, "").contains("vocab.json"));
    assert!(from(good, "a b c").contains("here/merges.txt"));
    assert!(from(good, "a b").contains("`ab`"), "merging beyond the longest token");
    assert!(from(&good.replace('3', "4"), "").contains("not below"));
    assert!(from(&good.replace('3', "2"), "").contains("two tokens"));
    assert!(from(r#"{"a": 0}"#, "").contains("<|startoftext|>"));
    assert!(from("{}", "").contains("<|startoftext|>"));
    let folder = tempfile::tempdir().unwrap();
    let error = Tokenizer::open(folder.path()).unwrap_err();
    assert!(matches!(error, Error::Corrupt { .. }) && error.to_string().contains("merges.txt"));
    let window = TokenizerOptions { max_length: 2, ..Default::default() };
    assert!(Tokenizer::from_files(good.as_bytes(), b"", &window).is_err());
}

#[test]
fn the_embedded_vocabulary_is_clips() {
    let tokenizer = Tokenizer::embedded(ClipKind::OpenClip).unwrap();
    assert_eq!((tokenizer.vocab_size(), tokenizer.max_length()), (49_408, 77));
    assert_eq!((tokenizer.bos(), tokenizer.eos(), tokenizer.pad()), (49_406, 49_407, 0));
}

proptest! {
    #[test]
    fn any_text_gives_ids_of_the_vocabulary(text in any::<String>()) {
        let tokenizer = small("{}", None);
        let ids = tokenizer.encode(&text);
        prop_assert!(ids.iter().all(|&id| (id as usize) < tokenizer.vocab_size()));
        prop_assert_eq!(tokenizer.pad_to_window(&ids).len(), 77);
    }
}
