//! The bytes of a pickle: numbers, strings and lines.

use super::heap::Value;
use crate::error::{Error, Result};
use std::path::Path;

/// Longest line: names and numbers are short.
const MAX_LINE: usize = 1 << 16;

/// A place in the bytes of a pickle.
#[derive(Debug)]
pub(super) struct Input<'a> {
    bytes: &'a [u8],
    /// Offset of the next byte.
    pub(super) position: usize,
    /// The path of the file, for messages.
    pub(super) path: &'a Path,
}

impl<'a> Input<'a> {
    pub(super) fn new(bytes: &'a [u8], position: usize, path: &'a Path) -> Self {
        Self { bytes, position, path }
    }

    pub(super) fn number(&mut self, opcode: u8) -> Result<Value<'a>> {
        Ok(match opcode {
            b'N' => Value::None,
            0x88 => Value::Bool(true),
            0x89 => Value::Bool(false),
            b'K' => Value::Int(i64::from(self.byte()?)),
            b'M' => Value::Int(self.unsigned(2)?.cast_signed()),
            b'J' => {
                let low = self.unsigned(4)? as u32;
                Value::Int(i64::from(low.cast_signed()))
            }
            b'I' => match self.line()? {
                "00" => Value::Bool(false),
                "01" => Value::Bool(true),
                digits => digits.parse().map_or(Value::Opaque, Value::Int),
            },
            b'L' => {
                let line = self.line()?;
                let digits = line.strip_suffix('L').unwrap_or(line);
                digits.parse().map_or(Value::Opaque, Value::Int)
            }
            0x8a | 0x8b => {
                let length = self.unsigned(if opcode == 0x8a { 1 } else { 4 })?;
                long(self.take(length)?)
            }
            b'F' => {
                self.line()?;
                Value::Opaque
            }
            _ => {
                self.skip(8)?;
                Value::Opaque
            }
        })
    }

    pub(super) fn string(&mut self, opcode: u8) -> Result<Value<'a>> {
        let bytes = match opcode {
            b'S' => return Ok(Value::Str(self.line()?.trim_matches(['\'', '"']))),
            b'V' => return Ok(Value::Str(self.line()?)),
            b'U' | 0x8c | b'C' => self.sized(1)?,
            b'T' | b'X' | b'B' => self.sized(4)?,
            _ => self.sized(8)?,
        };
        let text = matches!(opcode, b'T' | b'U' | b'X' | 0x8c | 0x8d);
        match std::str::from_utf8(bytes) {
            Ok(string) if text => Ok(Value::Str(string)),
            // Bytes, and text with lone surrogates, name no tensor.
            _ => Ok(Value::Opaque),
        }
    }

    /// Bytes behind their length of `width` bytes.
    pub(super) fn sized(&mut self, width: usize) -> Result<&'a [u8]> {
        let length = self.unsigned(width)?;
        self.take(length)
    }

    pub(super) fn unsigned(&mut self, width: usize) -> Result<u64> {
        let bytes = self.take(width as u64)?;
        Ok(bytes.iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte)))
    }

    pub(super) fn byte(&mut self) -> Result<u8> {
        let byte = self.bytes.get(self.position).copied();
        let byte = byte.ok_or_else(|| self.corrupt("truncated: the pickle has no end"))?;
        self.position += 1;
        Ok(byte)
    }

    pub(super) fn take(&mut self, length: u64) -> Result<&'a [u8]> {
        let end = usize::try_from(length).ok().and_then(|n| self.position.checked_add(n));
        let taken = end.and_then(|end| self.bytes.get(self.position..end));
        let taken = taken.ok_or_else(|| self.corrupt("truncated: the pickle ends in a value"))?;
        self.position += taken.len();
        Ok(taken)
    }

    pub(super) fn skip(&mut self, length: u64) -> Result<()> {
        self.take(length).map(drop)
    }

    /// Text up to the end of the line.
    pub(super) fn line(&mut self) -> Result<&'a str> {
        let rest = self.bytes.get(self.position..).unwrap_or_default();
        let length = rest.iter().take(MAX_LINE).position(|&byte| byte == b'\n');
        let line = length.and_then(|n| std::str::from_utf8(rest.get(..n)?).ok());
        let line = line.ok_or_else(|| self.corrupt("a line of the pickle is no text"))?;
        self.position += line.len() + 1;
        Ok(line)
    }

    pub(super) fn corrupt(&self, why: impl Into<String>) -> Error {
        Error::corrupt(self.path, format!("damaged pickle: {}", why.into()))
    }
}

/// A little-endian two's complement number of any length.
fn long(bytes: &[u8]) -> Value<'static> {
    let mut full = match bytes.last() {
        Some(last) if last & 0x80 != 0 => [0xff; 8],
        _ => [0; 8],
    };
    match full.get_mut(..bytes.len()) {
        Some(low) => {
            low.copy_from_slice(bytes);
            Value::Int(i64::from_le_bytes(full))
        }
        None => Value::Opaque,
    }
}
