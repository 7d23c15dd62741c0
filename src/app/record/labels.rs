//! Which settings of other programs are followed, and which change nothing.
//!
//! Every other one is named: what is not known is not taken as harmless.

use crate::picture::Parameters;
use crate::pipeline::fields;

/// Fields that say something about a picture and change nothing in it.
const HARMLESS: [&str; 24] = [
    "Version",
    "Model hash",
    "VAE hash",
    "Lora hashes",
    "TI hashes",
    "Hashes",
    "Batch size",
    "Batch pos",
    "Created Date",
    "Civitai resources",
    "Civitai metadata",
    "Template",
    "Negative Template",
    "User",
    "App",
    "Backend",
    "Pipeline",
    "Time",
    "Time taken",
    // What was typed before styles and wildcards; the prompt is what was drawn.
    "Raw prompt",
    "Raw negative prompt",
    // The guidance of models that were distilled with one, which colora does not have.
    "Guidance",
    // sd.cpp repeats everything as JSON.
    "SDCPP",
    "metadata_scheme",
];
/// Settings that are named at most; whoever has more has read the first.
const MOST_NAMED: usize = 64;
/// Fields that change nothing with these values.
const HARMLESS_AS: [(&str, &[&str]); 16] = [
    ("RNG", &["CPU", "cpu"]),
    ("VAE", &["Automatic", "None", "Default (model)", "default"]),
    ("Eta", &["0", "0.0", "0.000000"]),
    ("FP8 weight", &["Disable"]),
    ("Operations", &["txt2img"]),
    ("Tiling", &["False"]),
    ("Seed resize from", &["0x0", "-1x-1"]),
    ("Variation seed strength", &["0", "0.0"]),
    ("Schedule max sigma", &["0"]),
    ("Schedule min sigma", &["0"]),
    ("Schedule rho", &["0"]),
    ("Performance", &["Speed", "Quality"]),
    ("VAE Encoder", &["Full"]),
    ("VAE Decoder", &["Full"]),
    ("refiner_model", &["None", "none"]),
    ("loras", &["[]"]),
];

/// Whether colora wrote these settings.
pub(super) fn ours(parameters: &Parameters) -> bool {
    parameters.get("Version").is_some_and(|version| version.starts_with("colora"))
}

/// The settings that make another picture than the one that colora makes, in their order; `RNG` with its
/// value, and with a remark when `layout` says that there should be one.
pub(super) fn unfollowed(parameters: &Parameters, layout: Layout) -> Vec<String> {
    let ours = ours(parameters);
    let labels = fields::labelled();
    let is_row = |own: bool, name: &str| {
        labels.iter().any(|(_, label)| label.own == own && label.name == name)
    };
    let harmless = |name: &str, value: &str| {
        // Labels of our own mean other things elsewhere.
        name == "Model"
            || is_row(false, name)
            || if ours { name == "Version" || is_row(true, name) } else { HARMLESS.contains(&name) }
            || HARMLESS_AS.iter().any(|(n, values)| *n == name && values.contains(&value))
    };
    let mut named: Vec<String> = Vec::new();
    for (name, value) in &parameters.fields {
        let shown = if name == "RNG" { format!("RNG: {value}") } else { name.clone() };
        if named.len() < MOST_NAMED && !harmless(name, value) && !named.contains(&shown) {
            named.push(shown);
        }
    }
    // By default that program draws noise on the GPU, where the same seed is another picture.
    let drawn = parameters.get("Seed").is_some() && parameters.get("RNG").is_none();
    if drawn && layout == Layout::Lines && !ours {
        named.push("RNG (none named: GPU noise is that program's default)".into());
    }
    named
}

/// How settings are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    /// In lines, as AUTOMATIC1111's web interface and its kin write them.
    Lines,
    /// As JSON, by programs that draw noise on the CPU.
    Json,
}
