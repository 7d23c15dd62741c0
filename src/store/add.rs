//! Puts a LoRA into a folder of LoRAs, with its card.

use super::lora::{EXTENSIONS, companions};
use super::place::check_name;
use super::{Card, Store, digest};
use crate::atomic_file::Together;
use crate::error::{Error, Result};
use crate::hint::Hint;
use crate::input;
use crate::lora::AdapterFile;
use crate::pipeline::Cancel;
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

/// A LoRA to add.
#[derive(Debug, Clone, Default)]
pub struct NewLora {
    /// The file.
    pub file: PathBuf,
    /// Its name from now on, with sub-folder if wanted; `None` = the file's.
    pub name: Option<String>,
    /// The folder to put it in; `None` = the first folder of LoRAs that exists.
    pub to: Option<PathBuf>,
    /// Link to the file instead of copying it.
    pub link: bool,
    /// Overwrite a LoRA of the same name; of its card, what is not given anew stays.
    pub force: bool,
    /// What is known of it; file name and sum are filled in.
    pub card: Card,
}

impl Store {
    /// Puts a LoRA into a folder of LoRAs, writes its card, and returns its new path.
    ///
    /// Files that go with it (cloneofsimo's `x.text_encoder.pt`) come along.
    ///
    /// # Errors
    /// As [`AdapterFile::open`] and [`AdapterFile::check`] for what is no adapter; [`Error::Exists`] without `force`;
    /// [`Error::BadRequest`] for a name that leaves the folder; [`Error::Unsupported`] when there is
    /// no folder to put it in; [`Error::Io`] for what is read, [`Error::Write`] for what is written;
    /// [`Error::Cancelled`]. Then all is as it was.
    pub fn add_lora(&self, new: &NewLora, cancel: &Cancel) -> Result<PathBuf> {
        AdapterFile::open(&new.file)?.check()?;
        let target = self.add_folder(new)?.join(file_name(new)?);
        // The target is a file, whatever lies there now.
        let card_path = target.with_extension("toml");
        if let Some(taken) = [&target, &card_path].into_iter().find(|p| p.exists() && !new.force) {
            return Err(Error::Exists { path: taken.clone() });
        }
        // An unreadable card is overwritten, as was asked for.
        let old = Card::of(&target).ok().flatten().unwrap_or_default();
        let mut all = Together::beside(&target, new.force)?;
        let sum = put(&new.file, &target, new, &mut all, cancel)?;
        let mut stale: Vec<PathBuf> =
            companions(&target).into_iter().map(|(_, path)| path).collect();
        for (word, file) in companions(&new.file) {
            let extension = target.extension().and_then(|e| e.to_str()).unwrap_or_default();
            let target = target.with_extension(format!("{word}.{extension}"));
            put(&file, &target, new, &mut all, cancel)?;
            stale.retain(|path| *path != target);
        }
        // What went with the older LoRA would be read with this one.
        for path in &stale {
            all.remove(path);
        }
        let file = target.file_name().map(|name| name.to_string_lossy().into_owned());
        let card = Card { file, sha256: Some(sum), ..new.card.clone() };
        let text = card.or(old).to_toml()?;
        all.file(&card_path, |to| {
            to.write_all(text.as_bytes()).map_err(|e| Error::write(&card_path, e))
        })?;
        all.commit()?;
        Ok(target)
    }

    /// The folder to put a LoRA in.
    fn add_folder(&self, new: &NewLora) -> Result<PathBuf> {
        let first = || self.first_lora_folder();
        new.to.clone().or_else(first).ok_or_else(|| {
            Error::unsupported("adding a LoRA without a folder of LoRAs", Hint::NameLoraFolder)
        })
    }

    /// The first folder of LoRAs that exists, without any the user's own, which may be made.
    pub(super) fn first_lora_folder(&self) -> Option<PathBuf> {
        let folders = self.lora_folders();
        folders.iter().find(|folder| folder.is_dir()).or(folders.last()).cloned()
    }
}

/// The new file name, relative to the folder.
fn file_name(new: &NewLora) -> Result<String> {
    let stem = || new.file.file_stem().map(|stem| stem.to_string_lossy().into_owned());
    let name = new.name.clone().or_else(stem).unwrap_or_default();
    check_name(&name)?;
    let known = |extension: &str| EXTENSIONS.contains(&extension);
    if name.rsplit_once('.').is_some_and(|(_, extension)| known(extension)) {
        return Ok(name);
    }
    let own = new.file.extension().and_then(|e| e.to_str()).filter(|e| known(e));
    Ok(format!("{name}.{}", own.map_or_else(|| by_content(&new.file), Ok)?))
}

/// The extension of a file that has none: torch archives and pickles are `pt`.
fn by_content(path: &Path) -> Result<&'static str> {
    let io = |e| Error::io(path, e);
    let mut start = [0; 2];
    input::open(path)?.read_exact(&mut start).map_err(io)?;
    Ok(if start == *b"PK" || start[0] == 0x80 { "pt" } else { "safetensors" })
}

/// Copies or links one file, to take its name with others, and gives its SHA-256.
fn put(
    file: &Path,
    target: &Path,
    new: &NewLora,
    all: &mut Together,
    cancel: &Cancel,
) -> Result<String> {
    if !new.link {
        let copy = |to: &mut File| digest::copy(file, to, target, cancel);
        return all.file(target, copy).map(|(_, sum)| sum);
    }
    let sum = digest::sha256(file, cancel)?;
    let full = file.canonicalize().map_err(|e| Error::io(file, e))?;
    if target.canonicalize().is_ok_and(|there| there == full) {
        let why = "this is the file itself; there is nothing to link";
        return Err(Error::bad_request("file", file.display(), why));
    }
    all.link(target, &full)?;
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// A file with one number.
    fn safetensors(key: &str) -> Vec<u8> {
        let entry = r#"{"dtype":"F32","shape":[1],"data_offsets":[0,4]}"#;
        let header = format!("{{\"{key}\":{entry}}}");
        [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &[0; 4]].concat()
    }

    fn world() -> (tempfile::TempDir, Store, NewLora) {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        let env = |name: &str| (name == "XDG_DATA_HOME").then(|| data.clone().into());
        let store = Store::new(&[], folder.path(), &env);
        let file = folder.path().join("ink.safetensors");
        fs::write(&file, safetensors("a.lora_up.weight")).unwrap();
        let card = Card { weight: Some(0.5), ..Card::default() };
        (folder, store, NewLora { file, card, ..NewLora::default() })
    }

    fn add(store: &Store, new: &NewLora) -> Result<PathBuf> {
        store.add_lora(new, &Cancel::new())
    }

    #[test]
    fn what_is_no_adapter_is_refused() {
        let (_folder, store, new) = world();
        for key in ["foo.weight", "x", "model.diffusion_model.input_blocks.0.0.weight"] {
            fs::write(&new.file, safetensors(key)).unwrap();
            let error = add(&store, &new).unwrap_err();
            assert_eq!(error.fault().exit_code(), 3, "{error}");
            assert!(store.loras().is_empty());
        }
        for key in ["bundle_emb.x.clip_l", "lora_unet_x.alpha", "unet:0:up", "0"] {
            fs::write(&new.file, safetensors(key)).unwrap();
            add(&store, &NewLora { force: true, ..new.clone() }).unwrap();
        }
    }

    #[test]
    fn a_copy_and_its_card() {
        let (folder, store, new) = world();
        let path = add(&store, &new).unwrap();
        assert_eq!(path, folder.path().join("data/colora/loras/ink.safetensors"));
        assert_eq!(fs::read(&path).unwrap(), fs::read(&new.file).unwrap());
        let card = Card::of(&path).unwrap().unwrap();
        assert_eq!((card.weight, card.file.as_deref()), (Some(0.5), Some("ink.safetensors")));
        assert_eq!(store.loras()[0].verify(&Cancel::new()).unwrap(), Some(true));
        assert!(matches!(add(&store, &new), Err(Error::Exists { .. })));
        let title = Card { title: Some("Ink".into()), ..Card::default() };
        add(&store, &NewLora { force: true, card: title, ..new.clone() }).unwrap();
        let card = Card::of(&path).unwrap().unwrap();
        assert_eq!((card.weight, card.title.as_deref()), (Some(0.5), Some("Ink")), "both are kept");
        fs::create_dir(folder.path().join("loras")).unwrap();
        let named = NewLora { name: Some("styles/black ink".into()), ..new.clone() };
        let path = add(&store, &named).unwrap();
        assert_eq!(path, folder.path().join("loras/styles/black ink.safetensors"));
        let to = NewLora { to: Some(folder.path().join("there")), ..new };
        assert_eq!(add(&store, &to).unwrap(), folder.path().join("there/ink.safetensors"));
    }

    #[test]
    fn links_and_companions() {
        let (folder, store, new) = world();
        let old = folder.path().join("x.pt");
        fs::copy(&new.file, &old).unwrap();
        fs::copy(&new.file, folder.path().join("x.text_encoder.pt")).unwrap();
        let pair = NewLora { file: old.clone(), name: Some("y".into()), link: true, ..new.clone() };
        let path = add(&store, &pair).unwrap();
        assert!(path.ends_with("y.pt") && path.with_extension("text_encoder.pt").is_file());
        #[cfg(unix)]
        assert_eq!(fs::read_link(&path).unwrap(), old.canonicalize().unwrap());
        let same = NewLora { file: path, name: Some("y".into()), link: true, force: true, ..new };
        assert!(matches!(add(&store, &same), Err(Error::BadRequest { .. })));
    }

    #[test]
    fn what_is_no_lora_is_refused() {
        let (folder, store, new) = world();
        for name in ["../x", "/x", "", ".x", "a/.x", "C:x", "a\\b", "a/", " x", "a\nb"] {
            let named = NewLora { name: Some(name.into()), ..new.clone() };
            assert!(matches!(add(&store, &named), Err(Error::BadRequest { .. })), "{name}");
        }
        let page = folder.path().join("page.safetensors");
        fs::write(&page, "<html>").unwrap();
        let page = NewLora { file: page, ..new.clone() };
        assert!(matches!(add(&store, &page), Err(Error::Corrupt { .. })));
        let bare = folder.path().join("download");
        fs::copy(&new.file, &bare).unwrap();
        let path = add(&store, &NewLora { file: bare, ..new }).unwrap();
        assert!(path.ends_with("download.safetensors"));
        assert_eq!(store.loras().len(), 1);
    }
}
