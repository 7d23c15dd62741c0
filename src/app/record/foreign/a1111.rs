//! A1111 and what writes as it does: Forge, reForge, and with words of their own SD.Next, sd.cpp and Fooocus.

use super::told::Told;
use super::{fooocus, sd_cpp, sd_next};
use crate::app::named_hash::{NamedHash, Subject};
use crate::app::record::labels::{Layout, ours};
use crate::picture::Parameters;
use crate::prompt::PromptSyntax;
use serde_json::Value;

/// What a text in lines says.
pub(super) fn read(text: &str) -> Told {
    let parameters = Parameters::parse(text);
    // Of colora's own pictures only those with another syntax than plain text name it.
    let syntax = if ours(&parameters) { PromptSyntax::Plain } else { PromptSyntax::A1111 };
    let program = program(&parameters);
    let mut told = Told { layout: Layout::Lines, parameters, ..Told::json(program, syntax) };
    hashes(&mut told);
    match program {
        "SD.Next" => sd_next::read(&mut told),
        "stable-diffusion.cpp" => sd_cpp::read(&mut told),
        "Fooocus" => fooocus::read_lines(&mut told),
        _ => {}
    }
    told
}

/// Who wrote the settings, by what they say of it.
fn program(parameters: &Parameters) -> &'static str {
    let version = parameters.get("Version").unwrap_or_default();
    match version {
        _ if ours(parameters) => "colora",
        _ if parameters.get("App") == Some("SD.Next") => "SD.Next",
        _ if version.starts_with("stable-diffusion.cpp") => "stable-diffusion.cpp",
        _ if version.starts_with("Fooocus") => "Fooocus",
        // `f2.0.1v1.10.1-previous-…`
        _ if version.starts_with('f') && version.contains('v') => "Forge",
        _ => "AUTOMATIC1111",
    }
}

/// The hashes of the model and of all that is named beside it.
fn hashes(told: &mut Told) {
    let get = |name: &str| told.parameters.get(name).map(str::to_owned);
    let mut found = Vec::new();
    if let Some(hash) = get("Model hash") {
        let name = get("Model").unwrap_or_default();
        found.push(NamedHash::new(Subject::Model, name, &hash));
    }
    for (label, subject) in [("Lora hashes", Subject::Lora), ("TI hashes", Subject::Embedding)] {
        let list = get(label).unwrap_or_default();
        for pair in list.split(',') {
            if let Some((name, hash)) = pair.rsplit_once(':') {
                found.push(NamedHash::new(subject, name.trim(), hash));
            }
        }
    }
    let more = get("Hashes").and_then(|text| serde_json::from_str::<Value>(&text).ok());
    for (key, hash) in more.as_ref().and_then(Value::as_object).into_iter().flatten() {
        let subject = match key.split_once(':') {
            Some(("lora", name)) => Some((Subject::Lora, name.to_owned())),
            Some(("embed", name)) => Some((Subject::Embedding, name.to_owned())),
            None if key == "model" => Some((Subject::Model, get("Model").unwrap_or_default())),
            _ => None,
        };
        if let Some(((subject, name), hash)) = subject.zip(hash.as_str()) {
            found.push(NamedHash::new(subject, name, hash));
        }
    }
    found.dedup();
    told.hashes.extend(found.into_iter().filter(NamedHash::is_usable));
}
