//! Any text as a file of jobs in every format: no panic, every line that asks for something comes to a job or a mistake,
//! and the jobs come to a list or to mistakes.
#![no_main]

use colora::app::Layers;
use colora::batch::{Format, Seeding, Source, list};
use colora::store::Store;
use libfuzzer_sys::fuzz_target;
use std::path::Path;
use std::sync::LazyLock;

/// A store without models and LoRAs.
static STORE: LazyLock<Store> =
    LazyLock::new(|| Store::new(&[], Path::new("/nonexistent"), &|_| Some("/nonexistent".into())));

fuzz_target!(|text: &str| {
    for (_, format) in Format::ALL {
        let Ok(source) = Source::parse(Path::new("fuzz"), text, Some(format), true) else { continue };
        let said = source.drafts.len() + source.mistakes.len();
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        match format {
            Format::Text => {
                assert_eq!(said, lines.filter(|line| !line.starts_with('#')).count());
            }
            Format::Jsonl => assert_eq!(said, lines.count()),
            _ => {}
        }
        let seeding = Seeding { most: Some(1000), ..Seeding::default() };
        let (jobs, mistakes) = list(&source.drafts, &Layers::default(), &STORE, seeding);
        assert!(source.drafts.is_empty() || !jobs.is_empty() || !mistakes.is_empty());
        assert!(jobs.iter().all(|listed| listed.job.request.count == 1));
    }
});
