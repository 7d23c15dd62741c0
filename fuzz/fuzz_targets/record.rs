//! Any text in any place of a picture file: it is read as the record of some program, or refused. Never a panic, and no
//! file is opened.
#![no_main]

use colora::app::record;
use colora::picture::{Embedded, Place};
use libfuzzer_sys::fuzz_target;

const KEYWORDS: [&str; 8] = [
    "parameters",
    "prompt",
    "workflow",
    "invokeai_metadata",
    "sd-metadata",
    "Dream",
    "Comment",
    "Description",
];

fuzz_target!(|input: (u8, &str, u8, &str)| {
    let (first, one, second, two) = input;
    let place = |number: u8| match usize::from(number) % (KEYWORDS.len() + 4) {
        0 => Place::UserComment,
        1 => Place::Xmp,
        2 => Place::Colora,
        3 => Place::Model,
        n => Place::Keyword(KEYWORDS[n - 4].to_owned()),
    };
    let mut texts = vec![(place(first), one.to_owned()), (place(second), two.to_owned())];
    if first > 127 {
        texts.push((Place::Keyword("Software".into()), "NovelAI".into()));
    }
    if let Some(Ok(found)) = record::read_texts(&Embedded::of(texts)) {
        let _ = found.made_with();
        let _ = colora::prompt::extract_tags(&found.request.prompt);
    }
});
