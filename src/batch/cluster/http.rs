//! HTTP for object stores, over the client that downloads from hubs use too. The client of `object_store` itself would
//! bring a second TLS library that is written in C and takes minutes to build.

use http_body_util::BodyExt;
use object_store::ClientOptions;
use object_store::client::{
    ClientConfigKey, HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest,
    HttpResponse, HttpResponseBody, HttpService,
};
use std::io::Read;
use std::time::Duration;
use ureq::Agent;
use ureq::http::Request;

/// How long a connection may take, and a whole request.
const CONNECT: Duration = Duration::from_secs(10);
const WHOLE: Duration = Duration::from_secs(120);
/// Most bytes of an answer.
const LIMIT: u64 = 1 << 30;

/// Makes clients.
#[derive(Debug)]
pub(super) struct Connector;

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let plain = options.get_config_value(&ClientConfigKey::AllowHttp);
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .https_only(plain.as_deref() != Some("true"))
            .allow_non_standard_methods(true)
            .max_redirects(0)
            .timeout_connect(Some(CONNECT))
            .timeout_global(Some(WHOLE))
            .user_agent(concat!("colora/", env!("CARGO_PKG_VERSION")))
            .accept_encoding("identity")
            .build();
        Ok(HttpClient::new(Client(config.new_agent())))
    }
}

#[derive(Debug)]
struct Client(Agent);

#[async_trait::async_trait]
impl HttpService for Client {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await?.to_bytes();
        let agent = self.0.clone();
        let call = move || exchange(&agent, Request::from_parts(parts, body.to_vec()));
        tokio::task::spawn_blocking(call)
            .await
            .map_err(|error| HttpError::new(HttpErrorKind::Unknown, error))?
    }
}

/// A request and its whole answer.
fn exchange(agent: &Agent, request: Request<Vec<u8>>) -> Result<HttpResponse, HttpError> {
    let (mut parts, body) = request.into_parts();
    // The client counts the bytes itself.
    parts.headers.remove("content-length");
    let answer = if body.is_empty() && !["PUT", "POST"].contains(&parts.method.as_str()) {
        agent.run(Request::from_parts(parts, ()))
    } else {
        agent.run(Request::from_parts(parts, body))
    };
    let (parts, body) = answer.map_err(|error| HttpError::new(kind(&error), error))?.into_parts();
    let mut bytes = Vec::new();
    let read = body.into_reader().take(LIMIT).read_to_end(&mut bytes);
    read.map_err(|error| HttpError::new(HttpErrorKind::Interrupted, error))?;
    Ok(HttpResponse::from_parts(parts, HttpResponseBody::from(bytes)))
}

/// Whether a request may be repeated: an answer may be lost after the store did what it was asked.
fn kind(error: &ureq::Error) -> HttpErrorKind {
    match error {
        ureq::Error::HostNotFound | ureq::Error::ConnectionFailed => HttpErrorKind::Connect,
        ureq::Error::Timeout(_) => HttpErrorKind::Timeout,
        ureq::Error::Io(_) => HttpErrorKind::Interrupted,
        _ => HttpErrorKind::Unknown,
    }
}
