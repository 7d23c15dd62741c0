//! The settings that travel in pictures: ours as JSON, everyone's as "parameters".

mod fields;
mod foreign;
mod json;

use super::from_picture::FromPicture;
use super::made_with::MadeWith;
use super::style::excerpt;
use crate::error::{Error, Result};
use crate::picture::{Parameters, png};
use crate::pipeline::{Plan, Request};
use fields::Layout;
use json::Refusal;
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

    /// What to say of the settings that are not followed; `None` when all are.
    pub(super) fn warning(&self) -> Option<String> {
        let names: Vec<String> = self.ignored.iter().map(|name| excerpt(name)).collect();
        let names = names.join(", ");
        let warning = format!("warning: the picture will differ; not followed: {names}");
        (!self.ignored.is_empty()).then_some(warning)
    }
}

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
/// [`Error::Corrupt`] when it is no PNG or says nothing, or when its JSON cannot be understood;
/// [`Error::Unsupported`] for JSON of programs that are not known.
pub(super) fn read(path: &Path) -> Result<FromPicture> {
    let texts = png::read_texts(path)?;
    let recipe = match (texts.colora, texts.parameters) {
        (Some(json), parameters) => {
            let parameters = parameters.as_deref().map(Parameters::parse);
            own(&json, parameters.unwrap_or_default(), path)?
        }
        (None, Some(parameters)) => other(&parameters, path)?,
        (None, None) => return Err(Error::corrupt(path, "this picture holds no settings")),
    };
    Ok(FromPicture::new(recipe, path))
}

/// The recipe behind the text of another program.
fn other(text: &str, path: &Path) -> Result<Recipe> {
    match json::read(text) {
        None => Ok(foreign::recipe(Parameters::parse(text), Layout::Lines)),
        Some(Ok(parameters)) => Ok(foreign::recipe(parameters, Layout::Json)),
        Some(Err(Refusal::Program(name))) => {
            let what = format!("{}: settings as JSON of {name}", path.display());
            Err(Error::unsupported(what, "pass the prompt and the flags yourself"))
        }
        Some(Err(Refusal::Broken(why))) => {
            Err(Error::corrupt(path, format!("its settings look like JSON and are none: {why}")))
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::family::Defaults;
    use crate::picture::Picture;
    use crate::sampling::{Sampler, Schedule};

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
        Ok(read(&path)?.shown().clone())
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

    /// The JSON of Fooocus and SwarmUI was drawn as words.
    #[test]
    fn settings_in_json_are_read() {
        let read = |text: &str| stored(&png::Texts { parameters: Some(text.into()), colora: None });
        let fooocus = r#"{"adm_guidance": "(1.5, 0.8, 0.3)", "base_model": "some", "guidance_scale": 4,
            "loras": [], "metadata_scheme": "fooocus", "negative_prompt": "blurry", "prompt": "a red apple",
            "resolution": "(512, 768)", "sampler": "euler", "scheduler": "karras", "seed": "12345",
            "sharpness": 2, "steps": 30, "styles": "[]", "vae": "Default (model)"}"#;
        let swarm = r#"{"sui_image_params": {"prompt": "a red apple", "negativeprompt": "blurry",
            "seed": 12345, "steps": 25, "cfgscale": 4.0, "width": 512, "height": 768, "model": "some"}}"#;
        let expected = Request {
            prompt: "a red apple".into(),
            negative_prompt: "blurry".into(),
            seed: Some(12345),
            width: Some(512),
            height: Some(768),
            guidance_scale: Some(4.0),
            ..Request::default()
        };
        let found = read(fooocus).unwrap();
        let (sampler, schedule) = (Some(Sampler::Euler), Some(Schedule::Karras));
        assert_eq!(
            found.request,
            Request { steps: Some(30), sampler, schedule, ..expected.clone() }
        );
        assert_eq!(found.ignored, ["adm_guidance", "sharpness"]);
        let found = read(swarm).unwrap();
        assert_eq!(found.request, Request { steps: Some(25), ..expected });
        assert_eq!(
            (found.model.as_deref(), &*found.ignored),
            (Some("some"), &["sampler (none is named)".to_owned()][..])
        );
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
        let json = |text: &str| stored(&png::Texts { parameters: Some(text.into()), colora: None });
        let error = json(r#"{"1": {"class_type": "KSampler"}}"#).unwrap_err();
        assert!(error.to_string().contains("JSON of ComfyUI"), "{error}");
        assert!(matches!(json(r#"{"prompt": "#), Err(Error::Corrupt { .. })));
        assert!(stored(&png::Texts::default()).unwrap_err().to_string().contains("no settings"));
    }
}
