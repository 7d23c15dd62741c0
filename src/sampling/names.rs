//! Samplers and schedules by name, whoever spells it.

use crate::error::{Error, Result};
use crate::suggest::did_you_mean;

/// What of a name counts: letters and digits in lower case, `+` as `p`; diffusers' `Scheduler` does not.
///
/// So `dpmpp-2m`, `dpmpp_2m`, `DPM++ 2M` and `dpm++2m` are one name.
pub(super) fn key(name: &str) -> String {
    let plain: String =
        name.to_lowercase().replace('+', "p").chars().filter(char::is_ascii_alphanumeric).collect();
    plain.strip_suffix("scheduler").map_or(plain.clone(), str::to_owned)
}

/// Names of one thing.
pub(super) struct Named<T> {
    pub(super) item: T,
    /// Our own name.
    pub(super) name: &'static str,
    /// Those of other programs.
    pub(super) others: Vec<&'static str>,
}

/// The item of `all` that is called `name`; an error of a request's `field`, which lists what there is.
pub(super) fn find<T: Copy>(field: &'static str, name: &str, all: &[Named<T>]) -> Result<T> {
    let wanted = key(name);
    let is_it = |of: &&Named<T>| {
        key(of.name) == wanted || of.others.iter().any(|other| key(other) == wanted)
    };
    if let Some(found) = all.iter().find(is_it) {
        return Ok(found.item);
    }
    let names: Vec<&str> = all.iter().map(|of| of.name).collect();
    let near = did_you_mean(name, names.iter().copied());
    Err(Error::bad_request(field, name, format!("expected one of {}{near}", names.join(", "))))
}

/// Writes a type by its `name()` and reads it as [`FromStr`](std::str::FromStr) does, in serde too.
macro_rules! by_name {
    ($type:ty) => {
        impl std::fmt::Display for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.name())
            }
        }

        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.name())
            }
        }

        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let name = <String as serde::Deserialize>::deserialize(deserializer)?;
                name.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

pub(super) use by_name;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spelling_does_not_count() {
        for name in ["dpmpp-2m", "dpmpp_2m", "DPM++ 2M", "dpm++2m", "DPM++2M Scheduler"] {
            assert_eq!(key(name), "dpmpp2m", "{name}");
        }
        assert_ne!(key("euler a"), key("euler"));
    }
}
