//! Numbers and characters of prompts as Python reads them, in which the other programs are written.

/// The zeros of every script's decimal digits (Unicode category Nd); nine more digits follow each.
const ZEROS: [u32; 66] = [
    0x30, 0x660, 0x6f0, 0x7c0, 0x966, 0x9e6, 0xa66, 0xae6, 0xb66, 0xbe6, 0xc66, 0xce6, 0xd66,
    0xde6, 0xe50, 0xed0, 0xf20, 0x1040, 0x1090, 0x17e0, 0x1810, 0x1946, 0x19d0, 0x1a80, 0x1a90,
    0x1b50, 0x1bb0, 0x1c40, 0x1c50, 0xa620, 0xa8d0, 0xa900, 0xa9d0, 0xa9f0, 0xaa50, 0xabf0, 0xff10,
    0x104a0, 0x10d30, 0x11066, 0x110f0, 0x11136, 0x111d0, 0x112f0, 0x11450, 0x114d0, 0x11650,
    0x116c0, 0x11730, 0x118e0, 0x11950, 0x11c50, 0x11d50, 0x11da0, 0x16a60, 0x16ac0, 0x16b50,
    0x1d7ce, 0x1d7d8, 0x1d7e2, 0x1d7ec, 0x1d7f6, 0x1e140, 0x1e2f0, 0x1e950, 0x1fbf0,
];

/// The value of a decimal digit of any script.
pub(super) fn digit(c: char) -> Option<char> {
    if c.is_ascii() {
        return c.is_ascii_digit().then_some(c);
    }
    let code = c as u32;
    let after = ZEROS.partition_point(|zero| *zero <= code);
    let value = code - ZEROS.get(after.checked_sub(1)?)?;
    if value > 9 { None } else { char::from_digit(value, 10) }
}

/// White space, as Python's `\s` has it.
pub(super) fn is_space(c: char) -> bool {
    c.is_whitespace() || matches!(c, '\u{1c}'..='\u{1f}')
}

/// A character of a word, as Python's `\w` has it.
pub(super) fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The number that `text` is, in the digits of any script; infinities are none.
pub(super) fn number(text: &str) -> Option<f64> {
    let ascii: String = text.chars().map(|c| digit(c).unwrap_or(c)).collect();
    ascii.parse::<f64>().ok().filter(|number| number.is_finite())
}

/// Where the word `word` stands in `text`, by itself and in these letters: byte ranges in their order.
pub(super) fn words<'a>(text: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    text.match_indices(word).map(|(at, _)| at).filter(move |at| {
        let before = text[..*at].chars().next_back();
        let after = text[at + word.len()..].chars().next();
        !before.is_some_and(is_word) && !after.is_some_and(is_word)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_of_every_script() {
        assert_eq!(number("１.５"), Some(1.5));
        assert_eq!(number("-٣"), Some(-3.0));
        assert_eq!((number("."), number("1.2.3"), number("²")), (None, None, None));
        assert_eq!(number(&"9".repeat(400)), None);
        assert_eq!(
            (digit('a'), digit('/'), digit(':'), digit('９')),
            (None, None, None, Some('9'))
        );
    }

    #[test]
    fn words_stand_alone() {
        let found = |text| words(text, "BREAK").collect::<Vec<_>>();
        assert_eq!(found("a-BREAK-b BREAKING BREAK_b éBREAK BREAK"), [2, 35]);
    }
}
