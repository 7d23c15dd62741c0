#![no_main]
//! Any text as a prompt of every syntax: what A1111's emphasis is read as is written and read again as the same, and each
//! schedule ends with the last step.

use colora::prompt::{PromptSyntax, a1111, extract_tags, foreign_syntax};
use libfuzzer_sys::fuzz_target;

const STEPS: usize = 7;

fuzz_target!(|text: &str| {
    let _ = extract_tags(text);
    for syntax in PromptSyntax::ALL {
        let _ = foreign_syntax(text, &[], syntax);
        let schedule = syntax.schedule(text, STEPS);
        assert_eq!(schedule.last().map(|(end, _)| *end), Some(STEPS));
        for (_, text) in schedule {
            if let Ok(segments) = syntax.segments(&text) {
                assert!(segments.iter().all(|segment| segment.weight.is_finite()));
            }
        }
    }
    if let Ok(segments) = a1111::parse(text) {
        let again = a1111::render(&segments);
        assert_eq!(a1111::parse(&again).as_ref(), Ok(&segments));
    }
});
