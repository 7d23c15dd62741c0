//! The words for what is not wrong enough to stop.

use super::style::{Talk, excerpt};
use crate::app::record::ImageRecord;
use crate::prompt::{PromptSyntax, extract_tags, foreign_syntax};
use crate::store::Store;

/// Most parts of a prompt that a warning names.
const MOST_PARTS: usize = 8;

/// Whether `part` calls a textual inversion that is there.
fn is_call(part: &str, store: &Store) -> bool {
    let Some((_, name)) = part.split_once("embedding:") else { return false };
    let name = name.split([':', ')', '`']).next().unwrap_or_default();
    let bare = [".safetensors", ".pt", ".bin"].iter().find_map(|end| name.strip_suffix(end));
    store.embeddings().iter().any(|entry| entry.name == bare.unwrap_or(name))
}

/// Names the parts of the prompts that are syntax elsewhere and are drawn as they are written.
pub(super) fn of_syntax(
    prompt: &str,
    negative: &str,
    syntax: PromptSyntax,
    store: &Store,
    talk: Talk,
) {
    let tags = extract_tags(prompt).map(|found| found.tags).unwrap_or_default();
    let tags: Vec<_> = tags.into_iter().map(|tag| tag.span).collect();
    let mut parts = foreign_syntax(prompt, &tags, syntax);
    parts.extend(foreign_syntax(negative, &[], syntax));
    parts.retain(|part| syntax != PromptSyntax::Comfy || !is_call(part, store));
    let more = parts.len().saturating_sub(MOST_PARTS);
    let named = parts.iter().take(MOST_PARTS).map(|part| format!("`{}`", excerpt(part)));
    let named = named.collect::<Vec<_>>().join(", ");
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let are = match parts.len() {
        0 => return,
        1 => "is drawn as it is",
        _ => "are drawn as they are",
    };
    let dynamic = |part: &&&str| part.starts_with('{') || part.starts_with("__");
    let why = if parts.iter().all(|part| dynamic(&part)) {
        "--expand random draws one of the options"
    } else {
        "this syntax of other programs is not supported"
    };
    talk.say(&format!("warning: {named}{more} {are} written: {why}"));
}

/// Names LoRAs that are called by words, of which none stands in the prompt.
pub(super) fn of_loras(uncalled: &[(String, Vec<String>)], talk: Talk) {
    for (name, words) in uncalled {
        let words: Vec<String> = words.iter().map(|word| format!("`{}`", excerpt(word))).collect();
        talk.say(&format!(
            "hint: the LoRA {} is called by {}, which the prompt lacks; <trigger:{}> puts it there",
            excerpt(name),
            words.join(" or "),
            excerpt(name)
        ));
    }
}

/// Names the settings of a record that are not followed.
pub(super) fn of_record(record: &ImageRecord, store: Option<&Store>, talk: Talk) {
    let comfy = record.request.prompt_syntax == Some(PromptSyntax::Comfy);
    let called = |name: &&String| comfy && store.is_some_and(|store| is_call(name, store));
    let names = record.ignored.iter().filter(|name| !called(name));
    let names: Vec<String> = names.map(|name| excerpt(name)).collect();
    if !names.is_empty() {
        let names = names.join(", ");
        talk.say(&format!("warning: the picture will differ; not followed: {names}"));
    }
}
