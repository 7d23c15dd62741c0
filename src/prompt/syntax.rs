//! Syntax of other programs' prompts that is drawn as it is written.
//!
//! Conjunctions, alternatives, embeddings: what a prompt that was written for another program means by
//! them is not what it means here, which deserves a word. Emphasis and edits are among them where the prompt's own
//! syntax has none.

use super::dialect::PromptSyntax;
use std::ops::Range;

/// Brackets and their ends.
const PAIRS: [(u8, u8); 3] = [(b'(', b')'), (b'[', b']'), (b'{', b'}')];
/// Most parts that are named; whoever has more has read the first.
const MOST: usize = 64;
/// How a textual inversion is called in ComfyUI.
const EMBEDDING: &str = "embedding:";

/// The parts of a prompt that other programs read as syntax and that are drawn here as they are written, each
/// once, in their order: `(red:1.3)`, `((red))`, `[red]`, `[a:b:0.5]`, `{a|b}`, `BREAK`, `AND`, `__name__`,
/// `word++`, `red:1.3`, `embedding:NAME`, `<hypernet:NAME:1>`.
///
/// What `syntax` has itself is not named.
///
/// `tags`: where `<lora:…>` tags stand that are followed; in a negative prompt, which has none, they are parts
/// like the others. Escaped characters (`\(`) and brackets without letters (`(1990)`) are ordinary text.
///
/// # Examples
/// ```
/// use colora::prompt::{PromptSyntax, foreign_syntax};
/// let text = "a (red:1.3) apple BREAK {x|y}";
/// assert_eq!(foreign_syntax(text, &[], PromptSyntax::Plain), ["(red:1.3)", "BREAK", "{x|y}"]);
/// assert_eq!(foreign_syntax(text, &[], PromptSyntax::A1111), ["{x|y}"]);
/// assert!(foreign_syntax(r"an apple (1990), \(red\), at 10:30", &[], PromptSyntax::Plain).is_empty());
/// ```
pub fn foreign_syntax<'a>(
    text: &'a str,
    tags: &[Range<usize>],
    syntax: PromptSyntax,
) -> Vec<&'a str> {
    let ends = ends(text.as_bytes());
    let mut found: Vec<&str> = Vec::new();
    let mut tags = tags.iter().peekable();
    let mut at = 0;
    while let Some(c) = text.get(at..).and_then(|rest| rest.chars().next()) {
        while tags.next_if(|tag| tag.end <= at).is_some() {}
        if let Some(tag) = tags.peek().filter(|tag| tag.contains(&at)) {
            at = tag.end;
            continue;
        }
        if c == '\\' {
            let escaped = text[at + 1..].chars().next();
            at += 1 + escaped.map_or(0, char::len_utf8);
            continue;
        }
        let length = match ends[at] {
            _ if is_own(c, syntax) => 0,
            end if end > at && !means(&text[at + 1..end]) => {
                at = end + 1;
                continue;
            }
            end if end > at => end + 1 - at,
            _ => angle(&text[at..]).unwrap_or_else(|| word(text, at, syntax)),
        };
        let part = &text[at..at + length];
        at += length.max(c.len_utf8());
        if length > 0 && !found.contains(&part) {
            found.push(part);
            if found.len() == MOST {
                break;
            }
        }
    }
    found
}

/// Whether the bracket `c` is read by `syntax` itself.
fn is_own(c: char, syntax: PromptSyntax) -> bool {
    matches!((syntax, c), (PromptSyntax::A1111, '(' | '[') | (PromptSyntax::Comfy, '('))
}

/// For each opening bracket that is not escaped the place of its closing one, 0 for all else.
fn ends(text: &[u8]) -> Vec<usize> {
    let mut ends = vec![0; text.len()];
    let mut open: [Vec<usize>; 3] = Default::default();
    let mut escaped = false;
    for (at, byte) in text.iter().enumerate() {
        if std::mem::take(&mut escaped) {
            continue;
        }
        escaped = *byte == b'\\';
        for ((opens, closes), open) in PAIRS.iter().zip(&mut open) {
            if byte == opens {
                open.push(at);
            } else if byte == closes
                && let Some(start) = open.pop()
            {
                ends[start] = at;
            }
        }
    }
    ends
}

/// Whether brackets around this text mean something elsewhere.
fn means(inside: &str) -> bool {
    // `(1990)`, `(1980s)`: a year is no emphasis.
    inside.trim_end_matches('s').contains(char::is_alphabetic) || inside.contains('|')
}

/// The length of a tag `<word:…>` at the beginning of `text`.
fn angle(text: &str) -> Option<usize> {
    let rest = text.strip_prefix('<')?;
    let name = rest.find(|c| !is_part(c)).filter(|length| *length > 0)?;
    let arguments = rest[name..].strip_prefix(':')?;
    let end = arguments.find(['>', '<', '\n']).filter(|end| arguments[*end..].starts_with('>'))?;
    Some(1 + name + 1 + end + 1)
}

/// The length of a word at `at` that means something elsewhere; 0 within a word and for others.
fn word(text: &str, at: usize, syntax: PromptSyntax) -> usize {
    let before = text[..at].chars().next_back();
    if before.is_some_and(is_part) {
        return 0;
    }
    let rest = &text[at..];
    let length = rest.find(|c| !is_part(c)).unwrap_or(rest.len());
    let (word, behind) = rest.split_at(length);
    let own = syntax == PromptSyntax::A1111;
    if matches!(word, "BREAK" | "AND") && !own {
        return length;
    }
    if let Some(name) = rest.strip_prefix(EMBEDDING) {
        let name = name.find(|c: char| c.is_whitespace() || c == ',').unwrap_or(name.len());
        return if name > 0 { EMBEDDING.len() + name } else { 0 };
    }
    if let Some(name) = rest.strip_prefix("__") {
        let fits = |c: char| is_part(c) || matches!(c, '/' | '-' | '*' | '.');
        let run = name.find(|c| !fits(c)).unwrap_or(name.len());
        return name[..run].find("__").filter(|end| *end > 0).map_or(0, |end| end + 4);
    }
    // `C++` is a language, `word++` is emphasis.
    let letters = word.chars().filter(|c| c.is_alphabetic()).count();
    let weight = if letters > 1 { signs(behind).or_else(|| number(behind)) } else { None };
    // At the end of a prompt or of a part A1111 has a weight there.
    let weight = weight.filter(|weight| {
        let rest = behind[*weight..].trim_start();
        !(own && behind.starts_with(':') && (rest.is_empty() || rest.starts_with("AND")))
    });
    weight.map_or(0, |weight| length + weight)
}

fn is_part(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The length of two or more `+`, or `-`, that end a word.
fn signs(text: &str) -> Option<usize> {
    let sign = text.chars().next().filter(|c| matches!(c, '+' | '-'))?;
    let length = text.len() - text.trim_start_matches(sign).len();
    let ends = text[length..].chars().next().is_none_or(|c| c.is_whitespace() || c == ',');
    (length > 1 && ends).then_some(length)
}

/// The length of `:` and a number with a fraction that end a word: `:1.3`. A whole number is a time or a verse.
fn number(text: &str) -> Option<usize> {
    let number = text.strip_prefix(':')?;
    let length = number.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(number.len());
    let (digits, behind) = number.split_at(length);
    let fraction =
        digits.parse::<f64>().is_ok() && digits.split_once('.').is_some_and(|(_, f)| !f.is_empty());
    let ends = behind.chars().next().is_none_or(|c| c.is_whitespace() || c == ',');
    (fraction && ends).then_some(1 + length)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn found(text: &str) -> Vec<&str> {
        foreign_syntax(text, &[], PromptSyntax::Plain)
    }

    /// Only `(text:1.3)` was warned of.
    #[test]
    fn each_program_s_syntax_is_named() {
        for (text, parts) in [
            ("((red)) apple", &["((red))"][..]),
            ("(red) apple", &["(red)"]),
            ("a (red:1.3) apple", &["(red:1.3)"]),
            ("[red] apple", &["[red]"]),
            ("[red:green:0.5] apple", &["[red:green:0.5]"]),
            ("[red|green] apple", &["[red|green]"]),
            ("a red apple BREAK a green pear", &["BREAK"]),
            ("a red apple AND a green pear:0.5", &["AND", "pear:0.5"]),
            ("embedding:some a red apple", &["embedding:some"]),
            ("a red apple <hypernet:some:1>", &["<hypernet:some:1>"]),
            ("a red apple <lora:some:1>", &["<lora:some:1>"]),
            ("{red|green} apple", &["{red|green}"]),
            ("__colour__ apple", &["__colour__"]),
            ("a __sub/colour-2__", &["__sub/colour-2__"]),
            ("apple++", &["apple++"]),
            ("apple--, pear+++", &["apple--", "pear+++"]),
            ("red:1.3 apple", &["red:1.3"]),
            ("BREAK (a), BREAK (a), (b", &["BREAK", "(a)"]),
            ("猫 (赤い:1.2)", &["(赤い:1.2)"]),
        ] {
            assert_eq!(found(text), parts, "{text}");
        }
    }

    #[test]
    fn ordinary_text_is_not_warned_of() {
        for text in [
            "a photo (1990)",
            "disco (1970s), [2], {3}",
            r"\(red\) \[red\] \{a|b\} \<hypernet:a:1>",
            r"\__name__",
            "C++ and A+ and a+b, e-- f, 5++",
            "at 10:30, ratio 16:9, John 3:16, psalm:3",
            "HAND, BREAKFAST, AND_x, ANDES",
            "a < b > c: <3 :) (: x<y",
            "https://a.b/c_d, snake_case, __init",
            "well-known -- and so on",
            "",
        ] {
            assert_eq!(found(text), [""; 0], "{text}");
        }
        let text = "a <lora:x:1> <b:c>";
        assert_eq!(
            foreign_syntax(text, std::slice::from_ref(&(2..12)), PromptSyntax::Plain),
            ["<b:c>"]
        );
    }

    #[test]
    fn what_a_syntax_has_is_not_named() {
        let named = |text, syntax| foreign_syntax(text, &[], syntax);
        let text = "((red:1.3)) [a:b:0.5] ({x|y}:1.2) BREAK c AND embedding:z";
        assert_eq!(named(text, PromptSyntax::A1111), ["{x|y}", "embedding:z"]);
        assert_eq!(named("red:1.3 apple, pear:1.2", PromptSyntax::A1111), ["red:1.3"]);
        assert_eq!(
            named(text, PromptSyntax::Comfy),
            ["[a:b:0.5]", "{x|y}", "BREAK", "AND", "embedding:z"]
        );
        assert_eq!(named("(apple++:1.2), x:1.3", PromptSyntax::A1111), [""; 0]);
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "[a-zé猫 ()\\[\\]{}<>|:+_\\\\.0-9BREAKND-]{0,60}") {
            for part in found(&text) {
                prop_assert!(text.contains(part) && !part.is_empty());
            }
        }
    }
}
