//! Names with what trainers had wrapped around the network, and which piece of a name is unknown.
//!
//! A network that is compiled, spread over several cards, or saved under its component's name once more calls
//! its modules `unet._orig_mod.…`, `module.unet.…`, `unet.unet.…`. Such elements are peeled off until a name
//! of the base is left; nothing but known wrappers is ever left out.

use crate::lora::read::dictionary::{Dictionary, Meaning, PREFIXES, Target, Unknown};
use crate::lora::read::keys::{self, Role};
use crate::plain;

/// Elements that name no module wherever they stand: of torch's compiler, its sharding and its checkpointing.
const ANYWHERE: [&str; 3] = ["_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"];
/// The element of torch's data parallelism, which may only stand before the module's path.
const BEFORE: &str = "module";
/// Meanings as elements of a flattened name, behind its prefix.
const FLAT: [(&str, Meaning); 3] = [
    ("unet_", Meaning::UNet),
    ("text_encoder_2_", Meaning::Text2),
    ("text_encoder_", Meaning::Text),
];
/// Most ways to peel a name that are looked at; real ones have a handful.
const WAYS: usize = 64;
/// Most unmatched keys that are looked at for what of them is unknown.
const DIAGNOSED: usize = 64;
/// Most endings that a message lists.
const ENDINGS: usize = 4;

/// What is left of a name, and the part of the base that was named on the way.
type Peeled<'s> = (Meaning, &'s str);

/// A name without the elements that never name a module, and without data parallelism before it.
pub(in crate::lora) fn bare(stem: &str) -> String {
    let mut name = stem.to_owned();
    for wrapper in ANYWHERE {
        for separator in ['.', '_'] {
            name = name.replace(&format!("{wrapper}{separator}"), "");
        }
        // The module itself was compiled.
        let inner = name.strip_suffix(wrapper).map(|inner| inner.trim_end_matches(['.', '_']));
        name = inner.unwrap_or(&name).to_owned();
    }
    let mut rest = name.as_str();
    while let Some(inner) = element(rest, BEFORE) {
        rest = inner;
    }
    rest.to_owned()
}

/// What stands behind the element `word` at the beginning of a name.
fn element<'s>(name: &'s str, word: &str) -> Option<&'s str> {
    let rest = name.trim_start_matches('_').strip_prefix(word)?;
    rest.strip_prefix('.').or_else(|| rest.strip_prefix('_')).filter(|rest| !rest.is_empty())
}

impl Dictionary {
    /// The modules that a stem of a key means, whatever wrappers its trainer had put around the network.
    pub(in crate::lora) fn resolve(&self, stem: &str) -> Result<Vec<Target>, Unknown> {
        let (meaning, rest) = PREFIXES
            .iter()
            .find_map(|(prefix, meaning)| Some((*meaning, stem.strip_prefix(prefix)?)))
            .unwrap_or((Meaning::Any, stem));
        match self.modules_of(meaning, rest) {
            // What is found as it stands is never taken apart further.
            Err(Unknown::Module) => self.unwrapped(stem),
            known => known,
        }
    }

    /// The modules that a name means when the wrappers in it are left out.
    pub(in crate::lora) fn unwrapped(&self, stem: &str) -> Result<Vec<Target>, Unknown> {
        let name = bare(stem);
        let mut why = Unknown::Module;
        for (meaning, rest) in self.peelings(&name) {
            match self.modules_of(meaning, rest) {
                Ok(targets) => return Ok(targets),
                Err(Unknown::Module) => {}
                Err(other) => why = other,
            }
        }
        Err(why)
    }

    /// Every way to peel prefixes and wrappers off the beginning of a name, the name itself first.
    fn peelings<'s>(&self, name: &'s str) -> Vec<Peeled<'s>> {
        let mut ways: Vec<Peeled<'s>> = vec![(Meaning::Any, name)];
        let mut at = 0;
        while at < ways.len() && ways.len() < WAYS {
            for next in self.peel(ways[at]) {
                if !ways.contains(&next) {
                    ways.push(next);
                }
            }
            at += 1;
        }
        ways
    }

    /// What may be left when one element is taken off the beginning.
    fn peel<'s>(&self, (meaning, name): Peeled<'s>) -> Vec<Peeled<'s>> {
        let wrapped = element(name, BEFORE).map(|rest| (meaning, rest));
        let names = PREFIXES.iter().chain(&FLAT).filter_map(|(prefix, found)| {
            let rest = name.strip_prefix(prefix).filter(|rest| !rest.is_empty())?;
            Some((self.narrowed(meaning, *found)?, rest))
        });
        wrapped.into_iter().chain(names).collect()
    }

    /// The part of the base when `found` is named behind `meaning`; `None` when they contradict each other.
    fn narrowed(&self, meaning: Meaning, found: Meaning) -> Option<Meaning> {
        match (meaning, found) {
            (Meaning::Any, found) => Some(found),
            (meaning, Meaning::Any) => Some(meaning),
            (meaning, found) => (self.meant(meaning) == self.meant(found)).then_some(meaning),
        }
    }

    /// What of these keys, which fit nothing, is unknown; `None` when their reasons are enough.
    pub(in crate::lora) fn unknown_of<'k>(
        &self,
        keys: impl Iterator<Item = &'k str>,
    ) -> Option<String> {
        let keys: Vec<&str> = keys.take(DIAGNOSED).collect();
        self.unknown_endings(&keys).or_else(|| keys.iter().find_map(|key| self.unknown_piece(key)))
    }

    /// The endings that no adapter has, behind a module that the base has.
    fn unknown_endings(&self, keys: &[&str]) -> Option<String> {
        let mut module = None;
        let mut endings: Vec<&str> = Vec::new();
        for key in keys {
            // A part that is known, but belongs to nothing, is another fault.
            let part = keys::split(key).filter(|part| part.role != Role::Weight);
            if part.is_some_and(|part| self.resolve(&part.stem).is_ok()) {
                continue;
            }
            let Some((stem, ending)) = self.known_module(key) else { continue };
            module = module.or(Some(stem));
            if !endings.contains(&ending) {
                endings.push(ending);
            }
        }
        let module = short(module?);
        let module = plain::value(&module);
        if let [ending @ (".weight" | ".bias")] = endings[..] {
            let why = "holds a whole parameter, which is no part of an adapter";
            return Some(format!("`{module}` is known, `{ending}` {why}"));
        }
        let more = endings.len() > ENDINGS;
        endings.truncate(ENDINGS);
        let endings: Vec<String> =
            endings.iter().map(|ending| format!("`{}`", plain::value(ending))).collect();
        let listed = match &endings[..] {
            [only] => format!("{only} is"),
            [first @ .., last] if !more => format!("{} and {last} are", first.join(", ")),
            all => format!("{}, … are", all.join(", ")),
        };
        Some(format!("`{module}` is known, {listed} not"))
    }

    /// The longest beginning of a key that names a module, and what stands behind it.
    fn known_module<'k>(&self, key: &'k str) -> Option<(&'k str, &'k str)> {
        let dots = key.rmatch_indices('.').map(|(at, _)| key.split_at(at));
        let mut dots = dots.filter(|(stem, _)| !stem.is_empty());
        dots.find(|(stem, _)| self.resolve(stem).is_ok())
    }

    /// The first piece of a key's name that leads nowhere.
    fn unknown_piece(&self, key: &str) -> Option<String> {
        let stem = keys::split(key).map(|part| part.stem);
        let stem = stem.or_else(|| Some(key.rsplit_once('.')?.0.to_owned()))?;
        if !matches!(self.resolve(&stem), Err(Unknown::Module)) {
            return None;
        }
        let name = bare(&stem);
        let separator = if name.contains('.') { '.' } else { '_' };
        let ways = self.peelings(&name).into_iter();
        let rest = ways.map(|way| self.behind_known(way, separator)).min_by_key(|r| r.len())?;
        let rest = rest.trim_start_matches(['.', '_']);
        let family = self.family();
        if rest.is_empty() {
            let stem = plain::value(&stem);
            return Some(format!("`{stem}` names a part of {family}, but no module in it"));
        }
        let piece = rest.split(separator).next().unwrap_or(rest);
        Some(format!(
            "`{}` in `{}` names nothing in {family}",
            plain::value(piece),
            plain::value(&stem)
        ))
    }

    /// What is left of a name behind the pieces with which some module's name begins.
    fn behind_known<'s>(&self, (meaning, name): Peeled<'s>, separator: char) -> &'s str {
        let ends = name.match_indices(separator).map(|(at, _)| at).chain([name.len()]);
        let known = ends.take_while(|&end| self.begins(meaning, &name[..end]));
        &name[known.last().unwrap_or(0)..]
    }
}

/// Whether a stem names a second text encoder.
pub(in crate::lora) fn is_second_encoder(stem: &str) -> bool {
    let stem = &bare(stem);
    PREFIXES
        .iter()
        .find(|(prefix, _)| stem.starts_with(prefix))
        .is_some_and(|(_, meaning)| *meaning == Meaning::Text2)
}

/// The last element of a dotted name.
fn short(module: &str) -> String {
    module.rsplit_once('.').map_or_else(|| module.to_owned(), |(_, last)| format!("…{last}"))
}
