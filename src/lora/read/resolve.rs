//! From an opened file and the names of a base to a [`Lora`]: every key is used, reported or
//! refused, never forgotten.

use crate::error::{Error, InFile, Result};
use crate::hint::Hint;
use crate::lora::AdapterFile;
use crate::lora::Inversion;
use crate::lora::Lora;
use crate::lora::factor::Factor;
use crate::lora::read::dictionary::{Dictionary, Target, Unknown, is_only_encoder};
use crate::lora::read::header::Header;
use crate::lora::read::inversion;
use crate::lora::read::keys::{self, Role};
use crate::lora::read::module::{Context, Group, Module};
use crate::lora::read::ordered;
use crate::lora::read::wrappers::{bare, is_second_encoder};
use crate::plain;
use crate::weights::Component;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// How strictly a file is read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ReadOptions {
    /// Keys that fit nothing are an error.
    pub strict: bool,
    /// Modules with numbers that are not finite are left out instead of being an error.
    pub allow_nan: bool,
}

/// The findings of reading a file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Keys in the file.
    pub keys: usize,
    /// Keys that were used.
    pub used: usize,
    /// Keys that fit nothing, sorted.
    pub unmatched: Vec<String>,
    /// The unmatched keys, by the reason why they fit nothing.
    pub reasons: BTreeMap<&'static str, Vec<String>>,
    /// Why those keys are unknown, where that can be found out.
    pub diagnosis: Option<String>,
    /// Modules of rank 0.
    pub empty: usize,
    /// Modules and words that were left out because their numbers are not finite.
    pub skipped: Vec<String>,
    /// Warnings for the user.
    pub warnings: Vec<String>,
}

/// Keys that mean nothing and are no reason for a warning.
const BENIGN: [&str; 6] = [
    "num_batches",
    "position_ids",
    "lora_te1_text_projection",
    // PEFT: the base's own, and the noise of training.
    ".original_module.",
    ".lora_monteclora_sampler.",
    ".lora_velora_",
];

impl Lora {
    /// Resolves an opened file against the names of a base.
    ///
    /// Nothing is read but tables of contents and single numbers.
    ///
    /// # Errors
    /// [`Error::WrongFamily`] for files of other families; [`Error::Corrupt`] for incomplete
    /// modules, shapes that do not fit, contradictions, and files of which no key fits;
    /// [`Error::Unsupported`] for kinds that are refused.
    pub fn resolve(file: AdapterFile, base: &Dictionary, options: ReadOptions) -> Result<Self> {
        let path = file.path().to_path_buf();
        Self::resolved(file, base, options).in_file(path)
    }

    fn resolved(file: AdapterFile, base: &Dictionary, options: ReadOptions) -> Result<Self> {
        let mut reading = LoraReader::new(&file, base);
        if let Some(error) = file.refusal() {
            return Err(error);
        }
        let mut inversions = reading.inversions()?;
        let mut modules = reading.ordered()?;
        let groups = reading.groups()?;
        reading.check_family(&groups)?;
        reading.check_promises();
        reading.check_marks(&groups)?;
        for (target, group) in &groups.resolved {
            let built = reading.build(target, group, &file)?;
            modules.entry(target.module.clone()).or_default().extend(built);
        }
        modules.retain(|_, changes| !changes.is_empty());
        reading.finish(&modules, &inversions, options)?;
        let mut report = reading.report;
        if options.allow_nan {
            drop_broken(&mut modules, &mut inversions, &mut report)?;
        }
        warn_without_effect(&modules, &mut report)?;
        let fingerprint = file.fingerprint()?;
        let inversions = inversions.into_iter().map(Arc::new).collect();
        Ok(Lora { file, modules, inversions, report, fingerprint })
    }
}

/// Keys of one file, sorted into groups.
#[derive(Default)]
struct Groups {
    resolved: BTreeMap<Target, Group>,
    /// Stems that lead nowhere, with the shape of one of their tensors by role.
    unknown: BTreeMap<String, (Unknown, BTreeMap<Role, Vec<usize>>)>,
}

/// A file while it is read.
struct LoraReader<'a> {
    file: &'a AdapterFile,
    base: &'a Dictionary,
    used: BTreeSet<String>,
    /// Keys that fit nothing, and why.
    unmatched: BTreeMap<String, &'static str>,
    header: Header,
    /// Modules of rank 0, as the file spells them.
    empty: Vec<String>,
    report: Report,
}

impl<'a> LoraReader<'a> {
    fn new(file: &'a AdapterFile, base: &'a Dictionary) -> Self {
        let files = [Some(&file.main), file.text.as_ref(), file.words.as_ref()];
        let keys = files.into_iter().flatten().map(crate::weights::CheckpointFile::len).sum();
        let report = Report { keys, ..Report::default() };
        let (used, unmatched, empty) = (BTreeSet::new(), BTreeMap::new(), Vec::new());
        let header = Header::of(file.metadata());
        LoraReader { file, base, used, unmatched, header, empty, report }
    }

    fn corrupt(&self, why: impl Into<String>) -> Error {
        Error::corrupt(self.file.path(), why)
    }

    /// Width of a text encoder's token table.
    fn width(&self, component: Component) -> Option<usize> {
        let table = component.path("text_model.embeddings.token_embedding.weight");
        self.base.shape(&table)?.get(1).copied()
    }

    fn inversions(&mut self) -> Result<Vec<Inversion>> {
        let (mut words, used) = inversion::read(&self.file.main, |part| self.width(part))?;
        self.used.extend(used);
        if let Some(file) = &self.file.words {
            let (more, _) = inversion::read_plain(file, |part| self.width(part))?;
            self.report.used += file.len();
            words.extend(more);
        }
        Ok(words)
    }

    /// The modules of a file whose tensors have only an order.
    fn ordered(&mut self) -> Result<BTreeMap<String, Vec<Module>>> {
        let main = &self.file.main;
        let numbered: Vec<&str> = main.names().filter(|name| ordered::is_key(name)).collect();
        let mut pairs = Vec::new();
        if !numbered.is_empty() {
            pairs = ordered::read(main, self.base)?;
            self.used.extend(numbered.into_iter().map(str::to_owned));
        } else if !main.is_empty() && main.names().all(|n| n.bytes().all(|b| b.is_ascii_digit())) {
            pairs = ordered::read_list(main, Component::UNet, self.base)?;
            self.used.extend(main.names().map(str::to_owned));
            if let Some(text) = &self.file.text {
                pairs.extend(ordered::read_list(text, Component::TextEncoder, self.base)?);
                self.report.used += text.len();
            }
        }
        let mut modules = BTreeMap::new();
        for pair in pairs {
            let roles = BTreeMap::from([(Role::Down, pair.down), (Role::Up, pair.up)]);
            let group = Group { stem: pair.module.clone(), roles };
            let target = Target { module: pair.module.clone(), rows: None };
            let built = self.build(&target, &group, self.file)?;
            modules.insert(pair.module, built);
        }
        Ok(modules)
    }

    /// Sorts the keys into modules.
    fn groups(&mut self) -> Result<Groups> {
        let mut groups = Groups::default();
        let gains = self.gains()?;
        for name in self.file.main.names() {
            if self.used.contains(name) {
                continue;
            }
            if name.starts_with(inversion::PREFIX) {
                let why = "it is no embedding for the text encoders of the model";
                self.unmatched.insert(name.to_owned(), why);
                continue;
            }
            let Some(key) = self.file.key(name) else {
                self.unmatched.insert(name.to_owned(), "no adapter has keys that end like this");
                continue;
            };
            if key.gain {
                continue;
            }
            if key.role == Role::TLora {
                return Err(Error::unsupported(
                    format!("`{name}`: T-LoRA, whose base part is not stored in the file"),
                    "merge it with LyCORIS and extract a plain LoRA",
                ));
            }
            let Some(mut factor) = Factor::new(&self.file.main, name) else { continue };
            if let Some((gain, companion)) = gains.get(&(key.stem.clone(), key.role)) {
                factor = factor.with_gain(*gain);
                self.used.insert(companion.clone());
            }
            match self.targets(&key.stem) {
                Ok(targets) => {
                    if is_only_encoder(&key.stem)
                        && self.base.has_component(Component::TextEncoder2)
                    {
                        self.warn_once(
                            "its keys begin with lora_te_, which means the only text encoder; taken for the first of SDXL's two",
                        );
                    }
                    for target in targets {
                        self.insert(&mut groups, target, &key, factor.clone())?;
                    }
                }
                Err(why) => {
                    self.unmatched.insert(name.to_owned(), why.why());
                    let entry = groups.unknown.entry(key.stem).or_insert((why, BTreeMap::new()));
                    entry.1.insert(key.role, factor.shape().to_vec());
                }
            }
        }
        // A scale of no tensor is a key that fits nothing.
        let companions = gains.into_values().map(|(_, companion)| companion);
        let lonely = companions.filter(|key| !self.used.contains(key));
        self.unmatched.extend(lonely.map(|key| (key, "the tensor that it scales is missing")));
        Ok(groups)
    }

    /// The modules behind a stem; where several components have such a path, the class that PEFT's
    /// configuration names decides.
    fn targets(&self, stem: &str) -> Result<Vec<Target>, Unknown> {
        match (self.base.resolve(stem), self.file.tunings.component()) {
            (Err(Unknown::Ambiguous), Some(part)) => self.base.resolve(&part.path(stem)),
            (resolved, _) => resolved,
        }
    }

    /// The numbers that multiply fp8 tensors, by stem and role, with their keys.
    fn gains(&mut self) -> Result<BTreeMap<(String, Role), (f32, String)>> {
        let mut gains = BTreeMap::new();
        for name in self.file.main.names() {
            let Some(key) = keys::split(name).filter(|key| key.gain) else { continue };
            let value = self.file.main.read_f32(name, None)?;
            let [gain] = value[..] else {
                return Err(
                    self.corrupt(format!("`{name}` has {} numbers, expected one", value.len()))
                );
            };
            gains.insert((key.stem, key.role), (gain, name.to_owned()));
        }
        Ok(gains)
    }

    fn insert(
        &mut self,
        groups: &mut Groups,
        target: Target,
        key: &keys::Key,
        factor: Factor,
    ) -> Result<()> {
        let group = groups.resolved.entry(target).or_default();
        if group.stem.is_empty() {
            group.stem.clone_from(&key.stem);
        }
        let name = factor.name().to_owned();
        let Some(there) = group.roles.get(&key.role) else {
            group.roles.insert(key.role, factor);
            self.used.insert(name);
            return Ok(());
        };
        self.used.insert(name.clone());
        if there.same(&factor)? {
            return Ok(());
        }
        let theirs = there.name().to_owned();
        match (is_ldm(&theirs), is_ldm(&name)) {
            (true, false) => {
                group.roles.insert(key.role, factor);
            }
            (false, true) => {}
            _ => {
                return Err(self.corrupt(format!(
                    "duplicate: `{theirs}` and `{name}` mean the same weight and differ"
                )));
            }
        }
        self.warn_once(
            "modules come twice, under the names of the original code and of diffusers, and differ; the latter are used",
        );
        Ok(())
    }

    fn warn_once(&mut self, warning: &str) {
        if !self.report.warnings.iter().any(|known| known == warning) {
            self.report.warnings.push(warning.to_owned());
        }
    }

    /// Warns of unknown settings of PEFT, and of whole tensors that they promise and the file has not.
    fn check_promises(&mut self) {
        let tunings = &self.file.tunings;
        let unknown = tunings.unknown();
        if !unknown.is_empty() {
            let names = listed(unknown);
            self.warn_once(&format!(
                "settings of its configuration are unknown, and taken to be without effect: {names}"
            ));
        }
        for (setting, module) in tunings.promised() {
            let found = self.file.main.names().any(|name| {
                let Some(key) = self.file.key(name) else { return false };
                let path = tunings.of(&key.stem).map(|tuning| tuning.path().to_owned());
                let wanted = match setting {
                    "modules_to_save" => [Role::SetWeight, Role::SetBias].contains(&key.role),
                    _ => key.role == Role::Tokens,
                };
                wanted && path.is_some_and(|path| path.contains(module))
            });
            if !found {
                let module = if module.is_empty() { "tokens" } else { module };
                self.warn_once(&format!(
                    "`{setting}` says that `{module}` was trained, and the file has no tensors of it"
                ));
            }
        }
    }

    /// Refuses a rotation beside unknown tensors: they may be marks that change its law.
    fn check_marks(&self, groups: &Groups) -> Result<()> {
        let turned = groups.resolved.values().filter(|group| group.roles.contains_key(&Role::OftR));
        let stems: BTreeSet<&str> = turned.map(|group| group.stem.as_str()).collect();
        let beside = |key: &&String| {
            keys::split(key).is_none()
                && key.match_indices('.').any(|(at, _)| stems.contains(&key[..at]))
        };
        match self.unmatched.keys().find(beside) {
            Some(key) => Err(Error::unsupported(
                format!("`{key}` beside oft_R, which may change how it turns the weight"),
                "use a file with oft_R alone, or merge it with the program that trained it",
            )),
            None => Ok(()),
        }
    }

    /// Refuses a file of another generation of Stable Diffusion before any shape is compared.
    fn check_family(&self, groups: &Groups) -> Result<()> {
        let stems =
            groups.unknown.iter().map(|(stem, (_, shapes))| (stem.as_str(), shapes.clone())).chain(
                groups.resolved.values().map(|group| {
                    let shape = |(role, factor): (&Role, &Factor)| (*role, factor.shape().to_vec());
                    (group.stem.as_str(), group.roles.iter().map(shape).collect())
                }),
            );
        let mut width = None;
        let mut sdxl = false;
        for (stem, shapes) in stems {
            width = width.or_else(|| listened_width(stem, &shapes));
            sdxl |= is_second_encoder(stem) || is_deep(stem);
        }
        let known = width.and_then(family_of_width);
        let guess = known.or(sdxl.then_some("SDXL"));
        let ours = self.base.context();
        let (Some(width), Some(context)) = (width, ours) else {
            let second = groups.unknown.values().any(|(why, _)| *why == Unknown::Component);
            if second || sdxl && !self.base.deep() && groups.resolved.is_empty() {
                return Err(self.wrong_family(
                    "an adapter for SDXL (it speaks of a second text encoder, te2, or of deeper blocks)".into(),
                ));
            }
            if self.base.deep() && groups.unknown.keys().any(|stem| is_shallow(stem)) {
                let found =
                    "an adapter for SD 1.x or 2.x (it speaks of blocks that SDXL does not have)";
                return Err(self.wrong_family(found.into()));
            }
            return Ok(());
        };
        if width != context {
            let family = guess.unwrap_or("another family");
            return Err(self.wrong_family(format!(
                "an adapter for {family} (it fits cross-attention {width} wide)"
            )));
        }
        if sdxl && !self.base.deep() {
            return Err(self.wrong_family("an adapter for SDXL (by its keys)".into()));
        }
        Ok(())
    }

    fn wrong_family(&self, found: String) -> Error {
        let context = self.base.context();
        let width = context.map_or(String::new(), |w| format!(" (cross-attention {w} wide)"));
        Error::WrongFamily {
            path: self.file.path().to_path_buf(),
            expected: format!("an adapter for {}{width}", self.base.family()),
            found,
            hint: None,
        }
    }

    fn build(&mut self, target: &Target, group: &Group, file: &AdapterFile) -> Result<Vec<Module>> {
        let base = self.base;
        let shape = base.shape(&format!("{}.weight", target.module)).unwrap_or_default();
        // PEFT's patterns do not contain wrappers.
        let stem = bare(&group.stem);
        let mut context = Context {
            path: file.path(),
            shape,
            outputs: shape.first().copied().unwrap_or(1),
            has_bias: base.shape(&format!("{}.bias", target.module)).is_some(),
            pads: Component::split(&target.module) == (Component::UNet, "conv_in"),
            rows: target.rows.map(|(start, end)| start..end),
            tuning: file.tunings.of(&stem),
            component: Component::of(&target.module),
            header: &mut self.header,
            warnings: &mut self.report.warnings,
        };
        let (modules, left) = match Module::build(group, &mut context) {
            Err(_) if context.fits_narrower(group) => {
                context.warnings.push(format!(
                    "`{}`: left out; a change of this kind cannot be widened to the inputs of this model",
                    group.stem
                ));
                return Ok(Vec::new());
            }
            built => built?,
        };
        for role in left {
            if let Some(factor) = group.roles.get(&role) {
                self.used.remove(factor.name());
                let why = "it belongs to no other tensor of its module";
                self.unmatched.insert(factor.name().to_owned(), why);
            }
        }
        let rank = |m: &Module| m.weight.as_ref().and_then(|change| change.delta.rank());
        let empty = modules.iter().filter(|module| rank(module) == Some(0));
        self.empty.extend(empty.map(|module| module.stem.clone()));
        Ok(modules.into_iter().filter(|module| rank(module) != Some(0)).collect())
    }

    /// Reports what was not used, and refuses a file of which nothing was.
    fn finish(
        &mut self,
        modules: &BTreeMap<String, Vec<Module>>,
        words: &[Inversion],
        options: ReadOptions,
    ) -> Result<()> {
        self.report.used += self.used.len();
        self.report.warnings.extend(std::mem::take(&mut self.header).report());
        self.report.empty = self.empty.len();
        self.report.warnings.extend(rank_zero(&self.empty));
        let benign = |key: &String| BENIGN.iter().any(|piece| key.contains(piece));
        for (key, why) in self.unmatched.iter().filter(|(key, _)| !benign(key)) {
            self.report.unmatched.push(key.clone());
            self.report.reasons.entry(why).or_default().push(key.clone());
        }
        self.report.diagnosis =
            self.base.unknown_of(self.report.unmatched.iter().map(String::as_str));
        let why = self.report.diagnosis.as_ref().map_or(String::new(), |why| format!("; {why}"));
        let count = self.report.unmatched.len();
        let (total, family) = (self.report.keys, self.base.family());
        if modules.is_empty() && words.is_empty() && self.report.empty == 0 {
            let guess = self.family_in_metadata();
            let guess = guess.map_or(String::new(), |text| format!("; its metadata says `{text}`"));
            let first = self.report.unmatched.first();
            let first = first
                .map_or(String::new(), |key| format!(" (the first is `{}`)", plain::value(key)));
            return Err(self.corrupt(format!(
                "no tensor of this file fits {family}: 0 of {total} keys are known{first}{why}{guess}"
            )));
        }
        if count == 0 {
            return Ok(());
        }
        let names = listed(&self.report.unmatched);
        let text = format!("{count} unmatched keys of {total}: {names}{why}");
        if options.strict {
            return Err(self.corrupt(text).with_hint(Hint::LeaveOut("strict")));
        }
        self.report.warnings.push(text);
        Ok(())
    }

    fn family_in_metadata(&self) -> Option<&str> {
        let metadata = self.file.metadata();
        ["modelspec.architecture", "ss_base_model_version"]
            .iter()
            .find_map(|key| metadata.get(*key))
            .map(String::as_str)
    }
}

/// The warning of modules of rank 0; `None` without any.
fn rank_zero(stems: &[String]) -> Option<String> {
    let what = match stems.len() {
        0 => return None,
        1 => "a module of rank 0 changes nothing".to_owned(),
        count => format!("{count} modules of rank 0 change nothing"),
    };
    Some(format!("{what}: {}", listed(stems)))
}

/// The first few of many names.
fn listed(names: &[String]) -> String {
    let first: Vec<String> = names.iter().take(5).map(|name| format!("`{name}`")).collect();
    let more = if names.len() > 5 { ", …" } else { "" };
    first.join(", ") + more
}

/// Whether a key spells UNet blocks as the original code does.
fn is_ldm(key: &str) -> bool {
    let pieces = [
        "input_blocks",
        "output_blocks",
        "middle_block",
        "time_embed_0",
        "time_embed.0",
        "time_embed_2",
        "time_embed.2",
        "label_emb",
        "unet_out_",
        "model.out.",
    ];
    pieces.iter().any(|piece| key.contains(piece))
}

/// Whether a stem names a transformer block behind the first, which only SDXL has.
fn is_deep(stem: &str) -> bool {
    let stem = stem.replace('_', ".");
    let Some((_, rest)) = stem.split_once("transformer.blocks.") else { return false };
    let number: String = rest.chars().take_while(char::is_ascii_digit).collect();
    number.parse::<usize>().is_ok_and(|n| n > 0)
}

/// Width of the text features that a module listens to, read off its tensors.
fn listened_width(stem: &str, shapes: &BTreeMap<Role, Vec<usize>>) -> Option<usize> {
    let stem = stem.replace('.', "_");
    if !stem.ends_with("attn2_to_k") && !stem.ends_with("attn2_to_v") {
        return None;
    }
    let by = |role: Role| shapes.get(&role).and_then(|shape| shape.get(1)).copied();
    let either = |a: Role, b: Role| by(a).or_else(|| by(b));
    // A Kronecker product is as wide as its factors multiplied.
    let kron = || {
        let (left, right) = (Role::LokrW1, Role::LokrW2);
        Some(either(left, Role::LokrW1B)? * either(right, Role::LokrW2B)?)
    };
    // Both layouts of GLoRA have this width in one of the two, and the rank in the other.
    let glora = || Some(by(Role::GloraB1)?.max(by(Role::GloraB2)?));
    let plain = [Role::Down, Role::HadaW1B, Role::Diff, Role::SetWeight].into_iter().find_map(by);
    plain.or_else(kron).or_else(glora).filter(|width| *width > 1)
}

/// Whether a stem names a module that SDXL does not have: in the fourth level, or attention in the first.
fn is_shallow(stem: &str) -> bool {
    let stem = stem.replace('_', ".");
    let starts = [
        "down.blocks.3.",
        "up.blocks.3.",
        "down.blocks.0.attentions.",
        "input.blocks.1.1.",
        "input.blocks.2.1.",
        "input.blocks.9.",
        "input.blocks.10.",
        "input.blocks.11.",
        "output.blocks.9.",
        "output.blocks.10.",
        "output.blocks.11.",
    ];
    starts.iter().any(|start| stem.contains(start))
}

fn family_of_width(width: usize) -> Option<&'static str> {
    match width {
        768 => Some("SD 1.x"),
        1024 => Some("SD 2.x"),
        2048 => Some("SDXL"),
        1280 => Some("the SDXL refiner"),
        _ => None,
    }
}

/// Leaves out modules and words with numbers that are not finite.
fn drop_broken(
    modules: &mut BTreeMap<String, Vec<Module>>,
    words: &mut Vec<Inversion>,
    report: &mut Report,
) -> Result<()> {
    let mut finite = Vec::new();
    for word in words.drain(..) {
        if word.is_finite()? { finite.push(word) } else { report.skipped.push(word.token) }
    }
    *words = finite;
    for changes in modules.values_mut() {
        let mut kept = Vec::new();
        for module in changes.drain(..) {
            let mut finite = true;
            for factor in module.factors() {
                finite &= factor.is_finite()?;
            }
            if finite {
                kept.push(module);
            } else {
                report.skipped.push(module.stem);
            }
        }
        *changes = kept;
    }
    modules.retain(|_, changes| !changes.is_empty());
    if !report.skipped.is_empty() {
        let count = report.skipped.len();
        report.warnings.push(format!(
            "{count} modules or words with numbers that are not finite were left out: {}",
            listed(&report.skipped)
        ));
    }
    Ok(())
}

/// Warns when every up factor is zero: the file changes nothing.
fn warn_without_effect(modules: &BTreeMap<String, Vec<Module>>, report: &mut Report) -> Result<()> {
    use crate::lora::delta::Delta;
    let mut any = false;
    if modules.values().flatten().any(|module| module.bias.is_some()) {
        return Ok(());
    }
    for change in modules.values().flatten().filter_map(|module| module.weight.as_ref()) {
        let Delta::LowRank(low) = &change.delta else { return Ok(()) };
        if change.dora.is_some() || low.sparse.is_some() || !low.up.is_zero()? {
            return Ok(());
        }
        any = true;
    }
    if any {
        report.warnings.push(
            "every up factor is zero, so that it changes nothing; was it trained, and saved with the right name of the adapter?".into(),
        );
    }
    Ok(())
}
