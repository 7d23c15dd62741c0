#![no_main]
//! Any text as settings: parsing must never panic, and what was parsed renders to itself.

use colora::picture::Parameters;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let parsed = Parameters::parse(text);
    assert_eq!(Parameters::parse(&parsed.render()), parsed);
});
