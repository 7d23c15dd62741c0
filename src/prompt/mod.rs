//! The text of a prompt: `<lora:…>` tags are taken out of it, and its emphasis, its edits and its breaks are read.
//!
//! This module has nothing to do with adapters or tokens; what a tag says is read elsewhere.
//!
//! Floor 1.

pub mod a1111;
pub mod comfy;
mod comments;
mod dialect;
mod editing;
mod emphasis;
pub mod expand;
mod numbers;
pub mod parts;
mod segment;
mod style;
mod syntax;

pub use comments::without_comments;
pub use dialect::PromptSyntax;
pub use editing::Edited;
pub use emphasis::Emphasis;
pub use parts::Part;
pub use segment::{Segment, SyntaxError};
pub use style::{Style, styled};
pub use syntax::foreign_syntax;

use crate::error::Error;
use std::ops::Range;

/// Words that begin a tag; `lyco` is what A1111 calls LyCORIS files.
const WORDS: [&str; 2] = ["lora", "lyco"];

/// A prompt without its tags, and the tags.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Extracted {
    /// What remains of the prompt.
    pub text: String,
    /// The tags in the order of the prompt.
    pub tags: Vec<Tag>,
}

/// One `<lora:BODY>` of a prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tag {
    /// What stands between the first colon and `>`.
    pub body: String,
    /// Bytes of the prompt that the tag takes, `<` and `>` included.
    pub span: Range<usize>,
}

/// A tag that cannot be read, and where it stands.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct TagError {
    /// Bytes of the prompt that are wrong.
    pub span: Range<usize>,
    /// What is wrong and how to write it instead.
    pub why: &'static str,
}

/// Takes the `<lora:…>` and `<lyco:…>` tags out of a prompt.
///
/// `\<lora:` stays in the text as `<lora:`. Around a removed tag one separator (spaces, line breaks,
/// commas) is left of the two, none at the ends of the prompt; all other text comes back as it was,
/// byte for byte.
///
/// # Errors
/// [`TagError`] for a tag that is not closed on its line and for one without a name.
///
/// # Examples
/// ```
/// let found = colora::prompt::extract_tags("a cat, <lora:ink:0.8>, on a hill").unwrap();
/// assert_eq!(found.text, "a cat, on a hill");
/// assert_eq!(found.tags[0].body, "ink:0.8");
/// ```
pub fn extract_tags(text: &str) -> Result<Extracted, TagError> {
    let mut found = Extracted::default();
    let mut at = 0;
    while let Some(next) = text[at..].find('<').map(|i| at + i) {
        let Some(head) = head(&text[next..]) else {
            found.text.push_str(&text[at..=next]);
            at = next + 1;
            continue;
        };
        if text[at..next].ends_with('\\') {
            // The escape has done its work.
            found.text.push_str(&text[at..next - 1]);
            found.text.push('<');
            at = next + 1;
            continue;
        }
        found.text.push_str(&text[at..next]);
        let (body, end) = body(text, next, next + head)?;
        found.tags.push(Tag { body: body.to_owned(), span: next..end });
        at = end + join(&mut found.text, &text[end..]);
    }
    found.text.push_str(&text[at..]);
    Ok(found)
}

/// `text` with a backslash before everything that [`extract_tags`] would take for a tag.
pub fn escape_tags(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for (i, c) in text.char_indices() {
        if c == '<' && head(&text[i..]).is_some() {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

/// The line of `text` in which `span` begins, and a second line with carets under the span.
///
/// Long lines are cut to what stands around the span; control characters are replaced.
pub fn underlined(text: &str, span: &Range<usize>) -> String {
    const BEFORE: usize = 40;
    const WIDTH: usize = 90;
    let start = text[..floor(text, span.start)].rfind('\n').map_or(0, |i| i + 1);
    let line = text[start..].lines().next().unwrap_or_default();
    let shown = |c: char| if c.is_control() { '\u{fffd}' } else { c };
    let before = line.char_indices().take_while(|(i, _)| start + i < span.start).count();
    let marked = line.char_indices().filter(|(i, _)| span.contains(&(start + i))).count();
    let skip = before.saturating_sub(BEFORE);
    let excerpt: String = line.chars().skip(skip).take(WIDTH).map(shown).collect();
    let room = WIDTH.saturating_sub(before - skip).max(1);
    format!("{excerpt}\n{}{}", " ".repeat(before - skip), "^".repeat(marked.clamp(1, room)))
}

/// An error about the part `span` of a prompt, with the line in which it stands and carets under it: the one frame for
/// everything that is wrong with a prompt.
///
/// `field`: the field of a request that holds the prompt.
pub(crate) fn pointed(field: &'static str, text: &str, span: &Range<usize>, why: &str) -> Error {
    const MOST: usize = 60;
    let part = text.get(span.clone()).unwrap_or_default();
    let shown: String = match part.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}…", &part[..end]),
        None => part.to_owned(),
    };
    Error::bad_request(field, shown, format!("{why}\n{}", underlined(text, span)))
}

/// The last boundary of a character at or before `at`.
fn floor(text: &str, at: usize) -> usize {
    (0..=at.min(text.len())).rev().find(|i| text.is_char_boundary(*i)).unwrap_or(0)
}

/// Length of `<lora:` when `text` begins with it, in any case.
fn head(text: &str) -> Option<usize> {
    let rest = text.strip_prefix('<')?;
    let begins = |word: &&&str| {
        let same = rest.get(..word.len()).is_some_and(|r| r.eq_ignore_ascii_case(word));
        same && rest[word.len()..].starts_with(':')
    };
    WORDS.iter().find(begins).map(|word| word.len() + 2)
}

/// The body of the tag that starts at `open` with its body at `start`, and the end of the tag.
fn body(text: &str, open: usize, start: usize) -> Result<(&str, usize), TagError> {
    let rest = &text[start..];
    let stop = rest.find(['>', '<', '\n', '\r']).unwrap_or(rest.len());
    if !rest[stop..].starts_with('>') {
        let why = "this tag has no closing `>`; write <lora:NAME:WEIGHT>, or \\< for the character";
        return Err(TagError { span: open..start + stop, why });
    }
    let (body, end) = (&rest[..stop], start + stop + 1);
    if body.split(':').next().is_none_or(|name| name.trim().is_empty()) {
        let why = "this tag names no LoRA; write <lora:NAME:WEIGHT>, e.g. <lora:ink:0.8>";
        return Err(TagError { span: open..end, why });
    }
    Ok((body, end))
}

/// Leaves one separator where a tag was: cuts that at the end of `before`, picks the better of both
/// sides, and says how many bytes of `after` are used up.
fn join(before: &mut String, after: &str) -> usize {
    let is_separator = |c: char| c == ',' || c.is_whitespace();
    let left = before.split_off(before.trim_end_matches(is_separator).len());
    let used = after.len() - after.trim_start_matches(is_separator).len();
    let right = &after[..used];
    if !before.is_empty() && used < after.len() {
        let rank = |s: &str| (s.contains(','), s.contains('\n'), s.len());
        before.push_str(if rank(right) > rank(&left) { right } else { &left });
    }
    used
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn text(prompt: &str) -> String {
        extract_tags(prompt).unwrap().text
    }

    #[test]
    fn tags_leave_clean_text() {
        for (prompt, rest) in [
            ("a cat, <lora:x:1>, on a hill", "a cat, on a hill"),
            ("a cat <lora:x:1> on a hill", "a cat on a hill"),
            ("a cat <lora:x:1>, on a hill", "a cat, on a hill"),
            ("a cat,<lora:x:1>, on a hill", "a cat, on a hill"),
            ("<lora:x:1>, a cat", "a cat"),
            ("a cat, <lora:x:1>", "a cat"),
            ("a cat, <lora:x:1> <lyco:y>", "a cat"),
            ("a, <lora:x:1>,<lyco:y>, b", "a, b"),
            ("a,\n<lora:x:1>\nb", "a,\nb"),
            ("a<lora:x>b", "ab"),
            ("(a cat <lora:x:1>:1.2)", "(a cat :1.2)"),
            ("<lora:x>", ""),
            (" a  cat ,, <LoRA:x> b  c ", " a  cat ,, b  c "),
            ("ü<lora:é:1>ß", "üß"),
        ] {
            assert_eq!(text(prompt), rest, "{prompt}");
        }
    }

    #[test]
    fn other_text_comes_back_byte_for_byte() {
        for prompt in ["", "a < b > c", "<lora>", "<loras:x:1>", "a \\<b, ,  c", "<:", "x<lora :y>"]
        {
            assert_eq!(text(prompt), prompt);
        }
        assert_eq!(text("a \\<lora:x:1>, b"), "a <lora:x:1>, b");
        assert_eq!(text("\\<lora:x> <lora:y>"), "<lora:x>");
    }

    #[test]
    fn tags_keep_body_and_place() {
        let prompt = "ü <lora:hub:a/b:0.5:blocks=1,0> <lyco:y>";
        let found = extract_tags(prompt).unwrap();
        let spans: Vec<&str> = found.tags.iter().map(|t| &prompt[t.span.clone()]).collect();
        assert_eq!(spans, ["<lora:hub:a/b:0.5:blocks=1,0>", "<lyco:y>"]);
        assert_eq!(found.tags[0].body, "hub:a/b:0.5:blocks=1,0");
    }

    #[test]
    fn broken_tags_are_pointed_at() {
        for (prompt, part) in [
            ("a <lora:x", "<lora:x"),
            ("a <lora:x\n> b", "<lora:x"),
            ("<lora:x, <lora:y>", "<lora:x, "),
            ("a <lora:> b", "<lora:>"),
            ("a <lyco: :1> b", "<lyco: :1>"),
        ] {
            let error = extract_tags(prompt).unwrap_err();
            assert_eq!(&prompt[error.span], part, "{prompt}");
            assert!(error.why.contains("<lora:NAME"));
        }
    }

    #[test]
    fn carets_stand_under_the_span() {
        assert_eq!(underlined("x\nü <lora:>\ny", &(5..12)), "ü <lora:>\n  ^^^^^^^");
        assert_eq!(underlined("", &(0..0)), "\n^");
        let long = format!("{}<lora:x", "a".repeat(500));
        let shown = underlined(&long, &(500..507));
        assert_eq!(shown, format!("{}<lora:x\n{}^^^^^^^", "a".repeat(40), " ".repeat(40)));
    }

    proptest! {
        #[test]
        fn any_text_is_read(prompt in "(?s)[<>lora:yc\\\\, \n.é]{0,40}|.*") {
            match extract_tags(&prompt) {
                Ok(found) => {
                    for tag in &found.tags {
                        prop_assert!(prompt[tag.span.clone()].contains(&tag.body));
                    }
                    if !prompt.contains('<') {
                        prop_assert_eq!(found.text, prompt);
                    }
                }
                Err(error) => prop_assert!(underlined(&prompt, &error.span).contains('^')),
            }
        }
    }
}
