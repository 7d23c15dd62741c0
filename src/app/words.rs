//! Words that a user need not type: those of styles, and those that call a LoRA.

use super::job::Job;
use crate::error::Result;
use crate::lora::{AdapterFile, LoraRef};
use crate::prompt::{extract_tags, pointed, styled};
use crate::store::{Card, Store};
use std::path::Path;

/// What stands for the words of a LoRA in a prompt: `<trigger:NAME>`.
const TAG: &str = "<trigger:";

/// Puts the styles called `names`, one after the other, around the prompts of `job`.
///
/// # Errors
/// As [`Store::style`].
pub fn add_styles(job: &mut Job, names: &[String], store: &Store) -> Result<()> {
    for name in names {
        let style = store.style(name)?;
        let request = &mut job.request;
        request.prompt = styled(&request.prompt, &style.prompt).into_owned();
        request.negative_prompt = styled(&request.negative_prompt, &style.negative).into_owned();
    }
    Ok(())
}

/// Replaces every `<trigger:NAME>` in the prompt of `job` by the words that call the LoRA NAME. Names are looked up in the
/// folders of LoRAs alone: a prompt opens no path and no host.
///
/// # Errors
/// [`Error::BadRequest`](crate::Error::BadRequest) pointing at a LoRA without such words, [`Error::NotFound`](crate::Error::NotFound) for an unknown one.
pub fn add_triggers(job: &mut Job, store: &Store) -> Result<()> {
    let prompt = &job.request.prompt;
    let (mut out, mut at) = (String::with_capacity(prompt.len()), 0);
    while let Some(from) = prompt[at..].find(TAG).map(|place| at + place) {
        let name = &prompt[from + TAG.len()..];
        let Some(length) = name.find(['>', '\n', '<']).filter(|end| name[*end..].starts_with('>'))
        else {
            let why = "this tag has no closing `>`; write <trigger:NAME>";
            return Err(pointed("prompt", prompt, &(from..from + TAG.len()), why));
        };
        let end = from + TAG.len() + length + 1;
        let words = words_of(&store.lora_named(name[..length].trim())?)?;
        if words.is_empty() {
            let why = "this LoRA names no words that call it; write them yourself, or into its card as trigger_words";
            return Err(pointed("prompt", prompt, &(from..end), why));
        }
        out.push_str(&prompt[at..from]);
        out.push_str(&words.join(", "));
        at = end;
    }
    out.push_str(&prompt[at..]);
    job.request.prompt = out;
    Ok(())
}

/// The LoRAs of `job` that are called by words of which none stands in the prompt, each with these words.
pub fn uncalled(job: &Job, store: &Store) -> Vec<(String, Vec<String>)> {
    let request = &job.request;
    let tags = extract_tags(&request.prompt).map(|found| found.tags).unwrap_or_default();
    let tagged = tags.iter().filter_map(|tag| LoraRef::parse_tag(&tag.body).ok());
    let text = request.prompt.to_lowercase();
    let missing = |lora: LoraRef| {
        // What cannot be found or read is named when it is used.
        let words = words_of(&store.lora_named(&lora.name).ok()?).ok()?;
        let is_called = words.iter().any(|word| text.contains(&word.to_lowercase()));
        (!words.is_empty() && !is_called).then_some((lora.name, words))
    };
    request.loras.iter().cloned().chain(tagged).filter_map(missing).collect()
}

/// The words that call a LoRA: those of its card, or the phrase that its trainer wrote down.
fn words_of(path: &Path) -> Result<Vec<String>> {
    let card = Card::of(path)?.unwrap_or_default();
    let filled = |words: Vec<String>| -> Vec<String> {
        words.into_iter().filter(|word| !word.trim().is_empty()).collect()
    };
    let words = filled(card.trigger_words);
    if !words.is_empty() {
        return Ok(words);
    }
    let file = AdapterFile::open(path)?;
    let phrase = file.metadata().get("modelspec.trigger_phrase").cloned();
    Ok(filled(phrase.into_iter().collect()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;
    use crate::pipeline::Request;

    fn job(prompt: &str) -> Job {
        let request = Request {
            prompt: prompt.into(),
            loras: vec![LoraRef::new("ink")],
            ..Request::default()
        };
        Job { request, ..Job::default() }
    }

    /// A store with two LoRAs, of which one has words.
    fn store() -> (tempfile::TempDir, Store) {
        let folder = tempfile::tempdir().unwrap();
        let loras = folder.path().join("loras");
        std::fs::create_dir_all(&loras).unwrap();
        std::fs::create_dir_all(folder.path().join("prompts")).unwrap();
        // An empty file of weights: a header alone.
        for name in ["ink", "plain"] {
            let path = loras.join(format!("{name}.safetensors"));
            std::fs::write(path, [&2u64.to_le_bytes()[..], b"{}"].concat()).unwrap();
        }
        std::fs::write(loras.join("ink.toml"), "trigger_words = [\"ink style\", \"monochrome\"]")
            .unwrap();
        let styles =
            "[style.a]\nprompt = \"A {prompt}\"\nnegative = \"x\"\n[style.b]\nprompt = \"b\"";
        std::fs::write(folder.path().join("prompts/s.toml"), styles).unwrap();
        let home = folder.path().join("home");
        let store = Store::new(&[], folder.path(), &move |_| Some(home.clone().into_os_string()));
        (folder, store)
    }

    #[test]
    fn words_take_the_place_of_the_tag() {
        let (_folder, store) = store();
        let mut filled = job("a fox, <trigger:ink>, b");
        add_triggers(&mut filled, &store).unwrap();
        assert_eq!(filled.request.prompt, "a fox, ink style, monochrome, b");
        for (prompt, part) in [
            ("<trigger:ink", "no closing"),
            ("<trigger:plain>", "no words that call it"),
            ("<trigger:nothing>", "no LoRA named"),
            ("<trigger:../ink>", "no LoRA named"),
        ] {
            let error = add_triggers(&mut job(prompt), &store).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn a_lora_that_is_not_called_is_named() {
        let (_folder, store) = store();
        let missing = uncalled(&job("a fox <lora:plain:1> <lora:nothing:1>"), &store);
        assert_eq!(missing.len(), 1);
        assert_eq!((&*missing[0].0, missing[0].1.len()), ("ink", 2));
        assert!(uncalled(&job("a MONOCHROME fox"), &store).is_empty());
    }

    #[test]
    fn styles_follow_each_other() {
        let (_folder, store) = store();
        let mut styled = job("fox");
        add_styles(&mut styled, &["a".into(), "B".into()], &store).unwrap();
        assert_eq!((&*styled.request.prompt, &*styled.request.negative_prompt), ("A fox, b", "x"));
        assert!(matches!(
            add_styles(&mut styled, &["c".into()], &store),
            Err(Error::NotFound { what: "style", .. })
        ));
    }
}
