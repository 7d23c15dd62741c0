//! TOML as a tree of values.

use super::node::{Entry, Kind, Node, float};
use crate::error::{Error, LineError};
use serde_json::Value;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Reads a text.
///
/// # Errors
/// The line of what is no TOML, or of a value that no field takes.
pub(super) fn parse(text: &str) -> Result<Node, LineError> {
    let lines = Lines::of(text);
    let table = DeTable::parse(text).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start);
        let why = Error::bad_request("toml", "", error.message().to_owned());
        LineError::new(lines.at(at), why)
    })?;
    let at = table.span().start;
    Ok(Node { line: lines.at(at), kind: entries(table.into_inner(), &lines)? })
}

fn entries(table: DeTable<'_>, lines: &Lines) -> Result<Kind, LineError> {
    // The parser sorts keys by their letters; the order of the file is that of their places.
    let mut entries: Vec<_> = table.into_iter().collect();
    entries.sort_by_key(|(key, _)| key.span().start);
    let entry = |(key, value): (Spanned<_>, _)| {
        let line = lines.at(key.span().start);
        let Node { kind, .. } = node(value, lines)?;
        Ok(Entry { name: String::from(key.into_inner()), value: Node { line, kind } })
    };
    Ok(Kind::Table(entries.into_iter().map(entry).collect::<Result<_, _>>()?))
}

fn node(value: Spanned<DeValue<'_>>, lines: &Lines) -> Result<Node, LineError> {
    let line = lines.at(value.span().start);
    let wrong = |found: &dyn std::fmt::Display, why| {
        LineError::new(line, Error::bad_request("key", found, why))
    };
    let kind = match value.into_inner() {
        DeValue::String(text) => Kind::One(Value::from(text.into_owned())),
        DeValue::Boolean(yes) => Kind::One(yes.into()),
        DeValue::Integer(number) => {
            let read = i64::from_str_radix(number.as_str(), number.radix());
            Kind::One(read.map_err(|_| wrong(&number, "expected a smaller number"))?.into())
        }
        DeValue::Float(number) => {
            let read = number.as_str().parse().ok().and_then(float);
            Kind::One(read.ok_or_else(|| wrong(&number, "expected a finite number"))?)
        }
        DeValue::Datetime(date) => return Err(wrong(&date, "expected a text or a number")),
        DeValue::Array(values) => {
            let nodes = values.into_iter().map(|value| node(value, lines));
            Kind::List(nodes.collect::<Result<_, _>>()?)
        }
        DeValue::Table(table) => entries(table, lines)?,
    };
    Ok(Node { line, kind })
}

/// Where lines begin.
struct Lines(Vec<usize>);

impl Lines {
    fn of(text: &str) -> Self {
        let breaks = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
        Self(breaks.map(|(at, _)| at).collect())
    }

    /// The line of a place, from 1.
    fn at(&self, place: usize) -> usize {
        self.0.partition_point(|at| *at < place) + 1
    }
}
