//! Settings in JSON, key by key: what is followed, what changes nothing, and the rest, which is named.

use super::told::Told;
use crate::app::named_hash::NamedHash;
use serde_json::{Map, Value};

/// Keys that were not looked at yet, and what was made of the others.
pub(super) struct Settings {
    rest: Map<String, Value>,
    pub(super) told: Told,
}

impl Settings {
    pub(super) fn of(object: &Map<String, Value>, told: Told) -> Self {
        Self { rest: object.clone(), told }
    }

    /// The value of `key`, once.
    pub(super) fn value(&mut self, key: &str) -> Option<Value> {
        self.rest.shift_remove(key).filter(|value| !value.is_null())
    }

    /// The value of `key` as text, once; `None` when it is empty.
    pub(super) fn take(&mut self, key: &str) -> Option<String> {
        self.value(key).map(|value| text(&value)).filter(|text| !text.is_empty())
    }

    /// The value of `key` as text, which stays.
    pub(super) fn look(&self, key: &str) -> Option<String> {
        self.rest.get(key).map(text).filter(|text| !text.is_empty())
    }

    /// Puts the value of `key` under A1111's name `name`.
    pub(super) fn put(&mut self, name: &str, key: &str) {
        if let Some(value) = self.take(key) {
            self.told.parameters.push(name, value);
        }
    }

    /// Puts a value under A1111's name `name`.
    pub(super) fn push(&mut self, name: &str, value: impl std::fmt::Display) {
        self.told.parameters.push(name, value);
    }

    /// The two prompts.
    pub(super) fn prompts(&mut self, positive: &str, negative: &str) {
        let positive = self.take(positive).unwrap_or_default();
        positive.trim().clone_into(&mut self.told.parameters.prompt);
        let negative = self.take(negative).unwrap_or_default();
        negative.trim().clone_into(&mut self.told.parameters.negative_prompt);
    }

    /// The size of two keys.
    pub(super) fn size(&mut self, width: &str, height: &str) {
        if let Some((width, height)) = self.take(width).zip(self.take(height)) {
            self.push("Size", format!("{width}x{height}"));
        }
    }

    /// Leaves out what changes nothing.
    pub(super) fn drop(&mut self, harmless: &[&str]) {
        self.rest.retain(|key, _| !harmless.contains(&key.as_str()));
    }

    /// Leaves out `key` when its value is one of `values`.
    pub(super) fn drop_as(&mut self, key: &str, values: &[&str]) {
        if self.look(key).is_some_and(|value| values.contains(&value.as_str())) {
            self.rest.shift_remove(key);
        }
    }

    /// Notes the hash of a file.
    pub(super) fn hash(&mut self, hash: NamedHash) {
        self.told.hashes.push(hash);
    }

    /// Adds what is left under its own name.
    pub(super) fn finish(mut self) -> Told {
        for (key, value) in std::mem::take(&mut self.rest) {
            let value = text(&value);
            let empty = ["", "[]", "{}", "''", "null", "false", "False"];
            if !empty.contains(&value.as_str()) {
                self.told.parameters.push(key, value);
            }
        }
        self.told
    }
}

/// A value as text; nothing for null.
pub(super) fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// A number, which may be written as text.
pub(super) fn number(value: &Value) -> Option<f64> {
    text(value).trim().parse().ok()
}
