//! A conversion at work: the tensors that it gathers under new names, whatever the target's grammar.

use super::file::{Entry, FileDtype, Metadata};
use crate::cancel::Cancel;
use crate::error::{Error, Result};
use crate::hint::Hint;
use crate::lora::delta::{Delta, Rotation};
use crate::lora::read::keys::{self, Role};
use crate::lora::read::module::{Module, WeightChange};
use crate::lora::{Dictionary, Inversion, Lora};
use crate::weights::Component;
use std::collections::BTreeMap;
use std::str::FromStr;

/// A grammar of adapter files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// kohya's: `lora_unet_….lora_down.weight` with an alpha each; what every tool reads.
    Kohya,
    /// diffusers': `unet.….lora_A.weight`, alphas in the metadata.
    Diffusers,
    /// PEFT's folder of one component: `adapter_model.safetensors` and `adapter_config.json`.
    Peft,
}

impl Format {
    /// The name as in flags.
    pub fn name(self) -> &'static str {
        match self {
            Format::Kohya => "kohya",
            Format::Diffusers => "diffusers",
            Format::Peft => "peft",
        }
    }
}

impl FromStr for Format {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let all = [Format::Kohya, Format::Diffusers, Format::Peft];
        all.into_iter()
            .find(|format| format.name() == text)
            .ok_or_else(|| Error::bad_request("to", text, "expected kohya, diffusers or peft"))
    }
}

/// How a conversion is done.
#[derive(Debug, Clone)]
pub struct ConvertOptions {
    /// The grammar to write.
    pub format: Format,
    /// The only component to write; `None` for all that the file touches.
    pub component: Option<String>,
    /// Float type to write; `None` keeps every tensor as it is.
    pub precision: Option<FileDtype>,
    /// Whether files may be replaced.
    pub force: bool,
    /// Stops the work between two tensors.
    pub cancel: Cancel,
}

/// The components that an adapter touches, in words.
pub(super) fn components(lora: &Lora) -> String {
    let mut names: Vec<&str> = lora.modules().map(|module| Component::of(module).name()).collect();
    names.dedup();
    names.join(", ")
}

/// A conversion at work: tensors under their new names.
pub(super) struct Plan<'a> {
    pub(super) lora: &'a Lora,
    pub(super) base: &'a Dictionary,
    pub(super) options: &'a ConvertOptions,
    pub(super) tensors: BTreeMap<String, Entry<'a>>,
    pub(super) warnings: Vec<String>,
}

impl<'a> Plan<'a> {
    /// Adds a tensor.
    ///
    /// # Errors
    /// [`Error::Unsupported`] when the name is taken: the file changes a module twice in one way.
    pub(super) fn put(&mut self, name: String, entry: Entry<'a>) -> Result<()> {
        if self.tensors.contains_key(&name) {
            return Err(Error::unsupported(
                format!("`{name}` twice: the file changes a module by several factors"),
                Hint::MakeLora,
            ));
        }
        self.tensors.insert(name, entry);
        Ok(())
    }

    pub(super) fn warn_about_leftovers(&mut self) {
        let words = self.lora.inversions().len();
        if words > 0 && self.options.format != Format::Kohya {
            self.warnings.push(format!("{words} words (textual inversions) are left out"));
        }
        let unmatched = self.lora.report().unmatched.len();
        if unmatched > 0 {
            self.warnings.push(format!("{unmatched} keys that fit nothing are left out"));
        }
    }

    /// Shape of a module's weight in the base.
    pub(super) fn shape(&self, module: &str) -> &'a [usize] {
        self.base.shape(&format!("{module}.weight")).unwrap_or_default()
    }

    pub(super) fn wanted(&self) -> Option<FileDtype> {
        self.options.precision
    }

    /// A tensor times `scale`, copied when that is 1.
    pub(super) fn scaled(&self, factor: &'a crate::lora::factor::Factor, scale: f32) -> Entry<'a> {
        let shape = factor.shape().to_vec();
        if scale == 1.0 {
            return Entry::copy(factor, shape, self.wanted());
        }
        Entry::lazy(shape, self.wanted().unwrap_or_default(), move || {
            Ok(factor.read()?.into_iter().map(|v| v * scale).collect())
        })
    }
}

/// The shape of a factor of a LoRA as the module's own layer has it: 4-D for convolutions, 2-D
/// for linear layers; other tensors keep theirs.
pub(super) fn fitted(delta: &Delta, word: &str, weight: &[usize], stored: &[usize]) -> Vec<usize> {
    let Delta::LowRank(low) = delta else { return stored.to_vec() };
    let rank = low.rank();
    let kernel = if low.mid.is_some() { &[1, 1][..] } else { weight.get(2..).unwrap_or_default() };
    let ones: Vec<usize> = kernel.iter().map(|_| 1).collect();
    let fitted: Vec<usize> = match word {
        "lora_down.weight" => {
            let inputs = weight.get(1).copied().unwrap_or(1);
            [&[rank, inputs], kernel].concat()
        }
        "lora_up.weight" => [&[weight.first().copied().unwrap_or(1), rank], &ones[..]].concat(),
        _ => return stored.to_vec(),
    };
    let same = fitted.iter().product::<usize>() == stored.iter().product::<usize>();
    if same { fitted } else { stored.to_vec() }
}

/// The textual inversions of the file, under the names that every tool reads.
pub(super) fn words<'a>(
    inversions: impl IntoIterator<Item = &'a Inversion>,
    wanted: Option<FileDtype>,
) -> Vec<(String, Entry<'a>)> {
    let mut words = Vec::new();
    for word in inversions {
        let two = word.factors().len() > 1;
        for (component, factor) in word.factors() {
            let inner = match (two, *component) {
                (_, Component::TextEncoder2) => "clip_g",
                (true, _) => "clip_l",
                (false, _) => "string_to_param.*",
            };
            let entry = Entry::copy(factor, factor.shape().to_vec(), wanted);
            words.push((format!("bundle_emb.{}.{inner}", word.token), entry));
        }
    }
    words
}

/// The alpha that gives `scale` back when it is divided by `rank`: the file's own where it has one.
pub(super) fn alpha(lora: &Lora, change: &Module, rank: usize, scale: f32) -> f32 {
    let rank = rank.max(1) as f32;
    let stem = &change.stem;
    let tensor = lora.file.main.read_f32(&format!("{stem}.alpha"), None).ok();
    let tensor = tensor.and_then(|values| values.first().copied());
    let tuned = lora.file.tunings.of(stem).map(|tuning| tuning.alpha());
    let product = scale * rank;
    let near = [product, product.next_up(), product.next_down()];
    let mut candidates = tensor.into_iter().chain(tuned).chain(near);
    candidates.find(|alpha| alpha / rank == scale).unwrap_or(product)
}

/// The name of a change in error messages.
pub(super) fn kind(weight: &WeightChange) -> &'static str {
    match &weight.delta {
        Delta::LowRank(low) if low.mid.is_some() => "LoCon with a core (lora_mid)",
        Delta::LowRank(low) if low.sparse.is_some() => "LoRA with a sparse part (bias_indices)",
        Delta::LowRank(low) if low.is_reversed() => "LoCon with its kernel in lora_up",
        Delta::LowRank(low) if low.is_conv() => "LoCon",
        Delta::LowRank(_) => "LoRA",
        Delta::Hada(_) => "LoHa",
        Delta::Kron(_) => "LoKr",
        Delta::Glora(_) => "GLoRA",
        Delta::Ia3(ia3) if ia3.neutral == 0.0 => "IA3",
        Delta::Ia3(_) => "IA3 of PEFT",
        Delta::Rotation(Rotation::Rows { .. }) => "OFT or BOFT",
        Delta::Rotation(_) => "OFT or BOFT of PEFT",
        Delta::Full(_) => "full difference (diff, w_norm)",
        Delta::Set(_) => "whole weight (set_weight)",
        Delta::Rows { .. } => "table of trained tokens (trainable_token_indices)",
        Delta::Table { .. } => "LoRA of an embedding table",
        Delta::Magnitude => "DoRA magnitude without a LoRA",
    }
}

/// The refusal of a kind that the target's grammar has no words for.
pub(super) fn refused(module: &str, kind: &str, format: Format, how: Hint) -> Error {
    Error::unsupported(format!("`{module}`: a {kind} in the format {}", format.name()), how)
}

/// The role of a tensor by its name in the file.
pub(super) fn role(factor: &crate::lora::factor::Factor) -> Option<Role> {
    keys::split(factor.name()).map(|key| key.role)
}

/// The notes of `metadata` for files that python reads.
pub(super) fn for_python(mut metadata: Metadata) -> Metadata {
    // transformers and PEFT ask for it.
    metadata.insert("format".into(), "pt".into());
    metadata
}
