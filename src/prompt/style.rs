//! Styles: text that is put around or behind a prompt, under a name.

use std::borrow::Cow;

/// Where the prompt stands in a style.
const PLACE: &str = "{prompt}";

/// A named piece of prompt and negative prompt.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Style {
    /// What `--style` takes.
    pub name: String,
    /// Its text for the prompt; `{prompt}` in it stands for the prompt.
    pub prompt: String,
    /// Its text for the negative prompt, likewise.
    pub negative: String,
}

/// `prompt` with the text of a style: in the place of `{prompt}` in it, or before it with a comma between. What is empty is
/// left out.
///
/// # Examples
/// ```
/// use colora::prompt::styled;
/// assert_eq!(styled("a fox", "ink drawing of {prompt}, paper"), "ink drawing of a fox, paper");
/// assert_eq!(styled("a fox", "detailed"), "a fox, detailed");
/// ```
///
/// # Source
/// A1111, `modules/styles.py`.
pub fn styled<'a>(prompt: &'a str, style: &str) -> Cow<'a, str> {
    if style.contains(PLACE) {
        return style.replace(PLACE, prompt).into();
    }
    match (prompt.trim(), style.trim()) {
        (prompt, "") => prompt.into(),
        ("", style) => style.to_owned().into(),
        (prompt, style) => format!("{prompt}, {style}").into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A1111's own answers: `styles.merge` of the vectors.
    #[test]
    fn styles_are_merged() {
        for (style, prompt, merged) in [
            ("x, {prompt}, y", "a", "x, a, y"),
            ("{prompt} and {prompt}", "a", "a and a"),
            ("x", "a", "a, x"),
            ("x", " a ", "a, x"),
            (" x ", "", "x"),
            ("", "a ", "a"),
            ("", "", ""),
            ("{prompt}", " a ", " a "),
            ("x {prompt}", "", "x "),
        ] {
            assert_eq!(styled(prompt, style), merged, "{style} {prompt}");
        }
    }
}
