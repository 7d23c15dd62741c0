//! The flags that set the fields of a request, made from the field table.

use crate::error::Error;
use crate::pipeline::fields::{FIELDS, Field, Flag};
use clap::builder::{
    OsStringValueParser, PossibleValue, PossibleValuesParser, TypedValueParser, ValueParser,
};
use clap::error::ErrorKind;
use clap::{Arg, ArgAction, ArgMatches, Command, ValueHint};
use serde_json::{Map, Value};
use std::ffi::OsStr;

/// The values of the fields that flags set, as JSON in the form of a request; null opens a field.
#[derive(Debug, Clone, Default)]
pub(crate) struct RequestFlags(Map<String, Value>);

impl RequestFlags {
    /// Key and value of each field that a flag sets.
    pub(super) fn values(&self) -> &Map<String, Value> {
        &self.0
    }

    /// Whether a flag sets the field `key`.
    pub(super) fn sets(&self, key: &str) -> bool {
        self.0.contains_key(key)
    }
}

/// The rows that have a flag.
fn rows() -> impl Iterator<Item = (&'static Field, Flag)> {
    FIELDS.iter().filter_map(|field| Some((field, field.flag?)))
}

/// Whether the field holds several values, one a flag.
fn is_list(field: &Field) -> bool {
    field.key == "loras"
}

impl clap::Args for RequestFlags {
    fn augment_args(command: Command) -> Command {
        let mut rows: Vec<_> = rows().collect();
        // Headings stand in the order in which they first come, LoRAs first.
        rows.sort_by_key(|(_, flag)| (flag.heading.is_some(), flag.heading != Some("LoRA")));
        rows.into_iter().fold(command, |command, (field, flag)| match flag.value {
            "" => command.args(switches(field, flag)),
            _ => command.arg(argument(field, flag)),
        })
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl clap::FromArgMatches for RequestFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut flags = Self::default();
        flags.update_from_arg_matches(matches)?;
        Ok(flags)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        for (field, flag) in rows() {
            let value = match flag.value {
                "" => switched(field, flag, matches),
                _ => given(field, matches),
            };
            if let Some(value) = value {
                field.put(value, &mut self.0);
            }
        }
        Ok(())
    }
}

/// The flag of a field that takes a value.
fn argument(field: &'static Field, flag: Flag) -> Arg {
    let list = is_list(field);
    let arg = Arg::new(field.key)
        .long(flag.long)
        .value_name(flag.value)
        .help(flag.help)
        .help_heading(flag.heading)
        .display_order(flag.place)
        .action(if list { ArgAction::Append } else { ArgAction::Set })
        .allow_negative_numbers(["N", "X", "R"].contains(&flag.value))
        .value_parser(parser(field));
    let arg = if list { arg.value_hint(ValueHint::AnyPath) } else { arg };
    // A row of several fields stands for them: neither is given beside it.
    let arg = match field.sets {
        [_, _, ..] => arg.conflicts_with_all(field.sets),
        _ => arg,
    };
    let arg = flag.short.into_iter().fold(arg, Arg::short);
    flag.alias.into_iter().fold(arg, Arg::alias)
}

/// The flags of a field that is on or off.
fn switches(field: &'static Field, flag: Flag) -> Vec<Arg> {
    let switch = |id: &'static str, long: &'static str| {
        Arg::new(id).long(long).action(ArgAction::SetTrue).help_heading(flag.heading)
    };
    let on = switch(field.key, flag.long).help(flag.help).display_order(flag.place);
    let Some([long, help]) = flag.opposite else { return vec![on] };
    let off = switch(long, long).help(help).display_order(flag.place + 1);
    vec![on.overrides_with(long), off.overrides_with(field.key)]
}

/// Reads the text of a flag by the row of its field.
fn parser(field: &'static Field) -> ValueParser {
    let names = (field.names)();
    // The flag is named by the usage error itself.
    let read = |text: String| {
        field.value(&text).map_err(|error| match error {
            Error::BadRequest { field: "", why, .. } => why,
            other => other.to_string(),
        })
    };
    if names.is_empty() {
        // Names may be paths: bytes that are no UTF-8 become U+FFFD, by which the store finds them all the same.
        let text = OsStringValueParser::new().map(|text| text.to_string_lossy().into_owned());
        return ValueParser::new(text.try_map(read));
    }
    ValueParser::new(Choice { field, names })
}

/// Reads a choice in any spelling that its row accepts; help texts and errors list its own names.
#[derive(Clone)]
struct Choice {
    field: &'static Field,
    names: Vec<&'static str>,
}

impl TypedValueParser for Choice {
    type Value = Value;

    fn parse_ref(
        &self,
        command: &Command,
        argument: Option<&Arg>,
        value: &OsStr,
    ) -> Result<Value, clap::Error> {
        if let Some(Ok(read)) = value.to_str().map(|text| self.field.value(text)) {
            return Ok(read);
        }
        let names = PossibleValuesParser::new(self.names.clone());
        let name = names.parse_ref(command, argument, value)?;
        self.field.value(&name).map_err(|_| clap::Error::new(ErrorKind::InvalidValue))
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new(self.names.iter().copied().map(PossibleValue::new)))
    }
}

/// The value of a flag that was given, of a list all values.
fn given(field: &Field, matches: &ArgMatches) -> Option<Value> {
    let mut values = matches.get_many::<Value>(field.key)?.cloned();
    if is_list(field) { Some(values.collect::<Vec<_>>().into()) } else { values.next() }
}

/// Whether a field was switched on or off, when it was.
fn switched(field: &Field, flag: Flag, matches: &ArgMatches) -> Option<Value> {
    let off = flag.opposite.is_some_and(|[long, _]| matches.get_flag(long));
    match (matches.get_flag(field.key), off) {
        (true, _) => Some(true.into()),
        (_, true) => Some(false.into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Args;

    /// Every field but the prompt, which stands by itself, can be set by a flag.
    #[test]
    fn every_field_has_a_flag() {
        let command = RequestFlags::augment_args(Command::new("x"));
        for field in FIELDS.iter().filter(|field| field.key != "prompt") {
            let flag = field.flag.unwrap_or_else(|| panic!("{} has no flag", field.key));
            let arg = command.get_arguments().find(|arg| arg.get_long() == Some(flag.long));
            assert!(arg.is_some_and(|arg| arg.get_help().is_some()), "{}", field.key);
        }
    }
}
