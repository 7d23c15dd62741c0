//! Why a picture is none: looked for once numbers came out that are NaN or infinite, so that nothing is
//! slower while all is well.

use super::Plan;
use super::model::Model;
use super::networks::Estimator;
use crate::conditioning::Conditioning;
use crate::error::{Error, Result};
use crate::hint::Hint;
use crate::weights::{Checkpoint, Component, NotFinite, Precision, Products, WeightSource};
use candle_core::{DType, Device, Tensor};
use std::sync::Arc;

/// What took part in a picture.
#[derive(Debug)]
pub(super) struct Suspects {
    conditions: Vec<Arc<Conditioning>>,
    /// The adapters as their users wrote them.
    loras: Vec<String>,
}

impl Suspects {
    pub(super) fn new(estimators: &[Estimator], plan: &Plan) -> Self {
        let conditions = estimators.iter().map(|e| e.conditioning.clone()).collect();
        Self { conditions, loras: plan.loras.iter().map(ToString::to_string).collect() }
    }

    /// The reason for `error`, where it is that a picture is none; other errors stay as they are.
    ///
    /// `latents`: what was decoded.
    pub(super) fn explain(&self, model: &Model, latents: &Tensor, error: Error) -> Error {
        let Error::NotFinite { count, of } = error else { return error };
        let numbers = format!("{count} numbers of {of} that are NaN or infinite");
        self.reason(model, latents, &numbers).unwrap_or_else(|error| error)
    }

    fn reason(&self, model: &Model, latents: &Tensor, numbers: &str) -> Result<Error> {
        let source = &*model.parts.source;
        let mut components = self.culprit(model, latents)?;
        let first = components.first().copied().unwrap_or(Component::UNet);
        // What one part was given may be another part's fault: the encoder's, of networks that paint over a picture.
        let others = Component::ALL.into_iter().filter(|other| !components.contains(other));
        components.extend(others.collect::<Vec<_>>());
        for component in components {
            if let Some(error) = broken(source, component)? {
                return Ok(error);
            }
        }
        let part = in_words(first);
        if let Some(narrow) = narrow(source, first) {
            return Ok(Error::unsupported(
                format!("computing {part} of this model in {narrow} (it produced {numbers})"),
                Hint::set("dtype", "f32"),
            ));
        }
        let loras = if self.loras.is_empty() {
            "no LoRA was active; the file is damaged, or another kind of model than it seems".into()
        } else {
            format!(
                "active LoRAs: {}; lower their weights, or leave them out",
                self.loras.join(", ")
            )
        };
        let path = source.file_of(first);
        let why = format!(
            "{part} overflowed in f32: {numbers}, although its weights are finite; {loras}"
        );
        Ok(Error::corrupt(path, why))
    }

    /// The components of the first part whose results are not finite.
    fn culprit(&self, model: &Model, latents: &Tensor) -> Result<Vec<Component>> {
        for conditioning in &self.conditions {
            let pooled = conditioning.added.as_ref().map(|added| &added.pooled);
            for features in std::iter::once(&conditioning.context).chain(pooled) {
                if !is_finite(features)? {
                    return Ok(model.parts.text_components());
                }
            }
        }
        Ok(vec![if is_finite(latents)? { Component::Vae } else { Component::UNet }])
    }
}

impl Model {
    /// A weight of the model that is not finite makes every sum with an adapter so, and the adapter is not to
    /// blame.
    pub(super) fn or_the_models_fault(&self, error: Error, components: &[Component]) -> Error {
        if !matches!(error.inner(), Error::Corrupt { why, .. } if why.contains("not finite")) {
            return error;
        }
        let mut found = components.iter().map(|part| broken(&self.parts.source, *part));
        match found.find(|found| !matches!(found, Ok(None))) {
            Some(Ok(Some(models)) | Err(models)) => models,
            _ => error,
        }
    }
}

/// What is wrong with the weights of a component; `None` when they are numbers.
fn broken(source: &Checkpoint, component: Component) -> Result<Option<Error>> {
    let rewritten = source.rewritten(component);
    let advice = "the file was written to while it was in use: start again, and replace a model by renaming another over it";
    let Some(NotFinite { path, tensor, count, of, others }) = source.not_finite(component)? else {
        return Ok(rewritten.map(|path| Error::corrupt(path, advice)));
    };
    let more = if others > 0 { format!(", as in {others} more tensors") } else { String::new() };
    let advice = if rewritten.is_some() {
        advice
    } else {
        "the file is damaged, or was made by a merge or a training that failed"
    };
    let why = format!(
        "`{tensor}` is not finite: {count} of {of} numbers are NaN or infinite{more}; {advice}"
    );
    Ok(Some(Error::corrupt(path, why)))
}

fn in_words(component: Component) -> &'static str {
    match component {
        Component::UNet => "the UNet",
        Component::Vae => "the VAE",
        _ => "the text encoder",
    }
}

/// The float type in which a component is computed, where that is none of 32 bits.
fn narrow(source: &Checkpoint, component: Component) -> Option<&'static str> {
    match (source.products(component), source.dtype(component)) {
        (_, DType::F16) => Some("f16"),
        (Products::Packed(Precision::Bf16), _) | (_, DType::BF16) => Some("bf16"),
        _ => None,
    }
}

fn is_finite(tensor: &Tensor) -> Result<bool> {
    let numbers = tensor.flatten_all()?.to_device(&Device::Cpu)?.to_dtype(DType::F32)?;
    Ok(numbers.to_vec1::<f32>()?.iter().all(|value| value.is_finite()))
}
