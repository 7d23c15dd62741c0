//! What an axis varies, by the names that people use for it.

use crate::app::MODEL_KEYS;
use crate::error::{Error, Result};
use crate::pipeline::fields::{FIELDS, Field, check_type, field};
use crate::sampling::Sampler;
use crate::suggest::did_you_mean;
use serde_json::Value;

/// What an axis varies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    /// A field of the request, by its key.
    Field(&'static str),
    /// Sampler, and the schedule when the name ends in one.
    Sampler,
    /// Model, VAE, number types or device.
    Model(&'static str),
    /// A number of the sampler.
    Option(&'static str),
    /// Something of one LoRA.
    Lora {
        /// Its name.
        name: String,
        /// What of it.
        part: Part,
    },
    /// Which LoRA is added.
    Loras,
    /// Which stack of LoRAs is used.
    Stack,
    /// A piece of the prompts, which other texts take the place of; `None`: the first value is that piece.
    Replace(Option<String>),
    /// The order of pieces of the prompt.
    Order,
    /// Nothing.
    Nothing,
}

/// What an axis varies of a LoRA.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// Both weights.
    Weight,
    /// The weight of its part of the UNet.
    Unet,
    /// The weight of its part of the text encoders.
    Text,
    /// The weights of its blocks.
    Blocks,
    /// The steps at which it works.
    Steps,
    /// The first of these steps.
    Start,
    /// The end of these steps.
    Stop,
}

/// Parts by the last word of an axis `lora.NAME.WORD`.
const PARTS: [(&str, Part); 9] = [
    ("unet", Part::Unet),
    ("text", Part::Text),
    ("te", Part::Text),
    ("blocks", Part::Blocks),
    ("lbw", Part::Blocks),
    ("steps", Part::Steps),
    ("start", Part::Start),
    ("stop", Part::Stop),
    ("weight", Part::Weight),
];

/// Names that are no fields: ours, then those of AUTOMATIC1111's script.
const NAMES: [(&str, Kind); 11] = [
    ("lora", Kind::Loras),
    ("stack", Kind::Stack),
    ("replace", Kind::Replace(None)),
    ("order", Kind::Order),
    ("none", Kind::Nothing),
    ("nothing", Kind::Nothing),
    ("prompt s/r", Kind::Replace(None)),
    ("prompt order", Kind::Order),
    ("checkpoint name", Kind::Model("model")),
    ("checkpoint", Kind::Model("model")),
    ("sampler name", Kind::Sampler),
];

/// Axes of AUTOMATIC1111's script that colora has nothing for.
const MISSING: [&str; 18] = [
    "schedule rho",
    "hires steps",
    "hires sampler",
    "hires upscaler",
    "image cfg scale",
    "initial noise multiplier",
    "extra noise",
    "schedule min sigma",
    "schedule max sigma",
    "styles",
    "face restore",
    "refiner checkpoint",
    "refiner switch at",
    "cond. image mask weight",
    "rng source",
    "always discard next-to-last sigma",
    "sgm noise multiplier",
    "unipc order",
];

impl Kind {
    /// What the name of an axis stands for.
    ///
    /// # Errors
    /// [`Error::BadRequest`] with near matches, [`Error::Unsupported`] for what other programs have and colora has not.
    pub(super) fn of(name: &str) -> Result<Self> {
        let name = name.trim();
        if let Some(piece) = name.strip_prefix("prompt:").or_else(|| name.strip_prefix("replace:"))
        {
            let piece = piece.trim_matches('"');
            if piece.is_empty() {
                return Err(Error::bad_request("axis", name, "expected prompt:WORD=OTHER,…"));
            }
            return Ok(Self::Replace(Some(piece.to_owned())));
        }
        if let Some(lora) = name.strip_prefix("lora.").filter(|lora| !lora.is_empty()) {
            return Ok(Self::lora(lora));
        }
        let wanted = plain(name);
        if let Some((_, kind)) = NAMES.iter().find(|(known, _)| plain(known) == wanted) {
            return Ok(kind.clone());
        }
        if let Some(key) = MODEL_KEYS.into_iter().find(|key| plain(key) == wanted) {
            return Ok(Self::Model(key));
        }
        if let Some(option) = option(&wanted) {
            return Ok(Self::Option(option));
        }
        match named_field(&wanted) {
            Some(field) if field.key == "sampler" => return Ok(Self::Sampler),
            Some(field) if ["loras", "count", "preview"].contains(&field.key) => {
                return Err(Error::bad_request("axis", name, instead_of(field.key)));
            }
            Some(field) => return Ok(Self::Field(field.key)),
            None => {}
        }
        if MISSING.iter().any(|known| plain(known) == wanted) {
            let what = format!("the axis {name} of AUTOMATIC1111");
            return Err(Error::unsupported(what, "there is no such setting here"));
        }
        Err(unknown(name))
    }

    fn lora(lora: &str) -> Self {
        let part = lora.rsplit_once('.').and_then(|(name, word)| {
            let (_, part) = PARTS.iter().find(|(known, _)| *known == word)?;
            Some((name, *part))
        });
        let (name, part) =
            part.filter(|(name, _)| !name.is_empty()).unwrap_or((lora, Part::Weight));
        Self::Lora { name: name.to_owned(), part }
    }

    /// Whether its values are numbers, of which ranges can be given.
    pub(super) fn is_number(&self) -> bool {
        match self {
            Self::Field(key) => check_type(key, &Value::from(1)).is_ok(),
            Self::Option(_) => true,
            Self::Lora { part, .. } => !matches!(part, Part::Blocks | Part::Steps),
            _ => false,
        }
    }

    /// Whether it acts on LoRAs: then networks differ by their branches alone, and another one costs nothing.
    pub(super) fn is_of_loras(&self) -> bool {
        matches!(self, Self::Lora { .. } | Self::Loras | Self::Stack)
    }

    /// When its edit is made, among those of the other axes of a sweep: whole prompts before pieces of them, stacks
    /// before the LoRAs in them.
    pub(super) fn turn(&self) -> usize {
        match self {
            Self::Field("prompt" | "negative_prompt") => 0,
            Self::Replace(_) => 1,
            Self::Order => 2,
            Self::Stack => 3,
            Self::Loras => 4,
            Self::Lora { .. } => 5,
            Self::Sampler | Self::Model(_) => 6,
            _ => 7,
        }
    }

    /// The name in the legend, as AUTOMATIC1111 has it where it has one.
    pub(super) fn title(&self) -> String {
        match self {
            Self::Field(key) => {
                let row = field(key);
                let label = row.and_then(|row| row.label).map(|label| label.name);
                label.or(row.and_then(|row| row.title)).map_or_else(|| spaced(key), str::to_owned)
            }
            Self::Sampler => "Sampler".into(),
            Self::Model("model") => "Checkpoint name".into(),
            Self::Model("vae") => "VAE".into(),
            Self::Model(key) => spaced(key),
            Self::Option(name) => option_label(name).map_or_else(|| spaced(name), str::to_owned),
            Self::Lora { name, part } => {
                let name = file_name(name);
                match part {
                    Part::Weight => name.to_owned(),
                    Part::Unet => format!("{name} unet"),
                    Part::Text => format!("{name} text"),
                    Part::Blocks => format!("{name} blocks"),
                    Part::Steps => format!("{name} steps"),
                    Part::Start => format!("{name} from step"),
                    Part::Stop => format!("{name} to step"),
                }
            }
            Self::Loras => "LoRA".into(),
            Self::Stack => "Stack".into(),
            Self::Replace(_) => "Prompt S/R".into(),
            Self::Order => "Prompt order".into(),
            Self::Nothing => "Nothing".into(),
        }
    }

    /// Whether a value says enough without the name of its axis.
    pub(super) fn stands_alone(&self) -> bool {
        matches!(
            self,
            Self::Sampler
                | Self::Replace(_)
                | Self::Order
                | Self::Loras
                | Self::Model("model")
                | Self::Field("prompt")
        )
    }
}

/// A name in lower case, with spaces for dashes and underscores.
fn plain(name: &str) -> String {
    name.trim().to_lowercase().replace(['-', '_'], " ")
}

fn spaced(key: &str) -> String {
    let mut letters = key.chars();
    let first = letters.next().map(|c| c.to_uppercase().to_string()).unwrap_or_default();
    first + &letters.as_str().replace('_', " ")
}

/// The last part of a path.
pub(super) fn file_name(name: &str) -> &str {
    let last = name.rsplit(['/', '\\']).next().unwrap_or(name);
    last.strip_suffix(".safetensors").unwrap_or(last)
}

/// The field of a name: its key, its flag, or the label that programs exchange.
fn named_field(wanted: &str) -> Option<&'static Field> {
    FIELDS.iter().find(|field| {
        let flag = field.flag;
        let names = [
            Some(field.key),
            flag.map(|flag| flag.long),
            flag.and_then(|flag| flag.alias),
            field.label.map(|label| label.name),
        ];
        // AUTOMATIC1111 shortens what comes from a variation of the seed.
        let short = wanted.replace("var.", "variation");
        names.into_iter().flatten().map(plain).any(|name| name == wanted || name == short)
    })
}

/// Every number that some sampler can be tuned with: name and label.
fn options() -> impl Iterator<Item = (&'static str, &'static str)> {
    let specs = Sampler::ALL.into_iter().flat_map(|sampler| sampler.spec().options);
    specs.map(|spec| (spec.name, spec.label))
}

fn option(wanted: &str) -> Option<&'static str> {
    let bare = wanted.strip_prefix("sampler options.").unwrap_or(wanted);
    options()
        .find(|(name, label)| plain(name) == bare || plain(label) == bare)
        .map(|(name, _)| name)
}

fn option_label(name: &str) -> Option<&'static str> {
    options().find(|(known, _)| *known == name).map(|(_, label)| label)
}

/// What to write in the place of a field that is no axis.
fn instead_of(key: &str) -> &'static str {
    match key {
        "loras" => "write lora=NAME,OTHER for which LoRA, lora.NAME=0..1:0.25 for how strongly",
        "count" => "every cell is one picture; several seeds are an axis: seed=1..4",
        _ => "a cell shows no previews",
    }
}

fn unknown(name: &str) -> Error {
    let fields = FIELDS.iter().flat_map(|field| {
        let label = field.label.map(|label| label.name);
        let flag = field.flag.map(|flag| flag.long);
        [Some(field.key), label, flag].into_iter().flatten()
    });
    let own = NAMES.iter().map(|(name, _)| *name);
    let names = fields.chain(own).chain(MODEL_KEYS).chain(options().map(|(name, _)| name));
    let why = match did_you_mean(name, names) {
        near if near.is_empty() => {
            "unknown; expected a field of a request (steps, guidance, sampler, size …), lora.NAME, lora, stack, model, \
             prompt:WORD or an axis of AUTOMATIC1111"
                .to_owned()
        }
        near => format!("unknown{near}"),
    };
    Error::bad_request("axis", name, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_are_called_as_people_call_them() {
        for (name, kind) in [
            ("steps", Kind::Field("steps")),
            ("Steps", Kind::Field("steps")),
            ("CFG Scale", Kind::Field("guidance_scale")),
            ("cfg-scale", Kind::Field("guidance_scale")),
            ("guidance", Kind::Field("guidance_scale")),
            ("Clip skip", Kind::Field("clip_skip")),
            ("Schedule type", Kind::Field("schedule")),
            ("Size", Kind::Field("size")),
            ("negative", Kind::Field("negative_prompt")),
            ("Sampler", Kind::Sampler),
            ("Checkpoint name", Kind::Model("model")),
            ("VAE", Kind::Model("vae")),
            ("Eta", Kind::Option("eta")),
            ("sampler_options.eta", Kind::Option("eta")),
            ("Sigma noise", Kind::Option("s_noise")),
            ("Prompt S/R", Kind::Replace(None)),
            ("prompt:red", Kind::Replace(Some("red".into()))),
            ("prompt", Kind::Field("prompt")),
            ("Prompt order", Kind::Order),
            ("Nothing", Kind::Nothing),
            ("lora", Kind::Loras),
            ("lora.anime", Kind::Lora { name: "anime".into(), part: Part::Weight }),
            ("lora.v1.5", Kind::Lora { name: "v1.5".into(), part: Part::Weight }),
            ("lora.v1.5.te", Kind::Lora { name: "v1.5".into(), part: Part::Text }),
            ("lora.a.start", Kind::Lora { name: "a".into(), part: Part::Start }),
        ] {
            assert_eq!(Kind::of(name).unwrap(), kind, "{name}");
        }
    }

    #[test]
    fn wrong_names_get_a_near_one() {
        for (name, part) in [
            ("stepz", "`steps`"),
            ("CFG Scaly", "CFG scale"),
            ("count", "seed=1..4"),
            ("loras", "lora=NAME"),
            ("xyzzy", "expected a field"),
            ("Hires steps", "AUTOMATIC1111"),
            ("prompt:", "prompt:WORD"),
            ("", "expected a field"),
        ] {
            let message = Kind::of(name).unwrap_err().to_string();
            assert!(message.contains(part), "{name}: {message}");
        }
    }

    #[test]
    fn numbers_have_ranges_and_windows_have_none() {
        for (name, is) in [
            ("steps", true),
            ("guidance", true),
            ("seed", true),
            ("eta", true),
            ("lora.a", true),
            ("lora.a.start", true),
            ("lora.a.steps", false),
            ("lora.a.blocks", false),
            ("guidance-interval", false),
            ("size", false),
            ("prompt", false),
            ("sampler", false),
        ] {
            assert_eq!(Kind::of(name).unwrap().is_number(), is, "{name}");
        }
    }
}
