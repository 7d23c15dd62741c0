//! JSON of a model's parts: errors name the file and the field that is amiss.

use crate::error::{Error, Result};
use crate::hint::Hint;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use std::path::Path;

/// The config that `text`, of the file `path`, holds.
///
/// # Errors
/// [`Error::Corrupt`]; [`Error::Unsupported`] for a word that is not known.
pub(super) fn read<T: DeserializeOwned>(text: &str, path: &Path) -> Result<T> {
    // Python writes numbers that JSON does not have ("lambda_min_clipped": -Infinity).
    let text = text.replace("-Infinity", "null").replace("Infinity", "null");
    let text = text.replace(": NaN", ": null");
    // A list would be taken for the fields in their order.
    if text.trim_start().starts_with('[') {
        return Err(Error::corrupt(
            path,
            "not the expected JSON: this is a list, expected an object",
        ));
    }
    serde_json::from_str(&text).map_err(|error| misread::<T>(&text, &error, path))
}

/// Says which field is amiss: a config whose fields may all be absent is read field by field.
fn misread<T: DeserializeOwned>(text: &str, error: &serde_json::Error, path: &Path) -> Error {
    let alone = |fields: Map<String, Value>| serde_json::from_value::<T>(Value::Object(fields));
    let fields: Map<String, Value> = serde_json::from_str(text).unwrap_or_default();
    if alone(Map::new()).is_ok() {
        for (field, value) in fields {
            let wrong = alone(Map::from_iter([(field.clone(), value.clone())])).err();
            let Some(wrong) = wrong.map(|e| e.to_string()) else { continue };
            if let (Value::String(word), true) = (&value, wrong.starts_with("unknown variant")) {
                let known = wrong.split_once("expected ").map_or("", |(_, known)| known);
                let what = format!("a config with {field} = {}", word.escape_debug());
                return Error::unsupported(what, format!("expected {known}")).at(path);
            }
            return Error::corrupt(path, format!("`{}`: {wrong}", field.escape_debug()));
        }
    }
    Error::corrupt(path, format!("not the expected JSON: {error}"))
}

/// As [`read`] for the config of a text tower, which may stand inside that of a whole CLIP.
///
/// # Errors
/// As [`read`].
pub(super) fn read_tower<T: DeserializeOwned>(text: &str, path: &Path) -> Result<T> {
    let mut whole: Map<String, Value> = read(text, path)?;
    match whole.remove("text_config") {
        Some(Value::Object(mut tower)) => {
            // Whether there is a projection stands outside, if anywhere.
            for field in ["architectures", "projection_dim"] {
                if let (false, Some(value)) = (tower.contains_key(field), whole.remove(field)) {
                    tower.insert(field.to_owned(), value);
                }
            }
            read(&Value::Object(tower).to_string(), path)
        }
        _ => read(text, path),
    }
}

/// Refuses weights that are stored in another program's blocks, which a config describes in an object of its own.
///
/// # Errors
/// [`Error::Unsupported`].
pub(super) fn refuse_blocks(text: &str, path: &Path) -> Result<()> {
    let fields: Map<String, Value> = read(text, path)?;
    match fields.get("quantization_config") {
        None | Some(Value::Null) => Ok(()),
        Some(found) => {
            let method = found.get("quant_method").and_then(Value::as_str).unwrap_or("unknown");
            let what = format!("quantization_config ({})", method.escape_debug());
            Err(Error::unsupported(what, Hint::QuantiseModel).at(path))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::{ClipConfig, UNetConfig};
    use crate::sampling::SchedulerConfig;

    #[test]
    fn the_field_that_is_amiss_is_named() {
        let unet = |text: &str| read::<UNetConfig>(text, Path::new("unet/config.json"));
        let said = unet(r#"{"in_channels": 4, "norm_eps": {"value": 1}}"#).unwrap_err().to_string();
        assert!(said.starts_with("unet/config.json: `norm_eps`: "), "{said}");
        let said = unet(r#"{"in_channels": -4}"#).unwrap_err().to_string();
        assert!(said.contains("`in_channels`"), "{said}");
        for text in ["", "[]", "{\"in_channels\": 4", "{\"in_channels\": 4, \"in_channels\": 4}"] {
            let read = unet(text);
            assert!(matches!(read, Err(Error::Corrupt { .. })), "{text}: {read:?}");
        }
        assert!(unet(r#"{"nested": {"of": "another program"}, "freq_shift": 0}"#).is_ok());
    }

    #[test]
    fn words_that_are_not_known_are_not_supported() {
        let scheduler = |text: &str| read::<SchedulerConfig>(text, Path::new("s.json"));
        let error = scheduler(r#"{"prediction_type": "score"}"#).unwrap_err();
        assert_eq!(error.fault(), crate::Fault::Unsupported);
        let said = error.to_string();
        assert!(said.starts_with("s.json: ") && said.contains("prediction_type = score"), "{said}");
        assert!(scheduler(r#"{"lambda_min_clipped": -Infinity}"#).is_ok());
    }

    /// A text encoder saved with its picture half was read as one of 512 channels.
    #[test]
    fn towers_inside_a_whole_clip_are_found() {
        let text = r#"{"architectures": ["CLIPModel"], "hidden_size": 1, "projection_dim": 7,
            "text_config": {"hidden_size": 24}, "vision_config": {"hidden_size": 99}}"#;
        let tower: ClipConfig = read_tower(text, Path::new("c.json")).unwrap();
        assert_eq!((tower.hidden_size, tower.projection_dim, tower.projects()), (24, 7, false));
    }

    #[test]
    fn blocks_of_other_programs_are_refused() {
        let path = Path::new("unet/config.json");
        let text =
            r#"{"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": true}}"#;
        let said = refuse_blocks(text, path).unwrap_err().to_string();
        assert!(said.starts_with("unet/config.json: quantization_config (bitsandbytes)"), "{said}");
        assert!(refuse_blocks(r#"{"quantization_config": null}"#, path).is_ok());
    }
}
