//! The graph: nodes with inputs, which are values or links to other nodes.

use super::super::settings::text;
use serde_json::{Map, Value};
use std::cell::Cell;
use std::collections::BTreeSet;

/// Links that are followed for one picture.
const MOST_LINKS: usize = 10_000;
/// Values that may be links to values.
const DEEPEST: usize = 64;
/// Inputs of nodes that only pass a value on.
const PASSED: [&str; 11] = [
    "value",
    "Value",
    "seed",
    "noise_seed",
    "text",
    "string",
    "prompt",
    "int",
    "float",
    "number",
    "any",
];
/// Inputs of nodes that join texts.
const JOINED: [&str; 10] = [
    "text_a", "text_b", "text_c", "text_d", "string_a", "string_b", "text1", "text2", "text3",
    "text4",
];

/// A graph.
pub(super) struct Graph<'a> {
    nodes: &'a Map<String, Value>,
    links: Cell<usize>,
}

/// A node.
#[derive(Debug, Clone, Copy)]
pub(super) struct Node<'a> {
    pub(super) id: &'a str,
    /// Its class.
    pub(super) kind: &'a str,
    inputs: &'a Map<String, Value>,
}

impl<'a> Graph<'a> {
    pub(super) fn new(nodes: &'a Map<String, Value>) -> Self {
        Self { nodes, links: Cell::new(0) }
    }

    /// Whether more links were to be followed than are allowed.
    pub(super) fn is_exhausted(&self) -> bool {
        self.links.get() > MOST_LINKS
    }

    /// Every node, in the order of the file.
    pub(super) fn nodes(&self) -> impl Iterator<Item = Node<'a>> + '_ {
        self.nodes.keys().filter_map(|id| self.node(id))
    }

    fn node(&self, id: &str) -> Option<Node<'a>> {
        let (id, node) = self.nodes.get_key_value(id)?;
        let kind = node.get("class_type")?.as_str()?;
        Some(Node { id, kind, inputs: node.get("inputs")?.as_object()? })
    }

    /// The node that a link leads to; none when too many were followed.
    fn linked(&self, value: &Value) -> Option<Node<'a>> {
        let [id, slot] = value.as_array()?.as_slice() else { return None };
        slot.as_u64()?;
        self.links.set(self.links.get() + 1);
        if self.is_exhausted() {
            return None;
        }
        match id {
            Value::String(id) => self.node(id),
            other => self.node(&other.to_string()),
        }
    }

    /// The node that `input` of `node` is linked to.
    pub(super) fn follow(&self, node: Node<'a>, input: &str) -> Option<Node<'a>> {
        self.linked(node.inputs.get(input)?)
    }

    /// Every node that an input of `node` is linked to.
    pub(super) fn all_linked(&self, node: Node<'a>) -> Vec<Node<'a>> {
        node.inputs.values().filter_map(|value| self.linked(value)).collect()
    }

    /// The nodes that `input` leads to, one behind the other by the same kind of input, until a node has none of
    /// `inputs`, in a circle once each.
    pub(super) fn chain(&self, node: Node<'a>, inputs: &[&str]) -> Vec<Node<'a>> {
        let mut seen = BTreeSet::from([node.id]);
        let mut chain = Vec::new();
        let mut at = node;
        while let Some(next) = inputs.iter().find_map(|input| self.follow(at, input)) {
            if !seen.insert(next.id) {
                break;
            }
            chain.push(next);
            at = next;
        }
        chain
    }

    /// The value of `input`, which may stand in another node, as text; `None` for none and for an empty one.
    pub(super) fn value(&self, node: Node<'a>, input: &str) -> Option<String> {
        self.resolved(node.inputs.get(input)?, 0).filter(|text| !text.is_empty())
    }

    fn resolved(&self, value: &Value, depth: usize) -> Option<String> {
        let Some(node) = self.linked(value) else {
            return Some(text(value)).filter(|_| !value.is_array() && !value.is_object());
        };
        if depth == DEEPEST {
            return None;
        }
        let inside = |input: &&str| self.resolved(node.inputs.get(*input)?, depth + 1);
        let joined: Vec<String> = JOINED.iter().filter_map(inside).collect();
        if !joined.is_empty() {
            let between = inside(&"delimiter").unwrap_or_default();
            return Some(joined.join(&between.replace("\\n", "\n")));
        }
        PASSED.iter().find_map(inside)
    }

    /// The value of `input` as a number.
    pub(super) fn number(&self, node: Node<'a>, input: &str) -> Option<f64> {
        self.value(node, input)?.trim().parse().ok()
    }
}

impl<'a> Node<'a> {
    /// Whether it has every one of these inputs.
    pub(super) fn has(&self, inputs: &[&str]) -> bool {
        inputs.iter().all(|input| self.inputs.contains_key(*input))
    }

    /// The names of its inputs.
    pub(super) fn inputs(&self) -> impl Iterator<Item = (&'a str, &'a Value)> + use<'a> {
        self.inputs.iter().map(|(name, value)| (name.as_str(), value))
    }

    /// The text of `input` itself, when it is one.
    pub(super) fn own(&self, input: &str) -> Option<&'a str> {
        self.inputs.get(input)?.as_str()
    }
}
