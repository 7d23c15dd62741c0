//! The LoRA files that a glob stands for: the epochs of one training, or all of a folder.

use super::values::Written;
use crate::error::{Error, Result};
use crate::store::Store;
use std::cmp::Ordering;
use std::path::PathBuf;

/// `values` with every glob replaced by the names of the LoRAs that it fits, in natural order: epoch 2 before epoch 10.
///
/// # Errors
/// [`Error::BadRequest`] for a glob that is none or that fits nothing.
pub(super) fn loras(values: Vec<Written>, store: &Store) -> Result<Vec<Written>> {
    let mut all = Vec::new();
    for value in values {
        let is_glob = !value.quoted && value.text.contains(['*', '?', '[']);
        if is_glob {
            // A weight may follow: anime-*.safetensors:0.8.
            let (glob, weight) = divided(&value.text);
            let mut names = fitting(glob, store)?;
            if names.is_empty() {
                let why = "no LoRA file fits; globs look at paths and at the names of `lora list`";
                return Err(Error::bad_request("values", &value.text, why));
            }
            names.sort_by(|a, b| natural(a, b));
            names.dedup();
            let named = |name| Written { text: format!("{name}{weight}"), quoted: true };
            all.extend(names.into_iter().map(named));
        } else {
            all.push(value);
        }
    }
    Ok(all)
}

/// The glob, and the weight behind it with its colon.
fn divided(text: &str) -> (&str, &str) {
    let at = text.rfind(':').filter(|at| text[at + 1..].trim().parse::<f32>().is_ok());
    text.split_at(at.unwrap_or(text.len()))
}

/// The LoRAs that fit: files by their paths, else those of the store by their names.
fn fitting(glob: &str, store: &Store) -> Result<Vec<String>> {
    let wrong = |error: glob::PatternError| Error::bad_request("values", glob, error.msg);
    let is_lora = |path: &PathBuf| {
        let extension = path.extension().and_then(|extension| extension.to_str());
        matches!(extension, Some("safetensors" | "pt" | "ckpt" | "bin")) && path.is_file()
    };
    let files = glob::glob(glob).map_err(wrong)?.filter_map(std::result::Result::ok);
    let files: Vec<String> =
        files.filter(is_lora).map(|path| path.to_string_lossy().into_owned()).collect();
    if !files.is_empty() {
        return Ok(files);
    }
    let pattern = glob::Pattern::new(glob).map_err(wrong)?;
    let known = store.loras().into_iter().filter(|lora| {
        let file = lora.path.file_name().map(|name| name.to_string_lossy().into_owned());
        pattern.matches(&lora.name) || file.is_some_and(|file| pattern.matches(&file))
    });
    Ok(known.map(|lora| lora.name).collect())
}

/// Compares names as people do: digits that follow each other are one number.
pub(super) fn natural(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a, b);
    while let (Some(x), Some(y)) = (a.chars().next(), b.chars().next()) {
        if x.is_ascii_digit() && y.is_ascii_digit() {
            let (first, second) = (digits(a), digits(b));
            let (m, n) = (first.trim_start_matches('0'), second.trim_start_matches('0'));
            let order = m.len().cmp(&n.len()).then_with(|| m.cmp(n));
            if order != Ordering::Equal {
                return order;
            }
            (a, b) = (&a[first.len()..], &b[second.len()..]);
        } else if x == y {
            (a, b) = (&a[x.len_utf8()..], &b[y.len_utf8()..]);
        } else {
            return x.cmp(&y);
        }
    }
    a.len().cmp(&b.len())
}

/// The digits that a text begins with.
fn digits(text: &str) -> &str {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn glob(text: &str, store: &Store) -> Result<Vec<String>> {
        let written = vec![Written { text: text.into(), quoted: false }];
        Ok(loras(written, store)?.into_iter().map(|value| value.text).collect())
    }

    #[test]
    fn epochs_come_in_their_order() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["anime-10.safetensors", "anime-2.safetensors", "anime.safetensors", "x.txt"] {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        let home = folder.path().to_path_buf();
        let env = move |_: &str| Some(home.clone().into_os_string());
        let store = Store::new(&[], Path::new("."), &env).with_loras(&[folder.path().into()], None);
        let path = |name: &str| folder.path().join(name).display().to_string();
        assert_eq!(
            glob(&path("anime-*.safetensors:0.8"), &store).unwrap(),
            [path("anime-2.safetensors:0.8"), path("anime-10.safetensors:0.8")]
        );
        assert_eq!(glob("anime-*", &store).unwrap(), ["anime-2", "anime-10"]);
        assert_eq!(glob("plain", &store).unwrap(), ["plain"]);
        for bad in ["nothing-*", "a[", "***"] {
            assert!(glob(bad, &store).is_err(), "{bad}");
        }
    }
}
