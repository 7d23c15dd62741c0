//! CSV and TSV with a header: a column a field, a record a job, an empty cell leaves the field open.
//!
//! # Source
//! RFC 4180: quotes, doubled inside quotes, line breaks inside quotes. The separator is the first of tab, `;` and `,`
//! that the header holds.

use super::draft::Draft;
use super::key::Key;
use super::text::Read;
use crate::csv::{Record, records};
use crate::error::{Error, LineError};

/// Reads a table.
pub(super) fn read(text: &str) -> Read {
    let mut read = Read::default();
    let header = text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
    let separator = ['\t', ';'].into_iter().find(|c| header.contains(*c)).unwrap_or(',');
    let mut records = match records(text, separator) {
        Ok(records) => records.into_iter(),
        Err(mistake) => {
            read.mistakes.push(mistake);
            return read;
        }
    };
    let Some(header) = records.next() else { return read };
    for name in &header.cells {
        if let Err(error) = Key::of(name) {
            read.mistakes.push(LineError::new(header.line, error));
        }
    }
    if !read.mistakes.is_empty() {
        return read;
    }
    for record in records {
        match draft(&header, &record) {
            Ok(draft) => read.drafts.push(draft),
            Err(error) => read.mistakes.push(LineError::new(record.line, error)),
        }
    }
    read
}

/// The job of a record.
fn draft(header: &Record, record: &Record) -> Result<Draft, Error> {
    let (names, cells) = (header.cells.len(), record.cells.len());
    if names != cells {
        let why = format!("the header has {names} columns; text that holds a comma needs quotes");
        return Err(Error::bad_request("columns", cells, why));
    }
    let mut draft = Draft::new(record.line);
    for (name, cell) in header.cells.iter().zip(&record.cells) {
        if !cell.trim().is_empty() {
            draft.set_text(name, cell.trim())?;
        }
    }
    Ok(draft)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_read() {
        let text = "prompt,steps,lora.flat,label.set\n\"a \"\"red\"\", apple\",4,0.5,x\r\n\n\"two\nlines\",,,\n";
        let read = read(text);
        assert!(read.mistakes.is_empty(), "{:?}", read.mistakes);
        assert_eq!(read.drafts.len(), 2);
        let first = &read.drafts[0];
        assert_eq!(first.values["prompt"], "a \"red\", apple");
        assert_eq!(first.strengths[0].to_string(), "flat:0.5");
        assert_eq!((first.line, first.labels["set"].as_str()), (2, "x"));
        let second = &read.drafts[1];
        assert_eq!((second.line, &second.values["prompt"]), (4, &"two\nlines".into()));
        assert!(!second.values.contains_key("steps") && second.strengths.is_empty());
        for text in ["prompt;steps\na, b;4\n", "prompt\tsteps\na, b\t4"] {
            assert_eq!(super::read(text).drafts[0].values["prompt"], "a, b");
        }
        assert!(super::read("").drafts.is_empty());
    }

    #[test]
    fn mistakes_name_their_line() {
        let wrong = read("prompt,stepz\na,4\n");
        assert!(wrong.mistakes[0].error.to_string().contains("`steps`"));
        let wrong = read("prompt,steps\na,4\na,b,4\na,x\n\"open,4\n");
        assert_eq!(wrong.mistakes.len(), 1, "an open quote leaves nothing to trust");
        assert_eq!(wrong.mistakes[0].line, 5);
        let wrong = read("prompt,steps\na,4\na,b,4\na,x\n");
        let lines: Vec<usize> = wrong.mistakes.iter().map(|mistake| mistake.line).collect();
        assert_eq!((lines, wrong.drafts.len()), (vec![3, 4], 1));
    }
}
