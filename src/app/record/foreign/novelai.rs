//! NovelAI: the prompt as the PNG's description, and JSON under `Comment`; its brackets become A1111's.

use super::json::Json;
use super::settings::{Settings, text};
use super::told::{Refusal, Told};
use crate::picture::Embedded;
use crate::prompt::PromptSyntax;
use serde_json::Value;

/// What a pair of brackets multiplies or divides by.
const STEP: f64 = 1.05;
/// Characters of a number before `::`.
const LONGEST: usize = 8;
/// Keys that change nothing, or only where others say so.
const HARMLESS: [&str; 14] = [
    "request_type",
    "signed_hash",
    "n_samples",
    "version",
    "v4_prompt",
    "v4_negative_prompt",
    "params_version",
    "legacy",
    "legacy_v3_extend",
    "lora_unet_weights",
    "lora_clip_weights",
    "reference_strength",
    "qualityToggle",
    "ucPreset",
];
/// Samplers that go by other names elsewhere.
const NAMES: [(&str, &str); 2] = [("ddim_v3", "ddim"), ("plms", "PLMS")];

/// What its texts say.
pub(super) fn read(texts: &Embedded) -> Option<Result<Told, Refusal>> {
    texts.keyword("Software").filter(|name| *name == "NovelAI")?;
    let comment = texts.keyword("Comment")?;
    let json = match Json::parse(comment) {
        Ok(json) => json,
        Err(refusal) => return Some(Err(refusal)),
    };
    let object = json.object()?;
    let mut settings = Settings::of(object, Told::json("NovelAI", PromptSyntax::A1111));
    settings.prompts("prompt", "uc");
    let caption = |key: &str| Some(object.get(key)?.get("caption")?.clone());
    let base = |caption: &Value| caption.get("base_caption").map(text);
    let prompt = caption("v4_prompt").as_ref().and_then(base);
    let parameters = &mut settings.told.parameters;
    if parameters.prompt.is_empty() {
        let described = || texts.keyword("Description").map(str::to_owned);
        parameters.prompt = prompt.or_else(described).unwrap_or_default();
    }
    parameters.prompt = converted(&parameters.prompt);
    parameters.negative_prompt = converted(&parameters.negative_prompt);
    let people = caption("v4_prompt").and_then(|caption| caption.get("char_captions").cloned());
    if people.as_ref().and_then(Value::as_array).is_some_and(|people| !people.is_empty()) {
        settings.told.ignore("char_captions");
    }
    settings.put("Steps", "steps");
    if let Some(name) = settings.take("sampler") {
        let known = NAMES.iter().find(|(theirs, _)| *theirs == name);
        settings.push("Sampler", known.map_or(&*name, |(_, label)| label));
    }
    settings.drop_as("noise_schedule", &["native"]);
    settings.put("Schedule type", "noise_schedule");
    settings.put("CFG scale", "scale");
    settings.put("Seed", "seed");
    settings.size("width", "height");
    for key in ["cfg_rescale", "uncond_scale", "controlnet_strength"] {
        settings.drop_as(key, &["0", "0.0", "1", "1.0"]);
    }
    settings.drop(&HARMLESS);
    Some(Ok(settings.finish()))
}

/// `text` with A1111's emphasis in the place of `{}`, `[]` and `1.5::…::`, and with its brackets escaped.
fn converted(text: &str) -> String {
    let mut pieces: Vec<(String, f64)> = Vec::new();
    let (mut depth, mut factor) = (0i32, 1.0);
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let mut used = c.len_utf8();
        let open = pieces.last().map_or("", |(text, _)| text);
        match c {
            '{' | ']' => depth += 1,
            '}' | '[' => depth -= 1,
            _ => match weight(rest, open) {
                Some((weight, length)) => {
                    factor = weight;
                    used = length;
                }
                None => add(&mut pieces, c, STEP.powi(depth) * factor),
            },
        }
        rest = &rest[used..];
    }
    pieces.into_iter().map(written).collect()
}

/// The weight that begins at `text` and its length: `1.5::`, or `::`, which ends one.
fn weight(text: &str, before: &str) -> Option<(f64, usize)> {
    if text.starts_with("::") {
        return Some((1.0, 2));
    }
    // A number within a word is none.
    if before.ends_with(|c: char| c.is_alphanumeric() || c == '.') {
        return None;
    }
    let is_part = |byte: &u8| byte.is_ascii_digit() || b"-.".contains(byte);
    let length = text.bytes().take(LONGEST + 1).take_while(is_part).count();
    let number = text.get(..length).filter(|_| length <= LONGEST)?;
    text[length..].starts_with("::").then_some(())?;
    Some((number.parse().ok()?, length + 2))
}

fn add(pieces: &mut Vec<(String, f64)>, c: char, weight: f64) {
    match pieces.last_mut() {
        Some((text, known)) if *known == weight => text.push(c),
        _ => pieces.push((c.to_string(), weight)),
    }
}

/// A piece as A1111 reads it.
fn written((text, weight): (String, f64)) -> String {
    let escape = |c: char| match c {
        '(' | ')' | '[' | ']' | '\\' => format!("\\{c}"),
        c => c.to_string(),
    };
    let text: String = text.chars().map(escape).collect();
    let weight = (weight * 1e4).round() / 1e4;
    if weight == 1.0 || text.trim().is_empty() { text } else { format!("({text}:{weight})") }
}

#[cfg(test)]
mod tests {
    use super::converted;

    #[test]
    fn brackets_become_emphasis() {
        for (theirs, ours) in [
            ("{lighthouse}, dusk", "(lighthouse:1.05), dusk"),
            ("{{a}} b [c]", "(a:1.1025) b (c:0.9524)"),
            ("a (b)", "a \\(b\\)"),
            ("1.5::a, b::, c", "(a, b:1.5), c"),
            ("{1.2::a::} b", "(a:1.26) b"),
            ("v1.5::a", "v1.5a"),
            ("-1::hat::", "(hat:-1)"),
            ("", ""),
            ("}{", ""),
        ] {
            assert_eq!(converted(theirs), ours, "{theirs}");
        }
    }
}
