//! The values of an axis as people write them: lists with quotes, ranges of numbers, lines of a file.

use crate::batch::range::{fitting, spaced};
use crate::error::{Error, Result};
use crate::input;
use std::path::Path;

/// Most values of an axis.
pub(super) const MOST: usize = 10_000;
/// Most bytes of a file of values.
const LIMIT: u64 = 64 << 20;

/// A value as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Written {
    /// The text, without its quotes.
    pub(super) text: String,
    /// Whether it stood in quotes: then it stands for itself.
    pub(super) quoted: bool,
}

impl Written {
    fn plain(text: impl Into<String>) -> Self {
        Self { text: text.into(), quoted: false }
    }

    /// Whether it stands for nothing: an empty value, or the word `none`.
    pub(super) fn is_nothing(&self) -> bool {
        self.text.is_empty() || !self.quoted && self.text.eq_ignore_ascii_case("none")
    }
}

/// Reads a list of values; `numbers`: whether ranges stand for the numbers in them.
///
/// # Errors
/// [`Error::BadRequest`] for quotes that do not close and ranges that hold no number; what reading a file gives.
pub(super) fn read(text: &str, numbers: bool) -> Result<Vec<Written>> {
    if let Some(path) = text.strip_prefix('@') {
        return lines(Path::new(path));
    }
    let mut values = Vec::new();
    for value in list(text)? {
        let range = if numbers && !value.quoted { Range::of(&value.text)? } else { None };
        match range {
            Some(range) => values.extend(range.numbers()?.into_iter().map(Written::plain)),
            None => values.push(value),
        }
        if values.len() > MOST {
            return Err(too_many(values.len()));
        }
    }
    Ok(values)
}

fn too_many(asked: usize) -> Error {
    Error::Limit { what: "values of an axis", allowed: MOST as u64, asked: asked as u64 }
}

/// The lines of a file, each a value; empty lines and those that begin with `#` are left out.
fn lines(path: &Path) -> Result<Vec<Written>> {
    let text = input::decode(input::bytes(path, LIMIT, "a file of values")?, path)?;
    let lines = text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#'));
    let values: Vec<Written> =
        lines.map(|line| Written { text: line.to_owned(), quoted: true }).collect();
    match values.len() {
        0 => Err(Error::corrupt(path, "there is no value in it: expected one a line")),
        count if count > MOST => Err(too_many(count)),
        _ => Ok(values),
    }
}

/// The values between commas. Quotes keep commas and spaces; two of them in quotes are one.
fn list(text: &str) -> Result<Vec<Written>> {
    let mut values = Vec::new();
    let mut rest = text;
    loop {
        let begin = rest.trim_start();
        let (value, after) = if let Some(inner) = begin.strip_prefix('"') {
            let open = || Error::bad_request("values", text, "a quote `\"` is not closed");
            quoted(inner).ok_or_else(open)?
        } else {
            let end = begin.find(',').unwrap_or(begin.len());
            (Written::plain(begin[..end].trim_end()), &begin[end..])
        };
        let after = after.trim_start();
        values.push(value);
        match after.strip_prefix(',') {
            Some(more) => rest = more,
            None if after.is_empty() => return Ok(values),
            None => {
                let why = "expected a comma behind a closing quote";
                return Err(Error::bad_request("values", after, why));
            }
        }
    }
}

/// The value up to the closing quote, and what follows.
fn quoted(inner: &str) -> Option<(Written, &str)> {
    let mut text = String::new();
    let mut rest = inner;
    loop {
        let end = rest.find('"')?;
        text.push_str(&rest[..end]);
        rest = &rest[end + 1..];
        match rest.strip_prefix('"') {
            Some(more) => {
                text.push('"');
                rest = more;
            }
            None => return Some((Written { text, quoted: true }, rest)),
        }
    }
}

/// How the numbers of a range follow each other.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Spacing {
    /// At the usual distance, towards the end.
    One,
    /// At this distance.
    Step(f64),
    /// At equal distances, so many of them, both ends included.
    Count(usize),
}

/// Numbers from one to another.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Range {
    from: f64,
    to: f64,
    spacing: Spacing,
}

impl Range {
    /// The range that a text stands for: `A..B`, `A..B:STEP`, `A..B/COUNT`, or as AUTOMATIC1111 writes it: `A-B`,
    /// `A-B (+STEP)`, `A-B [COUNT]`.
    fn of(text: &str) -> Result<Option<Self>> {
        if text.contains("..") { Self::ours(text).map(Some) } else { Self::theirs(text) }
    }

    fn ours(text: &str) -> Result<Self> {
        let why = "expected FROM..TO, FROM..TO:STEP or FROM..TO/HOW_MANY, such as 0..1:0.25";
        let wrong = || Error::bad_request("values", text, why);
        let (from, rest) = text.split_once("..").ok_or_else(wrong)?;
        let (to, spacing) = if let Some((to, step)) = rest.split_once(':') {
            (to, Spacing::Step(number(step).ok_or_else(wrong)?))
        } else if let Some((to, count)) = rest.split_once('/') {
            (to, Spacing::Count(count.trim().parse().map_err(|_| wrong())?))
        } else {
            (rest, Spacing::One)
        };
        let (from, to) = (number(from).ok_or_else(wrong)?, number(to).ok_or_else(wrong)?);
        Ok(Self { from, to, spacing })
    }

    fn theirs(text: &str) -> Result<Option<Self>> {
        let why = "expected FROM-TO, FROM-TO (+STEP) or FROM-TO [HOW_MANY]";
        let wrong = || Error::bad_request("values", text, why);
        let bracketed = |open: char, close: char| {
            let (ends, inner) = text.trim().strip_suffix(close)?.split_once(open)?;
            Some((ends.trim(), inner.trim()))
        };
        let (ends, spacing) = if let Some((ends, step)) = bracketed('(', ')') {
            (ends, Spacing::Step(number(step.trim_start_matches('+')).ok_or_else(wrong)?))
        } else if let Some((ends, count)) = bracketed('[', ']') {
            (ends, Spacing::Count(count.parse().map_err(|_| wrong())?))
        } else {
            (text.trim(), Spacing::One)
        };
        // The first dash may be a sign.
        let dashes = ends.match_indices('-').filter(|(at, _)| *at > 0);
        let split = dashes.map(|(at, _)| (number(&ends[..at]), number(&ends[at + 1..])));
        let found = split.into_iter().find_map(|(from, to)| from.zip(to));
        match found {
            Some((from, to)) => Ok(Some(Self { from, to, spacing })),
            None if spacing == Spacing::One => Ok(None),
            None => Err(wrong()),
        }
    }

    /// The numbers, as short texts. None lies beyond the end.
    fn numbers(self) -> Result<Vec<String>> {
        let Self { from, to, spacing } = self;
        let wrong = |value: String, why: &str| Error::bad_request("values", value, why);
        let usual = if to < from { -1.0 } else { 1.0 };
        let (step, count) = match spacing {
            Spacing::Count(0) => {
                return Err(wrong("0".into(), "a range of no numbers is no value"));
            }
            Spacing::Count(1) => (0.0, 1),
            Spacing::Count(count) => ((to - from) / (count - 1) as f64, count),
            Spacing::Step(_) | Spacing::One => {
                let step = if let Spacing::Step(step) = spacing { step } else { usual };
                let none = || {
                    let why = format!("from {from} to {to} no such step leads to the end");
                    wrong(step.to_string(), &why)
                };
                (step, fitting(from, to, step).ok_or_else(none)?)
            }
        };
        if count > MOST {
            return Err(too_many(count));
        }
        Ok(spaced(from, step, count).map(|x| x.to_string()).collect())
    }
}

/// A finite number.
fn number(text: &str) -> Option<f64> {
    text.trim().parse::<f64>().ok().filter(|x| x.is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::range::NEAR;
    use proptest::prelude::*;

    fn texts(text: &str) -> Vec<String> {
        read(text, true).unwrap().into_iter().map(|value| value.text).collect()
    }

    #[test]
    fn lists_keep_what_stands_in_quotes() {
        assert_eq!(texts("a, b ,c"), ["a", "b", "c"]);
        assert_eq!(texts(r#""a, b",c"#), ["a, b", "c"]);
        assert_eq!(texts(r#""say ""hi""", "" ,x"#), ["say \"hi\"", "", "x"]);
        assert_eq!(texts("a,"), ["a", ""]);
        assert_eq!(texts(""), [""]);
        assert!(read("\"none\"", true).unwrap().iter().all(|value| !value.is_nothing()));
        assert!(read("none,,\"\"", true).unwrap().iter().all(Written::is_nothing));
        for bad in [r#""a"#, r#""a"b"#] {
            assert!(read(bad, true).is_err(), "{bad}");
        }
    }

    #[test]
    fn ranges_end_at_or_before_their_end_and_print_short() {
        for (text, expected) in [
            ("0..1:0.25", "0 0.25 0.5 0.75 1"),
            ("0..1:0.3", "0 0.3 0.6 0.9"),
            ("0..1/5", "0 0.25 0.5 0.75 1"),
            ("1..4", "1 2 3 4"),
            ("3..1", "3 2 1"),
            ("1..0:-0.5", "1 0.5 0"),
            ("-1..1:0.5", "-1 -0.5 0 0.5 1"),
            ("7..9/1", "7"),
            // As AUTOMATIC1111 writes them; there the second goes on to 1.2.
            ("1-5", "1 2 3 4 5"),
            ("0-1 (+0.3)", "0 0.3 0.6 0.9"),
            ("1-9 (+2)", "1 3 5 7 9"),
            ("10-1 (-3)", "10 7 4 1"),
            ("1-10 [5]", "1 3.25 5.5 7.75 10"),
            ("-2--1", "-2 -1"),
            ("1, 2-3, 0.5..1:0.5", "1 2 3 0.5 1"),
            ("-3", "-3"),
            ("1e-3", "1e-3"),
            ("512x512", "512x512"),
        ] {
            assert_eq!(texts(text).join(" "), expected, "{text}");
        }
        for bad in ["0..1:0", "0..1:-1", "a..b", "0..1/0", "0..1e9:0.001", "1-2 (x)", "1..2:nan"] {
            assert!(read(bad, true).is_err(), "{bad}");
        }
        assert_eq!(read("0..1", false).unwrap()[0].text, "0..1", "windows are no ranges");
        assert_eq!(read("\"1-5\"", true).unwrap()[0].text, "1-5");
    }

    #[test]
    fn files_hold_a_value_a_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("prompts.txt");
        std::fs::write(&path, "# mine\na fox, red\r\n\n  none \n").unwrap();
        let values = read(&format!("@{}", path.display()), false).unwrap();
        let texts: Vec<&str> = values.iter().map(|value| value.text.as_str()).collect();
        assert_eq!(texts, ["a fox, red", "none"]);
        std::fs::write(&path, "#\n").unwrap();
        assert!(read(&format!("@{}", path.display()), false).is_err());
        assert!(read("@/nowhere/at all", false).is_err());
    }

    proptest! {
        #[test]
        fn no_text_panics_and_ranges_stay_inside(
            text in "[-0-9a-z.,:/()\\[\\]+\" ]{0,24}",
            from in -50.0..50.0f64,
            to in -50.0..50.0f64,
            step in 0.01..9.0f64,
        ) {
            let _ = read(&text, true);
            let step = if to < from { -step } else { step };
            let range = Range { from, to, spacing: Spacing::Step(step) };
            let numbers = range.numbers().unwrap();
            let (low, high) = (from.min(to) - step.abs() * NEAR - 1e-9, from.max(to) + step.abs() * NEAR + 1e-9);
            for number in numbers {
                let number: f64 = number.parse().unwrap();
                prop_assert!((low..=high).contains(&number), "{number}");
            }
        }
    }
}
