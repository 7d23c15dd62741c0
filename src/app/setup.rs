//! The settings of files and environment, and the store that they lead to: read once, used by a whole program.

use crate::config::{Env, Settings};
use crate::error::Result;
use crate::store::Store;
use std::path::Path;

/// Settings and store.
#[derive(Debug)]
pub struct Setup {
    /// The merged settings of files and environment.
    pub settings: Settings,
    /// The places where models and LoRAs are.
    pub store: Store,
}

impl Setup {
    /// Reads the settings that hold in `folder`: those of the user, of the folder and of the environment.
    ///
    /// # Errors
    /// As [`Settings::load`].
    pub fn load(folder: &Path, env: Env<'_>) -> Result<Self> {
        let settings = Settings::load(folder, env)?;
        let config = &settings.config;
        let store = Store::new(config.models_dirs.as_deref().unwrap_or_default(), folder, env);
        // Without the program's own place there is one folder less to search.
        let program = std::env::current_exe().ok();
        let loras = config.loras_dirs.as_deref().unwrap_or_default();
        let store = store.with_loras(loras, program.as_deref());
        let store = store.with_prompts(config.prompts_dirs.as_deref().unwrap_or_default());
        Ok(Self { settings, store })
    }
}
