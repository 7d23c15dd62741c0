//! Floor 3. What PEFT writes beside its tensors: ranks and alphas by pattern, and switches of the laws.

use crate::error::{Error, Result};
use crate::input;
use crate::weights::CheckpointFile;
use regex::Regex;
use serde_json::{Map, Value};
use std::path::Path;

/// Longest configuration that is read, in bytes.
const MAX_CONFIG: u64 = 4 << 20;
/// Name of the metadata entry in which diffusers keeps the configurations of all components.
pub(super) const METADATA: &str = "lora_adapter_metadata";

/// Components, their classes, and the modules of python in which they are.
pub(super) const CLASSES: [(&str, &str, &str); 3] = [
    ("unet", "UNet2DConditionModel", "diffusers.models.unets.unet_2d_condition"),
    ("text_encoder", "CLIPTextModel", "transformers.models.clip.modeling_clip"),
    ("text_encoder_2", "CLIPTextModelWithProjection", "transformers.models.clip.modeling_clip"),
];

/// The configurations of one adapter, by component.
#[derive(Debug, Clone, Default)]
pub(super) struct Tunings {
    /// Component (`unet`, `text_encoder`; empty for all) and its fields.
    parts: Vec<(String, Map<String, Value>)>,
}

/// What the configuration says of one module.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tuning<'a> {
    fields: &'a Map<String, Value>,
    /// The module's path in the component.
    path: &'a str,
}

impl Tunings {
    /// From the text of an `adapter_config.json`.
    pub(super) fn from_config(path: &Path) -> Result<Self> {
        let text = input::text(path, MAX_CONFIG, "an adapter's configuration")?;
        let fields = serde_json::from_str(&text)
            .map_err(|e| Error::corrupt(path, format!("not the JSON of a PEFT adapter: {e}")))?;
        Ok(Self { parts: vec![(String::new(), fields)] })
    }

    /// From the metadata of a safetensors file; nothing when there is none of that name.
    ///
    /// # Errors
    /// [`Error::Corrupt`] when it cannot be read: without it the scales would be wrong.
    pub(super) fn from_metadata(file: &CheckpointFile) -> Result<Self> {
        let Some(text) = file.metadata().get(METADATA) else { return Ok(Self::default()) };
        let flat: Map<String, Value> = serde_json::from_str(text).map_err(|e| {
            Error::corrupt(
                file.path(),
                format!("its metadata `{METADATA}` is not the JSON of PEFT: {e}"),
            )
        })?;
        let mut parts: Vec<(String, Map<String, Value>)> = Vec::new();
        for (key, value) in flat {
            // A component that was saved by itself does not say which it is.
            let (component, field) = key.split_once('.').unwrap_or(("", &key));
            let at = parts.iter().position(|(name, _)| name == component).unwrap_or_else(|| {
                parts.push((component.to_owned(), Map::new()));
                parts.len() - 1
            });
            let (_, part) = &mut parts[at];
            part.insert(field.to_owned(), value);
        }
        Ok(Self { parts })
    }

    /// The component whose class the configuration names, which paths alone may leave open.
    pub(super) fn component(&self) -> Option<&'static str> {
        let (_, fields) = self.parts.iter().find(|(component, _)| component.is_empty())?;
        let class = fields.get("auto_mapping")?.get("base_model_class")?.as_str()?;
        CLASSES.iter().find(|(_, known, _)| *known == class).map(|(component, ..)| *component)
    }

    /// What is said of the module behind `stem`.
    pub(super) fn of<'a>(&'a self, stem: &'a str) -> Option<Tuning<'a>> {
        self.parts.iter().find_map(|(component, fields)| {
            let path = if component.is_empty() {
                stem
            } else {
                stem.strip_prefix(component.as_str())?.strip_prefix('.')?
            };
            let path = path.strip_prefix("base_model.model.").unwrap_or(path);
            Some(Tuning { fields, path })
        })
    }
}

impl Tuning<'_> {
    /// The alpha of the module, by its own pattern or for all.
    pub(super) fn alpha(&self) -> Option<f32> {
        let pattern = self.pattern("alpha_pattern");
        let all = || self.fields.get("lora_alpha").or_else(|| self.fields.get("alpha"));
        Some(pattern.or_else(all)?.as_f64()? as f32)
    }

    /// The rank of the module, by its own pattern or for all.
    pub(super) fn rank(&self) -> Option<f32> {
        let pattern = self.pattern("rank_pattern");
        Some(pattern.or_else(|| self.fields.get("r"))?.as_f64()? as f32)
    }

    /// Whether alpha is divided by the root of the rank.
    pub(super) fn rank_stabilised(&self) -> bool {
        self.flag("use_rslora", false)
    }

    /// Terms of the truncated Cayley series; `None` for the exact map.
    pub(super) fn cayley_terms(&self) -> Option<usize> {
        let terms = self.fields.get("num_cayley_neumann_terms").and_then(Value::as_u64);
        // More terms than this change nothing in f64, and fewer than 3 are none.
        let terms = usize::try_from(terms.unwrap_or(5)).unwrap_or(5).clamp(3, 64);
        self.flag("use_cayley_neumann", true).then_some(terms)
    }

    /// The tuner: `LORA`, `LOHA`, `LOKR`, `OFT`, `BOFT`, `IA3`.
    pub(super) fn kind(&self) -> Option<&str> {
        self.fields.get("peft_type").and_then(Value::as_str)
    }

    /// Whether IA3 scales this module's inputs.
    pub(super) fn is_feedforward(&self) -> bool {
        match self.fields.get("feedforward_modules") {
            Some(Value::Array(names)) => {
                names.iter().filter_map(Value::as_str).any(|name| self.path.ends_with(name))
            }
            Some(Value::String(pattern)) => {
                Regex::new(&format!("^(?:{pattern})$")).is_ok_and(|re| re.is_match(self.path))
            }
            _ => false,
        }
    }

    fn flag(&self, name: &str, otherwise: bool) -> bool {
        self.fields.get(name).and_then(Value::as_bool).unwrap_or(otherwise)
    }

    /// The value of the first pattern that fits the module, as PEFT matches them.
    fn pattern(&self, field: &str) -> Option<&Value> {
        let patterns = self.fields.get(field)?.as_object()?;
        let fits = |key: &str| {
            if is_plain(key) {
                return ends(self.path, key);
            }
            // Expressions of strangers: this engine takes linear time and bounded memory.
            Regex::new(&format!(r"^(?:.*\.)?(?:{key})$")).is_ok_and(|re| re.is_match(self.path))
        };
        patterns.iter().find_map(|(key, value)| fits(key).then_some(value))
    }
}

/// Whether a pattern means itself, but for dots, which stand for any character.
fn is_plain(pattern: &str) -> bool {
    pattern.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'.')
}

/// Whether the last elements of `path` are `pattern`: what the expression says, without compiling it
/// for every module.
fn ends(path: &str, pattern: &str) -> bool {
    let Some(start) = path.len().checked_sub(pattern.len()) else { return false };
    let (before, tail) = path.as_bytes().split_at(start);
    let same = |(p, t): (u8, &u8)| p == b'.' || p == *t;
    pattern.bytes().zip(tail).rev().all(same) && before.last().is_none_or(|b| *b == b'.')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_of_a_component_that_was_saved_alone() {
        let metadata = |json: serde_json::Value| {
            let data = [0u8; 4];
            let view =
                safetensors::tensor::TensorView::new(safetensors::Dtype::F32, vec![1], &data);
            let notes = std::collections::HashMap::from([(METADATA.to_owned(), json.to_string())]);
            let bytes = safetensors::serialize([("x", view.unwrap())], Some(notes)).unwrap();
            Tunings::from_metadata(&CheckpointFile::from_vec(bytes, "x").unwrap()).unwrap()
        };
        let alone = metadata(serde_json::json!({
            "r": 4, "lora_alpha": 16, "alpha_pattern": {"attn1.to_k": 2}
        }));
        let alpha = |tunings: &Tunings, stem: &str| tunings.of(stem).and_then(|t| t.alpha());
        assert_eq!(alpha(&alone, "mid_block.attn1.to_q"), Some(16.0));
        assert_eq!(alpha(&alone, "mid_block.attn1.to_k"), Some(2.0));
        let named = metadata(serde_json::json!({"unet.r": 4, "unet.lora_alpha": 8}));
        assert_eq!(alpha(&named, "unet.mid_block.attn1.to_q"), Some(8.0));
        assert_eq!(alpha(&named, "text_encoder.x"), None);
    }

    #[test]
    fn plain_patterns_mean_what_the_expression_means() {
        let paths = ["down.0.attn1.to_q", "attn1.to_q", "xattn1.to_q", "attn1xto_q", "to_q", "q"];
        for pattern in ["attn1.to_q", "to_q", "down.0.attn1.to_q", ".to_q", "q"] {
            assert!(is_plain(pattern));
            let re = Regex::new(&format!(r"^(?:.*\.)?(?:{pattern})$")).unwrap();
            for path in paths {
                assert_eq!(ends(path, pattern), re.is_match(path), "{pattern} {path}");
            }
        }
        assert!(!is_plain(r"resnets\.\d+"));
    }
}
