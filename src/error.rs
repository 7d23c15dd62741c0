//! What can go wrong, and whose fault it is.
//!
//! One enum serves the whole library. A message names what was expected, what was
//! found and what to change; [`Error::fault`] is the only mapping from errors
//! to exit codes, HTTP status and log level.
//!
//! Floor 0.

use crate::hint::Hint;
use crate::plain;
use std::path::{Path, PathBuf};

/// The library's result type.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that colora can fail with.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused to read or write a file.
    #[error("cannot access {}", plain::path(path))]
    Io {
        /// The file or folder concerned.
        path: PathBuf,
        /// The error of the operating system.
        source: std::io::Error,
    },

    /// The operating system refused to make or fill a file.
    #[error("cannot write {}", plain::path(path))]
    Write {
        /// The file or folder concerned.
        path: PathBuf,
        /// The error of the operating system.
        source: std::io::Error,
    },

    /// A file is not what its name or place promises: truncated, garbage, of another format.
    #[error("{}: {why}{}", plain::path(path), then(hint.as_ref()))]
    Corrupt {
        /// The offending file.
        path: PathBuf,
        /// What was expected and what was found.
        why: String,
        /// What to do about it.
        hint: Option<Hint>,
    },

    /// A pickle asks for something other than tensors; it was not executed.
    #[error(
        "{}: the pickle asks for `{}`, which is not on the list of harmless names; it was not run. Convert the file to safetensors if you trust it",
        plain::path(path),
        plain::value(symbol)
    )]
    UnsafePickle {
        /// The offending file.
        path: PathBuf,
        /// The global that the pickle wanted to import.
        symbol: String,
    },

    /// A model, LoRA, preset or image that was asked for is nowhere to be found.
    #[error("no {what} named `{}`{hint}{}", plain::value(name), then(how.as_ref()))]
    NotFound {
        /// The kind of thing that was looked for, in the user's words.
        what: &'static str,
        /// The name as it was given.
        name: String,
        /// Where it was looked for and near matches; starts with a separator, may be empty.
        hint: String,
        /// What would bring it.
        how: Option<Hint>,
    },

    /// A checkpoint lacks a weight that its architecture needs.
    #[error(
        "{}: the weight `{}` is missing; the file is incomplete or of another family",
        plain::value(file),
        plain::value(site)
    )]
    TensorMissing {
        /// Canonical name of the weight.
        site: String,
        /// The file or folder that was searched.
        file: String,
    },

    /// A weight has another shape than its architecture requires.
    #[error(
        "{}: the weight `{}` has shape {found:?}, expected {expected:?}; the config and the weights do not belong together",
        plain::value(file),
        plain::value(site)
    )]
    ShapeMismatch {
        /// Canonical name of the weight.
        site: String,
        /// Shape that the network needs.
        expected: Vec<usize>,
        /// Shape that the file holds.
        found: Vec<usize>,
        /// The file or folder it came from.
        file: String,
    },

    /// Something is wrong with the contents of a file; what exactly is inside.
    #[error(transparent)]
    At(At),

    /// A file belongs to another model family.
    #[error("{}: this is {found}; expected {expected}{}", plain::path(path), then(hint.as_ref()))]
    WrongFamily {
        /// The offending file.
        path: PathBuf,
        /// What would have been accepted.
        expected: String,
        /// What the file is.
        found: String,
        /// What the file can be used for instead.
        hint: Option<Hint>,
    },

    /// A field of a request has a value that cannot work.
    #[error("{field} = {}: {why}{}", plain::value(value), then(hint.as_ref()))]
    BadRequest {
        /// Name of the field, as in [`Request`](crate::Request).
        field: &'static str,
        /// The value found.
        value: String,
        /// What would be accepted.
        why: String,
        /// How to give such a value.
        hint: Option<Hint>,
    },

    /// Something that exists but that this build, device or version cannot do.
    #[error("{what} is not supported here; {how}")]
    Unsupported {
        /// What was asked for.
        what: String,
        /// How to get it or what to use instead.
        how: Hint,
    },

    /// A network produced numbers that are NaN or infinite, and no picture.
    #[error("the network produced {count} numbers of {of} that are NaN or infinite")]
    NotFinite {
        /// How many numbers are NaN or infinite.
        count: usize,
        /// How many numbers were checked.
        of: usize,
    },

    /// A limit that protects the machine was reached.
    #[error("{what}: {asked} asked, at most {allowed} allowed")]
    Limit {
        /// What is limited.
        what: &'static str,
        /// The limit.
        allowed: u64,
        /// What was asked for.
        asked: u64,
    },

    /// An output file exists already.
    #[error("{} exists already; {}", plain::path(path), Hint::AllowReplacing)]
    Exists {
        /// The file that would have been overwritten.
        path: PathBuf,
    },

    /// Lines of a file of jobs cannot work.
    #[error("{}: {}", plain::path(path), listed(mistakes))]
    Lines {
        /// The file.
        path: PathBuf,
        /// What is wrong, in the order of the file; at least one.
        mistakes: Vec<LineError>,
    },

    /// Some jobs of a batch failed; the others are done.
    #[error("{failed} of {of} jobs failed")]
    Jobs {
        /// How many failed.
        failed: usize,
        /// Of how many.
        of: usize,
    },

    /// Some pictures are not what was drawn again.
    #[error("{failed} of {of} pictures could not be drawn again as they are")]
    Pictures {
        /// How many.
        failed: usize,
        /// Of how many.
        of: usize,
    },

    /// The caller asked to stop.
    #[error("cancelled")]
    Cancelled,

    /// The operating system gives no more threads.
    #[error("cannot start the worker threads; {}", Hint::FewerThreads)]
    Threads {
        /// The error of the operating system.
        source: std::io::Error,
    },

    /// A GPU has no room left.
    #[error("the memory of the GPU is full; {}", Hint::SaveDeviceMemory)]
    DeviceMemory {
        /// The error of candle.
        source: candle_core::Error,
    },

    /// The operating system gives no more memory.
    #[error("out of memory: {} asked for {what}; {}", plain::bytes(*bytes), Hint::SaveMemory)]
    Memory {
        /// What it was needed for.
        what: &'static str,
        /// How many bytes were asked for.
        bytes: u64,
    },

    /// A plan would take more memory than there is: found before its first step.
    #[error(
        "{what} takes at least {} of memory, {} are free; {how}",
        plain::bytes(*needed),
        plain::bytes(*free)
    )]
    NoRoom {
        /// What was planned.
        what: String,
        /// Bytes that it takes at least.
        needed: u64,
        /// Bytes that are free.
        free: u64,
        /// What takes less, and how much.
        how: Hint,
    },

    /// A tensor operation failed.
    #[error("tensor operation failed while {context}")]
    Tensor {
        /// What was being computed.
        context: &'static str,
        /// The error of candle.
        source: candle_core::Error,
    },

    /// An invariant of colora itself does not hold: please report it.
    #[error("internal error: {0}; please report this")]
    Internal(String),
}

/// What is wrong in a line of a file.
#[derive(Debug)]
pub struct LineError {
    /// The number of the line, from 1.
    pub line: usize,
    /// What is wrong there.
    pub error: Box<Error>,
}

impl LineError {
    /// An error in line `line`.
    pub fn new(line: usize, error: Error) -> Self {
        Self { line, error: Box::new(error) }
    }
}

/// The first mistakes as text, one a line.
fn listed(mistakes: &[LineError]) -> String {
    const MOST: usize = 20;
    let shown = mistakes.iter().take(MOST);
    let mut lines: Vec<String> =
        shown.map(|LineError { line, error }| format!("line {line}: {error}")).collect();
    if mistakes.len() > MOST {
        lines.push(format!("and {} more mistakes", mistakes.len() - MOST));
    }
    lines.join("\n")
}

/// An error without a path of its own, and the file in which it occurred.
///
/// The caller that opened the file adds its path with [`Error::at`]; the message begins with the path.
#[derive(Debug)]
pub struct At {
    /// The file or folder.
    pub path: PathBuf,
    /// What is wrong in it.
    pub error: Box<Error>,
}

impl std::fmt::Display for At {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", plain::path(&self.path), self.error)
    }
}

impl std::error::Error for At {
    /// The cause of the error inside, whose own words the message holds already.
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.error.source()
    }
}

/// Results of reading a file, whose errors are to name it.
pub trait InFile {
    /// Adds `path` to an error, with [`Error::at`].
    #[must_use]
    fn in_file(self, path: impl AsRef<Path>) -> Self;
}

impl<T> InFile for Result<T> {
    fn in_file(self, path: impl AsRef<Path>) -> Self {
        self.map_err(|error| error.at(path))
    }
}

/// Whose fault an [`Error`] is; drives exit codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The request is wrong.
    User,
    /// An input file is wrong.
    File,
    /// Something named by the user does not exist.
    NotFound,
    /// This build or device cannot do it.
    Unsupported,
    /// Memory, disk, a limit, or a place that cannot be written.
    Resource,
    /// The caller cancelled.
    Cancelled,
    /// Some jobs of a batch failed for reasons of their own.
    Partial,
    /// colora is wrong.
    Internal,
}

impl Fault {
    /// The process exit code of this fault.
    pub fn exit_code(self) -> u8 {
        match self {
            Fault::Internal => 1,
            Fault::User => 2,
            Fault::File => 3,
            Fault::NotFound => 4,
            Fault::Unsupported => 5,
            Fault::Resource => 6,
            Fault::Partial => 7,
            Fault::Cancelled => 130,
        }
    }
}

impl Error {
    /// Whose fault this is.
    pub fn fault(&self) -> Fault {
        match self {
            Error::Io { source, .. } => match source.kind() {
                std::io::ErrorKind::NotFound => Fault::NotFound,
                std::io::ErrorKind::StorageFull
                | std::io::ErrorKind::OutOfMemory
                | std::io::ErrorKind::QuotaExceeded
                // A store or a database out of reach: another try may go well.
                | std::io::ErrorKind::NotConnected => Fault::Resource,
                _ => Fault::File,
            },
            Error::Corrupt { .. }
            | Error::UnsafePickle { .. }
            | Error::TensorMissing { .. }
            | Error::ShapeMismatch { .. }
            | Error::NotFinite { .. }
            | Error::WrongFamily { .. } => Fault::File,
            // What is too large in a file is a bad file: a larger machine would not help.
            Error::At(At { error, .. }) => match error.fault() {
                Fault::User | Fault::Resource if !error.is_of_machine() => Fault::File,
                fault => fault,
            },
            Error::NotFound { .. } => Fault::NotFound,
            Error::BadRequest { .. } | Error::Exists { .. } => Fault::User,
            Error::Unsupported { .. } => Fault::Unsupported,
            // Whatever the reason: the place to write to is what is missing.
            Error::Write { .. }
            | Error::Threads { .. }
            | Error::Limit { .. }
            | Error::Memory { .. }
            | Error::NoRoom { .. }
            | Error::DeviceMemory { .. } => Fault::Resource,
            Error::Lines { mistakes, .. } => {
                mistakes.first().map_or(Fault::File, |mistake| mistake.error.fault())
            }
            Error::Jobs { .. } | Error::Pictures { .. } => Fault::Partial,
            Error::Cancelled => Fault::Cancelled,
            Error::Tensor { .. } | Error::Internal(_) => Fault::Internal,
        }
    }

    /// Whether the machine is short of something, whatever the files contain.
    fn is_of_machine(&self) -> bool {
        match self {
            Error::At(At { error, .. }) => error.is_of_machine(),
            Error::Io { .. }
            | Error::Write { .. }
            | Error::Threads { .. }
            | Error::DeviceMemory { .. } => true,
            _ => false,
        }
    }

    /// This error as one about the contents of the file `path`, unless it names a file already or is not about
    /// any.
    #[must_use]
    pub fn at(self, path: impl AsRef<Path>) -> Self {
        match self {
            Error::BadRequest { .. }
            | Error::Unsupported { .. }
            | Error::Limit { .. }
            | Error::Tensor { .. } => {
                Error::At(At { path: path.as_ref().to_path_buf(), error: Box::new(self) })
            }
            named => named,
        }
    }

    /// The error itself, without the file that it was met in.
    pub fn inner(&self) -> &Error {
        match self {
            Error::At(At { error, .. }) => error.inner(),
            other => other,
        }
    }

    /// What to do about it, if that is known.
    pub fn hint(&self) -> Option<Hint> {
        match self {
            Error::At(At { error, .. }) => error.hint(),
            Error::Corrupt { hint, .. }
            | Error::WrongFamily { hint, .. }
            | Error::BadRequest { hint, .. }
            | Error::NotFound { how: hint, .. } => hint.clone(),
            Error::Unsupported { how, .. } | Error::NoRoom { how, .. } => Some(how.clone()),
            Error::Exists { .. } => Some(Hint::AllowReplacing),
            Error::Threads { .. } => Some(Hint::FewerThreads),
            Error::Memory { .. } => Some(Hint::SaveMemory),
            Error::DeviceMemory { .. } => Some(Hint::SaveDeviceMemory),
            _ => None,
        }
    }

    /// The message without its [`hint`](Self::hint), for front ends that word hints themselves.
    pub fn message(&self) -> String {
        let text = self.to_string();
        let advice = then(self.hint().as_ref());
        text.strip_suffix(&advice).map(str::to_owned).unwrap_or(text)
    }

    /// Returns the error with `advice` as its hint; kinds of errors that carry none stay as they are.
    #[must_use]
    pub fn with_hint(mut self, advice: Hint) -> Self {
        match &mut self {
            Error::At(At { error, .. }) => {
                let inner = std::mem::replace(&mut **error, Error::Cancelled);
                **error = inner.with_hint(advice);
            }
            Error::Corrupt { hint, .. }
            | Error::WrongFamily { hint, .. }
            | Error::BadRequest { hint, .. }
            | Error::NotFound { how: hint, .. } => *hint = Some(advice),
            Error::Unsupported { how, .. } | Error::NoRoom { how, .. } => *how = advice,
            _ => {}
        }
        self
    }

    /// An [`Error::Io`] for `path`.
    pub fn io(path: impl AsRef<Path>, source: std::io::Error) -> Self {
        Error::Io { path: path.as_ref().to_path_buf(), source }
    }

    /// An [`Error::Write`] for `path`.
    pub fn write(path: impl AsRef<Path>, source: std::io::Error) -> Self {
        Error::Write { path: path.as_ref().to_path_buf(), source }
    }

    /// An [`Error::Corrupt`] for `path`.
    pub fn corrupt(path: impl AsRef<Path>, why: impl Into<String>) -> Self {
        Error::Corrupt { path: path.as_ref().to_path_buf(), why: why.into(), hint: None }
    }

    /// An [`Error::BadRequest`].
    pub fn bad_request(
        field: &'static str,
        value: impl std::fmt::Display,
        why: impl Into<String>,
    ) -> Self {
        Error::BadRequest { field, value: value.to_string(), why: why.into(), hint: None }
    }

    /// An [`Error::Unsupported`].
    pub fn unsupported(what: impl Into<String>, how: impl Into<Hint>) -> Self {
        Error::Unsupported { what: what.into(), how: how.into() }
    }
}

/// A hint behind a message.
fn then(hint: Option<&Hint>) -> String {
    hint.map_or_else(String::new, |hint| format!("; {hint}"))
}

impl From<candle_core::Error> for Error {
    fn from(source: candle_core::Error) -> Self {
        // Drivers and libraries of GPUs report a full memory with these words; there is no common type.
        const FULL: [&str; 2] = ["OUT_OF_MEMORY", "ALLOC_FAILED"];
        let text = source.to_string();
        if FULL.iter().any(|sign| text.contains(sign)) {
            return Error::DeviceMemory { source };
        }
        Error::Tensor { context: "running a network", source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hint::{Saving, SavingWay};

    #[test]
    fn what_is_wrong_in_a_file_names_it_once() {
        let limit = Error::Limit { what: "values", allowed: 1, asked: 2 };
        assert_eq!(limit.fault(), Fault::Resource);
        let error = limit.at("m/config.json").at("m");
        assert_eq!(error.to_string(), "m/config.json: values: 2 asked, at most 1 allowed");
        assert_eq!(error.fault(), Fault::File);
        assert!(std::error::Error::source(&error).is_none(), "nothing is said twice");
        let error = Error::unsupported("`act_fn` gelu", "use silu").at("unet/config.json");
        assert_eq!(error.fault(), Fault::Unsupported);
        assert!(error.to_string().starts_with("unet/config.json: `act_fn` gelu"));
        assert!(matches!(error.inner(), Error::Unsupported { .. }));
        assert!(matches!(Error::Cancelled.at("x"), Error::Cancelled));
        assert_eq!(Error::corrupt("a", "b").at("x").to_string(), "a: b");
        assert_eq!(Error::bad_request("width", 9, "no").at("x").fault(), Fault::File);
    }

    #[test]
    fn a_message_and_its_hint_are_the_whole_text() {
        let how = || Hint::any_of([Hint::set("device", "cpu"), Hint::LeaveOut("quantize")]);
        let savings = Hint::TakeLess(vec![Saving { way: SavingWay::Tile, bytes: 9 }]);
        let source = || std::io::Error::from(std::io::ErrorKind::OutOfMemory);
        let errors = [
            Error::unsupported("that", how()),
            Error::unsupported("that", "do without; or do not").at("file"),
            Error::corrupt("a", "b").with_hint(Hint::NameVae),
            Error::bad_request("width", 9, "no").with_hint(how()).at("x"),
            Error::Exists { path: "a".into() },
            Error::Threads { source: source() },
            Error::Memory { what: "a tensor", bytes: 9 },
            Error::NoRoom { what: "that".into(), needed: 2, free: 1, how: savings },
        ];
        for error in errors {
            let hint = error.hint().unwrap();
            assert_eq!(error.to_string(), format!("{}; {hint}", error.message()));
        }
        let plain = Error::corrupt("a", "b; c");
        assert_eq!((plain.message().as_str(), plain.hint()), ("a: b; c", None));
        let not = Error::Cancelled.with_hint(Hint::NameVae);
        assert_eq!(not.hint(), None, "it carries none");
    }

    #[test]
    fn a_full_gpu_is_nobody_s_bug() {
        let full = "DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"out of memory\")";
        let error = Error::from(candle_core::Error::Msg(full.into()));
        assert_eq!(error.fault().exit_code(), 6);
        assert!(error.to_string().contains("`Memory::Low`"), "{error}");
        assert_eq!(error.hint(), Some(Hint::SaveDeviceMemory));
        let other = Error::from(candle_core::Error::Msg("shape mismatch".into()));
        assert_eq!(other.fault(), Fault::Internal);
    }
}
