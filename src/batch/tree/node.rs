//! A file of tables, whatever it is written in: values with the lines on which they stand.

use serde_json::{Map, Number, Value};

/// A value and the line on which it begins, from 1.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Node {
    pub(super) line: usize,
    pub(super) kind: Kind,
}

/// What a value is.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Kind {
    /// A text, a number, true, false or nothing.
    One(Value),
    /// Several values.
    List(Vec<Node>),
    /// Values by their names, in the order of the file.
    Table(Vec<Entry>),
}

/// A named value of a table.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) value: Node,
}

impl Node {
    /// The value without its lines.
    pub(super) fn into_value(self) -> Value {
        match self.kind {
            Kind::One(value) => value,
            Kind::List(nodes) => nodes.into_iter().map(Node::into_value).collect(),
            Kind::Table(entries) => {
                let pairs = entries.into_iter().map(|entry| (entry.name, entry.value.into_value()));
                Value::Object(pairs.collect::<Map<_, _>>())
            }
        }
    }
}

/// A number with a point; none where JSON has no such number (infinity).
pub(super) fn float(number: f64) -> Option<Value> {
    Number::from_f64(number).map(Value::Number)
}
