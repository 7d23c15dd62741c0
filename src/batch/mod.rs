//! Many jobs from one file.
//!
//! Floor 7.

mod csv;
mod digest;
mod draft;
mod jsonl;
mod key;
mod source;
mod text;
mod tree;
mod words;

pub use draft::Draft;
pub use source::{Format, Source};
