//! The "parameters" text of AUTOMATIC1111's web interface, as a neutral map.

/// How a picture was made, in the words that programs exchange through the text "parameters".
///
/// ```text
/// a cat on a roof
/// Negative prompt: blurry
/// Steps: 20, Sampler: DPM++ 2M Karras, CFG scale: 7, Seed: 1, Size: 512x512
/// ```
///
/// [`render`](Self::render) and [`parse`](Self::parse) are inverse for values that the format can
/// hold: prompts without white space at their ends and without carriage returns at the ends of
/// lines, prompts of which no line starts with `Negative prompt:`, fields that begin with `Steps`
/// or, when no line of the prompts starts with `Steps:`, are three or more or, without a negative prompt,
/// none. Whatever was parsed is such a value.
///
/// # Examples
/// ```
/// use colora::picture::Parameters;
///
/// let text = "a cat\nNegative prompt: dog\nSteps: 20, Lora hashes: \"a: 1f, b: 2e\"";
/// let parameters = Parameters::parse(text);
/// assert_eq!(parameters.get("Lora hashes"), Some("a: 1f, b: 2e"));
/// assert_eq!(parameters.render(), text);
/// ```
///
/// # Source
/// stable-diffusion-webui 1.10 `modules/infotext_utils.py` (`quote`, `unquote`,
/// `parse_generation_parameters`) and `modules/processing.py` (`create_infotext`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Parameters {
    /// What was asked for; may have several lines.
    pub prompt: String,
    /// What was to be avoided; empty for none.
    pub negative_prompt: String,
    /// Name and value of each setting in their order, e.g. ("Steps", "20").
    pub fields: Vec<(String, String)>,
}

/// Starts the first line of the negative prompt.
const NEGATIVE: &str = "Negative prompt:";
/// Starts the line of settings in every program that writes one.
const STEPS: &str = "Steps:";
/// The field whose value is JSON without quotes.
const HASHES: &str = "Hashes";
/// Fields that make a last line the line of settings, whatever its first field.
const ENOUGH_FIELDS: usize = 3;

impl Parameters {
    /// The value of the last field called `name`, as A1111 takes it.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.fields.iter().rfind(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// Appends a field.
    ///
    /// `name`: two or more letters, digits, `_`, ` `, `-` and `/`, the first a letter, digit or `_`,
    /// but not `Negative prompt`; [`render`](Self::render) mends others with `_`. `value`: any text.
    pub fn push(&mut self, name: impl Into<String>, value: impl std::fmt::Display) {
        self.fields.push((name.into(), value.to_string()));
    }

    /// The text that other programs read.
    ///
    /// Values that hold commas, colons, line breaks or what else would be misread are written as
    /// JSON strings.
    pub fn render(&self) -> String {
        let mut text = self.prompt.clone();
        if !self.negative_prompt.is_empty() {
            text = format!("{text}\n{NEGATIVE} {}", self.negative_prompt);
        }
        if !self.fields.is_empty() {
            let field = |(name, value): &(String, String)| {
                // Its readers take it as it is.
                let bare = name == HASHES && is_bare_json(value);
                let value = if bare { value.clone() } else { quote(value) };
                format!("{}: {value}", safe(name))
            };
            let fields: Vec<String> = self.fields.iter().map(field).collect();
            text = format!("{text}\n{}", fields.join(", "));
        } else if self.negative_prompt.is_empty() && settings(last_line(&text)).is_some() {
            // Else the last line of a prompt such as "ab: c, de: f, gh: i" would be read as settings.
            text = format!("{text}\n{NEGATIVE}");
        }
        text.trim().to_owned()
    }

    /// Reads a text of this or another program; never fails.
    ///
    /// The last line that starts with `Steps:` holds the settings, or else the last line when it has three or
    /// more fields; what does not look like `name: value` in it is skipped. What extensions wrote behind it,
    /// `Template: …` on a line of its own, are fields too. All else is prompt.
    pub fn parse(text: &str) -> Self {
        let text = text.trim();
        let (text, fields) = if let Some(start) = line_of_settings(text) {
            let (line, behind) = text[start..].split_once('\n').unwrap_or((&text[start..], ""));
            let mut found = fields(line.trim_start());
            appended(behind, &mut found);
            (&text[..start], found)
        } else {
            let last = last_line(text);
            let found = settings(last);
            let end = if found.is_some() { text.len() - last.len() } else { text.len() };
            (&text[..end], found.unwrap_or_default())
        };
        let lines: Vec<&str> = text.split('\n').map(|line| line.trim_end_matches('\r')).collect();
        let start = lines.iter().position(|line| line.trim_start().starts_with(NEGATIVE));
        let (prompt, negative) = lines.split_at(start.unwrap_or(lines.len()));
        let negative: Vec<&str> =
            negative.iter().enumerate().map(|(i, line)| without_label(line, i == 0)).collect();
        Self {
            prompt: prompt.join("\n").trim().to_owned(),
            negative_prompt: negative.join("\n").trim().to_owned(),
            fields,
        }
    }
}

impl std::fmt::Display for Parameters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.render())
    }
}

/// A line of a negative prompt, the `first` or a later one, without the label, which A1111 takes off each of them; a
/// later line that would be read as settings keeps it.
fn without_label(line: &str, first: bool) -> &str {
    let mut line = line;
    while let Some(rest) = line.trim_start().strip_prefix(NEGATIVE) {
        let rest = rest.trim_start();
        if !first && (rest.starts_with(STEPS) || settings(rest).is_some()) {
            break;
        }
        line = rest;
    }
    line
}

fn last_line(text: &str) -> &str {
    text.rsplit('\n').next().unwrap_or_default()
}

/// Where the last line begins that starts with `Steps:`.
fn line_of_settings(text: &str) -> Option<usize> {
    let mut end = text.len();
    loop {
        let start = text[..end].rfind('\n').map_or(0, |at| at + 1);
        if text[start..end].trim_start().starts_with(STEPS) {
            return Some(start);
        }
        end = start.checked_sub(1)?;
    }
}

/// Appends the lines behind the settings to `fields`: each `name: value` is one field whatever the value
/// holds, and a line without a name goes on with the one before.
fn appended(lines: &str, fields: &mut Vec<(String, String)>) {
    let first = fields.len();
    for line in lines.lines().filter(|line| !line.trim().is_empty()) {
        match line.split_once(':').filter(|(name, _)| is_name(name.trim())) {
            Some((name, value)) => fields.push((name.trim().to_owned(), value.trim().to_owned())),
            None => {
                if let Some((_, value)) = fields.get_mut(first..).and_then(<[_]>::last_mut) {
                    let joined = format!("{value}\n{}", line.trim());
                    joined.trim().clone_into(value);
                }
            }
        }
    }
}

/// The fields of a line of settings; `None` when the line is none.
fn settings(line: &str) -> Option<Vec<(String, String)>> {
    let start = line.trim_start();
    if start.starts_with(NEGATIVE) {
        return None;
    }
    let fields = fields(start);
    (fields.len() >= ENOUGH_FIELDS).then_some(fields)
}

fn fields(mut line: &str) -> Vec<(String, String)> {
    let mut fields = Vec::new();
    while !line.is_empty() {
        let (name, rest) = line.split_once([':', ',']).unwrap_or((line, ""));
        let colon = line[name.len()..].starts_with(':');
        if colon && is_name(name.trim()) {
            let (value, rest) = value(rest.trim_start());
            fields.push((name.trim().to_owned(), value));
            line = rest;
        } else if colon {
            // Not a name: skip the whole piece, its colon included.
            line = rest.split_once(',').map_or("", |(_, rest)| rest);
        } else {
            line = rest;
        }
    }
    fields
}

/// The value at the start of `text` and what follows its comma.
fn value(text: &str) -> (String, &str) {
    if text.starts_with('"') {
        let mut strings = serde_json::Deserializer::from_str(text).into_iter::<String>();
        if let Some(Ok(value)) = strings.next() {
            let rest = text.get(strings.byte_offset()..).unwrap_or_default().trim_start();
            if let Some(rest) = rest.strip_prefix(',').or(rest.is_empty().then_some("")) {
                return (value, rest);
            }
        }
    }
    if let Some((value, rest)) = bracketed(text) {
        return (value.to_owned(), rest);
    }
    let (value, rest) = text.split_once(',').unwrap_or((text, ""));
    (value.trim().to_owned(), rest)
}

/// An object or array of JSON at the start of `text`, which its writers do not quote (`Hashes`, `Civitai
/// resources`, `SDCPP`), and what follows its comma.
fn bracketed(text: &str) -> Option<(&str, &str)> {
    if !text.starts_with(['{', '[']) {
        return None;
    }
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<serde::de::IgnoredAny>();
    values.next()?.ok()?;
    let (value, rest) = text.split_at_checked(values.byte_offset())?;
    let rest = rest.trim_start();
    Some((value, rest.strip_prefix(',').or(rest.is_empty().then_some(""))?))
}

/// Whether `value` is JSON that is read again without quotes.
fn is_bare_json(value: &str) -> bool {
    let whole = bracketed(value).is_some_and(|(all, rest)| all == value && rest.is_empty());
    whole && !value.contains(char::is_control)
}

fn is_name(name: &str) -> bool {
    let mut chars = name.chars();
    let first = chars.next().is_some_and(is_word);
    // A line that began with such a field would be read as the negative prompt.
    let taken = format!("{name}:") == NEGATIVE;
    first && name.chars().nth(1).is_some() && chars.all(is_name_part) && !taken
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn is_name_part(c: char) -> bool {
    is_word(c) || matches!(c, ' ' | '-' | '/')
}

/// `name` with `_` for, or before, whatever a reader would stumble on.
fn safe(name: &str) -> String {
    let part = |c| if is_name_part(c) { c } else { '_' };
    let mut safe: String = name.trim().chars().map(part).collect();
    while !is_name(&safe) {
        safe.insert(0, '_');
    }
    safe
}

/// `value` as a JSON string when a reader would not find its end or its ends otherwise.
fn quote(value: &str) -> String {
    let special = |c: char| matches!(c, ',' | ':') || c.is_control();
    let plain = !value.is_empty()
        && !value.starts_with('"')
        && !value.contains(special)
        && value.trim() == value;
    if plain { value.to_owned() } else { serde_json::Value::from(value).to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample() -> Parameters {
        let mut sample = Parameters {
            prompt: "a cat, (roof:1.2)\nBREAK night".into(),
            negative_prompt: "blurry,\nSteps: 3".into(),
            fields: Vec::new(),
        };
        sample.push("Steps", 20);
        sample.push("Sampler", "DPM++ 2M Karras");
        sample.push("Lora hashes", "a: 1f, b: 2e");
        sample
    }

    #[test]
    fn reads_and_writes_the_layout_of_others() {
        let text = "a cat, (roof:1.2)\nBREAK night\nNegative prompt: blurry,\nSteps: 3\n\
                    Steps: 20, Sampler: DPM++ 2M Karras, Lora hashes: \"a: 1f, b: 2e\"";
        assert_eq!(sample().render(), text);
        assert_eq!(Parameters::parse(&text.replace('\n', "\r\n")), sample());
        assert_eq!(sample().get("Steps"), Some("20"));
    }

    #[test]
    fn tells_settings_from_prompts() {
        let parse = Parameters::parse;
        let many = parse("Steps: 4, by: me\na\nNegative prompt: b\nSteps: 5").prompt;
        assert_eq!(many, "Steps: 4, by: me\na", "the last line of settings counts");
        assert_eq!(parse("Steps: 4").fields, [("Steps".to_owned(), "4".to_owned())]);
        assert_eq!(parse("<lora:a:1>, <lora:b:1>, <lora:c:1>, (d:1.2)").fields, []);
        assert_eq!(
            parse("Negative prompt: ab: 1, cd: 2, ef: 3").negative_prompt,
            "ab: 1, cd: 2, ef: 3"
        );
        assert_eq!(parse("x\nab: 1, cd: 2, ef: 3").fields.len(), 3);
        assert_eq!(parse(":,Negative prompt:,Negative prompt:,Negative prompt:").fields, []);
        assert_eq!(parse("").render(), "");
        let odd = parse("x\nSteps: 1, junk, :, \": , A: 1, Hash: \"open, Size:, Seed: \"a\" b");
        let names: Vec<&str> = odd.fields.iter().map(|(n, _)| n.as_str()).collect();
        assert_eq!(names, ["Steps", "Hash", "Size", "Seed"]);
        assert_eq!((odd.get("Hash"), odd.get("Seed")), (Some("\"open"), Some("\"a\" b")));
    }

    /// Lines of the extension for dynamic prompts made the settings a part of the negative prompt.
    #[test]
    fn what_extensions_append_is_no_prompt() {
        let text = "a red apple\nNegative prompt: blurry\nSteps: 20, Seed: 12345\n\
                    Template: a {red|green}, size: any\n  more: lines, [of\n\nit\r\nNegative Template: {blurry|dark}\n";
        let found = Parameters::parse(text);
        assert_eq!((&*found.prompt, &*found.negative_prompt), ("a red apple", "blurry"));
        assert_eq!(found.get("Seed"), Some("12345"));
        let template = "a {red|green}, size: any";
        assert_eq!(found.get("Template"), Some(template));
        assert_eq!(found.get("more"), Some("lines, [of\nit"));
        assert_eq!(found.get("Negative Template"), Some("{blurry|dark}"));
        assert_eq!(Parameters::parse(&found.render()), found);
        let found = Parameters::parse("x\nSteps: 2, Sampler: Euler\nsome words behind it");
        assert_eq!((&*found.prompt, found.fields.len()), ("x", 2));
    }

    /// Hashes and resources were read in pieces, as fields of other names.
    #[test]
    fn json_without_quotes_is_one_value() {
        let text = "x\nSteps: 2, Hashes: {\"model\": \"1a\", \"lora:ink\": \"99\"}, Civitai resources: \
                    [{\"a\":1,\"n\":\"D, [x]\"}] , Odd: {not, Even: [1, Last: {}";
        let found = Parameters::parse(text);
        let names: Vec<&str> = found.fields.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["Steps", "Hashes", "Civitai resources", "Odd", "Even", "Last"]);
        assert_eq!(found.get("Hashes"), Some("{\"model\": \"1a\", \"lora:ink\": \"99\"}"));
        assert_eq!(found.get("Last"), Some("{}"));
        assert_eq!(Parameters::parse(&found.render()), found);
    }

    #[test]
    fn mends_names_that_cannot_be_read_back() {
        for (name, mended) in [
            ("a,b", "a_b"),
            ("", "__"),
            ("x", "_x"),
            (" -", "_-"),
            ("é:", "é_"),
            ("Negative prompt", "_Negative prompt"),
        ] {
            assert_eq!(safe(name), mended);
            assert!(is_name(&safe(name)), "{name:?}");
        }
    }

    fn prompt() -> impl Strategy<Value = String> {
        "[a-zA-Z0-9 ,:()<>\"\\\\\n\téあ🐈-]{0,60}".prop_map(|s: String| s.trim().to_owned())
    }

    proptest! {
        #[test]
        fn parse_undoes_render(
            prompt in prompt(),
            negative_prompt in prompt(),
            steps in ".{0,20}",
            mut fields in prop::collection::vec(("[a-zA-Z0-9_é猫][a-zA-Z0-9_é猫 /-]{0,10}[a-zA-Z0-9_é猫]", any::<String>()), 0..6),
        ) {
            fields.insert(0, ("Steps".into(), steps));
            let given = Parameters { prompt, negative_prompt, fields };
            prop_assert_eq!(Parameters::parse(&given.render()), given);
        }

        #[test]
        fn whatever_was_parsed_survives(text in "([NSa-e:,\" \r\n{}é\\\\]|Negative prompt:|Steps:){0,40}") {
            // A1111 begins the negative prompt anew at each such line, so that what is left of several is read otherwise.
            if text.matches("Negative prompt:").count() > 1 {
                return Ok(());
            }
            let parsed = Parameters::parse(&text);
            prop_assert_eq!(Parameters::parse(&parsed.render()), parsed);
        }

        #[test]
        fn no_text_panics(text in any::<String>()) {
            let parsed = Parameters::parse(&text);
            prop_assert_eq!(Parameters::parse(&parsed.render()), parsed);
        }
    }
}
