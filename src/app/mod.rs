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
mod job;
mod open;
mod reach;
pub mod record;
pub mod resolver;
mod run;
mod save;
pub mod settings;
mod setup;
mod template;

pub use checked::{Beyond, CheckedRecord, NamedByPicture, UncheckedRecord, Used};
pub use choice::ModelChoice;
pub use clock::Moment;
pub use event::{Event, Observer, Saved, Unobserved};
pub use job::Job;
pub(crate) use job::{MODEL_KEYS, flat};
pub use open::{ModelKey, Pool, open_found};
pub use reach::{Way, What};
pub use run::{Prepared, Sibling, Work, check, prepare, run};
pub use save::{SaveOptions, Target};
pub use settings::{Layers, Origin};
pub use setup::Setup;
pub(crate) use template::safe;

/// Version of the JSON objects that colora prints and of the records in its pictures.
pub const SCHEMA: u32 = 1;
