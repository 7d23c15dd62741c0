//! A connection to PostgreSQL that is made again when it breaks. Each statement here may be repeated.

use super::chance;
use crate::error::{Error, Result};
use postgres::types::{FromSql, ToSql};
use postgres::{Client, Config, Row};
use rustls::{ClientConfig, RootCertStore};
use std::fmt;
use std::io::{self, ErrorKind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio_postgres_rustls::MakeRustlsConnect;

/// How often a statement is tried when the connection breaks, and the wait before the second try.
const TRIES: u32 = 8;
const PAUSE: Duration = Duration::from_millis(200);
/// How long a connection may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a statement is given.
pub(super) type Values<'a> = &'a [&'a (dyn ToSql + Sync)];

/// A database.
pub(super) struct Connection {
    config: Config,
    /// The address without the password.
    title: String,
    client: Mutex<Option<Client>>,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Connection").field(&self.title).finish()
    }
}

impl Connection {
    /// Connects to the database `url`.
    ///
    /// # Errors
    /// [`Error::BadRequest`] for what is no such address; [`Error::Io`] when the database cannot be reached.
    pub(super) fn open(url: &str) -> Result<Self> {
        let title = without_password(url);
        let mut config: Config = url.parse().map_err(|error: postgres::Error| {
            let why = format!("expected postgres://USER@HOST/DATABASE: {}", cause(&error));
            Error::bad_request("queue", &title, why)
        })?;
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(PATIENCE);
        }
        config.application_name("colora");
        let made = Self { config, title, client: Mutex::default() };
        *made.lock() = Some(made.connect()?);
        Ok(made)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Client>> {
        self.client.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn connect(&self) -> Result<Client> {
        let roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| Error::Internal(format!("TLS: {error}")))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        self.config.connect(MakeRustlsConnect::new(tls)).map_err(|error| self.wrong(&error))
    }

    fn wrong(&self, error: &postgres::Error) -> Error {
        let kind = if error.as_db_error().is_some() {
            ErrorKind::InvalidData
        } else {
            ErrorKind::NotConnected
        };
        Error::io(&self.title, io::Error::new(kind, cause(error)))
    }

    /// Runs `act`, and again with a new connection where the old one is gone.
    fn patiently<T>(&self, act: impl Fn(&mut Client) -> Result<T, postgres::Error>) -> Result<T> {
        let mut pause = PAUSE;
        for attempt in 1.. {
            let mut client = self.lock();
            if client.as_ref().is_none_or(Client::is_closed) {
                *client = self.connect().ok();
            }
            let done = client.as_mut().map(&act);
            let is_last = attempt >= TRIES;
            match done {
                Some(Ok(done)) => return Ok(done),
                // A deadlock, or a server that shuts down: SQLSTATE classes 40 and 57.
                Some(Err(error)) if is_last || is_lasting(&error) => return Err(self.wrong(&error)),
                None if is_last => {
                    return self
                        .connect()
                        .and_then(|mut c| act(&mut c).map_err(|e| self.wrong(&e)));
                }
                Some(Err(_)) | None => {}
            }
            drop(client);
            std::thread::sleep(pause.mul_f64(0.5 + chance::share()));
            pause *= 2;
        }
        Err(Error::Internal("a loop without end ended".into()))
    }

    /// Runs a statement; how many rows it changed.
    pub(super) fn execute(&self, sql: &str, values: Values<'_>) -> Result<u64> {
        self.patiently(|client| client.execute(sql, values))
    }

    /// The rows that a statement gives.
    pub(super) fn query(&self, sql: &str, values: Values<'_>) -> Result<Vec<Row>> {
        self.patiently(|client| client.query(sql, values))
    }

    /// Makes tables, in one transaction.
    pub(super) fn tables(&self, sql: &str) -> Result<()> {
        self.patiently(|client| {
            let mut transaction = client.transaction()?;
            transaction.batch_execute("set local client_min_messages = warning")?;
            transaction.batch_execute(sql)?;
            transaction.commit()
        })
    }
}

/// Whether another try would fail as well.
fn is_lasting(error: &postgres::Error) -> bool {
    let code = error.as_db_error().map(|error| error.code().code().to_owned());
    code.is_some_and(|code| {
        !(code.starts_with("40") || code.starts_with("57") || code.starts_with("08"))
    })
}

/// What the database said.
fn cause(error: &postgres::Error) -> String {
    match (error.as_db_error(), std::error::Error::source(error)) {
        (Some(error), _) => error.to_string(),
        (None, Some(source)) => format!("{error}: {source}"),
        (None, None) => error.to_string(),
    }
}

/// An address as it may be shown.
fn without_password(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        return "the address of the queue".into();
    };
    let rest = rest.split('?').next().unwrap_or_default();
    let (user, host) = rest.rsplit_once('@').unwrap_or(("", rest));
    let user = user.split(':').next().unwrap_or_default();
    let at = if user.is_empty() { "" } else { "@" };
    format!("{scheme}://{user}{at}{host}")
}

fn value<'a, T: FromSql<'a>>(row: &'a Row, column: usize) -> Result<T> {
    row.try_get(column).map_err(|error| Error::Internal(format!("a row of the queue: {error}")))
}

/// A text of a row.
pub(super) fn row_text(row: &Row, column: usize) -> Result<String> {
    value(row, column)
}

/// A `bigint` of a row.
pub(super) fn row_i64(row: &Row, column: usize) -> Result<i64> {
    value(row, column)
}

/// An `integer` of a row.
pub(super) fn row_i32(row: &Row, column: usize) -> Result<i32> {
    value(row, column)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_not_shown() {
        for (url, title) in [
            ("postgres://me:secret@host:5/db?password=x", "postgres://me@host:5/db"),
            ("postgresql:///db", "postgresql:///db"),
            ("host=/tmp password=secret", "the address of the queue"),
        ] {
            assert_eq!(without_password(url), title);
        }
    }
}
