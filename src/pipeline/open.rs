//! How a model is opened.

use super::Pipeline;
use super::cache::{Lazy, Recent};
use super::device::{DTypeChoice, DeviceChoice};
use super::model::Model;
use super::residency::{Memory, Residency};
use super::resolver::{LoraResolver, Opener, PathResolver};
use crate::error::{Error, InFile, Result};
use crate::family::ModelParts;
use crate::hint::Hint;
use crate::lora::ReadOptions;
use crate::sampling::NoiseProcess;
use crate::weights::{Placement, Precision, Products, Quantisation, Resident, WeightSource};
use candle_core::DType;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How a model is opened.
///
/// ```no_run
/// # fn main() -> colora::Result<()> {
/// let pipeline = colora::Pipeline::options().device("cpu".parse()?).open("model.safetensors")?;
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct Options {
    device: DeviceChoice,
    dtype: Option<DTypeChoice>,
    quantise: Option<Quantisation>,
    vae: Option<PathBuf>,
    preview: Option<PathBuf>,
    resolver: Arc<dyn LoraResolver>,
    reading: ReadOptions,
    stacks: usize,
    memory: Memory,
    spare: Option<usize>,
    batch: usize,
    shared_steps: u64,
}

/// Bytes of LoRAs that are kept for requests that name them again.
const LORA_BYTES: u64 = 1 << 30;

impl Default for Options {
    fn default() -> Self {
        Self {
            device: DeviceChoice::default(),
            dtype: None,
            quantise: None,
            vae: None,
            preview: None,
            resolver: Arc::new(PathResolver),
            reading: ReadOptions::default(),
            stacks: 2,
            memory: Memory::default(),
            spare: None,
            batch: 1,
            shared_steps: 0,
        }
    }
}

impl Options {
    /// Where to run; default [`DeviceChoice::Auto`].
    #[must_use]
    pub fn device(mut self, device: DeviceChoice) -> Self {
        self.device = device;
        self
    }

    /// Float type; default f32 on a CPU, f16 on a GPU.
    #[must_use]
    pub fn dtype(mut self, dtype: Option<DTypeChoice>) -> Self {
        self.dtype = dtype;
        self
    }

    /// Keep the UNet's weights in blocks of so many bits, which takes half to a quarter of their memory;
    /// default as the files hold them. On the CPU only.
    #[must_use]
    pub fn quantize(mut self, kind: Option<Quantisation>) -> Self {
        self.quantise = kind;
        self
    }

    /// A VAE file or folder to use instead of the model's own.
    #[must_use]
    pub fn vae(mut self, vae: Option<PathBuf>) -> Self {
        self.vae = vae;
        self
    }

    /// A TAESD that makes previews: a folder of diffusers' `AutoencoderTiny`, or a file like
    /// `taesd_decoder.safetensors`. Default: the folder `taesd` inside a model folder; without one previews are the
    /// colours of the latents.
    #[must_use]
    pub fn preview(mut self, taesd: Option<PathBuf>) -> Self {
        self.preview = taesd;
        self
    }

    /// Where LoRAs are found by name; default: every name is a path.
    #[must_use]
    pub fn lora_resolver(mut self, resolver: Arc<dyn LoraResolver>) -> Self {
        self.resolver = resolver;
        self
    }

    /// How strictly LoRA files are read.
    #[must_use]
    pub fn reading(mut self, reading: ReadOptions) -> Self {
        self.reading = reading;
        self
    }

    /// How many composed networks are kept for requests that name the same LoRAs again; default 2.
    ///
    /// Each holds the weights that its LoRAs change, and shares the others with the model. As long as requests run
    /// that take more of them in turn, so many are kept.
    #[must_use]
    pub fn stacks(mut self, stacks: usize) -> Self {
        self.stacks = stacks;
        self
    }

    /// What is kept for the next request; default [`Memory::Resident`].
    #[must_use]
    pub fn memory(mut self, memory: Memory) -> Self {
        self.memory = memory;
        self
    }

    /// How many bytes of the CPU's memory the process keeps at most for what comes next, although nothing uses them:
    /// buffers between two layers, and the memory of networks that are gone. Default: half of the memory that the
    /// process may have, 8 GiB at most. What has been unused the longest goes back to the system first.
    ///
    /// It is one budget for all pipelines of a process; of those that are open the largest counts. Less is slower:
    /// memory that comes fresh from the system costs as much as the work that fills it.
    #[must_use]
    pub fn spare_memory(mut self, bytes: usize) -> Self {
        self.spare = Some(bytes);
        self
    }

    /// Opens a diffusers folder or a single-file checkpoint. Weights are read when first needed.
    ///
    /// # Errors
    /// What is wrong with the files, or [`Error::Unsupported`] for the device.
    pub fn open(mut self, path: impl AsRef<Path>) -> Result<Pipeline> {
        let placement = self.placement()?;
        let taesd = path.as_ref().join("taesd");
        self.preview = self.preview.or_else(|| taesd.is_dir().then_some(taesd));
        let parts = ModelParts::open(path.as_ref(), placement, self.vae.as_deref())?;
        self.over(parts)
    }

    /// Opens the starter model that is built into colora.
    pub fn open_starter(self) -> Result<Pipeline> {
        let placement = self.placement()?;
        let parts = crate::starter::open(placement, self.vae.as_deref())?;
        self.over(parts)
    }

    /// How many images of a plan are evaluated at once; default 1.
    ///
    /// A network reads its weights once for all of them, and holds the feature maps of each. On the CPU an image of a
    /// batch is the image made alone, to the bit.
    #[must_use]
    pub fn batch(mut self, images: usize) -> Self {
        self.batch = images.max(1);
        self
    }

    /// How many bytes of estimates are kept for requests that begin as an earlier one did: with the same noise, networks
    /// and texts. They take these steps without running a network, to the bit. Default 0, which keeps none; a step of a
    /// 512x512 picture takes 128 KiB. On the CPU only.
    #[must_use]
    pub fn shared_steps(mut self, bytes: u64) -> Self {
        self.shared_steps = bytes;
        self
    }

    /// A pipeline over parts that the caller opened, and perhaps changed.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a scheduler config that makes no sense.
    pub fn over(self, parts: ModelParts) -> Result<Pipeline> {
        let process = NoiseProcess::new(&parts.scheduler).in_file(&parts.scheduler_file)?;
        let tiny_vae = self.preview.as_deref().map(|path| parts.open_tiny_vae(path)).transpose()?;
        let base = Resident::new(parts.source.clone());
        // On a GPU estimates would outlive the session that their memory belongs to.
        let shared = if parts.source.device().is_cpu() { self.shared_steps } else { 0 };
        let residency = Residency::new(base, self.memory, self.stacks, self.spare);
        let residency = residency.sharing_steps(shared);
        // Another model has an autoencoder of its own.
        let opening = Self { vae: None, preview: None, ..self.clone() };
        Ok(Pipeline::of(Model {
            parts,
            process,
            names: Lazy::new(),
            resolver: self.resolver,
            reading: self.reading,
            loras: Recent::new(32).weighed(|lora| lora.file().byte_len(), LORA_BYTES),
            rounded: self.dtype == Some(DTypeChoice::Tf32),
            batch: self.batch,
            tiny_vae,
            residency: Arc::new(residency),
            opener: Opener(Arc::new(move |path| opening.clone().open(path))),
        }))
    }

    fn placement(&self) -> Result<Placement> {
        let device = self.device.open()?;
        let dtype = DTypeChoice::resolve(self.dtype, &device)?;
        // On a CPU bf16 means products of bf16 numbers; everything between them stays f32.
        let products = match (device.is_cpu(), self.dtype) {
            (false, _) => Products::Plain,
            (true, Some(DTypeChoice::Bf16)) => Products::Packed(Precision::Bf16),
            (true, _) => Products::Packed(Precision::F32),
        };
        // SD's VAE overflows in f16 (its config says force_upcast); f32 costs little there.
        let vae_dtype = if dtype == DType::F16 { DType::F32 } else { dtype };
        let quantise = self.quantise;
        // There they would be unpacked on the CPU.
        if let (Some(kind), true) = (quantise, device.is_metal()) {
            return Err(Error::unsupported(
                format!("{kind} weights with Metal"),
                Hint::any_of([Hint::set("device", "cpu"), Hint::LeaveOut("quantize")]),
            ));
        }
        Ok(Placement { device, dtype, vae_dtype, products, quantise })
    }
}
