//! Choosing in the terminal, or by lines of text: both pictures are one file whose path is said.

use super::Front;
use super::pair::pair;
use super::stroke::StrokeLine;
use crate::cli::style::{Talk, say, value};
use crate::error::{Error, Result};
use crate::pipeline::Cancel;
use crate::tune::{Chosen, Judge, Question, Reply, Stroke};
use std::io::BufRead;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

/// Time between two looks at whether the search is to stop.
const OFTEN: Duration = Duration::from_millis(100);
/// What may be answered.
const KEYS: &str = "1 or 2 is better, = equal, s skip, q quit";

/// Somebody at a terminal, or a program that writes lines.
pub(super) struct Terminal {
    folder: PathBuf,
    rows: Vec<String>,
    talk: Talk,
    line: StrokeLine,
    lines: Receiver<String>,
    /// The weights of the question that was shown last.
    shown: Option<[String; 2]>,
}

impl Terminal {
    /// Pairs lie in `folder`; `rows` names the rows of a pair.
    ///
    /// # Errors
    /// [`Error::Threads`].
    pub(super) fn new(folder: PathBuf, rows: Vec<String>, talk: Talk) -> Result<Self> {
        let (sender, lines) = channel();
        let read = move || {
            for line in std::io::stdin().lock().lines().map_while(std::result::Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        };
        // A thread of its own: a read that waits cannot be ended.
        let thread = std::thread::Builder::new().name("lines".into()).spawn(read);
        thread.map_err(|source| Error::Threads { source })?;
        Ok(Self { folder, rows, talk, line: StrokeLine::new(talk), lines, shown: None })
    }
}

impl Judge for Terminal {
    fn show(&mut self, question: &Question) -> Result<()> {
        self.line.clear();
        let Question { number, most, first, second, best } = question;
        let path = self.folder.join(format!("pair-{number:03}.png"));
        pair(question, &self.rows)?.save(&path, true)?;
        if let Some((words, sure)) = best {
            self.talk.say(&format!("best so far, {:.0} % sure: {words}", sure * 100.0));
        }
        // What is asked is said even to the quiet: they are to answer.
        say(&value(&format!("{number}/{most}  {}", path.display())));
        say(&format!("  {KEYS}"));
        self.shown = Some([first.words.clone(), second.words.clone()]);
        Ok(())
    }

    fn reply(&mut self, cancel: &Cancel) -> Result<Reply> {
        loop {
            cancel.check()?;
            let line = match self.lines.recv_timeout(OFTEN) {
                Ok(line) => line,
                Err(RecvTimeoutError::Timeout) => continue,
                Err(RecvTimeoutError::Disconnected) => return Ok(Reply::Quit),
            };
            let Some(reply) = read(&line) else {
                self.talk.say(&format!("`{}`? {KEYS}", line.trim()));
                continue;
            };
            if let Some([first, second]) = self.shown.take().filter(|_| reply != Reply::Quit) {
                self.talk.say(&format!("  1: {first}   2: {second}"));
            }
            return Ok(reply);
        }
    }

    fn drawing(&mut self, stroke: Stroke) {
        self.line.show(stroke);
    }
}

impl Front for Terminal {
    fn end(&mut self) {
        self.line.clear();
    }
}

/// The reply that a line is.
fn read(line: &str) -> Option<Reply> {
    Some(match line.trim().to_lowercase().as_str() {
        "1" | "l" | "left" => Reply::Chosen(Chosen::First),
        "2" | "r" | "right" => Reply::Chosen(Chosen::Second),
        "=" | "0" | "e" | "equal" => Reply::Chosen(Chosen::Equal),
        "s" | "skip" => Reply::Chosen(Chosen::Skipped),
        "q" | "quit" => Reply::Quit,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_replies() {
        assert_eq!(read(" 1 \r"), Some(Reply::Chosen(Chosen::First)));
        assert_eq!(read("="), Some(Reply::Chosen(Chosen::Equal)));
        assert_eq!(read("Q"), Some(Reply::Quit));
        assert_eq!((read(""), read("3"), read("12")), (None, None, None));
    }
}
