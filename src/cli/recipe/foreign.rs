//! The request behind the settings of another program.

use super::Recipe;
use super::fields::{Layout, ours, unfollowed};
use crate::picture::Parameters;
use crate::pipeline::Request;
use crate::prompt::{extract_tags, foreign_syntax};
use crate::sampling::{Sampler, Schedule};
use crate::size::ImageSize;

/// The request behind the settings of another program, and what of them it does not follow.
pub(super) fn recipe(parameters: Parameters, layout: Layout) -> Recipe {
    let number = |name: &str| parameters.get(name).and_then(|v| v.trim().parse::<u64>().ok());
    let count = |name: &str| number(name).and_then(|n| usize::try_from(n).ok());
    let size = parameters.get("Size").and_then(|v| v.parse::<ImageSize>().ok());
    let (sampler, schedule, unknown_sampler) = integrator(&parameters);
    let mut request = Request {
        prompt: parameters.prompt.clone(),
        negative_prompt: parameters.negative_prompt.clone(),
        width: size.map(ImageSize::width),
        height: size.map(ImageSize::height),
        steps: count("Steps"),
        guidance_scale: parameters.get("CFG scale").and_then(|v| v.parse().ok()),
        sampler,
        schedule,
        seed: number("Seed"),
        clip_skip: count("Clip skip"),
        ..Request::default()
    };
    let mut ignored = unfollowed(&parameters, layout);
    // What other programs call so is computed in other ways.
    if ours(&parameters) {
        let merged = parameters.get("Token merging ratio").and_then(|v| v.parse::<f64>().ok());
        request.guidance_interval =
            parameters.get("Guidance interval").and_then(|v| v.parse().ok());
        request.reuse = count("Feature reuse").filter(|n| *n > 0).unwrap_or(1);
        request.merge_tokens = merged.filter(|r| (0.0..=0.75).contains(r)).unwrap_or(0.0);
    }
    let unread = [
        ("Steps", request.steps.is_none()),
        ("CFG scale", request.guidance_scale.is_none()),
        ("Seed", request.seed.is_none()),
        ("Size", size.is_none()),
        ("Clip skip", request.clip_skip.is_none()),
    ];
    for (name, _) in unread.iter().filter(|(_, unread)| *unread) {
        ignored.extend(parameters.get(name).map(|value| format!("{name}: {value}")));
    }
    if layout == Layout::Json && request.sampler.is_none() && unknown_sampler.is_none() {
        ignored.push("sampler (none is named)".to_owned());
    }
    if !ours(&parameters) {
        ignored.extend(syntax(&parameters.prompt, true));
        ignored.extend(syntax(&parameters.negative_prompt, false));
    }
    let model = parameters.get("Model").map(str::to_owned);
    Recipe { model, request, parameters, unknown_sampler, ignored, made_with: None }
}

/// The parts of a prompt that are drawn as they are written, in words.
fn syntax(text: &str, tagged: bool) -> Vec<String> {
    let tags = if tagged { extract_tags(text).map(|f| f.tags).unwrap_or_default() } else { vec![] };
    let tags: Vec<_> = tags.into_iter().map(|tag| tag.span).collect();
    foreign_syntax(text, &tags).into_iter().map(|part| format!("`{part}`")).collect()
}

/// Sampler and schedule, which older programs wrote as one name (`DPM++ 2M Karras`).
fn integrator(parameters: &Parameters) -> (Option<Sampler>, Option<Schedule>, Option<String>) {
    let Some(name) = parameters.get("Sampler") else { return (None, None, None) };
    let joined = |schedule: Schedule| {
        let label = schedule.spec().label;
        Some((name.strip_suffix(label)?.strip_suffix(' ')?, label))
    };
    let (base, suffix) = match Schedule::ALL.into_iter().find_map(joined) {
        Some((base, label)) => (base, Some(label)),
        None => (name, None),
    };
    let sampler = Sampler::from_label(base);
    let written = suffix.or(parameters.get("Schedule type")).unwrap_or("Uniform");
    let schedule = match (written, sampler) {
        // What that program chooses by itself for this sampler.
        ("Automatic", Some(sampler)) if !ours(parameters) => Some(sampler.spec().automatic),
        _ => Schedule::from_label(written),
    };
    let known = sampler.is_some() && schedule.is_some();
    (sampler, schedule, (!known).then(|| format!("{name}, {written}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Recipe {
        recipe(Parameters::parse(text), Layout::Lines)
    }

    #[test]
    fn pictures_of_other_programs() {
        let parse = |settings: &str| lines(&format!("x\n{settings}, RNG: CPU"));
        let recipe =
            parse("Steps: 9, Sampler: DPM++ 2M Karras, CFG scale: 5.5, Seed: 3, Size: 64x128");
        let request = &recipe.request;
        assert_eq!((request.steps, request.seed, request.height), (Some(9), Some(3), Some(128)));
        assert_eq!(
            (request.sampler, request.schedule),
            (Some(Sampler::DpmPp2m), Some(Schedule::Karras))
        );
        let automatic = parse("Steps: 9, Sampler: DPM++ 2M, Schedule type: Automatic");
        assert_eq!(automatic.request.schedule, Some(Schedule::Karras));
        let other = parse("Steps: 9, Sampler: Euler a, Refiner: r, Seed: -1, Size: 9x9");
        assert_eq!(other.unknown_sampler.as_deref(), Some("Euler a, Uniform"));
        assert_eq!(other.ignored, ["Refiner", "Seed: -1", "Size: 9x9"]);
        assert_eq!((other.request.seed, other.request.width), (None, None));
        let strong = lines("(red:1.3) \\(x:1) <lora:a:1>\nNegative prompt: <lora:b:1>\nSteps: 9");
        assert_eq!(strong.ignored, ["`(red:1.3)`", "`<lora:b:1>`"]);
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
            "Skip Early CFG: 0.1",
            "ControlNet 0: \"Module: canny, Weight: 1\"",
            "Tiling: True",
            "Face restoration: GFPGAN",
            "ADetailer model: face.pt",
            "Hypernet: some",
            "CFG Rescale phi: 0.7",
            "RP Active: True",
            "Seed resize from: 512x512",
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
        assert_eq!(lines("x\nSteps: 9, Seed: 1, RNG: NV").ignored, ["RNG: NV"]);
        let unsaid = lines("x\nSteps: 9, Seed: 1").ignored;
        assert!(unsaid.len() == 1 && unsaid[0].starts_with("RNG (none"), "{unsaid:?}");
        let merged = lines("x\nSteps: 9, Token merging ratio: 0.5").request.merge_tokens;
        assert!(merged.abs() < f64::EPSILON, "what is named as not followed is not followed");
    }
}
