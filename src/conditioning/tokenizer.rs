//! Text to the token ids that CLIP text towers were trained with.
//!
//! The pieces are those of transformers' `CLIPTokenizer`: canonical composition, white space folded,
//! lower case, split by a pattern, bytes as visible characters, byte-pair merges with `</w>` at the
//! end of words. Prompt syntax (emphasis, `BREAK`) is none of its business.

mod check;
mod files;

pub use files::TokenizerFiles;

use crate::error::{Error, Result};
use files::Special;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::normalizers::{Lowercase, NFC, Replace, Sequence as Normalizers, replace};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence as Splitters;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, SplitDelimiterBehavior};

/// Words, single digits and runs of signs; what lies between them (white space) is dropped.
const PATTERN: &str =
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";
/// Marks the last token of a word.
const END_OF_WORD: &str = "</w>";
/// CLIP's merges, from which its vocabulary follows; see `data/README.md`.
const CLIP_MERGES: &[u8] = include_bytes!("data/clip_merges.txt");
/// Tokens that CLIP's text towers take at once.
const CLIP_WINDOW: usize = 77;

/// Which of CLIP's published tokenizers; they share the vocabulary and differ in the padding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClipKind {
    /// OpenAI's CLIP ViT-L/14 (SD 1.x, first tower of SDXL): pads with the end token.
    OpenAi,
    /// OpenCLIP's ViT-H/14 and ViT-bigG/14 (SD 2.x, second tower of SDXL): pads with `!`, id 0.
    ///
    /// As in transformers the padding token is special, so every `!` of a text becomes id 0.
    OpenClip,
}

/// What the vocabulary does not say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenizerOptions {
    /// Ids of one window, start and end included; at least 3.
    pub max_length: usize,
    /// Token before the text.
    pub bos_token: String,
    /// Token behind the text.
    pub eos_token: String,
    /// Token for bytes that the vocabulary lacks.
    pub unk_token: String,
    /// Token that fills the window; `None` = `eos_token`.
    pub pad_token: Option<String>,
    /// Those of these tokens that a text may also spell in capitals.
    ///
    /// (`"normalized": true` in the files. Every special token that a text spells out becomes its
    /// id, as in transformers.)
    pub any_case: Vec<String>,
    /// File or folder that errors name.
    pub origin: PathBuf,
}

impl Default for TokenizerOptions {
    /// The options of SD 1.x: 77 ids, padded with the end token.
    fn default() -> Self {
        let eos = "<|endoftext|>";
        Self {
            max_length: CLIP_WINDOW,
            bos_token: "<|startoftext|>".into(),
            eos_token: eos.into(),
            unk_token: eos.into(),
            pad_token: None,
            any_case: Vec::new(),
            origin: PathBuf::from("tokenizer"),
        }
    }
}

/// Turns text into token ids; immutable and shared.
///
/// # Examples
/// ```
/// use colora::conditioning::{ClipKind, Tokenizer};
///
/// let tokenizer = Tokenizer::embedded(ClipKind::OpenAi)?;
/// assert_eq!(tokenizer.encode("A photo of a cat"), [320, 1125, 539, 320, 2368]);
/// # Ok::<(), colora::Error>(())
/// ```
///
/// # Source
/// transformers 5.23 `models/clip/tokenization_clip.py`; the goldens come from it.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    max_length: usize,
    vocab_size: usize,
    origin: PathBuf,
    bos: u32,
    eos: u32,
    pad: u32,
}

/// Everything that a tokenizer is made of, from whichever files.
struct Parts {
    vocab: HashMap<String, u32>,
    merges: Vec<(String, String)>,
    /// Words behind the vocabulary, such as those of textual inversions.
    added: HashMap<String, u32>,
    /// Special tokens besides those of the options.
    extra: Vec<Special>,
    options: TokenizerOptions,
    /// Which files errors name.
    files: FileNames,
}

/// Where vocabulary and merges were read.
struct FileNames {
    vocab: PathBuf,
    merges: PathBuf,
}

impl FileNames {
    /// In a folder, a file each.
    fn apart(folder: &Path) -> Self {
        Self { vocab: folder.join(files::VOCAB), merges: folder.join(files::MERGES) }
    }

    /// Both in one file.
    fn one(file: &Path) -> Self {
        Self { vocab: file.to_path_buf(), merges: file.to_path_buf() }
    }
}

impl Tokenizer {
    /// The tokenizer of a model folder, e.g. `…/tokenizer_2`.
    ///
    /// Reads `vocab.json` and `merges.txt`, or `tokenizer.json` where these are missing, and
    /// `tokenizer_config.json`, `special_tokens_map.json` and `added_tokens.json` where they exist.
    ///
    /// # Errors
    /// [`Error::Corrupt`] when files are missing, too long (64 MiB) or no CLIP tokenizer,
    /// [`Error::Io`] when one cannot be read.
    pub fn open(folder: impl AsRef<Path>) -> Result<Self> {
        files::read_folder(folder.as_ref(), |files, folder| Self::from_bytes(files, folder))
    }

    /// The tokenizer in the contents of a model folder, e.g. of one that is part of this binary.
    ///
    /// `origin`: the folder that errors name.
    ///
    /// # Errors
    /// [`Error::Corrupt`] when neither `vocab.json` and `merges.txt` nor `tokenizer.json` is given,
    /// or when one is no CLIP tokenizer.
    pub fn from_bytes(files: &TokenizerFiles<'_>, origin: impl AsRef<Path>) -> Result<Self> {
        let parts = files.parts(origin.as_ref())?;
        check::parts(&parts)?;
        Self::build(parts)
    }

    /// A tokenizer from a vocabulary and its merges.
    ///
    /// `vocab_json`: an object of tokens and their ids, which are 0 to n-1.
    /// `merges`: two tokens a line, most frequent first; a first line `#version` is skipped.
    ///
    /// # Errors
    /// [`Error::Corrupt`] when one does not parse, names a token that is missing, or an id that is
    /// not below the number of tokens, and when merges are missing.
    pub fn from_files(
        vocab_json: &[u8],
        merges: &[u8],
        options: &TokenizerOptions,
    ) -> Result<Self> {
        let names = FileNames::apart(&options.origin);
        let parts = Parts {
            vocab: files::vocabulary(vocab_json, &names.vocab)?,
            merges: files::merges(merges, &names.merges)?,
            added: HashMap::new(),
            extra: Vec::new(),
            options: options.clone(),
            files: names,
        };
        check::parts(&parts)?;
        Self::build(parts)
    }

    /// CLIP's tokenizer of 49,408 tokens, which is part of this binary.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if the embedded merges were damaged; a test excludes it.
    pub fn embedded(kind: ClipKind) -> Result<Self> {
        let origin = PathBuf::from("embedded CLIP tokenizer");
        let mut options = TokenizerOptions { origin, ..TokenizerOptions::default() };
        // The published files ask for any case, but padding with the end token overrules its own.
        options.any_case.push(options.bos_token.clone());
        if kind == ClipKind::OpenClip {
            options.any_case.push(options.eos_token.clone());
            options.pad_token = Some("!".into());
        }
        let merges = files::merges(CLIP_MERGES, &options.origin)?;
        let vocab = clip_vocabulary(&merges, &options);
        let files = FileNames::one(&options.origin);
        let (added, extra) = (HashMap::new(), Vec::new());
        // It adds up, by the way in which it is made.
        Self::build(Parts { vocab, merges, added, extra, options, files })
    }

    fn build(parts: Parts) -> Result<Self> {
        let Parts { mut vocab, merges, added, extra, options, .. } = parts;
        let origin = options.origin.clone();
        let corrupt = |why: String| Error::corrupt(&origin, why);
        vocab.extend(added);
        if options.max_length < 3 {
            let why = format!("a window of {} tokens has no room for text", options.max_length);
            return Err(corrupt(why));
        }
        let pad_token = options.pad_token.as_ref().unwrap_or(&options.eos_token);
        let id = |token: &String| {
            vocab.get(token).copied().ok_or_else(|| {
                corrupt(format!("the special token `{token}` is not in the vocabulary"))
            })
        };
        let (bos, eos, pad) = (id(&options.bos_token)?, id(&options.eos_token)?, id(pad_token)?);
        id(&options.unk_token)?;
        let named = [&options.bos_token, &options.eos_token, &options.unk_token, pad_token];
        let special = |content: &String, any_case: bool| {
            AddedToken::from(content.as_str(), true).normalized(any_case)
        };
        let specials: Vec<AddedToken> = (extra.iter().map(|s| special(&s.content, s.any_case)))
            .chain(named.map(|token| special(token, options.any_case.contains(token))))
            .collect();
        let vocab_size = vocab.values().max().map_or(0, |last| *last as usize + 1);
        let inner = pipeline(vocab, merges, options.unk_token, specials)
            .map_err(|e| corrupt(format!("expected a CLIP tokenizer: {e}")))?;
        Ok(Self { inner, max_length: options.max_length, vocab_size, origin, bos, eos, pad })
    }

    /// The ids of `text`, without start, end and padding; as many as it takes.
    ///
    /// White space and letter case make no difference; an empty text has no ids.
    pub fn encode(&self, text: &str) -> Vec<u32> {
        // The only error that encoding knows is a missing unknown token, which `build` excludes.
        self.inner.encode_fast(text, false).map(|e| e.get_ids().to_vec()).unwrap_or_default()
    }

    /// One window: start token, as many of `ids` as fit, end token, padding; `max_length` ids.
    pub fn pad_to_window(&self, ids: &[u32]) -> Vec<u32> {
        self.pad_to(ids, self.max_length)
    }

    /// As [`pad_to_window`](Self::pad_to_window), `length` ids: text towers may know fewer places than their
    /// vocabulary promises.
    pub fn pad_to(&self, ids: &[u32], length: usize) -> Vec<u32> {
        let mut window = Vec::with_capacity(length);
        window.push(self.bos);
        window.extend(ids.iter().take(length.saturating_sub(2)));
        window.push(self.eos);
        window.resize(length, self.pad);
        window
    }

    /// Ids of one window, start and end included: 77 for CLIP.
    pub fn max_length(&self) -> usize {
        self.max_length
    }

    /// The folder or file that the tokenizer was read from.
    pub fn origin(&self) -> &Path {
        &self.origin
    }

    /// Number of tokens; every id is below it, so a text tower needs as many rows.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// Id of the start token.
    pub fn bos(&self) -> u32 {
        self.bos
    }

    /// Id of the end token, at which towers pool.
    pub fn eos(&self) -> u32 {
        self.eos
    }

    /// Id of the padding token.
    pub fn pad(&self) -> u32 {
        self.pad
    }
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer")
            .field("max_length", &self.max_length)
            .field("vocab_size", &self.vocab_size)
            .field("pad", &self.pad)
            .finish_non_exhaustive()
    }
}

fn pipeline(
    vocab: HashMap<String, u32>,
    merges: Vec<(String, String)>,
    unknown: String,
    specials: Vec<AddedToken>,
) -> tokenizers::Result<tokenizers::Tokenizer> {
    let vocab: Vocab = vocab.into_iter().collect();
    let model = BPE::builder()
        .vocab_and_merges(vocab, merges)
        .continuing_subword_prefix(String::new())
        .end_of_word_suffix(END_OF_WORD.into())
        .unk_token(unknown)
        .build()?;
    let fold = Replace::new(replace::ReplacePattern::Regex(r"\s+".into()), " ")?;
    let words = SplitPattern::Regex(PATTERN.into());
    let words = Split::new(words, SplitDelimiterBehavior::Removed, true)?;
    let mut tokenizer = tokenizers::Tokenizer::new(model);
    tokenizer.with_normalizer(Some(Normalizers::new(vec![
        NFC.into(),
        fold.into(),
        Lowercase.into(),
    ])))?;
    tokenizer.with_pre_tokenizer(Some(Splitters::new(vec![
        words.into(),
        ByteLevel::default().add_prefix_space(false).into(),
    ])));
    tokenizer.add_special_tokens(specials)?;
    Ok(tokenizer)
}

/// CLIP's vocabulary: 256 byte symbols, the same at the end of a word, merges, start and end.
///
/// # Source
/// `SimpleTokenizer` of OpenAI's CLIP, `clip/simple_tokenizer.py`.
fn clip_vocabulary(
    merges: &[(String, String)],
    options: &TokenizerOptions,
) -> HashMap<String, u32> {
    let bytes: Vec<String> = byte_symbols().map(String::from).collect();
    let ends = bytes.iter().map(|byte| format!("{byte}{END_OF_WORD}"));
    let merged = merges.iter().map(|(left, right)| format!("{left}{right}"));
    let specials = [options.bos_token.clone(), options.eos_token.clone()];
    bytes.iter().cloned().chain(ends).chain(merged).chain(specials).zip(0..).collect()
}

/// The visible character of each byte: itself where it is visible, else one from U+0100 on; visible
/// bytes come first.
fn byte_symbols() -> impl Iterator<Item = char> {
    let visible = |b: &u8| matches!(b, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    let hidden = (0..=u8::MAX).filter(move |b| !visible(b)).count();
    let hidden = ('\u{100}'..).take(hidden);
    (0..=u8::MAX).filter(visible).map(char::from).chain(hidden)
}

#[cfg(test)]
mod tests;
