//! The application below the entry points: everything that the command line, batch files and a server share.
//!
//! A [`Job`] is a model and a request. [`Pool`] opens its pipeline, [`run`] makes its pictures and saves them, and
//! the [`record`] in each picture leads back to the job:
//!
//! ```no_run
//! # fn main() -> colora::Result<()> {
//! use colora::app::{self, Job, Pool, SaveOptions, Setup};
//!
//! let setup = Setup::load(".".as_ref(), &|name| std::env::var_os(name))?;
//! let pool = Pool::new(setup.store);
//! let job = Job::from_json(r#"{"model": "starter", "prompt": "a red apple", "seed": 1}"#)?;
//! let save = SaveOptions::new("out/{seed}.png");
//! let work = app::run(&pool, &job, &save, &app::Unobserved, &colora::Cancel::new())?;
//! println!("{:?}", work.saved);
//! # Ok(()) }
//! ```
//!
//! Settings come in layers ([`settings::Layers`]): files and environment, a picture, the caller; each value keeps its
//! origin, so that an error can name it.
//!
//! Floor 6.

pub mod base;
mod checked;
mod choice;
mod clock;
mod event;
pub mod expand;
mod job;
mod locate;
mod named_hash;
mod open;
mod reach;
pub mod record;
pub mod resolver;
mod run;
mod save;
pub mod settings;
mod setup;
mod template;
mod used_files;
mod verify;
pub mod words;

pub use checked::{Beyond, CheckedRecord, NamedByPicture, UncheckedRecord, Used};
pub use choice::ModelChoice;
pub use clock::Moment;
pub use event::{Event, Observer, Saved, Unobserved};
pub use job::Job;
pub(crate) use job::{MODEL_KEYS, flat};
pub use locate::Missing;
pub use open::{ModelKey, Pool, open_found};
pub use reach::{Way, What};
pub use run::{Prepared, Sibling, Work, check, prepare, run};
pub use save::{Part, SaveOptions, Target};
pub use settings::{Layers, Origin};
pub use setup::Setup;
pub(crate) use template::safe;
pub use used_files::UsedFiles;
pub use verify::{Difference, Verdict, job_of, verify};

/// Version of the JSON objects that colora prints and of the records in its pictures.
pub const SCHEMA: u32 = 1;
