//! SD.Next: A1111's lines with the schedule under a name of its own, and with the parser of the prompt.

use super::told::Told;
use crate::prompt::PromptSyntax;

/// Puts its own words into A1111's.
pub(super) fn read(told: &mut Told) {
    for (name, value) in &mut told.parameters.fields {
        match (name.as_str(), value.as_str()) {
            ("Sampler sigma", _) => "Schedule type".clone_into(name),
            ("Parser", "fixed") => told.syntax = PromptSyntax::Plain,
            ("Parser", "compel") => told.syntax = super::invokeai::compel(),
            _ => {}
        }
    }
    // Its other parsers read A1111's grammar.
    let harmless = ["native", "compel", "xhinker", "a1111", "fixed", "Full parser"];
    told.parameters
        .fields
        .retain(|(name, value)| name != "Parser" || !harmless.contains(&value.as_str()));
}
