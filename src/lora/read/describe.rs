//! What a file holds, in numbers, for people who inspect it before they use it.

use crate::error::Result;
use crate::lora::Lora;
use crate::lora::delta::Delta;
use crate::lora::read::module::WeightChange;
use crate::room;
use crate::weights::WeightSource;
use rayon::prelude::*;
use serde::Serialize;

/// One changed module.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ModuleInfo {
    /// Canonical name without `.weight`.
    pub module: String,
    /// `lora`, `locon`, `loha`, `lokr`, `glora`, `ia3`, `oft`, `boft`, `full`, `set`, `tokens`, `bias`; with
    /// `+dora` where it has a magnitude.
    pub kind: String,
    /// Rank, where the kind has one.
    pub rank: Option<usize>,
    /// alpha / rank, or what stands for it.
    pub scale: f32,
    /// Element type of the first tensor.
    pub dtype: String,
    /// Euclidean norm of the change at weight 1; `None` for kinds that depend on the base's weights.
    pub norm: Option<f32>,
}

impl Lora {
    /// Every changed module, by name.
    ///
    /// `base`: for shapes; its weights are not read.
    ///
    /// # Errors
    /// Errors of reading the file.
    pub fn describe(&self, base: &dyn WeightSource) -> Result<Vec<ModuleInfo>> {
        let modules: Vec<_> = self.modules.iter().collect();
        let described = modules.par_iter().flat_map_iter(|(name, changes)| {
            changes.iter().map(move |change| {
                let site = crate::weights::Site::new(format!("{name}.weight"));
                let shape = base.shape(&site).unwrap_or_default();
                let dtype = change.factors().first().and_then(|factor| factor.dtype());
                let dtype = dtype.map_or_else(|| "scaled fp8".to_owned(), |d| d.to_string());
                let module = (*name).clone();
                Ok(match &change.weight {
                    Some(weight) => ModuleInfo {
                        module,
                        kind: kind(weight),
                        rank: weight.delta.rank(),
                        scale: weight.scale,
                        dtype,
                        norm: norm(weight, &shape)?,
                    },
                    None => ModuleInfo {
                        module,
                        kind: "bias".into(),
                        rank: None,
                        scale: 1.0,
                        dtype,
                        norm: None,
                    },
                })
            })
        });
        described.collect()
    }
}

fn kind(change: &WeightChange) -> String {
    match (&change.delta, &change.dora) {
        (Delta::Magnitude, _) | (_, None) => change.delta.kind().to_owned(),
        (delta, Some(_)) => format!("{}+dora", delta.kind()),
    }
}

fn norm(change: &WeightChange, shape: &[usize]) -> Result<Option<f32>> {
    if !change.delta.is_additive() || change.dora.is_some() {
        return Ok(None);
    }
    let mut delta = room::zeros(shape.iter().product(), "the weights of adapters")?;
    change.delta.add_to(&mut delta, shape, change.scale)?;
    let squares: f64 = delta.iter().map(|v| f64::from(*v).powi(2)).sum();
    Ok(Some(squares.sqrt() as f32))
}
