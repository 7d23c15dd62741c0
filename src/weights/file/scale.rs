//! Scales beside the weights of 8-bit files: such a file divides each matrix by its own number, so that it
//! fills the narrow range of its type.

use super::CheckpointFile;
use crate::error::{Error, Result};
use safetensors::Dtype;

/// Ends of names that belong to a weight and are none: its own scale, that of what it is multiplied with, and
/// the kind of its numbers.
const NOTES: [&str; 5] =
    [".scale_weight", ".weight_scale", ".scale_input", ".input_scale", ".comfy_quant"];

/// Kinds of numbers that one scale explains, as `.comfy_quant` names them.
const KINDS: [&str; 2] = ["float8_e4m3fn", "float8_e5m2"];

/// Longest `.comfy_quant`; it is a line of JSON.
const MAX_KIND: usize = 4096;

/// What a tensor is to its neighbours.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Scaled {
    /// Its numbers are what they are.
    Plain,
    /// Its numbers are to be multiplied by this.
    By(f32),
    /// It describes another tensor.
    Note,
}

/// What the tensor `name` of `file` is.
///
/// # Errors
/// [`Error::Unsupported`] for scales per row or block, and kinds of numbers that are not read;
/// [`Error::Corrupt`] for a scale that is no positive number.
pub(super) fn of(file: &CheckpointFile, name: &str) -> Result<Scaled> {
    if NOTES.iter().any(|end| name.ends_with(end)) {
        return Ok(Scaled::Note);
    }
    let Some(stem) = name.strip_suffix("weight") else { return Ok(Scaled::Plain) };
    if let Some(stem) = stem.strip_suffix('.') {
        check_kind(file, &format!("{stem}.comfy_quant"))?;
    }
    let names = [format!("{stem}scale_weight"), format!("{name}_scale")];
    let Some(scale) = names.iter().find(|name| file.info(name).is_some()) else {
        return Ok(Scaled::Plain);
    };
    let count = file.info(scale).map_or(0, super::TensorInfo::elements);
    if count != 1 {
        return Err(Error::unsupported(
            format!("{}: `{scale}` with {count} numbers", file.path().display()),
            "use a file with one scale for each weight, or one of 16 bits",
        ));
    }
    match file.read_f32(scale, None)?[..] {
        [number] if number.is_finite() && number > 0.0 => Ok(Scaled::By(number)),
        ref found => {
            let why = format!("`{scale}` is {found:?}, expected a positive number");
            Err(Error::corrupt(file.path(), why))
        }
    }
}

/// Refuses numbers that are more than multiples of a scale.
fn check_kind(file: &CheckpointFile, note: &str) -> Result<()> {
    let Some(info) = file.info(note) else { return Ok(()) };
    let short = info.dtype == Dtype::U8 && info.elements() <= MAX_KIND;
    let text = if short { file.raw(note, None)?.into_owned() } else { Vec::new() };
    let kind = serde_json::from_slice::<serde_json::Value>(&text).ok();
    let kind = kind.as_ref().and_then(|kind| kind.get("format")?.as_str());
    if kind.is_some_and(|kind| KINDS.contains(&kind)) {
        return Ok(());
    }
    let kind: String = kind.unwrap_or("unknown").chars().take(40).collect();
    Err(Error::unsupported(
        format!("{}: weights of the kind `{}`", file.path().display(), kind.escape_debug()),
        format!("{} are read; or use a file of 16 bits", KINDS.join(" and ")),
    ))
}
