//! Records of other programs, one file for each: what they say, in A1111's words where it has some.
//!
//! Whatever a stranger wrote, nothing is opened here and nobody is asked: names stay names.

mod a1111;
mod comfyui;
mod draw_things;
mod easy_diffusion;
mod fooocus;
mod invokeai;
mod invokeai_old;
mod json;
mod novelai;
mod sd_cpp;
mod sd_next;
mod settings;
mod swarmui;
mod told;

pub(super) use told::{Refusal, Told};

use crate::picture::{Embedded, Place};
use json::Json;

/// What a picture file says of how its picture was made, in the words of whichever program wrote it; `None` when
/// nothing in it does.
///
/// # Errors
/// [`Refusal`] for JSON that is not understood, which must not be drawn as words.
pub(super) fn read(texts: &Embedded) -> Option<Result<Told, Refusal>> {
    if let Some(parameters) = parameters(texts) {
        return Some(of_parameters(parameters));
    }
    let readers = [
        invokeai::read,
        invokeai_old::read,
        novelai::read,
        comfyui::read,
        fooocus::read_comment,
        easy_diffusion::read,
        draw_things::read,
    ];
    readers.into_iter().find_map(|read| read(texts))
}

/// What a text in lines says.
#[cfg(test)]
pub(super) fn read_lines(text: &str) -> Told {
    a1111::read(text)
}

/// What a text that was hidden in pixels says: the texts of a PNG as JSON, or one text.
///
/// # Errors
/// As [`read`].
pub(super) fn read_hidden(text: &str) -> Option<Result<Told, Refusal>> {
    let Ok(json) = Json::parse(text) else { return Some(of_parameters(text)) };
    let texts = json.object().into_iter().flatten();
    let texts = texts.map(|(key, value)| (Place::Keyword(key.clone()), settings::text(value)));
    read(&Embedded::of(texts)).or_else(|| Some(of_parameters(text)))
}

/// The text that most programs call `parameters`: of a PNG, or the comment of EXIF.
fn parameters(texts: &Embedded) -> Option<&str> {
    // Where a file has both, A1111 takes the comment.
    let comment = texts.get(&Place::UserComment).or_else(|| {
        let model = texts.get(&Place::Model)?;
        Some(model).filter(|text| text.contains("sui_image_params"))
    });
    comment.or_else(|| texts.keyword("parameters"))
}

fn of_parameters(text: &str) -> Result<Told, Refusal> {
    let Some(json) = Json::settings(text) else { return Ok(a1111::read(text)) };
    let json = json?;
    let object =
        json.object().ok_or_else(|| Refusal::Program("a program that is not known".into()))?;
    let known =
        [swarmui::read_json, fooocus::read_json, easy_diffusion::read_json, comfyui::read_json];
    let known = known.into_iter().find_map(|read| read(object));
    known.or_else(|| invokeai::read_json(object)).unwrap_or_else(|| Err(stranger(object)))
}

/// The refusal of settings whose program is not known.
fn stranger(object: &serde_json::Map<String, serde_json::Value>) -> Refusal {
    let named = object.get("metadata_scheme").or_else(|| object.get("software"));
    if let Some(name) = named.and_then(serde_json::Value::as_str) {
        return Refusal::Program(name.to_owned());
    }
    let keys: Vec<&str> = object.keys().take(5).map(String::as_str).collect();
    Refusal::Program(format!("a program that is not known (it begins with {})", keys.join(", ")))
}
