//! Reading a template.
//!
//! A template is text with `{…}`, `__…__`, `${…}` and `%{…}` in it. There are no escapes: that is the grammar of
//! `dynamicprompts`, which people's files are written for.

use super::error::{ExpandError, Origin};
use super::tree::{Assign, Bounds, Choice, Method, Node, Place, Weighed, Wildcard};
use std::ops::Range;
use std::sync::Arc;

/// What may stand in each other.
const DEEPEST: usize = 100;
/// Longest template.
const LONGEST: usize = 1 << 20;

/// Reads `text`, which is a value of `collection` or the template itself.
pub(super) fn parse(text: &str, collection: Option<&str>) -> Result<Arc<Node>, ExpandError> {
    let origin = Origin { text: text.to_owned(), collection: collection.map(str::to_owned) };
    if text.len() > LONGEST {
        let short = Origin { text: text.chars().take(80).collect(), ..origin };
        return Err(short.error(0..1, "this template is longer than a million characters"));
    }
    let mut reader = Reader { text, origin: Arc::new(origin), at: 0, depth: 0 };
    reader.elements(Inside::Nothing)
}

/// What the elements stand in: it decides what ends them.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Inside {
    Nothing,
    Braces,
}

struct Reader<'a> {
    text: &'a str,
    origin: Arc<Origin>,
    at: usize,
    depth: usize,
}

impl Reader<'_> {
    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    fn next(&self) -> Option<char> {
        self.rest().chars().next()
    }

    /// Goes past `word` when it stands here.
    fn skip(&mut self, word: &str) -> bool {
        let found = self.rest().starts_with(word);
        if found {
            self.at += word.len();
        }
        found
    }

    /// Goes past white space.
    fn space(&mut self) {
        self.at = self.text.len() - self.rest().trim_start().len();
    }

    /// Goes past the characters that fit, and gives them back.
    fn run(&mut self, fits: impl Fn(char) -> bool) -> &str {
        let length = self.rest().find(|c| !fits(c)).unwrap_or(self.rest().len());
        self.at += length;
        &self.text[self.at - length..self.at]
    }

    fn error(&self, span: Range<usize>, why: impl Into<String>) -> ExpandError {
        self.origin.error(span, why)
    }

    /// The character at `at`, or the place behind the end.
    fn span_at(&self, at: usize) -> Range<usize> {
        at..at + self.text[at..].chars().next().map_or(1, char::len_utf8)
    }

    fn place(&self, from: usize) -> Place {
        Place::new(&self.origin, from..self.at)
    }

    /// Reads what stands in brackets that begin at `from`.
    fn deeper<T>(
        &mut self,
        from: usize,
        read: impl FnOnce(&mut Self) -> Result<T, ExpandError>,
    ) -> Result<T, ExpandError> {
        if self.depth >= DEEPEST {
            let why = format!("more than {DEEPEST} brackets are open here");
            return Err(self.error(self.span_at(from), why));
        }
        self.depth += 1;
        let found = read(self);
        self.depth -= 1;
        found
    }

    /// Elements up to the end, or within braces up to `|`, `}` or a `$` that begins no variable.
    fn elements(&mut self, inside: Inside) -> Result<Arc<Node>, ExpandError> {
        let mut found: Vec<Arc<Node>> = Vec::new();
        let mut text = String::new();
        while let Some(c) = self.next() {
            let element = match c {
                '#' => {
                    self.run(|c| c != '\n');
                    continue;
                }
                '{' => self.choice()?,
                '$' if self.rest().starts_with("${") => self.variable(inside)?,
                '$' if inside == Inside::Nothing => {
                    let why = "`$` begins a variable; write ${NAME=VALUE} and ${NAME}";
                    return Err(self.error(self.span_at(self.at), why));
                }
                '%' if self.rest().starts_with("%{") => self.wrap()?,
                '_' if self.rest().starts_with("__") => self.wildcard()?,
                '|' | '}' | '$' if inside == Inside::Braces => break,
                _ => {
                    text.push(c);
                    self.at += c.len_utf8();
                    continue;
                }
            };
            if !text.is_empty() {
                found.push(Arc::new(Node::Text(std::mem::take(&mut text))));
            }
            found.push(Arc::new(element));
        }
        if !text.is_empty() || (found.is_empty() && inside == Inside::Nothing) {
            found.push(Arc::new(Node::Text(text)));
        }
        Ok(match <[Arc<Node>; 1]>::try_from(found) {
            Ok([one]) => one,
            Err(several) => Arc::new(Node::Sequence(several)),
        })
    }

    /// Goes past the `}` of brackets that begin at `from`.
    fn close(&mut self, from: usize, what: &str) -> Result<(), ExpandError> {
        if self.skip("}") {
            return Ok(());
        }
        let rest = self.rest();
        Err(if rest.starts_with('$') {
            let why = "`$` has no meaning here; a variable is ${NAME}, and the number of options stands first: {2$$a|b|c}";
            self.error(self.span_at(self.at), why)
        } else if rest.is_empty() {
            let comment =
                if self.text[from..].contains('#') { "; `#` begins a comment" } else { "" };
            self.error(from..self.at, format!("{what} is not closed; a `}}` is missing{comment}"))
        } else {
            self.error(self.span_at(self.at), format!("expected `}}` to close {what}"))
        })
    }

    /// `{…}`
    fn choice(&mut self) -> Result<Node, ExpandError> {
        let from = self.at;
        self.skip("{");
        self.space();
        let method = self.method();
        let bounds = self.bounds();
        let mut options = Vec::new();
        loop {
            self.space();
            let weight = self.weight()?;
            let node = self.deeper(from, |reader| reader.elements(Inside::Braces))?;
            options.push(Weighed { node, weight });
            if !self.skip("|") {
                break;
            }
        }
        self.close(from, "this alternative")?;
        let place = self.place(from);
        if !options.iter().any(|option| option.weight > 0.0) {
            return Err(place.error("none of these options has a weight above 0"));
        }
        let count = options.len();
        let bounds = bounds.map_or_else(Bounds::default, |bounds| bounds.of(count));
        Ok(Node::Choice(Choice { method, options, bounds, place }))
    }

    fn method(&mut self) -> Option<Method> {
        let method = self.next().and_then(Method::of);
        self.at += usize::from(method.is_some());
        method
    }

    /// `2$$`, `1-2$$`, `2-$$`, `-2$$`, each with a separator behind it or none; nothing where none stands here.
    fn bounds(&mut self) -> Option<Written> {
        let from = self.at;
        let number = |reader: &mut Self| {
            let digits = reader.run(|c| c.is_ascii_digit());
            (!digits.is_empty()).then(|| digits.parse().unwrap_or(usize::MAX))
        };
        let least = number(self);
        let range = self.skip("-");
        let most = if range { number(self) } else { least };
        if (least.is_none() && most.is_none()) || !self.skip("$$") {
            self.at = from;
            return None;
        }
        let behind = self.at;
        let separator = self.run(|c| !matches!(c, '$' | '{' | '}')).to_owned();
        if separator.is_empty() || !self.skip("$$") {
            self.at = behind;
            return Some(Written { least, most, separator: None });
        }
        Some(Written { least, most, separator: Some(separator) })
    }

    /// `2::`, `0.5::`, or 1 where none stands here.
    fn weight(&mut self) -> Result<f64, ExpandError> {
        let from = self.at;
        let number = self.run(|c| c.is_ascii_digit() || matches!(c, '.' | '-' | '+')).to_owned();
        let points = number.matches('.').count();
        let unsigned = number.strip_prefix(['+', '-']).unwrap_or(&number);
        let is_number = unsigned.contains(|c: char| c.is_ascii_digit())
            && points <= 1
            && !unsigned.contains(['+', '-'])
            && (points == 1 || unsigned.len() == number.len());
        let behind = self.at;
        if !is_number || !self.skip("::") {
            self.at = from;
            return Ok(1.0);
        }
        match number.parse::<f64>() {
            Ok(weight) if weight >= 0.0 && weight.is_finite() => Ok(weight),
            _ => Err(self.error(from..behind, "a weight is a number of 0 or more")),
        }
    }

    /// The name of a variable.
    fn name(&mut self) -> Option<String> {
        let begins = |c: char| c.is_ascii_alphabetic() || matches!(c, '_' | '-');
        if !self.next().is_some_and(begins) {
            return None;
        }
        Some(self.run(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-')).to_owned())
    }

    /// `${x}`, `${x:otherwise}`, `${x=value}`
    fn variable(&mut self, inside: Inside) -> Result<Node, ExpandError> {
        let from = self.at;
        self.skip("${");
        self.space();
        let Some(name) = self.name() else {
            let why = "a variable's name is missing; write ${NAME=VALUE} and ${NAME}";
            return Err(self.error(from..self.at, why));
        };
        self.space();
        let at = self.at;
        let keeps = self.skip("?");
        if self.skip("=") {
            if inside == Inside::Braces {
                let why = "a variable gets its value outside of braces; put ${NAME=VALUE} at the beginning";
                return Err(self.error(from..self.at, why));
            }
            let at_once = self.skip("!");
            self.space();
            let value = self.deeper(from, |reader| reader.elements(Inside::Braces))?;
            self.close(from, "this variable")?;
            return Ok(Node::Assign(Assign { name, value, at_once, keeps }));
        }
        self.at = at;
        let otherwise = if self.skip(":") {
            self.space();
            Some(self.deeper(from, |reader| reader.elements(Inside::Braces))?)
        } else {
            None
        };
        self.close(from, "this variable")?;
        Ok(Node::Variable { name, otherwise, place: self.place(from) })
    }

    /// `%{around$$inner}`
    fn wrap(&mut self) -> Result<Node, ExpandError> {
        let from = self.at;
        self.skip("%{");
        self.space();
        let around = self.deeper(from, |reader| reader.elements(Inside::Braces))?;
        if !self.skip("$$") {
            let why = "expected `$$` between the two parts: %{before ... after$$inner}";
            return Err(self.error(from..self.at, why));
        }
        self.space();
        let inner = self.deeper(from, |reader| reader.elements(Inside::Braces))?;
        self.close(from, "this wrapping")?;
        Ok(Node::Wrap { around, inner })
    }

    /// `__name__`
    fn wildcard(&mut self) -> Result<Node, ExpandError> {
        let from = self.at;
        self.skip("__");
        let method = self.method();
        let name = self.deeper(from, Reader::wildcard_name)?;
        let before = self.at;
        self.space();
        let variables = if self.skip("(") {
            self.wildcard_variables()?
        } else {
            self.at = before;
            Vec::new()
        };
        if !self.skip("__") {
            let why = "this `__` has no partner; a wildcard is __NAME__";
            return Err(self.error(from..self.at, why));
        }
        let place = self.place(from);
        match name {
            Some(name) => Ok(Node::Wildcard(Wildcard { method, name, variables, place })),
            None => Err(place.error("a wildcard's name is missing; write __NAME__")),
        }
    }

    /// The name of a wildcard, which variables and alternatives may be a part of; none where nothing stands here.
    fn wildcard_name(&mut self) -> Result<Option<Arc<Node>>, ExpandError> {
        let mut found: Vec<Arc<Node>> = Vec::new();
        loop {
            let rest = self.rest();
            let node = if rest.starts_with("__") {
                break;
            } else if rest.starts_with("${") {
                self.variable(Inside::Braces)?
            } else {
                match self.next() {
                    None | Some('(' | '#' | '$' | '\n') => break,
                    Some('{') => self.choice()?,
                    Some(_) => {
                        let end = rest.find(['(', '#', '$', '{', '\n']).unwrap_or(rest.len());
                        let end = rest.find("__").map_or(end, |marks| marks.min(end));
                        let text = rest[..end].to_owned();
                        self.at += end;
                        Node::Text(text)
                    }
                }
            };
            found.push(Arc::new(node));
        }
        Ok(match <[Arc<Node>; 1]>::try_from(found) {
            Ok([one]) => Some(one),
            Err(several) if several.is_empty() => None,
            Err(several) => Some(Arc::new(Node::Sequence(several))),
        })
    }

    /// `x=red, y={a|b})`: the variables that a wildcard's values see.
    fn wildcard_variables(&mut self) -> Result<Vec<(String, Arc<Node>)>, ExpandError> {
        let from = self.at;
        let list = self.run(|c| c != ')').to_owned();
        let span = from..self.at;
        if !self.skip(")") {
            return Err(self.error(span, "a `)` is missing: __NAME(x=red)__"));
        }
        let read = |pair: &str| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            if name.trim().is_empty() {
                return Err(
                    self.error(span.clone(), "a variable's name is missing: __NAME(x=red)__")
                );
            }
            let collection = self.origin.collection.as_deref();
            let why = |error: ExpandError| self.error(span.clone(), error.why);
            let value = parse(value.trim(), collection).map_err(why)?;
            Ok((name.trim().to_owned(), value))
        };
        list.split(',').map(read).collect()
    }
}

/// Bounds as they are written.
struct Written {
    least: Option<usize>,
    most: Option<usize>,
    separator: Option<String>,
}

impl Written {
    /// The bounds for `count` options.
    fn of(self, count: usize) -> Bounds {
        let (a, b) = (self.least.unwrap_or(1), self.most.unwrap_or(count));
        let separator = self.separator.unwrap_or_else(|| ",".into());
        Bounds { least: a.min(b), most: a.max(b), separator }
    }
}
