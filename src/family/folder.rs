//! Models in the diffusers layout: a folder per component, architectures as JSON.

use super::check::ConfigPlace;
use super::{
    Architecture, Defaults, Family, ModelParts, TokenizerSource, basic_defaults, check, few_steps,
    json,
};
use crate::conditioning::ClipKind;
use crate::error::{Error, InFile, Result};
use crate::input;
use crate::models::{ClipConfig, TinyVaeConfig, UNetConfig, VaeConfig};
use crate::sampling::{SchedulerConfig, Training};
use crate::size::ImageSize;
use crate::weights::names::{self, Part};
use crate::weights::{Checkpoint, CheckpointFile, Component, Placement, Site, quantised};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// Longest JSON or TOML file that is read, in bytes.
const MAX_TEXT: u64 = 16 << 20;

/// The file that describes the noise that a model was trained with.
const SCHEDULER: &str = "scheduler/scheduler_config.json";

/// What the author of a model, or its user, writes down for colora.
const RECOMMENDED: &str = "colora.toml";

/// A model's card, where one was downloaded with it.
const CARD: &str = "README.md";

/// Channels of a UNet that sees a mask and a picture beside the latents.
const INPAINTING: usize = 9;

/// Weight files of a component, in the order of preference.
const WEIGHT_FILES: [&str; 2] = ["diffusion_pytorch_model", "model"];

/// A folder, a folder inside the program, or the settings inside a weight file.
#[derive(Debug, Clone, Copy)]
enum Files<'a> {
    Folder,
    Static(&'static [(&'static str, &'static [u8])]),
    Held(&'a BTreeMap<String, String>),
}

/// Reads the files of one model.
struct Reader<'a> {
    root: &'a Path,
    files: Files<'a>,
}

pub(super) fn open(root: &Path, placement: Placement) -> Result<ModelParts> {
    let name = root.canonicalize().ok().and_then(|p| Some(p.file_name()?.to_owned()));
    let name = name.unwrap_or_else(|| root.as_os_str().to_owned());
    Reader { root, files: Files::Folder }.parts(&name.to_string_lossy(), placement)
}

pub(super) fn open_static(
    name: &str,
    files: &'static [(&'static str, &'static [u8])],
    placement: Placement,
) -> Result<ModelParts> {
    Reader { root: Path::new(name), files: Files::Static(files) }.parts(name, placement)
}

/// The settings and vocabularies that a quantised model holds, by their paths in the diffusers layout;
/// none for other files.
///
/// # Errors
/// Errors of opening the file.
pub fn held_files(path: &Path) -> Result<BTreeMap<String, String>> {
    files_in(path, &CheckpointFile::open(path)?)
}

fn files_in(path: &Path, file: &CheckpointFile) -> Result<BTreeMap<String, String>> {
    let text = file.metadata().get(quantised::FILES).map_or("{}", String::as_str);
    serde_json::from_str(text).map_err(|e| {
        Error::corrupt(path, format!("`{}` is not the expected JSON: {e}", quantised::FILES))
    })
}

/// A quantised model in one file, which holds its settings.
pub(super) fn open_held(
    path: &Path,
    file: &CheckpointFile,
    placement: Placement,
) -> Result<ModelParts> {
    let files = files_in(path, file)?;
    let architecture = Reader { root: path, files: Files::Held(&files) }.architecture()?;
    let mut checkpoint = Checkpoint::new(path.display().to_string(), placement);
    let names: Vec<String> = file.names().map(str::to_owned).collect();
    for name in names {
        checkpoint.insert(Site::new(&name), file, &name, Part::Whole)?;
    }
    check::weights(&architecture, &checkpoint)?;
    let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    Ok(architecture.with(name, checkpoint))
}

/// A VAE alone: a folder with `config.json` and weights, or a model folder that holds `vae`.
pub(super) fn open_vae(folder: &Path, placement: Placement) -> Result<(VaeConfig, Checkpoint)> {
    let nested = folder.join(Component::Vae.name());
    let folder = if nested.is_dir() { nested } else { folder.to_path_buf() };
    let reader = Reader { root: &folder, files: Files::Folder };
    let config: VaeConfig = reader.json("config.json")?;
    config.validate().in_file(folder.join("config.json"))?;
    let mut checkpoint = Checkpoint::new(folder.display().to_string(), placement);
    reader.insert_weights(&mut checkpoint, "", Component::Vae)?;
    Ok((config, checkpoint))
}

/// A small autoencoder alone: a folder with `config.json` and weights.
pub(super) fn open_tiny_vae(
    folder: &Path,
    placement: Placement,
) -> Result<(TinyVaeConfig, Checkpoint)> {
    let reader = Reader { root: folder, files: Files::Folder };
    let config: TinyVaeConfig = reader.json("config.json")?;
    let mut source = Checkpoint::new(folder.display().to_string(), placement);
    reader.insert_weights(&mut source, "", Component::Vae)?;
    Ok((config, source))
}

/// The architecture beside a single file: `model.config/` beside `model.safetensors`, a folder in the
/// diffusers layout that needs no weights.
pub(super) fn sidecar(file: &Path) -> Result<Option<Architecture>> {
    let folder = file.with_extension("config");
    if !folder.is_dir() {
        return Ok(None);
    }
    Reader { root: &folder, files: Files::Folder }.architecture().map(Some)
}

/// The fields of `model_index.json` beside the class names.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Index {
    /// One name, or a module and a name.
    #[serde(rename = "_class_name")]
    class: serde_json::Value,
    #[serde(rename = "_name_or_path")]
    name: Option<String>,
    force_zeros_for_empty_prompt: Option<bool>,
    requires_aesthetics_score: Option<bool>,
}

/// `colora.toml` beside a model: what its author recommends.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Recommended {
    /// What the network predicts, in the place of the scheduler's config.
    prediction: Option<String>,
    #[serde(rename = "default_size")]
    size: Option<String>,
    #[serde(rename = "default_steps")]
    steps: Option<usize>,
    #[serde(rename = "default_guidance")]
    guidance: Option<f64>,
    #[serde(rename = "default_sampler")]
    sampler: Option<String>,
    #[serde(rename = "default_schedule")]
    schedule: Option<String>,
}

/// `*.index.json`: which shard holds which tensor.
#[derive(Deserialize)]
struct ShardIndex {
    weight_map: BTreeMap<String, String>,
}

impl Reader<'_> {
    fn parts(&self, name: &str, placement: Placement) -> Result<ModelParts> {
        let architecture = self.architecture()?;
        let mut checkpoint = Checkpoint::new(self.root.display().to_string(), placement);
        let others = [Component::UNet, Component::Vae];
        for component in architecture.family.text_components().into_iter().chain(others) {
            self.insert_weights(&mut checkpoint, component.name(), component)?;
        }
        check::weights(&architecture, &checkpoint)?;
        Ok(architecture.with(name.to_owned(), checkpoint))
    }

    fn architecture(&self) -> Result<Architecture> {
        let index: Index = if self.has("model_index.json") {
            self.json("model_index.json")?
        } else {
            Index::default()
        };
        self.refuse_foreign(&index)?;
        let unet: UNetConfig = self.network_json(Component::UNet)?;
        unet.validate().in_file(self.config_of(Component::UNet))?;
        let vae: VaeConfig = self.network_json(Component::Vae)?;
        vae.validate().in_file(self.config_of(Component::Vae))?;
        let there = |part: &Component| self.has(&format!("{part}/config.json"));
        let towers: Vec<Component> =
            Component::ALL.into_iter().filter(|part| part.is_text() && there(part)).collect();
        let family = self.family(&unet, &towers)?;
        let mut text = Vec::new();
        let mut tokenizers = Vec::new();
        for tower in towers {
            let config: ClipConfig = self.network_json(tower)?;
            config.validate().in_file(self.config_of(tower))?;
            text.push(config);
            tokenizers.push(self.tokenizer(tower, family));
        }
        let recommended = self.recommendations()?;
        let scheduler = match &recommended.prediction {
            None => self.scheduler(family, &unet)?,
            Some(kind) => {
                let training: Training = kind.parse().in_file(self.root.join(RECOMMENDED))?;
                training.apply(&self.scheduler(family, &unet)?)
            }
        };
        let distilled = few_steps::of(&unet, &scheduler, &self.names(&index));
        let basic =
            basic_defaults(family, (unet.native_pixels(vae.factor()), vae.factor()), &scheduler)
                .in_file(self.config_of(Component::UNet))?;
        let basic = distilled.map_or(basic, |d| few_steps::defaults(d, &scheduler, basic));
        let defaults = self.recommended(&recommended, basic)?;
        let architecture = Architecture {
            family,
            text,
            vae,
            scheduler,
            scheduler_file: self.root.join(SCHEDULER),
            distilled,
            tokenizers,
            defaults,
            // diffusers: true for the base pipeline's default, written by every real SDXL index.
            force_zeros_for_empty_prompt: index
                .force_zeros_for_empty_prompt
                .unwrap_or(family.spec().zero_negative),
            requires_aesthetics_score: index
                .requires_aesthetics_score
                .unwrap_or(family.spec().aesthetics_score),
            unet,
        };
        check::configs(&architecture, ConfigPlace::Folder(self.root))?;
        Ok(architecture)
    }

    /// Class names are only read to refuse other families by name.
    fn refuse_foreign(&self, index: &Index) -> Result<()> {
        let foreign = [
            "Flux",
            "StableDiffusion3",
            "PixArt",
            "Cascade",
            "Kandinsky",
            "Wuerstchen",
            "AuraFlow",
        ];
        let class = match &index.class {
            serde_json::Value::Array(names) => names.last(),
            one => Some(one),
        };
        let class = class.and_then(serde_json::Value::as_str).unwrap_or_default();
        if foreign.iter().any(|name| class.contains(name)) {
            return Err(Error::WrongFamily {
                path: self.root.to_path_buf(),
                expected: "SD 1.x, SD 2.x or SDXL".into(),
                found: format!("a {} model", class.trim_end_matches("Pipeline")),
                hint: None,
            });
        }
        Ok(())
    }

    /// The noise, as the family's pipeline of diffusers takes it.
    fn scheduler(&self, family: Family, unet: &UNetConfig) -> Result<SchedulerConfig> {
        let mut scheduler: SchedulerConfig =
            self.part_json("scheduler", "scheduler_config.json")?;
        scheduler.validate().in_file(self.root.join(SCHEDULER))?;
        // That for inpainting sets only the first.
        if family.spec().fixes_scheduler {
            scheduler.steps_offset = 1;
            if unet.in_channels != INPAINTING {
                scheduler.clip_sample = Some(false);
            }
        }
        Ok(scheduler)
    }

    /// The names of the model: its folder, where it was made from, and its card's title.
    fn names(&self, index: &Index) -> Vec<String> {
        // A downloaded model lies in `models--OWNER--NAME/snapshots/COMMIT`.
        let found = self.root.canonicalize().unwrap_or_else(|_| self.root.to_path_buf());
        let above = found.parent().filter(|parent| parent.ends_with("snapshots"));
        let folders = [Some(self.root), Some(&*found), above.and_then(Path::parent)];
        let folders = folders.into_iter().flatten().filter_map(Path::file_name);
        let folders = folders.map(|name| name.to_string_lossy().into_owned());
        let card = if self.has(CARD) { self.text(CARD).ok() } else { None };
        let title = card.map(|card| few_steps::title(&card));
        folders.chain(index.name.clone()).chain(title).collect()
    }

    /// Towers and the UNet's conditions decide.
    fn family(&self, unet: &UNetConfig, towers: &[Component]) -> Result<Family> {
        let fitting = Family::ALL.into_iter().find(|family| family.spec().fits(unet, towers));
        fitting.ok_or_else(|| {
            // What the others lack first.
            let lacks = match unet.addition_embed_type {
                Some(_) => Component::TextEncoder2,
                None => Component::TextEncoder,
            };
            self.missing(lacks.name(), &["config.json"])
        })
    }

    /// What the model's author recommends.
    fn recommendations(&self) -> Result<Recommended> {
        if !self.has(RECOMMENDED) {
            return Ok(Recommended::default());
        }
        let text = self.text(RECOMMENDED)?;
        toml::from_str(&text).map_err(|e| Error::corrupt(self.root.join(RECOMMENDED), e.message()))
    }

    /// The defaults, with what the model's author recommends in place of what is usual.
    fn recommended(&self, recommended: &Recommended, basic: Defaults) -> Result<Defaults> {
        let path = self.root.join(RECOMMENDED);
        let size = match &recommended.size {
            Some(size) => size.parse::<ImageSize>().in_file(&path)?,
            None => basic.size,
        };
        size.latent(basic.vae_factor).in_file(&path)?;
        Ok(Defaults {
            size,
            vae_factor: basic.vae_factor,
            steps: recommended.steps.unwrap_or(basic.steps),
            guidance_scale: recommended.guidance.unwrap_or(basic.guidance_scale),
            sampler: parsed(recommended.sampler.as_deref(), basic.sampler).in_file(&path)?,
            schedule: parsed(recommended.schedule.as_deref(), basic.schedule).in_file(&path)?,
        })
    }

    fn tokenizer(&self, tower: Component, family: Family) -> TokenizerSource {
        let folder = tower.tokenizer();
        match self.files {
            Files::Held(files) => {
                let prefix = format!("{folder}/");
                let inside = |(path, text): (&String, &String)| {
                    Some((path.strip_prefix(prefix.as_str())?.to_owned(), text.clone()))
                };
                let files: Vec<_> = files.iter().filter_map(inside).collect();
                if files.is_empty() {
                    // As of single files, which leave CLIP's own vocabulary out.
                    let kind = family.spec().tower(tower).map(|tower| tower.clip);
                    return TokenizerSource::Clip(kind.unwrap_or(ClipKind::OpenAi));
                }
                let name = format!("{}/{folder}", self.root.display());
                TokenizerSource::Held { name, files }
            }
            Files::Folder => TokenizerSource::Folder(self.root.join(folder)),
            Files::Static(files) => {
                let prefix = format!("{folder}/");
                let inside = |(path, bytes): &(&'static str, &'static [u8])| {
                    Some((path.strip_prefix(prefix.as_str())?, *bytes))
                };
                let name = format!("{}/{folder}", self.root.display());
                TokenizerSource::Static { name, files: files.iter().filter_map(inside).collect() }
            }
        }
    }

    /// Adds every tensor of the component `part` under its canonical name.
    fn insert_weights(
        &self,
        checkpoint: &mut Checkpoint,
        part: &str,
        component: Component,
    ) -> Result<()> {
        for file in self.weight_files(part)? {
            let found: Vec<String> = file.names().map(str::to_owned).collect();
            // Old files keep a constant among the weights.
            for name in found.into_iter().filter(|name| !name.ends_with(".position_ids")) {
                let site = Site::of(component, names::canonical(component, &name));
                checkpoint.insert(site, &file, &name, Part::Whole)?;
            }
        }
        Ok(())
    }

    /// The weight files of `part`: one, its fp16 variant, or the shards of an index.
    fn weight_files(&self, part: &str) -> Result<Vec<CheckpointFile>> {
        let mut tried = Vec::new();
        for variant in ["", ".fp16"] {
            for stem in WEIGHT_FILES {
                let single = join(part, &format!("{stem}{variant}.safetensors"));
                if self.has(&single) {
                    return Ok(vec![self.weights(&single)?]);
                }
                for index in [
                    join(part, &format!("{stem}.safetensors.index{variant}.json")),
                    join(part, &format!("{stem}{variant}.safetensors.index.json")),
                ] {
                    if self.has(&index) {
                        return self.shards(part, &index);
                    }
                }
                tried.push(format!("{stem}{variant}.safetensors"));
            }
        }
        for stem in ["diffusion_pytorch_model", "pytorch_model"] {
            for variant in ["", ".fp16"] {
                let pickle = join(part, &format!("{stem}{variant}.bin"));
                if self.has(&pickle) {
                    return Ok(vec![self.weights(&pickle)?]);
                }
                tried.push(format!("{stem}{variant}.bin"));
            }
        }
        let tried: Vec<&str> = tried.iter().map(String::as_str).collect();
        Err(self.missing(part, &tried))
    }

    fn shards(&self, part: &str, index: &str) -> Result<Vec<CheckpointFile>> {
        let ShardIndex { weight_map } = self.json(index)?;
        let names: BTreeSet<String> = weight_map.into_values().collect();
        names
            .iter()
            .map(|name| {
                // An index comes from strangers: only plain names beside it are opened.
                if name.contains(['/', '\\']) || name.starts_with('.') {
                    let why = format!("the shard `{name}` lies outside of the folder");
                    return Err(Error::corrupt(self.root.join(index), why));
                }
                self.weights(&join(part, name))
            })
            .collect()
    }

    fn weights(&self, file: &str) -> Result<CheckpointFile> {
        match self.files {
            Files::Folder => CheckpointFile::open(self.root.join(file)),
            Files::Static(_) | Files::Held(_) => {
                let bytes = self.static_bytes(file).unwrap_or_default();
                CheckpointFile::from_static(bytes, self.root.join(file))
            }
        }
    }

    fn static_bytes(&self, file: &str) -> Option<&'static [u8]> {
        match self.files {
            Files::Folder | Files::Held(_) => None,
            Files::Static(files) => files.iter().find(|(path, _)| *path == file).map(|(_, b)| *b),
        }
    }

    fn has(&self, file: &str) -> bool {
        match self.files {
            Files::Folder => self.root.join(file).is_file(),
            Files::Static(_) => self.static_bytes(file).is_some(),
            Files::Held(files) => files.contains_key(file),
        }
    }

    fn text(&self, file: &str) -> Result<String> {
        if let Some(bytes) = self.static_bytes(file) {
            return Ok(String::from_utf8_lossy(bytes).into_owned());
        }
        if let Files::Held(files) = self.files {
            return Ok(files.get(file).cloned().unwrap_or_default());
        }
        let path = self.root.join(file);
        input::text(&path, MAX_TEXT, "a configuration")
    }

    fn json<T: DeserializeOwned>(&self, file: &str) -> Result<T> {
        json::read(&self.text(file)?, &self.root.join(file))
    }

    fn config_of(&self, part: Component) -> PathBuf {
        self.root.join(part.name()).join("config.json")
    }

    /// The architecture of a part, whose weights are to be floats.
    fn network_json<T: DeserializeOwned>(&self, part: Component) -> Result<T> {
        let (file, path) = (format!("{part}/config.json"), self.config_of(part));
        if !self.has(&file) {
            return Err(self.missing(part.name(), &["config.json"]));
        }
        let text = self.text(&file)?;
        json::refuse_blocks(&text, &path)?;
        if part.is_text() { json::read_tower(&text, &path) } else { json::read(&text, &path) }
    }

    /// As [`json`](Self::json) for a part that must be there.
    fn part_json<T: DeserializeOwned>(&self, part: &str, file: &str) -> Result<T> {
        let path = format!("{part}/{file}");
        if self.has(&path) { self.json(&path) } else { Err(self.missing(part, &[file])) }
    }

    /// The part lacks the files `tried`, or one of them cannot be looked at.
    fn missing(&self, part: &str, tried: &[&str]) -> Error {
        let looked = tried.iter().map(|file| self.root.join(join(part, file)));
        let refused = |path: PathBuf| match std::fs::metadata(&path) {
            Err(e) if !matches!(e.kind(), ErrorKind::NotFound | ErrorKind::InvalidInput) => {
                Some(Error::io(&path, e))
            }
            _ => None,
        };
        let from_disk = matches!(self.files, Files::Folder);
        if let Some(refused) = from_disk.then(|| looked.into_iter().find_map(refused)).flatten() {
            return refused;
        }
        let part = if part.is_empty() { "weights" } else { part };
        Error::corrupt(
            self.root,
            format!(
                "the part `{part}` is missing; a model folder in the diffusers layout has {part}/ with {}",
                tried.join(" or ")
            ),
        )
    }
}

fn join(part: &str, file: &str) -> PathString {
    if part.is_empty() { file.to_owned() } else { format!("{part}/{file}") }
}

/// A path inside the model folder, with `/`.
type PathString = String;

fn parsed<T: std::str::FromStr<Err = Error>>(name: Option<&str>, otherwise: T) -> Result<T> {
    name.map_or(Ok(otherwise), str::parse)
}
