//! Small models of every family whose widths are those that single files are read by, and files made of
//! them that are changed as a test wants.

use candle_core::{DType, Device, Tensor};
use colora::family::Family;
use colora::lora::write::{CheckpointOptions, FileDtype, Metadata, checkpoint};
use colora::models::{ClipConfig, ClipTower, PerBlock, UNet, UNetConfig, Vae, VaeConfig};
use colora::weights::{MemorySource, Placement, Scope, Site, Weight, WeightSource};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Mutex;

const WIDTH: usize = 64;

pub(crate) fn unet(family: Family) -> UNetConfig {
    let kinds = |side: &str, attention: &[bool]| -> Vec<String> {
        let kind = |a: &bool| format!("{}{side}Block2D", if *a { "CrossAttn" } else { "" });
        attention.iter().map(kind).collect()
    };
    let (down, up): (&[bool], &[bool]) = match family {
        Family::Sdxl => (&[false, true, true], &[true, true, false]),
        Family::SdxlRefiner => (&[false, true, true, false], &[false, true, true, false]),
        _ => (&[true, true, true, false], &[false, true, true, true]),
    };
    let xl = matches!(family, Family::Sdxl | Family::SdxlRefiner);
    let numbers = if family == Family::SdxlRefiner { 5 } else { 6 };
    let widths = vec![WIDTH; down.len()];
    let heads = if family == Family::Sd1 { 8 } else { 1 };
    UNetConfig {
        block_out_channels: widths,
        down_block_types: kinds("Down", down),
        up_block_types: kinds("Up", up),
        layers_per_block: PerBlock::All(1),
        attention_head_dim: PerBlock::All(heads),
        cross_attention_dim: PerBlock::All(towers(family).iter().map(|t| t.hidden_size).sum()),
        use_linear_projection: family != Family::Sd1,
        addition_embed_type: xl.then(|| "text_time".into()),
        addition_time_embed_dim: xl.then_some(256),
        projection_class_embeddings_input_dim: xl.then_some(2 * WIDTH + numbers * 256),
        ..UNetConfig::default()
    }
}

pub(crate) fn towers(family: Family) -> Vec<ClipConfig> {
    let tower = |width: usize, gelu: bool, projects: bool| ClipConfig {
        hidden_size: width,
        intermediate_size: 2 * width,
        num_hidden_layers: 3,
        num_attention_heads: width / WIDTH,
        hidden_act: if gelu { "gelu" } else { "quick_gelu" }.into(),
        projection_dim: width,
        architectures: vec![
            if projects { "CLIPTextModelWithProjection" } else { "CLIPTextModel" }.into(),
        ],
        ..ClipConfig::default()
    };
    match family {
        Family::Sd1 => vec![tower(WIDTH, false, false)],
        Family::Sd2 => vec![tower(WIDTH, true, false)],
        Family::Sdxl => vec![tower(WIDTH, false, false), tower(2 * WIDTH, true, true)],
        Family::SdxlRefiner => vec![tower(2 * WIDTH, true, true)],
    }
}

pub(crate) fn vae() -> VaeConfig {
    VaeConfig {
        block_out_channels: vec![32; 4],
        layers_per_block: 1,
        sample_size: PerBlock::All(64),
        ..VaeConfig::default()
    }
}

/// Answers every question with zeros and writes it down.
#[derive(Debug, Default)]
struct Recorder(Mutex<BTreeMap<Site, Vec<usize>>>);

impl WeightSource for Recorder {
    fn get(&self, site: &Site, shape: &[usize]) -> colora::Result<Weight> {
        self.0.lock().unwrap().insert(site.clone(), shape.to_vec());
        let zero = Tensor::zeros((), DType::F32, &Device::Cpu)?;
        Ok(Weight::Dense(zero.broadcast_as(shape)?))
    }

    fn shape(&self, site: &Site) -> Option<Vec<usize>> {
        site.as_str().ends_with("text_projection.weight").then(Vec::new)
    }

    fn sites(&self) -> Vec<Site> {
        Vec::new()
    }

    fn device(&self) -> &Device {
        &Device::Cpu
    }

    fn dtype(&self, _: &str) -> DType {
        DType::F32
    }
}

/// A model of `family` with the UNet `unet` and random weights.
pub(crate) fn model(family: Family, unet: &UNetConfig) -> MemorySource {
    let recorder = Recorder::default();
    UNet::new(&Scope::new(&recorder, "unet"), unet).unwrap();
    for (component, config) in family.text_components().iter().zip(towers(family)) {
        ClipTower::new(&Scope::new(&recorder, component), &config).unwrap();
    }
    let scope = Scope::new(&recorder, "vae");
    Vae::encoder(&scope, &vae()).unwrap();
    Vae::decoder(&scope, &vae()).unwrap();
    let mut source = MemorySource::new(Placement::default());
    let mut state = 1u32;
    for (site, shape) in recorder.0.into_inner().unwrap() {
        let count: usize = shape.iter().product();
        let scale = (3.0 * shape[0] as f32 / count as f32).sqrt();
        let norm = shape.len() == 1 && site.as_str().ends_with("weight");
        let mut number = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let unit = (state >> 8) as f32 / (1 << 23) as f32 - 1.0;
            if norm { 1.0 + 0.1 * unit } else { scale * unit }
        };
        let values: Vec<f32> = (0..count).map(|_| number()).collect();
        let tensor = Tensor::from_vec(values, shape, &Device::Cpu).unwrap();
        source.insert(site, &tensor).unwrap();
    }
    source
}

/// A tensor of a file that is changed.
#[derive(Debug, Clone)]
pub(crate) struct Raw {
    pub(crate) dtype: Dtype,
    pub(crate) shape: Vec<usize>,
    pub(crate) bytes: Vec<u8>,
}

impl Raw {
    pub(crate) fn f32(shape: &[usize], values: &[f32]) -> Self {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        Self { dtype: Dtype::F32, shape: shape.to_vec(), bytes }
    }

    pub(crate) fn values(&self) -> Vec<f32> {
        assert_eq!(self.dtype, Dtype::F32);
        self.bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
    }
}

/// The tensors of one file, and the notes in its header.
#[derive(Debug, Clone, Default)]
pub(crate) struct Stored {
    pub(crate) tensors: BTreeMap<String, Raw>,
    pub(crate) notes: HashMap<String, String>,
}

impl Stored {
    /// A single file of `family` with the original code's names.
    pub(crate) fn single(family: Family, unet: &UNetConfig) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("made.safetensors");
        let options = CheckpointOptions {
            towers: family.towers(),
            precision: FileDtype::F32,
            metadata: Metadata::new(),
            force: false,
            cancel: colora::Cancel::new(),
        };
        checkpoint(&model(family, unet), &path, &options).unwrap();
        Self::read(&path)
    }

    pub(crate) fn read(path: &Path) -> Self {
        let bytes = std::fs::read(path).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let raw = |view: TensorView<'_>| Raw {
            dtype: view.dtype(),
            shape: view.shape().to_vec(),
            bytes: view.data().to_vec(),
        };
        let tensors = file.tensors().into_iter().map(|(name, view)| (name, raw(view))).collect();
        Self { tensors, notes: HashMap::new() }
    }

    pub(crate) fn write(&self, path: &Path) {
        let views = self.tensors.iter().map(|(name, raw)| {
            (name, TensorView::new(raw.dtype, raw.shape.clone(), &raw.bytes).unwrap())
        });
        let notes = Some(self.notes.clone()).filter(|notes| !notes.is_empty());
        std::fs::write(path, safetensors::serialize(views, notes).unwrap()).unwrap();
    }

    pub(crate) fn add(&mut self, name: &str, raw: Raw) {
        self.tensors.insert(name.to_owned(), raw);
    }

    /// Takes the tensors away whose names hold `part`.
    pub(crate) fn without(&self, part: &str) -> Self {
        let mut other = self.clone();
        other.tensors.retain(|name, _| !name.contains(part));
        assert!(other.tensors.len() < self.tensors.len(), "nothing is called {part}");
        other
    }

    /// Replaces `from` in every name.
    pub(crate) fn renamed(&self, from: &str, to: &str) -> Self {
        let tensors =
            self.tensors.iter().map(|(name, raw)| (name.replace(from, to), raw.clone())).collect();
        Self { tensors, notes: self.notes.clone() }
    }
}
