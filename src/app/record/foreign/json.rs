//! JSON of strangers: with limits, and with the numbers that Python writes although JSON has none.

use super::told::Refusal;
use serde_json::{Map, Value};

/// Brackets that may stand in each other.
const DEEPEST: usize = 64;
/// Numbers that Python writes and JSON does not have.
const NO_NUMBERS: [&str; 3] = ["-Infinity", "Infinity", "NaN"];

/// A value that was read.
#[derive(Debug)]
pub(super) struct Json(Value);

impl Json {
    /// Reads `text`; numbers that are none become null.
    ///
    /// # Errors
    /// [`Refusal::Broken`].
    pub(super) fn parse(text: &str) -> Result<Self, Refusal> {
        let plain = without_no_numbers(text)?;
        let value = serde_json::from_str(plain.trim());
        value.map(Self).map_err(|error| Refusal::Broken(error.to_string()))
    }

    /// The settings that `text` holds when it is JSON and no prompt.
    ///
    /// # Errors
    /// As [`parse`](Self::parse), for what must be JSON.
    pub(super) fn settings(text: &str) -> Option<Result<Self, Refusal>> {
        let inside = text.trim().strip_prefix('{')?.trim_start();
        match Self::parse(text) {
            Ok(json) if json.object().is_some() => Some(Ok(json)),
            // `{red|green} apple` is a prompt; a line of settings says that it is one, whatever it begins with.
            _ if !inside.starts_with('"') || text.contains("\nSteps:") => None,
            Ok(_) => None,
            Err(refusal) => Some(Err(refusal)),
        }
    }

    /// The object, when it is one.
    pub(super) fn object(&self) -> Option<&Map<String, Value>> {
        self.0.as_object()
    }
}

/// `text` with `null` in the place of numbers that are none, outside of strings.
///
/// # Errors
/// [`Refusal::Broken`] for brackets that are too deep.
fn without_no_numbers(text: &str) -> Result<String, Refusal> {
    let mut plain = String::with_capacity(text.len());
    let (mut depth, mut inside, mut escaped) = (0usize, false, false);
    let mut at = 0;
    while let Some(c) = text[at..].chars().next() {
        let end = at + c.len_utf8();
        let word = NO_NUMBERS.into_iter().find(|word| !inside && text[at..].starts_with(word));
        if let Some(word) = word {
            plain.push_str("null");
            at += word.len();
            continue;
        }
        match c {
            _ if escaped => escaped = false,
            '\\' if inside => escaped = true,
            '"' => inside = !inside,
            '{' | '[' if !inside => depth += 1,
            '}' | ']' if !inside => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > DEEPEST {
            let why = format!("more than {DEEPEST} brackets stand in each other");
            return Err(Refusal::Broken(why));
        }
        plain.push(c);
        at = end;
    }
    Ok(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_are_none_are_null() {
        let json =
            Json::parse(r#"{"a": [NaN, -Infinity, Infinity], "NaN \" NaN": "NaN"}"#).unwrap();
        let object = json.object().unwrap();
        assert_eq!(object["a"].to_string(), "[null,null,null]");
        assert_eq!(object["NaN \" NaN"], "NaN");
    }

    #[test]
    fn deep_brackets_are_refused() {
        let deep = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
        assert!(Json::parse(&deep(64)).is_ok());
        assert!(matches!(Json::parse(&deep(65)), Err(Refusal::Broken(_))));
        assert!(Json::parse(&format!("[\"{}\"]", "[".repeat(99))).is_ok());
    }

    #[test]
    fn prompts_are_no_settings() {
        for prompt in ["{red|green} apple", "a {\"b\"}", "[1]", "", "{\"a\"|b}\nSteps: 3"] {
            assert!(Json::settings(prompt).is_none(), "{prompt}");
        }
        assert!(matches!(Json::settings(r#"{"prompt": "x""#), Some(Err(Refusal::Broken(_)))));
        assert!(matches!(Json::settings("{}"), Some(Ok(_))));
    }
}
