//! Prompts that change from step to step, as A1111 writes them: `[a:b:0.5]`, `[a:5]`, `[a::5]` and `[a|b]`.
//!
//! A1111's own grammar has several readings for prompts with stray brackets and colons. This is the one rule that agrees
//! with it wherever it has one: from left to right; at `[` an edit, then alternatives, then a group; at `(` a group; else
//! one character of text; nothing is taken back.

use super::numbers::{is_space, number};
use std::collections::BTreeSet;
use std::ops::Range;

/// A prompt that is read for its edits.
#[derive(Debug)]
pub struct Edited {
    text: String,
    /// What begins at each character of the text, with the place behind it.
    elements: Vec<Option<(Element, usize)>>,
    chars: Vec<char>,
    /// The edits and alternatives in force; empty when nothing changes.
    changes: bool,
}

/// What begins at a bracket or a character. Ranges are of characters, and hold whole elements.
#[derive(Debug, Clone)]
enum Element {
    /// Text, or brackets that mean nothing here.
    Plain,
    /// Brackets around elements, which are kept as they are.
    Group(Vec<Range<usize>>),
    Edit {
        before: Range<usize>,
        after: Range<usize>,
        when: When,
    },
    Turns(Vec<Range<usize>>),
}

/// When the text of an edit changes.
#[derive(Debug, Clone, Copy)]
enum When {
    /// Behind this part of the steps.
    Part(f64),
    /// Behind this many steps.
    Step(f64),
}

impl When {
    /// The last step, from 1, of the text before.
    fn last(self, steps: usize) -> usize {
        let at = match self {
            When::Part(part) => part * steps as f64,
            When::Step(step) => step,
        };
        // Cut towards zero; negative numbers are no step at all.
        (at.max(0.0) as usize).min(steps)
    }
}

impl Edited {
    /// Reads `text`. A `|` outside of alternatives, a backslash before a line break or at the very end leave the whole
    /// prompt as it is written.
    pub fn new(text: &str) -> Self {
        let chars: Vec<char> = text.chars().collect();
        let mut reader = Reader::new(&chars);
        for at in (0..chars.len()).rev() {
            reader.read(at);
        }
        let mut read =
            Self { text: text.to_owned(), elements: reader.elements, chars, changes: false };
        read.changes = read.is_readable() && read.has_changes();
        read
    }

    /// Whether the text changes from step to step.
    pub fn changes(&self) -> bool {
        self.changes
    }

    /// The text at `step`, from 0, of `steps`.
    pub fn at(&self, step: usize, steps: usize) -> String {
        if !self.changes {
            return self.text.clone();
        }
        let mut out = String::new();
        self.walk(0..self.chars.len(), &mut |seen| match seen {
            Seen::Text(c) => {
                out.push(c);
                Vec::new()
            }
            Seen::Edit { before, after, when } => {
                vec![if step < when.last(steps) { before } else { after }]
            }
            Seen::Turns(options) => vec![options[step % options.len()].clone()],
        });
        out
    }

    /// The texts of a run of `steps`: for each its last step, counted from 1. One may come again.
    pub fn schedule(&self, steps: usize) -> Vec<(usize, String)> {
        if !self.changes {
            return vec![(steps, self.text.clone())];
        }
        let mut ends = BTreeSet::from([steps]);
        self.walk(0..self.chars.len(), &mut |seen| match seen {
            Seen::Text(_) => Vec::new(),
            Seen::Edit { before, after, when } => {
                ends.extend(Some(when.last(steps)).filter(|end| *end > 0));
                vec![before, after]
            }
            Seen::Turns(options) => {
                ends.extend(1..=steps);
                options
            }
        });
        ends.into_iter().map(|end| (end, self.at(end.saturating_sub(1), steps))).collect()
    }

    /// Whether every character belongs to an element or is a bracket or colon that stands alone.
    fn is_readable(&self) -> bool {
        let mut at = 0;
        while at < self.chars.len() {
            at = match &self.elements[at] {
                Some((_, end)) => *end,
                None if matches!(self.chars[at], '[' | ']' | '(' | ')' | ':') => at + 1,
                None => return false,
            };
        }
        true
    }

    fn has_changes(&self) -> bool {
        let mut found = false;
        self.walk(0..self.chars.len(), &mut |seen| {
            found |= !matches!(seen, Seen::Text(_));
            Vec::new()
        });
        found
    }

    /// Goes through the elements in `range`; `visit` names the parts of what changes that are gone through.
    fn walk(&self, range: Range<usize>, visit: &mut dyn FnMut(Seen) -> Vec<Range<usize>>) {
        // A stack of its own: brackets may stand in each other as deep as the text is long.
        let mut todo = vec![range];
        while let Some(Range { start, end }) = todo.pop() {
            if start >= end {
                continue;
            }
            let (element, behind) = match &self.elements[start] {
                Some((element, behind)) if *behind <= end => (element, *behind),
                _ => (&Element::Plain, start + 1),
            };
            todo.push(behind..end);
            let parts = match element {
                Element::Plain => {
                    self.chars[start..behind].iter().for_each(|c| drop(visit(Seen::Text(*c))));
                    Vec::new()
                }
                Element::Group(parts) => {
                    visit(Seen::Text(self.chars[start]));
                    let mut parts = parts.clone();
                    // The characters between the parts: a colon, and the closing bracket.
                    let mut all = Vec::with_capacity(parts.len() * 2);
                    for part in parts.drain(..) {
                        let mark = part.end;
                        all.extend([part, mark..mark + 1]);
                    }
                    all
                }
                Element::Edit { before, after, when } => {
                    visit(Seen::Edit { before: before.clone(), after: after.clone(), when: *when })
                }
                Element::Turns(options) => visit(Seen::Turns(options.clone())),
            };
            todo.extend(parts.into_iter().rev());
        }
    }
}

/// What a walk comes to.
enum Seen {
    Text(char),
    Edit { before: Range<usize>, after: Range<usize>, when: When },
    Turns(Vec<Range<usize>>),
}

/// Reads elements from the end of the text to its beginning, so that what stands in brackets is read before them.
struct Reader<'a> {
    chars: &'a [char],
    elements: Vec<Option<(Element, usize)>>,
    /// For each place the end of the elements that follow each other from there.
    runs: Vec<usize>,
    /// For each place the end of the text without syntax from there.
    plain: Vec<usize>,
}

impl<'a> Reader<'a> {
    fn new(chars: &'a [char]) -> Self {
        let length = chars.len();
        Self {
            chars,
            elements: vec![None; length],
            runs: (0..=length).collect(),
            plain: (0..=length).collect(),
        }
    }

    fn read(&mut self, at: usize) {
        let found = match self.chars[at] {
            '[' => self.edit(at).or_else(|| self.turns(at)).or_else(|| self.group(at)),
            '(' => self.group(at),
            _ => {
                self.plain[at] = self.plain_end(at);
                (self.plain[at] > at).then_some((Element::Plain, self.plain[at]))
            }
        };
        if let Some((_, end)) = found {
            self.runs[at] = self.runs[end];
        }
        self.elements[at] = found;
    }

    fn is(&self, at: usize, c: char) -> bool {
        self.chars.get(at) == Some(&c)
    }

    /// The end of the text without syntax that begins at `at`.
    fn plain_end(&self, at: usize) -> usize {
        match self.chars[at] {
            ']' | ')' | ':' | '|' => at,
            '\\' => match self.chars.get(at + 1) {
                None | Some('\n') => at,
                Some(_) => self.plain[at + 2],
            },
            _ => self.plain[at + 1],
        }
    }

    /// A number between white space, and the bracket that closes it: what it means, and the place behind.
    fn when(&self, from: usize) -> Option<(When, usize)> {
        let skip = |mut at: usize, fits: &dyn Fn(char) -> bool| {
            while self.chars.get(at).is_some_and(|c| fits(*c)) {
                at += 1;
            }
            at
        };
        let digits = |at| skip(at, &|c| c.is_ascii_digit());
        let start = skip(from, &is_space);
        let whole = start + usize::from(matches!(self.chars.get(start), Some('+' | '-')));
        let mut end = digits(whole);
        if self.is(end, '.') {
            let behind = digits(end + 1);
            if behind == end + 1 && end == whole {
                return None;
            }
            end = behind;
        } else if end == whole {
            return None;
        }
        if matches!(self.chars.get(end), Some('e' | 'E')) {
            let sign = end + 1 + usize::from(matches!(self.chars.get(end + 1), Some('+' | '-')));
            let behind = digits(sign);
            if behind > sign {
                end = behind;
            }
        }
        let written: String = self.chars[start..end].iter().collect();
        let close = skip(end, &is_space);
        let number = number(&written).unwrap_or(f64::MAX);
        let when = if written.contains('.') { When::Part(number) } else { When::Step(number) };
        self.is(close, ']').then_some((when, close + 1))
    }

    fn edit(&self, at: usize) -> Option<(Element, usize)> {
        let first = at + 1..self.runs[at + 1];
        if !self.is(first.end, ':') {
            return None;
        }
        let second = first.end + 1..self.runs[first.end + 1];
        if self.is(second.end, ':')
            && let Some((when, end)) = self.when(second.end + 1)
        {
            return Some((Element::Edit { before: first, after: second, when }, end));
        }
        let (when, end) = self.when(first.end + 1)?;
        Some((Element::Edit { before: at..at, after: first, when }, end))
    }

    fn turns(&self, at: usize) -> Option<(Element, usize)> {
        let mut options: Vec<Range<usize>> = Vec::new();
        let mut end = at;
        loop {
            options.push(end + 1..self.runs[end + 1]);
            end = self.runs[end + 1];
            if !self.is(end, '|') {
                break;
            }
        }
        (options.len() > 1 && self.is(end, ']')).then_some((Element::Turns(options), end + 1))
    }

    fn group(&self, at: usize) -> Option<(Element, usize)> {
        let (round, end) = (self.chars[at] == '(', self.runs[at + 1]);
        let inside = at + 1..end;
        if !round {
            return self.is(end, ']').then_some((Element::Group(vec![inside]), end + 1));
        }
        if self.is(end, ':') {
            let weight = end + 1..self.runs[end + 1];
            let close = weight.end;
            return self
                .is(close, ')')
                .then_some((Element::Group(vec![inside, weight]), close + 1));
        }
        self.is(end, ')').then_some((Element::Group(vec![inside]), end + 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn schedule(text: &str) -> Vec<(usize, String)> {
        Edited::new(text).schedule(10)
    }

    #[test]
    fn edits_change_the_text() {
        let two = |at: usize, first: &str, second: &str| {
            vec![(at, first.to_owned()), (10, second.to_owned())]
        };
        assert_eq!(schedule("a [b:c:0.5] d"), two(5, "a b d", "a c d"));
        assert_eq!(schedule("[(b:1.2)::3]x"), two(3, "(b:1.2)x", "x"));
        assert_eq!(schedule("[b:3]"), two(3, "", "b"));
        assert_eq!(
            schedule("[a:[b:c:0.8]:2]"),
            [(2, "a".into()), (8, "b".into()), (10, "c".into())]
        );
        assert_eq!(schedule("[a:b:0]"), [(10, "b".to_owned())]);
        assert_eq!(schedule("[a:b:1.0]"), [(10, "a".to_owned())]);
    }

    #[test]
    fn turns_are_taken_step_by_step() {
        let edited = Edited::new("[a|b|[c|d]]!");
        let texts: Vec<String> = (0..6).map(|step| edited.at(step, 6)).collect();
        assert_eq!(texts, ["a!", "b!", "c!", "a!", "b!", "d!"]);
    }

    #[test]
    fn other_text_stays() {
        for text in
            ["", "a (b:1.2) [c]", "a|b [c:d:5]", "[a:b]", "[a:b:c:3]", "[c:d:5]\\", "]) : (["]
        {
            assert!(!Edited::new(text).changes(), "{text}");
            assert_eq!(schedule(text), [(10, text.to_owned())]);
        }
    }

    #[test]
    fn depth_is_no_danger() {
        let deep = format!("{}a{}", "[".repeat(100_000), ":5]".repeat(100_000));
        assert_eq!(Edited::new(&deep).at(9, 10), "a");
    }

    proptest! {
        #[test]
        fn any_text_is_read(text in "([\\[\\]():|\\\\a\n ]|:5\\]|:0\\.5\\]){0,24}|(?s).*") {
            let edited = Edited::new(&text);
            let schedule = edited.schedule(4);
            prop_assert_eq!(schedule.last().map(|(end, _)| *end), Some(4));
            if !edited.changes() {
                prop_assert_eq!(&schedule[0].1, &text);
            }
        }
    }
}
