//! Comments in prompts, as A1111 has them since 1.8: `# …` to the end of a line.

use super::numbers::is_space;
use std::borrow::Cow;

/// `text` without its comments. A line that begins with `#` goes with its line break; within a line a comment begins with `#`
/// between white space, so that `#ff8800` and `No. #5` stay, which A1111 itself would drop.
pub fn without_comments(text: &str) -> Cow<'_, str> {
    if !text.contains('#') {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    for line in text.split_inclusive('\n') {
        if line.trim_start_matches(is_space).starts_with('#') {
            continue;
        }
        match comment(line) {
            Some(at) => {
                out.push_str(&line[..at]);
                out.push_str(if line.ends_with('\n') { "\n" } else { "" });
            }
            None => out.push_str(line),
        }
    }
    Cow::Owned(out)
}

/// Whether there are comments in `text`.
pub(super) fn has_comments(text: &str) -> bool {
    matches!(without_comments(text), Cow::Owned(rest) if rest != text)
}

/// Where a comment within a line begins.
fn comment(line: &str) -> Option<usize> {
    let begins = |at: &usize| {
        let before = line[..*at].chars().next_back();
        let after = line[at + 1..].chars().next();
        before.is_some_and(is_space) && after.is_none_or(is_space)
    };
    line.match_indices('#').map(|(at, _)| at).find(begins)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_go() {
        for (text, rest) in [
            ("a # x\nb", "a \nb"),
            ("a\n# x\nb", "a\nb"),
            ("#masterpiece\nb", "b"),
            ("a\n  # x", "a\n"),
            ("a #ff8800 dress, No. #5, C#", "a #ff8800 dress, No. #5, C#"),
            ("a # ", "a "),
            ("#", ""),
            ("plain", "plain"),
        ] {
            assert_eq!(without_comments(text), rest, "{text}");
            assert_eq!(has_comments(text), text != rest);
        }
    }
}
