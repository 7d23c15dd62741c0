//! Many jobs from one file: nothing is lost, nothing is made twice.
//!
//! # The way of a file
//! A file of jobs is text, CSV, JSON lines, TOML or YAML. [`Source`] reads it into [`Draft`]s, which name the line that they
//! come from; [`list`] lays them over the settings and decides every seed ([`Listed`]); [`check`] looks at models and
//! LoRAs, plans every job and names it by its contents ([`Ready`]); [`JobList`] puts the jobs into the order in which
//! model, LoRAs, size and prompt change as seldom as they can. All of that happens before the first picture, and the
//! same file gives the same list, the same names and the same pictures on every machine.
//!
//! A program that makes its list in memory begins with [`Listed`] values (a request whose count is 1 and whose seed is
//! set) and goes the same way from [`check`] on.
//!
//! # The work
//! [`Work`] makes the pictures of a slice of the list that are not there yet, as often as it is asked to:
//!
//! ```no_run
//! # fn main() -> colora::Result<()> {
//! use colora::app::{Pool, Setup, Unobserved};
//! use colora::batch::{self, Folder, JobList, Listed, Manifest, Names, Options, Order, Origin, Pictures, Work};
//! use std::{ops::ControlFlow, path::Path, sync::Arc};
//!
//! let setup = Setup::load(".".as_ref(), &|name| std::env::var_os(name))?;
//! let (folder, cancel) = (Path::new("out"), colora::Cancel::new());
//! let pools = || Pool::cancelled_by(setup.store.clone(), &cancel);
//! // The list: from a file, or made in memory as here.
//! let mut listed = Listed { line: 1, ..Listed::default() };
//! listed.job.request.prompt = "a red apple".into();
//! listed.job.request.seed = Some(1);
//! let checked = batch::check(vec![listed], &pools(), &Unobserved, &cancel)?;
//! let list = JobList::new(checked.ready, Origin::default(), Order::Cost);
//! // The work: a part of the list, here the whole, with a log of its own, here `manifest-0.jsonl`.
//! let storage = Arc::new(Folder::open(folder)?);
//! let pictures = Pictures::list(storage, Names::of_ids(list.jobs.len()))?;
//! let manifest = Manifest::open(folder, batch::WHOLE)?;
//! list.write(folder, false)?;
//! let mut work = Work::new(Options::default(), pictures, manifest, &pools);
//! let part = &list.jobs[..];
//! let todo = work.todo(part, Path::new("memory"))?;
//! let tally = work.run(part, &todo, &|_| ControlFlow::Continue(()), &cancel)?;
//! println!("{} made, {} there before", tally.made, todo.present);
//! # Ok(()) }
//! ```
//!
//! * [`Storage`] is where pictures lie: a [`Folder`], or anything else that creates a name at most once. It decides what
//!   is made; claims only save work. A picture that another worker made meanwhile is [`Event::Found`].
//! * [`Manifest`] is the log: `manifest-SHARD.jsonl`, a line for every job that ended, or lines that are
//!   [kept](Manifest::kept) for whoever stores them elsewhere.
//! * [`Observer`] receives every [`Event`]; breaking ends the work after the job.
//!
//! # The folder
//! * the pictures, `ID.png`, which are written whole before they have their names and are never overwritten; each holds
//!   the name that the contents of its job give,
//! * `plan.json` and `plan.jsonl`, the list in the order of the work ([`Head`]),
//! * `manifest-SHARD.jsonl`.
//!
//! A picture is done when its file is there; the log says how it was made. After a crash the same command goes on: what
//! is there stays, what the log misses is added to it, what is left is made.
//!
//! # To add a format
//! Write a file beside `csv.rs` whose function `read` gives [`Draft`]s and mistakes with their lines, and add it to
//! [`Format`]. The names of fields come from `key.rs`, which takes them from the field table: a new field of a request
//! needs nothing here.
//!
//! Floor 7.

mod check;
pub mod cluster;
mod csv;
mod digest;
mod draft;
mod event;
mod grace;
mod job_list;
mod jsonl;
mod key;
mod list;
mod make;
mod manifest;
mod names;
mod order;
mod pace;
mod pictures;
mod plan_file;
mod present;
pub(crate) mod range;
mod ready;
mod shard;
mod source;
mod status;
mod storage;
mod text;
mod tree;
mod words;
mod work;

pub use check::{Checked, check};
pub use draft::Draft;
pub use event::{Event, Observer};
pub use job_list::JobList;
pub use list::{Listed, Seeding, Seeds, list};
pub use manifest::{Entry, Failure, Logged, Manifest, Seconds, Status, WHOLE, entries};
pub use names::Names;
pub use order::{Changes, Order, changes, order};
pub use pace::Pace;
pub use pictures::is_picture;
pub use plan_file::{Head, Origin};
pub use present::{Pictures, Presence};
pub use ready::{Networks, Ready, Reason};
pub use shard::{Environment, Part, Shard, Sharding};
pub use source::{Format, Source};
pub use status::{Failed, Row, State, status};
pub use storage::{Folder, Storage};
pub use work::{Options, Tally, Task, Todo, Work};
