//! The files that a tokenizer is read from.

use super::{CLIP_WINDOW, END_OF_WORD, FileNames, Parts, TokenizerOptions};
use crate::error::{Error, Result};
use crate::input;
use serde::Deserialize;
use std::collections::HashMap;
use std::path::Path;

/// Longest file that is read, in bytes; CLIP's largest has 3 MiB.
const MAX_FILE: u64 = 64 << 20;
/// Longest window that a file may ask for; beyond it transformers' files mean "unlimited".
const MAX_WINDOW: f64 = 4096.0;

pub(super) const VOCAB: &str = "vocab.json";
pub(super) const MERGES: &str = "merges.txt";
const WHOLE: &str = "tokenizer.json";
const CONFIG: &str = "tokenizer_config.json";
const SPECIALS: &str = "special_tokens_map.json";
const ADDED: &str = "added_tokens.json";

/// The contents of a tokenizer's folder; `None` for a file that it lacks.
#[derive(Debug, Clone, Copy, Default)]
pub struct TokenizerFiles<'a> {
    /// `vocab.json`.
    pub vocab: Option<&'a [u8]>,
    /// `merges.txt`.
    pub merges: Option<&'a [u8]>,
    /// `tokenizer.json`, read only where one of the two above is missing.
    pub tokenizer: Option<&'a [u8]>,
    /// `tokenizer_config.json`.
    pub config: Option<&'a [u8]>,
    /// `special_tokens_map.json`.
    pub special_tokens: Option<&'a [u8]>,
    /// `added_tokens.json`, read only where the config does not list added tokens.
    pub added_tokens: Option<&'a [u8]>,
}

/// A special token as the files give it: its text, or an object that also says how it is matched.
#[derive(Debug, Clone, Deserialize)]
#[serde(from = "SpecialForm")]
pub(super) struct Special {
    pub(super) content: String,
    pub(super) any_case: bool,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum SpecialForm {
    Text(String),
    Object {
        content: String,
        #[serde(default)]
        normalized: bool,
    },
}

impl From<SpecialForm> for Special {
    fn from(form: SpecialForm) -> Self {
        match form {
            SpecialForm::Text(content) => Special { content, any_case: false },
            SpecialForm::Object { content, normalized } => {
                Special { content, any_case: normalized }
            }
        }
    }
}

/// `tokenizer_config.json`; `special_tokens_map.json` has the first four.
#[derive(Default, Deserialize)]
struct Config {
    bos_token: Option<Special>,
    eos_token: Option<Special>,
    unk_token: Option<Special>,
    pad_token: Option<Special>,
    model_max_length: Option<f64>,
    added_tokens_decoder: Option<HashMap<String, Special>>,
}

/// The parts of `tokenizer.json` that CLIP's tokenizers differ in; transformers 5 too rebuilds the
/// rest.
#[derive(Deserialize)]
struct Whole {
    model: Model,
    #[serde(default)]
    added_tokens: Vec<Added>,
}

#[derive(Deserialize)]
struct Model {
    vocab: HashMap<String, u32>,
    merges: Vec<Merge>,
    end_of_word_suffix: Option<String>,
}

/// A merge as older and newer files write it.
#[derive(Deserialize)]
#[serde(untagged)]
enum Merge {
    Line(String),
    Pair(String, String),
}

#[derive(Deserialize)]
struct Added {
    id: u32,
    #[serde(flatten)]
    special: Special,
}

impl TokenizerFiles<'_> {
    pub(super) fn parts(&self, origin: &Path) -> Result<Parts> {
        let mut config: Config = optional(self.config, &origin.join(CONFIG))?;
        let map: Config = optional(self.special_tokens, &origin.join(SPECIALS))?;
        if config.added_tokens_decoder.is_none() {
            // transformers ignores the map once the config lists the added tokens itself.
            config.bos_token = map.bos_token.or(config.bos_token);
            config.eos_token = map.eos_token.or(config.eos_token);
            config.unk_token = map.unk_token.or(config.unk_token);
            config.pad_token = map.pad_token.or(config.pad_token);
        }
        let mut listed = match (config.added_tokens_decoder.take(), self.added_tokens) {
            (Some(listed), _) => by_id(listed, &origin.join(CONFIG))?,
            (None, Some(words)) => config.words(words, &origin.join(ADDED))?,
            (None, None) => Vec::new(),
        };
        let (vocab, merges, files) = match (self.vocab, self.merges, self.tokenizer) {
            (Some(vocab), Some(lines), _) => {
                let names = FileNames::apart(origin);
                (vocabulary(vocab, &names.vocab)?, merges(lines, &names.merges)?, names)
            }
            (_, _, Some(file)) => {
                let names = FileNames::one(&origin.join(WHOLE));
                let whole = Whole::parse(file, &names.vocab)?;
                listed.extend(whole.added);
                (whole.vocab, whole.merges, names)
            }
            _ => {
                let why = format!("expected {VOCAB} and {MERGES}, or {WHOLE}; one is missing");
                return Err(Error::corrupt(origin, why));
            }
        };
        let new = listed.iter().filter(|added| !vocab.contains_key(&added.special.content));
        let added = new.map(|added| (added.special.content.clone(), added.id)).collect();
        let listed: Vec<Special> = listed.into_iter().map(|added| added.special).collect();
        let options = config.options(&listed, origin);
        Ok(Parts { vocab, merges, added, extra: listed, options, files })
    }
}

/// Added tokens as `tokenizer_config.json` lists them.
fn by_id(listed: HashMap<String, Special>, path: &Path) -> Result<Vec<Added>> {
    let added = |(id, special): (String, Special)| {
        let Ok(id) = id.parse() else {
            let shown: String = id.chars().take(40).collect();
            let why = format!("expected the id of an added token, found {shown:?}");
            return Err(Error::corrupt(path, why));
        };
        Ok(Added { id, special })
    };
    listed.into_iter().map(added).collect()
}

impl Config {
    /// The tokens of an `added_tokens.json`. A text may spell in capitals what plays no role.
    fn words(&self, bytes: &[u8], path: &Path) -> Result<Vec<Added>> {
        let words: HashMap<String, u32> = json(bytes, path)?;
        let roles = [&self.bos_token, &self.eos_token, &self.unk_token, &self.pad_token];
        let plays =
            |word: &str| roles.iter().any(|r| r.as_ref().is_some_and(|r| r.content == word));
        let added = |(content, id): (String, u32)| {
            let any_case = !plays(&content);
            Added { id, special: Special { content, any_case } }
        };
        Ok(words.into_iter().map(added).collect())
    }

    /// `listed`: added tokens, whose own flags count more than those of their roles.
    fn options(self, listed: &[Special], origin: &Path) -> TokenizerOptions {
        let mut options = TokenizerOptions { origin: origin.into(), ..Default::default() };
        let mut any_case = HashMap::new();
        let mut name = |role: Option<Special>| {
            role.map(|special| {
                // A token with two roles is matched as its later role says, as in transformers.
                any_case.insert(special.content.clone(), special.any_case);
                special.content
            })
        };
        options.bos_token = name(self.bos_token).unwrap_or(options.bos_token);
        options.eos_token = name(self.eos_token).unwrap_or(options.eos_token);
        options.unk_token = name(self.unk_token).unwrap_or_else(|| options.eos_token.clone());
        options.pad_token = name(self.pad_token);
        any_case.extend(listed.iter().map(|special| (special.content.clone(), special.any_case)));
        options.any_case = any_case.into_iter().filter_map(|(t, any)| any.then_some(t)).collect();
        options.max_length = match self.model_max_length {
            Some(length) if (0.0..=MAX_WINDOW).contains(&length) => length as usize,
            _ => CLIP_WINDOW,
        };
        options
    }
}

/// What [`Whole`] comes to.
struct Content {
    vocab: HashMap<String, u32>,
    merges: Vec<(String, String)>,
    added: Vec<Added>,
}

impl Whole {
    fn parse(bytes: &[u8], path: &Path) -> Result<Content> {
        let whole: Whole = json(bytes, path)?;
        let suffix = whole.model.end_of_word_suffix.unwrap_or_default();
        if suffix != END_OF_WORD {
            let why =
                format!("expected a CLIP tokenizer (words end in {END_OF_WORD}), found `{suffix}`");
            return Err(Error::corrupt(path, why));
        }
        let pair = |merge: Merge| match merge {
            Merge::Pair(left, right) => Ok((left, right)),
            Merge::Line(line) => split_merge(&line, path),
        };
        let merges = whole.model.merges.into_iter().map(pair).collect::<Result<_>>()?;
        Ok(Content { vocab: whole.model.vocab, merges, added: whole.added_tokens })
    }
}

/// The tokens and ids of a `vocab.json`.
pub(super) fn vocabulary(bytes: &[u8], path: &Path) -> Result<HashMap<String, u32>> {
    json(bytes, path)
}

/// The pairs of a `merges.txt`.
pub(super) fn merges(bytes: &[u8], path: &Path) -> Result<Vec<(String, String)>> {
    let text = std::str::from_utf8(bytes)
        .map_err(|e| Error::corrupt(path, format!("expected merges in UTF-8: {e}")))?;
    let lines = text.lines().enumerate();
    let lines =
        lines.filter(|(i, line)| !(line.is_empty() || *i == 0 && line.starts_with("#version")));
    lines.map(|(_, line)| split_merge(line, path)).collect()
}

fn split_merge(line: &str, path: &Path) -> Result<(String, String)> {
    match line.split_once(' ') {
        Some((left, right)) if !(left.is_empty() || right.is_empty() || right.contains(' ')) => {
            Ok((left.to_owned(), right.to_owned()))
        }
        _ => {
            let shown: String = line.chars().take(40).collect();
            Err(Error::corrupt(path, format!("expected two tokens a merge, found {shown:?}")))
        }
    }
}

fn json<T: serde::de::DeserializeOwned>(bytes: &[u8], path: &Path) -> Result<T> {
    serde_json::from_slice(bytes)
        .map_err(|e| Error::corrupt(path, format!("not the JSON that a tokenizer has: {e}")))
}

fn optional(bytes: Option<&[u8]>, path: &Path) -> Result<Config> {
    bytes.map_or_else(|| Ok(Config::default()), |bytes| json(bytes, path))
}

/// Reads the files of `folder` that exist and hands them to `then`.
pub(super) fn read_folder<T>(
    folder: &Path,
    then: impl FnOnce(&TokenizerFiles<'_>, &Path) -> Result<T>,
) -> Result<T> {
    let vocab = read(&folder.join(VOCAB))?;
    let merges = read(&folder.join(MERGES))?;
    let complete = vocab.is_some() && merges.is_some();
    let tokenizer = if complete { None } else { read(&folder.join(WHOLE))? };
    let config = read(&folder.join(CONFIG))?;
    let special_tokens = read(&folder.join(SPECIALS))?;
    let added_tokens = read(&folder.join(ADDED))?;
    let files = TokenizerFiles {
        vocab: vocab.as_deref(),
        merges: merges.as_deref(),
        tokenizer: tokenizer.as_deref(),
        config: config.as_deref(),
        special_tokens: special_tokens.as_deref(),
        added_tokens: added_tokens.as_deref(),
    };
    then(&files, folder)
}

/// The content of `path`; `None` when there is no such file.
fn read(path: &Path) -> Result<Option<Vec<u8>>> {
    input::bytes_if_there(path, MAX_FILE, "a vocabulary")
}
