//! Weights of LoRAs found by choosing between two pictures, or by a program that scores them.
//!
//! [`Space`] reads LoRAs with ranges in the place of numbers; [`search`] decides which points of the space to compare,
//! and which is the best; [`Artist`] draws the pictures of a point, each once, and those that may come next while
//! somebody looks; [`Log`] keeps the answers. [`Session`] holds them together, with a [`Judge`] who chooses or a
//! [`Scorer`] that gives numbers.
//!
//! Floor 7.

mod artist;
mod log;
mod scorer;
pub mod search;
mod session;
mod space;
mod stroke;
mod work;

pub use artist::Artist;
pub use log::{Chosen, Head, Line, Log};
pub use scorer::Scorer;
pub use session::{Candidate, Judge, Limits, Outcome, Question, Reply, Session, Told};
pub use space::{Axis, Space};
pub use stroke::{Stack, Stroke};
pub use work::{Pools, Studio};
