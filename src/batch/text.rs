//! Text: a prompt a line, or a line of switches.
//!
//! Blank lines and lines that begin with `#` are skipped. A line that begins with `--` holds switches: those of
//! AUTOMATIC1111's script "Prompts from file or textbox" and the long flags of `colora generate`. Every other line is a
//! prompt as it stands.

use super::draft::Draft;
use super::key::Key;
use super::words::split;
use crate::error::{Error, LineError, Result};
use crate::pipeline::fields::Field;

/// What was read: the drafts, what is wrong, and remarks.
#[derive(Debug, Default)]
pub(super) struct Read {
    pub(super) drafts: Vec<Draft>,
    pub(super) mistakes: Vec<LineError>,
    pub(super) remarks: Vec<String>,
}

/// Reads a text; `comments`: whether `#` begins one.
pub(super) fn read(text: &str, comments: bool) -> Read {
    let mut read = Read::default();
    for (at, line) in text.lines().enumerate() {
        let (number, line) = (at + 1, line.trim());
        if line.is_empty() || comments && line.starts_with('#') {
            continue;
        }
        if line.starts_with("--") {
            match switches(line, number) {
                Ok(draft) => read.drafts.push(draft),
                Err(error) => read.mistakes.push(LineError::new(number, error)),
            }
            continue;
        }
        if line.contains(" --") {
            let remark = "switches are read only in lines that begin with `--`";
            read.remarks.push(format!("line {number} is drawn as it stands; {remark}"));
        }
        let mut draft = Draft::new(number);
        draft.values.insert("prompt".into(), line.into());
        read.drafts.push(draft);
    }
    read
}

/// The job of a line of switches.
fn switches(line: &str, number: usize) -> Result<Draft> {
    let words = split(line).map_err(|mark| {
        Error::bad_request("line", line, format!("the quotation mark {} is not closed", mark.0))
    })?;
    let mut draft = Draft::new(number);
    let mut words = words.into_iter().peekable();
    while let Some(word) = words.next() {
        let Some(name) = word.strip_prefix("--") else {
            let why = "expected a switch; a prompt stands after the switch of this name";
            return Err(Error::bad_request("line", &word, why));
        };
        if let Some((name, value)) = name.split_once('=') {
            draft.set_text(name, value)?;
            continue;
        }
        let mut rest = || {
            let mut text: Vec<String> = Vec::new();
            while let Some(word) = words.next_if(|word| !word.starts_with("--")) {
                text.push(word);
            }
            text.join(" ")
        };
        match Key::of(name)? {
            Key::Off(_) => draft.set_text(name, "")?,
            Key::Field(field) if is_switch(field) => {
                let on = words.next_if(|word| ["true", "false"].contains(&word.as_str()));
                draft.set_text(name, on.as_deref().unwrap_or("true"))?;
            }
            // As AUTOMATIC1111 has it: all words up to the next switch.
            Key::Field(field) if ["prompt", "negative_prompt"].contains(&field.key) => {
                draft.set_text(name, &rest())?;
            }
            Key::Ignored => {
                rest();
                draft.set_text(name, "")?;
            }
            _ => {
                let value = words.next().filter(|word| !word.starts_with("--"));
                let why = "a value is missing after it";
                let value = value.ok_or_else(|| Error::bad_request("line", &word, why))?;
                draft.set_text(name, &value)?;
            }
        }
    }
    Ok(draft)
}

fn is_switch(field: &Field) -> bool {
    field.flag.is_some_and(|flag| flag.value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_comments_and_switches() {
        let text = "# a list\n\na red apple\r\n--prompt a green apple --steps 4 --negative_prompt fog --cfg_scale 5\n\
                    a cat --steps 20\n--lora flat:0.8 --lora gold --tile --prompt it's x --batch_size 2\n";
        let read = read(text, true);
        assert!(read.mistakes.is_empty(), "{:?}", read.mistakes);
        let lines: Vec<usize> = read.drafts.iter().map(|draft| draft.line).collect();
        assert_eq!(lines, [3, 4, 5, 6]);
        assert_eq!(read.drafts[0].values["prompt"], "a red apple");
        let values = &read.drafts[1].values;
        assert_eq!((&values["prompt"], &values["steps"]), (&"a green apple".into(), &4.into()));
        assert_eq!(values["guidance_scale"], 5.0);
        assert_eq!(read.drafts[2].values["prompt"], "a cat --steps 20");
        assert_eq!(read.remarks.len(), 1);
        let last = &read.drafts[3];
        assert_eq!((last.values["loras"].as_array().unwrap().len(), last.repeat), (2, Some(2)));
        assert_eq!(
            (&last.values["tile"], &last.values["prompt"]),
            (&true.into(), &"it's x".into())
        );
    }

    #[test]
    fn mistakes_name_their_line() {
        let text = "--prompt a --stepz 4\nfine\n--\n--steps\n--steps --prompt x\n--prompt a \"b\n--steps 4 a cat\n";
        let read = read(text, true);
        let lines: Vec<usize> = read.mistakes.iter().map(|mistake| mistake.line).collect();
        assert_eq!((lines, read.drafts.len()), (vec![1, 3, 4, 5, 6, 7], 1));
        let first = read.mistakes[0].error.to_string();
        assert!(first.contains("stepz") && first.contains("`steps`"), "{first}");
        assert_eq!(super::read("# x", false).drafts.len(), 1);
    }
}
