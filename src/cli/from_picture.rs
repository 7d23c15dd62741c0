//! What a picture says about its making: words of a stranger, of which nothing is opened, and nothing
//! downloaded, before they were looked at.

use super::flags::Flags;
use super::made_with::MadeWith;
use super::reach::{Reach, Way, What};
use super::recipe::Recipe;
use super::style::{Talk, say, value};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::lora::LoraRef;
use crate::prompt::extract_tags;
use crate::store::Store;
use serde::Serialize;
use std::io::{BufRead, IsTerminal, Read};
use std::path::{Path, PathBuf};

/// Longest answer to a question, in bytes.
const MAX_ANSWER: u64 = 256;

/// A recipe as a picture tells it; only [`followed`](Self::followed) makes one of it that may be used.
#[derive(Debug)]
pub(super) struct FromPicture {
    recipe: Recipe,
    path: PathBuf,
}

/// A recipe that may be used, and what of it is the picture's.
#[derive(Debug)]
pub(super) struct Followed {
    /// Names lead from the current folder to what the picture means.
    pub(super) recipe: Recipe,
    /// What is used because the picture names it.
    pub(super) named: Named,
}

/// What is used because a picture names it.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct Named {
    /// The picture.
    picture: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    vae: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    loras: Vec<String>,
}

impl Named {
    fn note(&mut self, what: What, word: &str) {
        match what {
            What::Model => self.model = Some(word.to_owned()),
            What::Vae => self.vae = Some(word.to_owned()),
            What::Lora | What::Tag => self.loras.push(word.to_owned()),
        }
    }
}

impl FromPicture {
    /// What the picture at `path` tells.
    pub(super) fn new(recipe: Recipe, path: &Path) -> Self {
        Self { recipe, path: path.to_path_buf() }
    }

    /// The recipe, to be shown.
    pub(super) fn shown(&self) -> &Recipe {
        &self.recipe
    }

    /// The recipe, to be shown as a command: names of what is in reach lead there.
    pub(super) fn into_command(self, store: &Store) -> Recipe {
        let reach = Reach::new(store, &self.path);
        let mut recipe = self.recipe;
        each_word(&mut recipe, [true; 4], &mut |what, word| match reach.way(what, word) {
            Way::Open(found) => found,
            Way::Away | Way::Beyond => word.to_owned(),
        });
        recipe
    }

    /// The recipe for use: what the flags and settings name themselves is the user's own; all else that the
    /// picture names has to lie in his folders of models and LoRAs or beside the picture, and what is on the hub
    /// to be here, unless he trusts the picture.
    ///
    /// # Errors
    /// [`Error::BadRequest`] naming what lies elsewhere and how to go on.
    pub(super) fn followed(
        self,
        flags: &Flags,
        config: &Config,
        store: &Store,
        talk: Talk,
    ) -> Result<Followed> {
        let Self { recipe, path } = self;
        let reach = Reach::new(store, &path);
        let own = |what: What, word: &str| match what {
            What::Model => config.model.as_deref() == Some(word),
            What::Vae => config.vae.as_deref() == Some(Path::new(word)),
            What::Lora | What::Tag => false,
        };
        let used = [
            flags.model.is_none(),
            flags.vae.is_none(),
            flags.loras.is_empty(),
            flags.prompt.is_none(),
        ];
        let mut beyond = Vec::new();
        let mut named = Named { picture: path.to_string_lossy().into_owned(), ..Named::default() };
        let mut safe = recipe.clone();
        each_word(&mut safe, used, &mut |what, word| {
            let way =
                if own(what, word) { Way::Open(word.to_owned()) } else { reach.way(what, word) };
            let found = match way {
                _ if flags.trust_picture => reach.trusted(word),
                Way::Open(found) => found,
                way => {
                    beyond.push((what, word.to_owned(), way));
                    reach.trusted(word)
                }
            };
            named.note(what, &found);
            found
        });
        if beyond.is_empty() || asked(&path, &beyond, flags, talk) {
            return Ok(Followed { recipe: safe, named });
        }
        Err(refused(&path, &beyond))
    }
}

/// Replaces each word of a recipe by what `found` makes of it: `used` says whether that of the model, of the
/// VAE, those of the LoRAs and those of the prompt's tags are.
fn each_word(recipe: &mut Recipe, used: [bool; 4], found: &mut dyn FnMut(What, &str) -> String) {
    let [model, vae, loras, tags] = used;
    // Of older pictures and those of other programs only the model's name is known.
    let MadeWith { model: name, vae: file, quantize, dtype } = recipe.made_with();
    let mut word = |what: What, used: bool, word: Option<String>| match word {
        Some(word) if used && !word.is_empty() => Some(found(what, &word)),
        word => word,
    };
    let (name, file) = (word(What::Model, model, name), word(What::Vae, vae, file));
    match &mut recipe.made_with {
        Some(known) => *known = MadeWith { model: name, vae: file, quantize, dtype },
        None => recipe.model = name,
    }
    if loras {
        for lora in &mut recipe.request.loras {
            lora.name = found(What::Lora, &lora.name);
        }
    }
    if tags {
        recipe.request.prompt = retagged(&recipe.request.prompt, found);
    }
}

/// `prompt` with other names in its `<lora:…>` tags. What cannot be read is refused when it is planned.
fn retagged(prompt: &str, found: &mut dyn FnMut(What, &str) -> String) -> String {
    let tags = extract_tags(prompt).map(|found| found.tags).unwrap_or_default();
    let mut text = String::with_capacity(prompt.len());
    let mut at = 0;
    for tag in tags {
        let Ok(mut lora) = LoraRef::parse_tag(&tag.body) else { continue };
        let name = found(What::Tag, &lora.name);
        if name != lora.name && !name.contains(['<', '>', '\n', '\r']) {
            lora.name = name;
            text = text + &prompt[at..tag.span.start] + &format!("<lora:{lora}>");
            at = tag.span.end;
        }
    }
    text + &prompt[at..]
}

/// What a picture names and that is out of reach, in words.
fn words(beyond: &[(What, String, Way)]) -> Vec<String> {
    let place = |what: What| match what {
        What::Vae => "which does not lie beside the picture",
        _ => "which lies neither in a folder of models or LoRAs nor beside the picture",
    };
    let word = |(what, word, way): &(What, String, Way)| {
        let place = if *way == Way::Away { "which is not downloaded" } else { place(*what) };
        format!("the {} `{}`, {place}", what.name(), value(word))
    };
    beyond.iter().map(word).collect()
}

fn refused(path: &Path, beyond: &[(What, String, Way)]) -> Error {
    let mut others: Vec<&str> = Vec::new();
    for (what, ..) in beyond {
        if !others.contains(&what.other()) {
            others.push(what.other());
        }
    }
    let why = format!(
        "the picture names {}; --trust-picture uses it all the same, {} another instead",
        words(beyond).join(" and "),
        others.join(" or ")
    );
    Error::bad_request("from", path.display(), why)
}

/// Asks on a terminal whether what is out of reach may be used.
fn asked(path: &Path, beyond: &[(What, String, Way)], flags: &Flags, talk: Talk) -> bool {
    let input = std::io::stdin();
    let reads_prompt = flags.prompt.as_deref() == Some("-");
    if talk.quiet || reads_prompt || !input.is_terminal() || !std::io::stderr().is_terminal() {
        return false;
    }
    talk.say(&format!("{} names", value(&path.to_string_lossy())));
    for word in words(beyond) {
        talk.say(&format!("  {word}"));
    }
    say("Use it all the same? [y/N]");
    let mut answer = String::new();
    let read = input.lock().take(MAX_ANSWER).read_line(&mut answer);
    read.is_ok() && matches!(answer.trim(), "y" | "Y" | "yes" | "Yes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_tags_are_replaced() {
        let mut seen = Vec::new();
        let mut found = |what: What, word: &str| {
            seen.push((what, word.to_owned()));
            if word == "ink" { "a/ink.pt".to_owned() } else { word.to_owned() }
        };
        let prompt = "a <lora:ink:0.5:1>, b \\<lora:x:1> <lyco:oil> <lora:ink:nan>";
        let text = retagged(prompt, &mut found);
        assert_eq!(
            text,
            "a <lora:a/ink.pt:unet=1,text=0.5>, b \\<lora:x:1> <lyco:oil> <lora:ink:nan>"
        );
        assert_eq!(seen, [(What::Tag, "ink".to_owned()), (What::Tag, "oil".to_owned())]);
        let lora = LoraRef::parse_tag("a/ink.pt:unet=1,text=0.5").unwrap();
        assert_eq!((lora.unet, lora.text), (Some(1.0), Some(0.5)));
    }
}
