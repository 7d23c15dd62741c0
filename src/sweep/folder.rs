//! The pictures of a folder as a gallery: a contact sheet of what is there.

use super::found::natural;
use super::gallery::{Gallery, Shown};
use crate::app::record::{self, ImageRecord};
use crate::error::{Error, Result};
use crate::input;
use crate::picture::Picture;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// Most pictures of a folder.
const MOST: usize = 10_000;
/// Most bytes of the list of a batch.
const LIMIT: u64 = 1 << 30;
/// The list that a batch leaves in its folder.
const LIST: &str = "plan.jsonl";
/// Endings of pictures.
const ENDINGS: [&str; 4] = ["png", "jpg", "jpeg", "webp"];

/// Words for the settings of a picture: the command that makes it again.
pub type Command<'a> = &'a dyn Fn(&ImageRecord) -> String;

impl Gallery {
    /// The pictures that lie in `folder`, those of a batch in the order of its list, others by name; `but`: the name of
    /// the sheet itself, without its ending. A folder that a batch has divided by the first letters is one folder.
    ///
    /// # Errors
    /// [`Error::Io`] for a folder that cannot be listed, [`Error::Corrupt`] for one without pictures, [`Error::Limit`].
    pub fn of_folder(folder: &Path, but: &str, command: Command<'_>) -> Result<Self> {
        let mut files = Vec::new();
        collect(folder, Path::new(""), but, &mut files)?;
        if files.is_empty() {
            let why = "there is no picture in this folder: expected .png, .jpg or .webp files";
            return Err(Error::corrupt(folder, why));
        }
        let places = places(folder)?;
        let place = |file: &Path| {
            let stem = file.file_stem().map(|stem| stem.to_string_lossy().into_owned());
            stem.and_then(|stem| places.get(&stem).copied()).unwrap_or(usize::MAX)
        };
        files.sort_by(|a, b| {
            let names = natural(&a.to_string_lossy(), &b.to_string_lossy());
            place(a).cmp(&place(b)).then(names)
        });
        let name = folder.canonicalize().ok();
        let name = name
            .as_deref()
            .unwrap_or(folder)
            .file_name()
            .map(|name| name.to_string_lossy().into_owned());
        let mut gallery = Self::new(name.unwrap_or_else(|| "Pictures".into()));
        gallery.cells = files.iter().map(|file| shown(folder, file, command)).collect();
        Ok(gallery)
    }
}

/// One picture, with what its record says.
fn shown(folder: &Path, file: &Path, command: Command<'_>) -> Shown {
    let path = folder.join(file);
    let name = file.to_string_lossy().into_owned();
    let stem = file.file_stem().map(|stem| stem.to_string_lossy().into_owned());
    let mut cell = Shown {
        file: Some(name.replace('\\', "/")),
        caption: stem.unwrap_or(name),
        ..Shown::default()
    };
    match Picture::size_of(&path) {
        Ok((width, height)) => (cell.width, cell.height) = (width, height),
        Err(error) => {
            cell.error = Some(error.to_string());
            return cell;
        }
    }
    // Pictures of cameras and of programs that keep nothing are shown by name.
    if let Ok(record) = record::read(&path) {
        let request = &record.request;
        cell.prompt.clone_from(&request.prompt);
        cell.seed = request.seed.map(|seed| seed.to_string());
        let loras: Vec<String> = request.loras.iter().map(ToString::to_string).collect();
        let words = [request.prompt.trim(), &loras.join(", ")];
        let words: Vec<&str> = words.into_iter().filter(|words| !words.is_empty()).collect();
        if !words.is_empty() {
            cell.caption = words.join(" · ");
        }
        cell.command = Some(command(&record));
    }
    cell
}

/// Adds the pictures in `folder` and in the folders of two letters in it.
fn collect(folder: &Path, below: &Path, but: &str, files: &mut Vec<PathBuf>) -> Result<()> {
    let at = folder.join(below);
    let io = |error| Error::io(&at, error);
    for entry in std::fs::read_dir(&at).map_err(io)? {
        let entry = entry.map_err(io)?;
        let name = PathBuf::from(entry.file_name());
        let kind = entry.metadata().map_err(io)?;
        let ending = name.extension().map(|ending| ending.to_string_lossy().to_lowercase());
        let is_picture = ending.is_some_and(|ending| ENDINGS.contains(&ending.as_str()));
        if kind.is_file() && is_picture {
            let own = name.file_stem().is_some_and(|stem| stem.to_string_lossy() == but);
            let hidden = name.to_string_lossy().starts_with('.');
            if !own && !hidden && !name.to_string_lossy().ends_with(".preview.png") {
                files.push(below.join(name));
            }
        } else if kind.is_dir() && below.as_os_str().is_empty() && name.as_os_str().len() == 2 {
            collect(folder, &name, but, files)?;
        }
        if files.len() > MOST {
            let (what, allowed) = ("pictures of a folder", MOST as u64);
            return Err(Error::Limit { what, allowed, asked: files.len() as u64 });
        }
    }
    Ok(())
}

/// The place of each job in the list of a batch, by the name of its picture.
fn places(folder: &Path) -> Result<HashMap<String, usize>> {
    let list = input::text_if_there(&folder.join(LIST), LIMIT, "the list of a batch")?;
    let list = list.unwrap_or_default();
    let ids = list.lines().map(|line| {
        let value: Option<serde_json::Value> = serde_json::from_str(line).ok();
        value.and_then(|value| value.get("id")?.as_str().map(str::to_owned))
    });
    Ok(ids.enumerate().filter_map(|(place, id)| Some((id?, place))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(folder: &Path, name: &str) {
        Picture::new(8, 4, vec![9; 96]).unwrap().save(folder.join(name), false).unwrap();
    }

    fn names(folder: &Path) -> Vec<String> {
        let gallery = Gallery::of_folder(folder, "sheet", &|_| "command".into()).unwrap();
        gallery.cells.into_iter().filter_map(|cell| cell.file).collect()
    }

    #[test]
    fn pictures_come_by_name_or_in_the_order_of_their_list() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path();
        std::fs::create_dir(at.join("ab")).unwrap();
        std::fs::create_dir(at.join("other")).unwrap();
        for name in ["10.png", "2.png", "sheet.png", "ab/abc.png", "other/x.png", "x.preview.png"] {
            picture(at, name);
        }
        std::fs::write(at.join("text.txt"), "").unwrap();
        assert_eq!(names(at), ["2.png", "10.png", "ab/abc.png"]);
        std::fs::write(at.join(LIST), "{\"id\":\"abc\"}\nno json\n{\"id\":\"10\"}\n").unwrap();
        assert_eq!(names(at), ["ab/abc.png", "10.png", "2.png"]);
    }

    #[test]
    fn what_does_not_read_is_shown_as_such() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("bad.png"), "x").unwrap();
        picture(folder.path(), "good.png");
        let gallery = Gallery::of_folder(folder.path(), "sheet", &|_| String::new()).unwrap();
        assert!(gallery.cells[0].error.is_some());
        let good = &gallery.cells[1];
        assert_eq!((good.caption.as_str(), good.width, good.height), ("good", 8, 4));
        assert_eq!(good.command, None);
        let empty = tempfile::tempdir().unwrap();
        assert!(Gallery::of_folder(empty.path(), "sheet", &|_| String::new()).is_err());
    }
}
