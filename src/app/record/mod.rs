//! The record in a picture: colora's own as JSON, everyone's as "parameters".

mod data;
mod foreign;
mod json;
mod labels;

pub use data::ImageRecord;

use super::SCHEMA;
use super::choice::ModelChoice;
use crate::error::{Error, Result};
use crate::picture::{Parameters, png};
use crate::pipeline::Plan;
use crate::prompt::PromptSyntax;
use data::ColoraRecord;
use json::Refusal;
use labels::Layout;
use std::path::Path;

/// The texts of picture `index` of `plan`.
///
/// # Errors
/// [`Error::Internal`] when the request is no JSON, which no request is.
pub fn texts(
    plan: &Plan,
    index: usize,
    model: &str,
    made_with: &ModelChoice,
) -> Result<png::Texts> {
    let mut request = plan.request_for(index);
    // As in all pictures from before there was another; `own` reads them so.
    request.prompt_syntax = request.prompt_syntax.filter(|syntax| *syntax != PromptSyntax::Plain);
    let own = ColoraRecord {
        schema: SCHEMA,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        model: model.to_owned(),
        made_with: Some(made_with.clone()),
        request,
    };
    let json =
        serde_json::to_string(&own).map_err(|e| Error::Internal(format!("a request: {e}")))?;
    let parameters = plan.parameters(index, model).render();
    Ok(png::Texts { parameters: Some(parameters), colora: Some(json) })
}

/// `texts` with the name that a job has by its contents in colora's JSON.
pub(super) fn of_job(mut texts: png::Texts, job: Option<&str>) -> png::Texts {
    if let (Some(json), Some(job)) = (&mut texts.colora, job)
        && json.ends_with('}')
    {
        json.truncate(json.len() - 1);
        json.push_str(&format!(r#","job":{}}}"#, serde_json::Value::from(job)));
    }
    texts
}

/// The name of the job that made a picture, when its record has one.
pub(crate) fn job_in(bytes: &[u8]) -> Option<String> {
    let json = png::texts_in(bytes, Path::new("picture")).ok()?.colora?;
    let value: serde_json::Value = serde_json::from_str(&json).ok()?;
    value["job"].as_str().map(str::to_owned)
}

/// Reads how the picture `path` was made. The words of its record are a stranger's: an
/// [`UncheckedRecord`](super::UncheckedRecord) checks where they lead before anything is opened.
///
/// # Errors
/// [`Error::Corrupt`] when it is no PNG or says nothing, or when its JSON cannot be understood;
/// [`Error::Unsupported`] for JSON of programs that are not known.
pub fn read(path: &Path) -> Result<ImageRecord> {
    let texts = png::read_texts(path)?;
    match (texts.colora, texts.parameters) {
        (Some(json), parameters) => {
            let parameters = parameters.as_deref().map(Parameters::parse);
            own(&json, parameters.unwrap_or_default(), path)
        }
        (None, Some(parameters)) => other(&parameters, path),
        (None, None) => Err(Error::corrupt(path, "this picture holds no settings")),
    }
}

/// The record behind the text of another program.
fn other(text: &str, path: &Path) -> Result<ImageRecord> {
    match json::read(text) {
        None => Ok(foreign::record(Parameters::parse(text), Layout::Lines)),
        Some(Ok(parameters)) => Ok(foreign::record(parameters, Layout::Json)),
        Some(Err(Refusal::Program(name))) => {
            let what = format!("{}: settings as JSON of {name}", path.display());
            Err(Error::unsupported(what, "pass the prompt and the flags yourself"))
        }
        Some(Err(Refusal::Broken(why))) => {
            Err(Error::corrupt(path, format!("its settings look like JSON and are none: {why}")))
        }
    }
}

fn own(json: &str, parameters: Parameters, path: &Path) -> Result<ImageRecord> {
    let newer =
        |version: &str| format!("made by colora {version}, which stores settings in a newer way");
    let value: serde_json::Value = serde_json::from_str(json).unwrap_or_default();
    let version = value["version"].as_str().unwrap_or("?").to_owned();
    let mut own: ColoraRecord = serde_json::from_value(value).map_err(|e| {
        Error::corrupt(path, format!("its settings cannot be read (colora {version}): {e}"))
    })?;
    if own.schema != SCHEMA {
        return Err(Error::corrupt(path, newer(&version)));
    }
    own.request.prompt_syntax.get_or_insert(PromptSyntax::Plain);
    Ok(ImageRecord {
        model: Some(own.model),
        made_with: own.made_with,
        request: own.request,
        parameters,
        ..ImageRecord::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::family::Defaults;
    use crate::picture::Picture;
    use crate::pipeline::Request;
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

    fn stored(texts: &png::Texts) -> Result<ImageRecord> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.png");
        let picture = Picture::new(1, 1, vec![0; 3]).unwrap();
        png::save(&png::encode(&picture, texts).unwrap(), &path, false).unwrap();
        read(&path)
    }

    #[test]
    fn a_request_survives_in_a_picture() {
        let made_with = ModelChoice {
            model: Some("sub/m.safetensors".into()),
            dtype: Some("bf16".into()),
            ..ModelChoice::default()
        };
        let texts = texts(&plan(), 1, "m", &made_with).unwrap();
        let record = stored(&texts).unwrap();
        assert_eq!(record.request, plan().request_for(1));
        assert_eq!(record.model.as_deref(), Some("m"));
        assert_eq!(record.made_with, Some(made_with));
        // Also through the lines that other programs read, except for what they do not hold.
        let through = stored(&png::Texts { colora: None, ..texts }).unwrap();
        assert_eq!(Request { tile: Some(false), ..through.request }, record.request);
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
            prompt_syntax: Some(PromptSyntax::Comfy),
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

    fn named(model: &str) -> ModelChoice {
        ModelChoice { model: Some(model.into()), ..ModelChoice::default() }
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
