//! Which settings of PEFT's configurations are computed: every other one that changes what the tensors mean
//! is refused by its name, before any key is looked at.
//!
//! # Source
//! PEFT 0.21: the configurations of its tuners, and what their layers do with each field.

use crate::error::{Error, Result};
use crate::hint::Hint;
use regex::Regex;
use serde_json::{Map, Value};
use std::path::Path;

/// The tuners that are computed.
const COMPUTED: [&str; 9] =
    ["LORA", "ADALORA", "LOHA", "LOKR", "OFT", "BOFT", "IA3", "LN_TUNING", "TRAINABLE_TOKENS"];

/// The advice for an adapter that is not computed.
fn merge() -> Hint {
    let merged = "merge it into its model with PEFT (merge_and_unload), and use that";
    Hint::any_of([merged.into(), Hint::ExtractLora])
}

/// The advice for an adapter whose base was changed before training.
const CONVERT: &str = "it was trained beside a changed base and is wrong on the plain one; save it again with PEFT's path_initial_model_for_weight_conversion, which makes a plain LoRA of it";

/// The meaning of a setting for the tensors beside it.
#[derive(Debug, Clone, Copy)]
enum Rule {
    /// It concerns training or bookkeeping, or the tensors themselves show it.
    Silent,
    /// A number that the law reads.
    Number,
    /// A switch that the law reads.
    Flag,
    /// Numbers by pattern of module, which the law reads.
    Pattern,
    /// Names of modules, or one expression for them, which the law reads.
    Names,
    /// The form of a factor that is zero outside of blocks, which the law reads.
    Blocks,
    /// How factors were made before training, which may have changed the base.
    Start,
    /// A law that is not computed, unless the value is empty; and what to do instead.
    Refused(&'static str),
    /// A law that is not computed, unless the value is empty; the model with it can be used merged.
    Merged,
}

/// Every setting of the tuners that are computed.
const SETTINGS: [(&str, Rule); 75] = [
    // What the adapter is, and for what.
    ("peft_type", Rule::Silent),
    ("peft_version", Rule::Silent),
    ("task_type", Rule::Silent),
    ("auto_mapping", Rule::Silent),
    ("base_model_name_or_path", Rule::Silent),
    ("revision", Rule::Silent),
    ("inference_mode", Rule::Silent),
    ("runtime_config", Rule::Silent),
    // Which modules were trained: their tensors are in the file.
    ("target_modules", Rule::Silent),
    ("exclude_modules", Rule::Silent),
    ("layers_to_transform", Rule::Silent),
    ("layers_pattern", Rule::Silent),
    ("modules_to_save", Rule::Silent),
    ("bias", Rule::Silent),
    // Transformers tie weights that CLIP has not.
    ("ensure_weight_tying", Rule::Silent),
    // PEFT leaves it out for linear layers and convolutions, whatever its value.
    ("fan_in_fan_out", Rule::Silent),
    // Numbers and switches of the laws.
    ("r", Rule::Number),
    ("lora_alpha", Rule::Number),
    ("alpha", Rule::Number),
    ("init_r", Rule::Number),
    ("eps", Rule::Number),
    ("num_cayley_neumann_terms", Rule::Number),
    ("alpha_pattern", Rule::Pattern),
    ("rank_pattern", Rule::Pattern),
    ("feedforward_modules", Rule::Names),
    ("use_rslora", Rule::Flag),
    ("use_dora", Rule::Flag),
    ("lora_bias", Rule::Flag),
    ("use_cayley_neumann", Rule::Flag),
    ("coft", Rule::Flag),
    ("block_share", Rule::Flag),
    ("use_bdlora", Rule::Blocks),
    ("trainable_token_indices", Rule::Silent),
    ("token_indices", Rule::Silent),
    // Dropout, schedules and losses.
    ("lora_dropout", Rule::Silent),
    ("rank_dropout", Rule::Silent),
    ("rank_dropout_scale", Rule::Silent),
    ("module_dropout", Rule::Silent),
    ("boft_dropout", Rule::Silent),
    ("target_r", Rule::Silent),
    ("tinit", Rule::Silent),
    ("tfinal", Rule::Silent),
    ("deltaT", Rule::Silent),
    ("beta1", Rule::Silent),
    ("beta2", Rule::Silent),
    ("orth_reg_weight", Rule::Silent),
    ("total_step", Rule::Silent),
    // Another way back through the layer, and noise while it learns.
    ("velora_config", Rule::Silent),
    ("monteclora_config", Rule::Silent),
    // Forms of tensors, which their shapes show.
    ("use_effective_conv2d", Rule::Silent),
    ("decompose_both", Rule::Silent),
    ("decompose_factor", Rule::Silent),
    ("oft_block_size", Rule::Silent),
    ("boft_block_size", Rule::Silent),
    ("boft_block_num", Rule::Silent),
    ("boft_n_butterfly_factor", Rule::Silent),
    // How factors start; these act through `init_lora_weights` alone.
    ("init_lora_weights", Rule::Start),
    ("init_weights", Rule::Silent),
    ("init_ia3_weights", Rule::Silent),
    ("init_oft_weights", Rule::Silent),
    ("loftq_config", Rule::Silent),
    ("eva_config", Rule::Silent),
    ("corda_config", Rule::Silent),
    ("lora_ga_config", Rule::Silent),
    // Settings of what is switched on elsewhere.
    ("qalora_group_size", Rule::Silent),
    ("megatron_core", Rule::Silent),
    // Other laws.
    ("use_qalora", Rule::Refused("it needs the quantised model that it was trained with")),
    ("alora_invocation_tokens", Rule::Refused("it works on texts that are written word by word")),
    ("arrow_config", Rule::Refused("it chooses among several LoRAs for each token; use these")),
    ("kasa_config", Rule::Merged),
    ("layer_replication", Rule::Refused("it needs a model of more layers")),
    ("megatron_config", Rule::Refused("it needs a model of Megatron")),
    ("target_parameters", Rule::Merged),
    // Switches that older versions had.
    ("enable_lora", Rule::Merged),
    ("merge_weights", Rule::Silent),
];

/// Checks the configuration of one component, and returns the settings that are unknown and taken to be without
/// effect.
///
/// # Errors
/// [`Error::Unsupported`] for a tuner or a setting that is not computed; [`Error::Corrupt`] for values of another
/// type than PEFT's.
pub(in crate::lora) fn check(path: &Path, fields: &Map<String, Value>) -> Result<Vec<String>> {
    let tuner = tuner(path, fields)?;
    let mut unknown = Vec::new();
    for (name, value) in fields {
        let rule = SETTINGS.iter().find(|(known, _)| known == name).map(|(_, rule)| *rule);
        match rule {
            // AdaLoRA's pattern is a mask, which was applied when the file was written.
            Some(Rule::Pattern) if tuner == "ADALORA" => {}
            Some(rule) => rule.check(path, name, value)?,
            None if is_empty(value) => {}
            None if name.starts_with("use_") || name.ends_with("_config") => {
                return Err(refused(path, name, value, merge()));
            }
            None => unknown.push(name.clone()),
        }
    }
    Ok(unknown)
}

/// The tuner, in PEFT's capitals.
fn tuner(path: &Path, fields: &Map<String, Value>) -> Result<String> {
    let tuner = match fields.get("peft_type") {
        None | Some(Value::Null) => return Ok("LORA".into()),
        Some(Value::String(name)) => name.to_uppercase(),
        Some(other) => return Err(mistyped(path, "peft_type", other, "the name of a tuner")),
    };
    if COMPUTED.contains(&tuner.as_str()) {
        return Ok(tuner);
    }
    let computed = format!("computed are {}", COMPUTED.join(", "));
    let how = Hint::AllOf(vec![computed.into(), merge()]);
    Err(refused(path, "peft_type", &Value::String(tuner), how))
}

impl Rule {
    fn check(self, path: &Path, name: &str, value: &Value) -> Result<()> {
        let expect = |fits: bool, what: &str| {
            if fits { Ok(()) } else { Err(mistyped(path, name, value, what)) }
        };
        match self {
            Rule::Silent => Ok(()),
            Rule::Number => expect(value.is_number(), "a number"),
            Rule::Flag => expect(value.is_boolean() || value.is_null(), "true or false"),
            Rule::Pattern => pattern(path, name, value),
            Rule::Names => match value {
                Value::String(text) => expression(path, name, text),
                Value::Array(names) => expect(names.iter().all(Value::is_string), "names"),
                other => expect(other.is_null(), "names of modules"),
            },
            Rule::Blocks => {
                let count = value.get("nblocks").is_none_or(|n| n.as_u64().is_some_and(|n| n > 0));
                expect(is_empty(value) || value.is_object() && count, "an object with `nblocks`")
            }
            Rule::Start => start(path, name, value),
            Rule::Refused(_) | Rule::Merged if is_empty(value) => Ok(()),
            Rule::Merged => Err(refused(path, name, value, merge())),
            Rule::Refused(how) => Err(refused(path, name, value, how)),
        }
    }
}

/// Numbers by expression.
fn pattern(path: &Path, name: &str, value: &Value) -> Result<()> {
    let Value::Object(patterns) = value else {
        let what = "numbers by name of module";
        return if value.is_null() { Ok(()) } else { Err(mistyped(path, name, value, what)) };
    };
    for (key, number) in patterns {
        expression(path, name, key)?;
        if !number.is_number() {
            return Err(mistyped(path, &format!("{name}.{key}"), number, "a number"));
        }
    }
    Ok(())
}

/// An expression of python's `re`, of which the engine here supports the regular part.
fn expression(path: &Path, name: &str, text: &str) -> Result<()> {
    if Regex::new(&format!("(?:{text})")).is_ok() {
        return Ok(());
    }
    let how = "this expression cannot be read here; write the names of modules instead";
    Err(refused(path, name, &Value::String(text.to_owned()), how))
}

/// How the factors were made before training.
fn start(path: &Path, name: &str, value: &Value) -> Result<()> {
    let Value::String(word) = value else {
        let fits = value.is_boolean() || value.is_null();
        return if fits {
            Ok(())
        } else {
            Err(mistyped(path, name, value, "a word, true or false"))
        };
    };
    let word = word.to_lowercase();
    match word.as_str() {
        // None of these changes the base.
        "gaussian" | "eva" | "orthogonal" | "mica" | "true" | "false" => Ok(()),
        "loftq" => Err(refused(path, name, value, merge())),
        "olora" | "lora_ga" => Err(refused(path, name, value, CONVERT)),
        _ if word.starts_with("pissa") || word.starts_with("corda") => {
            Err(refused(path, name, value, CONVERT))
        }
        _ => Err(refused(path, name, value, merge())),
    }
}

/// Whether a value switches nothing on.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Bool(true) => false,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(items) => items.is_empty(),
    }
}

fn refused(path: &Path, name: &str, value: &Value, how: impl Into<Hint>) -> Error {
    let value = brief(value);
    Error::unsupported(format!("PEFT's `{name}: {value}`"), how).at(path)
}

fn mistyped(path: &Path, name: &str, value: &Value, expected: &str) -> Error {
    let value = brief(value);
    Error::corrupt(path, format!("`{name}` is `{value}`, expected {expected}"))
}

/// A value as people write it, cut where it gets long.
fn brief(value: &Value) -> String {
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let mut short: String = text.chars().take(60).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn checked(fields: &Value) -> Result<Vec<String>> {
        check(Path::new("adapter_config.json"), fields.as_object().unwrap())
    }

    #[test]
    fn tuners_that_are_not_computed_are_named() {
        for tuner in ["VERA", "FOURIERFT", "GLORA", "XLORA", "PROMPT_TUNING", "OF_NEXT_YEAR"] {
            let error = checked(&json!({ "peft_type": tuner })).unwrap_err();
            assert_eq!(error.fault(), crate::Fault::Unsupported);
            let text = error.to_string();
            assert!(text.contains(&format!("adapter_config.json: PEFT's `peft_type: {tuner}`")));
        }
        for tuner in COMPUTED {
            assert_eq!(checked(&json!({ "peft_type": tuner })).unwrap(), [""; 0]);
        }
        assert!(checked(&json!({ "peft_type": 3 })).is_err());
    }

    #[test]
    fn switches_of_other_laws_are_named_unless_they_are_off() {
        for (name, off, on) in [
            ("use_qalora", json!(false), json!(true)),
            ("arrow_config", json!(null), json!({ "top_k": 3 })),
            ("kasa_config", json!(null), json!({ "beta": 0.1 })),
            ("alora_invocation_tokens", json!(null), json!([1, 2])),
            ("layer_replication", json!(null), json!([[0, 4], [2, 5]])),
            ("target_parameters", json!([]), json!(["experts.gate"])),
            ("megatron_config", json!(null), json!({ "x": 1 })),
            ("use_next_year", json!(false), json!(true)),
            ("next_year_config", json!({}), json!({ "x": 1 })),
            ("init_lora_weights", json!(true), json!("pissa_niter_16")),
            ("init_lora_weights", json!("gaussian"), json!("olora")),
            ("init_lora_weights", json!("eva"), json!("corda")),
            ("init_lora_weights", json!(null), json!("of_next_year")),
            ("rank_pattern", json!({ r"a\d+": 2 }), json!({ "(?=x)y": 2 })),
        ] {
            let mut fields = json!({ "peft_type": "LORA" });
            fields[name] = off;
            assert!(checked(&fields).is_ok(), "{name}");
            fields[name] = on;
            let error = checked(&fields).unwrap_err();
            assert_eq!(error.fault(), crate::Fault::Unsupported, "{name}");
            assert!(error.to_string().contains(&format!("`{name}: ")), "{error}");
        }
    }

    #[test]
    fn values_of_another_type_are_no_defaults() {
        for (name, value) in [
            ("lora_alpha", json!("16")),
            ("lora_alpha", json!(null)),
            ("use_rslora", json!("yes")),
            ("alpha_pattern", json!(["to_q"])),
            ("alpha_pattern", json!({ "to_q": "16" })),
            ("feedforward_modules", json!(3)),
        ] {
            let error = checked(&json!({ name: value })).unwrap_err();
            assert_eq!(error.fault(), crate::Fault::File, "{name}");
            assert!(error.to_string().contains(name), "{error}");
        }
    }

    #[test]
    fn unknown_settings_are_told() {
        let fields = json!({ "r": 4, "seed_of_training": 7, "nothing": null, "lora_dropout": 0.1 });
        assert_eq!(checked(&fields).unwrap(), ["seed_of_training"]);
    }
}
