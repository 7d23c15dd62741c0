//! What a part of a template sees: how alternatives are taken, and the variables.

use super::error::ExpandError;
use super::tree::{Method, Node, Place};
use std::collections::BTreeMap;
use std::sync::Arc;

/// How deep parts may stand in each other, values of wildcards and variables included.
const DEEPEST: usize = 250;
/// How many wildcards may stand in each other's values.
const DEEPEST_WILDCARDS: usize = 20;

/// What a part of a template sees.
#[derive(Debug, Clone)]
pub(super) struct Scope {
    pub(super) method: Method,
    variables: Arc<BTreeMap<String, Arc<Node>>>,
    /// The variables whose values are being made, in which they must not come again.
    open: Vec<String>,
    depth: usize,
    wildcards: usize,
}

impl Scope {
    pub(super) fn new(method: Method) -> Self {
        Self { method, variables: Arc::default(), open: Vec::new(), depth: 0, wildcards: 0 }
    }

    /// The scope in which `node` is taken: what never ends contains nothing that ends.
    pub(super) fn of(&self, node: &Node) -> Self {
        let own = node.method().unwrap_or(self.method);
        let method = if self.method.is_endless() && !own.is_endless() { self.method } else { own };
        Self { method, depth: self.depth + 1, ..self.clone() }
    }

    /// Whether parts stand too deep in each other.
    pub(super) fn is_too_deep(&self) -> bool {
        self.depth > DEEPEST
    }

    pub(super) fn with_variables(
        &self,
        variables: impl IntoIterator<Item = (String, Arc<Node>)>,
    ) -> Self {
        let mut all = BTreeMap::clone(&self.variables);
        all.extend(variables);
        Self { variables: Arc::new(all), ..self.clone() }
    }

    /// The value of a variable that was given from outside.
    pub(super) fn value(&self, name: &str) -> Option<&Arc<Node>> {
        self.variables.get(name)
    }

    /// The value of a variable, and the scope in which it is taken.
    pub(super) fn variable(
        &self,
        name: &str,
        otherwise: Option<&Arc<Node>>,
        place: &Place,
    ) -> Result<(Arc<Node>, Self), ExpandError> {
        if self.open.iter().any(|open| open == name) {
            return Err(place.error(format!("the variable `{name}` is a part of its own value")));
        }
        let value = self.value(name).or(otherwise).ok_or_else(|| {
            place.error(format!(
                "the variable `{name}` has no value; write ${{{name}=VALUE}} before"
            ))
        })?;
        let mut inside = self.clone();
        inside.open.push(name.to_owned());
        Ok((Arc::clone(value), inside))
    }

    /// The scope of a wildcard's values.
    pub(super) fn in_wildcard(&self, place: &Place) -> Result<Self, ExpandError> {
        if self.wildcards >= DEEPEST_WILDCARDS {
            let why = format!(
                "wildcards stand more than {DEEPEST_WILDCARDS} deep in each other's values; does one of them contain itself?"
            );
            return Err(place.error(why));
        }
        Ok(Self { wildcards: self.wildcards + 1, ..self.clone() })
    }

    /// Whether taking `node` here would never end.
    pub(super) fn is_endless(&self, node: &Node) -> bool {
        match node {
            Node::Variable { name, otherwise, place } => {
                let found = self.variable(name, otherwise.as_ref(), place);
                found.is_ok_and(|(node, scope)| scope.is_endless(&node))
            }
            node => self.of(node).method.is_endless(),
        }
    }
}
