//! A program that gives a picture a number.
//!
//! It is started without a shell, its words as a POSIX shell would split them, the picture's path in the place of `{}`
//! or at the end.

use crate::error::{Error, Result};
use crate::pipeline::Cancel;
use std::ffi::OsString;
use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// What stands for the picture's path.
const PLACE: &str = "{}";
/// Most bytes of an output that are kept.
const MOST: usize = 64 << 10;
/// Time between two looks at the program.
const OFTEN: Duration = Duration::from_millis(10);
/// How long its outputs may stay open after its end: others may hold them.
const PATIENCE: Duration = Duration::from_millis(500);

/// A command that scores.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scorer {
    text: String,
    words: Vec<String>,
    limit: Duration,
}

/// How a program ended, and what it wrote.
struct Ended {
    status: ExitStatus,
    output: String,
    errors: String,
}

impl Scorer {
    /// Reads a command; `limit` is the longest that it may take for a picture.
    ///
    /// # Errors
    /// [`Error::BadRequest`] for quotes that are not closed and for none.
    pub fn new(text: &str, limit: Duration) -> Result<Self> {
        let words = shlex::split(text).filter(|words| !words.is_empty());
        let why =
            "expected a command, such as 'python3 score.py {}'; a quotation mark may be left open";
        let words = words.ok_or_else(|| Error::bad_request("score", text, why))?;
        Ok(Self { text: text.to_owned(), words, limit })
    }

    /// The command as it was written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The number that the program prints for a picture: its last line that is not blank.
    ///
    /// # Errors
    /// [`Error::BadRequest`] when it cannot be started, fails, takes too long or prints no number;
    /// [`Error::Cancelled`].
    pub fn score(&self, picture: &Path, cancel: &Cancel) -> Result<f64> {
        let Ended { status, output, errors } = self.run(picture, cancel)?;
        if !status.success() {
            let said = last_lines(&errors);
            return Err(self.wrong(format!("the program ended with {status}{said}")));
        }
        let line = output.lines().rev().map(str::trim).find(|line| !line.is_empty());
        let number = line.and_then(|line| line.parse::<f64>().ok()).filter(|n| n.is_finite());
        number.ok_or_else(|| {
            let shown: String = line.unwrap_or_default().chars().take(80).collect();
            let said = last_lines(&errors);
            self.wrong(format!("expected a number in its last line, found `{shown}`{said}"))
        })
    }

    /// The words with the picture's path among them.
    fn arguments(&self, picture: &Path) -> Vec<OsString> {
        let path = picture.as_os_str();
        let has = self.words.iter().any(|word| word.contains(PLACE));
        let word = |word: &String| {
            let mut parts = word.split(PLACE);
            let mut whole = OsString::from(parts.next().unwrap_or_default());
            for part in parts {
                whole.push(path);
                whole.push(part);
            }
            whole
        };
        let words = self.words.iter().map(word);
        words.chain((!has).then(|| path.to_owned())).collect()
    }

    fn run(&self, picture: &Path, cancel: &Cancel) -> Result<Ended> {
        let words = self.arguments(picture);
        let mut child = Command::new(&words[0])
            .args(&words[1..])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| self.wrong(format!("cannot start `{}`: {error}", self.words[0])))?;
        let (output, errors) = (kept(child.stdout.take()), kept(child.stderr.take()));
        let status = self.wait(&mut child, cancel);
        if status.is_err() {
            // It may have ended by itself meanwhile.
            let _ = child.kill();
            let _ = child.wait();
        }
        let text = |from: &Receiver<String>| from.recv_timeout(PATIENCE).unwrap_or_default();
        Ok(Ended { status: status?, output: text(&output), errors: text(&errors) })
    }

    fn wait(&self, child: &mut Child, cancel: &Cancel) -> Result<ExitStatus> {
        let began = Instant::now();
        loop {
            cancel.check()?;
            match child.try_wait() {
                Ok(Some(status)) => return Ok(status),
                Ok(None) if began.elapsed() > self.limit => {
                    let seconds = self.limit.as_secs_f64();
                    return Err(self.wrong(format!("the program took longer than {seconds} s")));
                }
                Ok(None) => std::thread::sleep(OFTEN),
                Err(error) => return Err(self.wrong(format!("cannot wait for it: {error}"))),
            }
        }
    }

    fn wrong(&self, why: String) -> Error {
        Error::bad_request("score", &self.text, why)
    }
}

/// Reads an output to its end on a thread of its own, and keeps its end.
fn kept(output: Option<impl Read + Send + 'static>) -> Receiver<String> {
    let (sender, receiver) = channel();
    let read = move || {
        let (mut all, mut part) = (Vec::new(), [0; 4096]);
        let mut output = output;
        while let Some(Ok(count @ 1..)) = output.as_mut().map(|output| output.read(&mut part)) {
            all.extend(&part[..count]);
            let surplus = all.len().saturating_sub(MOST);
            all.drain(..surplus);
        }
        let _ = sender.send(String::from_utf8_lossy(&all).into_owned());
    };
    // Without a thread the output stays empty, which is told as such.
    let _ = std::thread::Builder::new().name("output".into()).spawn(read);
    receiver
}

/// The end of what a program complained of.
fn last_lines(errors: &str) -> String {
    let lines: Vec<&str> = errors.lines().filter(|line| !line.trim().is_empty()).collect();
    let shown = &lines[lines.len().saturating_sub(5)..];
    if shown.is_empty() { String::new() } else { format!("; it says:\n{}", shown.join("\n")) }
}

#[cfg(unix)]
#[cfg(test)]
mod tests {
    use super::*;

    fn scored(command: &str) -> Result<f64> {
        let scorer = Scorer::new(command, Duration::from_secs(5))?;
        scorer.score(Path::new("a picture.png"), &Cancel::new())
    }

    #[test]
    fn numbers_come_from_the_last_line() {
        assert_eq!(scored("printf 'loading\\n 0.25 \\n\\n'").unwrap(), 0.25);
        assert_eq!(
            scored("sh -c 'test \"$1\" = \"a picture.png\" && echo 1e3' -- {}").unwrap(),
            1000.0
        );
        assert_eq!(scored("sh -c 'test \"$0\" = \"a picture.png\" && echo -2'").unwrap(), -2.0);
        assert_eq!(
            scored("sh -c 'test \"$0\" = \"--in=a picture.png\" && echo 3' --in={}").unwrap(),
            3.0
        );
        // More than a pipe holds.
        let much = "sh -c 'yes no | head -c 300000; yes no | head -c 300000 >&2; echo 4'";
        assert_eq!(scored(much).unwrap(), 4.0);
    }

    #[test]
    fn no_shell_reads_the_words() {
        let folder = tempfile::tempdir().unwrap();
        let mark = folder.path().join("mark");
        let command = format!("echo 5 ; touch {}", mark.display());
        assert!(scored(&command).is_err());
        assert!(!mark.exists());
    }

    #[test]
    fn failures_are_explained() {
        for (command, part) in [
            ("false", "exit status: 1"),
            ("sh -c 'echo no such model >&2; exit 3'", "no such model"),
            ("echo fine", "found `fine"),
            ("true", "found ``"),
            ("echo nan", "found `nan"),
            ("/no/such/program", "cannot start"),
            ("'a", "quotation"),
            ("", "expected a command"),
        ] {
            let message = scored(command).unwrap_err().to_string();
            assert!(message.contains(part), "{command}: {message}");
        }
        let slow = Scorer::new("sh -c 'exec sleep 30'", Duration::from_millis(50)).unwrap();
        let began = Instant::now();
        let message = slow.score(Path::new("x"), &Cancel::new()).unwrap_err().to_string();
        assert!(message.contains("longer than 0.05 s") && began.elapsed() < Duration::from_secs(5));
        let cancel = Cancel::new();
        cancel.cancel();
        assert!(matches!(slow.score(Path::new("x"), &cancel), Err(Error::Cancelled)));
    }
}
