//! A1111's text with the hashes that Civitai's reader looks for.

use crate::app::used_files::{UsedFile, UsedFiles};
use crate::picture::Parameters;
use serde_json::{Map, Value};

/// Puts the hashes of `files` into the settings, where A1111 has them; `Hashes` stands last but one, as Civitai asks.
pub(super) fn with_hashes(mut parameters: Parameters, files: &UsedFiles) -> Parameters {
    let mut all = Map::new();
    let short = |file: &UsedFile| Value::from(file.hashes.auto_v2());
    let fields = &mut parameters.fields;
    if let Some(model) = &files.model {
        let place = fields.iter().position(|(name, _)| name == "Model").unwrap_or(fields.len());
        fields.insert(place, ("Model hash".into(), model.hashes.auto_v2().into()));
        all.insert("model".into(), short(model));
    }
    let mut more = Vec::new();
    for (label, kind, list) in
        [("Lora hashes", "lora", &files.loras), ("TI hashes", "embed", &files.embeddings)]
    {
        let pairs: Vec<String> =
            list.iter().map(|file| format!("{}: {}", file.name, file.shown)).collect();
        if !pairs.is_empty() {
            more.push((label.to_owned(), pairs.join(", ")));
        }
        all.extend(list.iter().map(|file| (format!("{kind}:{}", file.name), short(file))));
    }
    if !all.is_empty() {
        more.push(("Hashes".into(), Value::from(all).to_string()));
    }
    let end = fields.len() - usize::from(fields.last().is_some_and(|(name, _)| name == "Version"));
    fields.splice(end..end, more);
    parameters
}
