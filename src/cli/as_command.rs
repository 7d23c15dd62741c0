//! How a picture was made, as flags of `generate`.

use crate::app::record::ImageRecord;
use crate::lora::{LoraRef, Method};
use crate::pipeline::fields::FIELDS;
use crate::plain;

/// The command that makes a picture again.
pub(super) fn as_command(record: &ImageRecord) -> String {
    let (request, made_with) = (&record.request, record.made_with());
    let mut words = vec!["colora".to_owned(), "generate".to_owned()];
    let mut flag = |name: &str, value: &str| words.push(format!("--{name}={}", quote(value)));
    let named = [
        ("model", made_with.model),
        ("vae", made_with.vae),
        ("quantize", made_with.quantize),
        ("dtype", made_with.dtype),
    ];
    for (name, value) in named {
        if let Some(value) = value {
            flag(name, &value);
        }
    }
    for (field, row) in FIELDS.iter().filter_map(|field| Some((field, field.flag?))) {
        for text in field.texts(request) {
            match (row.value, text.as_str()) {
                ("", "true") => words.push(format!("--{}", row.long)),
                ("", _) => words.extend(row.opposite.map(|[long, _]| format!("--{long}"))),
                (_, text) => words.push(format!("--{}={}", row.long, quote(text))),
            }
        }
    }
    if request.prompt.starts_with('-') {
        words.push("--".to_owned());
    }
    words.push(quote(&request.prompt));
    words.join(" ")
}

/// LoRAs and how they are put together, as flags of `generate`.
pub(super) fn stack_flags(loras: &[LoraRef], method: Method) -> String {
    let loras = loras.iter().map(|lora| format!("--lora {}", quote(&lora.to_string())));
    let method = Some(method).filter(|method| *method != Method::default());
    let method = method.map(|method| format!("--lora-method {method}"));
    loras.chain(method).collect::<Vec<_>>().join(" ")
}

/// `text` as one word of a POSIX shell; with control characters, which no terminal should see, as bash, zsh and
/// ksh write it.
fn quote(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_./:=,+@%".contains(&b);
    if !text.is_empty() && text.bytes().all(plain) {
        text.to_owned()
    } else if text.contains(plain::is_hidden) {
        format!("$'{}'", text.chars().map(escaped).collect::<String>())
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

/// A character between `$'` and `'`.
fn escaped(c: char) -> String {
    match c {
        '\n' => r"\n".to_owned(),
        '\t' => r"\t".to_owned(),
        '\'' | '\\' => format!("\\{c}"),
        c if plain::is_hidden(c) => {
            let mut bytes = [0; 4];
            let bytes = c.encode_utf8(&mut bytes).bytes();
            bytes.fold(String::new(), |text, byte| text + &format!(r"\x{byte:02x}"))
        }
        c => c.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::ModelChoice;
    use crate::pipeline::Request;

    fn command(made_with: Option<ModelChoice>, request: Request) -> String {
        let mut record = ImageRecord::default();
        (record.made_with, record.request) = (made_with, request);
        as_command(&record)
    }

    #[test]
    fn commands_survive_a_shell() {
        let made_with = ModelChoice {
            model: Some("my model".into()),
            vae: Some("v".into()),
            quantize: Some("q8_0".into()),
            dtype: Some("bf16".into()),
        };
        let request = Request {
            prompt: "it's a $fox".into(),
            seed: Some(3),
            width: Some(8),
            height: Some(16),
            ..Request::default()
        };
        assert_eq!(
            command(Some(made_with), request),
            r"colora generate --model='my model' --vae=v --quantize=q8_0 --dtype=bf16 --size=8x16 --seed=3 'it'\''s a $fox'"
        );
        let dash = Request { prompt: "-x".into(), ..Request::default() };
        assert_eq!(command(None, dash), "colora generate -- -x");
        assert_eq!(quote(""), "''");
        assert_eq!(quote("a\x1b[2J'\\\n\u{9b}é"), r"$'a\x1b[2J\'\\\n\xc2\x9bé'");
    }
}
