//! From the LoRAs that a plan names to adapters whose contents are read.

use super::event::Watch;
use super::model::Model;
use super::warning::Warning;
use super::{Cancel, Pipeline, Plan, Silent};
use crate::error::Result;
use crate::lora::{Dictionary, Distilled, Lora, LoraRef, LoraStack, StackEntry, Strength};
use crate::sampling::PredictionKind;
use std::collections::BTreeMap;
use std::sync::Arc;

impl Pipeline {
    /// The names of this model's modules, in every spelling.
    pub fn dictionary(&self) -> Result<Arc<Dictionary>> {
        self.model.dictionary()
    }

    /// The stack of a plan.
    ///
    /// # Errors
    /// What finding and reading the adapters gives.
    pub fn stack(&self, plan: &Plan) -> Result<LoraStack> {
        self.model.stack(plan, Watch { observer: &Silent, cancel: &Cancel::new() })
    }
}

impl Model {
    /// The LoRAs of a request with every weight said, each found and fit for this model.
    pub(super) fn resolve_loras(&self, plan: &Plan, watch: Watch<'_>) -> Result<Resolved> {
        let kind = self.scheduler(plan).prediction_type;
        let mut resolved = Resolved::default();
        for lora in &plan.loras {
            let (read, strength) = self.adapter(lora, kind, watch)?;
            let made = read.file().distilled().filter(|_| strength.unet.abs() > 0.0);
            resolved.distilled = resolved.distilled.or(made);
            resolved.loras.push(lora.clone().with_strength(strength));
        }
        Ok(resolved)
    }

    /// One adapter, resolved against this model's names.
    fn adapter(
        &self,
        wanted: &LoraRef,
        prediction: PredictionKind,
        watch: Watch<'_>,
    ) -> Result<(Arc<Lora>, Strength)> {
        watch.check()?;
        let found = self.resolver.resolve(&wanted.name)?;
        let strength = wanted.strength(found.weight);
        let dictionary = self.dictionary()?;
        let lora = self.loras.get(&found.file.fingerprint()?, watch.cancel, || {
            Lora::resolve(found.file.clone(), &dictionary, self.reading)
        })?;
        for warning in &lora.report().warnings {
            watch.warn(Warning::Adapter { lora: wanted.name.clone(), text: warning.clone() });
        }
        let (lora_child, model_child) =
            (of_metadata(lora.file().metadata()), child(&self.parts.name));
        if let (Some(theirs), Some(ours)) = (lora_child, model_child)
            && !alike(theirs, ours)
        {
            let (lora, model) = (wanted.name.clone(), self.parts.name.clone());
            watch.warn(Warning::OtherChild { lora, theirs, model, ours });
        }
        if let Some(theirs) = other_prediction(lora.file().metadata(), prediction) {
            let theirs = theirs.to_owned();
            let lora = wanted.name.clone();
            watch.warn(Warning::OtherPrediction { lora, theirs, ours: prediction });
        }
        if let Some(blocks) = &strength.blocks
            && let Some(layout) = crate::lora::Layout::of(dictionary.names())
        {
            blocks.check(layout)?;
        }
        Ok((lora, strength))
    }

    /// The names of this model's modules, in every spelling.
    pub(super) fn dictionary(&self) -> Result<Arc<Dictionary>> {
        let family = self.parts.family.to_string();
        self.names.get(&Cancel::new(), || Ok(Dictionary::new(&*self.residency.base, family)))
    }

    /// The stack of a plan, each adapter found and read: files that change later do not change it.
    pub(super) fn stack(&self, plan: &Plan, watch: Watch<'_>) -> Result<LoraStack> {
        let entry = |wanted: &LoraRef| {
            let kind = self.scheduler(plan).prediction_type;
            let (lora, strength) = self.adapter(wanted, kind, watch)?;
            Ok(StackEntry { lora, strength })
        };
        let entries = plan.loras.iter().map(entry).collect::<Result<_>>()?;
        Ok(LoraStack { entries, method: plan.lora_method, ..self.embeddings(plan, watch)? })
    }
}

/// The LoRAs of a plan as they were found.
#[derive(Debug, Default)]
pub(super) struct Resolved {
    /// With every weight said.
    pub(super) loras: Vec<LoraRef>,
    /// How the first of them that makes a model draw in few steps wants to be used.
    pub(super) distilled: Option<Distilled>,
}

/// Children of SDXL that went so far from it that LoRAs of one do little on another, by what their names hold.
const CHILDREN: [(&str, &str); 6] = [
    ("pony", "Pony"),
    ("noob", "NoobAI"),
    ("illustrious", "Illustrious"),
    ("animagine", "Animagine"),
    ("playground", "Playground"),
    ("cosxl", "CosXL"),
];

/// The child of SDXL that a name mentions.
fn child(name: &str) -> Option<&'static str> {
    let name = name.to_lowercase();
    CHILDREN.iter().find(|(word, _)| name.contains(word)).map(|(_, child)| *child)
}

/// The child of SDXL that a LoRA's trainer names.
fn of_metadata(metadata: &BTreeMap<String, String>) -> Option<&'static str> {
    let keys = ["ss_base_model_version", "ss_sd_model_name", "modelspec.architecture"];
    keys.iter().filter_map(|key| metadata.get(*key)).find_map(|name| child(name))
}

/// Whether LoRAs of one child act on the other: NoobAI was trained from Illustrious.
fn alike(a: &str, b: &str) -> bool {
    const NEAR: [&str; 2] = ["Illustrious", "NoobAI"];
    a == b || (NEAR.contains(&a) && NEAR.contains(&b))
}

/// A file that was trained for another kind of prediction loads; it seldom does what it should.
fn other_prediction(metadata: &BTreeMap<String, String>, ours: PredictionKind) -> Option<&str> {
    let theirs = metadata.get("modelspec.prediction_type")?;
    let same = match theirs.as_str() {
        "epsilon" => ours == PredictionKind::Epsilon,
        "v" | "v_prediction" => ours == PredictionKind::V,
        _ => true,
    };
    (!same).then_some(theirs.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn children_are_found_by_their_names() {
        let metadata = |key: &str, name: &str| BTreeMap::from([(key.to_owned(), name.to_owned())]);
        let found = of_metadata(&metadata("ss_sd_model_name", "ponyDiffusionV6XL.safetensors"));
        assert_eq!(found, Some("Pony"));
        assert_eq!(of_metadata(&metadata("ss_base_model_version", "sdxl_base_v1-0")), None);
        assert_eq!(child("NoobAI-XL-Vpred-v1.0"), Some("NoobAI"));
        assert!(alike("NoobAI", "Illustrious") && !alike("Pony", "Illustrious"));
    }

    #[test]
    fn other_predictions_are_said() {
        let metadata = |value: &str| {
            BTreeMap::from([("modelspec.prediction_type".to_owned(), value.to_owned())])
        };
        let ours = PredictionKind::Epsilon;
        assert_eq!(other_prediction(&BTreeMap::new(), ours), None);
        assert_eq!(other_prediction(&metadata("epsilon"), ours), None);
        assert_eq!(other_prediction(&metadata("v"), ours), Some("v"));
        assert_eq!(other_prediction(&metadata("v"), PredictionKind::V), None);
    }
}
