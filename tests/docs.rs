//! Keeps the pages of `docs/how-to` true: every path that they name exists, and holds the item named behind it.
//!
//! A page writes `src/lora/delta/mod.rs::enum Delta` for an item: the file must contain the words behind `::`. PathResolver
//! with a part in capitals, `src/lora/delta/NAME.rs`, stand for a file that the reader will write.
#![allow(clippy::unwrap_used)]

use std::path::Path;

/// Folders whose paths are checked.
const ROOTS: [&str; 7] = ["src/", "tests/", "docs/", "examples/", "benches/", "fuzz/", "training/"];

/// The texts between backticks, code blocks left out.
fn quoted(page: &str) -> Vec<&str> {
    let prose = page.split("```").step_by(2);
    prose.flat_map(|part| part.split('`').skip(1).step_by(2)).collect()
}

/// What is wrong with a place that a page names.
fn wrong(root: &Path, quoted: &str) -> Option<String> {
    if !ROOTS.iter().any(|start| quoted.starts_with(start)) {
        return None;
    }
    let (path, item) = match quoted.split_once("::") {
        Some((path, item)) => (path, Some(item)),
        None => (quoted, None),
    };
    let path = path.split([' ', ':', '#']).next().unwrap_or_default();
    let capitals = |part: &str| part.len() > 1 && part.chars().all(|c| c.is_ascii_uppercase());
    if path.split(['/', '.', '_']).any(capitals) && !root.join(path).exists()
        || path.contains(['*', '<', '{'])
    {
        return None;
    }
    if !root.join(path).exists() {
        return Some(format!("{path} does not exist"));
    }
    let item = item?;
    let text = std::fs::read_to_string(root.join(path)).unwrap_or_default();
    let word = item.trim_end_matches(['(', ')', '!']);
    (!text.contains(word)).then(|| format!("{path} holds no `{word}`"))
}

#[test]
fn the_places_of_every_how_to_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (mut pages, mut places, mut mistakes) = (0, 0, Vec::new());
    for page in std::fs::read_dir(root.join("docs/how-to")).unwrap() {
        let path = page.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        pages += 1;
        for quoted in quoted(&text) {
            places += usize::from(ROOTS.iter().any(|start| quoted.starts_with(start)));
            let name = path.file_name().unwrap().to_string_lossy();
            mistakes.extend(wrong(root, quoted).map(|why| format!("{name}: {why}")));
        }
    }
    assert!(mistakes.is_empty(), "{}", mistakes.join("\n"));
    assert!(pages >= 2 && places >= 20, "{places} places on {pages} pages");
}

/// The text of every Rust file below `folder`.
fn sources(folder: &Path) -> String {
    let mut text = String::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            text += &sources(&path);
        } else if path.extension().is_some_and(|e| e == "rs") {
            text += &std::fs::read_to_string(&path).unwrap();
        }
    }
    text
}

/// `Type::method`, `Type` and `function_name` have to be words of the code.
#[test]
fn the_names_of_every_how_to_are_words_of_the_code() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let code = sources(&root.join("src")) + &sources(&root.join("tests"));
    let (mut names, mut mistakes) = (0, Vec::new());
    for page in std::fs::read_dir(root.join("docs/how-to")).unwrap() {
        let path = page.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        for quoted in quoted(&text) {
            let is_name = quoted.chars().all(|c| c.is_alphanumeric() || c == '_' || c == ':')
                && (quoted.contains('_') || quoted.starts_with(char::is_uppercase))
                && !["VERB", "NAME"].iter().any(|word| quoted.contains(word));
            if is_name {
                names += 1;
                let missing = quoted.split("::").filter(|word| !code.contains(*word));
                mistakes.extend(missing.map(|word| format!("{}: {word}", path.display())));
            }
        }
    }
    assert!(mistakes.is_empty(), "{}", mistakes.join("\n"));
    assert!(names >= 40, "{names} names");
}

#[test]
fn a_place_that_is_gone_is_found() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    assert!(wrong(root, "src/nowhere.rs").is_some());
    assert!(wrong(root, "src/error.rs::enum Nothing").is_some());
    assert!(wrong(root, "src/error.rs::enum Error").is_none());
    assert!(wrong(root, "src/lora/delta/NAME.rs").is_none());
    assert!(wrong(root, "not a path").is_none());
    assert_eq!(quoted("a `b` c ```\n`d`\n``` `e`"), ["b", "e"]);
}
