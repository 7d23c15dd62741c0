//! Kinds of inputs: good files, and how each is mutated.
//!
//! A *silent change* is one of two: a mutation that changes a number or a setting which the picture depends
//! on, and everything understood (the weights that an adapter makes; the configuration, all weights and the
//! pixels of a model) is the same as of the good file, without a warning; or a mutation that no program writes
//! (factors that do not fit together, integers or NaN for weights, a key twice, bytes behind the end, a cut
//! vocabulary), and it is accepted with no warning more than the good file gives.

use crate::chance::Chance;
use crate::tensors::Tensors;
use crate::{bytes, pictures, text};
use candle_core::Device;
use candle_core::quantized::{GgmlDType, QTensor, gguf_file};
use std::fs;
use std::path::{Path, PathBuf};

/// What an input is, by who reads it; `lora sd15`.
type Reader = &'static str;

/// Kinds by name.
const KINDS: [&str; 11] = [
    "lora",
    "lora",
    "pickle",
    "peft",
    "model folder",
    "single file",
    "gguf",
    "picture",
    "card",
    "stack",
    "settings",
];

/// What a mutation means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meaning {
    /// Whatever is made of it is right.
    Anything,
    /// Something that the picture depends on is another.
    Changed,
    /// No program writes this.
    Nonsense,
}

/// A mutated input.
#[derive(Debug)]
pub struct Input {
    pub kind: &'static str,
    /// Who reads it.
    reader: Reader,
    /// What to open.
    pub path: PathBuf,
    /// The folder in which everything of it lies.
    pub folder: PathBuf,
    pub good: PathBuf,
    pub what: String,
    pub meaning: Meaning,
}

impl Input {
    /// What a worker is told to do with the file or folder at `path`.
    pub fn order(&self, path: &Path) -> String {
        format!("{}\t{}", self.reader, path.display())
    }

    /// What the program is told to do with it.
    pub fn arguments(&self) -> Vec<String> {
        let path = self.path.display().to_string();
        let words: Vec<&str> = match self.reader.split_once(' ') {
            Some((_, name)) => {
                let base = golden(base(name)).display().to_string();
                return ["lora", "check", &path, "-m", &base].map(str::to_owned).to_vec();
            }
            None if self.reader == "model" => vec!["model", "inspect", &path],
            None if self.reader == "picture" => vec!["inspect", &path],
            None => vec!["--version"],
        };
        words.into_iter().map(str::to_owned).collect()
    }
}

pub fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens").join(name)
}

/// The small model for adapters of `name`.
pub fn base(name: &str) -> &'static str {
    ["sd15", "sd2", "sdxl"].into_iter().find(|base| name == *base).unwrap()
}

/// Good files.
pub struct Good {
    loras: Vec<PathBuf>,
    pickles: Vec<PathBuf>,
    folders: Vec<PathBuf>,
    gguf: PathBuf,
    pictures: Vec<PathBuf>,
    card: PathBuf,
    stack: PathBuf,
    settings: PathBuf,
}

impl Good {
    /// Finds them, or makes them in `folder`.
    pub fn gather(folder: &Path) -> Self {
        let zoo = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/zoo/good");
        let mut all: Vec<PathBuf> =
            fs::read_dir(zoo).unwrap().map(|item| item.unwrap().path()).collect();
        all.sort();
        let is = |path: &PathBuf, ends: &[&str]| {
            path.extension().is_some_and(|e| ends.iter().any(|end| e == *end))
        };
        let of = |ends: &[&str]| all.iter().filter(|path| is(path, ends)).cloned().collect();
        let good = folder.join("good");
        fs::create_dir_all(good.join("settings")).unwrap();
        let text = |name: &str, text: &str| {
            let path = good.join(name);
            fs::write(&path, text).unwrap();
            path
        };
        let folders = all.iter().filter(|path| path.join("adapter_config.json").is_file());
        Self {
            loras: of(&["safetensors"]),
            pickles: of(&["pt", "bin", "ckpt"]),
            folders: folders.cloned().collect(),
            gguf: gguf(&good),
            pictures: made_pictures(&good),
            card: text("ink.toml", CARD),
            stack: text("stack.toml", STACK),
            settings: text("settings/colora.toml", SETTINGS),
        }
    }

    /// Input number `case` of `seed`, in `folder`.
    pub fn mutate(&self, seed: u64, case: usize, folder: &Path) -> Input {
        let mut chance = Chance::new(seed, case);
        let kind = KINDS[case % KINDS.len()];
        match kind {
            "lora" => self.lora(&mut chance, folder),
            "pickle" => plain(kind, chance.pick::<PathBuf>(&self.pickles), &mut chance, folder),
            "peft" => peft(chance.pick::<PathBuf>(&self.folders), &mut chance, folder),
            "model folder" => model_folder(&mut chance, folder),
            "single file" => single_file(&mut chance, folder),
            "gguf" => self.gguf(&mut chance, folder),
            "picture" => self.picture(&mut chance, folder),
            "card" => lines(kind, "card", &self.card, &mut chance, folder),
            "stack" => lines(kind, "stack", &self.stack, &mut chance, folder),
            _ => lines(kind, "settings", &self.settings, &mut chance, folder),
        }
    }

    fn lora(&self, chance: &mut Chance, folder: &Path) -> Input {
        let good = chance.pick(&self.loras);
        if chance.below(3) == 0 {
            return plain("lora", good, chance, folder);
        }
        tensors("lora", reader(good), good, chance, folder, is_factor)
    }

    fn gguf(&self, chance: &mut Chance, folder: &Path) -> Input {
        if chance.below(12) > 0 {
            return plain("gguf", &self.gguf, chance, folder);
        }
        let longer = [fs::read(&self.gguf).unwrap(), vec![7; 64]].concat();
        let input = written("gguf", "model", &self.gguf, longer, folder);
        Input { what: "64 bytes behind the end".into(), meaning: Meaning::Nonsense, ..input }
    }

    fn picture(&self, chance: &mut Chance, folder: &Path) -> Input {
        let good = chance.pick(&self.pictures);
        let (bytes, what) = pictures::mutate(&fs::read(good).unwrap(), chance);
        let is_png = good.extension().is_some_and(|e| e == "png");
        let reader = if is_png { "picture" } else { "pixels" };
        Input { what, ..written("picture", reader, good, bytes, folder) }
    }
}

/// Who reads an adapter.
fn reader(good: &Path) -> Reader {
    let name = good.file_name().unwrap().to_string_lossy();
    match name.split('-').next() {
        Some("sdxl") => "lora sdxl",
        Some("sd2") => "lora sd2",
        _ => "lora sd15",
    }
}

/// Writes `bytes` under the name of the good file.
fn written(
    kind: &'static str,
    reader: Reader,
    good: &Path,
    bytes: Vec<u8>,
    folder: &Path,
) -> Input {
    let path = folder.join(good.file_name().unwrap());
    fs::write(&path, bytes).unwrap();
    let (folder, good) = (folder.to_path_buf(), good.to_path_buf());
    Input { kind, reader, path, folder, good, what: String::new(), meaning: Meaning::Anything }
}

/// Any bytes of a file are changed.
fn plain(kind: &'static str, good: &Path, chance: &mut Chance, folder: &Path) -> Input {
    let mut bytes = fs::read(good).unwrap();
    let what = bytes::mutate(&mut bytes, chance);
    let reader = if ["lora", "pickle"].contains(&kind) { reader(good) } else { "model" };
    Input { what, ..written(kind, reader, good, bytes, folder) }
}

/// Lines of a text are changed.
fn lines(
    kind: &'static str,
    reader: Reader,
    good: &Path,
    chance: &mut Chance,
    folder: &Path,
) -> Input {
    let (text, what) = text::lines(&fs::read_to_string(good).unwrap(), chance);
    Input { what, ..written(kind, reader, good, text.into_bytes(), folder) }
}

/// A whole file of safetensors in which something is changed.
fn tensors(
    kind: &'static str,
    reader: Reader,
    good: &Path,
    chance: &mut Chance,
    folder: &Path,
    is_known: fn(&str) -> bool,
) -> Input {
    let read = Tensors::read(&fs::read(good).unwrap());
    let Some(read) = read else { return plain(kind, good, chance, folder) };
    let (bytes, what, meaning) = read.mutate(chance, is_known);
    Input { what, meaning, ..written(kind, reader, good, bytes, folder) }
}

/// Tensors of which every number matters, and that come in pairs.
fn is_factor(name: &str) -> bool {
    ["lora_up.weight", "lora_down.weight", "lora_A.weight", "lora_B.weight"]
        .iter()
        .any(|end| name.ends_with(end))
}

/// Weights that every picture needs.
fn is_weight(name: &str) -> bool {
    let parts = ["model.diffusion_model.", "first_stage_model.decoder.", "cond_stage_model."];
    parts.iter().any(|part| name.starts_with(part)) && name.ends_with(".weight")
}

fn peft(good: &Path, chance: &mut Chance, folder: &Path) -> Input {
    let config = "adapter_config.json";
    let input = copied("peft", reader(good), good, folder);
    if chance.below(2) == 0 {
        return changed_json(input, config, chance, &PEFT);
    }
    let weights = good.join("adapter_model.safetensors");
    if !weights.is_file() {
        return changed_json(input, config, chance, &PEFT);
    }
    let inner = tensors("peft", reader(good), &weights, chance, &input.path, is_factor);
    Input { what: inner.what, meaning: inner.meaning, ..input }
}

/// Settings of adapters that change what they do.
const PEFT: [&str; 4] = ["lora_alpha", "use_rslora", "peft_type", "use_dora"];

/// Settings of models that change the picture.
const CONFIGS: [&str; 31] = [
    "block_out_channels",
    "attention_head_dim",
    "cross_attention_dim",
    "layers_per_block",
    "norm_num_groups",
    "in_channels",
    "out_channels",
    "flip_sin_to_cos",
    "freq_shift",
    "act_fn",
    "norm_eps",
    "down_block_types",
    "up_block_types",
    "scaling_factor",
    "latent_channels",
    "num_train_timesteps",
    "beta_start",
    "beta_end",
    "beta_schedule",
    "prediction_type",
    "steps_offset",
    "set_alpha_to_one",
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "num_hidden_layers",
    "hidden_act",
    "layer_norm_eps",
    "max_position_embeddings",
    "vocab_size",
    "use_linear_projection",
];

fn model_folder(chance: &mut Chance, folder: &Path) -> Input {
    let good = golden(*chance.pick(&["sd15", "sd15", "sd2", "sdxl"]));
    let input = copied("model folder", "model", &good, folder);
    let files = files(&good, Path::new(""));
    let file = chance.pick(&files).clone();
    let name = file.to_string_lossy().into_owned();
    let to = input.path.join(&file);
    let bytes = fs::read(good.join(&file)).unwrap();
    if name.ends_with("config.json") {
        return changed_json(input, &name, chance, &CONFIGS);
    }
    fs::remove_file(&to).unwrap();
    if name.ends_with("merges.txt") && chance.below(2) == 0 {
        let text = String::from_utf8(bytes).unwrap();
        let keep = 1 + chance.below(text.lines().count() - 1);
        let cut: String = text.lines().take(keep).map(|line| format!("{line}\n")).collect();
        fs::write(to, cut).unwrap();
        return Input {
            what: format!("{name} of {keep} lines"),
            meaning: Meaning::Nonsense,
            ..input
        };
    }
    if name.ends_with(".safetensors") && chance.below(3) > 0 {
        let inner = tensors(
            "model folder",
            "model",
            &good.join(&file),
            chance,
            to.parent().unwrap(),
            |_| false,
        );
        return Input { what: format!("{name}: {}", inner.what), ..input };
    }
    let (bytes, what) = match String::from_utf8(bytes) {
        Ok(text) if name.ends_with(".json") && chance.below(2) == 0 => {
            let (text, what, _) =
                text::json(&text, chance).unwrap_or((text, "nothing".into(), false));
            (text.into_bytes(), what)
        }
        Ok(text) => {
            let (text, what) = text::lines(&text, chance);
            (text.into_bytes(), what)
        }
        Err(e) => {
            let mut bytes = e.into_bytes();
            let what = bytes::mutate(&mut bytes, chance);
            (bytes, what)
        }
    };
    fs::write(to, bytes).unwrap();
    Input { what: format!("{name}: {what}"), ..input }
}

/// Changes a value of a JSON file; a change of one of the keys `meant` has to show.
fn changed_json(input: Input, name: &str, chance: &mut Chance, meant: &[&str]) -> Input {
    let path = input.path.join(name);
    let text = fs::read_to_string(&path).unwrap();
    let Some((new, what, replaced)) = text::json(&text, chance) else { return input };
    let key = what.split(':').next().unwrap_or_default();
    let meaning = if replaced && meant.contains(&key) && !same_numbers(&text, &new) {
        Meaning::Changed
    } else {
        Meaning::Anything
    };
    fs::remove_file(&path).unwrap();
    fs::write(path, new).unwrap();
    Input { what: format!("{name}: {what}"), meaning, ..input }
}

/// Whether two JSON files say the same, 1 and 1.0 being one number.
fn same_numbers(a: &str, b: &str) -> bool {
    fn same(a: &serde_json::Value, b: &serde_json::Value) -> bool {
        match (a, b) {
            (serde_json::Value::Number(a), serde_json::Value::Number(b)) => {
                a.as_f64() == b.as_f64()
            }
            (serde_json::Value::Array(a), serde_json::Value::Array(b)) => {
                a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b))
            }
            (serde_json::Value::Object(a), serde_json::Value::Object(b)) => {
                a.len() == b.len()
                    && a.iter().all(|(key, a)| b.get(key).is_some_and(|b| same(a, b)))
            }
            _ => a == b,
        }
    }
    let read = |text: &str| serde_json::from_str(text).unwrap_or_default();
    same(&read(a), &read(b))
}

fn single_file(chance: &mut Chance, folder: &Path) -> Input {
    let names = ["sd15.safetensors", "sd15.ckpt", "sd2.safetensors", "sdxl.safetensors"];
    let good = golden("single").join(*chance.pick(&names));
    if good.extension().is_some_and(|e| e == "ckpt") || chance.below(3) == 0 {
        return plain("single file", &good, chance, folder);
    }
    tensors("single file", "model", &good, chance, folder, is_weight)
}

/// A copy of a good folder, of which one file can be another.
fn copied(kind: &'static str, reader: Reader, good: &Path, folder: &Path) -> Input {
    let path = folder.join(good.file_name().unwrap());
    for file in files(good, Path::new("")) {
        let to = path.join(&file);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(good.join(file), to).unwrap();
    }
    let (folder, good) = (folder.to_path_buf(), good.to_path_buf());
    Input { kind, reader, path, folder, good, what: String::new(), meaning: Meaning::Anything }
}

/// The files below `root`, sorted.
fn files(root: &Path, inside: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for item in fs::read_dir(root.join(inside)).unwrap() {
        let path = inside.join(item.unwrap().file_name());
        if root.join(&path).is_dir() { all.extend(files(root, &path)) } else { all.push(path) }
    }
    all.sort();
    all
}

/// A small model as GGUF.
fn gguf(folder: &Path) -> PathBuf {
    let path = folder.join("sd15.gguf");
    let source = golden("single/sd15.safetensors");
    let tensors = candle_core::safetensors::load(source, &Device::Cpu).unwrap();
    let mut rows: Vec<(String, QTensor)> = tensors
        .into_iter()
        .map(|(name, tensor)| {
            let tensor = tensor.to_dtype(candle_core::DType::F32).unwrap();
            let kind = if tensor.rank() == 2 && tensor.dims()[1] % 32 == 0 {
                GgmlDType::Q8_0
            } else {
                GgmlDType::F32
            };
            (name, QTensor::quantize(&tensor, kind).unwrap())
        })
        .collect();
    rows.sort_by(|a, b| a.0.cmp(&b.0));
    let rows: Vec<(&str, &QTensor)> = rows.iter().map(|(name, row)| (name.as_str(), row)).collect();
    gguf_file::write(&mut fs::File::create(&path).unwrap(), &[], &rows).unwrap();
    path
}

/// Pictures of all formats, with settings where a format has them.
fn made_pictures(folder: &Path) -> Vec<PathBuf> {
    use colora::picture::{Picture, png};
    let pixels: Vec<u8> = (0..16 * 16 * 3).map(|i| (i * 7 % 256) as u8).collect();
    let picture = Picture::new(16, 16, pixels.clone()).unwrap();
    let mut paths = Vec::new();
    for (name, parameters) in
        [("a.png", PARAMETERS), ("b.png", "a café, 猫\nSteps: 3, Seed: 1, Size: 64x64")]
    {
        let request = r#"{"schema":1,"version":"0.1.0","model":"sd15","request":{"prompt":"a fox","steps":2}}"#;
        let texts = png::Texts {
            parameters: Some(parameters.into()),
            colora: (name == "a.png").then(|| request.into()),
        };
        fs::write(folder.join(name), png::encode(&picture, &texts).unwrap()).unwrap();
        paths.push(folder.join(name));
    }
    for name in ["c.jpg", "d.webp"] {
        let image = image::RgbImage::from_raw(16, 16, pixels.clone()).unwrap();
        image.save(folder.join(name)).unwrap();
        paths.push(folder.join(name));
    }
    paths
}

const PARAMETERS: &str = "a fox <lora:ink:0.8>\nNegative prompt: fog\nSteps: 20, Sampler: DPM++ 2M, \
    Schedule type: Karras, CFG scale: 7, Seed: 42, Size: 64x64, Model: sd15, Clip skip: 2, Version: v1.9";
const CARD: &str = "file = \"ink.safetensors\"\ntitle = \"Ink\"\ntrigger_words = [\"ink style\"]\nweight = 0.8\n\
    family = \"SD 1.x\"\nlicence = \"CC0\"\ncreated = \"2026-01-02\"\n";
const STACK: &str = "method = \"ties\"\ndensity = 0.5\nseed = 7\n\n[[lora]]\nname = \"ink\"\nweight = 0.8\n\
    steps = \"0..0.6\"\n\n[[lora]]\nname = \"styles/anime\"\nunet = 0.5\ntext = 0.0\nblocks = \"OUTALL\"\n";
const SETTINGS: &str = "model = \"starter\"\nmodels_dirs = [\"~/models\"]\ndevice = \"cpu\"\nthreads = 2\n\
    output = \"{date}-{seed}\"\nwidth = 512\nheight = 512\nsteps = 30\nguidance_scale = 7.5\nsampler = \"euler\"\n";
