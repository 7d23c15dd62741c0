//! The default verb: `colora "a fox"` means `colora generate "a fox"`.

use super::tree;
use crate::error::Error;
use crate::suggest::distance;
use std::ffi::{OsStr, OsString};

/// The verb that is meant when none is given.
const DEFAULT: &str = "generate";

/// Inserts the default verb where none is.
///
/// # Errors
/// [`Error::BadRequest`] for a lone word that looks like a mistyped verb.
pub(super) fn complete(mut arguments: Vec<OsString>) -> Result<Vec<OsString>, Error> {
    let global = |a: &OsStr| matches!(a.to_str(), Some("-q" | "--quiet" | "--verbose")) || is_v(a);
    let at = arguments.iter().skip(1).take_while(|a| global(a)).count() + 1;
    let first = arguments.get(at).and_then(|a| a.to_str()).unwrap_or_default();
    if ["-h", "--help", "-V", "--version"].contains(&first) {
        return Ok(arguments);
    }
    let tree = tree();
    if tree.find_subcommand(first).is_some() {
        return Ok(arguments);
    }
    if first == "help" && (arguments.len() <= at + 2 || are_verbs(&tree, &arguments[at + 1..])) {
        return Ok(help(&arguments, at));
    }
    if let Some(verb) =
        tree.get_subcommands().map(clap::Command::get_name).find(|v| is_slip(first, v))
    {
        let draw = format!("to draw the word: colora {DEFAULT} {first}");
        let why = format!("unknown; did you mean `colora {verb}`? {draw}");
        return Err(Error::bad_request("command", first, why));
    }
    arguments.insert(at, DEFAULT.into());
    Ok(arguments)
}

/// `-v`, `-vv`, …
fn is_v(argument: &OsStr) -> bool {
    let letters = argument.to_str().and_then(|a| a.strip_prefix('-')).unwrap_or_default();
    !letters.is_empty() && letters.chars().all(|c| c == 'v')
}

/// Whether all of `words` are verbs, each one below the one before.
fn are_verbs(tree: &clap::Command, words: &[OsString]) -> bool {
    let below = |verb: &clap::Command, word: &OsString| verb.find_subcommand(word).cloned();
    words.iter().try_fold(tree.clone(), |verb, word| below(&verb, word)).is_some()
}

/// `help` and `help VERB…` as flags.
fn help(arguments: &[OsString], at: usize) -> Vec<OsString> {
    let program = arguments.first().cloned().unwrap_or_default();
    [program]
        .into_iter()
        .chain(arguments.iter().skip(at + 1).cloned())
        .chain(["--help".into()])
        .collect()
}

/// Whether `word` is a lower-case word one slip away from `verb`, two for long verbs.
fn is_slip(word: &str, verb: &str) -> bool {
    // Short verbs are near too many words that someone may want to see drawn; beaches are near `bench`, patches near `batch`.
    let long_enough = verb.len() > 4 && word.len() > 3 && !["bench", "batch"].contains(&verb);
    let allowed = if verb.len() > 6 { 2 } else { 1 };
    long_enough && word.bytes().all(|b| b.is_ascii_lowercase()) && distance(word, verb) <= allowed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn completed(arguments: &str) -> Result<String, Error> {
        let given =
            ["colora"].into_iter().chain(arguments.split('|')).map(OsString::from).collect();
        let done = complete(given)?;
        Ok(done[1..].iter().map(|a| a.to_str().unwrap()).collect::<Vec<_>>().join("|"))
    }

    #[test]
    fn the_default_verb_is_inserted() {
        for (given, meant) in [
            ("a fox", "generate|a fox"),
            ("fox", "generate|fox"),
            ("-m|x|a fox", "generate|-m|x|a fox"),
            ("--from|doctor", "generate|--from|doctor"),
            ("--|doctor", "generate|--|doctor"),
            ("-", "generate|-"),
            ("-q|a fox", "-q|generate|a fox"),
            ("-vv|-q|doctor", "-vv|-q|doctor"),
            ("model|list", "model|list"),
            ("g|x", "g|x"),
            ("-h", "-h"),
            ("help", "--help"),
            ("help|model", "model|--help"),
            ("help|lora|add", "lora|add|--help"),
            ("help|lora|x", "generate|help|lora|x"),
            ("help me, a poster", "generate|help me, a poster"),
        ] {
            assert_eq!(completed(given).unwrap(), meant);
        }
    }

    #[test]
    fn mistyped_verbs_are_not_drawn() {
        for (word, verb) in [
            ("modle", "model"),
            ("generat", "generate"),
            ("inspct", "inspect"),
            ("docter", "doctor"),
        ] {
            let error = completed(&format!("{word}|x")).unwrap_err();
            assert!(error.to_string().contains(&format!("colora {verb}`")), "{error}");
        }
        for word in ["van", "fan", "Model", "mountain", "dog", "poster", "flora", "beach", "bunch"]
        {
            assert!(completed(word).is_ok(), "{word}");
        }
    }
}
