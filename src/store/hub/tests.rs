//! A hub on this machine's loopback that breaks off, lies, redirects and refuses.

use super::*;
use crate::plain::hex;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

const COMMIT: &str = "89abcdef89abcdef89abcdef89abcdef89abcdef";

/// One answer.
#[derive(Default)]
struct Answer {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
    /// Break off after so many bytes of the body.
    cut: Option<usize>,
}

struct Asked {
    line: String,
    headers: HashMap<String, String>,
}

type Script = dyn Fn(&Asked) -> Answer + Send + Sync;

struct Hub {
    address: String,
    log: Arc<Mutex<Vec<String>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Hub {
    fn new(script: impl Fn(&Asked) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (log, stop) = (Arc::<Mutex<Vec<String>>>::default(), Arc::new(AtomicBool::new(false)));
        let (log_in, stop_in, script) =
            (log.clone(), stop.clone(), Box::new(script) as Box<Script>);
        let thread = std::thread::spawn(move || {
            // Bounded: no test needs more connections.
            for stream in listener.incoming().take(60) {
                if stop_in.load(Ordering::Relaxed) {
                    return;
                }
                let _ = answer(&stream.unwrap(), &*script, &log_in);
            }
        });
        Self { address, log, stop, thread: Some(thread) }
    }

    fn log(&self) -> Vec<String> {
        self.log.lock().unwrap().clone()
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(&self.address);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn answer(
    mut stream: &TcpStream,
    script: &Script,
    log: &Mutex<Vec<String>>,
) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut lines = BufReader::new(stream.take(64 << 10)).lines();
    let line = lines.next().unwrap_or(Ok(String::new()))?;
    let mut headers = HashMap::new();
    for header in lines {
        let header = header?;
        let Some((name, value)) = header.split_once(": ") else { break };
        headers.insert(name.to_lowercase(), value.to_owned());
    }
    let range = headers.get("range").map(|r| format!(" [{r}]")).unwrap_or_default();
    let auth = if headers.contains_key("authorization") { " +token" } else { "" };
    let short = line.trim_end_matches(" HTTP/1.1");
    log.lock().unwrap().push(format!("{short}{range}{auth}"));
    let head = line.starts_with("HEAD");
    let answer = script(&Asked { line, headers });
    let mut lines = vec![format!("HTTP/1.1 {} x", answer.status), "Connection: close".to_owned()];
    if !answer.headers.iter().any(|(k, _)| *k == "Content-Length") {
        lines.push(format!("Content-Length: {}", answer.body.len()));
    }
    lines.extend(answer.headers.iter().map(|(name, value)| format!("{name}: {value}")));
    stream.write_all((lines.join("\r\n") + "\r\n\r\n").as_bytes())?;
    let end = answer.cut.unwrap_or(answer.body.len()).min(answer.body.len());
    if head { Ok(()) } else { stream.write_all(&answer.body[..end]) }
}

fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn weights() -> Vec<u8> {
    (0..700_000u32).map(|i| ((i * i) >> 7) as u8).collect()
}

/// A repository with one large file, whose transfer breaks off `breaks` times.
fn repository(asked: &Asked, breaks: &AtomicBool, etag: &str) -> Answer {
    let body = weights();
    if asked.line.contains("/api/models/o/n/revision/main") {
        let files = [r#"{"rfilename":"w.safetensors"}"#, r#"{"rfilename":"../evil.safetensors"}"#];
        let json = format!(r#"{{"sha":"{COMMIT}","siblings":[{}]}}"#, files.join(","));
        return Answer { status: 200, body: json.into_bytes(), ..Answer::default() };
    }
    if !asked.line.contains(&format!("/o/n/resolve/{COMMIT}/w.safetensors")) {
        return Answer { status: 404, ..Answer::default() };
    }
    let size = body.len();
    let mut answer = Answer {
        status: 200,
        headers: vec![
            ("X-Linked-Etag", format!("\"{etag}\"")),
            ("X-Linked-Size", size.to_string()),
        ],
        body,
        cut: None,
    };
    let range = asked.headers.get("range").map(|r| r[6..].trim_end_matches('-'));
    let start: Option<usize> = range.and_then(|start| start.parse().ok());
    if let Some(start) = start {
        answer.status = 206;
        answer.headers.push(("Content-Range", format!("bytes {start}-{}/{size}", size - 1)));
        answer.body.drain(..start);
    }
    if asked.line.starts_with("GET") && breaks.swap(false, Ordering::Relaxed) {
        answer.cut = Some(300_000);
    }
    answer
}

fn cache(folder: &Path, address: &str, offline: bool) -> HubCache {
    HubCache::new(&|name| {
        let value = match name {
            "HF_HOME" => folder.to_str().unwrap().to_owned(),
            "HF_ENDPOINT" => format!("http://{address}"),
            "HF_TOKEN" => "hf_secret".to_owned(),
            "HF_HUB_OFFLINE" => u8::from(offline).to_string(),
            _ => return None,
        };
        Some(OsString::from(value))
    })
}

fn get(cache: &HubCache, id: &str) -> Result<PathBuf> {
    pull(cache, &id.parse().unwrap(), model, &Cancel::new(), &|_| ())
}

fn refused(status: u16) -> String {
    let folder = tempfile::tempdir().unwrap();
    let hub = Hub::new(move |_| Answer { status, ..Answer::default() });
    let error = get(&cache(folder.path(), &hub.address, false), "o/n").unwrap_err();
    assert_eq!(error.fault().exit_code(), 4);
    assert!(!error.to_string().contains("hf_secret"));
    error.to_string()
}

#[test]
fn a_broken_transfer_resumes_and_the_layout_is_shared() {
    let folder = tempfile::tempdir().unwrap();
    let (breaks, etag) = (AtomicBool::new(true), sha256(&weights()));
    let hub = Hub::new({
        let etag = etag.clone();
        move |asked| repository(asked, &breaks, &etag)
    });
    let cache = cache(folder.path(), &hub.address, false);
    let seen = Mutex::new(Vec::new());
    let id: HubId = "o/n".parse().unwrap();
    let path =
        pull(&cache, &id, model, &Cancel::new(), &|t| seen.lock().unwrap().push(t.done)).unwrap();
    assert_eq!(fs::read(&path).unwrap(), weights());
    let repo = folder.path().join("hub/models--o--n");
    assert_eq!(path, repo.join("snapshots").join(COMMIT).join("w.safetensors"));
    assert_eq!(fs::read_to_string(repo.join("refs/main")).unwrap(), COMMIT);
    assert!(repo.join("blobs").join(&etag).is_file());
    assert_eq!(fs::read_dir(repo.join("blobs")).unwrap().count(), 1, "nothing incomplete stays");
    #[cfg(unix)]
    assert_eq!(fs::read_link(&path).unwrap(), Path::new("../../blobs").join(&etag));
    assert!(seen.lock().unwrap().is_sorted(), "progress goes on where it broke off");
    let log = hub.log();
    assert!(log.iter().any(|l| l.contains("[bytes=300000-]")), "{log:?}");
    assert!(log.iter().all(|l| l.ends_with("+token")), "{log:?}");
    // From now on no request is needed, and a second pull asks for no content.
    assert_eq!(cache.find(&id), Some(path.clone()));
    assert_eq!(get(&cache, "o/n/w.safetensors").unwrap(), path);
    assert_eq!(pull(&cache, &id, adapter, &Cancel::new(), &|_| ()).unwrap(), path);
    assert!(hub.log()[log.len()..].iter().all(|l| !l.starts_with("GET /o/n/resolve")));
}

#[test]
fn a_download_goes_on_where_an_earlier_run_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let etag = sha256(&weights());
    let blobs = folder.path().join("hub/models--o--n/blobs");
    fs::create_dir_all(&blobs).unwrap();
    fs::write(blobs.join(format!("{etag}.incomplete")), &weights()[..500_000]).unwrap();
    let never = AtomicBool::new(false);
    let hub = Hub::new(move |asked| repository(asked, &never, &etag));
    let path = get(&cache(folder.path(), &hub.address, false), "o/n").unwrap();
    assert_eq!(fs::read(path).unwrap(), weights());
    assert!(hub.log().iter().any(|l| l.contains("[bytes=500000-]")));
}

#[test]
fn a_wrong_hash_is_discarded() {
    let folder = tempfile::tempdir().unwrap();
    let (never, etag) = (AtomicBool::new(false), "0".repeat(64));
    let hub = Hub::new(move |asked| repository(asked, &never, &etag));
    let cache = cache(folder.path(), &hub.address, false);
    let error = get(&cache, "o/n").unwrap_err();
    assert!(matches!(error, Error::Corrupt { .. }), "{error}");
    assert!(error.to_string().contains("SHA-256"));
    let blobs = folder.path().join("hub/models--o--n/blobs");
    assert_eq!(fs::read_dir(blobs).unwrap().count(), 0);
    assert_eq!(cache.find(&"o/n".parse().unwrap()), None);
}

#[test]
fn redirects_to_another_host_lose_the_token() {
    let folder = tempfile::tempdir().unwrap();
    let store = Hub::new(|_| Answer { status: 200, body: weights(), ..Answer::default() });
    let (never, etag, elsewhere) =
        (AtomicBool::new(false), sha256(&weights()), format!("http://{}/blob", store.address));
    let hub = Hub::new(move |asked| {
        // The hub moved the repository, and keeps large files elsewhere.
        if asked.line.contains(" /api/models/o/n/") {
            let moved = ("Location", format!("/api/models/new/n/revision/main?x=o/n{COMMIT}"));
            return Answer { status: 307, headers: vec![moved], ..Answer::default() };
        }
        if asked.line.contains("/new/n/") {
            let body =
                format!(r#"{{"sha":"{COMMIT}","siblings":[{{"rfilename":"w.safetensors"}}]}}"#);
            return Answer { status: 200, body: body.into(), ..Answer::default() };
        }
        let mut answer = repository(asked, &never, &etag);
        answer.headers.push(("Location", elsewhere.clone()));
        Answer { status: 302, body: Vec::new(), ..answer }
    });
    let path = get(&cache(folder.path(), &hub.address, false), "o/n").unwrap();
    assert_eq!(fs::read(path).unwrap(), weights());
    assert_eq!(store.log(), ["GET /blob"], "no token, and no HEAD");
}

#[test]
fn refusals_say_what_to_do() {
    assert!(refused(401).contains("HF_TOKEN") && refused(403).contains("gated"));
    assert!(refused(404).contains("check owner"));
    assert!(refused(503).contains("503"));
    let endless = Hub::new(|_| Answer {
        status: 302,
        headers: vec![("Location", "/again".into())],
        ..Answer::default()
    });
    let folder = tempfile::tempdir().unwrap();
    let message =
        get(&cache(folder.path(), &endless.address, false), "o/n").unwrap_err().to_string();
    assert!(message.contains("redirects"), "{message}");
}

#[test]
fn missing_files_and_offline_machines() {
    let folder = tempfile::tempdir().unwrap();
    let never = AtomicBool::new(false);
    let hub = Hub::new(move |asked| repository(asked, &never, &"0".repeat(64)));
    let message = get(&cache(folder.path(), &hub.address, false), "o/n/v.safetensors").unwrap_err();
    assert!(message.to_string().contains("did you mean `w.safetensors`"), "{message}");
    let offline = get(&cache(folder.path(), &hub.address, true), "o/n").unwrap_err();
    assert!(offline.to_string().contains("HF_HUB_OFFLINE"));
    let address = hub.address.clone();
    drop(hub);
    let message = get(&cache(folder.path(), &address, false), "o/n").unwrap_err().to_string();
    assert!(message.contains("offline") && message.contains("refused"), "{message}");
}

#[test]
fn cancelling_stops_a_download_and_keeps_what_came() {
    let folder = tempfile::tempdir().unwrap();
    let (never, etag) = (AtomicBool::new(false), sha256(&weights()));
    let hub = Hub::new(move |asked| repository(asked, &never, &etag));
    let cache = cache(folder.path(), &hub.address, false);
    let cancel = Cancel::new();
    let error =
        pull(&cache, &"o/n".parse().unwrap(), model, &cancel, &|_| cancel.cancel()).unwrap_err();
    assert!(matches!(error, Error::Cancelled));
    let blobs = folder.path().join("hub/models--o--n/blobs");
    let part = fs::read_dir(blobs).unwrap().next().unwrap().unwrap();
    assert!(part.metadata().unwrap().len() > 0);
}

#[test]
fn without_locks_everybody_writes_a_file_of_their_own() {
    assert_eq!(unfinished("tag", true), "tag.incomplete");
    let names = [unfinished("tag", false), unfinished("tag", false), unfinished("tag", true)];
    assert!(names[0] != names[1] && names[1] != names[2] && names[0] != names[2], "{names:?}");
    assert!(names.iter().all(|name| name.starts_with("tag.") && name.ends_with(".incomplete")));
}
