//! Files of the original code as training leaves them: wrapped, or with the averages alone.

use super::{averages, index, prefix};
use std::collections::{BTreeMap, BTreeSet};

/// What wrappers put into the path of a module: `torch.compile`, data parallelism, sharding, checkpointing.
const WRAPPERS: [&str; 4] =
    ["_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"];
/// What may stand before all names of a model: a trainer's own module, and its whole state.
const OUTER: [&str; 3] = ["", "model.", "state_dict."];
/// The names that trainers give to the averages of a model's weights.
const AVERAGES: [&str; 4] = ["model_ema.", "ema_model.", "ema.", "state_dict.model_ema."];
/// The UNet inside of a model.
const NETWORK: &str = "diffusion_model.";
/// What every UNet of the original code begins with.
const FIRST: &str = "input_blocks.";
/// The modules at the top of a UNet.
const MODULES: [&str; 6] =
    [FIRST, "middle_block.", "output_blocks.", "time_embed.", "label_emb.", "out."];

/// Where a file has the UNet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// Where the original code has it.
    Expected,
    /// Under this prefix, which may be empty; it is read from there.
    Under(String),
    /// The averages that training keeps beside the model, under this prefix, and no other UNet.
    Averages(String),
    /// It lies under unknown prefixes; it is not read.
    Unknown(Vec<String>),
    /// Nowhere.
    Nowhere,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Place::Under(prefix) if !prefix.is_empty() => {
                write!(f, "a UNet under the prefix `{prefix}`")
            }
            Place::Unknown(prefixes) => {
                let plural = if prefixes.len() > 1 {
                    "UNets under the prefixes"
                } else {
                    "a UNet under the prefix"
                };
                write!(f, "{plural} `{}`", prefixes.join("`, `"))
            }
            Place::Averages(prefix) => write!(f, "averages of training only (under `{prefix}`)"),
            Place::Expected | Place::Under(_) | Place::Nowhere => f.write_str("a UNet"),
        }
    }
}

/// The tensors of a file by the names that the original code gives them.
#[derive(Debug, Clone)]
pub struct OriginalNames {
    /// Maps the original code's names to the file's.
    names: BTreeMap<String, String>,
    place: Place,
}

impl OriginalNames {
    /// Reads the names of a file.
    ///
    /// Where two names come to the same, the one that has less around it counts.
    pub fn of<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        let mut bare: BTreeMap<String, &str> = BTreeMap::new();
        for name in names {
            let same = bare.entry(unwrapped(name)).or_insert(name);
            if name.len() < same.len() {
                *same = name;
            }
        }
        let place = place(&bare);
        let original = |(bare, name): (String, &str)| {
            (original(&bare, &place).unwrap_or(bare), name.to_owned())
        };
        Self { names: bare.into_iter().map(original).collect(), place }
    }

    /// Where the file has the UNet.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// All names of the original code, sorted.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.names.keys().map(String::as_str)
    }

    /// The file's name for a name of the original code.
    pub fn stored(&self, name: &str) -> Option<&str> {
        self.names.get(name).map(String::as_str)
    }
}

/// The path without the steps that wrappers put into it.
fn unwrapped(name: &str) -> String {
    let steps: Vec<&str> = name.split('.').filter(|step| !WRAPPERS.contains(step)).collect();
    steps.join(".")
}

/// Where the names of UNets begin.
fn place(names: &BTreeMap<String, &str>) -> Place {
    let prefixes: BTreeSet<&str> = names.keys().filter_map(|name| before_unet(name)).collect();
    if prefixes.contains(prefix::UNET) {
        return Place::Expected;
    }
    let known = OUTER
        .iter()
        .flat_map(|outer| [format!("{outer}model.{NETWORK}"), format!("{outer}{NETWORK}")]);
    if let Some(prefix) = known.chain([String::new()]).find(|p| prefixes.contains(p.as_str())) {
        return Place::Under(prefix);
    }
    let flat = |start: &&&str| {
        let first =
            format!("{start}{}{}", NETWORK.trim_end_matches('.'), FIRST.trim_end_matches('.'));
        names.keys().any(|name| name.starts_with(&first))
    };
    let dotted = |start: &&&str| {
        [format!("{start}{NETWORK}"), format!("{start}model.{NETWORK}")]
            .iter()
            .any(|prefix| prefixes.contains(prefix.as_str()))
    };
    match AVERAGES.iter().find(|start| flat(start) || dotted(start)) {
        Some(start) => Place::Averages((*start).to_owned()),
        None if prefixes.is_empty() => Place::Nowhere,
        None => Place::Unknown(prefixes.into_iter().map(str::to_owned).collect()),
    }
}

/// What stands before the first block of a UNet; `None` for other names.
fn before_unet(name: &str) -> Option<&str> {
    let at = name.find(FIRST)?;
    let (before, rest) = name.split_at(at);
    let begins = before.is_empty() || before.ends_with('.');
    (begins && index(rest.strip_prefix(FIRST)?).is_some()).then_some(before)
}

/// The original code's name for `name`, where that is another one.
fn original(name: &str, place: &Place) -> Option<String> {
    let inner = |prefix: &str| Some(format!("{}{}", prefix::UNET, name.strip_prefix(prefix)?));
    match place {
        Place::Expected | Place::Unknown(_) | Place::Nowhere => None,
        Place::Under(prefix) if prefix.is_empty() => {
            let unet = MODULES.iter().any(|module| name.starts_with(module));
            unet.then(|| format!("{}{name}", prefix::UNET))
        }
        Place::Under(prefix) => inner(prefix).or_else(|| {
            // What stands before the model stands before its other parts too.
            let outer = prefix.strip_suffix(NETWORK)?;
            let outer = outer.strip_suffix("model.").unwrap_or(outer);
            Some(name.strip_prefix(outer).filter(|_| !outer.is_empty())?.to_owned())
        }),
        Place::Averages(prefix) => {
            let rest = name.strip_prefix(prefix.as_str())?;
            let rest = rest.strip_prefix("model.").unwrap_or(rest);
            let inner = match rest.strip_prefix(NETWORK) {
                Some(inner) => inner.to_owned(),
                None => averages::dotted(rest.strip_prefix(NETWORK.trim_end_matches('.'))?)?,
            };
            Some(format!("{}{inner}", prefix::UNET))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCK: &str = "input_blocks.1.0.in_layers.0.weight";
    const TEXT: &str = "cond_stage_model.transformer.text_model.final_layer_norm.bias";

    fn of(names: &[&str]) -> OriginalNames {
        OriginalNames::of(names.iter().copied())
    }

    #[test]
    fn wrappers_are_taken_off() {
        let standard = format!("model.diffusion_model.{BLOCK}");
        for (unet, text) in [
            (standard.clone(), TEXT.to_owned()),
            (format!("model.diffusion_model._orig_mod.{BLOCK}"), TEXT.to_owned()),
            (format!("module.{standard}"), format!("module.{TEXT}")),
            (format!("_orig_mod.module.{standard}"), format!("_orig_mod.module.{TEXT}")),
            (format!("diffusion_model.{BLOCK}"), TEXT.to_owned()),
            (format!("model.{standard}"), format!("model.{TEXT}")),
            (format!("state_dict.{standard}"), format!("state_dict.{TEXT}")),
            (BLOCK.to_owned(), TEXT.to_owned()),
            (format!("model_ema.diffusion_model{}", BLOCK.replace('.', "")), TEXT.to_owned()),
            (format!("ema.diffusion_model.{BLOCK}"), TEXT.to_owned()),
            (
                format!("model.diffusion_model.{}", BLOCK.replace("0.in", "0.module.in")),
                TEXT.into(),
            ),
        ] {
            let names = of(&[&unet, &text]);
            assert_eq!(names.stored(&standard), Some(&*unet), "{unet}");
            assert_eq!(names.stored(TEXT), Some(&*text), "{text}");
        }
    }

    #[test]
    fn the_model_counts_more_than_its_averages_and_copies() {
        let standard = format!("model.diffusion_model.{BLOCK}");
        let flat = format!("model_ema.diffusion_model{}", BLOCK.replace('.', ""));
        let other = format!("control_model.{BLOCK}");
        let wrapped = format!("_orig_mod.{standard}");
        let names = of(&[&flat, &other, &wrapped, &standard]);
        assert_eq!((names.place(), names.stored(&standard)), (&Place::Expected, Some(&*standard)));
        assert!(names.stored(&flat).is_some(), "other names stay");
    }

    #[test]
    fn other_places_are_said() {
        let names = of(&[&format!("teacher.{BLOCK}"), &format!("student.{BLOCK}")]);
        assert_eq!(names.place().to_string(), "UNets under the prefixes `student.`, `teacher.`");
        let names = of(&[&format!("net.unet.{BLOCK}"), TEXT]);
        assert_eq!(names.place().to_string(), "a UNet under the prefix `net.unet.`");
        for nothing in [TEXT, "xinput_blocks.1.0.a", "x.input_blocks.a", "input_blocks"] {
            assert_eq!(of(&[nothing]).place(), &Place::Nowhere, "{nothing}");
        }
    }
}
