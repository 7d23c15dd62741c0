//! The grammars of diffusers and PEFT, whose alphas are text beside the tensors.

use super::conversion::{Format, Plan, alpha, components, fitted, for_python, kind, refused, role};
use super::file::{Entry, Metadata, save, save_among};
use super::spelling;
use crate::atomic_file::{self, Place, Together};
use crate::error::{Error, Result};
use crate::hint::Hint;
use crate::lora::delta::{Delta, Dora, LowRank};
use crate::lora::read::keys::Role;
use crate::lora::read::module::{BiasChange, Module};
use crate::lora::read::tuning::CLASSES;
use crate::weights::Component;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

/// The file names of a PEFT folder: the tensors, and their configuration.
const TENSORS: &str = "adapter_model.safetensors";
const CONFIG: &str = "adapter_config.json";

/// The contents of PEFT's configuration for one component.
#[derive(Debug, Default)]
struct Config {
    /// Path, rank and alpha of every module.
    modules: Vec<(String, usize, f32)>,
    /// How many of them have a magnitude.
    dora: usize,
    /// Whether any has a bias of its own.
    bias: bool,
}

/// Writes diffusers' single file for all components.
pub(super) fn write_diffusers<'a>(
    plan: &mut Plan<'a>,
    chosen: &BTreeMap<&str, &'a [Module]>,
    out: &Path,
    metadata: Metadata,
) -> Result<()> {
    let mut configs: BTreeMap<Component, Config> = BTreeMap::new();
    for (module, changes) in chosen {
        let (component, path) = Component::split(module);
        let config = configs.entry(component).or_default();
        // diffusers looks endings of paths up, whatever transformers calls the tower.
        add(plan, config, module, module, spelling::without_tower(path), changes)?;
    }
    let mut flat = Map::new();
    for (component, config) in &configs {
        let fields = config.fields(*component, Format::Diffusers)?;
        flat.extend(fields.into_iter().map(|(field, value)| (component.path(field), value)));
    }
    let mut metadata = for_python(metadata);
    metadata.insert("lora_adapter_metadata".into(), Value::Object(flat).to_string());
    save(out, &plan.tensors, &metadata, plan.options.force, &plan.options.cancel).map(drop)
}

/// Writes PEFT's folder for one component.
pub(super) fn write_folder<'a>(
    plan: &mut Plan<'a>,
    chosen: &BTreeMap<&str, &'a [Module]>,
    out: &Path,
    metadata: Metadata,
) -> Result<()> {
    let mut config = Config::default();
    let mut component = None;
    for (module, changes) in chosen {
        let (of, path) = Component::split(module);
        if component.is_some_and(|other| other != of) {
            let why = format!(
                "a folder of PEFT holds one component, the file touches {}",
                components(plan.lora)
            );
            let hint = Hint::Choose(&["component"]);
            return Err(Error::bad_request("component", "all", why).with_hint(hint));
        }
        component = Some(of);
        let name = spelling::peft(module);
        add(plan, &mut config, module, &name, spelling::without_tower(path), changes)?;
    }
    let component = component.unwrap_or(Component::Other);
    let mut fields = config.fields(component, Format::Peft)?;
    fields.insert("peft_type".into(), "LORA".into());
    fields.insert("inference_mode".into(), true.into());
    if let Some((_, class, library)) = CLASSES.iter().find(|(known, ..)| *known == component) {
        let mapping = json!({ "base_model_class": class, "parent_library": library });
        fields.insert("auto_mapping".into(), mapping);
    }
    fields.insert("base_model_name_or_path".into(), Value::Null);
    fields.insert("task_type".into(), Value::Null);
    let (tensors, settings) = (out.join(TENSORS), out.join(CONFIG));
    let mut both = Together::beside(&tensors, plan.options.force)?;
    both.check(&settings, false)?;
    let metadata = for_python(metadata);
    save_among(&mut both, &tensors, &plan.tensors, &metadata, &plan.options.cancel)?;
    let text = format!("{:#}\n", Value::Object(fields));
    both.file(&settings, |file| {
        file.write_all(text.as_bytes()).map_err(|e| Error::write(&settings, e))
    })?;
    both.commit()
}

/// Finds out whether a folder of PEFT may be written at `out`, before the work for it begins.
///
/// # Errors
/// [`Error::Exists`] without `force`; [`Error::BadRequest`] for what is no folder; [`Error::Write`].
pub(super) fn check_folder(out: &Path, force: bool) -> Result<()> {
    match Place::of(out)? {
        // The folder itself is made when there is something to put into it.
        Place::Free => return atomic_file::prepare(out).map(drop),
        Place::Folder => {}
        _ => {
            let why = "PEFT's format is a folder of two files; expected a folder or a new name";
            return Err(Error::bad_request("output", out.display(), why));
        }
    }
    for name in [TENSORS, CONFIG] {
        match Place::of(&out.join(name))? {
            Place::Taken if !force => return Err(Error::Exists { path: out.join(name) }),
            _ => atomic_file::prepare(&out.join(name)).map(drop)?,
        }
    }
    Ok(())
}

/// Adds the tensors of one module; `name` stands in the keys, `path` in the configuration.
fn add<'a>(
    plan: &mut Plan<'a>,
    config: &mut Config,
    module: &str,
    name: &str,
    path: &str,
    changes: &'a [Module],
) -> Result<()> {
    let shape = plan.shape(module);
    for change in changes {
        let Some(weight) = &change.weight else {
            add_bias(plan, config, module, name, change)?;
            continue;
        };
        let fits = |low: &LowRank| low.mid.is_none() && low.sparse.is_none() && !low.is_reversed();
        let Delta::LowRank(low) = &weight.delta else {
            return Err(cannot(plan, module, kind(weight)));
        };
        if !fits(low) {
            return Err(cannot(plan, module, kind(weight)));
        }
        for (word, theirs, factor) in
            [("lora_down.weight", "lora_A", &low.down), ("lora_up.weight", "lora_B", &low.up)]
        {
            let shape = fitted(&weight.delta, word, shape, factor.shape());
            let entry = Entry::copy(factor, shape, plan.wanted());
            plan.put(format!("{name}.{theirs}.weight"), entry)?;
        }
        if let Some(dora) = &weight.dora {
            config.dora += 1;
            let shape = magnitude(dora, shape)
                .ok_or_else(|| cannot(plan, module, "DoRA with a magnitude for each input"))?;
            let entry = Entry::copy(&dora.magnitude, shape, plan.wanted());
            plan.put(format!("{name}.{}", magnitude_word(plan, module)), entry)?;
        }
        let rank = low.rank();
        config.modules.push((path.to_owned(), rank, alpha(plan.lora, change, rank, weight.scale)));
    }
    Ok(())
}

fn add_bias<'a>(
    plan: &mut Plan<'a>,
    config: &mut Config,
    module: &str,
    name: &str,
    change: &'a Module,
) -> Result<()> {
    match &change.bias {
        Some(BiasChange::Add { values, .. }) if role(values) == Some(Role::UpBias) => {
            config.bias = true;
            let entry = Entry::copy(values, values.shape().to_vec(), plan.wanted());
            plan.put(format!("{name}.lora_B.bias"), entry)
        }
        Some(BiasChange::Add { .. }) => {
            Err(cannot(plan, module, "change of a bias (diff_b, b_norm)"))
        }
        Some(BiasChange::Set(_)) => Err(cannot(plan, module, "whole bias")),
        Some(BiasChange::Scale(_)) => Err(cannot(plan, module, "IA3 of PEFT")),
        None => Ok(()),
    }
}

fn cannot(plan: &Plan<'_>, module: &str, kind: &str) -> Error {
    let how = Hint::any_of([Hint::set("format", "kohya"), Hint::MakeLora]);
    refused(module, kind, plan.options.format, how)
}

/// The end of a magnitude's key: transformers looks for `weight` where PEFT and diffusers do not.
fn magnitude_word(plan: &Plan<'_>, module: &str) -> &'static str {
    let text = plan.options.format == Format::Diffusers && Component::of(module).is_text();
    if text { "lora_magnitude_vector.weight" } else { "lora_magnitude_vector" }
}

/// PEFT's shape of a magnitude; `None` for one along the inputs, which PEFT does not have.
fn magnitude(dora: &Dora, weight: &[usize]) -> Option<Vec<usize>> {
    let count = dora.magnitude.elements();
    if dora.on_input {
        return None;
    }
    Some(if weight.len() > 2 { vec![1, count, 1, 1] } else { vec![count] })
}

impl Config {
    /// The fields of PEFT's `LoraConfig`: the most frequent rank and alpha, and the others by path.
    fn fields(&self, component: Component, format: Format) -> Result<Map<String, Value>> {
        if self.dora > 0 && self.dora < self.modules.len() {
            return Err(refused(
                component.name(),
                "mixture of LoRA and DoRA modules",
                format,
                Hint::set_because(
                    "format",
                    "kohya",
                    "PEFT's use_dora holds for all modules of a component",
                ),
            ));
        }
        let rank = most_frequent(self.modules.iter().map(|(_, rank, _)| *rank as f64));
        let alpha = most_frequent(self.modules.iter().map(|(.., alpha)| f64::from(*alpha)));
        let (mut ranks, mut alphas) = (Map::new(), Map::new());
        for (path, r, a) in &self.modules {
            if *r as f64 != rank {
                ranks.insert(path.clone(), json!(r));
            }
            if f64::from(*a) != alpha {
                alphas.insert(path.clone(), number(f64::from(*a)));
            }
        }
        let targets: Vec<&str> = self.modules.iter().map(|(path, ..)| path.as_str()).collect();
        let fields = json!({
            "r": rank as usize,
            "lora_alpha": number(alpha),
            "rank_pattern": ranks,
            "alpha_pattern": alphas,
            "target_modules": targets,
            "lora_dropout": 0.0,
            "bias": "none",
            "fan_in_fan_out": false,
            "use_rslora": false,
            "use_dora": self.dora > 0,
            "lora_bias": self.bias,
        });
        match fields {
            Value::Object(fields) => Ok(fields),
            _ => Err(Error::Internal("a configuration that is no object".into())),
        }
    }
}

/// A whole number where it is one: PEFT's alphas are declared so.
fn number(value: f64) -> Value {
    if value.fract() == 0.0 && value.abs() < 1e15 { json!(value as i64) } else { json!(value) }
}

/// The value that comes most often, the first of several; 1 for none.
fn most_frequent(values: impl Iterator<Item = f64>) -> f64 {
    let mut counts: Vec<(f64, usize)> = Vec::new();
    for value in values {
        match counts.iter_mut().find(|(known, _)| *known == value) {
            Some((_, count)) => *count += 1,
            None => counts.push((value, 1)),
        }
    }
    let best = counts.iter().map(|(_, count)| *count).max();
    counts.iter().find(|(_, count)| Some(*count) == best).map_or(1.0, |(value, _)| *value)
}
