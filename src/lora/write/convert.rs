//! Writing the tensors of an adapter under the names of another format.

use super::conversion::{
    ConvertOptions, Format, Plan, alpha, components, fitted, kind, refused, words,
};
use super::file::{Entry, FileDtype, check_free, passed_on, save};
use super::parts::parts;
use super::{peft, spelling};
use crate::error::{Error, Result};
use crate::hint::Hint;
use crate::lora::delta::{Delta, Dora, Rotation};
use crate::lora::read::module::{BiasChange, Module};
use crate::lora::{Dictionary, Lora};
use crate::weights::Component;
use safetensors::Dtype;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The result of a conversion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Converted {
    /// The file, or PEFT's folder.
    pub path: PathBuf,
    /// Tensors in it.
    pub tensors: usize,
    /// Modules in it.
    pub modules: usize,
    /// Warnings for the user.
    pub warnings: Vec<String>,
}

/// Writes `lora` under the names of another grammar to `out`.
///
/// Tensors are copied bit by bit; only what the target has no word for (a factor beside alpha, a
/// scaled bias) is multiplied out, in f32.
///
/// # Errors
/// [`Error::Unsupported`] for kinds that the target cannot hold, naming them; [`Error::BadRequest`]
/// for PEFT when the file touches several components; [`Error::Exists`]; what writing gives.
pub fn convert(
    lora: &Lora,
    base: &Dictionary,
    out: &Path,
    options: &ConvertOptions,
) -> Result<Converted> {
    match options.format {
        Format::Peft => peft::check_folder(out, options.force)?,
        _ => check_free(out, options.force)?,
    }
    let component = options.component.as_deref();
    let mut chosen: BTreeMap<&str, &[Module]> = BTreeMap::new();
    for (module, changes) in &lora.modules {
        if component.is_none_or(|wanted| Component::of(module).name() == wanted) {
            chosen.insert(module, changes);
        }
    }
    if let (Some(wanted), true) = (component, chosen.is_empty()) {
        let why = format!("the file does not touch it; expected one of {}", components(lora));
        return Err(Error::bad_request("component", wanted, why));
    }
    let metadata =
        passed_on(lora.file.metadata(), &format!("convert to {}", options.format.name()));
    let mut plan = Plan { lora, base, options, tensors: BTreeMap::new(), warnings: Vec::new() };
    plan.warn_about_leftovers();
    match options.format {
        Format::Kohya => {
            plan.kohya(&chosen)?;
            save(out, &plan.tensors, &metadata, options.force, &options.cancel)?;
        }
        Format::Diffusers => peft::write_diffusers(&mut plan, &chosen, out, metadata)?,
        Format::Peft => peft::write_folder(&mut plan, &chosen, out, metadata)?,
    }
    let Plan { tensors, warnings, .. } = plan;
    let (tensors, modules) = (tensors.len(), chosen.len());
    Ok(Converted { path: out.to_path_buf(), tensors, modules, warnings })
}

impl<'a> Plan<'a> {
    fn kohya(&mut self, chosen: &BTreeMap<&str, &'a [Module]>) -> Result<()> {
        for (module, changes) in chosen {
            let stem = spelling::kohya(self.base, module);
            for change in *changes {
                self.kohya_module(module, &stem, change)?;
            }
        }
        if self.options.component.is_none() {
            let inversions = self.lora.inversions().iter().map(AsRef::as_ref);
            self.tensors.extend(words(inversions, self.wanted()));
        }
        Ok(())
    }

    fn kohya_module(&mut self, module: &str, stem: &str, change: &'a Module) -> Result<()> {
        let shape = self.shape(module);
        if let Some(weight) = &change.weight {
            self.kohya_weight(module, stem, change)?;
            if let Some(dora) = &weight.dora {
                let entry =
                    Entry::copy(&dora.magnitude, kohya_magnitude(dora, shape), self.wanted());
                self.put(format!("{stem}.dora_scale"), entry)?;
            }
        }
        match &change.bias {
            Some(BiasChange::Add { values, scale }) => {
                let word = if shape.len() == 1 { "b_norm" } else { "diff_b" };
                let entry = self.scaled(values, *scale);
                self.put(format!("{stem}.{word}"), entry)
            }
            Some(BiasChange::Set(values)) => {
                let entry = self.scaled(values, 1.0);
                self.put(format!("{stem}.bias.set_weight"), entry)
            }
            // It belongs to an IA3 of PEFT, whose weight was refused.
            Some(BiasChange::Scale(_)) | None => Ok(()),
        }
    }

    fn kohya_weight(&mut self, module: &str, stem: &str, change: &'a Module) -> Result<()> {
        let Some(weight) = &change.weight else { return Ok(()) };
        let shape = self.shape(module);
        let parts = parts(&weight.delta).ok_or_else(|| {
            let kind = kind(weight);
            refused(module, kind, Format::Kohya, Hint::MakeLora)
        })?;
        if let Delta::Full(factor) = &weight.delta {
            let word = if shape.len() == 1 { "w_norm" } else { "diff" };
            let entry = self.scaled(factor, weight.scale);
            return self.put(format!("{stem}.{word}"), entry);
        }
        for (word, factor) in &parts {
            let shape = fitted(&weight.delta, word, shape, factor.shape());
            let wanted = if word.starts_with("bias_indices") { None } else { self.wanted() };
            self.put(format!("{stem}.{word}"), Entry::copy(factor, shape, wanted))?;
        }
        let like = parts.first().and_then(|(_, factor)| factor.stored()).unwrap_or(Dtype::F32);
        self.kohya_numbers(stem, module, change, like)
    }

    /// Alpha, and the flags that are numbers.
    fn kohya_numbers(
        &mut self,
        stem: &str,
        module: &str,
        change: &'a Module,
        like: Dtype,
    ) -> Result<()> {
        let Some(weight) = &change.weight else { return Ok(()) };
        let outputs = self.shape(module).first().copied().unwrap_or(1) as f32;
        let alpha = match &weight.delta {
            Delta::Rotation(Rotation::Rows { limit, .. }) => limit.map(|limit| limit / outputs),
            Delta::Kron(kron) if kron.rank().is_none() && weight.scale != 1.0 => {
                return Err(refused(
                    module,
                    "scaled LoKr of two whole factors",
                    Format::Kohya,
                    Hint::MakeLora,
                ));
            }
            delta => delta.rank().map(|rank| alpha(self.lora, change, rank, weight.scale)),
        };
        if let Some(alpha) = alpha {
            self.put(format!("{stem}.alpha"), Entry::scalar(alpha, like))?;
        }
        match &weight.delta {
            Delta::Ia3(ia3) => {
                let flag = f32::from(u8::from(ia3.on_input));
                self.put(format!("{stem}.on_input"), Entry::scalar(flag, like))
            }
            Delta::LowRank(low) if low.sparse.is_some() => {
                let shape = self.shape(module);
                let size = [shape.first().copied().unwrap_or(1), shape.iter().skip(1).product()];
                let size = size.map(|n| n as f32).to_vec();
                let entry = Entry::values(vec![2], FileDtype::F32, &size)?;
                self.put(format!("{stem}.bias_size"), entry)
            }
            _ => Ok(()),
        }
    }
}

/// kohya's and LyCORIS' shape of a magnitude: one number a row, or one a column.
fn kohya_magnitude(dora: &Dora, weight: &[usize]) -> Vec<usize> {
    let mut shape = vec![1; weight.len()];
    let axis = usize::from(dora.on_input);
    if let Some(dim) = shape.get_mut(axis) {
        *dim = dora.magnitude.elements();
    }
    shape
}
