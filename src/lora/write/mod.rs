//! Floor 3. Making adapter files: under other names, several as one, of lower rank, out of two models.
//!
//! Everything new is written in kohya's grammar, which every tool reads; only a conversion writes
//! others. Files are written whole or not at all, and never over another without being told to.

mod convert;
mod file;
mod parts;
mod peft;
mod spelling;

pub use convert::{ConvertOptions, Converted, Format, convert};
pub use file::{Entry, Metadata, Precision, check_free, save};
