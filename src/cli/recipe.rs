//! Floor 7. The settings that travel in pictures: ours as JSON, everyone's as "parameters".

use super::made_with::{MadeWith, locate_loras};
use crate::error::{Error, Result};
use crate::picture::{Parameters, png};
use crate::pipeline::{Plan, Request};
use crate::prompt::emphasis;
use crate::sampling::{Sampler, Schedule};
use crate::size::ImageSize;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// Version of our JSON.
const SCHEMA: u32 = 1;

/// Our JSON inside a picture.
#[derive(Debug, Serialize, Deserialize)]
struct Own {
    schema: u32,
    version: String,
    /// The model's own name, for people and other programs.
    model: String,
    /// Older pictures say no more than the name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    made_with: Option<MadeWith>,
    request: Request,
}

/// How a picture was made, as far as it says.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Recipe {
    /// The model's name.
    pub(super) model: Option<String>,
    /// What it was made with, as its maker named it.
    pub(super) made_with: Option<MadeWith>,
    /// The request that makes it again.
    pub(super) request: Request,
    /// The settings as written for other programs.
    pub(super) parameters: Parameters,
    /// A sampler or schedule that colora does not have.
    pub(super) unknown_sampler: Option<String>,
    /// Other settings that change the picture and that colora does not follow.
    pub(super) ignored: Vec<String>,
}

impl Recipe {
    /// What it was made with; of older pictures and those of other programs only the model's name is known.
    pub(super) fn made_with(&self) -> MadeWith {
        let named = MadeWith { model: self.model.clone(), ..MadeWith::default() };
        self.made_with.clone().unwrap_or(named)
    }

    /// The same with paths that lead from the current folder to what the picture at `path` means.
    #[must_use]
    pub(super) fn located(mut self, path: &Path) -> Self {
        let folder = path.parent().unwrap_or(Path::new(""));
        self.made_with = self.made_with.map(|words| words.located(folder));
        locate_loras(&mut self.request.loras, folder);
        self
    }
}

/// Settings of other programs that make another picture; without them the request is not the whole.
const UNFOLLOWED: [&str; 7] = [
    "Denoising strength",
    "ENSD",
    "Hires upscale",
    "Hires upscaler",
    "Refiner",
    "TI hashes",
    "Variation seed",
];

/// The texts of picture `index` of `plan`.
///
/// # Errors
/// [`Error::Internal`] when the request is no JSON, which no request is.
pub(super) fn texts(
    plan: &Plan,
    index: usize,
    model: &str,
    made_with: &MadeWith,
) -> Result<png::Texts> {
    let own = Own {
        schema: SCHEMA,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        model: model.to_owned(),
        made_with: Some(made_with.clone()),
        request: plan.request_for(index),
    };
    let json =
        serde_json::to_string(&own).map_err(|e| Error::Internal(format!("a request: {e}")))?;
    let parameters = plan.parameters(index, model).render();
    Ok(png::Texts { parameters: Some(parameters), colora: Some(json) })
}

/// Reads how the picture `path` was made.
///
/// # Errors
/// [`Error::Corrupt`] when it is no PNG or says nothing, or when its JSON cannot be understood.
pub(super) fn read(path: &Path) -> Result<Recipe> {
    let texts = png::read_texts(path)?;
    let parameters = texts.parameters.as_deref().map(Parameters::parse);
    match (texts.colora, parameters) {
        (Some(json), parameters) => own(&json, parameters.unwrap_or_default(), path),
        (None, Some(parameters)) => Ok(foreign(parameters)),
        (None, None) => Err(Error::corrupt(path, "this picture holds no settings")),
    }
}

fn own(json: &str, parameters: Parameters, path: &Path) -> Result<Recipe> {
    let newer =
        |version: &str| format!("made by colora {version}, which stores settings in a newer way");
    let value: serde_json::Value = serde_json::from_str(json).unwrap_or_default();
    let version = value["version"].as_str().unwrap_or("?").to_owned();
    let own: Own = serde_json::from_value(value).map_err(|e| {
        Error::corrupt(path, format!("its settings cannot be read (colora {version}): {e}"))
    })?;
    if own.schema != SCHEMA {
        return Err(Error::corrupt(path, newer(&version)));
    }
    Ok(Recipe {
        model: Some(own.model),
        made_with: own.made_with,
        request: own.request,
        parameters,
        ..Recipe::default()
    })
}

/// The request behind the settings of another program.
fn foreign(parameters: Parameters) -> Recipe {
    let number = |name: &str| parameters.get(name).and_then(|v| v.trim().parse::<u64>().ok());
    let count = |name: &str| number(name).and_then(|n| usize::try_from(n).ok());
    // What A1111 calls it too.
    let merged = parameters.get("Token merging ratio").and_then(|v| v.parse::<f64>().ok());
    let size = parameters.get("Size").and_then(|v| v.parse::<ImageSize>().ok());
    let (sampler, schedule, unknown_sampler) = integrator(&parameters);
    let request = Request {
        prompt: parameters.prompt.clone(),
        negative_prompt: parameters.negative_prompt.clone(),
        width: size.map(ImageSize::width),
        height: size.map(ImageSize::height),
        steps: count("Steps"),
        guidance_scale: parameters.get("CFG scale").and_then(|v| v.parse().ok()),
        guidance_interval: parameters.get("Guidance interval").and_then(|v| v.parse().ok()),
        reuse: count("Feature reuse").filter(|n| *n > 0).unwrap_or(1),
        merge_tokens: merged.filter(|r| (0.0..=0.75).contains(r)).unwrap_or(0.0),
        sampler,
        schedule,
        seed: number("Seed"),
        clip_skip: count("Clip skip"),
        ..Request::default()
    };
    let named = UNFOLLOWED.iter().filter(|name| parameters.get(name).is_some());
    let mut ignored: Vec<String> = named.map(|name| (*name).to_owned()).collect();
    let unread = [
        ("Size", size.is_none()),
        ("CFG scale", request.guidance_scale.is_none()),
        ("Token merging ratio", merged != Some(request.merge_tokens)),
    ];
    for (name, _) in unread.iter().filter(|(_, unread)| *unread) {
        ignored.extend(parameters.get(name).map(|value| format!("{name}: {value}")));
    }
    let texts = [&parameters.prompt, &parameters.negative_prompt];
    ignored.extend(texts.into_iter().filter_map(|t| emphasis(t)).map(|e| format!("emphasis {e}")));
    let model = parameters.get("Model").map(str::to_owned);
    Recipe { model, request, parameters, unknown_sampler, ignored, made_with: None }
}

/// Sampler and schedule, which older programs wrote as one name (`DPM++ 2M Karras`).
fn integrator(parameters: &Parameters) -> (Option<Sampler>, Option<Schedule>, Option<String>) {
    let Some(name) = parameters.get("Sampler") else { return (None, None, None) };
    let (base, suffix) = match name.strip_suffix(" Karras") {
        Some(base) => (base, Some("Karras")),
        None => (name, None),
    };
    let sampler = match base {
        "Euler" => Some(Sampler::Euler),
        "DDIM" => Some(Sampler::Ddim),
        "DPM++ 2M" => Some(Sampler::DpmPp2m),
        _ => None,
    };
    let ours = parameters.get("Version").is_some_and(|v| v.starts_with("colora"));
    let written = suffix.or(parameters.get("Schedule type")).unwrap_or("Uniform");
    let schedule = match written {
        "Karras" => Some(Schedule::Karras),
        "Exponential" => Some(Schedule::Exponential),
        // What that program chooses by itself for this sampler.
        "Automatic" if !ours && sampler == Some(Sampler::DpmPp2m) => Some(Schedule::Karras),
        "Automatic" | "Uniform" | "Normal" => Some(Schedule::Discrete),
        _ => None,
    };
    let known = sampler.is_some() && schedule.is_some();
    (sampler, schedule, (!known).then(|| format!("{name}, {written}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::family::Defaults;
    use crate::picture::Picture;

    fn plan() -> Plan {
        let request = Request {
            prompt: "a\nfox é".into(),
            count: 2,
            clip_skip: Some(2),
            guidance_interval: "0.1..0.75".parse().ok(),
            reuse: 3,
            merge_tokens: 0.25,
            ..Request::default()
        };
        request.plan(&Defaults::default(), u64::MAX).unwrap()
    }

    fn stored(texts: &png::Texts) -> Result<Recipe> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.png");
        let picture = Picture::new(1, 1, vec![0; 3]).unwrap();
        png::save(&png::encode(&picture, texts).unwrap(), &path, false).unwrap();
        read(&path)
    }

    #[test]
    fn a_request_survives_in_a_picture() {
        let made_with = MadeWith {
            model: Some("sub/m.safetensors".into()),
            dtype: Some("bf16".into()),
            ..MadeWith::default()
        };
        let texts = texts(&plan(), 1, "m", &made_with).unwrap();
        let recipe = stored(&texts).unwrap();
        assert_eq!(recipe.request, plan().request_for(1));
        assert_eq!(recipe.model.as_deref(), Some("m"));
        assert_eq!(recipe.made_with, Some(made_with));
        // Also through the lines that other programs read, except for what they do not hold.
        let through = stored(&png::Texts { colora: None, ..texts }).unwrap();
        assert_eq!(Request { tile: Some(false), ..through.request }, recipe.request);
        assert_eq!(through.unknown_sampler, None);
    }

    #[test]
    fn pictures_of_other_programs() {
        let parse = |settings: &str| foreign(Parameters::parse(&format!("x\n{settings}")));
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
        assert_eq!(other.ignored, ["Refiner", "Size: 9x9"]);
        let strong = foreign(Parameters::parse("(red:1.3) \\(x:1)\nSteps: 9"));
        assert_eq!(strong.ignored, ["emphasis (red:1.3)"]);
        assert_eq!((other.request.seed, other.request.width), (None, None));
    }

    fn named(model: &str) -> MadeWith {
        MadeWith { model: Some(model.into()), ..MadeWith::default() }
    }

    #[test]
    fn what_cannot_be_read_is_said() {
        let with = |json: &str| stored(&png::Texts { parameters: None, colora: Some(json.into()) });
        for json in [
            "",
            "[]",
            "{\"schema\":1}",
            "{\"schema\":2,\"version\":\"9\",\"model\":\"\",\"request\":{}}",
        ] {
            assert!(matches!(with(json), Err(Error::Corrupt { .. })), "{json}");
        }
        let older = with(r#"{"schema":1,"version":"0.0","model":"m","request":{}}"#).unwrap();
        assert_eq!((older.made_with(), older.made_with.is_none()), (named("m"), true));
        let newer = r#"{"schema":1,"version":"9.9","model":"m","request":{"lora":1}}"#;
        assert!(with(newer).unwrap_err().to_string().contains("9.9"));
        assert!(stored(&png::Texts::default()).unwrap_err().to_string().contains("no settings"));
    }
}
