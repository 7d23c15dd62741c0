//! The words for what is not wrong enough to stop.

use super::style::{Talk, excerpt};
use crate::app::record::ImageRecord;
use crate::prompt::{extract_tags, foreign_syntax};

/// Most parts of a prompt that a warning names.
const MOST_PARTS: usize = 8;

/// Names the parts of the prompts that are syntax elsewhere and are drawn as they are written.
pub(super) fn of_syntax(prompt: &str, negative: &str, talk: Talk) {
    let tags = extract_tags(prompt).map(|found| found.tags).unwrap_or_default();
    let tags: Vec<_> = tags.into_iter().map(|tag| tag.span).collect();
    let mut parts = foreign_syntax(prompt, &tags);
    parts.extend(foreign_syntax(negative, &[]));
    let more = parts.len().saturating_sub(MOST_PARTS);
    let named = parts.iter().take(MOST_PARTS).map(|part| format!("`{}`", excerpt(part)));
    let named = named.collect::<Vec<_>>().join(", ");
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    match parts.len() {
        0 => {}
        1 => talk.say(&format!(
            "warning: {named} is drawn as it is written: this syntax of other programs is not supported"
        )),
        _ => talk.say(&format!(
            "warning: {named}{more} are drawn as they are written: this syntax of other programs is not supported"
        )),
    }
}

/// Names the settings of a record that are not followed.
pub(super) fn of_record(record: &ImageRecord, talk: Talk) {
    let names: Vec<String> = record.ignored.iter().map(|name| excerpt(name)).collect();
    if !names.is_empty() {
        let names = names.join(", ");
        talk.say(&format!("warning: the picture will differ; not followed: {names}"));
    }
}
