//! The record in a picture: colora's own as JSON, everyone's as "parameters".

mod data;
mod foreign;
mod labels;
mod request;
mod written;

pub use super::named_hash::{NamedHash, Subject};
pub use data::ImageRecord;

use super::SCHEMA;
use super::choice::ModelChoice;
use super::used_files::UsedFiles;
use crate::error::{Error, Result};
use crate::picture::{self, Embedded, Parameters, Place, Texts};
use crate::pipeline::Plan;
use crate::prompt::PromptSyntax;
use data::ColoraRecord;
use foreign::{Refusal, Told};
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
    files: &UsedFiles,
) -> Result<Texts> {
    let mut request = plan.request_for(index);
    // As in all pictures from before there was another; `own` reads them so.
    request.prompt_syntax = request.prompt_syntax.filter(|syntax| *syntax != PromptSyntax::Plain);
    let own = ColoraRecord {
        schema: SCHEMA,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        model: model.to_owned(),
        made_with: Some(made_with.clone()),
        drawn_on: files.device.clone(),
        hashes: files.named(),
        request,
    };
    let json =
        serde_json::to_string(&own).map_err(|e| Error::Internal(format!("a request: {e}")))?;
    let parameters = written::with_hashes(plan.parameters(index, model), files).render();
    Ok(Texts { parameters: Some(parameters), colora: Some(json) })
}

/// `texts` with the name that a job has by its contents in colora's JSON.
pub(super) fn of_job(mut texts: Texts, job: Option<&str>) -> Texts {
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
    let json = picture::png::texts_in(bytes, Path::new("picture")).ok()?.colora?;
    let value: serde_json::Value = serde_json::from_str(&json).ok()?;
    value["job"].as_str().map(str::to_owned)
}

/// Reads how the picture `path` was made. The words of its record are a stranger's: an
/// [`UncheckedRecord`](super::UncheckedRecord) checks where they lead before anything is opened.
///
/// # Errors
/// [`Error::Corrupt`] when it is no picture or says nothing, or when its JSON cannot be understood;
/// [`Error::Unsupported`] for JSON of programs that are not known.
pub fn read(path: &Path) -> Result<ImageRecord> {
    let texts = picture::read_texts(path)?;
    if let Some(found) = of_texts(&texts, path) {
        return found;
    }
    let hidden = picture::hidden_text(path)?;
    let hidden = hidden.and_then(|text| told(foreign::read_hidden(&text), path));
    hidden.unwrap_or_else(|| Err(Error::corrupt(path, "this picture holds no settings")))
}

/// The record in the texts of a picture file; `None` when they say nothing of it. Words are a stranger's, as in [`read`].
///
/// # Errors
/// As [`read`].
pub fn read_texts(texts: &Embedded) -> Option<Result<ImageRecord>> {
    of_texts(texts, Path::new("a picture"))
}

/// The record in the texts of the picture `path`; `None` when they say nothing of it.
fn of_texts(texts: &Embedded, path: &Path) -> Option<Result<ImageRecord>> {
    if let Some(json) = texts.get(&Place::Colora) {
        let comment = || texts.get(&Place::UserComment);
        let parameters = texts.keyword("parameters").or_else(comment).map(Parameters::parse);
        return Some(own(json, parameters.unwrap_or_default(), path));
    }
    told(foreign::read(texts), path)
}

/// The record behind what another program says.
fn told(told: Option<Result<Told, Refusal>>, path: &Path) -> Option<Result<ImageRecord>> {
    Some(match told? {
        Ok(told) => Ok(request::record(told)),
        Err(Refusal::Program(name)) => {
            let what = format!("{}: settings as JSON of {name}", path.display());
            Err(Error::unsupported(what, "pass the prompt and the flags yourself"))
        }
        Err(Refusal::Broken(why)) => {
            Err(Error::corrupt(path, format!("its settings look like JSON and are none: {why}")))
        }
    })
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
        program: Some("colora"),
        version: Some(version),
        drawn_on: own.drawn_on,
        model: Some(own.model),
        made_with: own.made_with,
        hashes: own.hashes.into_iter().filter(NamedHash::is_usable).collect(),
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

    fn stored(texts: &Texts) -> Result<ImageRecord> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.png");
        let pixel = Picture::new(1, 1, vec![0; 3]).unwrap();
        let bytes = picture::png::encode(&pixel, texts).unwrap();
        picture::png::save(&bytes, &path, false).unwrap();
        read(&path)
    }

    #[test]
    fn a_request_survives_in_a_picture() {
        let made_with = ModelChoice {
            model: Some("sub/m.safetensors".into()),
            dtype: Some("bf16".into()),
            ..ModelChoice::default()
        };
        let texts = texts(&plan(), 1, "m", &made_with, &UsedFiles::default()).unwrap();
        let record = stored(&texts).unwrap();
        assert_eq!(record.request, plan().request_for(1));
        assert_eq!(record.model.as_deref(), Some("m"));
        assert_eq!(record.made_with, Some(made_with));
        // Also through the lines that other programs read, except for what they do not hold.
        let through = stored(&Texts { colora: None, ..texts }).unwrap();
        assert_eq!(Request { tile: Some(false), ..through.request }, record.request);
        assert_eq!(through.unknown_sampler, None);
    }

    /// Every field of the table, through every format: a new field that is lost here is lost in pictures.
    #[test]
    fn every_field_survives_in_every_format() {
        use crate::picture::Format;
        use crate::pipeline::fields::{FIELDS, tests::full};
        let defaults = Defaults::default();
        let request = Request { sampler: Some(Sampler::EulerA), ..full() };
        let plan = request.plan(&defaults, 7).unwrap();
        let made_with = named("sub/m.safetensors");
        let texts = texts(&plan, 1, "m", &made_with, &UsedFiles::default()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let pixels = Picture::new(8, 8, vec![9; 192]).unwrap();
        for format in Format::ALL {
            let path = folder.path().join("x");
            std::fs::write(&path, format.encode(&pixels, &texts).unwrap()).unwrap();
            let found = read(&path).unwrap().request;
            let expected = plan.request_for(1);
            for field in FIELDS {
                assert_eq!(field.texts(&found), field.texts(&expected), "{}", field.key);
                // What says how many and how often they are looked at is not of one picture; a shape has become a
                // size, which is too small for that tiles are not wanted to be worth a word.
                let of_one =
                    !["count", "preview", "width", "height", "aspect", "tile"].contains(&field.key);
                assert_eq!(
                    of_one && !field.option,
                    !field.texts(&expected).is_empty(),
                    "{}",
                    field.key
                );
            }
            assert_eq!(found, expected);
        }
    }

    /// The JSON of Fooocus and SwarmUI was drawn as words.
    #[test]
    fn settings_in_json_are_read() {
        let read = |text: &str| stored(&Texts { parameters: Some(text.into()), colora: None });
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
        let with = |json: &str| stored(&Texts { parameters: None, colora: Some(json.into()) });
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
        let json = |text: &str| stored(&Texts { parameters: Some(text.into()), colora: None });
        let error = json(r#"{"1": {"class_type": "KSampler"}}"#).unwrap_err();
        assert!(error.to_string().contains("JSON of ComfyUI"), "{error}");
        assert!(matches!(json(r#"{"prompt": "#), Err(Error::Corrupt { .. })));
        assert!(stored(&Texts::default()).unwrap_err().to_string().contains("no settings"));
    }
}
