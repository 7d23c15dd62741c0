//! Names of pictures: text with `{fields}`, made safe.

use super::clock::Moment;
use crate::error::{Error, Result};
use crate::picture::Format;
use crate::suggest::did_you_mean;
use std::ffi::{OsStr, OsString};
use std::path::{MAIN_SEPARATOR, Path, PathBuf};

/// The template when the user names none.
pub(super) const DEFAULT: &str = "{date}-{seed}-{index}.png";

/// Picture formats that are not written.
const FOREIGN: [&str; 5] = ["gif", "bmp", "tif", "tiff", "avif"];
/// Longest field, in bytes: a name has at most 255 on most systems.
const MAX_FIELD: usize = 100;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    Date,
    Time,
    Seed,
    Index,
    Model,
    Prompt,
}

const FIELDS: [(&str, Field); 6] = [
    ("date", Field::Date),
    ("time", Field::Time),
    ("seed", Field::Seed),
    ("index", Field::Index),
    ("model", Field::Model),
    ("prompt", Field::Prompt),
];

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(OsString),
    Field(Field),
}

/// What fields stand for.
#[derive(Debug, Clone)]
pub(super) struct Facts {
    /// When the pictures are named.
    pub(super) now: Moment,
    /// Seed of the first picture.
    pub(super) seed: u64,
    /// The model's name.
    pub(super) model: String,
    /// The prompt.
    pub(super) prompt: String,
}

/// A parsed template; its names end in the extension of a format that is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Template(Vec<Piece>);

impl Template {
    /// Parses what the user wrote.
    ///
    /// A folder gets the default name in it, a name without a known extension gets `.png`, and names of `count` > 1
    /// pictures get an index unless something tells them apart already.
    ///
    /// # Errors
    /// [`Error::BadRequest`] for unknown fields, stray braces and other picture formats.
    pub(super) fn new(text: impl AsRef<OsStr>, count: usize) -> Result<Self> {
        let text = text.as_ref();
        let bytes = text.as_encoded_bytes();
        let folder = [b'/', MAIN_SEPARATOR as u8].iter().any(|end| bytes.last() == Some(end));
        let folder = folder || Path::new(text).is_dir();
        let text = if folder { Path::new(text).join(DEFAULT).into() } else { text.to_owned() };
        let extension =
            Path::new(&text).extension().and_then(|e| e.to_str()).map(str::to_lowercase);
        let bytes = text.as_encoded_bytes();
        let (stem, end) = match (extension.as_deref(), Format::of(Path::new(&text))) {
            (Some(e), Some(_)) => (&bytes[..bytes.len() - e.len() - 1], e),
            (Some(e), None) if FOREIGN.contains(&e) => {
                return Err(bad(&text, ".png, .jpg and .webp are written".into()));
            }
            _ => (bytes, "png"),
        };
        if Path::new(&os(stem)).file_name().is_none() {
            return Err(bad(&text, "expected a file name, a template or -".into()));
        }
        let mut pieces = parse(stem).map_err(|why| bad(&text, why))?;
        let distinct = |p: &Piece| matches!(p, Piece::Field(Field::Index | Field::Seed));
        if count > 1 && !pieces.iter().any(distinct) {
            pieces.extend([Piece::Text("-".into()), Piece::Field(Field::Index)]);
        }
        pieces.push(Piece::Text(format!(".{end}").into()));
        Ok(Self(pieces))
    }

    /// The name of picture `index`.
    pub(super) fn name(&self, facts: &Facts, index: usize) -> PathBuf {
        let piece = |piece: &Piece| -> OsString {
            match piece {
                Piece::Text(text) => text.clone(),
                Piece::Field(Field::Date) => facts.now.date.clone().into(),
                Piece::Field(Field::Time) => facts.now.time.clone().into(),
                Piece::Field(Field::Seed) => {
                    facts.seed.wrapping_add(index as u64).to_string().into()
                }
                Piece::Field(Field::Index) => index.to_string().into(),
                Piece::Field(Field::Model) => safe(&facts.model).into(),
                Piece::Field(Field::Prompt) => safe(&facts.prompt).into(),
            }
        };
        self.0.iter().map(piece).collect::<OsString>().into()
    }
}

fn bad(text: &OsStr, why: String) -> Error {
    Error::bad_request("output", text.display(), why)
}

/// A part of a name between ASCII characters; on unix whatever bytes a name may have.
fn os(bytes: &[u8]) -> OsString {
    #[cfg(unix)]
    return std::os::unix::ffi::OsStringExt::from_vec(bytes.to_vec());
    #[cfg(not(unix))]
    String::from_utf8_lossy(bytes).into_owned().into()
}

fn parse(text: &[u8]) -> Result<Vec<Piece>, String> {
    let mut pieces = Vec::new();
    let mut plain = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.iter().position(|byte| b"{}".contains(byte)) {
        plain.extend(&rest[..at]);
        let brace = rest[at];
        rest = &rest[at + 1..];
        let closing = rest.iter().position(|byte| *byte == b'}').filter(|_| brace == b'{');
        if let Some(after) = rest.strip_prefix(&[brace]) {
            plain.push(brace);
            rest = after;
        } else if let Some(end) = closing {
            let name = String::from_utf8_lossy(&rest[..end]);
            pieces.extend([Piece::Text(os(&plain)), Piece::Field(field(&name)?)]);
            plain.clear();
            rest = &rest[end + 1..];
        } else {
            let brace = char::from(brace);
            return Err(format!(
                "the brace `{brace}` stands alone; write {brace}{brace} for itself"
            ));
        }
    }
    plain.extend(rest);
    pieces.push(Piece::Text(os(&plain)));
    Ok(pieces)
}

fn field(name: &str) -> Result<Field, String> {
    FIELDS.iter().find(|(known, _)| *known == name).map(|(_, field)| *field).ok_or_else(|| {
        let near = did_you_mean(name, FIELDS.map(|(known, _)| known));
        let known = FIELDS.map(|(known, _)| format!("{{{known}}}")).join(" ");
        let also = if near.is_empty() { ";" } else { "" };
        format!("unknown field `{name}`{near}{also} there are {known}")
    })
}

/// `text` as a part of one file name: letters, digits and `-_.`, the rest as single dashes.
pub(crate) fn safe(text: &str) -> String {
    let mut name = String::new();
    for c in text.chars() {
        let c = if c.is_alphanumeric() || ['_', '.'].contains(&c) { c } else { '-' };
        if !(c == '-' && name.ends_with('-')) {
            name.push(c);
        }
        if name.len() > MAX_FIELD {
            name.pop();
            break;
        }
    }
    // No hidden files, no `..`.
    let name = name.trim_matches(['-', '.']);
    if name.is_empty() { "untitled".to_owned() } else { name.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(prompt: &str) -> Facts {
        Facts {
            now: Moment { date: "2026-11-23".into(), time: "120000".into() },
            seed: 7,
            model: "../m".into(),
            prompt: prompt.into(),
        }
    }

    fn name(text: &str, count: usize, index: usize) -> String {
        let template = Template::new(text, count).unwrap();
        template.name(&facts("a fox: in/../the *snow*"), index).to_str().unwrap().to_owned()
    }

    #[test]
    fn names() {
        assert_eq!(name(DEFAULT, 1, 0), "2026-11-23-7-0.png");
        assert_eq!(name("out/{prompt}-{time}", 1, 0), "out/a-fox-in-..-the-snow-120000.png");
        assert_eq!(name("{model}/{{x}}.PNG", 1, 0), "m/{x}.png");
        assert_eq!(name("new/", 1, 0), "new/2026-11-23-7-0.png");
        assert_eq!(name("v1.5", 1, 0), "v1.5.png");
        assert_eq!(name("fox.JPG", 2, 1), "fox-1.jpg");
        assert_eq!(name("fox.webp", 1, 0), "fox.webp");
    }

    #[test]
    fn several_pictures_have_several_names() {
        assert_eq!(
            (name("fox.png", 1, 0), name("fox.png", 3, 2)),
            ("fox.png".into(), "fox-2.png".into())
        );
        assert_eq!(name("fox-{seed}", 3, 2), "fox-9.png");
    }

    #[test]
    fn fields_cannot_leave_the_folder() {
        for text in ["..", "/", "../../etc/passwd", "\0", "  ", "....", "C:\\x"] {
            let part = safe(text);
            assert!(
                !part.contains(['/', '\\', ':', '\0']) && !part.starts_with('.'),
                "{text} {part}"
            );
            assert!(!part.is_empty());
        }
        assert!(safe(&"猫".repeat(500)).len() <= MAX_FIELD);
    }

    #[test]
    #[cfg(unix)]
    fn names_that_are_no_text_stay_as_they_are() {
        use std::os::unix::ffi::{OsStrExt, OsStringExt};
        let text = OsString::from_vec(b"\xff{{{seed}\xc3.png".to_vec());
        let name = Template::new(text, 2).unwrap().name(&facts("x"), 1);
        assert_eq!(name.as_os_str().as_bytes(), b"\xff{8\xc3.png");
        let wrong = OsString::from_vec(b"\xff{sed}".to_vec());
        assert!(Template::new(wrong, 1).unwrap_err().to_string().contains("`seed`"));
    }

    #[test]
    fn mistakes_are_explained() {
        for (text, part) in [
            ("{sed}.png", "did you mean `seed`"),
            ("{what}", "{prompt}"),
            ("a{", "stands alone"),
            ("a}b", "stands alone"),
            ("{seed", "stands alone"),
            ("fox.GIF", ".png, .jpg and .webp"),
            ("", "expected a file name"),
        ] {
            let error = Template::new(text, 1).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
