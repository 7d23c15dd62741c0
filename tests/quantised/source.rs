//! Files that the tests are about, made from the starter model.

use candle_core::quantized::{GgmlDType, QTensor, gguf_file};
use candle_core::{DType, Device, Tensor};
use colora::family::{self, ModelParts};
use colora::lora::write::{CheckpointOptions, FileDtype, Metadata, checkpoint};
use colora::starter;
use colora::weights::{Placement, Quantisation};
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

pub(crate) const BOTH: [(Quantisation, GgmlDType); 2] =
    [(Quantisation::Q8_0, GgmlDType::Q8_0), (Quantisation::Q4_0, GgmlDType::Q4_0)];

pub(crate) fn starter_parts() -> ModelParts {
    starter::open(Placement::default(), None).unwrap()
}

/// The starter model as an own quantised file.
pub(crate) fn converted(folder: &Path, kind: Quantisation) -> PathBuf {
    let path = folder.join(format!("starter-{kind}.safetensors"));
    family::quantise(&starter_parts(), kind, &path, false, &colora::Cancel::new()).unwrap();
    path
}

pub(crate) fn open(path: &Path) -> ModelParts {
    ModelParts::open(path, Placement::default(), None).unwrap()
}

/// The starter's tensors under ldm names.
pub(crate) fn ldm_tensors(folder: &Path) -> HashMap<String, Tensor> {
    let parts = starter_parts();
    let options = CheckpointOptions {
        towers: parts.family.towers(),
        precision: FileDtype::F32,
        metadata: Metadata::new(),
        force: true,
        cancel: colora::Cancel::new(),
    };
    let path = folder.join("ldm.safetensors");
    checkpoint(&*parts.source, &path, &options).unwrap();
    candle_core::safetensors::load(path, &Device::Cpu).unwrap()
}

/// Writes `tensors` as GGUF: matrices in blocks of `kind` where they fill them, kernels in f16, the rest
/// in f32, as stable-diffusion.cpp does.
pub(crate) fn gguf(
    path: &Path,
    tensors: &HashMap<String, Tensor>,
    kind: GgmlDType,
) -> HashMap<String, Tensor> {
    let mut stored: Vec<(String, QTensor)> = Vec::new();
    let mut plain = HashMap::new();
    for (name, tensor) in tensors {
        let matrix = tensor.rank() == 2 && !name.contains("embedding");
        let row = tensor.dims().last().copied().unwrap_or(1);
        let kind = match tensor.rank() {
            2 if matrix && row.is_multiple_of(kind.block_size()) => kind,
            4 => GgmlDType::F16,
            _ => GgmlDType::F32,
        };
        let tensor = if tensor.rank() == 0 { tensor.reshape(1).unwrap() } else { tensor.clone() };
        let made = QTensor::quantize(&tensor.to_dtype(DType::F32).unwrap(), kind).unwrap();
        plain.insert(name.clone(), made.dequantize(&Device::Cpu).unwrap());
        stored.push((name.clone(), made));
    }
    let mut file = fs::File::create(path).unwrap();
    let author = gguf_file::Value::String("a test".into());
    let list = gguf_file::Value::Array(vec![gguf_file::Value::U32(7); 3]);
    let metadata = [("general.author", &author), ("list", &list)];
    let rows: Vec<(&str, &QTensor)> = stored.iter().map(|(n, t)| (n.as_str(), t)).collect();
    gguf_file::write(&mut file, &metadata, &rows).unwrap();
    describe(path);
    plain
}

/// The starter's settings beside a single file: its widths are not those of a family.
fn describe(path: &Path) {
    for (name, bytes) in starter::settings() {
        let target = path.with_extension("config").join(name);
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        fs::write(target, bytes).unwrap();
    }
}
