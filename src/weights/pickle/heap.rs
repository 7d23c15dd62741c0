//! The objects that a pickle builds.
//!
//! All objects lie in one list and refer to each other by index, so that neither cycles nor deep
//! nesting in a hostile file can exhaust the stack.

use super::storage::{Storage, TensorData};
use super::symbols::Symbol;
use crate::error::{Error, Result};
use crate::weights::Component;

/// Most objects, and values put into them, of one pickle; real checkpoints have some hundred thousand.
/// A pickle can copy a list with one byte, so that neither its length nor its steps bound the memory.
const MAX_VALUES: usize = 1 << 21;

/// A value on the stack; containers are on the heap.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Value<'a> {
    None,
    Bool(bool),
    Int(i64),
    Str(&'a str),
    Symbol(Symbol),
    /// Index into the heap.
    Object(usize),
    /// Something whose content does not matter: other numbers, bytes, placeholders.
    Opaque,
}

/// A container, or what torch's names build.
#[derive(Debug)]
pub(super) enum Object<'a> {
    List(Vec<Value<'a>>),
    Tuple(Vec<Value<'a>>),
    Dict(Vec<(Value<'a>, Value<'a>)>),
    Storage(Storage<'a>),
    Tensor(TensorData<'a>),
}

impl Object<'_> {
    /// How many values it holds.
    fn values(&self) -> usize {
        match self {
            Object::List(items) | Object::Tuple(items) => items.len(),
            Object::Dict(entries) => 2 * entries.len(),
            Object::Storage(_) => 0,
            Object::Tensor(tensor) => 2 * tensor.rank(),
        }
    }
}

/// Everything that a pickle has built.
#[derive(Debug, Default)]
pub(super) struct Heap<'a> {
    pub(super) objects: Vec<Object<'a>>,
    /// Objects and values put into them so far.
    spent: usize,
}

impl<'a> Heap<'a> {
    /// Keeps an object.
    ///
    /// # Errors
    /// As [`spend`](Self::spend).
    pub(super) fn add(&mut self, object: Object<'a>) -> Result<Value<'a>> {
        self.spend(1 + object.values())?;
        self.objects.push(object);
        Ok(Value::Object(self.objects.len() - 1))
    }

    /// Counts values that are about to be put into containers.
    ///
    /// # Errors
    /// [`Error::Limit`] when there are too many of them.
    pub(super) fn spend(&mut self, values: usize) -> Result<()> {
        self.spent = self.spent.saturating_add(values);
        if self.spent <= MAX_VALUES {
            return Ok(());
        }
        let (allowed, asked) = (MAX_VALUES as u64, self.spent as u64);
        Err(Error::Limit { what: "values of a pickle", allowed, asked })
    }

    pub(super) fn object(&self, value: Value<'a>) -> Option<&Object<'a>> {
        match value {
            Value::Object(index) => self.objects.get(index),
            _ => None,
        }
    }

    pub(super) fn object_mut(&mut self, value: Value<'a>) -> Option<&mut Object<'a>> {
        match value {
            Value::Object(index) => self.objects.get_mut(index),
            _ => None,
        }
    }

    /// The items of a tuple or list.
    pub(super) fn items(&self, value: Value<'a>) -> Option<&[Value<'a>]> {
        match self.object(value) {
            Some(Object::Tuple(items) | Object::List(items)) => Some(items),
            _ => None,
        }
    }

    /// The entry of a dictionary.
    pub(super) fn entry(&self, dict: Value<'a>, key: &str) -> Option<Value<'a>> {
        let Some(Object::Dict(entries)) = self.object(dict) else { return None };
        entries.iter().rev().find(|(k, _)| *k == Value::Str(key)).map(|(_, value)| *value)
    }

    /// Puts the `_parameters` of the object state `state` into the empty dictionary `dict`.
    pub(super) fn fill_with_parameters(&mut self, dict: Value<'a>, state: Value<'a>) -> Result<()> {
        if !matches!(self.object(dict), Some(Object::Dict(entries)) if entries.is_empty()) {
            return Ok(());
        }
        let Some(inner) = self.entry(state, "_parameters") else { return Ok(()) };
        let Some(Object::Dict(entries)) = self.object(inner) else { return Ok(()) };
        let count = 2 * entries.len();
        self.spend(count)?;
        let Some(Object::Dict(entries)) = self.object(inner) else { return Ok(()) };
        let entries = entries.clone();
        if let Some(Object::Dict(own)) = self.object_mut(dict) {
            *own = entries;
        }
        Ok(())
    }

    /// The only entry of a dictionary, if it is one itself, and no component of a model.
    pub(super) fn only_inner(&self, dict: Value<'a>) -> Option<Value<'a>> {
        let Some(Object::Dict(entries)) = self.object(dict) else { return None };
        let [(key, inner)] = entries[..] else { return None };
        let is_part = matches!(key, Value::Str(name) if Component::named(name).is_some());
        let is_dict = matches!(self.object(inner), Some(Object::Dict(_)));
        (is_dict && !is_part).then_some(inner)
    }
}
