//! From the LoRAs that a plan names to adapters whose contents are read.

use super::event::Watch;
use super::model::Model;
use super::warning::Warning;
use super::{Cancel, Pipeline, Plan, Silent};
use crate::error::Result;
use crate::lora::{Dictionary, Lora, LoraRef, LoraStack, StackEntry, Strength};
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
    pub(super) fn resolve_loras(
        &self,
        loras: &[LoraRef],
        watch: Watch<'_>,
    ) -> Result<Vec<LoraRef>> {
        let resolve = |lora: &LoraRef| {
            let (_, strength) = self.adapter(lora, watch)?;
            Ok(lora.clone().with_strength(strength))
        };
        loras.iter().map(resolve).collect()
    }

    /// One adapter, resolved against this model's names.
    fn adapter(&self, wanted: &LoraRef, watch: Watch<'_>) -> Result<(Arc<Lora>, Strength)> {
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
        let prediction = self.parts.scheduler.prediction_type;
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
            let (lora, strength) = self.adapter(wanted, watch)?;
            Ok(StackEntry { lora, strength })
        };
        let entries = plan.loras.iter().map(entry).collect::<Result<_>>()?;
        Ok(LoraStack { entries, method: plan.lora_method, ..self.embeddings(plan, watch)? })
    }
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
