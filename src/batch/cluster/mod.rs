//! One list, many machines: claims on chunks in a shared folder or bucket, and a queue in a database.
//!
//! [`Objects`] is the little that a shared place has to do; [`SharedFolder`] and `Remote` are such places. A [`Queue`] hands
//! out jobs: [`Claims`] need only a shared place, `Postgres` is a table. [`work`] makes the pictures of what a queue
//! hands out and puts them where all workers find them ([`SharedPictures`]).
//!
//! A bucket needs the feature `cluster` and a database the feature `postgres`, because they bring clients; a folder
//! needs neither.

mod beat;
mod chance;
mod claims;
mod folder;
#[cfg(feature = "cluster")]
mod http;
mod objects;
mod pictures;
#[cfg(feature = "postgres")]
mod postgres;
mod queue;
#[cfg(feature = "cluster")]
mod remote;
mod share;
#[cfg(feature = "postgres")]
mod sql;
#[cfg(test)]
mod tests;
mod work;

pub use claims::{Claims, Settings};
pub use folder::SharedFolder;
pub use objects::{Creation, Item, Objects, Owner, Patient};
pub use pictures::SharedPictures;
#[cfg(feature = "postgres")]
pub use postgres::{Batch, Counts, Place, Planner, Postgres, batches, submit};
pub use queue::{Begin, Hold, Next, Portion, Queue};
#[cfg(feature = "cluster")]
pub use remote::Remote;
pub use share::agree;
pub use work::{Share, Worker, work};

/// A name for a worker on the machine `host` that no other process has.
pub fn name(host: &str) -> String {
    format!("{host}-{}-{:04x}", std::process::id(), chance::token() & 0xffff)
}
