//! Prompts of several parts, as A1111 writes them: `a cat AND a dog:0.5`. Each part makes an estimate of its own, and they
//! are added by their weights.

use super::numbers::{digit, is_space, number, words};

/// The word between parts.
const AND: &str = "AND";

/// A part of a prompt.
#[derive(Debug, Clone, PartialEq)]
pub struct Part {
    /// Its text, without the weight.
    pub text: String,
    /// How much its estimate counts; 1 where none is written.
    pub weight: f64,
}

/// The parts of a prompt, at least one: the text between the words `AND`, each with the number behind its last colon.
///
/// A number behind a colon is a weight without `AND`, too: that is A1111's rule. See
/// [`PromptSyntax::parts`](super::PromptSyntax::parts) for what colora draws.
///
/// # Examples
/// ```
/// use colora::prompt::parts::split;
/// let parts: Vec<(String, f64)> =
///     split("a cat AND a dog:0.5").into_iter().map(|part| (part.text, part.weight)).collect();
/// assert_eq!(parts, [("a cat".to_owned(), 1.0), (" a dog".to_owned(), 0.5)]);
/// ```
pub fn split(prompt: &str) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut from = 0;
    for at in words(prompt, AND) {
        parts.push(part(&prompt[from..at]));
        from = at + AND.len();
    }
    parts.push(part(&prompt[from..]));
    parts
}

/// Whether the word `AND` divides the prompt.
pub(super) fn is_divided(prompt: &str) -> bool {
    words(prompt, AND).next().is_some()
}

/// Whether the number behind the last colon of a prompt without `AND` is meant as a weight: it has a fraction. A whole
/// number is a time, a ratio or a verse.
pub(super) fn has_weight(prompt: &str) -> bool {
    let end = prompt.trim_end_matches(is_space);
    weight(end).is_some_and(|_| end.rsplit(':').next().is_some_and(|number| number.contains('.')))
}

fn part(text: &str) -> Part {
    let text = text.trim_end_matches(is_space);
    match weight(text) {
        Some((text, weight)) => Part { text: text.to_owned(), weight },
        None => Part { text: text.to_owned(), weight: 1.0 },
    }
}

/// The text before a last colon that a number follows, and the number: `1`, `-0.5`, `.5` and `1.`, but not `1.5.`.
fn weight(text: &str) -> Option<(&str, f64)> {
    let (before, written) = text.rsplit_once(':')?;
    let written = written.trim_start_matches(is_space);
    let unsigned = written.strip_prefix(['+', '-']).unwrap_or(written);
    let (whole, fraction) = unsigned.split_once('.').unwrap_or((unsigned, ""));
    let digits = |text: &str| text.chars().all(|c| digit(c).is_some());
    let is_number = digits(whole) && digits(fraction) && !(whole.is_empty() && fraction.is_empty());
    let weight = Some(written).filter(|_| is_number).and_then(number)?;
    Some((before.trim_end_matches(is_space), weight))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(prompt: &str) -> Vec<(String, f64)> {
        split(prompt).into_iter().map(|part| (part.text, part.weight)).collect()
    }

    #[test]
    fn words_and_numbers_divide() {
        let one = |text: &str, weight: f64| (text.to_owned(), weight);
        assert_eq!(read("a AND"), [one("a", 1.0), one("", 1.0)]);
        assert_eq!(read("a::2"), [one("a:", 2.0)]);
        assert_eq!(read("x_AND_y aANDb"), [one("x_AND_y aANDb", 1.0)]);
        assert_eq!(read("(a AND b:1.2)"), [one("(a", 1.0), one(" b:1.2)", 1.0)]);
        assert_eq!(read("a : -.5 AND b:1. "), [one("a", -0.5), one(" b", 1.0)]);
        assert_eq!(read("a:1e2 AND b:"), [one("a:1e2", 1.0), one(" b:", 1.0)]);
        assert!(has_weight("a cat:1.5 ") && has_weight("x:.5") && has_weight("x:2."));
        assert!(!has_weight("ratio 16:9") && !has_weight("at 10:30") && !has_weight("a:1.2.3"));
    }

    proptest! {
        #[test]
        fn any_prompt_has_parts(prompt in "(?s)(AND| |:|[0-9.]|a|\u{3000}|-){0,20}|.*") {
            let parts = split(&prompt);
            prop_assert!(!parts.is_empty() && parts.iter().all(|part| part.weight.is_finite()));
            let divided: Vec<Part> = parts.iter().flat_map(|part| split(&part.text)).collect();
            prop_assert!(divided.len() == parts.len());
        }
    }
}
