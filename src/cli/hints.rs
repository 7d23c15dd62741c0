//! Hints of the library in the words of the command line: flags and verbs.

use crate::error::Error;
use crate::hint::{Hint, SavingWay, Setting, in_brackets, take_less};
use crate::pipeline::fields;

/// An error that is part of another message, with its hint.
pub(super) fn of_error(error: &Error) -> String {
    match error.hint() {
        Some(hint) => format!("{}; {}", error.message(), worded(&hint)),
        None => error.message(),
    }
}

/// A hint in the words of the command line.
pub(super) fn worded(hint: &Hint) -> String {
    hint.worded(&for_command_line)
}

fn for_command_line(hint: &Hint) -> String {
    let fixed = match hint {
        Hint::Set(setting) => {
            let Setting { field, value, why } = **setting;
            return format!("use --{} {value}{}", flag(field), in_brackets(why));
        }
        Hint::LeaveOut(field) => return format!("leave --{} out", flag(field)),
        Hint::Choose(fields) => {
            let flags: Vec<String> = fields.iter().map(|f| format!("--{}", flag(f))).collect();
            return format!("choose one with {}", flags.join(" or "));
        }
        Hint::BuildWith(feature) => return format!("build colora with `--features {feature}`"),
        Hint::TakeLess(savings) => {
            let name = |way| match way {
                SavingWay::LowMemory => "--low-memory",
                SavingWay::Tile => "--tile",
                SavingWay::Both => "both",
            };
            return take_less(savings, &name, "draw fewer pixels (--size)");
        }
        Hint::AllowReplacing => "choose another name or pass --force",
        Hint::FewerThreads => "pass --threads with a smaller number",
        Hint::SaveMemory => {
            "draw fewer pixels, pass --low-memory or --tile, or close other programs"
        }
        Hint::SaveDeviceMemory => {
            "draw fewer pixels, pass --low-memory, close other programs that use it, or use --device cpu"
        }
        Hint::UseAsModel => "load it with --model",
        Hint::UseAsVae => "pass it with --vae beside a --model",
        Hint::NameVae => "pass one with --vae",
        Hint::WholeVae => "pass a whole --vae",
        Hint::QuantiseModel => {
            "use the model in f16 or f32; `colora model convert --quantize` makes it small"
        }
        Hint::MakeLora => "make a LoRA of it: colora lora merge --method svd",
        Hint::ExtractLora => "make a LoRA of it: colora lora extract",
        Hint::WriteLora => "write a LoRA instead: leave --checkpoint out",
        Hint::NameLoraFolder => "name one with --to DIR",
        Hint::AllowNan => "--allow-nan-modules leaves such modules out",
        Hint::ListConfigKeys => "see `colora config init`",
        other => return other.to_string(),
    };
    fixed.to_owned()
}

/// The flag of a field or option of the library.
fn flag(field: &str) -> String {
    let row = fields::field(field).and_then(|field| field.flag);
    match (row, field) {
        (Some(flag), _) => flag.long.to_owned(),
        (None, "format") => "to".to_owned(),
        (None, "law") => "method".to_owned(),
        (None, other) => other.replace('_', "-"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_named_as_they_are_typed() {
        let hint = Hint::any_of([Hint::set("device", "cpu"), Hint::LeaveOut("merge_tokens")]);
        assert_eq!(worded(&hint), "use --device cpu, or leave --merge-tokens out");
        let hint = Hint::set_because("law", "svd", "it takes every kind");
        assert_eq!(worded(&hint), "use --method svd (it takes every kind)");
        assert_eq!(worded(&Hint::set("format", "kohya")), "use --to kohya");
        assert_eq!(
            worded(&Hint::Choose(&["rank", "energy"])),
            "choose one with --rank or --energy"
        );
        assert_eq!(worded(&Hint::BuildWith("hub")), "build colora with `--features hub`");
    }

    #[test]
    fn an_error_inside_a_message_keeps_its_hint() {
        let error = Error::unsupported("that", Hint::LeaveOut("quantize")).at("x");
        assert_eq!(of_error(&error), "x: that is not supported here; leave --quantize out");
        assert_eq!(of_error(&Error::Cancelled), "cancelled");
    }
}
