//! The words of a line of switches, as a shell would split them.

/// A quotation mark that nothing closes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Unclosed(pub(super) char);

/// Splits a line into words: white space parts them, quotes and backslashes keep it.
///
/// An apostrophe between letters is a letter: `--prompt the cat's hat`.
///
/// # Errors
/// [`Unclosed`] for a quotation mark that nothing closes.
pub(super) fn split(line: &str) -> Result<Vec<String>, Unclosed> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote: Option<char> = None;
    let mut before = ' ';
    let mut letters = line.chars().peekable();
    while let Some(c) = letters.next() {
        match (quote, c) {
            (Some(mark), c) if c == mark => quote = None,
            // Inside double quotes only these lose their meaning; inside single quotes nothing does.
            (Some('"'), '\\') if matches!(letters.peek(), Some('"' | '\\')) => {
                word.get_or_insert_default().extend(letters.next());
            }
            (None, '\\') => word.get_or_insert_default().extend(letters.next()),
            (None, '\'') if before.is_alphanumeric() && is_letter(letters.peek()) => {
                word.get_or_insert_default().push(c);
            }
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (_, c) => word.get_or_insert_default().push(c),
        }
        before = c;
    }
    if let Some(mark) = quote {
        Err(Unclosed(mark))
    } else {
        words.extend(word);
        Ok(words)
    }
}

fn is_letter(next: Option<&char>) -> bool {
    next.is_some_and(|c| c.is_alphabetic())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_split_as_a_shell_does() {
        for (line, words) in [
            ("--steps 20  --x", vec!["--steps", "20", "--x"]),
            ("--prompt \"a red  fox\" b", vec!["--prompt", "a red  fox", "b"]),
            ("'a \"b\"' \"\"", vec!["a \"b\"", ""]),
            ("the cat's hat, it's", vec!["the", "cat's", "hat,", "it's"]),
            ("a\\ b \"c\\\"d\"", vec!["a b", "c\"d"]),
            ("", vec![]),
        ] {
            assert_eq!(split(line).unwrap(), words, "{line}");
        }
        assert_eq!(split("a 'b"), Err(Unclosed('\'')));
        assert_eq!(split("a \"b"), Err(Unclosed('"')));
    }
}
