//! Sweeps: pictures that differ along one, two or three axes, side by side.
//!
//! An [`Axis`] is something that varies and its values: a field of the request, the weight of a LoRA, a word of the
//! prompt. A [`Sweep`] is a job and its axes; [`Sweep::cells`] gives a job for every combination, which
//! [`batch`](crate::batch) then makes, each once. `Sheet` puts the pictures together with their labels, and
//! `page` makes a page of HTML to look through them.
//!
//! # To add an axis
//! Every field of a request is an axis by its row in the field table. Another kind is a variant of `Kind` in `kind.rs`
//! with its name, and an arm of `edit::apply`.
//!
//! Floor 7.

mod axis;
mod edit;
mod folder;
mod found;
mod gallery;
mod grid;
mod kind;
mod page;
mod sharing;
mod table;
mod values;

pub use axis::{Axis, AxisValue};
pub use folder::Command;
pub use gallery::{FILE, Gallery, Legend, Shown};
pub use grid::{GridOptions, Written};
pub use sharing::Sharing;
pub use table::{Cells, LETTERS, MOST_AXES, Place, Sweep};
