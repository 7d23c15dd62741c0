//! What a picture is made with beside its request, as the user named it.

use serde::{Deserialize, Serialize};

/// Model, VAE and number types, in the user's own words.
///
/// Words travel in pictures as they were given: a relative path says nothing about the user's folders, and
/// it is looked for in the current folder and then in the picture's.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ModelChoice {
    /// A name, a path or `hub:owner/name`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// A VAE instead of the model's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vae: Option<String>,
    /// The blocks that the UNet is turned into.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quantize: Option<String>,
    /// The float type that was chosen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dtype: Option<String>,
}
