//! Mutations of JSON, of TOML and of lists of lines.

use crate::chance::Chance;
use serde_json::{Value, json};

/// Changes one value of a JSON file; gives its key and whether it was replaced (and not removed).
pub fn json(text: &str, chance: &mut Chance) -> Option<(String, String, bool)> {
    let mut value: Value = serde_json::from_str(text).ok()?;
    let mut paths = Vec::new();
    gather(&value, String::new(), &mut paths);
    let path = chance.pick(&paths).clone();
    let key = path.split('/').filter(|part| part.parse::<usize>().is_err()).next_back();
    let key = key.unwrap_or_default().to_owned();
    if chance.below(6) == 0 {
        let (parent, name) = path.rsplit_once('/')?;
        value.pointer_mut(parent)?.as_object_mut()?.remove(name)?;
        return Some((value.to_string(), format!("{key}: removed"), false));
    }
    let place = value.pointer_mut(&path)?;
    let new = other(place, chance);
    let what = format!("{key}: {place} became {}", short(&new));
    *place = new;
    Some((value.to_string(), what, true))
}

fn short(value: &Value) -> String {
    value.to_string().chars().take(60).collect()
}

fn gather(value: &Value, path: String, paths: &mut Vec<String>) {
    let name = |key: &str| format!("{path}/{}", key.replace('~', "~0").replace('/', "~1"));
    match value {
        Value::Object(map) => map.iter().for_each(|(key, inner)| gather(inner, name(key), paths)),
        Value::Array(items) => {
            let each = items.iter().enumerate();
            each.for_each(|(at, inner)| gather(inner, name(&at.to_string()), paths));
        }
        _ => {}
    }
    if !path.is_empty() {
        paths.push(path);
    }
}

/// Another value in the place of `value`.
fn other(value: &Value, chance: &mut Chance) -> Value {
    let numbers = [
        json!(0),
        json!(1),
        json!(-1),
        json!(2),
        json!(3),
        json!(0.5),
        json!(1e30),
        json!(-1e30),
        json!(1u64 << 31),
        json!(1u64 << 53),
        json!(i64::MAX),
        json!(1e-30),
        json!(7),
        json!(64),
    ];
    let others = [
        Value::Null,
        json!([]),
        json!({}),
        json!(""),
        json!("x\u{1b}[2J\n"),
        json!("x".repeat(5000)),
        json!(true),
        json!([1, 2, 3]),
        json!({ "a": [[[[[[[[1]]]]]]]] }),
    ];
    match value {
        Value::Number(_) if chance.below(4) > 0 => chance.pick(&numbers).clone(),
        Value::Bool(is) if chance.below(3) > 0 => json!(!is),
        Value::Array(items) if chance.below(3) > 0 && !items.is_empty() => {
            let mut items = items.clone();
            let at = chance.below(items.len());
            if chance.below(2) == 0 {
                drop(items.remove(at))
            } else {
                items.push(items[at].clone())
            }
            Value::Array(items)
        }
        _ if chance.below(3) == 0 => chance.pick(&numbers).clone(),
        _ => chance.pick(&others).clone(),
    }
}

/// Changes lines of a text; says how.
pub fn lines(text: &str, chance: &mut Chance) -> (String, String) {
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let at = chance.below(lines.len());
    let what = match chance.below(7) {
        0 if !lines.is_empty() => {
            lines.remove(at);
            format!("line {at} removed")
        }
        1 if !lines.is_empty() => {
            lines.insert(at, lines[at].clone());
            format!("line {at} twice")
        }
        2 => {
            lines.truncate(at);
            format!("cut before line {at}")
        }
        3 if lines.len() > 1 => {
            let other = chance.below(lines.len());
            lines.swap(at, other);
            format!("lines {at} and {other} swapped")
        }
        4 => {
            let odd =
                ["\u{0}", "\u{1b}]0;x\u{7}", "= = =", "[[lora]]", "weight = nan", "\u{202e}x = 1"];
            let line = *chance.pick(&odd);
            lines.insert(at, line.to_owned());
            format!("line {at} is {line:?}")
        }
        5 if !lines.is_empty() => {
            let digits: String =
                lines[at]
                    .chars()
                    .map(|c| {
                        if c.is_ascii_digit() {
                            char::from(b'0' + chance.below(10) as u8)
                        } else {
                            c
                        }
                    })
                    .collect();
            lines[at] = digits;
            format!("other digits in line {at}")
        }
        _ => {
            let mut bytes = text.as_bytes().to_vec();
            let what = crate::bytes::mutate(&mut bytes, chance);
            return (String::from_utf8_lossy(&bytes).into_owned(), what);
        }
    };
    (lines.join("\n") + "\n", what)
}
