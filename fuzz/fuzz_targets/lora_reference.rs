#![no_main]
//! Any text as a prompt with tags and as a LoRA reference: reading must never panic, and what was
//! read is written as something that reads the same.

use colora::lora::LoraRef;
use colora::prompt::{extract_tags, underlined};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    for read in [LoraRef::parse_flag(text), LoraRef::parse_tag(text)].into_iter().flatten() {
        assert_eq!(LoraRef::parse_flag(&read.to_string()).expect("written by colora"), read);
    }
    match extract_tags(text) {
        Ok(found) => {
            for tag in found.tags {
                assert!(text[tag.span].contains(&tag.body));
                let _ = LoraRef::parse_tag(&tag.body);
            }
        }
        Err(error) => assert!(underlined(text, &error.span).contains('^')),
    }
});
