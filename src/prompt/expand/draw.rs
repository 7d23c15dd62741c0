//! The texts of each part of a template.
//!
//! Alternatives that are taken by chance or in turns give texts for ever; those that are listed end. Where both stand side
//! by side, the listed ones decide how many prompts there are.

use super::collections::Value;
use super::error::ExpandError;
use super::parse::parse;
use super::permutations::Permutations;
use super::scope::Scope;
use super::source::{First, Fixed, Source, World};
use super::tree::{Bounds, Choice, Method, Node, Weighed, Wildcard};
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

type Texts = Result<Option<String>, ExpandError>;
type Sources = Vec<Box<dyn Source>>;

/// How many values of a wildcard with weights `dynamicprompts` draws at a time.
const AHEAD: usize = 10;
/// Most combinations that take turns.
const MOST_TURNS: usize = 100_000;

/// The texts of `node`.
pub(super) fn source(
    node: &Arc<Node>,
    scope: &Scope,
    world: &World<'_>,
) -> Result<Box<dyn Source>, ExpandError> {
    let scope = scope.of(node);
    if scope.is_too_deep() {
        return Err(world.error("parts of this template stand too deep in each other"));
    }
    let listed = scope.method == Method::All;
    Ok(match &**node {
        Node::Text(text) => Box::new(Fixed { text: text.clone(), left: listed.then_some(1) }),
        Node::Sequence(parts) => Box::new(Sequence { parts: parts.clone(), scope, sources: None }),
        Node::Assign(_) => {
            Box::new(Sequence { parts: vec![Arc::clone(node)], scope, sources: None })
        }
        Node::Choice(choice) => Box::new(OneOf { choice: choice.clone(), scope, source: None }),
        Node::Wildcard(wildcard) => {
            Box::new(Named { wildcard: wildcard.clone(), scope, source: None })
        }
        Node::Variable { name, otherwise, place } => {
            let (value, scope) = scope.variable(name, otherwise.as_ref(), place)?;
            source(&value, &scope, world)?
        }
        Node::Wrap { around, inner } => {
            let around_source = finite(around, &scope, world)?;
            let inner = Arc::clone(inner);
            Box::new(Wrapped { around: around_source, inner, scope, now: None })
        }
    })
}

/// As [`source`]; what never ends is taken once where everything is listed.
pub(super) fn finite(
    node: &Arc<Node>,
    scope: &Scope,
    world: &World<'_>,
) -> Result<Box<dyn Source>, ExpandError> {
    let found = source(node, scope, world)?;
    if scope.method == Method::All && scope.is_endless(node) {
        return Ok(Box::new(First(Some(found))));
    }
    Ok(found)
}

/// The first text of `node`.
fn first(node: &Arc<Node>, scope: &Scope, world: &mut World<'_>) -> Result<String, ExpandError> {
    let mut found = source(node, scope, world)?;
    Ok(world.next(&mut *found)?.unwrap_or_default())
}

/// Parts that follow each other.
struct Sequence {
    parts: Vec<Arc<Node>>,
    scope: Scope,
    sources: Option<Side>,
}

impl Source for Sequence {
    fn next(&mut self, world: &mut World<'_>) -> Texts {
        let side = match &mut self.sources {
            Some(side) => side,
            none => {
                let (parts, scope) = assigned(&self.parts, &self.scope, world)?;
                none.insert(Side::new(&parts, &scope, false))
            }
        };
        match side.next(world)? {
            Some(texts) => world.joined(&texts, "").map(Some),
            None => Ok(None),
        }
    }
}

/// The parts that give text, and the scope in which they stand: with the variables that the others set.
fn assigned(
    parts: &[Arc<Node>],
    scope: &Scope,
    world: &mut World<'_>,
) -> Result<(Vec<Arc<Node>>, Scope), ExpandError> {
    let (mut variables, mut rest) = (Vec::new(), Vec::new());
    for part in parts {
        let Node::Assign(assign) = &**part else {
            rest.push(Arc::clone(part));
            continue;
        };
        let value = match scope.value(&assign.name) {
            Some(value) if assign.keeps => Arc::clone(value),
            _ if assign.at_once => Arc::new(Node::Text(first(&assign.value, scope, world)?)),
            _ => Arc::clone(&assign.value),
        };
        variables.push((assign.name.clone(), value));
    }
    let scope = if variables.is_empty() { scope.clone() } else { scope.with_variables(variables) };
    Ok((rest, scope))
}

/// Parts side by side, and every combination of their texts: the last one changes fastest.
struct Side {
    slots: Vec<Slot>,
    scope: Scope,
    /// Whether parts that never end begin anew with each text before them.
    restarts: bool,
    begun: bool,
}

struct Slot {
    node: Arc<Node>,
    endless: bool,
    source: Option<Box<dyn Source>>,
    text: String,
}

impl Side {
    fn new(parts: &[Arc<Node>], scope: &Scope, restarts: bool) -> Self {
        let slot = |node: &Arc<Node>| Slot {
            node: Arc::clone(node),
            endless: scope.is_endless(node),
            source: None,
            text: String::new(),
        };
        let slots = parts.iter().map(slot).collect();
        Self { slots, scope: scope.clone(), restarts, begun: false }
    }

    fn next(&mut self, world: &mut World<'_>) -> Result<Option<Vec<String>>, ExpandError> {
        world.step()?;
        let listed = self.scope.method == Method::All;
        let begun = std::mem::replace(&mut self.begun, true);
        if !begun {
            if !self.fill(0, world)? {
                return Ok(None);
            }
        } else if listed && !self.advance(world)? {
            return Ok(None);
        }
        // Chance is asked from the right to the left where all is listed, as in `dynamicprompts`.
        let count = self.slots.len();
        for place in 0..count {
            let slot = &mut self.slots[if listed { count - 1 - place } else { place }];
            if slot.endless
                && let Some(source) = &mut slot.source
            {
                match world.next(&mut **source)? {
                    Some(text) => slot.text = text,
                    None => return Ok(None),
                }
            }
        }
        Ok(Some(self.slots.iter().map(|slot| slot.text.clone()).collect()))
    }

    /// Begins the parts from number `from` on; false where one of them has no text at all.
    fn fill(&mut self, from: usize, world: &mut World<'_>) -> Result<bool, ExpandError> {
        for slot in &mut self.slots[from..] {
            if slot.endless {
                if self.restarts || slot.source.is_none() {
                    slot.source = Some(source(&slot.node, &self.scope, world)?);
                }
                continue;
            }
            let mut found = source(&slot.node, &self.scope, world)?;
            match world.next(&mut *found)? {
                Some(text) => slot.text = text,
                None => return Ok(false),
            }
            slot.source = Some(found);
        }
        Ok(true)
    }

    /// Takes the next text of the last part that has one, and begins those behind it; false at the end.
    fn advance(&mut self, world: &mut World<'_>) -> Result<bool, ExpandError> {
        for place in (0..self.slots.len()).rev() {
            let slot = &mut self.slots[place];
            if slot.endless {
                continue;
            }
            if let Some(source) = &mut slot.source
                && let Some(text) = world.next(&mut **source)?
            {
                slot.text = text;
                return self.fill(place + 1, world);
            }
        }
        Ok(false)
    }
}

/// One alternative, whose options are known when the first text is asked for.
struct OneOf {
    choice: Choice,
    scope: Scope,
    source: Option<Box<dyn Source>>,
}

impl Source for OneOf {
    fn next(&mut self, world: &mut World<'_>) -> Texts {
        if self.source.is_none() {
            self.source = Some(self.begin(world)?);
        }
        self.source.as_mut().map_or(Ok(None), |source| world.next(&mut **source))
    }
}

impl OneOf {
    fn begin(&self, world: &mut World<'_>) -> Result<Box<dyn Source>, ExpandError> {
        let (mut choice, scope) = (self.choice.clone(), self.scope.clone());
        // An option that is a wildcard and nothing else stands for its values.
        let mut left = 20;
        while let [only] = &choice.options[..]
            && let Node::Wildcard(wildcard) = &*only.node
        {
            let values = values(wildcard, &scope, world)?.0;
            left -= 1;
            if left == 0 {
                return Err(choice.place.error("wildcards stand too deep in each other's values"));
            }
            choice.bounds = choice.bounds.within(values.len());
            let mut options = Vec::new();
            for value in values {
                let node = value.node()?;
                let times = value.value.times();
                options
                    .extend((0..times).map(|_| Weighed { node: Arc::clone(&node), weight: 1.0 }));
            }
            choice.options = options;
        }
        Ok(match (scope.method, &choice.options[..]) {
            (Method::Random, [only]) => source(&only.node, &scope, world)?,
            (Method::Random, _) => Box::new(ByChance { choice, scope }),
            (Method::All, _) => Box::new(Listed::new(choice, scope)),
            (Method::Cyclic, _) => Box::new(InTurns::new(choice, scope)),
        })
    }
}

/// Options by chance.
struct ByChance {
    choice: Choice,
    scope: Scope,
}

impl Source for ByChance {
    fn next(&mut self, world: &mut World<'_>) -> Texts {
        let mut left: Vec<&Weighed> = self.choice.options.iter().collect();
        let bounds = self.choice.bounds.within(left.len());
        let spread = (bounds.most - bounds.least).min(u32::MAX as usize - 1) as u32;
        let count = bounds.least + world.random.below(spread + 1) as usize;
        let mut picked = Vec::new();
        while picked.len() < count {
            let mut total = 0.0;
            let sum = |option: &&Weighed| {
                total += option.weight;
                total
            };
            let sums: Vec<f64> = left.iter().map(sum).collect();
            if total <= 0.0 {
                break;
            }
            picked.push(left.remove(world.random.weighted(&sums)));
        }
        let mut sources = Vec::new();
        for option in picked {
            sources.push(source(&option.node, &self.scope, world)?);
        }
        each(&mut sources, &bounds.separator, world)
    }
}

/// The next text of each source, joined; nothing where one has none.
fn each(sources: &mut Sources, separator: &str, world: &mut World<'_>) -> Texts {
    let mut texts = Vec::with_capacity(sources.len());
    for source in sources {
        match world.next(&mut **source)? {
            Some(text) => texts.push(text),
            None => return Ok(None),
        }
    }
    world.joined(&texts, separator).map(Some)
}

/// Every combination of options.
struct Combinations {
    choice: Choice,
    kinds: Vec<usize>,
    /// How many options a combination has.
    count: usize,
    /// The most that it may have.
    most: usize,
    now: Permutations,
}

impl Combinations {
    fn new(choice: Choice) -> Self {
        let Bounds { least, most, .. } = choice.bounds.within(choice.options.len());
        let mut known: HashMap<String, usize> = HashMap::new();
        let kind = |(place, option): (usize, &Weighed)| {
            let words = match &*option.node {
                Node::Text(text) => text.clone(),
                node => format!("{node:?}"),
            };
            *known.entry(words).or_insert(place)
        };
        let kinds: Vec<usize> = choice.options.iter().enumerate().map(kind).collect();
        let now = Permutations::new(kinds.clone(), least);
        Self { choice, kinds, count: least, most, now }
    }

    fn next(&mut self) -> Option<Vec<Arc<Node>>> {
        loop {
            if let Some(places) = self.now.next() {
                let node = |place: usize| Arc::clone(&self.choice.options[place].node);
                return Some(places.into_iter().map(node).collect());
            }
            if self.count >= self.most {
                return None;
            }
            self.count += 1;
            self.now = Permutations::new(self.kinds.clone(), self.count);
        }
    }
}

/// The texts of every combination of options, each once.
struct Listed {
    combinations: Combinations,
    scope: Scope,
    now: Option<Side>,
    seen: HashSet<Vec<String>>,
}

impl Listed {
    fn new(choice: Choice, scope: Scope) -> Self {
        Self { combinations: Combinations::new(choice), scope, now: None, seen: HashSet::new() }
    }
}

impl Source for Listed {
    fn next(&mut self, world: &mut World<'_>) -> Texts {
        loop {
            world.step()?;
            let Some(now) = &mut self.now else {
                let Some(nodes) = self.combinations.next() else { return Ok(None) };
                self.now = Some(Side::new(&nodes, &self.scope, true));
                continue;
            };
            let Some(texts) = now.next(world)? else {
                self.now = None;
                continue;
            };
            let different: HashSet<&String> = texts.iter().collect();
            if different.len() == texts.len() && self.seen.insert(texts.clone()) {
                let separator = &self.combinations.choice.bounds.separator;
                return world.joined(&texts, separator).map(Some);
            }
        }
    }
}

/// Combinations of options in turns, for ever.
struct InTurns {
    combinations: Combinations,
    scope: Scope,
    /// The combinations that had their first turn.
    known: Vec<Sources>,
    complete: bool,
    at: usize,
}

impl InTurns {
    fn new(choice: Choice, scope: Scope) -> Self {
        let combinations = Combinations::new(choice);
        Self { combinations, scope, known: Vec::new(), complete: false, at: 0 }
    }
}

impl Source for InTurns {
    fn next(&mut self, world: &mut World<'_>) -> Texts {
        if !self.complete {
            match self.combinations.next() {
                Some(_) if self.known.len() >= MOST_TURNS => {
                    return Err(self
                        .combinations
                        .choice
                        .place
                        .error("too many combinations take turns"));
                }
                Some(nodes) => {
                    let mut sources = Vec::new();
                    for node in &nodes {
                        sources.push(source(node, &self.scope, world)?);
                    }
                    self.at = self.known.len();
                    self.known.push(sources);
                }
                None => {
                    self.complete = true;
                    self.at = 0;
                }
            }
        }
        let at = self.at;
        self.at = (at + 1) % self.known.len().max(1);
        let Some(sources) = self.known.get_mut(at) else { return Ok(None) };
        each(sources, &self.combinations.choice.bounds.separator, world)
    }
}

/// A value of a wildcard, and where it comes from.
struct Found {
    value: Value,
    name: Arc<str>,
}

impl Found {
    fn node(&self) -> Result<Arc<Node>, ExpandError> {
        parse(&self.value.text, Some(&self.name))
    }
}

/// The values of a wildcard, at least one, and the scope in which they are taken.
fn values(
    wildcard: &Wildcard,
    scope: &Scope,
    world: &mut World<'_>,
) -> Result<(Vec<Found>, Scope), ExpandError> {
    let name: Arc<str> = first(&wildcard.name, scope, world)?.into();
    if name.split(['/', '\\']).any(|part| part == "..") {
        return Err(wildcard.place.error("a wildcard's name has no `..`"));
    }
    let found = world.collections.matching(&name);
    if found.is_empty() {
        let advice = world.collections.advice(&name);
        return Err(wildcard.place.error(format!("there is no wildcard `{name}`; {advice}")));
    }
    let scope = scope.with_variables(wildcard.variables.clone()).in_wildcard(&wildcard.place)?;
    let found = found.into_iter().map(|value| Found { value, name: Arc::clone(&name) });
    Ok((found.collect(), scope))
}

/// A wildcard, whose values are known when the first text is asked for.
struct Named {
    wildcard: Wildcard,
    scope: Scope,
    source: Option<Box<dyn Source>>,
}

impl Source for Named {
    fn next(&mut self, world: &mut World<'_>) -> Texts {
        if self.source.is_none() {
            let (values, scope) = values(&self.wildcard, &self.scope, world)?;
            self.source = Some(match scope.method {
                Method::Random => Box::new(ValuesByChance::new(values, scope)),
                Method::All => Box::new(ValuesListed { values: values.into(), scope, now: None }),
                Method::Cyclic => {
                    let mut sources = Vec::new();
                    for value in &values {
                        for _ in 0..value.value.times() {
                            sources.push(source(&value.node()?, &scope, world)?);
                        }
                    }
                    Box::new(ValuesInTurns { sources, at: 0 })
                }
            });
        }
        self.source.as_mut().map_or(Ok(None), |source| world.next(&mut **source))
    }
}

struct ValuesByChance {
    values: Vec<Found>,
    scope: Scope,
    /// Running sums of the weights, where they differ.
    sums: Option<Vec<f64>>,
    ahead: VecDeque<usize>,
}

impl ValuesByChance {
    fn new(values: Vec<Found>, scope: Scope) -> Self {
        let weights: Vec<f64> = values.iter().map(|found| found.value.weight).collect();
        let differ = weights.iter().any(|weight| weight.to_bits() != weights[0].to_bits());
        let sums = differ.then(|| {
            let mut total = 0.0;
            weights
                .iter()
                .map(|weight| {
                    total += weight;
                    total
                })
                .collect()
        });
        Self { values, scope, sums, ahead: VecDeque::new() }
    }
}

impl Source for ValuesByChance {
    fn next(&mut self, world: &mut World<'_>) -> Texts {
        let place = match &self.sums {
            None => world.random.below(self.values.len() as u32) as usize,
            Some(sums) => {
                if self.ahead.is_empty() {
                    self.ahead.extend((0..AHEAD).map(|_| world.random.weighted(sums)));
                }
                self.ahead.pop_front().unwrap_or_default()
            }
        };
        let Some(found) = self.values.get(place) else { return Ok(None) };
        first(&found.node()?, &self.scope, world).map(Some)
    }
}

struct ValuesListed {
    values: VecDeque<Found>,
    scope: Scope,
    /// What the first value gives, and how often it is to come.
    now: Option<(Box<dyn Source>, usize)>,
}

impl Source for ValuesListed {
    fn next(&mut self, world: &mut World<'_>) -> Texts {
        loop {
            if let Some((now, _)) = &mut self.now
                && let Some(text) = world.next(&mut **now)?
            {
                return Ok(Some(text));
            }
            let Some(value) = self.values.front() else { return Ok(None) };
            let left = match self.now.take() {
                Some((_, left)) => left,
                None => value.value.times(),
            };
            if left == 0 {
                self.values.pop_front();
                continue;
            }
            self.now = Some((finite(&value.node()?, &self.scope, world)?, left - 1));
        }
    }
}

struct ValuesInTurns {
    sources: Sources,
    at: usize,
}

impl Source for ValuesInTurns {
    fn next(&mut self, world: &mut World<'_>) -> Texts {
        let at = self.at;
        self.at = (at + 1) % self.sources.len().max(1);
        self.sources.get_mut(at).map_or(Ok(None), |source| world.next(&mut **source))
    }
}

/// A text around another one.
struct Wrapped {
    around: Box<dyn Source>,
    inner: Arc<Node>,
    scope: Scope,
    now: Option<(String, Box<dyn Source>)>,
}

impl Source for Wrapped {
    fn next(&mut self, world: &mut World<'_>) -> Texts {
        // By chance and in turns both sides change at once; where all is listed, the inner one changes faster.
        let listed = self.scope.method == Method::All;
        loop {
            if !listed || self.now.is_none() {
                let Some(around) = world.next(&mut *self.around)? else { return Ok(None) };
                let inner = match self.now.take() {
                    Some((_, inner)) => inner,
                    None => finite(&self.inner, &self.scope, world)?,
                };
                self.now = Some((around, inner));
            }
            let Some((around, inner)) = &mut self.now else { return Ok(None) };
            match world.next(&mut **inner)? {
                Some(text) => {
                    let (before, after) = halves(around);
                    let parts = [before.to_owned(), text, after.to_owned()];
                    return world.joined(&parts, "").map(Some);
                }
                None if listed => self.now = None,
                None => return Ok(None),
            }
        }
    }
}

/// What stands before and behind the first ellipsis.
fn halves(text: &str) -> (&str, &str) {
    const ELLIPSES: [char; 7] =
        ['\u{1801}', '\u{2026}', '\u{22ee}', '\u{22ef}', '\u{22f0}', '\u{22f1}', '\u{fe19}'];
    let dots = text.find("...");
    let sign = text.find(ELLIPSES);
    let Some(at) = dots.into_iter().chain(sign).min() else { return (text, "") };
    let behind = if dots == Some(at) {
        text[at..].trim_start_matches('.')
    } else {
        text[at..].trim_start_matches(ELLIPSES)
    };
    (&text[..at], behind)
}
