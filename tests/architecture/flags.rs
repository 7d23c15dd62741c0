//! Texts of the library name no flags: which front end its caller uses is not known below `cli`.
//!
//! Advice that every front end words in its own way is a variant of `colora::Hint`; `src/cli/hints.rs` has the
//! command line's words.

use super::sources;

/// The string literals of `code`, with the line in which each begins; those of comments are left out.
fn literals(code: &str) -> Vec<(usize, String)> {
    let text: Vec<char> = code.chars().collect();
    let at = |i: usize| text.get(i).copied().unwrap_or('\0');
    let line_of = |i: usize| text[..i].iter().filter(|c| **c == '\n').count() + 1;
    let mut found = Vec::new();
    let mut i = 0;
    while i < text.len() {
        match (at(i), at(i + 1)) {
            ('/', '/') => i = end_of(&text, i, "\n"),
            ('/', '*') => i = end_of(&text, i, "*/"),
            ('\'', '\\') => i = end_of(&text, i + 3, "'"),
            ('\'', _) if at(i + 2) == '\'' => i += 3,
            ('r', '"' | '#') if !at(i.wrapping_sub(1)).is_alphanumeric() => {
                let hashes = text[i + 1..].iter().take_while(|c| **c == '#').count();
                if at(i + 1 + hashes) == '"' {
                    let close = format!("\"{}", "#".repeat(hashes));
                    let (start, end) = (i + 2 + hashes, end_of(&text, i + 2 + hashes, &close));
                    let inside = end.saturating_sub(close.chars().count()).max(start);
                    found.push((line_of(i), text[start..inside].iter().collect()));
                    i = end;
                } else {
                    i += 1;
                }
            }
            ('"', _) => {
                let (start, mut end) = (i + 1, i + 1);
                while end < text.len() && at(end) != '"' {
                    end += if at(end) == '\\' { 2 } else { 1 };
                }
                found.push((line_of(i), text[start..end.min(text.len())].iter().collect()));
                i = end + 1;
            }
            _ => i += 1,
        }
    }
    found
}

/// The place behind the first `close` from `start` on.
fn end_of(text: &[char], start: usize, close: &str) -> usize {
    let close: Vec<char> = close.chars().collect();
    let found = text[start.min(text.len())..].windows(close.len()).position(|part| part == close);
    found.map_or(text.len(), |place| start + place + close.len())
}

/// What of a text is a flag or a command line.
fn named(text: &str, verbs: &[String]) -> Option<String> {
    let words: Vec<&str> = text
        .split(|c: char| c.is_whitespace() || "`'\"([".contains(c))
        .filter(|word| !word.is_empty())
        .collect();
    let is_letter = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphabetic());
    for (i, word) in words.iter().enumerate() {
        let mut letters = word.trim_end_matches([',', ';', '.', ')', ':']).chars();
        let (first, second, third) = (letters.next(), letters.next(), letters.next());
        let long = (first, second) == (Some('-'), Some('-')) && is_letter(third);
        let short = first == Some('-') && is_letter(second) && third.is_none() && words.len() > 1;
        let verb = |next: &&str| {
            let next = next.trim_end_matches(|c: char| !c.is_ascii_alphabetic());
            *word == "colora" && verbs.iter().any(|verb| verb == next)
        };
        if long || short || words.get(i + 1).is_some_and(verb) {
            return Some(words[i..words.len().min(i + 2)].join(" "));
        }
    }
    None
}

/// The verbs of the command line, from the variants of its `Command`.
fn verbs(sources: &[(String, String)]) -> Vec<String> {
    let (_, text) = sources.iter().find(|(name, _)| name == "cli/mod.rs").unwrap();
    let body = text.split("enum Command {").nth(1).and_then(|rest| rest.split("\n}").next());
    let variants = body.unwrap().lines().filter_map(|line| line.trim().split_once('('));
    variants
        .map(|(name, _)| name.to_lowercase())
        .filter(|name| name.chars().all(|c| c.is_ascii_lowercase()))
        .collect()
}

#[test]
fn texts_of_the_library_name_no_flags() {
    let sources = sources();
    let verbs = verbs(&sources);
    assert!(verbs.iter().any(|verb| verb == "lora"), "{verbs:?}");
    let mut wrong = Vec::new();
    let mut read = 0;
    for (file, text) in &sources {
        if file.starts_with("cli/") || file == "main.rs" || file.ends_with("tests.rs") {
            continue;
        }
        // Unit tests stand last in a file.
        let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        for (line, literal) in literals(code) {
            read += 1;
            if let Some(flag) = named(&literal, &verbs) {
                wrong.push(format!("src/{file}:{line} names `{flag}`: use a Hint"));
            }
        }
    }
    assert!(read > 1000, "the scan found only {read} texts");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_scan_sees_flags_and_nothing_else() {
    let verbs = ["lora".to_owned(), "config".to_owned()];
    let verdict = |text: &str| named(text, &verbs).is_some();
    let flags = ["pass --force", "`--tile` helps", "take another (-m)", "take -m, or"];
    let commands = ["see `colora config init`", "run colora lora merge"];
    for text in flags.iter().chain(&commands) {
        assert!(verdict(text), "{text}");
    }
    for text in
        ["a -- b", "x-y", "models--o--n", "-1", "--", "colora {version}", "-m", "colora reads"]
    {
        assert!(!verdict(text), "{text}");
    }
    let code = "// \"--a\"\nlet x = '\"'; f(\"one\", r#\"tw\"o\"#, \"th\\\"ree\"); /* \"four\" */ '\\n' \"five\"";
    let found: Vec<String> = literals(code).into_iter().map(|(_, text)| text).collect();
    assert_eq!(found, ["one", "tw\"o", "th\\\"ree", "five"]);
}
