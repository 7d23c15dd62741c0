//! Collections of wildcards: lists of values by name.

use crate::suggest;
use std::collections::{BTreeMap, HashSet};

/// Most values that the files of a pattern give together.
const MOST: usize = 1_000_000;
/// Most times that a value is listed for its weight.
const MOST_TIMES: usize = 1000;

/// A value of a wildcard, which is a template itself.
#[derive(Debug, Clone, PartialEq)]
pub struct Value {
    /// The template.
    pub text: String,
    /// How likely it is against the others; where all prompts are listed, how often it comes.
    pub weight: f64,
}

impl Value {
    /// How often the value is listed where all prompts are: by its weight, without its fraction, but once at least
    /// unless the weight is 0.
    pub(super) fn times(&self) -> usize {
        if self.weight > 0.0 { (self.weight as usize).clamp(1, MOST_TIMES) } else { 0 }
    }
}

impl<T: Into<String>> From<T> for Value {
    fn from(text: T) -> Self {
        Self { text: text.into(), weight: 1.0 }
    }
}

/// Values by the names of their collections: `animals/cats`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Collections {
    named: BTreeMap<String, Vec<Value>>,
    /// What to say when a name is not found.
    notes: Vec<String>,
}

impl Collections {
    /// Adds a collection, or replaces the one of this name.
    pub fn insert<V: Into<Value>>(
        &mut self,
        name: impl Into<String>,
        values: impl IntoIterator<Item = V>,
    ) {
        self.named.insert(name.into(), values.into_iter().map(Into::into).collect());
    }

    /// Adds a remark for whoever looks for a name that is not there.
    pub fn note(&mut self, remark: impl Into<String>) {
        self.notes.push(remark.into());
    }

    /// The names of all collections, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.named.keys().map(String::as_str)
    }

    /// How many collections there are.
    pub fn len(&self) -> usize {
        self.named.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.named.is_empty()
    }

    /// The values of every collection whose name fits `pattern`, each once, sorted. Where none fits, a folder before
    /// the pattern is tried: `cats` finds `animals/cats`.
    ///
    /// `pattern`: `*` stands for any characters (`/` too), `?` for one, `[ab]` for one of these.
    pub fn matching(&self, pattern: &str) -> Vec<Value> {
        let pattern = cleaned(pattern);
        let mut found = self.of(&pattern);
        if found.is_empty() && !pattern.starts_with("**") {
            found = self.of(&format!("**/{pattern}"));
        }
        let mut seen = HashSet::new();
        found.retain(|value| seen.insert((value.text.clone(), value.weight.to_bits())));
        found.sort_by(|a, b| a.text.cmp(&b.text));
        found
    }

    fn of(&self, pattern: &str) -> Vec<Value> {
        let glob = Glob::new(pattern);
        let fits = self.named.iter().filter(|(name, _)| glob.fits(name));
        fits.flat_map(|(_, values)| values).take(MOST).cloned().collect()
    }

    /// What to write instead of a name that no collection has.
    pub(super) fn advice(&self, name: &str) -> String {
        let all = [self.near(name)].into_iter().chain(self.notes.iter().take(3).cloned());
        all.collect::<Vec<_>>().join("; ")
    }

    fn near(&self, name: &str) -> String {
        if self.is_empty() {
            return "there are no wildcards here; a wildcard NAME is a file wildcards/NAME.txt with a value a line"
                .into();
        }
        let near = suggest::did_you_mean(name, self.names());
        if !near.is_empty() {
            return near.trim_start_matches("; ").to_owned();
        }
        let some: Vec<&str> = self.names().take(8).collect();
        let more = if self.len() > some.len() { ", ..." } else { "" };
        format!("there are {}{more}", some.join(", "))
    }
}

/// A pattern with slashes as names have them.
fn cleaned(pattern: &str) -> String {
    let parts: Vec<&str> = pattern.split(['/', '\\']).filter(|part| !part.is_empty()).collect();
    parts.join("/")
}

/// A shell's pattern over whole names.
struct Glob {
    parts: Vec<Part>,
}

enum Part {
    Any,
    One,
    Of { chars: Vec<(char, char)>, others: bool },
    Char(char),
}

impl Part {
    fn fits(&self, c: char) -> bool {
        match self {
            Self::Any | Self::One => true,
            Self::Of { chars, others } => {
                chars.iter().any(|(from, to)| (*from..=*to).contains(&c)) != *others
            }
            Self::Char(own) => *own == c,
        }
    }
}

impl Glob {
    fn new(pattern: &str) -> Self {
        let chars: Vec<char> = pattern.chars().collect();
        let (mut parts, mut at) = (Vec::new(), 0);
        while let Some(c) = chars.get(at) {
            at += 1;
            parts.push(match c {
                // Several stars are one.
                '*' if matches!(parts.last(), Some(Part::Any)) => continue,
                '*' => Part::Any,
                '?' => Part::One,
                '[' => match set(&chars[at..]) {
                    Some((part, length)) => {
                        at += length;
                        part
                    }
                    None => Part::Char('['),
                },
                c => Part::Char(*c),
            });
        }
        Self { parts }
    }

    /// Whether `name` as a whole fits. The time it takes is at most the product of both lengths.
    fn fits(&self, name: &str) -> bool {
        let name: Vec<char> = name.chars().collect();
        let (mut part, mut at) = (0, 0);
        // Where to go on when what follows the last star does not fit: one character later.
        let mut star: Option<(usize, usize)> = None;
        while at < name.len() {
            match self.parts.get(part) {
                Some(Part::Any) => {
                    star = Some((part, at));
                    part += 1;
                }
                Some(one) if one.fits(name[at]) => {
                    part += 1;
                    at += 1;
                }
                _ => match &mut star {
                    Some((behind, from)) => {
                        *from += 1;
                        (part, at) = (*behind + 1, *from);
                    }
                    None => return false,
                },
            }
        }
        self.parts[part..].iter().all(|part| matches!(part, Part::Any))
    }
}

/// `abc]`, `!a-z]`: a set and its length; nothing where it is not closed.
fn set(chars: &[char]) -> Option<(Part, usize)> {
    let others = chars.first() == Some(&'!');
    let from = usize::from(others);
    // A bracket in the first place is one of the characters.
    let end = chars.iter().skip(from + 1).position(|c| *c == ']')? + from + 1;
    let (mut ranges, mut at) = (Vec::new(), from);
    while at < end {
        let range = at + 2 < end && chars[at + 1] == '-';
        ranges.push((chars[at], if range { chars[at + 2] } else { chars[at] }));
        at += if range { 3 } else { 1 };
    }
    Some((Part::Of { chars: ranges, others }, end + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_fit_whole_names() {
        for (pattern, name, fits) in [
            ("a/b", "a/b", true),
            ("*", "a/b", true),
            ("a*", "ba", false),
            ("**/b", "a/b", true),
            ("**/b", "b", false),
            ("a?c", "abc", true),
            ("[ab]x", "bx", true),
            ("[!ab]x", "bx", false),
            ("[a-c]x", "bx", true),
            ("[]]x", "]x", true),
            ("[a", "[a", true),
            ("*a*a*b", "aaaaaaaaaaaaaaaaaaaaaaaaaaaac", false),
            ("", "", true),
        ] {
            assert_eq!(Glob::new(pattern).fits(name), fits, "{pattern} {name}");
        }
    }

    #[test]
    fn values_come_once_and_sorted() {
        let mut all = Collections::default();
        all.insert("a/x", ["b", "a"]);
        all.insert("x", ["b", "c"]);
        let texts = |pattern| -> Vec<String> {
            all.matching(pattern).into_iter().map(|value| value.text).collect()
        };
        assert_eq!(texts("*x"), ["a", "b", "c"]);
        assert_eq!(texts("/a//x/"), ["a", "b"]);
        assert_eq!(texts("a\\x"), ["a", "b"]);
        assert!(texts("y").is_empty());
        assert_eq!(all.advice("a/y"), "did you mean `a/x`?");
        assert_eq!(all.advice("zebra"), "there are a/x, x");
    }
}
