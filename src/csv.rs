//! Records of CSV: cells between separators, quotation marks, doubled inside them, and line breaks inside them.
//!
//! # Source
//! RFC 4180.
//!
//! Floor 0.

use crate::error::{Error, LineError};

/// A record: the line on which it begins, and its cells.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Record {
    /// The line, from 1.
    pub(crate) line: usize,
    /// The text of each, without its quotation marks.
    pub(crate) cells: Vec<String>,
}

/// All records of `text` that are not blank.
///
/// # Errors
/// [`LineError`] for a quotation mark that is not closed.
pub(crate) fn records(text: &str, separator: char) -> Result<Vec<Record>, LineError> {
    let mut records = Vec::new();
    let mut record = Record { line: 1, cells: Vec::new() };
    let (mut cell, mut line, mut quoted_at) = (String::new(), 1, None);
    let mut letters = text.chars().peekable();
    while let Some(c) = letters.next() {
        line += usize::from(c == '\n');
        match (quoted_at, c) {
            (Some(_), '"') if letters.peek() == Some(&'"') => cell.extend(letters.next()),
            (Some(_), '"') => quoted_at = None,
            (None, '"') if cell.trim().is_empty() => {
                cell.clear();
                quoted_at = Some(line);
            }
            (None, c) if c == separator => record.cells.push(std::mem::take(&mut cell)),
            (None, '\r') if letters.peek() == Some(&'\n') => {}
            (None, '\n') => {
                record.cells.push(std::mem::take(&mut cell));
                let next = Record { line, cells: Vec::new() };
                keep(std::mem::replace(&mut record, next), &mut records);
            }
            (_, c) => cell.push(c),
        }
    }
    if let Some(line) = quoted_at {
        let error = Error::bad_request("line", "\"", "this quotation mark is not closed");
        return Err(LineError::new(line, error));
    }
    record.cells.push(cell);
    keep(record, &mut records);
    Ok(records)
}

fn keep(record: Record, records: &mut Vec<Record>) {
    if record.cells.iter().any(|cell| !cell.trim().is_empty()) {
        records.push(record);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_may_hold_everything() {
        let found = records("a,\"b, \"\"c\"\"\ne\" ,\r\n\r\n f ,g,h\n", ',').unwrap();
        assert_eq!(found[0].cells, ["a", "b, \"c\"\ne ", ""]);
        assert_eq!((found[1].line, &*found[1].cells[0]), (4, " f "));
        assert_eq!(records("a\n\"b", ',').unwrap_err().line, 2);
    }
}
