//! What pictures, prompts and names of strangers say, and what is done about it.

use crate::world::{MODEL, World, json};
use colora::picture::png;
use colora::{Fault, Picture};
use std::fs;
use std::path::Path;

/// Stands in the project's own folder, which is none of LoRAs or models.
const OUTSIDE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/zoo/good/sd15-kohya.safetensors");

fn picture(world: &World, name: &str, parameters: Option<&str>, colora: Option<&str>) {
    let texts =
        png::Texts { parameters: parameters.map(Into::into), colora: colora.map(Into::into) };
    let picture = Picture::new(1, 1, vec![0; 3]).unwrap();
    world.write(name, png::encode(&picture, &texts).unwrap());
}

/// A picture of ours with the model and the LoRAs `names`.
fn own(world: &World, name: &str, model: &str, names: &[&str]) {
    let loras: Vec<_> = names.iter().map(|name| serde_json::json!({ "name": name })).collect();
    let request = serde_json::json!({
        "prompt": "x", "steps": 1, "width": 64, "height": 64, "seed": 1, "loras": loras,
    });
    let text = serde_json::json!({
        "schema": 1, "version": "0.1.0", "model": model, "request": request,
    });
    picture(world, name, None, Some(&text.to_string()));
}

fn said(world: &World, arguments: &[&str]) -> String {
    let output = world.command(arguments).output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{arguments:?}: {text}");
    text
}

/// A stranger's picture opened any file that it named, and told a little of what was in it.
#[test]
fn pictures_open_nothing_out_of_reach() {
    let world = World::new();
    let lines = "Steps: 1, Sampler: Euler, CFG scale: 3, Seed: 1, Size: 64x64, RNG: CPU";
    picture(&world, "tag.png", Some(&format!("a <lora:/etc/passwd:1>\n{lines}")), None);
    picture(&world, "up.png", Some(&format!("a <lora:../x.safetensors:1>\n{lines}")), None);
    own(&world, "lora.png", "", &[OUTSIDE]);
    own(&world, "model.png", "/nowhere/fifo", &[]);
    own(&world, "hub.png", "hub:evil/model", &["hub:evil/lora"]);
    own(&world, "share.png", r"\\host\share", &["//host/share"]);
    for (name, part) in [
        ("tag.png", "the LoRA `/etc/passwd`"),
        ("tag.png", "a prompt of your own another instead"),
        ("up.png", "the LoRA `../x.safetensors`"),
        ("lora.png", "sd15-kohya.safetensors"),
        ("lora.png", "-l another instead"),
        ("model.png", "the model `/nowhere/fifo`"),
        ("hub.png", "`hub:evil/model`, which is not downloaded"),
        ("hub.png", "`hub:evil/lora`"),
        ("share.png", "the model `\\\\host\\share`"),
    ] {
        for more in [&[][..], &["--dry-run"]] {
            let error = world.fail(2, &[&["--from", name, "-o", "x.png"], more].concat());
            assert!(error.contains(part) && error.contains("--trust-picture"), "{name}: {error}");
        }
    }
    // What is typed is free, and so is a picture that is trusted.
    world.run(&["--from", "model.png", "-m", "starter", "-o", "a.png"]);
    world.run(&["--from", "tag.png", "-o", "b.png", "a prompt"]);
    world.run(&["--from", "lora.png", "--trust-picture", "-o", "c.png"]);
    world.run(&["--from", "lora.png", "-l", OUTSIDE, "-o", "d.png"]);
    assert_eq!(world.pixels("c.png"), world.pixels("d.png"));
}

#[test]
fn pictures_name_what_lies_beside_them() {
    let world = World::new();
    fs::create_dir_all(world.path("sent/sub")).unwrap();
    fs::copy(OUTSIDE, world.path("sent/sub/k.safetensors")).unwrap();
    own(&world, "sent/a.png", "", &["sub/k.safetensors"]);
    let plan = json(&world.run(&["--from", "sent/a.png", "--dry-run", "--json"]));
    assert_eq!(plan["from_picture"]["picture"], "sent/a.png");
    assert_eq!(plan["from_picture"]["loras"][0], "sent/sub/k.safetensors");
    let text = world.run(&["--from", "sent/a.png", "--dry-run"]);
    assert!(text.contains("[from_picture]"), "{text}");
    let lines = "x <lora:sub/k.safetensors:1>\nSteps: 1, Sampler: Euler, CFG scale: 7.5, Seed: 1, Size: 64x64";
    picture(&world, "sent/b.png", Some(lines), None);
    world.run(&["--from", "sent/b.png", "-o", "b.png"]);
    let command = world.run(&["inspect", "--as-command", "sent/b.png"]);
    assert!(command.contains("<lora:sent/sub/k.safetensors:1>"), "{command}");
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink(OUTSIDE, world.path("sent/l.safetensors")).unwrap();
        own(&world, "sent/c.png", "", &["l.safetensors"]);
        world.fail(2, &["--from", "sent/c.png", "-o", "c.png"]);
    }
}

/// `--from` and `inspect` waited for a pipe's writer.
#[cfg(unix)]
#[test]
fn pipes_are_no_pictures() {
    let world = World::new();
    let made = std::process::Command::new("mkfifo").arg(world.path("fifo")).status().unwrap();
    assert!(made.success());
    for arguments in [&["--from", "fifo"][..], &["inspect", "fifo"]] {
        assert!(world.fail(3, arguments).contains("expected a regular file"));
    }
}

/// Settings that change a picture were not followed without a word, by `inspect` too.
#[test]
fn settings_that_are_not_followed_are_named() {
    let world = World::new();
    let lines = "x\nNegative prompt: <lora:a:1>\nSteps: 1, Sampler: Euler, Seed: 1, Size: 64x64, RNG: NV, \
                 ADetailer model: face.pt, Version: v1.10.1\nTemplate: {x|y}";
    picture(&world, "a.png", Some(lines), None);
    let part = "not followed: ADetailer model, `<lora:a:1>`\n";
    for arguments in [&["inspect", "a.png"][..], &["--from", "a.png", "-o", "b.png"]] {
        let text = said(&world, arguments);
        assert!(text.contains(part), "{text}");
    }
    let shown = json(&world.run(&["inspect", "--json", "a.png"]));
    assert_eq!(shown["not_followed"][0], "ADetailer model");
    assert_eq!(shown["request"]["negative_prompt"], "<lora:a:1>");
    picture(&world, "b.png", Some(r#"{"1": {"class_type": "KSampler"}}"#), None);
    let error = world.fail(5, &["--from", "b.png", "--force"]);
    assert!(error.contains("ComfyUI") && error.contains("b.png"), "{error}");
}

/// A byte order mark was drawn as a word, and UTF-16 was no text.
#[test]
fn prompts_from_windows_are_read() {
    let world = World::new();
    let wide: Vec<u8> =
        "\u{feff}a red apple\r\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let inputs = [b"a red apple\n".to_vec(), b"\xef\xbb\xbfa red apple\r\n".to_vec(), wide];
    let draw = |(index, input): (usize, Vec<u8>)| {
        let name = format!("{index}.png");
        let mut command = world.command(&["-s1", "-S1", "--size", "64x64", "-o", &name, "-"]);
        command.write_stdin(input).assert().success();
        fs::read(world.path(&name)).unwrap()
    };
    let drawn: Vec<Vec<u8>> = inputs.into_iter().enumerate().map(draw).collect();
    assert!(drawn.iter().all(|bytes| *bytes == drawn[0]), "the same to the byte");
}

/// Emphasis without a number and everything else of other programs was drawn without a word.
#[test]
fn syntax_of_other_programs_is_named_once() {
    let world = World::new();
    let talk = |arguments: &[&str]| said(&world, &[&["--dry-run"], arguments].concat());
    let prompts = ["-N", "[bad] <lora:x:1>", "((red)) AND __colour__"];
    let text = talk(&[&["--prompt-syntax", "plain"], &prompts[..]].concat());
    assert!(text.contains("`((red))`, `AND`, `__colour__`, `[bad]`, `<lora:x:1>` are"), "{text}");
    assert_eq!(text.matches("warning").count(), 1, "{text}");
    // Brackets are read unless the syntax is plain.
    let text = talk(&prompts);
    assert!(text.contains("`__colour__`, `<lora:x:1>` are"), "{text}");
    assert_eq!(talk(&[r"a photo (1990) of \(red\) at 10:30"]), "");
}

/// A line break in a tensor's name made a line `error:` of its own.
#[test]
fn names_forge_no_messages() {
    let world = World::new();
    let mut bytes = Vec::new();
    let header = serde_json::json!({
        "a\nerror: run this\u{9b}\u{202e}.lora_down.weight":
            { "dtype": "F32", "shape": [1], "data_offsets": [0, 4] },
    });
    let header = header.to_string();
    bytes.extend((header.len() as u64).to_le_bytes());
    bytes.extend(header.bytes().chain([0; 4]));
    world.write("key.safetensors", &bytes);
    world.write("loras/k.safetensors", &bytes);
    world.write("loras/k.toml", "title = \"a\\u202Eb\\u2028c\\u200Bd\\nerror: e\"");
    let safe = |text: &str| {
        assert_eq!(text.lines().filter(|line| line.starts_with("error:")).count(), 1, "{text}");
        assert!(!text.contains(['\u{9b}', '\u{202e}']), "{text:?}");
    };
    safe(&world.fail(3, &["lora", "check", "./key.safetensors"]));
    safe(&world.fail(4, &["-m", "a\nerror: b\u{9b}", "-o", "x.png", "x"]));
    safe(&world.fail(2, &["lora", "\u{9b}31m\nerror: b\u{202e}"]));
    safe(&world.fail(2, &["--sampler", "a\nerror: b\u{9b}", "x"]));
    safe(&world.fail(4, &["inspect", "a\nerror: b\u{9b}"]));
    let list = world.run(&["lora", "list"]);
    assert!(
        list.contains(r"a\u{202e}b\u{2028}c\u{200b}d\nerror: e") || list.contains("…"),
        "{list}"
    );
    let listed = world.run(&["lora", "list", "--json"]);
    let line = listed.lines().find(|line| line.contains("loras/k.safetensors")).unwrap();
    assert!(line.contains(r"a\u202eb\u2028c\u200bd\nerror: e"), "{line}");
    json(line);
}

/// Only `lora list --verify` looked at the sum on a card.
#[test]
fn cards_of_other_files_are_said() {
    let world = World::new();
    fs::create_dir_all(world.path("loras")).unwrap();
    fs::copy(OUTSIDE, world.path("loras/k.safetensors")).unwrap();
    world.write("loras/k.toml", format!("sha256 = \"{}\"", "0".repeat(64)));
    let text = said(&world, &["-s1", "-n2", "--size=64x64", "-l", "k", "-o", "a.png", "x"]);
    assert!(text.contains("k.safetensors") && text.contains("k.toml"), "{text}");
    assert_eq!(text.matches("k.toml").count(), 1, "once: {text}");
    let error = world.fail(Fault::File.exit_code().into(), &["lora", "check", "k"]);
    assert!(error.contains("k.toml describes"), "{error}");
    assert!(
        world.run(&["lora", "inspect", "k", "-m", MODEL]).contains("warning: this is not the file")
    );
}

/// `doctor` printed the password of a private mirror.
#[test]
fn doctor_keeps_passwords() {
    let world = World::new();
    for more in [&["doctor"][..], &["doctor", "--json"]] {
        let output = world.command(more).env("HF_ENDPOINT", "http://u:p4ss@h").output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.contains("http://***@h") && !text.contains("p4ss"), "{text}");
    }
    assert!(Path::new(OUTSIDE).exists());
}
