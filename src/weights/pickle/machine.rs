//! The interpreter of pickle's opcodes.

use super::MAX_PICKLE;
use super::heap::{Heap, Object, Value};
use super::input::Input;
use super::storage::{Storage, TensorData};
use super::symbols::{self, Symbol};
use crate::error::{Error, Result};
use std::collections::HashMap;
use std::path::Path;

/// Most opcodes of one pickle; those of real checkpoints take some hundred thousand.
const MAX_STEPS: usize = 4_000_000;

/// Most values on the stack; picklers write long lists in pieces of a thousand.
const MAX_STACK: usize = 1 << 20;

/// One run over one pickle.
#[derive(Debug)]
pub(super) struct Machine<'a> {
    pub(super) heap: Heap<'a>,
    input: Input<'a>,
    stack: Vec<Value<'a>>,
    /// Heights of the stack at open marks.
    marks: Vec<usize>,
    memo: HashMap<u64, Value<'a>>,
    /// Whether storages may be referred to.
    torch: bool,
}

impl<'a> Machine<'a> {
    /// A run over `bytes`; `path` is for messages.
    pub(super) fn new(bytes: &'a [u8], path: &'a Path) -> Self {
        Self::at(bytes, 0, path)
    }

    /// A run over `bytes` from `position`.
    pub(super) fn at(bytes: &'a [u8], position: usize, path: &'a Path) -> Self {
        Self {
            heap: Heap::default(),
            input: Input::new(bytes, position, path),
            stack: Vec::new(),
            marks: Vec::new(),
            memo: HashMap::new(),
            torch: false,
        }
    }

    /// The position of the next byte; after the run it lies behind the pickle.
    pub(super) fn position(&self) -> usize {
        self.input.position
    }

    /// Runs to the end, with storages; gives itself back with the pickled value.
    pub(super) fn run_torch(mut self) -> Result<(Self, Value<'a>)> {
        self.torch = true;
        self.run()
    }

    /// Runs to the end; gives itself back with the pickled value.
    pub(super) fn run(mut self) -> Result<(Self, Value<'a>)> {
        let start = self.input.position;
        for _ in 0..MAX_STEPS {
            if self.input.position - start > MAX_PICKLE {
                let (allowed, asked) = (MAX_PICKLE as u64, (self.input.position - start) as u64);
                return Err(Error::Limit { what: "bytes of a pickle", allowed, asked });
            }
            let opcode = self.input.byte()?;
            if opcode == b'.' {
                let value = self.pop()?;
                return Ok((self, value));
            }
            self.step(opcode)?;
        }
        let allowed = MAX_STEPS as u64;
        Err(Error::Limit { what: "steps of a pickle", allowed, asked: allowed + 1 })
    }

    fn step(&mut self, opcode: u8) -> Result<()> {
        match opcode {
            // PROTO, FRAME: announcements without effect here.
            0x80 => self.input.skip(1),
            0x95 => self.input.skip(8),
            b'(' => {
                self.marks.push(self.stack.len());
                Ok(())
            }
            // POP, POP_MARK, DUP
            b'0' => self.pop_or_mark(),
            b'1' => self.pop_mark().map(drop),
            b'2' => {
                let top = self.peek()?;
                self.push(top)
            }
            b'N' | 0x88 | 0x89 | b'I' | b'J' | b'K' | b'M' | b'L' | 0x8a | 0x8b | b'F' | b'G' => {
                let value = self.input.number(opcode)?;
                self.push(value)
            }
            b'S' | b'V' | b'T' | b'U' | b'X' | 0x8c | 0x8d | b'B' | b'C' | 0x8e | 0x96 => {
                let value = self.input.string(opcode)?;
                self.push(value)
            }
            b']' | b'}' | b')' | b'l' | b't' | b'd' | 0x85..=0x87 | 0x8f | 0x91 => {
                self.container(opcode)
            }
            b'a' | b'e' | b's' | b'u' | 0x90 => self.fill(opcode),
            b'q' | b'r' | b'p' | 0x94 | b'h' | b'j' | b'g' => self.memory(opcode),
            b'c' | 0x93 | b'i' => self.global(opcode),
            b'R' | 0x81 | 0x92 | b'o' | b'b' => self.build(opcode),
            b'Q' => {
                let id = self.pop()?;
                let storage = self.persistent(id)?;
                self.push(storage)
            }
            // Everything else (extension codes, textual persistent ids, outside buffers) does not
            // occur in torch files.
            _ => Err(self.corrupt(format!("unknown pickle opcode {opcode:#04x}"))),
        }
    }

    /// LIST, DICT, TUPLE and their empty, counted and set forms.
    fn container(&mut self, opcode: u8) -> Result<()> {
        let items = match opcode {
            b']' | b'}' | b')' | 0x8f => Vec::new(),
            0x85..=0x87 => {
                let count = usize::from(opcode - 0x84);
                let at = self.stack.len().checked_sub(count).filter(|&at| at >= self.floor());
                let at = at.ok_or_else(|| self.underflow())?;
                self.stack.split_off(at)
            }
            _ => self.pop_mark()?,
        };
        let object = match opcode {
            b'}' | b'd' => Object::Dict(self.pairs(&items)?),
            b')' | b't' | 0x85..=0x87 => Object::Tuple(items),
            _ => Object::List(items),
        };
        let value = self.heap.add(object)?;
        self.push(value)
    }

    /// APPEND, APPENDS, SETITEM, SETITEMS, ADDITEMS.
    fn fill(&mut self, opcode: u8) -> Result<()> {
        let items = match opcode {
            b'a' => vec![self.pop()?],
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                vec![key, value]
            }
            _ => self.pop_mark()?,
        };
        let target = self.peek()?;
        let dict = matches!(opcode, b's' | b'u');
        let pairs = if dict { self.pairs(&items)? } else { Vec::new() };
        self.heap.spend(items.len())?;
        match (self.heap.object_mut(target), dict) {
            (Some(Object::Dict(entries)), true) => entries.extend(pairs),
            (Some(Object::List(list)), false) => list.extend(items),
            // Placeholders may be containers.
            (None, _) if target == Value::Opaque => {}
            _ => return Err(self.corrupt("items are added to something that holds none")),
        }
        Ok(())
    }

    fn pairs(&self, items: &[Value<'a>]) -> Result<Vec<(Value<'a>, Value<'a>)>> {
        let (pairs, rest) = items.as_chunks::<2>();
        if !rest.is_empty() {
            return Err(self.corrupt("a dictionary has a key without a value"));
        }
        Ok(pairs.iter().map(|[key, value]| (*key, *value)).collect())
    }

    /// BINPUT, LONG_BINPUT, PUT, MEMOIZE, BINGET, LONG_BINGET, GET.
    fn memory(&mut self, opcode: u8) -> Result<()> {
        let index = match opcode {
            b'q' | b'h' => u64::from(self.input.byte()?),
            b'r' | b'j' => self.input.unsigned(4)?,
            0x94 => self.memo.len() as u64,
            _ => {
                let line = self.input.line()?;
                line.parse().map_err(|_| self.corrupt("a memo index is no number"))?
            }
        };
        if matches!(opcode, b'h' | b'j' | b'g') {
            let value = self.memo.get(&index).copied();
            let value = value.ok_or_else(|| self.corrupt("a memo entry is missing"))?;
            return self.push(value);
        }
        let value = self.peek()?;
        self.memo.insert(index, value);
        Ok(())
    }

    /// GLOBAL, STACK_GLOBAL, INST.
    fn global(&mut self, opcode: u8) -> Result<()> {
        let (module, name) = if opcode == 0x93 {
            let (name, module) = (self.pop()?, self.pop()?);
            let (Value::Str(module), Value::Str(name)) = (module, name) else {
                return Err(self.corrupt("a name to import is no text"));
            };
            (module, name)
        } else {
            (self.input.line()?, self.input.line()?)
        };
        let symbol = symbols::lookup(module, name).ok_or_else(|| Error::UnsafePickle {
            path: self.input.path.to_path_buf(),
            symbol: printable(&format!("{module}.{name}")),
        })?;
        if opcode == b'i' {
            let items = self.pop_mark()?;
            let arguments = self.heap.add(Object::Tuple(items))?;
            let value = self.call(symbol, arguments)?;
            return self.push(value);
        }
        self.push(Value::Symbol(symbol))
    }

    /// REDUCE, NEWOBJ, NEWOBJ_EX, OBJ, BUILD.
    fn build(&mut self, opcode: u8) -> Result<()> {
        if opcode == b'b' {
            // The state of an object: nothing that tensors or dictionaries need, but for a dictionary of parameters.
            let state = self.pop()?;
            let target = self.peek()?;
            let sound = target == Value::Opaque || self.heap.object(target).is_some();
            self.heap.fill_with_parameters(target, state)?;
            return if sound { Ok(()) } else { Err(self.corrupt("state for no object")) };
        }
        let (callee, arguments) = match opcode {
            b'o' => {
                let mut items = self.pop_mark()?;
                if items.is_empty() {
                    return Err(self.underflow());
                }
                let callee = items.remove(0);
                (callee, self.heap.add(Object::Tuple(items))?)
            }
            0x92 => {
                self.pop()?;
                let arguments = self.pop()?;
                (self.pop()?, arguments)
            }
            _ => {
                let arguments = self.pop()?;
                (self.pop()?, arguments)
            }
        };
        let value = match callee {
            Value::Symbol(symbol) => self.call(symbol, arguments)?,
            // A method of a placeholder, as enums pickle themselves.
            Value::Opaque => Value::Opaque,
            _ => return Err(self.corrupt("a call of something that is no name")),
        };
        self.push(value)
    }

    /// What a permitted name makes of its arguments. Nothing outside of the heap is touched.
    fn call(&mut self, symbol: Symbol, arguments: Value<'a>) -> Result<Value<'a>> {
        let items = self.heap.items(arguments);
        let items = items.ok_or_else(|| self.corrupt("arguments are no tuple"))?;
        Ok(match symbol {
            Symbol::Tensor | Symbol::TensorOfBytes => {
                let tensor = TensorData::from_arguments(&self.heap, symbol, items)
                    .map_err(|why| self.corrupt(why))?;
                self.heap.add(Object::Tensor(tensor))?
            }
            Symbol::Parameter => {
                let inner = items.first().copied();
                inner.ok_or_else(|| self.corrupt("a parameter without a tensor"))?
            }
            Symbol::Dict => {
                self.afford_copy(arguments)?;
                let pairs = self.heap.items(arguments).and_then(<[_]>::first);
                let pairs = pairs.and_then(|&list| self.heap.items(list));
                let pair = |&item: &Value<'a>| match self.heap.items(item) {
                    Some([key, value]) => Some((*key, *value)),
                    _ => None,
                };
                let entries = pairs.unwrap_or_default().iter().filter_map(pair).collect();
                self.heap.add(Object::Dict(entries))?
            }
            Symbol::List => {
                self.afford_copy(arguments)?;
                let list = self.heap.items(arguments).and_then(<[_]>::first);
                let list = list.and_then(|&list| self.heap.items(list));
                let list = list.unwrap_or_default().to_vec();
                self.heap.add(Object::List(list))?
            }
            Symbol::Opaque | Symbol::Storage(_) | Symbol::Dtype(_) => Value::Opaque,
        })
    }

    /// Counts the items that a copy of the first argument looks at, before memory is taken for them.
    fn afford_copy(&mut self, arguments: Value<'a>) -> Result<()> {
        let first = self.heap.items(arguments).and_then(|items| items.first().copied());
        let copied = first.and_then(|list| self.heap.items(list)).map_or(0, <[_]>::len);
        self.heap.spend(copied)
    }

    /// BINPERSID: torch refers to its storages by such ids.
    fn persistent(&mut self, id: Value<'a>) -> Result<Value<'a>> {
        if !self.torch {
            return Err(self.corrupt("a storage where none is expected"));
        }
        let items = self.heap.items(id);
        let items = items.ok_or_else(|| self.corrupt("a storage id is no tuple"))?;
        let storage = Storage::from_id(&self.heap, items).map_err(|why| self.corrupt(why))?;
        self.heap.add(Object::Storage(storage))
    }
}

/// The stack.
impl<'a> Machine<'a> {
    fn push(&mut self, value: Value<'a>) -> Result<()> {
        if self.stack.len() >= MAX_STACK {
            let allowed = MAX_STACK as u64;
            return Err(Error::Limit {
                what: "height of a pickle's stack",
                allowed,
                asked: allowed + 1,
            });
        }
        self.stack.push(value);
        Ok(())
    }

    /// Height below which the open mark protects the stack.
    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn pop(&mut self) -> Result<Value<'a>> {
        if self.stack.len() <= self.floor() {
            return Err(self.underflow());
        }
        self.stack.pop().ok_or_else(|| self.underflow())
    }

    fn peek(&self) -> Result<Value<'a>> {
        let top = self.stack.last().copied().filter(|_| self.stack.len() > self.floor());
        top.ok_or_else(|| self.underflow())
    }

    /// POP removes a mark where it is on top.
    fn pop_or_mark(&mut self) -> Result<()> {
        if self.marks.last() == Some(&self.stack.len()) {
            self.marks.pop();
            return Ok(());
        }
        self.pop().map(drop)
    }

    /// Everything above the last mark.
    fn pop_mark(&mut self) -> Result<Vec<Value<'a>>> {
        let height = self.marks.pop().ok_or_else(|| self.underflow())?;
        Ok(self.stack.split_off(height.min(self.stack.len())))
    }

    fn underflow(&self) -> Error {
        self.corrupt("the pickle takes more from its stack than is there")
    }

    fn corrupt(&self, why: impl Into<String>) -> Error {
        Error::corrupt(self.input.path, format!("damaged pickle: {}", why.into()))
    }
}

/// A name from a stranger's file, fit for a terminal.
fn printable(name: &str) -> String {
    name.chars().take(120).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}
