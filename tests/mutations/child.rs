//! A process that tries inputs one after another: what ends it, ends nothing else.

use serde::{Deserialize, Serialize};
use std::io::{BufRead, BufReader, Write};
use std::process::{Child as Process, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

/// How long an input may take; on a machine that does other work as well it gets a second try, alone.
const LONGEST: Duration = Duration::from_secs(10);
/// What answers begin with.
pub const MARK: &str = "@@";

/// What a worker says of an input.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Answer {
    /// The exit code that the program would have; 101 for a panic, 128 and more for a signal.
    pub code: i32,
    /// The error with its causes, or where the panic was.
    pub message: String,
    /// Warnings and keys that fit nothing.
    pub notes: usize,
    /// A hash of all that was understood.
    pub report: u64,
    /// Most memory that the process had, in kB.
    pub peak: u64,
    /// Whether it took longer than [`LONGEST`], twice.
    #[serde(default)]
    pub hung: bool,
}

/// A worker.
pub struct Child {
    process: Process,
    input: ChildStdin,
    lines: Receiver<String>,
}

impl Drop for Child {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Child {
    pub fn start() -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args([
            "--exact",
            "worker::a_worker",
            "--ignored",
            "--nocapture",
            "--test-threads=1",
        ]);
        command.env("COLORA_MUTATION_WORKER", "1").env("RAYON_NUM_THREADS", "1");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut process = command.spawn().unwrap();
        let input = process.stdin.take().unwrap();
        let output = BufReader::new(process.stdout.take().unwrap());
        let (send, lines) = channel();
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if let Some((_, answer)) = line.split_once(MARK)
                    && send.send(answer.to_owned()).is_err()
                {
                    return;
                }
            }
        });
        Self { process, input, lines }
    }

    /// The answer to an order.
    pub fn ask(&mut self, order: &str) -> Answer {
        match self.once(order) {
            Ok(answer) => answer,
            // Another program may have had the processors.
            Err(RecvTimeoutError::Timeout) => {
                *self = Self::start();
                match self.once(order) {
                    Ok(answer) => answer,
                    Err(_) => {
                        *self = Self::start();
                        Answer { hung: true, ..Answer::default() }
                    }
                }
            }
            Err(RecvTimeoutError::Disconnected) => {
                let status = self.process.wait().unwrap();
                *self = Self::start();
                let message = format!("the worker ended: {status}");
                Answer { code: 128, message, ..Answer::default() }
            }
        }
    }

    fn once(&mut self, order: &str) -> Result<Answer, RecvTimeoutError> {
        // A worker that has ended says so by its silence.
        let _ = writeln!(self.input, "{order}").and_then(|()| self.input.flush());
        let line = self.lines.recv_timeout(LONGEST)?;
        Ok(serde_json::from_str(&line).unwrap())
    }
}
