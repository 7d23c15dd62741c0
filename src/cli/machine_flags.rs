//! The flags that say where pictures are drawn and in which numbers, for the verbs that draw many.

use super::style::Talk;
use super::threads;
use crate::app::Setup;
use crate::pipeline::{DTypeChoice, DeviceChoice, Memory};
use crate::weights::Quantisation;
use anyhow::Result;
use clap::ValueHint;
use serde_json::{Map, Value};
use std::path::PathBuf;

/// The flags of the machine.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct MachineFlags {
    /// auto, cpu, cuda, cuda:1 or metal [env: COLORA_DEVICE]
    #[arg(long, value_name = "DEVICE", help_heading = "Machine")]
    device: Option<DeviceChoice>,
    /// f32, tf32, f16 or bf16 [env: COLORA_DTYPE] [default: f32 on a CPU, f16 on a GPU]
    #[arg(long, value_name = "TYPE", help_heading = "Machine")]
    dtype: Option<DTypeChoice>,
    /// Keep the UNet in q8_0 or q4_0 [default: as the file holds it]
    #[arg(long, value_name = "KIND", help_heading = "Machine")]
    quantize: Option<Quantisation>,
    /// A VAE to use instead of the model's own
    #[arg(long, value_name = "PATH", value_hint = ValueHint::AnyPath, help_heading = "Machine")]
    vae: Option<PathBuf>,
    /// Worker threads on the CPU [default: one a core]
    #[arg(long, value_name = "N", help_heading = "Machine")]
    threads: Option<usize>,
    /// Keep one network in memory at a time: the same pixels with less memory, slower
    #[arg(long, help_heading = "Machine")]
    low_memory: bool,
}

impl MachineFlags {
    /// The values that these flags, `model` and `prompt` give to a job, on top of the fields `request`.
    pub(super) fn values(
        &self,
        request: &Map<String, Value>,
        prompt: Option<&String>,
        model: Option<&String>,
    ) -> Map<String, Value> {
        let words = [
            ("prompt", prompt.cloned()),
            ("model", model.cloned().filter(|name| !name.is_empty())),
            ("vae", self.vae.as_ref().map(|path| path.to_string_lossy().into_owned())),
            ("dtype", self.dtype.map(|dtype| dtype.to_string())),
            ("quantize", self.quantize.map(|kind| kind.to_string())),
            ("device", self.device.map(|device| device.to_string())),
        ];
        let words =
            words.into_iter().filter_map(|(key, word)| Some((key.to_owned(), word?.into())));
        request.clone().into_iter().chain(words).collect()
    }

    /// How much stays in memory.
    pub(super) fn memory(&self) -> Memory {
        if self.low_memory { Memory::Low } else { Memory::Resident }
    }

    /// Limits the worker threads to what the flag or the settings say.
    pub(super) fn limit_threads(&self, setup: &Setup, talk: Talk) -> Result<()> {
        threads::limit(self.threads.or(setup.settings.config.threads), talk)
    }
}
