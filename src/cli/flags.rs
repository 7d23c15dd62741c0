//! The flags of `generate`, and how they become a request.

use super::progress::ProgressKind;
use crate::config::Config;
use crate::lora::{Apply, LoraRef, Method, StepWindow};
use crate::pipeline::{DTypeChoice, DeviceChoice, Request};
use crate::sampling::{Sampler, Schedule};
use crate::size::ImageSize;
use crate::weights::{Instructions, Quantisation};
use clap::builder::{OsStringValueParser, PossibleValue, PossibleValuesParser, TypedValueParser};
use clap::{Args, ValueHint};
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
    /// What to keep away from
    #[arg(short = 'N', long, value_name = "TEXT", alias = "negative-prompt")]
    pub(crate) negative: Option<String>,
    /// A LoRA: NAME, NAME:0.8, NAME:unet=1,text=0.5:blocks=MIDD:steps=0..0.6; repeat for more
    #[arg(short, long = "lora", value_name = "NAME[:W]", value_parser = lora(), value_hint = ValueHint::AnyPath, help_heading = "LoRA")]
    pub(crate) loras: Vec<LoraRef>,
    /// LoRAs that belong together, from a file in loras/stacks
    #[arg(long, value_name = "NAME", value_parser = lossy(), help_heading = "LoRA")]
    pub(crate) stack: Option<String>,
    /// How several LoRAs are put together: sum, sequential, svd, ties, dare, dare-ties, switch or
    /// composite; with numbers: ties:density=0.3, svd:rank=32, switch:period=2 [default: sum]
    #[arg(long, value_name = "METHOD", help_heading = "LoRA")]
    pub(crate) lora_method: Option<Method>,
    /// auto, merge (into the weights) or bypass (beside them) [default: auto]
    #[arg(long, value_name = "HOW", help_heading = "LoRA")]
    pub(crate) apply: Option<Apply>,
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

    /// Sampling steps [default: by model]
    #[arg(allow_negative_numbers = true, short, long, value_name = "N", help_heading = "Picture")]
    pub(crate) steps: Option<usize>,
    /// How strictly to follow the prompt; 1 = off, 5 to 8 is usual
    #[arg(
        allow_negative_numbers = true,
        short,
        long,
        alias = "cfg-scale",
        value_name = "X",
        help_heading = "Picture"
    )]
    pub(crate) guidance: Option<f64>,
    /// Integrator
    #[arg(long, value_name = "NAME", value_parser = sampler(), help_heading = "Picture")]
    pub(crate) sampler: Option<Sampler>,
    /// Spacing of noise levels
    #[arg(long, value_name = "NAME", value_parser = schedule(), help_heading = "Picture")]
    pub(crate) schedule: Option<Schedule>,
    /// Text encoder layer from the last; 1 = the model's own choice
    #[arg(long, value_name = "N", help_heading = "Picture")]
    pub(crate) clip_skip: Option<usize>,
    /// Seed of the first picture, or `random`; picture i uses seed + i
    #[arg(
        short = 'S',
        long,
        value_name = "N",
        help_heading = "Picture",
        allow_negative_numbers = true
    )]
    pub(crate) seed: Option<Seed>,
    /// How many pictures [default: 1]
    #[arg(short = 'n', long, value_name = "N", help_heading = "Picture")]
    pub(crate) count: Option<usize>,
    /// Pixels across, a multiple of 8
    #[arg(short = 'W', long, value_name = "PIXELS", help_heading = "Picture")]
    pub(crate) width: Option<usize>,
    /// Pixels down, a multiple of 8
    #[arg(short = 'H', long, value_name = "PIXELS", help_heading = "Picture")]
    pub(crate) height: Option<usize>,
    /// Width and height at once
    #[arg(long, value_name = "WxH", conflicts_with_all = ["width", "height"], help_heading = "Picture")]
    pub(crate) size: Option<ImageSize>,

    /// Steps at which guidance acts: fractions of the run (0.2..0.8) or steps from 0 (4..16); at others the
    /// prompt alone is evaluated, in half the time [default: all]
    #[arg(long, value_name = "A..B", value_parser = window, help_heading = "Step savers")]
    pub(crate) guidance_interval: Option<StepWindow>,
    /// Evaluate the whole network every N steps and its finest layers alone between (DeepCache); 3 is
    /// usual with 20 steps or more [default: 1, always the whole]
    #[arg(long, value_name = "N", alias = "deepcache", help_heading = "Step savers")]
    pub(crate) reuse: Option<usize>,
    /// Merge this part of the tokens of the finest self-attention with others like them (ToMe), 0 to
    /// 0.75; pays for large pictures [default: 0]
    #[arg(allow_negative_numbers = true, long, value_name = "R", help_heading = "Step savers")]
    pub(crate) merge_tokens: Option<f64>,

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
    /// A VAE to use instead of the model's own
    #[arg(long, value_name = "PATH", value_hint = ValueHint::AnyPath, help_heading = "Machine")]
    pub(crate) vae: Option<PathBuf>,
    /// Decode in tiles: less memory [default: for large pictures]
    #[arg(long, overrides_with = "no_tile", help_heading = "Machine")]
    pub(crate) tile: bool,
    /// Decode in one piece
    #[arg(long, overrides_with = "tile", help_heading = "Machine")]
    pub(crate) no_tile: bool,

    /// Name or template of the pictures, or `-` for stdout [default: {date}-{seed}-{index}.png]
    #[arg(short, long, value_name = "NAME", value_hint = ValueHint::FilePath, help_heading = "Output")]
    pub(crate) output: Option<OsString>,
    /// Overwrite files
    #[arg(long, help_heading = "Output")]
    pub(crate) force: bool,
    /// Leave the settings out of the pictures
    #[arg(long, help_heading = "Output")]
    pub(crate) no_metadata: bool,
    /// A rough look every N steps in OUTPUT.preview.png, removed at the end
    #[arg(long, value_name = "N", help_heading = "Output")]
    pub(crate) preview: Option<usize>,
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

/// `--seed`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Seed {
    /// Draw one.
    Random,
    /// This one.
    Fixed(u64),
}

impl std::str::FromStr for Seed {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            // -1 is what other programs call it.
            "random" | "-1" => Ok(Seed::Random),
            _ => text.parse().map(Seed::Fixed).map_err(|_| {
                "expected a whole number from 0 to 18446744073709551615, or `random`".to_owned()
            }),
        }
    }
}

/// A window of steps; its error without the name of the field, which clap says as the flag's.
fn window(text: &str) -> Result<StepWindow, String> {
    text.parse().map_err(|error| match error {
        crate::Error::BadRequest { why, .. } => why,
        other => other.to_string(),
    })
}

/// A name that may be a path: bytes that are no UTF-8 become U+FFFD, by which the store finds it all the same.
pub(super) fn lossy() -> impl TypedValueParser<Value = String> {
    OsStringValueParser::new().map(|text| text.to_string_lossy().into_owned())
}

pub(super) fn lora() -> impl TypedValueParser<Value = LoraRef> {
    lossy().try_map(|text| LoraRef::parse_flag(&text))
}

fn sampler() -> impl TypedValueParser<Value = Sampler> {
    OneOf { names: Sampler::ALL.map(Sampler::name).to_vec(), read: |name| name.parse().ok() }
}

fn schedule() -> impl TypedValueParser<Value = Schedule> {
    OneOf { names: Schedule::ALL.map(Schedule::name).to_vec(), read: |name| name.parse().ok() }
}

/// Reads a value in any spelling that `read` accepts; help texts and errors list its own names.
#[derive(Clone)]
struct OneOf<T> {
    names: Vec<&'static str>,
    read: fn(&str) -> Option<T>,
}

impl<T: Clone + Send + Sync + 'static> TypedValueParser for OneOf<T> {
    type Value = T;

    fn parse_ref(
        &self,
        command: &clap::Command,
        argument: Option<&clap::Arg>,
        value: &std::ffi::OsStr,
    ) -> Result<T, clap::Error> {
        if let Some(read) = value.to_str().and_then(self.read) {
            return Ok(read);
        }
        let names = PossibleValuesParser::new(self.names.clone());
        let name = names.parse_ref(command, argument, value)?;
        (self.read)(&name).ok_or_else(|| clap::Error::new(clap::error::ErrorKind::InvalidValue))
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new(self.names.iter().copied().map(PossibleValue::new)))
    }
}

impl Flags {
    /// The request: these flags over `from` (settings of a picture) over `config`.
    pub(super) fn request(
        &self,
        prompt: Option<String>,
        from: Request,
        config: &Config,
    ) -> Request {
        let (width, height) = match self.size {
            Some(size) => (Some(size.width()), Some(size.height())),
            None => (self.width, self.height),
        };
        let negative =
            self.negative.clone().or(Some(from.negative_prompt).filter(|n| !n.is_empty()));
        let from_picture = self.from.is_some();
        let negative = negative.or(config.negative_prompt.clone().filter(|_| !from_picture));
        Request {
            prompt: prompt.unwrap_or(from.prompt),
            negative_prompt: negative.unwrap_or_default(),
            width: width.or(from.width).or(config.width),
            height: height.or(from.height).or(config.height),
            steps: self.steps.or(from.steps).or(config.steps),
            guidance_scale: self.guidance.or(from.guidance_scale).or(config.guidance_scale),
            guidance_interval: self.guidance_interval.or(from.guidance_interval),
            reuse: self.reuse.unwrap_or(from.reuse),
            merge_tokens: self.merge_tokens.unwrap_or(from.merge_tokens),
            sampler: self.sampler.or(from.sampler).or(config.sampler),
            schedule: self.schedule.or(from.schedule).or(config.schedule),
            seed: match self.seed {
                Some(Seed::Fixed(seed)) => Some(seed),
                Some(Seed::Random) => None,
                None => from.seed,
            },
            count: self.count.unwrap_or(from.count),
            clip_skip: self.clip_skip.or(from.clip_skip).or(config.clip_skip),
            tile: match (self.tile, self.no_tile) {
                (true, _) => Some(true),
                (_, true) => Some(false),
                _ => from.tile,
            },
            preview: self.preview.unwrap_or(from.preview),
            loras: if self.loras.is_empty() { from.loras } else { self.loras.clone() },
            lora_method: self.lora_method.unwrap_or(from.lora_method),
            apply: self.apply.unwrap_or(from.apply),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Program {
        #[command(flatten)]
        flags: Flags,
    }

    fn flags(line: &str) -> Result<Flags, clap::Error> {
        Program::try_parse_from(line.split('|')).map(|p| p.flags)
    }

    #[test]
    fn flags_win_over_pictures_over_files() {
        let config =
            Config { steps: Some(3), width: Some(64), clip_skip: Some(2), ..Config::default() };
        let from = Request {
            prompt: "old".into(),
            negative_prompt: "fog".into(),
            steps: Some(4),
            width: Some(128),
            seed: Some(9),
            guidance_interval: window("0..0.5").ok(),
            reuse: 2,
            ..Request::default()
        };
        let given = flags("x|--from|p.png|-W|8|--no-tile|--deepcache|4|new").unwrap();
        let request = given.request(given.prompt.clone(), from.clone(), &config);
        assert_eq!((request.prompt.as_str(), request.negative_prompt.as_str()), ("new", "fog"));
        assert_eq!((request.width, request.steps, request.clip_skip), (Some(8), Some(4), Some(2)));
        assert_eq!((request.seed, request.tile), (Some(9), Some(false)));
        assert_eq!(
            (request.reuse, request.guidance_interval),
            (4, Some(window("0..0.5").unwrap()))
        );
        let again =
            flags("x|--from|p.png|-S|random|--size|16x8").unwrap().request(None, from, &config);
        assert_eq!((again.prompt.as_str(), again.seed), ("old", None));
        assert_eq!((again.width, again.height), (Some(16), Some(8)));
    }

    #[test]
    fn parsing_refuses_nonsense() {
        assert_eq!(flags("x|-S|-1|p").unwrap().seed, Some(Seed::Random));
        assert_eq!(
            flags("x|--seed=18446744073709551615|p").unwrap().seed,
            Some(Seed::Fixed(u64::MAX))
        );
        assert!(flags("x|--no-tile|--tile|p").is_ok_and(|f| f.tile && !f.no_tile));
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
