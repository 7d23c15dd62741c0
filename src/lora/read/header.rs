//! Alphas that a trainer wrote as plain entries of a file's header, beside or instead of PEFT's JSON.
//!
//! `lora_alpha` and `r`, or `network_alpha` and `rank`, alone or behind a component's name (`unet.lora_alpha`).
//! kohya's `ss_network_alpha` is none of these: its files hold a tensor for every alpha.

use crate::lora::read::tuning::METADATA;
use crate::weights::Component;
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};

/// Entries that hold an alpha, the most telling first.
const ALPHAS: [&str; 2] = ["lora_alpha", "network_alpha"];
/// An entry that means an alpha beside a rank, and could mean anything alone.
const ALPHA: &str = "alpha";
/// Entries that hold the rank that an alpha belongs to.
const RANKS: [&str; 5] = ["r", "rank", "lora_rank", "network_dim", "network_rank"];
/// The entry that is true when alpha is divided by the root of the rank.
const STABILISED: &str = "use_rslora";
/// Names of components before an entry, and the component that they mean.
const COMPONENTS: [(&str, Component); 6] = [
    ("unet", Component::UNet),
    ("text_encoder", Component::TextEncoder),
    ("text_encoder_2", Component::TextEncoder2),
    ("te", Component::TextEncoder),
    ("te1", Component::TextEncoder),
    ("te2", Component::TextEncoder2),
];

/// The alphas in the header of a file.
#[derive(Debug, Default)]
pub(in crate::lora) struct Header {
    /// One note for each component; the one of `None` holds for all.
    notes: BTreeMap<Option<Component>, Note>,
    /// Whether a module asked for its alpha.
    asked: bool,
    /// What is wrong with entries; only reported if a module uses them.
    warnings: Vec<String>,
    /// Entries that PEFT's settings overrule.
    overruled: Vec<String>,
    /// Ranks that modules have, and the scales that follow, by the component of the note that was used.
    met: BTreeMap<Option<Component>, BTreeSet<(usize, Scale)>>,
}

/// The entries for one component.
#[derive(Debug, Clone)]
struct Note {
    /// Name of the entry that holds the alpha.
    entry: String,
    alpha: f32,
    /// Name and value of the entry that holds the rank.
    rank: Option<(String, f32)>,
    stabilised: bool,
}

/// A scale, ordered by its bits; of those of one note larger ranks have smaller ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Scale(u32);

impl Header {
    /// Reads the entries of a header.
    pub(in crate::lora) fn of(metadata: &BTreeMap<String, String>) -> Self {
        let mut header = Header::default();
        let components = COMPONENTS.map(|(prefix, component)| (prefix, Some(component)));
        for (prefix, component) in [("", None)].into_iter().chain(components) {
            let name = |entry: &str| match prefix {
                "" => entry.to_owned(),
                prefix => format!("{prefix}.{entry}"),
            };
            let told = |entry: &str| Some((name(entry), metadata.get(&name(entry))?));
            let Some(mut note) = header.note(&told) else { continue };
            let flag =
                told(STABILISED).or_else(|| Some((String::new(), metadata.get(STABILISED)?)));
            note.stabilised = flag.is_some_and(|(_, value)| is_true(value));
            note.rank = note.rank.or_else(|| header.notes.get(&None)?.rank.clone());
            header.notes.entry(component).or_insert(note);
        }
        header.compare_components();
        header.compare_with_settings(metadata.get(METADATA).map(String::as_str));
        header
    }

    /// The alpha and the rank among the entries that `told` finds.
    fn note<'m>(&mut self, told: &dyn Fn(&str) -> Option<(String, &'m String)>) -> Option<Note> {
        let ranks = self.numbers(RANKS.iter().filter_map(|entry| told(entry)).collect());
        let mut alphas: Vec<_> = ALPHAS.iter().filter_map(|entry| told(entry)).collect();
        if !ranks.is_empty() {
            alphas.extend(told(ALPHA));
        }
        let alphas = self.numbers(alphas);
        let (entry, alpha) = alphas.first()?.clone();
        self.contradiction(&alphas);
        self.contradiction(&ranks);
        Some(Note { entry, alpha, rank: ranks.first().cloned(), stabilised: false })
    }

    /// The entries that hold a number; others are warned of.
    fn numbers(&mut self, entries: Vec<(String, &String)>) -> Vec<(String, f32)> {
        let mut numbers = Vec::new();
        for (entry, value) in entries {
            match value.trim().trim_matches('"').parse::<f32>() {
                Ok(number) if number.is_finite() => numbers.push((entry, number)),
                _ => self.warnings.push(format!(
                    "the entry `{entry}` of its header is `{value}`, which is no number, and is left out"
                )),
            }
        }
        numbers
    }

    /// Warns of entries for the same thing that differ; the first is the one that is taken.
    fn contradiction(&mut self, entries: &[(String, f32)]) {
        let Some((first, value)) = entries.first() else { return };
        for (other, theirs) in entries.iter().filter(|(_, theirs)| theirs != value) {
            self.warnings.push(format!(
                "its header says {value} in `{first}` and {theirs} in `{other}`; the former is taken"
            ));
        }
    }

    /// Warns where a component's alpha differs from the one for all.
    fn compare_components(&mut self) {
        let Some(all) = self.notes.get(&None).cloned() else { return };
        let differ = self.notes.values().filter(|note| note.alpha != all.alpha);
        let warning = |note: &Note| {
            let (ours, theirs) = (note.alpha, all.alpha);
            let (entry, other) = (&note.entry, &all.entry);
            format!(
                "its header says {ours} in `{entry}` and {theirs} in `{other}`; the former is taken for that component"
            )
        };
        let warnings: Vec<String> = differ.map(warning).collect();
        self.warnings.extend(warnings);
    }

    /// Warns where PEFT's settings in the same header have another alpha: they are stronger.
    fn compare_with_settings(&mut self, settings: Option<&str>) {
        let fields =
            settings.and_then(|text| serde_json::from_str::<Map<String, Value>>(text).ok());
        let Some(fields) = fields else { return };
        for (component, note) in &self.notes {
            for (field, value) in &fields {
                let (of, name) = field.rsplit_once('.').unwrap_or(("", field));
                let same =
                    component.is_none_or(|component| of.is_empty() || of == component.name());
                let alpha = value.as_f64().filter(|_| name == "lora_alpha" && same);
                let Some(alpha) = alpha.filter(|alpha| *alpha as f32 != note.alpha) else {
                    continue;
                };
                let (entry, ours) = (&note.entry, note.alpha);
                self.overruled.push(format!(
                    "its header says {ours} in `{entry}` and {alpha} in `{METADATA}` (`{field}`); the latter is taken"
                ));
            }
        }
    }

    /// The scale of a module of `component` whose tensors have this rank; `None` without an alpha.
    pub(in crate::lora) fn scale(&mut self, component: Component, rank: usize) -> Option<f32> {
        self.asked = true;
        let known = |of: Option<Component>| self.notes.get(&of).map(|note| (of, note));
        let (of, note) = known(Some(component)).or_else(|| known(None))?;
        // As trainers take an alpha of 0.
        let rank_of = rank.max(1) as f32;
        let alpha = if note.alpha == 0.0 { rank_of } else { note.alpha };
        let scale = alpha / if note.stabilised { rank_of.sqrt() } else { rank_of };
        self.met.entry(of).or_default().insert((rank, Scale(scale.to_bits())));
        Some(scale)
    }

    /// What is worth a warning when every module has its scale.
    pub(in crate::lora) fn report(self) -> Vec<String> {
        let mut warnings = self.overruled;
        warnings.extend(self.warnings.into_iter().filter(|_| self.asked));
        for (component, met) in &self.met {
            let Some(note) = self.notes.get(component) else { continue };
            warnings.extend(note.zero());
            warnings.extend(note.other_rank(met));
        }
        warnings
    }
}

impl Note {
    /// The warning of an alpha of 0.
    fn zero(&self) -> Option<String> {
        let entry = &self.entry;
        let what = "which is taken as the rank (scale 1), as trainers do";
        (self.alpha == 0.0).then(|| format!("the entry `{entry}` of its header is 0, {what}"))
    }

    /// The warning of ranks that are not the one that is written beside the alpha.
    fn other_rank(&self, met: &BTreeSet<(usize, Scale)>) -> Option<String> {
        let (entry, told) = self.rank.as_ref()?;
        let mut odd = met.iter().filter(|(rank, _)| *rank as f32 != *told);
        let (first, last) = (odd.next()?, odd.next_back());
        let scale = |(_, scale): &(usize, Scale)| f32::from_bits(scale.0);
        let (ranks, scales) = match last {
            Some(last) => (
                format!("ranks from {} to {}", first.0, last.0),
                format!("scales from {} to {}", scale(first), scale(last)),
            ),
            None => (format!("rank {}", first.0), format!("scale {}", scale(first))),
        };
        let (alpha, of) = (&self.entry, self.alpha);
        Some(format!(
            "its header says {told} in `{entry}`, but it has tensors of {ranks}; {of} of `{alpha}` is divided by the rank of the tensors ({scales})"
        ))
    }
}

/// Whether an entry of a header holds an alpha or what belongs to it: it would be wrong in a file that is
/// made from this one.
pub(in crate::lora) fn is_entry(key: &str) -> bool {
    let entry = match key.rsplit_once('.') {
        Some((prefix, entry)) => {
            let component = COMPONENTS.iter().any(|(known, _)| *known == prefix);
            Some(entry).filter(|_| component)
        }
        None => Some(key),
    };
    let is = |entry: &str| {
        ALPHAS.contains(&entry) || RANKS.contains(&entry) || [ALPHA, STABILISED].contains(&entry)
    };
    entry.is_some_and(is)
}

/// Whether the value of an entry means true.
fn is_true(value: &str) -> bool {
    ["true", "1", "yes"].contains(&value.trim().trim_matches('"').to_ascii_lowercase().as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(entries: &[(&str, &str)]) -> Header {
        let entry = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        Header::of(&entries.iter().map(entry).collect())
    }

    #[test]
    fn every_spelling_of_an_alpha_is_read() {
        for (entries, scale) in [
            (&[("lora_alpha", "2"), ("r", "4")][..], Some(0.5)),
            (&[("lora_alpha", "2.0")], Some(0.5)),
            (&[("network_alpha", "8"), ("rank", "4")], Some(2.0)),
            (&[("alpha", "8"), ("network_dim", "4")], Some(2.0)),
            (&[("unet.lora_alpha", "1"), ("unet.r", "4")], Some(0.25)),
            (&[("lora_alpha", "2"), ("r", "4"), ("use_rslora", "True")], Some(1.0)),
            (&[("unet.network_alpha", "\"2\""), ("unet.use_rslora", "false")], Some(0.5)),
            // An alpha alone could be a strength, kohya's is beside tensors, a component is another one's.
            (&[("alpha", "2")], None),
            (&[("ss_network_alpha", "2"), ("ss_network_dim", "4")], None),
            (&[("text_encoder.lora_alpha", "2")], None),
        ] {
            let mut header = header(entries);
            assert_eq!(header.scale(Component::UNet, 4), scale, "{entries:?}");
            assert!(header.report().is_empty(), "{entries:?}");
        }
    }

    #[test]
    fn contradictions_are_named_with_what_is_taken() {
        for (entries, words) in [
            (&[("lora_alpha", "2"), ("network_alpha", "3")][..], ["`network_alpha`", "2 in"]),
            (&[("lora_alpha", "2"), ("r", "8"), ("rank", "4")], ["`r` and 4", "former"]),
            (&[("lora_alpha", "2"), ("unet.lora_alpha", "3")], ["`unet.lora_alpha`", "former"]),
            (&[("lora_alpha", "2"), ("r", "8")], ["8 in `r`", "rank 4"]),
            (&[("lora_alpha", "0")], ["`lora_alpha`", "scale 1"]),
            (
                &[("lora_alpha", "2"), (METADATA, "{\"unet.lora_alpha\": 4}")],
                ["`unet.lora_alpha`", "latter"],
            ),
        ] {
            let mut header = header(entries);
            assert!(header.scale(Component::UNet, 4).is_some());
            let warnings = header.report().join("\n");
            assert!(words.iter().all(|word| warnings.contains(word)), "{entries:?}: {warnings}");
        }
        let mut unread = header(&[("lora_alpha", "Dynamic")]);
        assert_eq!(unread.scale(Component::UNet, 4), None);
        assert!(unread.report().join("\n").contains("`Dynamic`, which is no number"));
        // Entries that no module needed give no warning.
        assert!(header(&[("lora_alpha", "2"), ("network_alpha", "3")]).report().is_empty());
    }

    #[test]
    fn entries_that_would_be_wrong_elsewhere_are_known() {
        for key in ["lora_alpha", "unet.r", "te2.network_alpha", "use_rslora"] {
            assert!(is_entry(key), "{key}");
        }
        for key in ["ss_network_alpha", "modelspec.rank", "title", "lora_adapter_metadata"] {
            assert!(!is_entry(key), "{key}");
        }
    }
}
