//! An axis of a sweep: what varies, and its values.

use super::found;
use super::kind::Kind;
use super::values::{self, Written};
use crate::error::{Error, Result};
use crate::store::Store;

/// Pieces of a prompt whose orders are tried: 5! = 120 pictures.
const MOST_PIECES: usize = 5;

/// An axis.
#[derive(Debug, Clone)]
pub struct Axis {
    /// What varies, as the user calls it.
    pub name: String,
    /// What varies, as legends call it.
    pub title: String,
    /// Its values in their order, at least one.
    pub values: Vec<AxisValue>,
    pub(super) kind: Kind,
}

/// A value of an axis.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AxisValue {
    /// The text that it was given as.
    pub text: String,
    /// What legends write.
    pub label: String,
    /// Whether it stands for nothing: a setting that stays open, a LoRA that is left out.
    pub nothing: bool,
}

impl Axis {
    /// Reads `NAME=VALUES`; `store` has the LoRAs that globs stand for.
    ///
    /// # Errors
    /// [`Error::BadRequest`] naming the axis, and near matches of it.
    pub fn parse(spec: &str, store: &Store) -> Result<Self> {
        let (name, text) = divided(spec)?;
        let kind = Kind::of(name)?;
        let named = |error: Error| of_axis(name, error);
        let mut written = values::read(text, kind.is_number()).map_err(named)?;
        if kind == Kind::Loras {
            written = found::loras(written, store).map_err(named)?;
        }
        let texts = match &kind {
            Kind::Order => orders(&written).map_err(named)?,
            _ => written,
        };
        let title = kind.title();
        let value = |written: Written| {
            let nothing = kind != Kind::Order && written.is_nothing();
            let label = label(&kind, &title, &written, nothing);
            AxisValue { text: written.text, label, nothing }
        };
        let mut values: Vec<AxisValue> = texts.into_iter().map(value).collect();
        let all = values.len();
        // A value that comes twice would be the same picture twice.
        let mut known = std::collections::BTreeSet::new();
        values.retain(|value| known.insert((value.text.clone(), value.nothing)));
        if values.len() < all {
            let why = "a value stands twice in the list";
            return Err(of_axis(name, Error::bad_request("values", text, why)));
        }
        Ok(Self { name: name.to_owned(), title, values, kind })
    }
}

/// Name and values of an axis. A name may hold `=` only in quotes: `prompt:"a=b"=…`.
fn divided(spec: &str) -> Result<(&str, &str)> {
    let mut quoted = false;
    let at = spec.char_indices().find_map(|(at, c)| {
        quoted ^= c == '"';
        (c == '=' && !quoted).then_some(at)
    });
    let at = at.ok_or_else(|| {
        let why = "expected NAME=VALUES, such as steps=10,20,30 or lora.NAME=0..1:0.25";
        Error::bad_request("axis", spec, why)
    })?;
    Ok((spec[..at].trim(), &spec[at + 1..]))
}

/// An error about a value, with the axis that it belongs to.
pub(super) fn of_axis(name: &str, error: Error) -> Error {
    match error {
        Error::BadRequest { value, why, hint, .. } => {
            let value = if value.is_empty() { name.to_owned() } else { format!("{name}={value}") };
            Error::BadRequest { field: "axis", value, why, hint }
        }
        other => other,
    }
}

/// What legends write of a value.
fn label(kind: &Kind, title: &str, written: &Written, nothing: bool) -> String {
    let text = match kind {
        Kind::Loras | Kind::Model(_) => super::kind::file_name(&written.text),
        _ => written.text.as_str(),
    };
    match kind {
        Kind::Nothing => String::new(),
        Kind::Replace(_) | Kind::Field("prompt" | "negative_prompt") if nothing => "(none)".into(),
        _ if nothing => format!("{title}: none"),
        _ if kind.stands_alone() => text.to_owned(),
        _ => format!("{title}: {text}"),
    }
}

/// Every order of some pieces, each as the pieces between commas.
fn orders(pieces: &[Written]) -> Result<Vec<Written>> {
    if pieces.len() > MOST_PIECES {
        return Err(Error::Limit {
            what: "pieces of a prompt in every order",
            allowed: MOST_PIECES as u64,
            asked: pieces.len() as u64,
        });
    }
    let mut all: Vec<Vec<&str>> = vec![Vec::new()];
    for _ in pieces {
        all = all
            .into_iter()
            .flat_map(|begun| {
                let open = pieces.iter().filter(|piece| !begun.contains(&piece.text.as_str()));
                open.map(|piece| [begun.clone(), vec![piece.text.as_str()]].concat())
                    .collect::<Vec<_>>()
            })
            .collect();
    }
    let whole = all.into_iter().filter(|order| order.len() == pieces.len());
    Ok(whole.map(|order| Written { text: order.join(", "), quoted: true }).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> Store {
        let folder = std::env::temp_dir();
        Store::new(&[], &folder, &|_| None)
    }

    fn labels(spec: &str) -> Vec<String> {
        let axis = Axis::parse(spec, &store()).unwrap();
        axis.values.into_iter().map(|value| value.label).collect()
    }

    #[test]
    fn labels_say_what_legends_of_others_say() {
        assert_eq!(labels("steps=1-3"), ["Steps: 1", "Steps: 2", "Steps: 3"]);
        assert_eq!(labels("CFG Scale=5,7.5"), ["CFG scale: 5", "CFG scale: 7.5"]);
        assert_eq!(labels("lora.anime=none,0.5"), ["anime: none", "anime: 0.5"]);
        assert_eq!(labels("lora.loras/anime.safetensors.te=1"), ["anime text: 1"]);
        assert_eq!(labels("sampler=Euler a,dpmpp-2m"), ["Euler a", "dpmpp-2m"]);
        assert_eq!(labels("Prompt S/R=cat,dog,\"\""), ["cat", "dog", "(none)"]);
        assert_eq!(labels("prompt:red=red,green"), ["red", "green"]);
        assert_eq!(labels("replace:red=green"), ["green"]);
        assert_eq!(labels("prompt:\"a=b\"=\"a=b\",c"), ["a=b", "c"]);
        assert_eq!(labels("order=a,b,c").len(), 6);
        assert_eq!(labels("order=a,b"), ["a, b", "b, a"]);
        assert_eq!(labels("size=64x64,128x64"), ["Size: 64x64", "Size: 128x64"]);
        assert_eq!(labels("model=a/b.safetensors"), ["b"]);
        assert_eq!(labels("nothing="), [""]);
    }

    #[test]
    fn errors_name_axis_and_value() {
        for (spec, part) in [
            ("steps", "expected NAME=VALUES"),
            ("steps=0..1:0", "steps=0"),
            ("stepz=1", "`steps`"),
            ("seed=1,1", "twice"),
            ("seed=1..99999", "values of an axis"),
            ("order=a,b,c,d,e,f", "pieces of a prompt"),
            ("Prompt S/R=\"a", "not closed"),
        ] {
            let message = Axis::parse(spec, &store()).unwrap_err().to_string();
            assert!(message.contains(part), "{spec}: {message}");
        }
    }
}
