//! The request behind the settings of another program.

use super::data::ImageRecord;
use super::foreign::Told;
use super::labels::{Layout, ours, says_nothing, unfollowed};
use crate::picture::Parameters;
use crate::pipeline::Request;
use crate::pipeline::fields;
use crate::prompt::{PromptSyntax, extract_tags, foreign_syntax};
use crate::sampling::{NamedSampler, Sampler, Schedule};
use crate::size::SD_VAE_FACTOR;
use serde_json::{Map, Value};

/// The request behind the settings of another program, and what of them it does not follow.
pub(super) fn record(told: Told) -> ImageRecord {
    let Told { program, layout, syntax, parameters, loras, hashes, ignored: more } = told;
    let ours = ours(&parameters);
    let (sampler, schedule, unknown_sampler) = integrator(&parameters);
    let mut ignored = unfollowed(&parameters, layout);
    ignored.extend(more);
    let mut values = Map::new();
    for (field, label) in fields::labelled() {
        // What other programs call as we do is computed in other ways.
        let followed = label.write.is_none() && (ours || !label.own);
        let Some(text) = parameters.get(label.name).filter(|_| followed) else { continue };
        if says_nothing(label.name, text.trim()) {
            continue;
        }
        let mut put = Map::new();
        let read = field.value(text.trim()).map(|value| field.put(value, &mut put));
        // A seed of -1, which a picture cannot have been made with, is no seed.
        let usable = read.is_ok() && put.values().all(|value| !value.is_null());
        let usable = usable && (!label.own || in_range(&put)) && (ours || is_size(&put));
        if usable {
            values.extend(put);
        } else {
            ignored.push(format!("{}: {text}", label.name));
        }
    }
    let request = serde_json::from_value(values.into()).unwrap_or_default();
    let prompt_syntax = written_in(&parameters, syntax);
    let request = Request {
        prompt_syntax: Some(prompt_syntax),
        loras,
        prompt: parameters.prompt.clone(),
        negative_prompt: parameters.negative_prompt.clone(),
        sampler,
        schedule,
        ..request
    };
    if layout == Layout::Json && request.sampler.is_none() && unknown_sampler.is_none() {
        ignored.push("sampler (none is named)".to_owned());
    }
    if !ours {
        ignored.extend(as_written(&parameters.prompt, true, prompt_syntax));
        ignored.extend(as_written(&parameters.negative_prompt, false, prompt_syntax));
    }
    let model = parameters.get("Model").map(str::to_owned);
    let program = Some(program);
    ImageRecord {
        program,
        hashes,
        model,
        request,
        parameters,
        unknown_sampler,
        ignored,
        ..ImageRecord::default()
    }
}

/// Whether sides among the values are such that other programs draw: multiples of 8, whatever the model.
fn is_size(values: &Map<String, Value>) -> bool {
    let mut sides = ["width", "height"].into_iter().filter_map(|key| values.get(key)?.as_u64());
    sides.all(|side| side.is_multiple_of(SD_VAE_FACTOR as u64))
}

/// Whether the values are in the ranges of their fields.
fn in_range(values: &Map<String, Value>) -> bool {
    let request = serde_json::from_value::<Request>(values.clone().into());
    request.is_ok_and(|request| fields::check(&request).is_ok())
}

/// The syntax that a program reads prompts in; colora's own pictures name theirs unless it is plain text.
fn written_in(parameters: &Parameters, syntax: PromptSyntax) -> PromptSyntax {
    let named = || parameters.get("Prompt syntax")?.trim().parse().ok();
    if ours(parameters) { named().unwrap_or(PromptSyntax::Plain) } else { syntax }
}

/// The parts of a prompt that are drawn as they are written, in words.
fn as_written(text: &str, tagged: bool, syntax: PromptSyntax) -> Vec<String> {
    let tags = if tagged { extract_tags(text).map(|f| f.tags).unwrap_or_default() } else { vec![] };
    let tags: Vec<_> = tags.into_iter().map(|tag| tag.span).collect();
    foreign_syntax(text, &tags, syntax).into_iter().map(|part| format!("`{part}`")).collect()
}

/// Sampler and schedule, which older programs wrote as one name (`DPM++ 2M Karras`).
fn integrator(parameters: &Parameters) -> (Option<Sampler>, Option<Schedule>, Option<String>) {
    let Some(name) = parameters.get("Sampler") else { return (None, None, None) };
    let named = name.parse::<NamedSampler>().ok();
    let (sampler, suffix) =
        (named.map(|named| named.sampler), named.and_then(|named| named.schedule));
    let written = parameters.get("Schedule type");
    let schedule = match (suffix, written.unwrap_or("Uniform"), sampler) {
        (Some(suffix), ..) => Some(suffix),
        // What that program chooses by itself for this sampler.
        (None, "Automatic", Some(sampler)) if !ours(parameters) => Some(sampler.spec().automatic),
        (None, written, _) => {
            Schedule::from_label(written).or_else(|| Schedule::from_comfyui(written))
        }
    };
    let known = sampler.is_some() && schedule.is_some();
    let named = || format!("{name}, {}", written.unwrap_or("Uniform"));
    (sampler, schedule, (!known).then(named))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::family::Defaults;
    use crate::pipeline::fields::tests::full;
    use crate::sampling::SamplerOptions;

    fn lines(text: &str) -> ImageRecord {
        record(super::super::foreign::read_lines(text))
    }

    #[test]
    fn pictures_of_other_programs() {
        let parse = |settings: &str| lines(&format!("x\n{settings}, RNG: CPU"));
        let found =
            parse("Steps: 9, Sampler: DPM++ 2M Karras, CFG scale: 5.5, Seed: 3, Size: 64x128");
        let request = &found.request;
        assert_eq!((request.steps, request.seed, request.height), (Some(9), Some(3), Some(128)));
        assert_eq!(
            (request.sampler, request.schedule),
            (Some(Sampler::DpmPp2m), Some(Schedule::Karras))
        );
        let automatic = parse("Steps: 9, Sampler: DPM++ 2M, Schedule type: Automatic");
        assert_eq!(automatic.request.schedule, Some(Schedule::Karras));
        let other = parse("Steps: 9, Sampler: DPM slow, Refiner: r, Seed: -1, Size: 9x9");
        assert_eq!(other.unknown_sampler.as_deref(), Some("DPM slow, Uniform"));
        assert_eq!(other.ignored, ["Refiner", "Seed: -1", "Size: 9x9"]);
        assert_eq!((other.request.seed, other.request.width), (None, None));
        let strong = lines("(red:1.3) \\(x:1) <lora:a:1>\nNegative prompt: <lora:b:1>\nSteps: 9");
        assert_eq!(strong.request.prompt_syntax, Some(PromptSyntax::A1111));
        assert_eq!(strong.ignored, ["`<lora:b:1>`"]);
    }

    /// What colora writes for other programs it reads itself, label by label.
    #[test]
    fn every_label_is_read_again() {
        // LoRAs stand in the prompt, and a shape is written as its size.
        let request = Request { loras: Vec::new(), aspect: None, ..full() };
        for (sampler, schedule) in
            Sampler::ALL.iter().flat_map(|a| Schedule::ALL.iter().map(|b| (*a, *b)))
        {
            let tuned = sampler.spec().options.first();
            let request = Request {
                sampler: Some(sampler),
                schedule: Some(schedule),
                sampler_options: tuned
                    .map(|option| SamplerOptions::default().with(option.name, option.default))
                    .unwrap_or_default(),
                ..request.clone()
            };
            let plan = request.plan(&Defaults::default(), 7).unwrap();
            let found = lines(&plan.parameters(0, "m").render());
            assert_eq!(found.ignored, [""; 0]);
            for (field, label) in fields::labelled() {
                let written = field.labelled(label, &plan.request_for(0));
                let none = field.key == "sampler_options" && tuned.is_none();
                assert!(written.is_some() || none, "{} needs a value in this test", label.name);
                assert_eq!(field.labelled(label, &found.request), written, "{}", label.name);
            }
        }
    }

    /// Seven settings were known to change a picture, and every other one was taken as harmless.
    #[test]
    fn settings_that_are_not_known_are_named() {
        let said = |field: &str| lines(&format!("x\nSteps: 9, Seed: 1, RNG: CPU, {field}")).ignored;
        for field in [
            "VAE: other.safetensors",
            "Eta: 0.5",
            "Schedule max sigma: 10",
            "Schedule rho: 3",
            "Beta schedule: linear",
            "Noise Schedule: Zero Terminal SNR",
            "Token merging ratio: 0.5",
            "ControlNet 0: \"Module: canny, Weight: 1\"",
            "Tiling: True",
            "Face restoration: GFPGAN",
            "ADetailer model: face.pt",
            "Hypernet: some",
            "CFG Rescale phi: 0.7",
            "RP Active: True",
            "AddNet Enabled: True",
            "FreeU Stages: \"[]\"",
            "Whatever comes: next",
        ] {
            assert_eq!(said(field), [field.split(':').next().unwrap()]);
        }
        for field in [
            "Version: v1.10.1, Model hash: 1a, VAE hash: 2b, Lora hashes: \"a: 1\"",
            "Batch size: 2, Batch pos: 1, Created Date: 2024-05-01T10:00:00.0000000Z",
            "Civitai resources: [{\"type\":\"lora\",\"modelName\":\"D, the [2nd]\"}], Civitai metadata: {}",
            "Hashes: {\"model\": \"1a\", \"lora:ink\": \"99\"}\nTemplate: a {b|c}\nNegative Template: x",
            "VAE: Automatic, Eta: 0.000000",
        ] {
            assert_eq!(said(field), [""; 0], "{field}");
        }
        assert_eq!(lines("x\nSteps: 9, Seed: 1, RNG: NV").ignored, [""; 0]);
        assert_eq!(lines("x\nSteps: 9, Seed: 1, RNG: GPU").ignored, ["RNG: GPU"]);
        let unsaid = lines("x\nSteps: 9, Seed: 1").ignored;
        assert!(unsaid.len() == 1 && unsaid[0].starts_with("RNG (none"), "{unsaid:?}");
        let merged = lines("x\nSteps: 9, Token merging ratio: 0.5").request.merge_tokens;
        assert!(merged.abs() < f64::EPSILON, "what is named as not followed is not followed");
    }
}
