//! Many jobs from one file: nothing is lost, nothing is made twice.
//!
//! A file of jobs is text, CSV, JSON lines, TOML or YAML. [`Source`] reads it into [`Draft`]s, which name the line that they
//! come from; [`list`] lays them over the settings and decides every seed; [`check`] looks at models and LoRAs, plans
//! every job and names it by its contents. All of that happens before the first picture, and the same file gives the
//! same list, the same names and the same pictures on every machine.
//!
//! [`Work`] makes the pictures that are not there yet. In its folder lie
//!
//! * the pictures, `ID.png`, which are written whole before they have their names and are never overwritten,
//! * `plan.json` and `plan.jsonl`, the list ([`Head`]),
//! * `manifest-0.jsonl`, a line for every job that ended ([`Manifest`]).
//!
//! A picture is done when its file is there; the log says how it was made. After a crash the same command goes on: what
//! is there stays, what the log misses is added to it, what is left is made.
//!
//! The order of jobs ([`order`]) lets model, LoRAs, size and prompt change as seldom as they can.
//!
//! # To add a format
//! Write a file beside `csv.rs` whose function `read` gives [`Draft`]s and mistakes with their lines, and add it to
//! [`Format`]. The names of fields come from `key.rs`, which takes them from the field table: a new field of a request
//! needs nothing here.
//!
//! Floor 7.

mod check;
mod csv;
mod digest;
mod draft;
mod grace;
mod jsonl;
mod key;
mod list;
mod manifest;
mod order;
mod plan_file;
mod present;
mod source;
mod text;
mod tree;
mod words;
mod work;

pub use check::{Checked, Ready, Reason, check};
pub use draft::Draft;
pub use list::{Listed, Seeding, Seeds, list};
pub use manifest::{Entry, Failure, Manifest, Seconds, Status};
pub use order::{Changes, changes, order};
pub use plan_file::Head;
pub use present::{Pictures, Presence};
pub use source::{Format, Source};
pub use work::{Happening, Options, Tally, Task, Todo, Watcher, Work};
