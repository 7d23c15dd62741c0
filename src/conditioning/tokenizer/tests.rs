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
    assert!(from(&good.replace("\"b\"", "\"bb\""), "").contains("no merge makes `bb`"));
    let two = good.replace("\"b\"", "\"aa\"");
    assert!(from(&two, "a a\na a").contains("two merges make `aa`"));
    assert!(from(r#"{"a": 0}"#, "").contains("<|startoftext|>"));
    assert!(from("{}", "").contains("<|startoftext|>"));
    let folder = tempfile::tempdir().unwrap();
    let error = Tokenizer::open(folder.path()).unwrap_err();
    assert!(matches!(error, Error::Corrupt { .. }) && error.to_string().contains("merges.txt"));
    let window = TokenizerOptions { max_length: 2, ..Default::default() };
    assert!(Tokenizer::from_files(good.as_bytes(), b"", &window).is_err());
}

/// A merges.txt that was cut gave other ids, and another picture, without a word.
#[test]
fn merges_and_vocabulary_add_up() {
    let from = |vocab: &[u8], merges: &str| {
        let options = TokenizerOptions { origin: "here".into(), ..Default::default() };
        Tokenizer::from_files(vocab, merges.as_bytes(), &options).map_err(|e| e.to_string())
    };
    let vocab = small_vocab();
    from(&vocab, SMALL_MERGES).unwrap();
    from(&vocab, SMALL_MERGES.trim_end()).unwrap();
    let lines: Vec<&str> = SMALL_MERGES.lines().collect();
    for (kept, missing) in [
        (&lines[..1], "no merge makes `ca` (id 512) and 2 more"),
        (&lines[..3], "`!!</w>` (id 514)"),
    ] {
        let error = from(&vocab, &kept.join("\n")).unwrap_err();
        assert!(error.contains("here/merges.txt") && error.contains(missing), "{error}");
    }
    let order = [lines[0], lines[2], lines[1], lines[3]].join("\n");
    let error = from(&vocab, &order).unwrap_err();
    assert!(error.contains("makes the token with the id 513, expected 512"), "{error}");
    let twice = [&lines[..], &lines[3..]].concat().join("\n");
    assert!(from(&vocab, &twice).unwrap_err().contains("id 514, expected 515"));
    // Words that somebody put behind the others are no merges.
    let vocab = String::from_utf8(vocab).unwrap();
    let more = format!(r#"{},"<sks>":517,"cats</w>":518}}"#, vocab.strip_suffix('}').unwrap());
    let tokenizer = from(more.as_bytes(), SMALL_MERGES).unwrap();
    assert_eq!(tokenizer.vocab_size(), 519);
}

#[test]
fn added_tokens_are_words() {
    let config = r#"{"added_tokens_decoder": {"517": {"content": "<sks>", "normalized": false}}}"#;
    let tokenizer = small(config, None);
    assert_eq!(
        (tokenizer.encode("cat <sks> <SKS>")[..2].to_vec(), tokenizer.vocab_size()),
        (vec![CAT, 517], 518)
    );
    let open = |added: &str| {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("vocab.json"), small_vocab()).unwrap();
        std::fs::write(folder.path().join("merges.txt"), SMALL_MERGES).unwrap();
        std::fs::write(folder.path().join("added_tokens.json"), added).unwrap();
        Tokenizer::open(folder.path()).map_err(|error| error.to_string())
    };
    let tokenizer = open(r#"{"<sks>": 517, "<|endoftext|>": 516, "cat-toy": 530}"#).unwrap();
    assert_eq!(tokenizer.encode("a <SKS>, cat-toy")[1..], [517, 267, 530]);
    assert_eq!(tokenizer.vocab_size(), 531);
    assert!(open(r#"{"<sks>": 3}"#).unwrap_err().contains("the id 3: `$` and `<sks>`"));
    assert!(open("[]").unwrap_err().contains("added_tokens.json"));
    let words = r#"{"added_tokens_decoder": {"x": {"content": "<sks>"}}}"#;
    let files = TokenizerFiles {
        vocab: Some(&small_vocab()),
        merges: Some(SMALL_MERGES.as_bytes()),
        config: Some(words.as_bytes()),
        ..TokenizerFiles::default()
    };
    let error = Tokenizer::from_bytes(&files, "small").unwrap_err().to_string();
    assert!(error.contains("tokenizer_config.json") && error.contains("\"x\""), "{error}");
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
