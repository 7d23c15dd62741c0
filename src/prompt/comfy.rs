//! Emphasis as ComfyUI reads it: `(x)` multiplies by 1.1, `(x:1.2)` gives the weight 1.2 whatever is around it, `\(` is
//! the bracket. All else is text, `[x]` and `BREAK` too.

use super::numbers::{is_space, number};
use super::segment::{Segment, SyntaxError};
use std::ops::Range;

/// What brackets without a number multiply by.
const ROUND: f64 = 1.1;
/// Brackets that may stand in each other.
const DEEPEST: usize = 200;

/// The pieces of a prompt with their weights, in its order.
///
/// # Errors
/// [`SyntaxError`] for a weight that is not finite, and for more than 200 brackets in each other.
///
/// # Examples
/// ```
/// use colora::prompt::comfy;
/// let found = comfy::parse("a ((red:1.3) apple)").unwrap();
/// let found: Vec<_> = found.iter().map(|piece| (piece.text.as_str(), piece.weight)).collect();
/// assert_eq!(found, [("a ", 1.0), ("red", 1.3), (" apple", 1.1)]);
/// ```
pub fn parse(text: &str) -> Result<Vec<Segment>, SyntaxError> {
    let mut found = Vec::new();
    read(text, 0..text.len(), 1.0, 0, &mut found)?;
    Ok(found)
}

/// Reads the part `range` of `text`, which has this weight and stands in so many brackets.
fn read(
    text: &str,
    range: Range<usize>,
    weight: f64,
    depth: usize,
    found: &mut Vec<Segment>,
) -> Result<(), SyntaxError> {
    if depth > DEEPEST {
        let why = "more than 200 brackets stand in each other here";
        return Err(SyntaxError { span: range, why });
    }
    for piece in pieces(text, range) {
        let part = &text[piece.clone()];
        let closed = part.ends_with(')') && !part.ends_with("\\)");
        if part.len() < 2 || !part.starts_with('(') || !closed {
            found.push(Segment::new(unescaped(part), weight));
            continue;
        }
        let (mut inside, mut own) = (piece.start + 1..piece.end - 1, weight * ROUND);
        let written = text[inside.clone()].rfind(':').filter(|at| *at > 0);
        if let Some(at) = written.map(|at| inside.start + at) {
            match weight_of(&text[at + 1..inside.end]) {
                Some(number) if number.is_finite() => {
                    own = number;
                    inside.end = at;
                }
                Some(_) => {
                    let why = "this weight is no finite number; write for instance (red:1.2)";
                    return Err(SyntaxError { span: at + 1..inside.end, why });
                }
                None => {}
            }
        }
        read(text, inside, own, depth + 1, found)?;
    }
    Ok(())
}

/// The pieces at the outermost level of a part: text, and brackets with what stands in them.
fn pieces(text: &str, range: Range<usize>) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let (mut depth, mut from, mut escaped) = (0i64, range.start, false);
    for at in range.clone() {
        let byte = text.as_bytes()[at];
        let is_escaped = std::mem::take(&mut escaped);
        match byte {
            // `\(` and `\)` are protected, a backslash before anything else is a character.
            b'\\' => escaped = true,
            b'(' if !is_escaped => {
                if depth == 0 {
                    found.push(from..at);
                    from = at;
                }
                depth += 1;
            }
            b')' if !is_escaped => {
                depth -= 1;
                if depth == 0 {
                    found.push(from..at + 1);
                    from = at + 1;
                }
            }
            _ => {}
        }
    }
    found.push(from..range.end);
    found.retain(|piece| !piece.is_empty());
    found
}

/// The number that Python's `float` reads; infinite for all that is not finite.
fn weight_of(text: &str) -> Option<f64> {
    let text = text.trim_matches(is_space);
    let unsigned = text.trim_start_matches(['+', '-']).to_ascii_lowercase();
    if matches!(&*unsigned, "inf" | "infinity" | "nan") {
        return Some(f64::INFINITY);
    }
    // `1_0` is ten; a line at an end or beside another one is none.
    let digits = |c: Option<char>| c.is_some_and(|c| c.is_ascii_digit());
    let lines_fit = text.match_indices('_').all(|(at, _)| {
        digits(text[..at].chars().next_back()) && digits(text[at + 1..].chars().next())
    });
    let plain = text.replace('_', "");
    let numeric = plain.chars().any(|c| super::numbers::digit(c).is_some());
    if !lines_fit || !numeric {
        return None;
    }
    number(&plain).or_else(|| plain.parse::<f64>().ok())
}

fn unescaped(text: &str) -> String {
    text.replace("\\(", "(").replace("\\)", ")")
}

/// Whether `text` is read as itself.
pub(super) fn is_literal(text: &str) -> bool {
    text.is_empty()
        || matches!(parse(text).as_deref(), Ok([one]) if one.text == text && one.is_plain())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(text: &str) -> Vec<(String, f64)> {
        parse(text).unwrap().into_iter().map(|piece| (piece.text, piece.weight)).collect()
    }

    #[test]
    fn numbers_replace_the_weights_around_them() {
        let piece = |text: &str, weight: f64| (text.to_owned(), weight);
        assert_eq!(read("((a:1.2))"), [piece("a", 1.2)]);
        assert_eq!(read("(a (b:1.5):0.5)"), [piece("a ", 0.5), piece("b", 1.5)]);
        assert_eq!(
            read("(a:1e1)(b:1_0)(c: 2 )"),
            [piece("a", 10.0), piece("b", 10.0), piece("c", 2.0)]
        );
        assert_eq!(read("(a (b:1.2)"), [piece("a ", 1.2), piece("(b", 1.2)][..]);
    }

    #[test]
    fn weights_are_finite() {
        for (text, part) in [("(a:nan)", "nan"), ("x (a:-inf)", "-inf"), ("(a:1e999)", "1e999")] {
            assert_eq!(&text[parse(text).unwrap_err().span], part);
        }
        assert!(parse(&"(".repeat(300)).is_ok(), "they are never closed");
        assert!(parse(&format!("{}a{}", "(".repeat(300), ")".repeat(300))).is_err());
    }

    #[test]
    fn what_is_not_syntax_is_literal() {
        assert!(["", "[a]", "a BREAK b", "a\\b"].into_iter().all(is_literal));
        assert!(!["(a)", "\\(a", "(a:1)"].into_iter().any(is_literal));
    }

    proptest! {
        #[test]
        fn any_text_is_read(text in "(?s)[()\\\\:1.e_ aé-]{0,40}|.*") {
            let _ = parse(&text);
        }
    }
}
