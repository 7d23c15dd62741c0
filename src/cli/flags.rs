//! The flags of `generate`. Those of a request's fields come from the field table; see [`request_flags`].

use super::request_flags::RequestFlags;
use crate::app::expand::Expand;
use crate::app::settings::Layers;
use crate::error::Error;
use crate::lora::LoraRef;
use crate::pipeline::{DTypeChoice, DeviceChoice};
use crate::weights::{Instructions, Quantisation};
use clap::builder::{OsStringValueParser, StringValueParser, TypedValueParser};
use clap::{Args, ValueEnum, ValueHint};
use serde_json::{Map, Value};
use std::ffi::OsString;
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  colora \"a red fox in the snow\"
  colora -m dreamshaper -N blurry --size 512x768 \"a portrait\"
  colora -n 4 -S 7 -o \"out/{prompt}-{seed}.png\" \"a fox\"    seeds 7, 8, 9 and 10
  colora -l flat:0.8 -l wizard \"a wizard, flat style\"       two LoRAs at once
  colora --from fox.png -s 50                              the same with more steps
  echo \"a fox\" | colora -o - - | magick - fox.jpg          prompt from stdin, PNG to stdout
  colora --json -n 2 \"a fox\" | jq -r .path                 one JSON object a picture
  colora --dry-run --size 1024x1024 \"a fox\"                what would run

Output names: {date} {time} {seed} {index} {model} {prompt}; {{ and }} are braces.
A folder that the name asks for is created. Without -o a number keeps names apart; with -o
an existing file is refused unless --force. Several pictures never overwrite each other.";

/// What `colora generate` accepts.
#[allow(clippy::struct_excessive_bools)] // each is a switch of its own
#[derive(Debug, Clone, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Flags {
    /// What to draw; `-` reads it from stdin
    #[arg(value_name = "PROMPT", required_unless_present = "from", value_hint = ValueHint::Other)]
    pub(crate) prompt: Option<String>,

    /// Model: a name, a file, a folder or hub:owner/name [env: COLORA_MODEL] [default: starter]
    #[arg(short, long, value_name = "MODEL", value_parser = lossy(), value_hint = ValueHint::AnyPath)]
    pub(crate) model: Option<String>,
    /// The fields of the request, but the prompt.
    #[command(flatten)]
    pub(crate) request: RequestFlags,
    /// What `{a|b}` and `__name__` (prompts/wildcards/name.txt) are: off (text) or random (one is drawn for each picture,
    /// by its seed)
    #[arg(long, value_name = "HOW", default_value = "off", value_parser = expand())]
    pub(crate) expand: Expand,
    /// Words from prompts/*.toml ([style.NAME]) or A1111's prompts/styles.csv around the prompt; may be given again
    #[arg(long = "style", value_name = "NAME")]
    pub(crate) styles: Vec<String>,
    /// LoRAs that belong together, from a file in loras/stacks
    #[arg(long, value_name = "NAME", value_parser = lossy(), help_heading = "LoRA", display_order = 2)]
    pub(crate) stack: Option<String>,
    /// Keys of a LoRA file that fit nothing are an error
    #[arg(long, help_heading = "LoRA")]
    pub(crate) strict: bool,
    /// Leave out modules of a LoRA file whose numbers are not finite
    #[arg(long, help_heading = "LoRA")]
    pub(crate) allow_nan_modules: bool,
    /// Settings from a picture; other flags win
    #[arg(long, value_name = "IMAGE", value_hint = ValueHint::FilePath)]
    pub(crate) from: Option<PathBuf>,
    /// Use every model, VAE and LoRA that the picture of --from names, wherever it lies, and download it [default:
    /// those in the folders of models and LoRAs and beside the picture]
    #[arg(long, requires = "from")]
    pub(crate) trust_picture: bool,

    /// auto, cpu, cuda, cuda:1 or metal [env: COLORA_DEVICE]
    #[arg(long, value_name = "DEVICE", help_heading = "Machine")]
    pub(crate) device: Option<DeviceChoice>,
    /// f32 (exact), tf32 (NVIDIA GPUs: convolutions rounded, as torch's f32), f16 (GPUs) or bf16
    /// [env: COLORA_DTYPE] [default: f32 on a CPU, f16 on a GPU]; on a CPU bf16 takes half the memory, with
    /// AVX512-BF16 half the time
    #[arg(long, value_name = "TYPE", help_heading = "Machine")]
    pub(crate) dtype: Option<DTypeChoice>,
    /// Keep the UNet in q8_0 (half of bf16's memory) or q4_0 (a quarter) [default: as the file holds it]
    #[arg(long, value_name = "KIND", help_heading = "Machine")]
    pub(crate) quantize: Option<Quantisation>,
    /// Worker threads on the CPU [default: one a core]
    #[arg(long, value_name = "N", help_heading = "Machine")]
    pub(crate) threads: Option<usize>,
    /// Use no wider vector instructions than portable, neon, avx2, avx512 or avx512-bf16
    /// [default: the widest]
    #[arg(long, value_name = "SET", help_heading = "Machine")]
    pub(crate) cpu: Option<Instructions>,
    /// Keep one network in memory at a time and, on the CPU, read the UNet block by block in every step: the
    /// same pixels with half the memory, slower
    #[arg(long, help_heading = "Machine")]
    pub(crate) low_memory: bool,
    /// How many pictures are evaluated at once: faster on a GPU, with more memory; the same pictures
    /// [default: 1]
    #[arg(long, value_name = "N", help_heading = "Machine")]
    pub(crate) batch_size: Option<usize>,
    /// A VAE to use instead of the model's own
    #[arg(long, value_name = "PATH", value_hint = ValueHint::AnyPath, help_heading = "Machine")]
    pub(crate) vae: Option<PathBuf>,
    /// Name or template of the pictures, or `-` for stdout [default: {date}-{seed}-{index}.png]
    #[arg(short, long, value_name = "NAME", value_hint = ValueHint::FilePath, help_heading = "Output", display_order = 5)]
    pub(crate) output: Option<OsString>,
    /// Overwrite files
    #[arg(long, help_heading = "Output", display_order = 6)]
    pub(crate) force: bool,
    /// Leave the settings out of the pictures
    #[arg(long, help_heading = "Output", display_order = 7)]
    pub(crate) no_metadata: bool,
    /// Print what would run, and stop
    #[arg(long, help_heading = "Output")]
    pub(crate) dry_run: bool,
    /// One JSON object a picture on stdout
    #[arg(long, help_heading = "Output")]
    pub(crate) json: bool,
    /// End paths on stdout with NUL instead of a line break
    #[arg(short = '0', long = "null", conflicts_with = "json", help_heading = "Output")]
    pub(crate) null: bool,
    /// Progress on stderr
    #[arg(long, value_enum, value_name = "KIND", default_value_t, help_heading = "Output")]
    pub(crate) progress: ProgressKind,
}

/// `--progress`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum ProgressKind {
    /// A bar on a terminal, lines elsewhere
    #[default]
    Auto,
    /// A line for each stage of a second or more
    Plain,
    /// One JSON object an event
    Json,
    /// Nothing
    None,
}

/// A name that may be a path: bytes that are no UTF-8 become U+FFFD, by which the store finds it all the same.
pub(super) fn lossy() -> impl TypedValueParser<Value = String> {
    OsStringValueParser::new().map(|text| text.to_string_lossy().into_owned())
}

pub(super) fn lora() -> impl TypedValueParser<Value = LoraRef> {
    lossy().try_map(|text| LoraRef::parse_flag(&text))
}

fn expand() -> impl TypedValueParser<Value = Expand> {
    StringValueParser::new().try_map(|text| match text.parse() {
        Ok(Expand::All) => {
            let why = "all of them are a batch: put the prompt into a file, and run `colora batch FILE --expand all`";
            Err(Error::bad_request("expand", text, why))
        }
        other => other,
    })
}

impl Flags {
    /// The values that these flags give to the keys of a job; `prompt`: what the prompt is.
    pub(super) fn values(&self, prompt: Option<String>) -> Map<String, Value> {
        let vae = self.vae.as_ref().map(|path| path.to_string_lossy().into_owned());
        let words = [
            ("prompt", prompt),
            ("model", self.model.clone().filter(|name| !name.is_empty())),
            ("vae", vae),
            ("dtype", self.dtype.map(|dtype| dtype.to_string())),
            ("quantize", self.quantize.map(|kind| kind.to_string())),
            ("device", self.device.map(|device| device.to_string())),
        ];
        let words =
            words.into_iter().filter_map(|(key, word)| Some((key.to_owned(), word?.into())));
        let mut values: Map<String, Value> =
            self.request.values().clone().into_iter().chain(words).collect();
        // An empty negative prompt that is given is a text; one that is left out is none.
        if values.get("negative_prompt").and_then(Value::as_str) == Some("") {
            values.entry("encode_empty").or_insert(true.into());
        }
        values
    }

    /// Lays the values of these flags over `layers`.
    pub(super) fn lay_over(&self, layers: &mut Layers, prompt: Option<String>) {
        layers.caller(self.values(prompt));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::Request;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Program {
        #[command(flatten)]
        flags: Flags,
    }

    fn flags(line: &str) -> Result<Flags, clap::Error> {
        Program::try_parse_from(line.split('|')).map(|p| p.flags)
    }

    fn request(line: &str) -> Request {
        let mut layers = Layers::default();
        let flags = flags(line).unwrap();
        flags.lay_over(&mut layers, flags.prompt.clone());
        layers.job().unwrap().request
    }

    #[test]
    fn flags_become_a_request() {
        let made = request("x|--size|16x8|--no-tile|--deepcache|4|-l|a:0.5|-l|b|-N|fog|new");
        let expected = Request {
            prompt: "new".into(),
            negative_prompt: "fog".into(),
            width: Some(16),
            height: Some(8),
            tile: Some(false),
            reuse: 4,
            loras: vec!["a:0.5".parse().unwrap(), "b".parse().unwrap()],
            ..Request::default()
        };
        assert_eq!(made, expected);
    }

    #[test]
    fn parsing_refuses_nonsense() {
        assert_eq!(request("x|-S|-1|p").seed, None);
        assert_eq!(flags("x|-S|-1|p").unwrap().values(None).get("seed"), Some(&Value::Null));
        assert_eq!(request("x|--seed=18446744073709551615|p").seed, Some(u64::MAX));
        assert_eq!(request("x|--no-tile|--tile|p").tile, Some(true));
        assert_eq!(request("x|--tile|--no-tile|p").tile, Some(false));
        for bad in [
            "x",
            "x|p|q",
            "x|p|-S|1.5",
            "x|p|--sampler|eulr",
            "x|p|--size|8x",
            "x|p|--size|8x8|-W|8",
            "x|p|--json|-0",
            "x|p|--device|gpu",
            "x|p|-s|-3",
            "x|p|--steps|-3",
            "x|p|--guidance-interval|0.5",
            "x|p|--guidance-interval|0.8..0.2",
            "x|p|--reuse|x",
        ] {
            assert!(flags(bad).is_err(), "{bad}");
        }
    }
}
