//! Jobs that are made of pictures: the settings in a record, beneath what flags and the line say.

use super::draft::Draft;
use crate::app::{CheckedRecord, Layers, Origin, UncheckedRecord, Used, What, record as records};
use crate::error::{Error, LineError, Result};
use crate::plain;
use crate::store::Store;
use std::collections::{BTreeSet, HashSet};
use std::path::{Path, PathBuf};

/// The ends of the names of pictures.
const EXTENSIONS: [&str; 4] = ["png", "jpg", "jpeg", "webp"];
/// How deep folders are looked into.
const DEPTH: usize = 4;

/// Whether `path` is called as a picture is, or is a folder.
pub fn is_picture(path: &Path) -> bool {
    path.is_dir() || has_extension(path)
}

fn has_extension(path: &Path) -> bool {
    let extension = path.extension().and_then(|e| e.to_str()).map(str::to_lowercase);
    extension.is_some_and(|extension| EXTENSIONS.contains(&&*extension))
}

/// The pictures of `paths`; those of a folder sorted by name, hidden ones left out.
///
/// # Errors
/// [`Error::Io`] for a folder that cannot be listed.
pub(super) fn list(paths: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for path in paths {
        if path.is_dir() {
            collect(path, DEPTH, &mut found)?;
        } else {
            found.push(path.clone());
        }
    }
    Ok(found)
}

fn collect(folder: &Path, depth: usize, found: &mut Vec<PathBuf>) -> Result<()> {
    let io = |error| Error::io(folder, error);
    let entries = std::fs::read_dir(folder).map_err(io)?;
    let mut entries: Vec<_> = entries.collect::<Result<_, _>>().map_err(io)?;
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let (path, kind) = (entry.path(), entry.file_type().map_err(io)?);
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            continue;
        }
        if kind.is_dir() && depth > 0 {
            collect(&path, depth - 1, found)?;
        } else if kind.is_file() && has_extension(&path) {
            found.push(path);
        }
    }
    Ok(())
}

/// Looks at the pictures that drafts name: what cannot be read is a mistake, what colora does not follow a remark.
pub(super) fn look(
    drafts: &mut Vec<Draft>,
    mistakes: &mut Vec<LineError>,
    remarks: &mut Vec<String>,
) {
    let (mut met, mut ignored) = (HashSet::new(), BTreeSet::new());
    drafts.retain(|draft| {
        let Some(path) = draft.from.as_ref().filter(|path| met.insert((*path).clone())) else {
            return true;
        };
        let read = records::read(path).map(|record| ignored.extend(record.ignored));
        let failed = read.map_err(|error| mistakes.push(LineError::new(draft.line, error)));
        failed.is_ok()
    });
    if !ignored.is_empty() {
        let ignored: Vec<String> = ignored.into_iter().collect();
        remarks.push(format!(
            "the pictures have settings that change nothing here: {}",
            ignored.join(", ")
        ));
    }
}

/// The record of the picture `path` for a job; names that lead out of reach are refused.
///
/// # Errors
/// What reading it gives; [`Error::Unsupported`] for a sampler that colora does not have; [`Error::BadRequest`] for a
/// model or a LoRA out of reach.
pub(super) fn record(
    path: &Path,
    draft: &Draft,
    base: &Layers,
    store: &Store,
) -> Result<CheckedRecord> {
    let sets =
        |key: &str| draft.values.contains_key(key) || base.origin(key) == Some(&Origin::Caller);
    let unchecked = UncheckedRecord::read(path)?;
    let sampler = unchecked.shown().unknown_sampler.clone();
    if let Some(sampler) = sampler.filter(|_| !(sets("sampler") && sets("schedule"))) {
        let what = format!("the sampler `{}` of {}", plain::value(&sampler), plain::path(path));
        return Err(Error::unsupported(what, "choose a sampler and a schedule"));
    }
    let used = Used {
        model: !sets("model"),
        refiner: !sets("refiner"),
        vae: !sets("vae"),
        loras: !sets("loras"),
        tags: !sets("prompt"),
    };
    let is_own = |what: What, word: &str| match what {
        What::Model => base.text("model") == Some(word),
        What::Vae => base.text("vae") == Some(word),
        What::Refiner | What::Lora | What::Tag => false,
    };
    let (record, beyond) = unchecked.check(store, used, &is_own);
    let Some(first) = beyond.first() else { return Ok(record) };
    let why = format!(
        "the picture names the {} `{}`, which lies neither in a folder of models or LoRAs nor beside the picture; choose \
         another",
        first.what.name(),
        plain::value(&first.word)
    );
    Err(Error::bad_request("from", path.display(), why))
}

#[cfg(test)]
mod tests {
    use super::super::list::{Seeding, list as jobs_of};
    use super::super::source::{Format, Source};
    use super::*;
    use crate::picture::{Picture, png};
    use serde_json::{Map, Value};

    fn picture(path: &Path, parameters: &str) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let texts = png::Texts { parameters: Some(parameters.into()), colora: None };
        let bytes = png::encode(&Picture::new(1, 1, vec![0; 3]).unwrap(), &texts).unwrap();
        std::fs::write(path, bytes).unwrap();
    }

    /// What a picture says lies beneath flags, and those beneath the line.
    #[test]
    fn pictures_are_jobs() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        picture(
            &at("p/b.png"),
            "a fox\nSteps: 7, Sampler: Euler, CFG scale: 3, Seed: 5, Size: 64x128",
        );
        picture(&at("p/a/c.png"), "a cat\nSteps: 8, Sampler: Euler, Seed: 6");
        std::fs::write(at("p/notes.txt"), "no picture").unwrap();
        assert!(is_picture(&at("p")) && is_picture(&at("x.WebP")) && !is_picture(&at("x.csv")));
        let home = at("home");
        let store = Store::new(&[], folder.path(), &move |_| Some(home.clone().into_os_string()));
        let mut base = Layers::default();
        let flags: Map<String, Value> = serde_json::from_str(r#"{"width": 72}"#).unwrap();
        base.caller(flags);
        let jobs = |source: &Source| {
            assert!(source.mistakes.is_empty(), "{:?}", source.mistakes);
            let (jobs, mistakes) = jobs_of(&source.drafts, &base, &store, Seeding::default());
            assert!(mistakes.is_empty(), "{mistakes:?}");
            jobs.into_iter().map(|listed| listed.job.request).collect::<Vec<_>>()
        };
        let found = jobs(&Source::pictures(&[at("p")]).unwrap());
        let prompts: Vec<&str> = found.iter().map(|request| &*request.prompt).collect();
        assert_eq!(prompts, ["a cat", "a fox"]);
        let fox = &found[1];
        assert_eq!(
            (fox.steps, fox.seed, fox.width, fox.height),
            (Some(7), Some(5), Some(72), Some(128))
        );
        let line =
            format!("{}\n", serde_json::json!({"from": at("p/b.png"), "steps": 3, "width": 80}));
        let source = Source::parse(Path::new("x"), &line, Some(Format::Jsonl), true).unwrap();
        let found = jobs(&source);
        assert_eq!((found[0].steps, found[0].width, found[0].seed), (Some(3), Some(80), Some(5)));
        let source = Source::pictures(&[at("p/b.png"), at("none.png"), at("p/notes.txt")]).unwrap();
        let lines: Vec<usize> = source.mistakes.iter().map(|mistake| mistake.line).collect();
        assert_eq!(lines, [2, 3]);
    }
}
