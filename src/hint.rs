//! Advice about errors, as data.
//!
//! An [`Error`](crate::Error) carries what to do about it as a [`Hint`]. Its `Display` names fields,
//! options and functions of the library; a front end with other names for them words the hints
//! itself, as the command line does with its flags.
//!
//! Floor 0.

use crate::plain;
use std::borrow::Cow;
use std::fmt;

/// What to do about an error.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Hint {
    /// Advice that names no setting, so that every front end can print it as it is.
    Text(Cow<'static, str>),
    /// Several ways; each of them is enough.
    AnyOf(Vec<Hint>),
    /// Several sentences that belong together.
    AllOf(Vec<Hint>),
    /// Give a field or option a value.
    Set(Box<Setting>),
    /// Do not use this field or option.
    LeaveOut(&'static str),
    /// Give one of these fields or options a value.
    Choose(&'static [&'static str]),
    /// Compile colora with this Cargo feature.
    BuildWith(&'static str),
    /// Take another file name, or allow that the file is replaced.
    AllowReplacing,
    /// Start fewer worker threads.
    FewerThreads,
    /// Use less memory of the machine.
    SaveMemory,
    /// Use less memory of the GPU.
    SaveDeviceMemory,
    /// The settings that need less memory than a plan as it is, and how much each of them needs.
    TakeLess(Vec<Saving>),
    /// Use this file as the model.
    UseAsModel,
    /// Use this file as the VAE beside a model.
    UseAsVae,
    /// Name the VAE, because the model has none.
    NameVae,
    /// Name a VAE that has an encoder.
    WholeVae,
    /// Quantise the model with colora, from weights in f16 or f32.
    QuantiseModel,
    /// Make a plain LoRA of an adapter of another kind, by the merge method `svd`.
    MakeLora,
    /// Make a LoRA of the difference between two models.
    ExtractLora,
    /// Write a LoRA instead of a checkpoint.
    WriteLora,
    /// Name the folder that a LoRA is put in.
    NameLoraFolder,
    /// Leave modules out whose numbers are not finite.
    AllowNan,
    /// Read the list of the keys of a settings file.
    ListConfigKeys,
}

/// A value for a field or option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setting {
    /// The field, as the library names it.
    pub field: &'static str,
    /// The value.
    pub value: &'static str,
    /// Why this value helps; may be empty.
    pub why: &'static str,
}

/// A setting that lowers the memory of a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Saving {
    /// The setting.
    pub way: SavingWay,
    /// Bytes that the plan takes with it.
    pub bytes: u64,
}

/// How a plan can take less memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum SavingWay {
    /// Read the weights of one part of the UNet at a time.
    LowMemory,
    /// Decode the picture in tiles.
    Tile,
    /// Both together.
    Both,
}

impl Hint {
    /// Several ways, of which each is enough.
    pub fn any_of(ways: impl Into<Vec<Hint>>) -> Self {
        Hint::AnyOf(ways.into())
    }

    /// Give `field` this value, without a reason.
    pub fn set(field: &'static str, value: &'static str) -> Self {
        Self::set_because(field, value, "")
    }

    /// Give `field` this value; `why` it helps.
    pub fn set_because(field: &'static str, value: &'static str, why: &'static str) -> Self {
        Hint::Set(Box::new(Setting { field, value, why }))
    }

    /// The hint in the words of a front end: `words` words every hint that is not made of others.
    pub fn worded(&self, words: &dyn Fn(&Hint) -> String) -> String {
        let each = |hints: &[Hint], between: &str| {
            let hints: Vec<String> = hints.iter().map(|hint| hint.worded(words)).collect();
            hints.join(between)
        };
        match self {
            Hint::Text(text) => text.to_string(),
            Hint::AnyOf(hints) => each(hints, ", or "),
            Hint::AllOf(hints) => each(hints, "; "),
            other => words(other),
        }
    }
}

impl From<&'static str> for Hint {
    fn from(text: &'static str) -> Self {
        Hint::Text(text.into())
    }
}

impl From<String> for Hint {
    fn from(text: String) -> Self {
        Hint::Text(text.into())
    }
}

impl fmt::Display for Hint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.worded(&for_library))
    }
}

/// The words for callers of the library, whatever front end they are.
fn for_library(hint: &Hint) -> String {
    let fixed = match hint {
        Hint::Set(setting) => {
            let Setting { field, value, why } = **setting;
            return format!("set `{field}` to {value}{}", in_brackets(why));
        }
        Hint::LeaveOut(field) => return format!("leave `{field}` out"),
        Hint::Choose(fields) => {
            let fields: Vec<String> = fields.iter().map(|field| format!("`{field}`")).collect();
            return format!("choose one with {}", fields.join(" or "));
        }
        Hint::BuildWith(feature) => {
            return format!("build colora with the feature `{feature}`");
        }
        Hint::TakeLess(savings) => {
            let name = |way| match way {
                SavingWay::LowMemory => "`Memory::Low`",
                SavingWay::Tile => "`tile`",
                SavingWay::Both => "both",
            };
            return take_less(savings, &name, "draw fewer pixels");
        }
        Hint::AllowReplacing => "choose another name or allow replacing the file (`force`)",
        Hint::FewerThreads => "start fewer threads",
        Hint::SaveMemory => {
            "draw fewer pixels, open the model with `Memory::Low`, set `tile`, or close other programs"
        }
        Hint::SaveDeviceMemory => {
            "draw fewer pixels, open the model with `Memory::Low`, close other programs that use it, or use the device `cpu`"
        }
        Hint::UseAsModel => "use it as the model",
        Hint::UseAsVae => "use it as the `vae` beside a model",
        Hint::NameVae => "name the file of one as `vae`",
        Hint::WholeVae => "use a whole `vae`, with encoder and decoder",
        Hint::QuantiseModel => {
            "use the model in f16 or f32; `quantize` makes it small when it is opened"
        }
        Hint::MakeLora => "make a LoRA of it: merge it alone with `Law::Svd`",
        Hint::ExtractLora => "make a LoRA of it with `lora::write::extract`",
        Hint::WriteLora => "write a LoRA instead of a checkpoint",
        Hint::NameLoraFolder => "name one in `NewLora::to`",
        Hint::AllowNan => "`allow_nan` leaves such modules out",
        Hint::ListConfigKeys => "every key is a field of `Config` or of `Request`",
        // They are made of others, which have their own words.
        Hint::Text(_) | Hint::AnyOf(_) | Hint::AllOf(_) => "",
    };
    fixed.to_owned()
}

/// A reason behind a hint, when there is one.
pub(crate) fn in_brackets(why: &str) -> String {
    if why.is_empty() { String::new() } else { format!(" ({why})") }
}

/// The sentence for [`Hint::TakeLess`], with a front end's `name` of each way; `rest` is possible always.
pub(crate) fn take_less(
    savings: &[Saving],
    name: &dyn Fn(SavingWay) -> &'static str,
    rest: &str,
) -> String {
    let mut words = Vec::new();
    for saving in savings {
        let verb = if words.is_empty() { " takes" } else { "" };
        words.push(format!("{}{verb} {}", name(saving.way), plain::bytes(saving.bytes)));
    }
    if words.is_empty() { rest.to_owned() } else { format!("{}, or {rest}", words.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hints_made_of_others_are_one_sentence() {
        let ways = Hint::any_of([Hint::set("device", "cpu"), Hint::LeaveOut("quantize")]);
        assert_eq!(ways.to_string(), "set `device` to cpu, or leave `quantize` out");
        assert_eq!(ways.worded(&|_| "x".into()), "x, or x");
        let both = Hint::AllOf(vec!["one".into(), ways]);
        assert_eq!(both.worded(&|_| "x".into()), "one; x, or x");
    }

    #[test]
    fn savings_name_their_bytes() {
        let saving = |way, bytes| Saving { way, bytes };
        let hint = |savings: &[Saving]| Hint::TakeLess(savings.to_vec()).to_string();
        assert_eq!(hint(&[]), "draw fewer pixels");
        let text = hint(&[saving(SavingWay::LowMemory, 1 << 30), saving(SavingWay::Tile, 1 << 29)]);
        assert!(text.starts_with("`Memory::Low` takes ") && text.contains(", `tile` "), "{text}");
        assert!(text.ends_with(", or draw fewer pixels"), "{text}");
    }
}
