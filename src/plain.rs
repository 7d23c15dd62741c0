//! Words of files and users on a terminal: nothing that it obeys, nothing that hides or turns text.
//!
//! Floor 0.

use std::borrow::Cow;
use std::fmt::{Display, Formatter, Write};
use std::path::Path;

/// Whether `c` changes what is seen without being seen: controls (C0, C1), marks of direction, marks without
/// width, and the separators of lines and paragraphs.
pub(crate) fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2064}'
            | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

fn escape(text: &str, stays: fn(char) -> bool) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            c if stays(c) || !is_hidden(c) => out.push(c),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            // Writing to a text does not fail.
            c => drop(write!(out, "\\u{{{:x}}}", u32::from(c))),
        }
    }
    out
}

/// A value (a name, a path, a text of a file) on one line, with escapes for what is hidden.
pub(crate) fn value(text: &str) -> Cow<'_, str> {
    if text.contains(is_hidden) { Cow::Owned(escape(text, |_| false)) } else { Cow::Borrowed(text) }
}

/// JSON with escapes for what JSON allows and terminals obey or do not show; such can only stand in texts.
pub(crate) fn json(text: &str) -> String {
    let escaped = |c: char| match c {
        // The controls below are white space between the parts of JSON.
        c if c >= '\u{7f}' && is_hidden(c) => format!("\\u{:04x}", u32::from(c)),
        c => c.to_string(),
    };
    text.chars().map(escaped).collect()
}

/// The path as a [`value`].
pub(crate) fn path(path: &Path) -> Shown<'_> {
    Shown(path)
}

/// A path that is printed as a [`value`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shown<'a>(&'a Path);

impl Display for Shown<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.write_str(&value(&self.0.to_string_lossy()))
    }
}

/// A message that may have several lines: those after the first are indented, so that none of them passes
/// for a message of its own.
#[cfg(any(feature = "cli", test))]
pub(crate) fn message(text: &str) -> String {
    block(text).replace('\n', "\n  ")
}

/// A text of several lines of ours; line breaks stay.
#[cfg(any(feature = "cli", test))]
pub(crate) fn block(text: &str) -> String {
    escape(&text.replace("\r\n", "\n"), |c| c == '\n')
}

/// A number of bytes as people read it: `1.5 GB`.
pub(crate) fn bytes(count: u64) -> String {
    let mut size = count as f64;
    for unit in ["B", "kB", "MB"] {
        if size < 999.5 {
            let digits = usize::from(unit != "B" && size < 9.95);
            return format!("{size:.digits$} {unit}");
        }
        size /= 1000.0;
    }
    format!("{size:.1} GB")
}

/// Bytes, such as those of a digest, in small hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    let digit = |half: u8| char::from_digit(half.into(), 16).unwrap_or_default();
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A line break in a tensor's name began a line `error:` of its own; marks of direction came through.
    #[test]
    fn values_stay_on_their_line() {
        let text = "a\nerror: b\r\t\u{1b}[31m\u{9b}\u{202e}\u{200b}\u{2028}\u{feff}\u{61c}é猫";
        let shown = r"a\nerror: b\r\t\u{1b}[31m\u{9b}\u{202e}\u{200b}\u{2028}\u{feff}\u{61c}é猫";
        assert_eq!(value(text), shown);
        assert!(matches!(value("plain é"), Cow::Borrowed(_)));
        assert_eq!(path(Path::new("a\nb")).to_string(), r"a\nb");
        assert_eq!(message("a\u{9b}\nerror: b"), "a\\u{9b}\n  error: b");
        assert_eq!(json("\"a\u{9b}é\\n\u{7f}\u{202e}\""), r#""a\u009bé\n\u007f\u202e""#);
        assert_eq!(block("a\r\nb\u{202e}"), "a\nb\\u{202e}");
    }

    #[test]
    fn sizes_for_people() {
        for (count, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1500, "1.5 kB"),
            (34_600_000, "35 MB"),
            (999_700_000, "1.0 GB"),
            (4_265_000_000, "4.3 GB"),
        ] {
            assert_eq!(bytes(count), text);
        }
    }
}
