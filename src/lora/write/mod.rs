//! Making adapter files: under other names, several as one, of lower rank, out of two models.
//!
//! Everything new is written in kohya's grammar, which every tool reads; only a conversion writes
//! others. Files are written whole or not at all, and replace another file only when the caller asks for it.

mod checkpoint;
mod conversion;
mod convert;
mod extract;
mod file;
mod made;
mod merge;
mod parts;
mod peft;
mod resize;
mod spelling;

#[cfg(feature = "cli")]
pub(crate) use checkpoint::checkpoint_among;
pub use checkpoint::{CheckpointOptions, checkpoint};
pub use conversion::{ConvertOptions, Format};
pub use convert::{Converted, convert};
pub use extract::{ExtractOptions, Extracted, Tell, extract};
pub use file::{Entry, FileDtype, Metadata, check_free, save};
pub use made::Kept;
pub use merge::{Law, MergeOptions, Merged, merge};
pub use resize::{ResizeOptions, Resized, ResizedModule, resize};

/// values ← values · amount.
fn scale(values: &mut [f32], amount: f32) {
    for value in values {
        *value *= amount;
    }
}
