//! Floor 7. What a picture is made with beside its request, as the user named it.

use super::flags::Flags;
use super::recipe::Recipe;
use crate::config::Config;
use crate::lora::LoraRef;
use crate::store::STARTER;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// What lies in the folder of a model or of a LoRA, so that a bare word can mean the folder.
const SIGNS: [&str; 2] = ["model_index.json", "adapter_config.json"];

/// Model, VAE and number types, in the user's own words.
///
/// Words travel in pictures as they were given: a relative path says nothing about the user's folders, and
/// it is looked for in the current folder and then in the picture's.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct MadeWith {
    /// A name, a path or `hub:owner/name`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) model: Option<String>,
    /// A VAE instead of the model's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) vae: Option<String>,
    /// The blocks that the UNet was turned into.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) quantize: Option<String>,
    /// The float type that was chosen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) dtype: Option<String>,
}

impl MadeWith {
    /// What to use now: the flags, over a picture's words, over the settings.
    pub(super) fn now(flags: &Flags, picture: Option<&Recipe>, config: &Config) -> Self {
        let text = |path: &std::path::PathBuf| path.to_string_lossy().into_owned();
        let recorded = picture.is_some_and(|recipe| recipe.made_with.is_some());
        let words = picture.map(Recipe::made_with).unwrap_or_default();
        let model = flags.model.clone().or(words.model).filter(|name| !name.is_empty());
        let model = model.or(config.model.clone()).filter(|name| !name.is_empty());
        // A picture that says that it was made without another VAE is made so again.
        let usual = config.vae.as_ref().filter(|_| !recorded).map(text);
        Self {
            model: Some(model.unwrap_or_else(|| STARTER.to_owned())),
            vae: flags.vae.as_ref().map(text).or(words.vae).or(usual),
            quantize: flags.quantize.map(|kind| kind.to_string()).or(words.quantize),
            dtype: flags
                .dtype
                .map(|kind| kind.to_string())
                .or(words.dtype)
                .or(config.dtype.clone()),
        }
    }

    /// The same with paths that lead from the current folder to what was meant, `folder` being the picture's.
    #[must_use]
    pub(super) fn located(self, folder: &Path) -> Self {
        let locate = |word: Option<String>| word.map(|word| located(&word, folder));
        Self { model: locate(self.model), vae: locate(self.vae), ..self }
    }
}

/// LoRAs with paths that lead from the current folder to what was meant.
pub(super) fn locate_loras(loras: &mut [LoraRef], folder: &Path) {
    for lora in loras {
        lora.name = located(&lora.name, folder);
    }
}

/// `word` as it stands, or in `folder` when only there is such a file.
fn located(word: &str, folder: &Path) -> String {
    let path = Path::new(word);
    let beside = folder.join(path);
    let spelt_as_path = path.components().count() > 1 || path.extension().is_some();
    let is_there = if spelt_as_path {
        beside.exists()
    } else {
        SIGNS.iter().any(|sign| beside.join(sign).is_file())
    };
    match beside.to_str() {
        Some(found) if is_there && !word.starts_with("hub:") && !path.exists() => found.to_owned(),
        _ => word.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_looked_for_beside_the_picture() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        for file in ["sub/q8.safetensors", "whole/model_index.json", "plain/x", "hub:o/n"] {
            std::fs::create_dir_all(folder.join(file).parent().unwrap()).unwrap();
            std::fs::write(folder.join(file), "").unwrap();
        }
        for word in ["sub/q8.safetensors", "./sub/q8.safetensors", "whole", "./plain"] {
            assert_eq!(located(word, folder), folder.join(word).to_str().unwrap(), "{word}");
        }
        for word in ["q8", "q8.safetensors", "plain", "hub:o/n", "starter", "", "src/lib.rs"] {
            assert_eq!(located(word, folder), word);
        }
    }
}
