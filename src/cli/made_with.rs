//! What a picture is made with beside its request, as the user named it.

use super::flags::Flags;
use super::recipe::Recipe;
use crate::config::Config;
use crate::store::STARTER;
use serde::{Deserialize, Serialize};

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
}
