//! The texts in picture files, of this program and of others.

/// Texts of one file that are looked at.
const MOST_TEXTS: usize = 256;

/// Where in a picture file a text stands.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Place {
    /// In a PNG text of this keyword.
    Keyword(String),
    /// Where colora keeps its own record, whatever the format of the file.
    Colora,
    /// EXIF's `UserComment`.
    UserComment,
    /// EXIF's `MakerNote`.
    MakerNote,
    /// EXIF's `Make`.
    Make,
    /// EXIF's `Model`.
    Model,
    /// EXIF's `Software`.
    Software,
    /// The XMP packet.
    Xmp,
}

/// The texts of a picture file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Embedded {
    texts: Vec<(Place, String)>,
    /// Width and height in pixels; zeros when nobody looked.
    size: (u32, u32),
}

impl Embedded {
    /// A file with these texts alone.
    pub fn of(texts: impl IntoIterator<Item = (Place, String)>) -> Self {
        let mut found = Self::default();
        texts.into_iter().for_each(|(place, text)| found.put(place, text));
        found
    }

    /// The text at `place`.
    pub fn get(&self, place: &Place) -> Option<&str> {
        self.texts.iter().find(|(known, _)| known == place).map(|(_, text)| text.as_str())
    }

    /// The PNG text called `keyword`.
    pub fn keyword(&self, keyword: &str) -> Option<&str> {
        let is_it = |place: &Place| matches!(place, Place::Keyword(known) if known == keyword);
        self.texts.iter().find(|(place, _)| is_it(place)).map(|(_, text)| text.as_str())
    }

    /// Every PNG text.
    pub fn keywords(&self) -> impl Iterator<Item = (&str, &str)> {
        self.texts.iter().filter_map(|(place, text)| match place {
            Place::Keyword(name) => Some((name.as_str(), text.as_str())),
            _ => None,
        })
    }

    /// Whether there is no text.
    pub fn is_empty(&self) -> bool {
        self.texts.is_empty()
    }

    /// Width and height in pixels, when they are known.
    pub fn size(&self) -> Option<(u32, u32)> {
        Some(self.size).filter(|(width, height)| *width > 0 && *height > 0)
    }

    /// Puts a text in its place; the first one counts.
    pub(super) fn put(&mut self, place: Place, text: String) {
        let room = self.texts.len() < MOST_TEXTS;
        if room && self.get(&place).is_none() {
            self.texts.push((place, text));
        }
    }

    /// Notes the size in pixels.
    pub(super) fn set_size(&mut self, size: (u32, u32)) {
        self.size = size;
    }
}
