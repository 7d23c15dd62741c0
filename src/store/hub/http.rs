//! Requests to a hub: redirects, the token, ranges.

use super::super::cache::{HubCache, Secret, without_secrets};
use crate::error::Error;
use std::io::Read;
use std::time::Duration;
use ureq::http::header::{self, HeaderMap, HeaderValue};
use ureq::http::{Response, StatusCode, Uri};
use ureq::{Agent, Body};

/// Most hops of one request.
const REDIRECTS: usize = 5;
/// Longest file list that is read, in bytes.
const MAX_LIST: u64 = 16 << 20;

/// Why a request gave nothing.
#[derive(Debug)]
pub(super) enum Failure {
    /// The server answered with this status.
    Status(u16),
    /// The server could not be reached, or the connection broke.
    Link(String),
    /// Trying again does not help.
    Fatal(Error),
}

impl Failure {
    /// Whether trying again may help.
    pub(super) fn passes(&self) -> bool {
        match self {
            Failure::Status(status) => *status == 429 || *status >= 500,
            Failure::Link(_) => true,
            Failure::Fatal(_) => false,
        }
    }
}

/// The hub's description of a file before it sends it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Meta {
    /// SHA-256 of a large file, git's hash of a small one: its name in the cache.
    pub(super) etag: String,
    /// Bytes.
    pub(super) size: Option<u64>,
}

/// Sends requests; the token goes to the hub itself and nowhere else.
#[derive(Debug)]
pub(super) struct Client {
    agent: Agent,
    endpoint: String,
    token: Option<Secret>,
}

impl Client {
    pub(super) fn new(cache: &HubCache) -> Self {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            // Followed by hand: the cache's headers are on the first answer.
            .max_redirects(0)
            // A compressed body has neither the size nor the ranges of the file.
            .accept_encoding("identity")
            .user_agent(concat!("colora/", env!("CARGO_PKG_VERSION")))
            .timeout_connect(Some(Duration::from_secs(20)))
            .timeout_recv_response(Some(Duration::from_secs(60)))
            .timeout_per_read(Some(Duration::from_secs(60)));
        // Tests talk to this machine only.
        let config = if cfg!(test) { config.proxy(None) } else { config };
        let endpoint = cache.endpoint().to_owned();
        Self { agent: config.build().into(), endpoint, token: cache.token.clone() }
    }

    /// The text at `url`.
    pub(super) fn text(&self, url: &str) -> Result<String, Failure> {
        let mut response = self.follow(url, None, false)?;
        let body = response.body_mut().with_config().limit(MAX_LIST).read_to_string();
        body.map_err(|e| link(&e))
    }

    /// Hash and size of the file at `url`.
    pub(super) fn head(&self, url: &str) -> Result<Meta, Failure> {
        let response = self.follow(url, None, true)?;
        let headers = response.headers();
        let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok());
        let linked = text("x-linked-etag");
        let etag = linked.or(text("etag")).unwrap_or_default();
        let etag = etag.trim_start_matches("W/").trim_matches('"').to_owned();
        let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        if etag.is_empty() || etag.len() > 128 || !etag.bytes().all(plain) {
            let why = format!("the hub gives no usable hash for {}", without_secrets(url));
            return Err(Failure::Fatal(Error::unsupported(why, "check HF_ENDPOINT")));
        }
        // The length of a redirect is not that of the file.
        let direct = if response.status().is_success() { text("content-length") } else { None };
        let size = text("x-linked-size").or(direct).and_then(|s| s.parse().ok());
        Ok(Meta { etag, size })
    }

    /// The content at `url` from byte `start`, and whether the server honoured `start`.
    pub(super) fn body(&self, url: &str, start: u64) -> Result<(impl Read + use<>, bool), Failure> {
        let response = match self.follow(url, Some(start).filter(|s| *s > 0), false) {
            // Nothing after `start`: what is here is not the beginning of this file.
            Err(Failure::Status(416)) => self.follow(url, None, false)?,
            other => other?,
        };
        let range = response.headers().get(header::CONTENT_RANGE).and_then(|v| v.to_str().ok());
        let begins = |range: &str| range.starts_with(&format!("bytes {start}-"));
        let resumed = response.status() == StatusCode::PARTIAL_CONTENT && range.is_some_and(begins);
        if response.status() == StatusCode::PARTIAL_CONTENT && !resumed {
            return Err(Failure::Link("the server sent another range than asked for".to_owned()));
        }
        Ok((response.into_body().into_reader(), resumed))
    }

    /// Sends a request and follows redirects; a HEAD request stops where another host would answer.
    fn follow(&self, url: &str, start: Option<u64>, head: bool) -> Result<Response<Body>, Failure> {
        let mut url = url.to_owned();
        for _ in 0..=REDIRECTS {
            let response = self.send(&url, start, head)?;
            let status = response.status();
            let Some(next) = location(response.headers()).filter(|_| status.is_redirection())
            else {
                let fine = status.is_success();
                return if fine { Ok(response) } else { Err(Failure::Status(status.as_u16())) };
            };
            let next = join(&url, next);
            if head && !same_origin(&next, &url) {
                return Ok(response);
            }
            if url.starts_with("https:") && !next.starts_with("https:") {
                return Err(Failure::Link(format!(
                    "{} redirects to an unprotected address",
                    without_secrets(&url)
                )));
            }
            url = next;
        }
        Err(Failure::Link(format!("more than {REDIRECTS} redirects")))
    }

    fn send(&self, url: &str, start: Option<u64>, head: bool) -> Result<Response<Body>, Failure> {
        let mut request = if head { self.agent.head(url) } else { self.agent.get(url) };
        if let Some(start) = start {
            request = request.header(header::RANGE, format!("bytes={start}-"));
        }
        if let Some(Secret(token)) =
            self.token.as_ref().filter(|_| same_origin(url, &self.endpoint))
        {
            let mut value = HeaderValue::try_from(format!("Bearer {token}")).map_err(|_| {
                Failure::Fatal(Error::unsupported(
                    "this HF_TOKEN",
                    "set it to plain letters and digits",
                ))
            })?;
            value.set_sensitive(true);
            request = request.header(header::AUTHORIZATION, value);
        }
        request.call().map_err(|e| link(&e))
    }
}

fn link(error: &ureq::Error) -> Failure {
    Failure::Link(match error {
        ureq::Error::Io(e) => e.to_string(),
        other => other.to_string(),
    })
}

fn location(headers: &HeaderMap) -> Option<&str> {
    headers.get(header::LOCATION).and_then(|value| value.to_str().ok())
}

/// `next` as an address of its own; hubs send absolute addresses or absolute paths.
fn join(base: &str, next: &str) -> String {
    let Ok(uri) = base.parse::<Uri>() else { return next.to_owned() };
    match (next.starts_with('/'), uri.scheme_str().zip(uri.authority())) {
        (true, Some((scheme, authority))) => format!("{scheme}://{authority}{next}"),
        _ => next.to_owned(),
    }
}

fn same_origin(a: &str, b: &str) -> bool {
    let origin = |url: &str| {
        let uri = url.parse::<Uri>().ok()?;
        Some((uri.scheme_str()?.to_lowercase(), uri.authority()?.as_str().to_lowercase()))
    };
    origin(a).is_some_and(|a| origin(b) == Some(a))
}

/// `path` with everything but letters, digits, `/` and `-._~` percent-encoded.
pub(super) fn encode(path: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"/-._~".contains(&b);
    path.bytes()
        .map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") })
        .collect()
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn addresses() {
        assert_eq!(encode("a b/é+.x"), "a%20b/%C3%A9%2B.x");
        assert_eq!(join("http://h:1/a/b?c", "/d"), "http://h:1/d");
        assert_eq!(join("http://h/a", "https://other/b"), "https://other/b");
        assert!(
            same_origin("http://H:1/a", "http://h:1/b") && !same_origin("http://h:1", "http://h:2")
        );
        assert!(!same_origin("http://h", "https://h") && !same_origin("x", "x"));
    }
}
