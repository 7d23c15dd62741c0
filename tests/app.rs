//! The application layer, as a program without a command line uses it.
#![allow(clippy::unwrap_used)]

use colora::Cancel;
use colora::app::{self, Event, Job, Layers, Pool, SaveOptions, Setup, UncheckedRecord, Used};
use std::cell::RefCell;
use std::ffi::OsString;
use std::ops::ControlFlow;
use std::path::Path;

/// Settings and store of a folder in which there is nothing yet.
fn setup(folder: &Path) -> Setup {
    let home = folder.join("home").into_os_string();
    let loras = OsString::from(Path::new(env!("CARGO_MANIFEST_DIR")).join("loras"));
    let env = move |name: &str| match name {
        "XDG_CONFIG_HOME" | "XDG_DATA_HOME" | "HF_HOME" => Some(home.clone()),
        "COLORA_LORA_PATH" => Some(loras.clone()),
        _ => None,
    };
    Setup::load(folder, &env).unwrap()
}

fn job() -> Job {
    let json = r#"{"device": "cpu", "prompt": "a red apple", "steps": 2, "width": 64, "height": 64, "seed": 7,
        "count": 2, "loras": [{"name": "flat", "weight": 0.8}]}"#;
    Job::from_json(json).unwrap()
}

#[test]
fn a_job_becomes_pictures_that_lead_back_to_it() {
    let folder = tempfile::tempdir().unwrap();
    let setup = setup(folder.path());
    let pool = Pool::new(setup.store.clone());
    let save = SaveOptions::new(folder.path().join("out/{seed}"));
    let seen = RefCell::new(Vec::new());
    let observer = |event: &Event<'_>| {
        match event {
            Event::FolderCreated(_) => seen.borrow_mut().push("folder".to_owned()),
            Event::Saved(saved) => seen.borrow_mut().push(format!("saved {}", saved.image.seed)),
            _ => {}
        }
        ControlFlow::Continue(())
    };
    let work = app::run(&pool, &job(), &save, &observer, &Cancel::new()).unwrap();
    assert_eq!(*seen.borrow(), ["folder", "saved 7", "saved 8"]);
    assert_eq!(work.saved, ["7", "8"].map(|seed| folder.path().join(format!("out/{seed}.png"))));

    // The record of the second picture makes that picture again.
    let unchecked = UncheckedRecord::read(&work.saved[1]).unwrap();
    let (checked, beyond) = unchecked.check(&setup.store, Used::ALL, &|_, _| false);
    assert!(beyond.is_empty());
    let mut layers = Layers::of(&setup.settings).unwrap();
    layers.picture(&checked, &work.saved[1]).unwrap();
    let again = Job { device: job().device, ..layers.job().unwrap() };
    assert_eq!((again.request.seed, again.request.count), (Some(8), 1));
    assert_eq!(again.request, work.plan.request_for(1));
    let handed = SaveOptions { hand_over: true, ..SaveOptions::default() };
    let bytes = RefCell::new(Vec::new());
    let observer = |event: &Event<'_>| {
        if let Event::Saved(saved) = event {
            assert_eq!(saved.path, None);
            *bytes.borrow_mut() = saved.bytes.to_vec();
        }
        ControlFlow::Continue(())
    };
    app::run(&pool, &again, &handed, &observer, &Cancel::new()).unwrap();
    assert_eq!(*bytes.borrow(), std::fs::read(&work.saved[1]).unwrap());
}

#[test]
fn an_observer_that_breaks_stops_the_job() {
    let folder = tempfile::tempdir().unwrap();
    let pool = Pool::new(setup(folder.path()).store);
    let save = SaveOptions::new(folder.path().join("{index}.png"));
    let observer = |event: &Event<'_>| match event {
        Event::Saved(_) => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    };
    let error = app::run(&pool, &job(), &save, &observer, &Cancel::new()).unwrap_err();
    assert!(matches!(error, colora::Error::Cancelled));
    assert!(folder.path().join("0.png").exists() && !folder.path().join("1.png").exists());
}

#[test]
fn mistakes_are_found_before_a_model_is_opened() {
    let folder = tempfile::tempdir().unwrap();
    let pool = Pool::new(setup(folder.path()).store);
    let wrong = Job { model: Some("nowhere".into()), ..job() };
    let run = |job: &Job, name: &str| {
        let save = SaveOptions::new(folder.path().join(name));
        app::run(&pool, job, &save, &app::Unobserved, &Cancel::new()).unwrap_err().to_string()
    };
    let steps = colora::Request { steps: Some(0), ..wrong.request.clone() };
    assert!(run(&Job { request: steps, ..wrong.clone() }, "x").starts_with("steps = 0"));
    assert!(run(&wrong, "{sed}").contains("did you mean `seed`"));
    assert!(run(&wrong, "x").contains("no model named `nowhere`"));
}
