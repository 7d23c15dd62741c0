//! Emphasis as A1111 reads it: `(x)`, `(x:1.2)`, `[x]`, `\(`, and `BREAK`.
//!
//! Round brackets multiply the weights of what stands in them by 1.1, or by the number that is written; square ones
//! divide them by 1.1. Brackets without a partner are text, and those that are never closed act to the end of the
//! prompt. Both kinds are independent of each other, so the result is a list and not a tree.

use super::numbers::{digit, is_space, number, words};
use super::segment::{BREAK, Segment, SyntaxError, is_same, merged};
use std::ops::Range;

/// What a round bracket without a number multiplies by.
const ROUND: f64 = 1.1;
/// What a square bracket multiplies by.
const SQUARE: f64 = 1.0 / 1.1;
/// Brackets of a kind that may be open at once.
const DEEPEST: usize = 200;

/// One token of the grammar.
enum Token<'a> {
    Escaped(&'a str),
    OpenRound,
    OpenSquare,
    /// `:1.2)`, with the number's text.
    Weight(&'a str),
    CloseRound,
    CloseSquare,
    Text(&'a str),
}

/// The pieces of a prompt with their weights. An empty prompt is one empty piece.
///
/// # Errors
/// [`SyntaxError`] for a weight that is no number, such as `(a:1.2.3)`, and for more than 200 open brackets. Everything
/// else has a meaning.
///
/// # Examples
/// ```
/// use colora::prompt::a1111;
/// let found = a1111::parse("a (red:1.3) [apple]").unwrap();
/// let found: Vec<_> = found.iter().map(|piece| (piece.text.as_str(), piece.weight)).collect();
/// assert_eq!(found, [("a ", 1.0), ("red", 1.3), (" ", 1.0), ("apple", 1.0 / 1.1)]);
/// ```
pub fn parse(text: &str) -> Result<Vec<Segment>, SyntaxError> {
    let mut found = Reader::default();
    let mut at = 0;
    while at < text.len() {
        let (token, length) = token(&text[at..]);
        found.take(&token, &text[at..at + length], at..at + length)?;
        at += length;
    }
    found
        .finish()
        .ok_or(SyntaxError { span: 0..text.len(), why: "a weight of this prompt is too large" })
}

/// A prompt that [`parse`] reads as these pieces.
pub fn render(segments: &[Segment]) -> String {
    let mut out = String::new();
    for segment in segments {
        if segment.is_break {
            // Its neighbours have the opposite weight, and so have the empty texts that this makes around it.
            out += &format!("({BREAK}:{})", -segment.weight);
        } else if segment.text.is_empty() {
            // The end of a chunk has brought the empty texts beside it.
            out += &format!("(\\:{})", segment.weight);
        } else if segment.is_plain() {
            out += &escape(&segment.text);
        } else {
            out += &format!("({}:{})", escape(&segment.text), segment.weight);
        }
    }
    out
}

/// `text` as it has to be written so that nothing of it is syntax.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if matches!(c, '\\' | '(' | ')' | '[' | ']') {
            out.push('\\');
        }
        out.push(c);
    }
    // A backslash before a letter is nothing.
    out.replace(BREAK, "B\\REAK")
}

/// The token at the beginning of `text`, which is not empty, and its length.
fn token(text: &str) -> (Token<'_>, usize) {
    let mut chars = text.chars();
    let first = chars.next().unwrap_or_default();
    match first {
        '\\' => match chars.next() {
            Some('(' | ')' | '[' | ']' | '\\') => (Token::Escaped(&text[1..2]), 2),
            _ => (Token::Escaped(""), 1),
        },
        '(' => (Token::OpenRound, 1),
        '[' => (Token::OpenSquare, 1),
        ')' => (Token::CloseRound, 1),
        ']' => (Token::CloseSquare, 1),
        ':' => match weight(text) {
            Some((number, length)) => (Token::Weight(number), length),
            None => (Token::Text(&text[..1]), 1),
        },
        _ => {
            let special = |c| matches!(c, '\\' | '(' | ')' | '[' | ']' | ':');
            let length = text.find(special).unwrap_or(text.len());
            (Token::Text(&text[..length]), length)
        }
    }
}

/// A colon, a number and a closing bracket at the beginning of `text`: the number's text, and the length of all.
fn weight(text: &str) -> Option<(&str, usize)> {
    let rest = text.strip_prefix(':')?.trim_start_matches(is_space);
    let signed = rest.strip_prefix(['+', '-']).unwrap_or(rest);
    let is_part = |c: char| c == '.' || digit(c).is_some();
    let behind = signed.trim_start_matches(is_part);
    if behind.len() == signed.len() {
        return None;
    }
    let end = behind.trim_start_matches(is_space).strip_prefix(')')?;
    Some((&rest[..rest.len() - behind.len()], text.len() - end.len()))
}

/// The pieces that were read, and the brackets that are open.
#[derive(Default)]
struct Reader {
    segments: Vec<Segment>,
    /// For each open bracket the number of the piece that stands behind it.
    round: Vec<usize>,
    square: Vec<usize>,
}

impl Reader {
    /// Takes in `token`, which is written `source` at `span`.
    fn take(
        &mut self,
        token: &Token<'_>,
        source: &str,
        span: Range<usize>,
    ) -> Result<(), SyntaxError> {
        let here = self.segments.len();
        match token {
            Token::Escaped(character) => self.segments.push(Segment::new(*character, 1.0)),
            Token::OpenRound | Token::OpenSquare
                if self.round.len().max(self.square.len()) >= DEEPEST =>
            {
                let why = "more than 200 brackets are open here; write \\( for the character";
                return Err(SyntaxError { span, why });
            }
            Token::OpenRound => self.round.push(here),
            Token::OpenSquare => self.square.push(here),
            Token::Weight(written) => match self.round.pop() {
                Some(from) => {
                    let why = "this weight is no number; write for instance (red:1.2), or \\( for the bracket";
                    let weight = number(written).ok_or(SyntaxError { span, why })?;
                    self.multiply(from, weight);
                }
                None => self.text(source),
            },
            Token::CloseRound => match self.round.pop() {
                Some(from) => self.multiply(from, ROUND),
                None => self.text(source),
            },
            Token::CloseSquare => match self.square.pop() {
                Some(from) => self.multiply(from, SQUARE),
                None => self.text(source),
            },
            Token::Text(text) => self.text(text),
        }
        Ok(())
    }

    /// Multiplies the weights of all pieces from number `from` on.
    fn multiply(&mut self, from: usize, by: f64) {
        self.segments[from..].iter_mut().for_each(|segment| segment.weight *= by);
    }

    /// Adds text, which `BREAK` divides.
    fn text(&mut self, text: &str) {
        let mut from = 0;
        for at in words(text, BREAK) {
            // `from` passes this place where the white space behind the one before reaches up to it, never beyond.
            let before = text.get(from..at).unwrap_or_default().trim_end_matches(is_space);
            self.segments.push(Segment::new(before, 1.0));
            self.segments.push(Segment::end_of_chunk());
            let rest = &text[at + BREAK.len()..];
            from = text.len() - rest.trim_start_matches(is_space).len();
        }
        self.segments.push(Segment::new(&text[from..], 1.0));
    }

    /// All pieces; nothing where a weight is not finite.
    fn finish(mut self) -> Option<Vec<Segment>> {
        for from in std::mem::take(&mut self.round) {
            self.multiply(from, ROUND);
        }
        for from in std::mem::take(&mut self.square) {
            self.multiply(from, SQUARE);
        }
        if self.segments.is_empty() {
            self.segments.push(Segment::new("", 1.0));
        }
        let finite = self.segments.iter().all(|segment| segment.weight.is_finite());
        finite.then(|| merged(self.segments))
    }
}

/// Whether `text` is read as itself: nothing of it is syntax.
pub(super) fn is_literal(text: &str) -> bool {
    matches!(parse(text).as_deref(), Ok([one]) if one.text == text && is_same(one.weight, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(text: &str) -> Vec<(String, f64)> {
        parse(text).unwrap().into_iter().map(|piece| (piece.text, piece.weight)).collect()
    }

    #[test]
    fn what_is_no_number_is_pointed_at() {
        for (text, part) in [("a (b:1.2.3) c", ":1.2.3)"), ("(a: . )", ": . )")] {
            let error = parse(text).unwrap_err();
            assert_eq!(&text[error.span], part);
        }
        assert_eq!(parse(&"(a".repeat(200)).unwrap().len(), 200);
        assert_eq!(parse(&"[a".repeat(201)).unwrap_err().span, 400..401);
        let large = format!("((a:{0}):{0})", "9".repeat(300));
        assert!(parse(&large).unwrap_err().why.contains("too large"));
        // Without a bracket to close it is text.
        assert_eq!(read("a:1.2.3)"), [("a:1.2.3)".to_owned(), 1.0)]);
    }

    #[test]
    fn a_break_in_brackets_is_seen() {
        let found = parse("(a BREAK b:1.2)").unwrap();
        assert_eq!(
            found.iter().map(|piece| piece.is_break).collect::<Vec<_>>(),
            [false, true, false]
        );
        assert!(!found[1].is_exact_break());
        assert!(parse("a BREAK b").unwrap()[1].is_exact_break());
    }

    #[test]
    fn text_without_syntax_is_literal() {
        for text in
            ["", "a red apple, 4k", "a :) b", "x: 1.5", "at 10:30", "<3 {a|b} __x__", "a] b)"]
        {
            assert!(is_literal(text), "{text}");
        }
        for text in ["(a)", "[a]", "a\\b", "a BREAK b", "(a", "(a:1)", "(x:1.2.3)"] {
            assert!(!is_literal(text), "{text}");
        }
    }

    #[test]
    fn escaped_text_comes_back() {
        for text in ["(1990)", "a\\b", "[x]", "BREAK", "a BREAK b", "x:1.2)", "\\(", "\\"] {
            assert_eq!(read(&escape(text)), [(text.to_owned(), 1.0)], "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_rendered_is_read_again(
            text in "([()\\[\\]\\\\:a .1\u{3000}-]|BREAK|:1\\.2\\)|:0\\)|:-1\\)| |é){0,24}"
        ) {
            if let Ok(segments) = parse(&text) {
                let again = parse(&render(&segments)).unwrap();
                prop_assert_eq!(again, segments, "{}", text);
            }
        }

        #[test]
        fn any_text_is_read(text in "(?s).*") {
            let _ = parse(&text);
        }

        #[test]
        fn escaping_leaves_no_syntax(text in "(?s)[()\\[\\]\\\\:a. BREAK]{0,24}|.*") {
            let found = read(&escape(&text));
            prop_assert_eq!(found, [(text, 1.0)]);
        }
    }
}
