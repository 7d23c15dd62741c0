//! Any text as a file of jobs in each format: it is read or refused line by line, and what is read makes a list. Never a
//! panic.
#![no_main]

use colora::app::Layers;
use colora::batch::{Format, Seeding, Source, list};
use colora::store::Store;
use libfuzzer_sys::fuzz_target;
use std::path::Path;

fuzz_target!(|text: &str| {
    let home = std::env::temp_dir();
    let store = Store::new(&[], &home, &|_| None);
    for (_, format) in Format::ALL {
        let Ok(source) = Source::parse(Path::new("x"), text, Some(format), true) else { continue };
        let small = source.drafts.iter().all(|draft| draft.repeat.is_none_or(|times| times < 100));
        if small {
            let _ = list(&source.drafts, &Layers::default(), &store, Seeding::default());
        }
    }
});
