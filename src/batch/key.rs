//! The names of columns, switches and keys, and what each one sets.
//!
//! One table serves every format: the fields of a request by their keys and by their flags, the model's keys, the keys
//! of the batch itself, and the switches of AUTOMATIC1111's script "Prompts from file or textbox".

use crate::app::MODEL_KEYS;
use crate::error::{Error, Result};
use crate::pipeline::fields::{FIELDS, Field};
use crate::suggest::did_you_mean;

/// What a name sets.
#[derive(Debug, Clone)]
pub(super) enum Key {
    /// A field of the request.
    Field(&'static Field),
    /// A switch that turns a field off.
    Off(&'static Field),
    /// Model, VAE, number types or device.
    Model(&'static str),
    /// One more LoRA, as a flag takes it.
    Lora,
    /// The strength of the LoRA of this name.
    Strength(String),
    /// The name of the picture.
    Id,
    /// A picture whose settings the job has, where nothing else gives them.
    From,
    /// How often the job is made, each time with another seed.
    Repeat,
    /// A stack of LoRAs.
    Stack,
    /// A word that is kept beside the picture.
    Label(String),
    /// Several of these at once.
    Labels,
    /// `KEY=VALUE`: one of these as a switch.
    LabelSwitch,
    /// A sampler as other programs name it, perhaps with the schedule.
    SamplerName,
    /// Changes nothing here: names of folders, what is shown.
    Ignored,
    /// Something that colora does not have; harmless with one of these values.
    Missing(&'static [&'static str]),
}

/// The names that are colora's own beside those of jobs.
const OWN: [&str; 8] = ["id", "from", "repeat", "stack", "labels", "label", "lora", "loras"];

/// AUTOMATIC1111's names that are no fields of ours.
const FOREIGN: [(&str, Key); 18] = [
    ("sampler_name", Key::SamplerName),
    ("batch_size", Key::Repeat),
    ("n_iter", Key::Repeat),
    ("sd_model", Key::Model("model")),
    ("outpath_samples", Key::Ignored),
    ("outpath_grids", Key::Ignored),
    ("prompt_for_display", Key::Ignored),
    ("do_not_save_samples", Key::Ignored),
    ("do_not_save_grid", Key::Ignored),
    ("subseed", Key::Missing(&["-1"])),
    ("subseed_strength", Key::Missing(&["0", "0.0"])),
    ("seed_resize_from_h", Key::Missing(&["0", "-1"])),
    ("seed_resize_from_w", Key::Missing(&["0", "-1"])),
    ("restore_faces", Key::Missing(&["false", "False"])),
    ("tiling", Key::Missing(&["false", "False"])),
    ("styles", Key::Missing(&[""])),
    ("sampler_index", Key::Missing(&[])),
    ("seed_resize", Key::Missing(&["0"])),
];

impl Key {
    /// Finds what `name` sets; dashes and underscores are the same.
    ///
    /// # Errors
    /// [`Error::BadRequest`] with near matches.
    pub(super) fn of(name: &str) -> Result<Self> {
        let wanted = name.trim().replace('-', "_");
        let same = |other: &str| other.replace('-', "_") == wanted;
        if let Some(lora) = name.trim().strip_prefix("lora.").filter(|lora| !lora.is_empty()) {
            return Ok(Self::Strength(lora.to_owned()));
        }
        if let Some(label) = name.trim().strip_prefix("label.").filter(|label| !label.is_empty()) {
            return Ok(Self::Label(label.to_owned()));
        }
        match wanted.as_str() {
            "lora" => return Ok(Self::Lora),
            "id" => return Ok(Self::Id),
            "from" => return Ok(Self::From),
            "repeat" => return Ok(Self::Repeat),
            "stack" => return Ok(Self::Stack),
            "labels" => return Ok(Self::Labels),
            "label" => return Ok(Self::LabelSwitch),
            _ => {}
        }
        if let Some(key) = MODEL_KEYS.into_iter().find(|key| same(key)) {
            return Ok(Self::Model(key));
        }
        for field in FIELDS {
            let flag = field.flag;
            let names = [Some(field.key), flag.map(|f| f.long), flag.and_then(|f| f.alias)];
            if names.into_iter().flatten().any(same) {
                return Ok(Self::Field(field));
            }
            if flag.and_then(|flag| flag.opposite).is_some_and(|[long, _]| same(long)) {
                return Ok(Self::Off(field));
            }
        }
        let foreign = FOREIGN.iter().find(|(known, _)| same(known));
        foreign.map(|(_, key)| key.clone()).ok_or_else(|| unknown(name))
    }
}

/// The error for a name that sets nothing.
fn unknown(name: &str) -> Error {
    let flags = FIELDS.iter().filter_map(|field| field.flag.map(|flag| flag.long));
    let fields = FIELDS.iter().map(|field| field.key).chain(flags);
    let foreign = FOREIGN.iter().map(|(name, _)| *name);
    let near = did_you_mean(name, fields.chain(MODEL_KEYS).chain(OWN).chain(foreign));
    let hint = match near.as_str() {
        "" => {
            "; a field of a request is expected, or model, id, from, repeat, stack, label.NAME, lora.NAME"
        }
        near => near,
    };
    Error::bad_request("key", name, format!("unknown{hint}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_is_found_by_key_and_flag() {
        for field in FIELDS {
            assert!(matches!(Key::of(field.key), Ok(Key::Field(found)) if found.key == field.key));
            if let Some(flag) = field.flag.filter(|flag| flag.long != "lora") {
                assert!(matches!(Key::of(flag.long), Ok(Key::Field(f)) if f.key == field.key));
            }
        }
        assert!(matches!(Key::of("cfg_scale"), Ok(Key::Field(f)) if f.key == "guidance_scale"));
        assert!(matches!(Key::of("no-tile"), Ok(Key::Off(_))));
        assert!(matches!(Key::of("label.set"), Ok(Key::Label(name)) if name == "set"));
        let message = Key::of("stepz").unwrap_err().to_string();
        assert!(message.contains("did you mean `steps`"), "{message}");
        assert!(Key::of("").is_err() && Key::of("lora.").is_err());
    }
}
