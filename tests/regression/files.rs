//! Files that are written: kills, full disks, two writers, devices and pipes, names that are no text, outputs
//! of several files.

use crate::world::{MODEL, World, failed, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

const ZOO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/zoo/good/sd15-kohya.safetensors");
const ZOO_XL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/zoo/good/sdxl-comfy.safetensors");
const XL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens/sdxl");

/// All names in a folder, sorted.
fn names(folder: &Path) -> Vec<String> {
    let items = fs::read_dir(folder).unwrap();
    let mut names: Vec<String> =
        items.map(|item| item.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// Names and contents of all files below a folder.
fn contents(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut all = Vec::new();
    for name in names(folder) {
        let path = folder.join(name);
        if path.is_dir() {
            all.extend(contents(&path));
        } else {
            all.push((path.clone(), fs::read(&path).unwrap_or_default()));
        }
    }
    all
}

/// Says that it writes, and waits in the middle of a file: what the next test kills.
#[test]
#[ignore = "the helper of the next test"]
fn helper_that_writes_for_ever() {
    use colora::lora::write::{Entry, FileDtype, Metadata, save};
    let Some(path) = std::env::var_os("COLORA_TEST_WRITES") else { return };
    let values = || {
        println!("writing");
        std::thread::sleep(std::time::Duration::from_secs(600));
        Ok(vec![0.0])
    };
    let first = Entry::values(vec![1 << 20], FileDtype::F32, &vec![1.0; 1 << 20]).unwrap();
    let second = Entry::lazy(vec![1], FileDtype::F32, values);
    let tensors = [("a".to_owned(), first), ("b".to_owned(), second)].into();
    let cancel = colora::Cancel::new();
    save(path.as_ref(), &tensors, &Metadata::new(), true, &cancel).unwrap();
}

/// Every `kill -9` in the middle of a file left a hidden one, which nothing cleared.
#[test]
#[cfg(target_os = "linux")]
fn a_killed_writer_leaves_nothing() {
    use std::io::{BufRead, BufReader};
    use std::os::unix::fs::OpenOptionsExt;
    let world = World::new();
    world.write("x.safetensors", "old");
    let mut probe = fs::OpenOptions::new();
    if probe.write(true).custom_flags(libc::O_TMPFILE).open(world.path(".")).is_err() {
        println!("skipped: this file system makes no files without names");
        return;
    }
    let mut child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "files::helper_that_writes_for_ever", "--ignored", "--nocapture"])
        .env("COLORA_TEST_WRITES", world.path("x.safetensors"))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("writing")));
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(names(&world.path(".")), ["x.safetensors"]);
    assert_eq!(fs::read(world.path("x.safetensors")).unwrap(), b"old");
}

/// Where names are needed, the next writer clears what is a day old.
#[test]
fn old_leftovers_are_cleared() {
    let world = World::new();
    for name in [".colora-1.part", ".colora-2.part"] {
        world.write(name, "half");
    }
    let old = fs::OpenOptions::new().write(true).open(world.path(".colora-1.part")).unwrap();
    let week = std::time::Duration::from_secs(7 * 24 * 60 * 60);
    old.set_modified(std::time::SystemTime::now() - week).unwrap();
    drop(old);
    world.run(&["-s1", "-o", "x.png", "x"]);
    assert_eq!(world.files(), [".colora-2.part", "x.png"]);
}

/// The second of two runs with one name worked to the end and threw its picture away.
#[test]
fn two_writers_to_one_name_lose_nothing() {
    use std::io::{BufRead, BufReader, Read};
    let world = World::new();
    let slow = ["--progress", "json", "-s150", "-S1", "-o", "x.png", "slow"];
    let mut child =
        world.process(&slow).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    assert!(lines.by_ref().any(|line| line.unwrap().contains("\"step\":1,")));
    assert_eq!(world.run(&["-s1", "-o", "x.png", "quick"]), "x.png\n");
    let said: Vec<String> = lines.map(Result::unwrap).collect();
    assert!(child.wait().unwrap().success(), "{said:?}");
    let mut out = String::new();
    child.stdout.take().unwrap().read_to_string(&mut out).unwrap();
    assert_eq!(out, "x-2.png\n");
    assert!(said.iter().any(|line| line.contains("taken meanwhile") && line.contains("x-2.png")));
    assert!(world.run(&["inspect", "x.png"]).starts_with("quick"));
    assert!(world.run(&["inspect", "x-2.png"]).starts_with("slow"));
    assert!(world.fail(2, &["-s999", "-o", "x.png", "x"]).contains("exists already"));
}

/// Device files got `.png` behind their names, and `--force` put files in the place of pipes.
#[test]
#[cfg(unix)]
fn pictures_go_through_pipes_and_devices() {
    use std::os::unix::fs::{FileTypeExt, symlink};
    let world = World::new();
    let draw = |to: &str| world.command(&["-s1", "-S1", "-o", to, "x"]).output().unwrap();
    let plain = draw("-").stdout;
    assert!(plain.starts_with(b"\x89PNG"));
    symlink("/dev/stdout", world.path("out")).unwrap();
    for name in ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", "out"] {
        let drawn = draw(name);
        assert!(drawn.status.success() && drawn.stdout == plain, "{name}");
    }
    let file = fs::File::create(world.path("redirected.png")).unwrap();
    let redirected = ["-s1", "-S1", "-o", "/dev/stdout", "--force", "x"];
    assert!(world.process(&redirected).stdout(file).status().unwrap().success());
    assert_eq!(fs::read(world.path("redirected.png")).unwrap(), plain);
    for arguments in [["-n2", "x"], ["--json", "x"], ["--preview=1", "x"]] {
        let all = [&["-s1", "-o", "/dev/stdout"], &arguments[..]].concat();
        assert!(world.fail(2, &all).contains("output = /dev/stdout"), "{all:?}");
    }
    symlink("/dev/null", world.path("null")).unwrap();
    for name in ["/dev/null", "null"] {
        let many = world.run(&["-s1", "-n2", "--force", "-o", name, "x"]);
        assert_eq!(many, format!("{name}\n{name}\n"));
    }
    assert!(world.path("null").is_symlink());
    assert!(Path::new("/dev/null").metadata().unwrap().file_type().is_char_device());
    if Path::new("/dev/full").exists() {
        assert!(world.fail(6, &["-s1", "-o", "/dev/full", "x"]).contains("write /dev/full"));
    }
    let made = std::process::Command::new("mkfifo").arg(world.path("pipe")).status().unwrap();
    assert!(made.success());
    let mut cat = std::process::Command::new("cat");
    let reader = cat.arg(world.path("pipe")).stdout(Stdio::piped()).spawn().unwrap();
    assert_eq!(world.run(&["-s1", "-S1", "--force", "-o", "pipe", "x"]), "pipe\n");
    assert_eq!(reader.wait_with_output().unwrap().stdout, plain);
    assert!(world.path("pipe").metadata().unwrap().file_type().is_fifo());
    let _socket = std::os::unix::net::UnixListener::bind(world.path("socket")).unwrap();
    symlink("socket", world.path("socket.png")).unwrap();
    let error = world.fail(2, &["-s1", "--force", "-o", "socket.png", "x"]);
    assert!(error.contains("this is a socket"), "{error}");
    // A link that leads nowhere is found before the work, not after it.
    symlink("nowhere", world.path("d.png")).unwrap();
    assert!(world.fail(2, &["-s999", "-o", "d.png", "x"]).contains("exists already"));
    world.run(&["-s1", "--force", "-o", "d.png", "x"]);
    assert!(world.path("d.png").metadata().unwrap().is_file());
    assert!(!world.path("d.png").is_symlink() && !world.path("nowhere").exists());
}

/// The same for the verbs that write weights and settings.
#[test]
#[cfg(unix)]
fn weights_and_settings_go_through_devices_or_are_refused() {
    let world = World::new();
    let convert = |to: &'static str, more: &[&'static str]| {
        [&["lora", "convert", ZOO, "--to", "kohya", "-o", to], more].concat()
    };
    let quantise = ["model", "convert", MODEL, "--quantize", "q8_0", "-o", "/dev/null"];
    for arguments in
        [convert("/dev/null", &[]), convert("/dev/null", &["--force"]), quantise.into()]
    {
        assert_eq!(world.run(&arguments), "/dev/null\n");
    }
    if Path::new("/dev/full").exists() {
        assert!(world.fail(6, &convert("/dev/full", &[])).contains("cannot write /dev/full"));
    }
    for to in ["-", "/dev/stdout", "/proc/self/fd/1"] {
        assert!(world.fail(2, &convert(to, &["--force"])).contains("stdout"), "{to}");
    }
    fs::create_dir(world.path("folder")).unwrap();
    assert!(world.fail(2, &convert("folder", &["--force"])).contains("this is a folder"));
    let peft = ["lora", "convert", ZOO, "--to", "peft", "--component", "unet", "-o", "/dev/null"];
    assert!(world.fail(2, &peft).contains("expected a folder"));
    let merge = ["lora", "merge", ZOO, "--checkpoint", "-o", "/dev/null", "--force"];
    assert!(world.fail(2, &merge).contains("a pipe or a device"));
    std::os::unix::fs::symlink("/dev/null", world.path("colora.toml")).unwrap();
    assert_eq!(world.files(), ["colora.toml", "folder"]);
}

/// Runs the program with arguments of any bytes.
#[cfg(target_os = "linux")]
fn raw(world: &World, arguments: &[&[u8]], variables: &[(&str, &[u8])]) -> std::process::Output {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let mut process = world.process(&[]);
    process.args(arguments.iter().map(|bytes| OsStr::from_bytes(bytes)));
    process.envs(variables.iter().map(|(name, value)| (name, OsStr::from_bytes(value))));
    process.output().unwrap()
}

/// As [`raw`], to success; gives stdout.
#[cfg(target_os = "linux")]
fn raw_run(world: &World, arguments: &[&[u8]], variables: &[(&str, &[u8])]) -> Vec<u8> {
    let output = raw(world, arguments, variables);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {text}");
    output.stdout
}

/// Names that are no UTF-8 were refused, not listed, or ended with an internal error.
#[test]
#[cfg(target_os = "linux")]
fn names_that_are_no_text_work_everywhere() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let world = World::new();
    let path = |name: &[u8]| world.path(".").join(OsStr::from_bytes(name));
    fs::create_dir_all(path(b"l\xff")).unwrap();
    fs::copy(ZOO, path(b"l\xff/i\xfe.safetensors")).unwrap();
    fs::create_dir_all(path(b"m\xff")).unwrap();
    let model = Path::new(MODEL).parent().unwrap().join("single");
    let single = fs::read_dir(model).unwrap().map(|item| item.unwrap().path());
    let single = single.into_iter().find(|p| p.ends_with("sd15.safetensors"));
    // Pictures: names, templates, folders.
    let out = raw_run(&world, &[b"-s1", b"-o", b"\xff.png", b"x"], &[]);
    assert_eq!((out.as_slice(), path(b"\xff.png").is_file()), (&b"\xff.png\n"[..], true));
    let out = raw_run(&world, &[b"-s1", b"-S7", b"-o", b"d\xff/{seed}\xfe", b"x"], &[]);
    assert_eq!(
        (out.as_slice(), path(b"d\xff/7\xfe.png").is_file()),
        (&b"d\xff/7\xfe.png\n"[..], true)
    );
    let out = raw_run(&world, &[b"--json", b"-s1", b"-o", b"j\xff.png", b"x"], &[]);
    let value = json(std::str::from_utf8(&out).unwrap());
    assert_eq!(value["path"], "j\u{fffd}.png");
    raw_run(&world, &[b"inspect", b"\xff.png"], &[]);
    raw_run(&world, &[b"inspect", b"--json", b"\xff.png"], &[]);
    // LoRAs: by path, by name, listed, in variables; a picture that names one is made again.
    let folders = [("COLORA_LORA_PATH", &b"l\xff"[..])];
    let by_path = &b"l\xff/i\xfe.safetensors"[..];
    raw_run(&world, &[b"-s1", b"-S1", b"-l", by_path, b"-o", b"a.png", b"x"], &[]);
    raw_run(&world, &[b"-s1", b"-S1", b"-l", b"i\xfe:1", b"-o", b"b.png", b"x"], &folders);
    raw_run(&world, &[b"--from", b"a.png", b"-o", b"c.png"], &[]);
    assert_eq!(world.pixels("a.png"), world.pixels("b.png"));
    assert_eq!(world.pixels("a.png"), world.pixels("c.png"));
    let list = raw_run(&world, &[b"lora", b"list"], &folders);
    assert!(String::from_utf8(list).unwrap().contains("i\u{fffd}"));
    raw_run(&world, &[b"lora", b"list", b"--json"], &folders);
    for verb in [&b"inspect"[..], b"check"] {
        raw_run(&world, &[b"lora", verb, b"--json", by_path, b"-m", MODEL.as_bytes()], &[]);
    }
    raw_run(&world, &[b"config", b"show", b"--json"], &folders);
    raw_run(&world, &[b"doctor", b"--json"], &folders);
    let to = &b"k\xff.safetensors"[..];
    let out = raw_run(&world, &[b"lora", b"convert", by_path, b"--to", b"kohya", b"-o", to], &[]);
    assert_eq!((out, path(to).is_file()), ([to, b"\n"].concat(), true));
    raw_run(&world, &[b"lora", b"add", by_path, b"--to", b"t\xff"], &[]);
    // Models.
    if let Some(single) = single {
        fs::copy(single, path(b"m\xff/s\xfe.safetensors")).unwrap();
        std::os::unix::fs::symlink(MODEL, path(b"m\xff/s\xfe.config")).unwrap();
        let model = &b"m\xff/s\xfe.safetensors"[..];
        let folders = [("COLORA_MODELS", &b"m\xff"[..])];
        let list = raw_run(&world, &[b"model", b"list", b"--json"], &folders);
        assert!(String::from_utf8(list).unwrap().contains("s\u{fffd}"));
        for name in [model, b"s\xfe"] {
            raw_run(&world, &[b"model", b"inspect", name, b"--json"], &folders);
        }
        raw_run(&world, &[b"model", b"inspect"], &[("COLORA_MODEL", model)]);
    }
    // What is not there is named.
    let missing = raw(&world, &[b"-m", b"./n\xff.safetensors", b"x"], &[]);
    assert!(failed(&missing, 4).contains("n\u{fffd}.safetensors"));
}

/// The model at `name` merged with a LoRA that fits it.
fn merge<'a>(model: &'a str, lora: &'a str, to: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["lora", "merge", lora, "--checkpoint", "-m", model, "-o", to], more].concat()
}

/// A merge over the merge of another family mixed the settings of both; nothing could be opened any more.
#[test]
fn a_model_and_its_settings_are_replaced_together() {
    let world = World::new();
    world.run(&merge(XL, ZOO_XL, "q.safetensors", &[]));
    world.run(&merge(MODEL, ZOO, "fresh.safetensors", &[]));
    let other = contents(&world.path("q.config"));
    assert!(other.iter().any(|(path, _)| path.ends_with("text_encoder_2/config.json")));
    assert!(world.fail(2, &merge(MODEL, ZOO, "q.safetensors", &[])).contains("exists already"));
    // Somebody else's file: nothing changes.
    for name in ["q.config/notes.md", "q.config/unet/mine.safetensors"] {
        world.write(name, "precious");
        let before = contents(&world.path("."));
        let error = world.fail(2, &merge(MODEL, ZOO, "q.safetensors", &["--force"]));
        assert!(error.contains(name) && error.contains("would be lost"), "{error}");
        assert_eq!(contents(&world.path(".")), before);
        fs::remove_file(world.path(name)).unwrap();
    }
    world.run(&merge(MODEL, ZOO, "q.safetensors", &["--force"]));
    for name in ["q", "fresh"] {
        let (model, to) = (format!("{name}.safetensors"), format!("{name}.png"));
        world.run(&["-m", &model, "-s1", "-S1", "-o", &to, "x"]);
    }
    assert_eq!(world.pixels("q.png"), world.pixels("fresh.png"));
    let left = ["fresh.config", "fresh.png", "fresh.safetensors", "q.config", "q.png"];
    assert_eq!(world.files(), [&left[..], &["q.safetensors"]].concat());
    // A file where the folder should be.
    world.write("f.config", "a file");
    let error = world.fail(2, &merge(MODEL, ZOO, "f.safetensors", &["--force"]));
    assert!(error.contains("f.config: this is a file"), "{error}");
    assert!(!world.path("f.safetensors").exists());
}

/// On a full disk an old pair stays, whichever of the two does not fit.
#[test]
#[cfg(target_os = "linux")]
fn a_full_disk_blames_the_target_and_changes_nothing() {
    let world = World::new();
    world.run(&["lora", "add", ZOO, "--name", "ink", "--title", "Old", "--to", "loras"]);
    world.run(&merge(MODEL, ZOO, "q.safetensors", &[]));
    let before = contents(&world.path("."));
    let program = env!("CARGO_BIN_EXE_colora");
    let limited = |arguments: &str| {
        // A limit of files' sizes is what a full disk is to a writer.
        let script = format!("ulimit -f 8; trap '' XFSZ; exec {program} {arguments}");
        let mut shell = std::process::Command::new("sh");
        failed(&shell.args(["-c", &script]).current_dir(world.path(".")).output().unwrap(), 6)
    };
    let error = limited(&format!("lora add {ZOO} --name ink --to loras --title New --force"));
    assert!(error.contains("cannot write loras/ink.safetensors"), "{error}");
    let error = limited(&merge(MODEL, ZOO, "q.safetensors", &["--force"]).join(" "));
    assert!(error.contains("cannot write q.safetensors"), "{error}");
    let peft = format!("lora convert {ZOO} -m {MODEL} --to peft --component unet -o peft");
    assert!(limited(&peft).contains("cannot write peft/adapter_model.safetensors"));
    fs::remove_dir(world.path("peft")).unwrap();
    assert_eq!(contents(&world.path(".")), before);
}
