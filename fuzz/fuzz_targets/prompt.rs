#![no_main]
//! Any text as a prompt of every syntax: what A1111's emphasis is read as is written and read again as the same, each
//! schedule ends with the last step, and what stands in a mistake's place is a part of the text. The same text as a template
//! and as a value of a wildcard: what it expands to ends.

use colora::prompt::expand::{Collections, Template};
use colora::prompt::{PromptSyntax, a1111, extract_tags, foreign_syntax, styled};
use libfuzzer_sys::fuzz_target;

const STEPS: usize = 7;

fuzz_target!(|text: &str| {
    let _ = extract_tags(text);
    let _ = styled(text, text);
    for syntax in PromptSyntax::ALL {
        let _ = foreign_syntax(text, &[], syntax);
        let schedule = syntax.schedule(text, STEPS);
        assert_eq!(schedule.last().map(|(end, _)| *end), Some(STEPS));
        for (_, text) in schedule {
            match syntax.segments(&text) {
                Ok(segments) => assert!(segments.iter().all(|segment| segment.weight.is_finite())),
                Err(error) => assert!(text.get(error.span).is_some()),
            }
        }
        let parts = syntax.parts(&syntax.uncommented(text));
        assert!(!parts.is_empty() && parts.iter().all(|part| part.weight.is_finite()));
    }
    if let Ok(segments) = a1111::parse(text) {
        let again = a1111::render(&segments);
        assert_eq!(a1111::parse(&again).as_ref(), Ok(&segments));
    }
    let mut wildcards = Collections::default();
    wildcards.insert("a", [text, "b"]);
    for template in [text, "{2$$__a__|__@a__} __~a__"] {
        match Template::parse(template) {
            Ok(template) => {
                for prompt in
                    template.all(&wildcards).take(3).chain(template.random(&wildcards, 1).take(3))
                {
                    let _ = prompt.map_err(|error| assert!(error.text.get(error.span).is_some()));
                }
            }
            Err(error) => assert!(template.get(error.span).is_some()),
        }
    }
});
