//! `colora tune` with the real program: choosing by lines and on the page, scores, going on after an end.
#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used)]

#[path = "cli/world.rs"]
#[allow(dead_code)]
mod world;

use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::Stdio;
use world::{World, json};

/// The starter, small and quick, with the ranges of two LoRAs.
const QUICK: [&str; 13] = [
    "tune",
    "-m",
    "starter",
    "--size",
    "64x64",
    "-s",
    "2",
    "-l",
    "flat:0..1",
    "-l",
    "gold:0..1",
    "a red apple",
    "--json",
];

fn quick<'a>(more: &[&'a str]) -> Vec<&'a str> {
    QUICK.into_iter().chain(more.iter().copied()).collect()
}

/// Runs with these lines on stdin, and returns stdout and stderr.
fn answered(world: &World, lines: &str, more: &[&str]) -> (String, String) {
    let output =
        world.command(&quick(more)).write_stdin(lines).assert().success().get_output().clone();
    (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
}

/// The names of the pictures, in the order in which they were made.
fn made(world: &World, folder: &str) -> Vec<String> {
    let text = fs::read_to_string(world.path(folder).join("pictures/manifest-0.jsonl")).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.map(|line| line["id"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn somebody_chooses_and_goes_on_later() {
    let world = World::new();
    fs::create_dir(world.path("loras")).unwrap();
    let (out, talk) = answered(&world, "1\nwhat\n=\ns\nq\n", &[]);
    assert!(talk.contains("`what`? 1 or 2 is better"), "{talk}");
    let first = json(&out);
    assert_eq!((&first["event"], &first["answers"]), (&"tuned".into(), &2.into()));
    let pair = colora::Picture::open(world.path("tune/pair-001.png")).unwrap();
    assert!(pair.width() > 128 && pair.height() > 64, "two pictures with words");
    let log = fs::read_to_string(world.path("tune/tune.jsonl")).unwrap();
    assert_eq!(log.lines().count(), 4);

    // The same command goes on: what was answered is not asked again, what is drawn is not drawn again.
    let (out, talk) = answered(&world, "2\n1\n2\n1\n", &["--most", "4", "--save", "apple"]);
    assert!(talk.contains("going on after 3 answers"), "{talk}");
    let found = json(&out);
    assert_eq!(
        (&found["answers"], &found["saved"]),
        (&4.into(), &"./loras/stacks/apple.toml".into())
    );
    let ids = made(&world, "tune");
    let mut distinct = ids.clone();
    distinct.sort();
    distinct.dedup();
    assert_eq!(distinct.len(), ids.len(), "nothing is drawn twice");
    assert!(world.path(found["pictures"][0].as_str().unwrap()).is_file());

    // What was saved is what was found.
    let stack = json(&world.run(&["lora", "stack", "show", "apple", "--json"]));
    assert_eq!(stack["stack"], found["stack"]);
    let base = ["-m", "starter", "--size", "64x64", "-s", "2", "-S", "0", "a red apple", "-q"];
    world.run(&[&base[..], &["--stack", "apple", "-o", "again.png"]].concat());
    let picture = found["pictures"][0].as_str().unwrap();
    assert_eq!(world.pixels("again.png"), world.pixels(picture), "drawn anew it is the same");

    // A search that is over says again what it found.
    let (out, _) = answered(&world, "", &["--most", "4"]);
    assert_eq!(json(&out)["stack"], found["stack"]);
    let taken = world.fail(2, &quick(&["--save", "apple"]));
    assert!(taken.contains("apple.toml exists already"), "{taken}");
    let other = world.fail(2, &quick(&["-s", "3"]));
    assert!(other.contains("cannot be used multiple times"), "{other}");
    let other = world.fail(2, &quick(&["--sampler", "euler"]));
    assert!(other.contains("another search") && other.contains("pictures"), "{other}");
}

#[test]
fn an_end_without_answers_is_no_failure() {
    let world = World::new();
    let (out, talk) = answered(&world, "", &["--out", "x"]);
    assert!(out.is_empty() && talk.contains("no answer was given"), "{talk}");
}

#[test]
fn prompts_and_seeds_are_rows() {
    let world = World::new();
    world.write("list.txt", "a red apple\n--prompt a green apple --seed 7\n");
    let arguments = [
        "tune",
        "-m",
        "starter",
        "--size",
        "64x64",
        "-s",
        "2",
        "-l",
        "flat:0..1:stop=0.5..1",
        "--prompts",
        "list.txt",
        "--seeds",
        "2",
    ];
    let output =
        world.command(&arguments).write_stdin("1\nq\n").assert().success().get_output().clone();
    let flags = String::from_utf8(output.stdout).unwrap();
    assert!(flags.starts_with("--lora flat:") && flags.contains(":steps=0.."), "{flags}");
    let pair = colora::Picture::open(world.path("tune/pair-001.png")).unwrap();
    assert!(pair.height() > 4 * 64, "four rows");
    let seeds = fs::read_to_string(world.path("tune/pictures/manifest-0.jsonl")).unwrap();
    for seed in [7, 8] {
        assert!(seeds.contains(&format!("\"seed\":{seed},")), "{seeds}");
    }
}

#[test]
fn mistakes_are_found_before_anything_is_drawn() {
    let world = World::new();
    let fail =
        |code, more: &[&str]| world.fail(code, &[&["tune", "x", "-m", "starter"], more].concat());
    for (code, more, part) in [
        (2, &["-l", "flat:0.5"][..], "no range"),
        (2, &["-l", "flat:1..0"], "lower end"),
        (4, &["-l", "falt:0..1"], "did you mean `flat`"),
        (2, &["-l", "flat:0..1", "--most", "0"], "at least 1"),
        (2, &["-l", "flat:0..1", "--sure", "2"], "a probability"),
        (2, &["-l", "flat:0..1", "--score", "'x"], "quotation mark"),
        (2, &["-l", "flat:0..1", "-n", "3"], "seeds"),
        (2, &["-l", "flat:0..1", "-s", "0"], "steps = 0"),
        (2, &[], "required"),
    ] {
        let error = fail(code, more);
        assert!(error.contains(part), "{more:?}: {error}");
    }
}

#[test]
#[cfg(unix)]
fn a_program_scores() {
    let world = World::new();
    world.write("score.sh", "wc -c < \"$1\"\n");
    let arguments = quick(&["--score", "sh ./score.sh {}", "--most", "6", "--sure", "1"]);
    let output = world.command(&arguments).assert().success().get_output().clone();
    let found = json(&String::from_utf8(output.stdout).unwrap());
    assert_eq!((&found["answers"], &found["ended_sure"]), (&6.into(), &false.into()));
    let log = fs::read_to_string(world.path("tune/tune.jsonl")).unwrap();
    let scores = log.lines().skip(1).map(|line| serde_json::from_str::<Value>(line).unwrap());
    let scores: Vec<f64> = scores.map(|line| line["score"].as_f64().unwrap()).collect();
    assert!(scores.len() == 6 && scores.iter().all(|score| *score > 100.0), "{scores:?}");
    assert_eq!(
        made(&world, "tune").len(),
        fs::read_dir(world.path("tune/pictures")).unwrap().count() - 1
    );
    let failing = quick(&["--out", "y", "--score", "sh -c 'echo no weights >&2; exit 4'"]);
    let error = world.fail(2, &failing);
    assert!(error.contains("no weights") && error.contains("exit status: 4"), "{error}");
}

/// A request to the page, and what comes back.
fn asked(port: &str, head: &str, body: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(format!("127.0.0.1:{port}")).unwrap();
    let length = body.len();
    let text = format!("{head}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}");
    stream.write_all(text.as_bytes()).unwrap();
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let code = text.split(' ').nth(1).unwrap().parse().unwrap();
    (code, text)
}

#[test]
fn somebody_chooses_on_the_page() {
    let world = World::new();
    let mut process = world.process(&quick(&["--page", "--most", "3"]));
    let mut child = process.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    let mut talk = BufReader::new(child.stderr.take().unwrap());
    talk.read_line(&mut line).unwrap();
    let address = line.split("http://127.0.0.1:").nth(1).unwrap().trim();
    let (port, token) = address.split_once('/').unwrap();
    let token = token.trim_end_matches('/');
    let get = |place: &str| {
        asked(port, &format!("GET /{token}/{place} HTTP/1.1\r\nHost: 127.0.0.1:{port}"), "")
    };
    let (code, page) = get("");
    assert_eq!(code, 200);
    assert!(
        page.contains("Content-Security-Policy: default-src 'none'") && page.contains("page.js")
    );
    // Others get nothing.
    for (head, code) in [
        (format!("GET /{token}/ HTTP/1.1\r\nHost: evil.example"), 421),
        (format!("GET /wrong/ HTTP/1.1\r\nHost: 127.0.0.1:{port}"), 404),
        (format!("GET / HTTP/1.1\r\nHost: 127.0.0.1:{port}"), 404),
        (
            format!(
                "GET /{token}/state HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nOrigin: http://evil.example"
            ),
            403,
        ),
        (
            format!(
                "POST /{token}/answer HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: text/plain"
            ),
            403,
        ),
        (format!("DELETE /{token}/state HTTP/1.1\r\nHost: 127.0.0.1:{port}"), 405),
    ] {
        assert_eq!(asked(port, &head, "{}").0, code, "{head}");
    }
    let state = || {
        let (_, text) = get("state");
        serde_json::from_str::<Value>(text.split("\r\n\r\n").nth(1).unwrap()).unwrap()
    };
    for number in 1..=3 {
        while state()["number"] != number || state()["open"] != true {
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        let picture = format!("picture/{number}/0/0");
        assert!(get(&picture).1.contains("image/png"));
        for place in ["picture/9/0/0", "picture/1/2/0", "picture/../../x", "picture/%2e%2e/0/0"] {
            assert_eq!(get(place).0, 404, "{place}");
        }
        let post = format!(
            "POST /{token}/answer HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json"
        );
        let answer = format!("{{\"number\":{number},\"chosen\":\"first\"}}");
        assert_eq!(asked(port, &post, &answer).0, 200);
        assert_eq!(asked(port, &post, &answer).0, 409, "an answer counts once");
        assert_eq!(asked(port, &post, "{\"number\":1,\"chosen\":\"<b>\"}").0, 400);
    }
    while state()["over"] != true {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let mut out = String::new();
    child.stdout.take().unwrap().read_to_string(&mut out).unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(json(&out)["answers"], 3);
    assert!(TcpStream::connect(format!("127.0.0.1:{port}")).is_err(), "it ends by itself");
}
