//! How a picture was made, as far as it says.

use crate::app::choice::ModelChoice;
use crate::app::named_hash::NamedHash;
use crate::picture::Parameters;
use crate::pipeline::Request;
use serde::{Deserialize, Serialize};

/// The JSON of colora inside a picture.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct ColoraRecord {
    pub(super) schema: u32,
    pub(super) version: String,
    /// The model's own name, for people and other programs.
    pub(super) model: String,
    /// Older pictures say no more than the name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) made_with: Option<ModelChoice>,
    /// The device that drew it, as it is chosen; older pictures do not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) drawn_on: Option<String>,
    /// Older pictures have none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) hashes: Vec<NamedHash>,
    pub(super) request: Request,
}

/// How a picture was made, as far as it says.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct ImageRecord {
    /// The program that made it.
    pub program: Option<&'static str>,
    /// The version of the program, when it is colora.
    pub version: Option<String>,
    /// The device that drew it, when it is known.
    pub drawn_on: Option<String>,
    /// The hashes of the files that it was made with.
    pub hashes: Vec<NamedHash>,
    /// The model's name.
    pub model: Option<String>,
    /// What it was made with, as its maker named it.
    pub made_with: Option<ModelChoice>,
    /// The request that makes it again.
    pub request: Request,
    /// The settings as written for other programs.
    pub parameters: Parameters,
    /// A sampler or schedule that colora does not have.
    pub unknown_sampler: Option<String>,
    /// Other settings that change the picture and that colora does not follow.
    pub ignored: Vec<String>,
}

impl ImageRecord {
    /// What it was made with; of older pictures and those of other programs only the model's name is known.
    pub fn made_with(&self) -> ModelChoice {
        let named = ModelChoice { model: self.model.clone(), ..ModelChoice::default() };
        self.made_with.clone().unwrap_or(named)
    }
}
