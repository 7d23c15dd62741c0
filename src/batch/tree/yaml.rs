//! YAML as a tree of values. Aliases are followed within the parser's limits; tags have no meaning.

use super::node::{Entry, Kind, Node, float};
use crate::error::{Error, LineError};
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use serde_saphyr::Spanned;
use std::fmt;

/// Reads a text, which is one document.
///
/// # Errors
/// The line of what is no YAML.
pub(super) fn parse(text: &str) -> Result<Node, LineError> {
    if text.trim().is_empty() {
        return Ok(Node { line: 1, kind: Kind::Table(Vec::new()) });
    }
    serde_saphyr::from_str::<Node>(text).map_err(|error| {
        let line = error.location().map_or(1, |location| location.line() as usize);
        let text = error.to_string();
        let why = text.lines().next().unwrap_or_default().to_owned();
        LineError::new(line, Error::bad_request("yaml", "", why))
    })
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Kind>::deserialize(deserializer)?;
        Ok(Self { line: spanned.referenced.line() as usize, kind: spanned.value })
    }
}

impl<'de> Deserialize<'de> for Kind {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyKind)
    }
}

/// Makes a [`Kind`] of whatever stands there.
struct AnyKind;

impl<'de> Visitor<'de> for AnyKind {
    type Value = Kind;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text, a number, a list or a table")
    }

    fn visit_bool<E>(self, yes: bool) -> Result<Kind, E> {
        Ok(Kind::One(yes.into()))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Kind, E> {
        Ok(Kind::One(number.into()))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Kind, E> {
        Ok(Kind::One(number.into()))
    }

    fn visit_f64<E: serde::de::Error>(self, number: f64) -> Result<Kind, E> {
        let why = || E::custom(format!("{number} is no finite number"));
        float(number).map(Kind::One).ok_or_else(why)
    }

    fn visit_str<E>(self, text: &str) -> Result<Kind, E> {
        Ok(Kind::One(text.into()))
    }

    fn visit_unit<E>(self) -> Result<Kind, E> {
        Ok(Kind::One(Value::Null))
    }

    fn visit_none<E>(self) -> Result<Kind, E> {
        Ok(Kind::One(Value::Null))
    }

    fn visit_some<D: Deserializer<'de>>(self, value: D) -> Result<Kind, D::Error> {
        Kind::deserialize(value)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Kind, A::Error> {
        let mut nodes = Vec::new();
        while let Some(node) = list.next_element()? {
            nodes.push(node);
        }
        Ok(Kind::List(nodes))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Kind, A::Error> {
        let mut entries = Vec::new();
        while let Some(name) = map.next_key::<Spanned<String>>()? {
            let Node { kind, .. } = map.next_value()?;
            let line = name.referenced.line() as usize;
            entries.push(Entry { name: name.value, value: Node { line, kind } });
        }
        Ok(Kind::Table(entries))
    }
}
