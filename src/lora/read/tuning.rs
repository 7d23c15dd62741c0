//! The settings that PEFT writes beside its tensors: ranks and alphas by pattern, and switches of the laws.

use crate::error::{Error, Result};
use crate::input;
use crate::lora::read::settings;
use crate::weights::{CheckpointFile, Component};
use regex::Regex;
use serde_json::{Map, Value};
use std::path::Path;

/// Longest configuration that is read, in bytes.
const MAX_CONFIG: u64 = 4 << 20;
/// Name of the metadata entry in which diffusers keeps the configurations of all components.
pub(in crate::lora) const METADATA: &str = "lora_adapter_metadata";

/// Components, their classes, and the modules of python in which they are.
pub(in crate::lora) const CLASSES: [(Component, &str, &str); 3] = [
    (Component::UNet, "UNet2DConditionModel", "diffusers.models.unets.unet_2d_condition"),
    (Component::TextEncoder, "CLIPTextModel", "transformers.models.clip.modeling_clip"),
    (
        Component::TextEncoder2,
        "CLIPTextModelWithProjection",
        "transformers.models.clip.modeling_clip",
    ),
];

/// The configurations of one adapter, by component.
#[derive(Debug, Clone, Default)]
pub(in crate::lora) struct Tunings {
    /// Component (`unet`, `text_encoder`; empty for all) and its fields.
    parts: Vec<(String, Map<String, Value>)>,
    /// Settings that are unknown, and taken to be without effect.
    unknown: Vec<String>,
}

/// Alpha where a configuration leaves it out.
const ALPHA: f32 = 8.0;
/// The first rank of AdaLoRA where a configuration leaves it out.
const FIRST_RANK: f32 = 12.0;
/// How far blocks of constrained OFT turn where a configuration leaves it out.
const REACH: f32 = 6e-5;

/// The configuration's settings for one module.
#[derive(Debug, Clone, Copy)]
pub(in crate::lora) struct Tuning<'a> {
    fields: &'a Map<String, Value>,
    /// The module's path in the component.
    path: &'a str,
}

impl Tunings {
    /// Reads the text of an `adapter_config.json`.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for what is not computed; [`Error::Corrupt`] when it cannot be read.
    pub(in crate::lora) fn from_config(path: &Path) -> Result<Self> {
        let text = input::text(path, MAX_CONFIG, "an adapter's configuration")?;
        let fields = serde_json::from_str(&text)
            .map_err(|e| Error::corrupt(path, format!("not the JSON of a PEFT adapter: {e}")))?;
        Self::checked(path, vec![(String::new(), fields)])
    }

    /// The configurations of all components, if every one of them is computed.
    fn checked(path: &Path, parts: Vec<(String, Map<String, Value>)>) -> Result<Self> {
        let mut unknown = Vec::new();
        for (_, fields) in &parts {
            unknown.extend(settings::check(path, fields)?);
        }
        Ok(Self { parts, unknown })
    }

    /// Reads the metadata of a safetensors file; empty when there is none of that name.
    ///
    /// # Errors
    /// [`Error::Corrupt`] when it cannot be read: without it the scales would be wrong;
    /// [`Error::Unsupported`] for what is not computed.
    pub(in crate::lora) fn from_metadata(file: &CheckpointFile) -> Result<Self> {
        let Some(text) = file.metadata().get(METADATA) else { return Ok(Self::default()) };
        let flat: Map<String, Value> = serde_json::from_str(text).map_err(|e| {
            Error::corrupt(
                file.path(),
                format!("its metadata `{METADATA}` is not the JSON of PEFT: {e}"),
            )
        })?;
        let mut parts: Vec<(String, Map<String, Value>)> = Vec::new();
        for (key, value) in flat {
            // A component that was saved by itself does not carry its name.
            let (component, field) = key.split_once('.').unwrap_or(("", &key));
            let at = parts.iter().position(|(name, _)| name == component).unwrap_or_else(|| {
                parts.push((component.to_owned(), Map::new()));
                parts.len() - 1
            });
            let (_, part) = &mut parts[at];
            part.insert(field.to_owned(), value);
        }
        Self::checked(file.path(), parts)
    }

    /// Whether there is no configuration.
    pub(in crate::lora) fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// Settings that are unknown, and taken to be without effect.
    pub(in crate::lora) fn unknown(&self) -> &[String] {
        &self.unknown
    }

    /// The settings that promise whole tensors, with the names of modules: `modules_to_save`,
    /// `trainable_token_indices`.
    pub(in crate::lora) fn promised(&self) -> Vec<(&'static str, &str)> {
        let mut promised = Vec::new();
        for (_, fields) in &self.parts {
            match fields.get("modules_to_save") {
                Some(Value::Array(names)) => promised
                    .extend(names.iter().filter_map(Value::as_str).map(|n| ("modules_to_save", n))),
                Some(Value::String(name)) => promised.push(("modules_to_save", name)),
                _ => {}
            }
            match fields.get("trainable_token_indices") {
                Some(Value::Object(names)) => {
                    promised.extend(names.keys().map(|n| ("trainable_token_indices", n.as_str())));
                }
                Some(Value::Array(_)) => promised.push(("trainable_token_indices", "")),
                _ => {}
            }
        }
        promised
    }

    /// The component whose class the configuration names, which paths alone may leave open.
    pub(in crate::lora) fn component(&self) -> Option<Component> {
        let (_, fields) = self.parts.iter().find(|(component, _)| component.is_empty())?;
        let class = fields.get("auto_mapping")?.get("base_model_class")?.as_str()?;
        CLASSES.iter().find(|(_, known, _)| *known == class).map(|(component, ..)| *component)
    }

    /// The settings for the module behind `stem`.
    pub(in crate::lora) fn of<'a>(&'a self, stem: &'a str) -> Option<Tuning<'a>> {
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
    pub(in crate::lora) fn alpha(&self) -> f32 {
        let pattern = self.pattern("alpha_pattern");
        let all = || self.fields.get("lora_alpha").or_else(|| self.fields.get("alpha"));
        let alpha = pattern.or_else(all).and_then(Value::as_f64);
        alpha.map_or(ALPHA, |alpha| alpha as f32)
    }

    /// The rank of the module, by its own pattern or for all; `None` where there is none.
    pub(in crate::lora) fn rank(&self) -> Option<f32> {
        let pattern = self.pattern("rank_pattern");
        Some(pattern.or_else(|| self.fields.get("r"))?.as_f64()? as f32)
    }

    /// The number by which AdaLoRA's factors of `rank` are multiplied; the error names what contradicts it.
    ///
    /// PEFT divides by the rank at the beginning, however few were left at the end.
    pub(in crate::lora) fn allotted(&self, rank: usize) -> Result<f32, String> {
        let number = |name: &str| self.fields.get(name).and_then(Value::as_f64).map(|n| n as f32);
        let first = number("init_r").unwrap_or(FIRST_RANK);
        let pruned = self.fields.get("rank_pattern").is_some_and(|pattern| !pattern.is_null());
        if rank as f32 > first || rank as f32 != first && !pruned {
            return Err(format!("its rank is {rank}, and init_r says {first}"));
        }
        let alpha = number("lora_alpha").unwrap_or(ALPHA);
        Ok(if alpha > 0.0 { alpha } else { first } / (first + 1e-5))
    }

    /// Blocks outside of which one of the factors is zero (BD-LoRA); 1 for plain factors.
    pub(in crate::lora) fn blocks(&self) -> usize {
        let count =
            self.fields.get("use_bdlora").and_then(|blocks| blocks.get("nblocks")?.as_u64());
        count.and_then(|count| usize::try_from(count).ok()).unwrap_or(1)
    }

    /// Whether every module has a magnitude.
    pub(in crate::lora) fn has_magnitudes(&self) -> bool {
        self.flag("use_dora", false)
    }

    /// Whether the configuration excludes magnitudes for all modules.
    pub(in crate::lora) fn forbids_magnitudes(&self) -> bool {
        !self.flag("use_dora", true)
    }

    /// The rows of a table of tokens that were trained; the error names what is wrong with them.
    pub(in crate::lora) fn tokens(&self) -> Result<Vec<usize>, String> {
        let setting = ["trainable_token_indices", "token_indices"]
            .iter()
            .find_map(|name| self.fields.get(*name).filter(|value| !value.is_null()))
            .ok_or("the configuration does not say of which tokens (trainable_token_indices)")?;
        let rows = match setting {
            Value::Object(tables) => {
                let table = tables.iter().find(|(name, _)| self.path.ends_with(name.as_str()));
                table.map(|(_, rows)| rows).ok_or("trainable_token_indices does not name it")?
            }
            rows => rows,
        };
        let row = |row: &Value| row.as_u64().and_then(|row| usize::try_from(row).ok());
        let rows = rows.as_array().and_then(|rows| rows.iter().map(row).collect());
        rows.ok_or_else(|| "the numbers of its trained tokens are no list of numbers".into())
    }

    /// How far all blocks of constrained OFT together may turn; `None` for free ones.
    pub(in crate::lora) fn reach(&self) -> Option<f32> {
        let reach = self.fields.get("eps").and_then(Value::as_f64);
        self.flag("coft", false).then(|| reach.map_or(REACH, |reach| reach as f32))
    }

    /// Whether alpha is divided by the root of the rank.
    pub(in crate::lora) fn rank_stabilised(&self) -> bool {
        self.flag("use_rslora", false)
    }

    /// Terms of the truncated Cayley series; `None` for the exact map.
    pub(in crate::lora) fn cayley_terms(&self) -> Option<usize> {
        let terms = self.fields.get("num_cayley_neumann_terms").and_then(Value::as_u64);
        // More terms than this change nothing in f64.
        let terms = usize::try_from(terms.unwrap_or(5)).unwrap_or(64).min(64);
        self.flag("use_cayley_neumann", true).then_some(terms)
    }

    /// Whether this is the tuner, in PEFT's capitals: `LOKR`, `ADALORA`.
    pub(in crate::lora) fn is(&self, tuner: &str) -> bool {
        let name = self.fields.get("peft_type").and_then(Value::as_str);
        name.is_some_and(|name| name.eq_ignore_ascii_case(tuner))
    }

    /// The module's path in its component.
    pub(in crate::lora) fn path(&self) -> &str {
        self.path
    }

    /// Whether IA3 scales this module's inputs.
    pub(in crate::lora) fn is_feedforward(&self) -> bool {
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

/// Whether the last elements of `path` are `pattern`: what the expression matches, without compiling it
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
        let alpha = |tunings: &Tunings, stem: &str| tunings.of(stem).map(|t| t.alpha());
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
