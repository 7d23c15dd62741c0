//! Settings that other programs write as JSON under the name `parameters`: Fooocus, SwarmUI.

use crate::picture::Parameters;
use crate::sampling::{Sampler, Schedule};
use serde_json::{Map, Value};

/// Keys of SwarmUI that change nothing: what is made how often, how its sizes were chosen, its version.
const SWARM_HARMLESS: [&str; 4] = ["images", "aspectratio", "automaticvae", "swarm_version"];
/// Keys of Fooocus that change nothing beside what else is said.
const FOOOCUS_HARMLESS: [&str; 3] = ["base_model_hash", "metadata_scheme", "version"];

/// Why settings in JSON are not read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// They are of a program that is not known, which is described.
    Program(String),
    /// They are no JSON after all.
    Broken(String),
}

/// The settings of `text` when it is JSON and no prompt; in the words of A1111 where it has some.
///
/// # Errors
/// [`Refusal`] for JSON that is not understood, which must not be drawn as words.
pub(super) fn read(text: &str) -> Option<Result<Parameters, Refusal>> {
    let inside = text.trim().strip_prefix('{')?.trim_start();
    let value = serde_json::from_str::<Value>(text.trim());
    match value {
        Ok(Value::Object(object)) => Some(known(&object)),
        // `{red|green} apple` is a prompt; a line of settings says that it is one, whatever it begins with.
        _ if !inside.starts_with('"') || text.contains("\nSteps:") => None,
        Ok(_) => None,
        Err(error) => Some(Err(Refusal::Broken(error.to_string()))),
    }
}

fn known(object: &Map<String, Value>) -> Result<Parameters, Refusal> {
    if let Some(Value::Object(swarm)) = object.get("sui_image_params") {
        return Ok(Settings::of(swarm).swarm());
    }
    let scheme = object.get("metadata_scheme").and_then(Value::as_str);
    let drawn = ["steps", "sampler", "guidance_scale"].iter().any(|key| object.contains_key(*key));
    let prompt = object.get("prompt").is_some_and(Value::is_string);
    if scheme.is_none_or(|scheme| scheme == "fooocus") && prompt && drawn {
        return Ok(Settings::of(object).fooocus());
    }
    let nodes = object.values().any(|value| value.get("class_type").is_some());
    let program = match scheme.or(object.get("software").and_then(Value::as_str)) {
        Some(name) => name.to_owned(),
        None if nodes => "ComfyUI".to_owned(),
        None if object.contains_key("positive_prompt") => "InvokeAI".to_owned(),
        None => {
            let keys: Vec<&str> = object.keys().take(5).map(String::as_str).collect();
            format!("a program that is not known (it begins with {})", keys.join(", "))
        }
    };
    Err(Refusal::Program(program))
}

/// Keys that were not looked at yet, and what was made of the others.
struct Settings {
    rest: Map<String, Value>,
    made: Parameters,
}

impl Settings {
    fn of(object: &Map<String, Value>) -> Self {
        Self { rest: object.clone(), made: Parameters::default() }
    }

    /// The value of `key` as text, once.
    fn take(&mut self, key: &str) -> Option<String> {
        let value = self.rest.remove(key)?;
        Some(text(&value)).filter(|text| !text.is_empty())
    }

    /// Puts the value of `key` under the name `name`.
    fn put(&mut self, name: &str, key: &str) {
        if let Some(value) = self.take(key) {
            self.made.push(name, value);
        }
    }

    /// What both have.
    fn common(&mut self, negative: &str, guidance: &str, model: &str) {
        let prompt = self.take("prompt").unwrap_or_default();
        prompt.trim().clone_into(&mut self.made.prompt);
        let negative = self.take(negative).unwrap_or_default();
        negative.trim().clone_into(&mut self.made.negative_prompt);
        self.put("Steps", "steps");
        // Each of them writes the two together, or neither, in the names of ComfyUI.
        if let Some(name) = self.take("sampler") {
            let known = Sampler::from_comfyui(&name);
            self.made.push("Sampler", known.map_or(name, |known| known.spec().label.to_owned()));
        }
        if let Some(name) = self.take("scheduler") {
            let mut labels = Schedule::ALL.into_iter().flat_map(Schedule::labels);
            let known = labels.find(|label| label.eq_ignore_ascii_case(&name));
            self.made.push("Schedule type", known.map_or(name, str::to_owned));
        }
        self.put("CFG scale", guidance);
        self.put("Seed", "seed");
        self.put("Model", model);
        self.put("VAE", "vae");
    }

    fn fooocus(mut self) -> Parameters {
        let prompts = [("full_prompt", "prompt"), ("full_negative_prompt", "negative_prompt")];
        for (full, key) in prompts {
            let same =
                self.rest.get(full).zip(self.rest.get(key)).is_some_and(|(full, own)| {
                    *full == Value::from(vec![own.clone()]) || full == own
                });
            if same {
                self.rest.remove(full);
            }
        }
        self.common("negative_prompt", "guidance_scale", "base_model");
        if let Some(size) = self.take("resolution") {
            let size = size.trim_matches(['(', ')']).replace(", ", "x");
            self.made.push("Size", size);
        }
        self.put("Clip skip", "clip_skip");
        self.put("Performance", "performance");
        if self.rest.get("refiner_model").is_none_or(|name| text(name).eq_ignore_ascii_case("none"))
        {
            for key in ["refiner_model", "refiner_switch"] {
                self.rest.remove(key);
            }
        }
        let loras = self.rest.get("loras").and_then(Value::as_array).cloned().unwrap_or_default();
        let pair = |lora: &Value| Some((lora.get(0)?.as_str()?.to_owned(), text(lora.get(1)?)));
        let pairs: Vec<(String, String)> = loras.iter().filter_map(pair).collect();
        if pairs.len() == loras.len() && self.tag(&pairs) {
            self.rest.remove("loras");
            // The same again, a key each.
            self.rest.retain(|key, _| !key.starts_with("lora_combined_"));
        }
        self.finish(&FOOOCUS_HARMLESS)
    }

    fn swarm(mut self) -> Parameters {
        self.common("negativeprompt", "cfgscale", "model");
        if let Some((width, height)) = self.take("width").zip(self.take("height")) {
            self.made.push("Size", format!("{width}x{height}"));
        }
        if let Some(layer) = self.take("clipstopatlayer") {
            self.made.push("Clip skip", layer.trim_start_matches('-'));
        }
        let list = |value: Option<&Value>| {
            value.and_then(Value::as_array).map(|list| list.iter().map(text).collect::<Vec<_>>())
        };
        let names = list(self.rest.get("loras")).unwrap_or_default();
        let weights = list(self.rest.get("loraweights")).unwrap_or_default();
        let weights = weights.into_iter().chain(std::iter::repeat_n("1".to_owned(), names.len()));
        let pairs: Vec<(String, String)> = names.into_iter().zip(weights).collect();
        if !pairs.is_empty() && self.tag(&pairs) {
            for key in ["loras", "loraweights"] {
                self.rest.remove(key);
            }
        }
        self.finish(&SWARM_HARMLESS)
    }

    /// Writes LoRAs with their weights as tags behind the prompt, but those that have one; false when a name
    /// cannot stand in a tag or a weight is none.
    fn tag(&mut self, pairs: &[(String, String)]) -> bool {
        let fits = |(name, weight): &(String, String)| {
            !name.contains([':', '<', '>', '\n', '\r']) && weight.parse::<f32>().is_ok()
        };
        if !pairs.iter().all(fits) {
            return false;
        }
        for (name, weight) in pairs.iter().filter(|(name, _)| !name.eq_ignore_ascii_case("none")) {
            if !self.made.prompt.contains(&format!("<lora:{name}:")) {
                self.made.prompt = format!("{} <lora:{name}:{weight}>", self.made.prompt);
            }
        }
        true
    }

    /// Adds what is not followed under its own name.
    fn finish(mut self, harmless: &[&str]) -> Parameters {
        for (key, value) in std::mem::take(&mut self.rest) {
            let value = text(&value);
            let empty = ["", "[]", "{}", "''"].contains(&value.as_str());
            if !empty && !harmless.contains(&key.as_str()) {
                self.made.push(key, value);
            }
        }
        self.made
    }
}

/// A value as text; nothing for null.
fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(text: &str) -> (String, Vec<(String, String)>) {
        let made = read(text).unwrap().unwrap();
        (made.prompt, made.fields)
    }

    #[test]
    fn loras_become_tags_once() {
        let fooocus = r#"{"prompt": "a cat", "negative_prompt": "", "steps": 30, "styles": "[]",
            "loras": [["ink", 0.5, "0011"], ["None", 1.0, ""]], "lora_combined_1": "ink : 0.5",
            "full_prompt": ["a cat"], "sharpness": 2, "metadata_scheme": "fooocus", "refiner_model": "None", "refiner_switch": 0.5}"#;
        let (prompt, found) = fields(fooocus);
        assert_eq!(prompt, "a cat <lora:ink:0.5>");
        let found: Vec<(&str, &str)> =
            found.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        assert_eq!(found, [("Steps", "30"), ("sharpness", "2")]);
        let swarm = r#"{"sui_image_params": {"prompt": "a cat <lora:ink:0.8>", "loras": ["ink", "oil"],
            "loraweights": ["0.8", "0.3"], "steps": "20", "clipstopatlayer": -2}, "sui_models": []}"#;
        let (prompt, found) = fields(swarm);
        assert_eq!(prompt, "a cat <lora:ink:0.8> <lora:oil:0.3>");
        assert_eq!(found[1], ("Clip skip".to_owned(), "2".to_owned()));
        let odd = r#"{"prompt": "x", "steps": 3, "loras": [["a:b", 0.5]]}"#;
        assert_eq!(fields(odd).1[1].0, "loras", "not followed, so named");
    }

    #[test]
    fn other_json_is_refused_by_name() {
        let refused = |text: &str| read(text).unwrap().unwrap_err();
        for (text, name) in [
            (r#"{"3": {"class_type": "KSampler"}}"#, "ComfyUI"),
            (r#"{"positive_prompt": "x", "steps": 3}"#, "InvokeAI"),
            (r#"{"prompt": "x", "metadata_scheme": "other"}"#, "other"),
            (r#"{"a": 1, "b": 2}"#, "it begins with a, b"),
            ("{}", "not known"),
        ] {
            let Refusal::Program(program) = refused(text) else { panic!("{text}") };
            assert!(program.contains(name), "{program}");
        }
        assert!(matches!(refused(r#"{"prompt": "x""#), Refusal::Broken(_)));
        assert!(matches!(refused(r#"{"prompt": NaN}"#), Refusal::Broken(_)));
        for prompt in ["{red|green} apple", "a {\"b\"}", "[1]", "", "{\"a\"|b}\nSteps: 3"] {
            assert_eq!(read(prompt), None, "{prompt}");
        }
    }
}
