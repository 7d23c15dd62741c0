//! The texts that colora writes into a picture file.

/// The texts that travel inside a picture file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Texts {
    /// The line-based text that other programs read; see [`Parameters`](super::Parameters).
    pub parameters: Option<String>,
    /// The complete request as JSON, for this program.
    pub colora: Option<String>,
}
