//! The pages of `docs/how-to` name files and things in them: they have to be there.
#![allow(clippy::unwrap_used)]

use std::path::Path;

/// Words in backticks.
fn quoted(page: &str) -> Vec<&str> {
    page.split('`').skip(1).step_by(2).collect()
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap()
}

/// All code, for names that stand in it somewhere.
fn sources(folder: &Path) -> String {
    let mut text = String::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            text += &sources(&path);
        } else if path.extension().is_some_and(|e| e == "rs") {
            text += &read(&path);
        }
    }
    text
}

#[test]
fn the_places_that_the_pages_name_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let code = sources(&root.join("src")) + &sources(&root.join("tests"));
    let mut pages = 0;
    for entry in std::fs::read_dir(root.join("docs/how-to")).unwrap() {
        let page = entry.unwrap().path();
        let text = read(&page);
        pages += 1;
        for name in quoted(&text) {
            let is_path = ["src/", "tests/", "docs/"].iter().any(|start| name.starts_with(start));
            let is_pattern = ["VERB", "NAME"].iter().any(|word| name.contains(word));
            if is_path && !is_pattern {
                assert!(root.join(name).exists(), "{}: {name}", page.display());
            }
            // `Type::method`, `Type` and `function_name` have to be words of the code.
            let is_name = name.chars().all(|c| c.is_alphanumeric() || c == '_' || c == ':');
            if is_name && (name.contains('_') || name.starts_with(char::is_uppercase)) {
                for word in name.split("::") {
                    assert!(code.contains(word), "{}: {word}", page.display());
                }
            }
        }
    }
    assert!(pages >= 4);
}
