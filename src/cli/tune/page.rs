//! Choosing on a page in a browser of this machine.
//!
//! A server on 127.0.0.1 that ends with the search. Every address begins with a random token; requests that do not name
//! this server as their host, or come from another page, get nothing. The page may load and send nothing elsewhere.

mod guard;

use super::Front;
use crate::cli::style::{Talk, say};
use crate::error::{Error, Result};
use crate::input;
use crate::pipeline::Cancel;
use crate::plain::hex;
use crate::tune::{Chosen, Judge, Question, Reply, Stroke};
use guard::{Guard, Refusal};
use serde::Deserialize;
use serde_json::json;
use std::io::Read;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tiny_http::{Header, Method, Request, Response, Server};

const HTML: &str = include_str!("page/page.html");
const STYLE: &str = include_str!("page/page.css");
const SCRIPT: &str = include_str!("page/page.js");

/// Time between two looks at whether the search is to stop.
const OFTEN: Duration = Duration::from_millis(100);
/// How long the page may still ask how the search ended.
const FAREWELL: Duration = Duration::from_secs(2);
/// Most bytes of an answer.
const MOST_ANSWER: u64 = 1024;
/// Most bytes of a picture that is served.
const MOST_PICTURE: u64 = 256 << 20;

/// What the page shows.
#[derive(Debug, Default)]
struct State {
    /// The question's number; 0 before the first.
    number: usize,
    most: usize,
    /// Whether the question waits for its answer.
    open: bool,
    /// The pictures of both stacks.
    pictures: [Vec<PathBuf>; 2],
    /// The weights of both stacks of the question before.
    before: Option<[String; 2]>,
    words: [String; 2],
    best: Option<(String, f64)>,
    drawing: Option<Stroke>,
    /// Whether the search is over.
    over: bool,
    /// Whether the page has been told so.
    told: bool,
}

/// What both threads share.
struct Shared {
    state: Mutex<State>,
    rows: Vec<String>,
    guard: Guard,
    ended: AtomicBool,
}

/// Somebody at a page.
pub(super) struct Page {
    shared: Arc<Shared>,
    replies: Receiver<Reply>,
    thread: Option<JoinHandle<()>>,
}

/// What the page sends.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Answer {
    number: usize,
    chosen: String,
}

impl Page {
    /// Starts the server and says where it is; `rows` names the rows of a pair.
    ///
    /// # Errors
    /// [`Error::Unsupported`] when no port can be opened, [`Error::Threads`].
    pub(super) fn new(rows: Vec<String>, talk: Talk) -> Result<Self> {
        let no_port = |error: &dyn std::fmt::Display| {
            let what = format!("a page of this machine ({error})");
            Error::unsupported(what, "choose in the terminal")
        };
        let server = Server::http("127.0.0.1:0").map_err(|error| no_port(&*error))?;
        let port = server.server_addr().to_ip().map(|address| address.port());
        let port = port.ok_or_else(|| no_port(&"it has no port"))?;
        let mut token = [0; 16];
        getrandom::fill(&mut token).map_err(|error| no_port(&error))?;
        let guard = Guard { token: hex(&token), port };
        // What is to be opened is said even to the quiet.
        say(&format!("open this page: http://127.0.0.1:{port}/{}/", guard.token));
        talk.say("it is of this machine alone, and ends with the search; Ctrl-C ends both");
        let ended = AtomicBool::new(false);
        let shared = Arc::new(Shared { state: Mutex::default(), rows, guard, ended });
        let (sender, replies) = channel();
        let own = shared.clone();
        let serve = move || serve(&server, &own, &sender);
        let thread = std::thread::Builder::new().name("page".into()).spawn(serve);
        let thread = thread.map_err(|source| Error::Threads { source })?;
        Ok(Self { shared, replies, thread: Some(thread) })
    }
}

impl Shared {
    fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        act(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Judge for Page {
    fn show(&mut self, question: &Question) -> Result<()> {
        self.shared.with(|state| {
            let Question { number, most, first, second, best } = question.clone();
            let before = std::mem::take(&mut state.words);
            state.before = (state.number > 0).then_some(before);
            (state.number, state.most, state.open) = (number, most, true);
            state.pictures = [first.pictures, second.pictures];
            state.words = [first.words, second.words];
            (state.best, state.drawing) = (best, None);
        });
        Ok(())
    }

    fn reply(&mut self, cancel: &Cancel) -> Result<Reply> {
        loop {
            cancel.check()?;
            match self.replies.recv_timeout(OFTEN) {
                Ok(reply) => return Ok(reply),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Ok(Reply::Quit),
            }
        }
    }

    fn drawing(&mut self, stroke: Stroke) {
        self.shared.with(|state| state.drawing = Some(stroke));
    }
}

impl Front for Page {
    fn end(&mut self) {
        self.shared.with(|state| (state.over, state.open) = (true, false));
        let asked = Instant::now();
        while asked.elapsed() < FAREWELL && !self.shared.with(|state| state.told) {
            std::thread::sleep(OFTEN / 4);
        }
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Answers requests until the search has ended.
fn serve(server: &Server, shared: &Shared, replies: &Sender<Reply>) {
    while !shared.ended.load(Ordering::Relaxed) {
        if let Ok(Some(mut request)) = server.recv_timeout(OFTEN) {
            let answer = answer(&mut request, shared, replies).unwrap_or_else(|Refusal(code)| {
                Content { code, kind: "text/plain", bytes: b"no".to_vec() }
            });
            // A browser that has left is no failure.
            let _ = request.respond(answer.response());
        }
    }
}

/// What is sent back.
struct Content {
    code: u16,
    kind: &'static str,
    bytes: Vec<u8>,
}

impl Content {
    fn new(kind: &'static str, bytes: impl Into<Vec<u8>>) -> Self {
        Self { code: 200, kind, bytes: bytes.into() }
    }

    fn response(self) -> Response<std::io::Cursor<Vec<u8>>> {
        let own = [("Content-Type", self.kind)];
        let headers = own.into_iter().chain(guard::HEADERS);
        let headers = headers.filter_map(|(name, value)| Header::from_bytes(name, value).ok());
        let response = Response::from_data(self.bytes).with_status_code(self.code);
        headers.fold(response, Response::with_header)
    }
}

/// What a request gets.
fn answer(
    request: &mut Request,
    shared: &Shared,
    replies: &Sender<Reply>,
) -> Result<Content, Refusal> {
    let headers: Vec<(String, String)> = request
        .headers()
        .iter()
        .map(|header| (header.field.to_string().to_lowercase(), header.value.to_string()))
        .collect();
    let place = shared.guard.place(request.url(), &headers)?.to_owned();
    match (request.method(), place.as_str()) {
        (Method::Get, "") => Ok(Content::new("text/html; charset=utf-8", HTML)),
        (Method::Get, "page.css") => Ok(Content::new("text/css; charset=utf-8", STYLE)),
        (Method::Get, "page.js") => Ok(Content::new("text/javascript; charset=utf-8", SCRIPT)),
        (Method::Get, "state") => Ok(Content::new("application/json", shared.state_json())),
        (Method::Get, picture) => shared.picture(picture),
        (Method::Post, "answer") => {
            Guard::check_post(&headers)?;
            let mut body = String::new();
            let read = request.as_reader().take(MOST_ANSWER).read_to_string(&mut body);
            read.map_err(|_| Refusal(400))?;
            let answer: Answer = serde_json::from_str(&body).map_err(|_| Refusal(400))?;
            shared.take(&answer, replies)?;
            Ok(Content::new("application/json", "{}"))
        }
        _ => Err(Refusal(405)),
    }
}

impl Shared {
    fn state_json(&self) -> String {
        self.with(|state| {
            state.told |= state.over;
            let best = state.best.as_ref();
            let drawing = state.drawing.map(|Stroke { picture, of, step, steps }| {
                let done = (picture.saturating_sub(1) * steps + step) as f64;
                done / (of * steps).max(1) as f64
            });
            json!({
                "number": state.number, "most": state.most, "open": state.open,
                "over": state.over, "rows": self.rows, "pictures": state.pictures[0].len(),
                "before": state.before, "drawing": drawing,
                "best": best.map(|(words, _)| words), "sure": best.map(|(_, sure)| sure),
            })
            .to_string()
        })
    }

    /// A picture of the question by its address `picture/NUMBER/SIDE/ROW`: no path comes from outside.
    fn picture(&self, address: &str) -> Result<Content, Refusal> {
        let parts: Vec<&str> = address.split('/').collect();
        let ["picture", number, side, row] = parts[..] else { return Err(Refusal(404)) };
        let read = |text: &str| text.parse::<usize>().map_err(|_| Refusal(404));
        let (number, side, row) = (read(number)?, read(side)?, read(row)?);
        let path = self.with(|state| {
            let side = state.pictures.get(side).filter(|_| number == state.number);
            side.and_then(|pictures| pictures.get(row)).cloned()
        });
        let bytes = input::bytes(&path.ok_or(Refusal(404))?, MOST_PICTURE, "a picture");
        Ok(Content::new("image/png", bytes.map_err(|_| Refusal(404))?))
    }

    /// Passes an answer on, once, when it is that to the question that is open.
    fn take(&self, answer: &Answer, replies: &Sender<Reply>) -> Result<(), Refusal> {
        let reply = match answer.chosen.as_str() {
            "first" => Reply::Chosen(Chosen::First),
            "second" => Reply::Chosen(Chosen::Second),
            "equal" => Reply::Chosen(Chosen::Equal),
            "skip" => Reply::Chosen(Chosen::Skipped),
            "quit" => Reply::Quit,
            _ => return Err(Refusal(400)),
        };
        let is_open = self.with(|state| {
            let open = state.open && state.number == answer.number;
            state.open &= !open;
            open
        });
        if !is_open {
            return Err(Refusal(409));
        }
        replies.send(reply).map_err(|_| Refusal(410))
    }
}
