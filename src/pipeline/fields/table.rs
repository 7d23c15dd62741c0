//! The rows of the table of fields.

use super::row::{Field, Flag, Label, Range, Setting};
use super::values::{
    count, lora, number, options, parsed, prompt_syntax, seed, size, some, switch, text, tile,
    window,
};
use crate::conditioning::{Crop, ToldSize};
use crate::lora::{Apply, Method};
use crate::models::FreeU;
use crate::pipeline::{MAX_COUNT, Pag, Sag};
use crate::prompt::{Emphasis, PromptSyntax};
use crate::sampling::{DynamicThreshold, MinUncond, Rescale, Sampler, Schedule, Training};
use crate::size::Aspect;

/// The largest part of the tokens that may be merged: one of every 2×2 stays.
const MOST_MERGED: f64 = 0.75;

/// A row in which nothing is said.
const ROW: Field = Field {
    key: "",
    sets: &[],
    flag: None,
    label: None,
    title: None,
    setting: None,
    range: None,
    names: Vec::new,
    read: text,
    write: |_| Vec::new(),
    neutral: "",
};
const FLAG: Flag = Flag {
    long: "",
    short: None,
    alias: None,
    value: "N",
    heading: None,
    place: 0,
    help: "",
    opposite: None,
};
const PICTURE: Flag = Flag { heading: Some("Picture"), ..FLAG };
const GUIDANCE: Flag = Flag { heading: Some("Guidance"), value: "X", ..FLAG };
const SDXL: Flag = Flag { heading: Some("SDXL"), value: "WxH", ..FLAG };
const SAVERS: Flag = Flag { heading: Some("Step savers"), ..FLAG };
const LORA: Flag = Flag { heading: Some("LoRA"), ..FLAG };
const LABEL: Label = Label { name: "", place: 100, own: false, write: None };

/// Every field, in the order in which commands and settings files list them.
pub const FIELDS: &[Field] = &[
    Field { key: "prompt", sets: &["prompt"], write: |r| vec![r.prompt.clone()], ..ROW },
    Field {
        key: "negative_prompt",
        sets: &["negative_prompt"],
        flag: Some(Flag {
            long: "negative",
            short: Some('N'),
            alias: Some("negative-prompt"),
            value: "TEXT",
            place: 2,
            help: "What to keep away from",
            ..FLAG
        }),
        setting: Some(Setting { example: "\"blurry\"", remark: "what to keep away from" }),
        write: |r| vec![r.negative_prompt.clone()],
        ..ROW
    },
    Field {
        key: "prompt_syntax",
        sets: &["prompt_syntax"],
        flag: Some(Flag {
            long: "prompt-syntax",
            value: "NAME",
            place: 11,
            help: "How prompts are read: a1111 ((red:1.2), [a:b:0.5], BREAK), comfy ((red:1.2)) or plain (every \
                 character is text, what does not fit is cut off) [default: a1111]",
            ..PICTURE
        }),
        label: Some(Label {
            name: "Prompt syntax",
            place: 9,
            own: true,
            write: Some(|r| {
                r.prompt_syntax.filter(|s| *s != PromptSyntax::Plain).map(|s| s.to_string())
            }),
        }),
        setting: Some(Setting { example: "\"a1111\"", remark: "" }),
        names: || PromptSyntax::ALL.iter().map(|syntax| syntax.name()).collect(),
        read: parsed::<PromptSyntax>,
        write: prompt_syntax,
        ..ROW
    },
    Field {
        key: "emphasis",
        sets: &["emphasis"],
        flag: Some(Flag {
            long: "emphasis",
            value: "MODE",
            place: 12,
            help: "What the weights of A1111's syntax do: original (features are multiplied, their mean stays), no-norm \
                 (multiplied), ignore (brackets are read, weights left out) or none (brackets are text) [default: original]",
            ..PICTURE
        }),
        label: Some(Label { name: "Emphasis", place: 10, ..LABEL }),
        setting: Some(Setting { example: "\"no-norm\"", remark: "" }),
        names: || Emphasis::ALL.iter().map(|mode| mode.name()).collect(),
        read: parsed::<Emphasis>,
        write: |r| vec![r.emphasis.label().to_owned()],
        neutral: "Original",
        ..ROW
    },
    Field {
        key: "encode_empty",
        sets: &["encode_empty"],
        flag: Some(Flag {
            long: "encode-empty",
            value: "",
            place: 15,
            help: "Encode an empty negative prompt where SDXL has zeros for one that is left out (one that is given empty is)",
            ..PICTURE
        }),
        label: Some(Label { name: "Empty negative prompt", place: 13, own: true, ..LABEL }),
        read: switch,
        write: |r| some(Some(r.encode_empty)),
        neutral: "false",
        ..ROW
    },
    Field {
        key: "prompt_2",
        sets: &["prompt_2"],
        flag: Some(Flag {
            long: "prompt-2",
            value: "TEXT",
            place: 13,
            help: "What the second text encoder of SDXL reads instead of the prompt",
            ..PICTURE
        }),
        label: Some(Label { name: "Prompt 2", place: 11, own: true, ..LABEL }),
        read: text,
        write: |r| some(r.prompt_2.clone()),
        ..ROW
    },
    Field {
        key: "negative_prompt_2",
        sets: &["negative_prompt_2"],
        flag: Some(Flag {
            long: "negative-2",
            alias: Some("negative-prompt-2"),
            value: "TEXT",
            place: 14,
            help: "What the second text encoder of SDXL reads instead of the negative prompt",
            ..PICTURE
        }),
        label: Some(Label { name: "Negative prompt 2", place: 12, own: true, ..LABEL }),
        read: text,
        write: |r| some(r.negative_prompt_2.clone()),
        ..ROW
    },
    Field {
        key: "width",
        sets: &["width"],
        flag: Some(Flag {
            long: "width",
            short: Some('W'),
            value: "PIXELS",
            place: 8,
            help: "Pixels across, a multiple of 8",
            ..PICTURE
        }),
        setting: Some(Setting { example: "512", remark: "pixels, a multiple of 8" }),
        read: count,
        // Both sides are written at once.
        write: |_| Vec::new(),
        ..ROW
    },
    Field {
        key: "height",
        sets: &["height"],
        flag: Some(Flag {
            long: "height",
            short: Some('H'),
            value: "PIXELS",
            place: 9,
            help: "Pixels down, a multiple of 8",
            ..PICTURE
        }),
        setting: Some(Setting { example: "512", remark: "pixels, a multiple of 8" }),
        read: count,
        write: |_| Vec::new(),
        ..ROW
    },
    Field {
        key: "size",
        sets: &["width", "height"],
        flag: Some(Flag {
            long: "size",
            value: "WxH",
            place: 10,
            help: "Width and height at once",
            ..PICTURE
        }),
        label: Some(Label { name: "Size", place: 6, ..LABEL }),
        read: size,
        write: |r| some(r.width.zip(r.height).map(|(width, height)| format!("{width}x{height}"))),
        ..ROW
    },
    Field {
        key: "aspect",
        sets: &["aspect"],
        flag: Some(Flag {
            long: "aspect",
            value: "W:H",
            place: 12,
            help: "The shape alone, such as 2:3: the nearest size that the model was trained at",
            ..PICTURE
        }),
        title: Some("Aspect"),
        read: parsed::<Aspect>,
        write: |r| some(r.aspect),
        ..ROW
    },
    Field {
        key: "steps",
        sets: &["steps"],
        flag: Some(Flag {
            long: "steps",
            short: Some('s'),
            place: 1,
            help: "Sampling steps [default: by model]",
            ..PICTURE
        }),
        label: Some(Label { name: "Steps", place: 1, ..LABEL }),
        setting: Some(Setting { example: "30", remark: "more is slower and, to a point, better" }),
        range: Some(Range { low: 1.0, high: f64::INFINITY, why: "at least 1 is needed" }),
        read: count,
        write: |r| some(r.steps),
        ..ROW
    },
    Field {
        key: "guidance_scale",
        sets: &["guidance_scale"],
        flag: Some(Flag {
            long: "guidance",
            short: Some('g'),
            alias: Some("cfg-scale"),
            value: "X",
            place: 2,
            help: "How strictly to follow the prompt; 1 = off, 5 to 8 is usual",
            ..PICTURE
        }),
        label: Some(Label { name: "CFG scale", place: 4, ..LABEL }),
        setting: Some(Setting {
            example: "7.0",
            remark: "how strictly to follow the prompt; 1 = off",
        }),
        range: Some(Range {
            low: 1.0,
            high: 1000.0,
            why: "expected 1 (off) to 1000; 5 to 8 is usual",
        }),
        read: number,
        write: |r| some(r.guidance_scale),
        ..ROW
    },
    Field {
        key: "guidance_interval",
        sets: &["guidance_interval"],
        flag: Some(Flag {
            long: "guidance-interval",
            value: "A..B",
            place: 1,
            help: "When guidance acts: fractions of the run (0.2..0.8), steps from 0 (4..16), ComfyUI's percents \
                 (20%..80%) or noise levels (sigma=0.3..5); else the prompt alone is evaluated, in half the time \
                 [default: always]",
            ..SAVERS
        }),
        label: Some(Label { name: "Guidance interval", own: true, ..LABEL }),
        read: window,
        write: |r| some(r.guidance_interval),
        ..ROW
    },
    Field {
        key: "s_min_uncond",
        sets: &["s_min_uncond"],
        flag: Some(Flag {
            long: "s-min-uncond",
            alias: Some("ngms"),
            value: "SIGMA",
            place: 4,
            help: "Below this noise level every other evaluation leaves out the negative prompt (A1111's NGMS); \
                 SIGMA:all for every one [default: none]",
            ..SAVERS
        }),
        label: Some(Label { name: "NGMS", ..LABEL }),
        read: parsed::<MinUncond>,
        write: |r| some(r.s_min_uncond),
        ..ROW
    },
    Field {
        key: "skip_early_cfg",
        sets: &["skip_early_cfg"],
        flag: Some(Flag {
            long: "skip-early-cfg",
            value: "F",
            place: 5,
            help: "This first part of the run leaves out the negative prompt, 0 to 1 (A1111) [default: 0]",
            ..SAVERS
        }),
        label: Some(Label { name: "Skip Early CFG", ..LABEL }),
        range: Some(Range { low: 0.0, high: 1.0, why: "expected a part of the run, 0 to 1" }),
        read: number,
        write: |r| some(Some(r.skip_early_cfg)),
        neutral: "0",
        ..ROW
    },
    Field {
        key: "guidance_rescale",
        sets: &["guidance_rescale"],
        flag: Some(Flag {
            long: "guidance-rescale",
            alias: Some("cfg-rescale"),
            place: 1,
            help: "Scale guided predictions back to the prompt's own deviation, 0 to 1; 0.7 is usual for models of v. \
                 0.7:on=v is ComfyUI's RescaleCFG [default: 0]",
            ..GUIDANCE
        }),
        label: Some(Label { name: "Guidance rescale", own: true, ..LABEL }),
        read: parsed::<Rescale>,
        write: |r| some(r.guidance_rescale),
        ..ROW
    },
    Field {
        key: "dynamic_threshold",
        sets: &["dynamic_threshold"],
        flag: Some(Flag {
            long: "dynamic-threshold",
            alias: Some("mimic-scale"),
            place: 2,
            help: "Keep the range of a lower guidance, channel by channel: 7, 7:percentile=0.99 [default: none]",
            ..GUIDANCE
        }),
        label: Some(Label { name: "Dynamic threshold", own: true, ..LABEL }),
        read: parsed::<DynamicThreshold>,
        write: |r| some(r.dynamic_threshold),
        ..ROW
    },
    Field {
        key: "pag",
        sets: &["pag"],
        flag: Some(Flag {
            long: "pag",
            alias: Some("pag-scale"),
            place: 3,
            help: "Perturbed attention guidance, one evaluation more a step: 3, 3:layers=mid+up.0,adaptive=0.01 \
                 [default: none]",
            ..GUIDANCE
        }),
        label: Some(Label { name: "PAG", own: true, ..LABEL }),
        read: parsed::<Pag>,
        write: |r| some(r.pag.clone()),
        ..ROW
    },
    Field {
        key: "sag",
        sets: &["sag"],
        flag: Some(Flag {
            long: "sag",
            alias: Some("sag-scale"),
            place: 4,
            help: "Self-attention guidance, one evaluation more a step: 0.75, 0.5:blur=2 [default: none]",
            ..GUIDANCE
        }),
        label: Some(Label { name: "SAG", own: true, ..LABEL }),
        read: parsed::<Sag>,
        write: |r| some(r.sag),
        ..ROW
    },
    Field {
        key: "freeu",
        sets: &["freeu"],
        flag: Some(Flag {
            long: "freeu",
            value: "V",
            place: 5,
            help: "FreeU: v2, v1 (ComfyUI's) or diffusers; v2:b1=1.3,b2=1.4,s1=0.9,s2=0.2 [default: none]",
            ..GUIDANCE
        }),
        label: Some(Label { name: "FreeU", own: true, ..LABEL }),
        read: parsed::<FreeU>,
        write: |r| some(r.freeu),
        ..ROW
    },
    Field {
        key: "prediction",
        sets: &["prediction"],
        flag: Some(Flag {
            long: "prediction",
            value: "KIND",
            place: 11,
            help: "What the network predicts, for files without a mark: epsilon, v, v:zsnr, edm (Playground 2.5), edm-v \
                 (CosXL), flow:shift=2.5 [default: by model]",
            ..SDXL
        }),
        label: Some(Label { name: "Prediction", own: true, ..LABEL }),
        read: parsed::<Training>,
        write: |r| some(r.prediction),
        ..ROW
    },
    Field {
        key: "refiner",
        sets: &["refiner"],
        flag: Some(Flag {
            long: "refiner",
            value: "MODEL",
            place: 9,
            help: "A second model that takes the last steps, such as SDXL's refiner [default: none]",
            ..SDXL
        }),
        label: Some(Label { name: "Refiner", own: true, ..LABEL }),
        write: |r| some(r.refiner.clone()),
        ..ROW
    },
    Field {
        key: "refiner_at",
        sets: &["refiner_at"],
        flag: Some(Flag {
            long: "refiner-at",
            alias: Some("refiner-switch-at"),
            value: "F",
            place: 10,
            help: "Where it takes over, 0 to 1 of the noise's way [default: 0.8]",
            ..SDXL
        }),
        label: Some(Label { name: "Refiner switch at", own: true, ..LABEL }),
        range: Some(Range { low: 0.0, high: 1.0, why: "expected a part of the run, 0 to 1" }),
        read: number,
        write: |r| some(Some(r.refiner_at)),
        neutral: "0.8",
        ..ROW
    },
    Field {
        key: "original_size",
        sets: &["original_size"],
        flag: Some(Flag {
            long: "original-size",
            place: 1,
            help: "Say to the prompt that the picture was cut from one of this size [default: its own]",
            ..SDXL
        }),
        label: Some(Label { name: "Original size", own: true, ..LABEL }),
        read: parsed::<ToldSize>,
        write: |r| some(r.original_size),
        ..ROW
    },
    Field {
        key: "crop",
        sets: &["crop"],
        flag: Some(Flag {
            long: "crop",
            value: "TOP,LEFT",
            place: 2,
            help: "Say to the prompt where it was cut [default: 0,0]",
            ..SDXL
        }),
        label: Some(Label { name: "Crop", own: true, ..LABEL }),
        read: parsed::<Crop>,
        write: |r| some(r.crop),
        ..ROW
    },
    Field {
        key: "target_size",
        sets: &["target_size"],
        flag: Some(Flag {
            long: "target-size",
            place: 3,
            help: "Say to the prompt that it has this size [default: its own]",
            ..SDXL
        }),
        label: Some(Label { name: "Target size", own: true, ..LABEL }),
        read: parsed::<ToldSize>,
        write: |r| some(r.target_size),
        ..ROW
    },
    Field {
        key: "negative_original_size",
        sets: &["negative_original_size"],
        flag: Some(Flag {
            long: "negative-original-size",
            place: 4,
            help: "The same, said to the negative prompt [default: as to the prompt]",
            ..SDXL
        }),
        label: Some(Label { name: "Negative original size", own: true, ..LABEL }),
        read: parsed::<ToldSize>,
        write: |r| some(r.negative_original_size),
        ..ROW
    },
    Field {
        key: "negative_crop",
        sets: &["negative_crop"],
        flag: Some(Flag {
            long: "negative-crop",
            value: "TOP,LEFT",
            place: 5,
            help: "The same, said to the negative prompt [default: as to the prompt]",
            ..SDXL
        }),
        label: Some(Label { name: "Negative crop", own: true, ..LABEL }),
        read: parsed::<Crop>,
        write: |r| some(r.negative_crop),
        ..ROW
    },
    Field {
        key: "negative_target_size",
        sets: &["negative_target_size"],
        flag: Some(Flag {
            long: "negative-target-size",
            place: 6,
            help: "The same, said to the negative prompt [default: as to the prompt]",
            ..SDXL
        }),
        label: Some(Label { name: "Negative target size", own: true, ..LABEL }),
        read: parsed::<ToldSize>,
        write: |r| some(r.negative_target_size),
        ..ROW
    },
    Field {
        key: "aesthetic_score",
        sets: &["aesthetic_score"],
        flag: Some(Flag {
            long: "aesthetic-score",
            value: "X",
            place: 7,
            help: "How beautiful the refiner is told that it is [default: 6]",
            ..SDXL
        }),
        label: Some(Label { name: "Aesthetic score", own: true, ..LABEL }),
        range: Some(Range {
            low: 0.0,
            high: 10.0,
            why: "expected 0 to 10; pictures that people like have 6 and more",
        }),
        read: number,
        write: |r| some(r.aesthetic_score),
        ..ROW
    },
    Field {
        key: "negative_aesthetic_score",
        sets: &["negative_aesthetic_score"],
        flag: Some(Flag {
            long: "negative-aesthetic-score",
            value: "X",
            place: 8,
            help: "The same, said to the negative prompt [default: 2.5]",
            ..SDXL
        }),
        label: Some(Label { name: "Negative aesthetic score", own: true, ..LABEL }),
        range: Some(Range {
            low: 0.0,
            high: 10.0,
            why: "expected 0 to 10; pictures that people like have 6 and more",
        }),
        read: number,
        write: |r| some(r.negative_aesthetic_score),
        ..ROW
    },
    Field {
        key: "reuse",
        sets: &["reuse"],
        flag: Some(Flag {
            long: "reuse",
            alias: Some("deepcache"),
            place: 2,
            help: "Evaluate the whole network every N steps and its finest layers alone between (DeepCache); 3 is \
                 usual with 20 steps or more [default: 1, always the whole]",
            ..SAVERS
        }),
        label: Some(Label { name: "Feature reuse", own: true, ..LABEL }),
        range: Some(Range {
            low: 1.0,
            high: f64::INFINITY,
            why: "1 evaluates the whole network at every step",
        }),
        read: count,
        write: |r| some(Some(r.reuse)),
        neutral: "1",
        ..ROW
    },
    Field {
        key: "merge_tokens",
        sets: &["merge_tokens"],
        flag: Some(Flag {
            long: "merge-tokens",
            value: "R",
            place: 3,
            help: "Merge this part of the tokens of the finest self-attention with others like them (ToMe), 0 to \
                 0.75; pays for large pictures [default: 0]",
            ..SAVERS
        }),
        label: Some(Label { name: "Token merging ratio", own: true, ..LABEL }),
        range: Some(Range {
            low: 0.0,
            high: MOST_MERGED,
            why: "expected 0 (none) to 0.75 of the tokens; 0.5 is usual",
        }),
        read: number,
        write: |r| some(Some(r.merge_tokens)),
        neutral: "0",
        ..ROW
    },
    Field {
        key: "sampler",
        sets: &["sampler"],
        flag: Some(Flag {
            long: "sampler",
            value: "NAME",
            place: 3,
            help: "Integrator",
            ..PICTURE
        }),
        label: Some(Label {
            name: "Sampler",
            place: 2,
            write: Some(|r| r.sampler.map(|sampler| sampler.spec().label.to_owned())),
            ..LABEL
        }),
        setting: Some(Setting { example: "\"dpmpp-2m\"", remark: "" }),
        names: || Sampler::ALL.iter().map(|sampler| sampler.name()).collect(),
        read: parsed::<Sampler>,
        write: |r| some(r.sampler),
        ..ROW
    },
    Field {
        key: "sampler_options",
        sets: &["sampler_options"],
        flag: Some(Flag {
            long: "sampler-options",
            value: "NAME=X",
            place: 10,
            help: "Numbers of the sampler, such as eta=0.5; several with commas [default: the sampler's own]",
            ..PICTURE
        }),
        label: Some(Label { name: "Sampler options", own: true, ..LABEL }),
        read: options,
        write: |r| some(Some(&r.sampler_options).filter(|options| !options.is_empty())),
        ..ROW
    },
    Field {
        key: "schedule",
        sets: &["schedule"],
        flag: Some(Flag {
            long: "schedule",
            value: "NAME",
            place: 4,
            help: "Spacing of noise levels",
            ..PICTURE
        }),
        label: Some(Label {
            name: "Schedule type",
            place: 3,
            write: Some(|r| r.schedule.map(|schedule| schedule.spec().label.to_owned())),
            ..LABEL
        }),
        setting: Some(Setting { example: "\"karras\"", remark: "" }),
        names: || Schedule::ALL.iter().map(|schedule| schedule.name()).collect(),
        read: parsed::<Schedule>,
        write: |r| some(r.schedule),
        ..ROW
    },
    Field {
        key: "clip_skip",
        sets: &["clip_skip"],
        flag: Some(Flag {
            long: "clip-skip",
            place: 5,
            help: "Text encoder layer from the last; 1 = the model's own choice",
            ..PICTURE
        }),
        label: Some(Label { name: "Clip skip", place: 8, ..LABEL }),
        setting: Some(Setting {
            example: "1",
            remark: "text encoder layer from the last; 1 = that one",
        }),
        range: Some(Range { low: 1.0, high: f64::INFINITY, why: "1 is the last layer" }),
        read: count,
        write: |r| some(r.clip_skip),
        neutral: "1",
        ..ROW
    },
    Field {
        key: "seed",
        sets: &["seed"],
        flag: Some(Flag {
            long: "seed",
            short: Some('S'),
            place: 6,
            help: "Seed of the first picture, or `random`; picture i uses seed + i",
            ..PICTURE
        }),
        label: Some(Label { name: "Seed", place: 5, ..LABEL }),
        read: seed,
        write: |r| some(r.seed),
        ..ROW
    },
    Field {
        key: "count",
        sets: &["count"],
        flag: Some(Flag {
            long: "count",
            short: Some('n'),
            place: 7,
            help: "How many pictures [default: 1]",
            ..PICTURE
        }),
        range: Some(Range { low: 1.0, high: MAX_COUNT as f64, why: "expected 1 to 10000" }),
        read: count,
        write: |r| some(Some(r.count)),
        neutral: "1",
        ..ROW
    },
    Field {
        key: "loras",
        sets: &["loras"],
        flag: Some(Flag {
            long: "lora",
            short: Some('l'),
            value: "NAME[:W]",
            place: 1,
            help: "A LoRA: NAME, NAME:0.8, NAME:unet=1,text=0.5:blocks=MIDD:steps=0..0.6; repeat for more",
            ..LORA
        }),
        title: Some("LoRA"),
        read: lora,
        write: |r| r.loras.iter().map(ToString::to_string).collect(),
        ..ROW
    },
    Field {
        key: "lora_method",
        sets: &["lora_method"],
        flag: Some(Flag {
            long: "lora-method",
            value: "METHOD",
            place: 3,
            help: "How several LoRAs are put together: sum, sequential, svd, ties, dare, dare-ties, switch or \
                 composite; with numbers: ties:density=0.3, svd:rank=32, switch:period=2 [default: sum]",
            ..LORA
        }),
        title: Some("LoRA method"),
        read: parsed::<Method>,
        write: |r| some(Some(r.lora_method)),
        neutral: "sum",
        ..ROW
    },
    Field {
        key: "apply",
        sets: &["apply"],
        flag: Some(Flag {
            long: "apply",
            value: "HOW",
            place: 4,
            help: "auto, merge (into the weights) or bypass (beside them) [default: auto]",
            ..LORA
        }),
        title: Some("Apply"),
        read: parsed::<Apply>,
        write: |r| some(Some(r.apply)),
        neutral: "auto",
        ..ROW
    },
    Field {
        key: "tile",
        sets: &["tile"],
        flag: Some(Flag {
            long: "tile",
            value: "",
            heading: Some("Machine"),
            place: 90,
            help: "Decode in tiles: less memory [default: for large pictures]",
            opposite: Some(["no-tile", "Decode in one piece"]),
            ..FLAG
        }),
        title: Some("Tile"),
        read: switch,
        write: tile,
        ..ROW
    },
    Field {
        key: "preview",
        sets: &["preview"],
        flag: Some(Flag {
            long: "preview",
            heading: Some("Output"),
            place: 8,
            help: "A rough look every N steps in OUTPUT.preview.png, removed at the end",
            ..FLAG
        }),
        read: count,
        write: |r| some(Some(r.preview)),
        neutral: "0",
        ..ROW
    },
];
