//! `colora generate`: from flags to saved pictures.

use super::flags::Flags;
use super::from_picture::{Followed, Named};
use super::made_with::MadeWith;
use super::output::{Output, SCHEMA};
use super::progress::Progress;
use super::recipe::{self, Recipe};
use super::style::{Talk, block, bytes, excerpt, result_json, result_line, value};
use super::{interrupt, output, settings, shelf, store, threads};
use crate::atomic_file::TemporaryFile;
use crate::config::{Config, Settings};
use crate::error::Error;
use crate::family::Defaults;
use crate::input;
use crate::lora::{Apply, LoraRef, Method, ReadOptions};
use crate::picture::{Picture, png};
use crate::pipeline::{
    Cancel, Event, Generated, Memory, Observer, Options, Pipeline, Plan, Request,
};
use crate::plain;
use crate::prompt::{extract_tags, foreign_syntax};
use crate::store::{Model, STARTER, actual};
use anyhow::{Context, Result};
use candle_core::DeviceLocation;
use std::cell::RefCell;
use std::hash::{BuildHasher, Hasher};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Pixels of pictures that may be decoded in tiles by themselves.
const LARGE: usize = 1 << 20;
/// Longest prompt that is read from stdin, in bytes.
const MAX_PROMPT: u64 = 1 << 20;

/// Runs `colora generate`.
pub(super) fn run(flags: &Flags, talk: Talk) -> Result<()> {
    let settings = settings()?;
    let config = &settings.config;
    threads::limit(flags.threads.or(config.threads), talk)?;
    let picture = flags.from.as_deref().map(|path| picture(path, flags, &settings, talk));
    let (recipe, named) = picture.transpose()?.map(|told| (told.recipe, told.named)).unzip();
    let made_with = MadeWith::now(flags, recipe.as_ref(), config);
    let from = recipe.map(|recipe| recipe.request).unwrap_or_default();
    let prompt = prompt(flags)?;
    let usual = config.negative_prompt.as_ref().filter(|_| flags.from.is_none());
    warn_of_syntax(prompt.as_deref(), flags.negative.as_ref().or(usual), talk);
    let given = flags.request(prompt.clone(), from.clone(), &Config::default());
    let of_settings = |error| of_settings(error, &given, &settings);
    let mut request = flags.request(prompt, from, config);
    if let Some(name) = &flags.stack {
        shelf::stack(&store(&settings), name, flags.lora_method.is_some(), &mut request)?;
    }
    // Mistakes that need no model are found before one is opened.
    let rough = request.plan(&Defaults::of_unknown_model(), 0).map_err(of_settings)?;
    let to = Output::new(flags, config, request.count)?;
    if !flags.dry_run {
        to.check(&rough)?;
    }
    let cancel = Cancel::new();
    interrupt::install(&cancel)?;
    let progress = Progress::new(flags.progress, talk, flags.json);
    let shelf = shelf::StoreShelf::new(store(&settings), &cancel);
    let fetched = shelf.fetch(&request.loras, &|transfer| progress.transfer(transfer));
    fetched.map_err(|error| of_picture(error.into(), flags))?;
    let pipeline = open(&made_with, flags, &settings, &cancel, &progress, shelf);
    let pipeline = pipeline.map_err(|error| of_picture(error, flags))?;
    let plan = pipeline.plan_observed(&request, random_seed(), &progress);
    let plan = plan.map_err(|error| of_picture(of_settings(error), flags))?;
    let names = to.names(&plan, pipeline.model_name())?;
    if flags.dry_run {
        return dry_run(&pipeline, &plan, &names, named.as_ref(), flags.json);
    }
    pipeline.check_memory(&plan)?;
    output::make_folders(&names, talk)?;
    let job = Job {
        pipeline: &pipeline,
        plan: &plan,
        made_with: &made_with,
        names: &names,
        output: &to,
        preview: RefCell::default(),
        talk,
    };
    let done = job.run(&progress, &cancel);
    progress.finish();
    done
}

/// A picture's settings, of which no name leads where it may not; a warning for what they hold beyond colora.
fn picture(path: &Path, flags: &Flags, settings: &Settings, talk: Talk) -> Result<Followed, Error> {
    let told = recipe::read(path)?;
    let chosen = flags.sampler.is_some() && flags.schedule.is_some();
    if let Some(sampler) = told.shown().unknown_sampler.as_ref().filter(|_| !chosen) {
        return Err(Error::unsupported(
            format!("the sampler `{}` of {}", value(sampler), plain::path(path)),
            "choose with --sampler and --schedule",
        ));
    }
    if let Some(warning) = told.shown().warning() {
        talk.say(&warning);
    }
    told.followed(flags, &settings.config, &store(settings), talk)
}

/// The prompt of the flags; `-` reads stdin.
fn prompt(flags: &Flags) -> Result<Option<String>, Error> {
    let Some("-") = flags.prompt.as_deref() else { return Ok(flags.prompt.clone()) };
    let stdin = Path::new("stdin");
    let text = input::from(std::io::stdin().lock(), MAX_PROMPT, "a prompt", stdin)?;
    let text = input::decode(text, stdin)?;
    Ok(Some(text.trim_end_matches(['\n', '\r']).to_owned()))
}

/// Most parts of a prompt that a warning names.
const MOST_PARTS: usize = 8;

/// Says what of the prompts is syntax elsewhere and is drawn as it is written.
fn warn_of_syntax(prompt: Option<&str>, negative: Option<&String>, talk: Talk) {
    let prompt = prompt.unwrap_or_default();
    let tags = extract_tags(prompt).map(|found| found.tags).unwrap_or_default();
    let tags: Vec<_> = tags.into_iter().map(|tag| tag.span).collect();
    let mut parts = foreign_syntax(prompt, &tags);
    parts.extend(negative.map(|text| foreign_syntax(text, &[])).unwrap_or_default());
    let more = parts.len().saturating_sub(MOST_PARTS);
    let named = parts.iter().take(MOST_PARTS).map(|part| format!("`{}`", excerpt(part)));
    let named = named.collect::<Vec<_>>().join(", ");
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    match parts.len() {
        0 => {}
        1 => talk.say(&format!(
            "warning: {named} is drawn as it is written: this syntax of other programs is not supported"
        )),
        _ => talk.say(&format!(
            "warning: {named}{more} are drawn as they are written: this syntax of other programs is not supported"
        )),
    }
}

/// Says of a bad value in which file it stands; `given` is what flags and picture say alone.
fn of_settings(error: Error, given: &Request, settings: &Settings) -> anyhow::Error {
    let Error::BadRequest { field, .. } = &error else { return error.into() };
    let given = match *field {
        "width" => given.width.is_some(),
        "height" => given.height.is_some(),
        "steps" => given.steps.is_some(),
        "guidance_scale" => given.guidance_scale.is_some(),
        "clip_skip" => given.clip_skip.is_some(),
        _ => true,
    };
    match settings.origin(field).filter(|_| !given) {
        Some(origin) => {
            let why = format!("cannot use `{field}` of {origin}");
            anyhow::Error::new(error).context(why)
        }
        None => error.into(),
    }
}

/// Says of a model or LoRA that is not here that a picture named it, not the user.
fn of_picture(error: anyhow::Error, flags: &Flags) -> anyhow::Error {
    let Some(picture) = flags.from.as_deref().map(plain::path) else { return error };
    let Some(Error::NotFound { what, name, .. }) = error.downcast_ref::<Error>() else {
        return error;
    };
    let of_user = |lora: &LoraRef| &lora.name == name;
    let typed = flags.prompt.as_ref().is_some_and(|prompt| prompt.contains(name));
    if what.ends_with("model") && flags.model.is_none() {
        let why = format!("{picture} names a model that is not found; -m takes another");
        return error.context(why);
    }
    if what.ends_with("LoRA") && !typed && !flags.loras.iter().any(of_user) {
        let why = format!("{picture} names a LoRA that is not found; -l takes others instead");
        return error.context(why);
    }
    error
}

/// Finds and opens a model.
fn open(
    made_with: &MadeWith,
    flags: &Flags,
    settings: &Settings,
    cancel: &Cancel,
    progress: &Progress,
    shelf: shelf::StoreShelf,
) -> Result<Pipeline> {
    let config = &settings.config;
    let device = flags
        .device
        .map_or_else(|| choice(settings, "device", config.device.as_deref()), |d| Ok(Some(d)))?;
    let dtype = chosen(flags, settings, "dtype", made_with.dtype.as_deref())?;
    let quantize = chosen(flags, settings, "quantize", made_with.quantize.as_deref())?;
    if let Some(set) = flags.cpu {
        set.limit()?;
    }
    // One request is all that this process serves.
    let memory = if flags.low_memory { Memory::Low } else { Memory::Save };
    let options =
        Pipeline::options().device(device.unwrap_or_default()).dtype(dtype).memory(memory);
    let reading = ReadOptions { strict: flags.strict, allow_nan: flags.allow_nan_modules };
    let options = options.quantize(quantize).vae(made_with.vae.as_ref().map(actual));
    let options = options.shelf(Arc::new(shelf)).reading(reading);
    let name = made_with.model.as_deref().unwrap_or(STARTER);
    let model = store(settings).resolve(name, cancel, &|transfer| progress.transfer(transfer))?;
    Ok(open_found(options, model)?)
}

/// Opens what the store found.
pub(super) fn open_found(options: Options, model: Model) -> Result<Pipeline, Error> {
    match model {
        Model::Starter => options.open_starter(),
        Model::Files(path) => options.open(path),
    }
}

/// Parses a setting; the error says where it was set.
pub(super) fn choice<T>(settings: &Settings, key: &str, value: Option<&str>) -> Result<Option<T>>
where
    T: std::str::FromStr<Err = Error>,
{
    let origin = || settings.origin(key).map(ToString::to_string).unwrap_or_default();
    let parsed = value.map(str::parse).transpose();
    parsed.map_err(|error| {
        anyhow::Error::new(error).context(format!("cannot use `{key}` of {}", origin()))
    })
}

/// Parses a word of a picture or a setting; the error says whose it is.
fn chosen<T>(flags: &Flags, settings: &Settings, key: &str, word: Option<&str>) -> Result<Option<T>>
where
    T: std::str::FromStr<Err = Error>,
{
    match &flags.from {
        Some(picture) if word != settings.config.dtype.as_deref() => {
            let parsed = word.map(str::parse).transpose().map_err(anyhow::Error::new);
            parsed.with_context(|| format!("cannot use `{key}` of {}", picture.display()))
        }
        _ => choice(settings, key, word),
    }
}

/// A seed that differs from run to run; 32 bits, which are enough and easy to copy.
fn random_seed() -> u64 {
    let random = std::hash::RandomState::new().build_hasher().finish();
    random & u64::from(u32::MAX)
}

/// A generation and where it goes.
struct Job<'a> {
    pipeline: &'a Pipeline,
    plan: &'a Plan,
    made_with: &'a MadeWith,
    /// Empty for stdout.
    names: &'a [PathBuf],
    output: &'a Output,
    /// The preview of the picture at work.
    preview: RefCell<Option<TemporaryFile>>,
    talk: Talk,
}

impl Job<'_> {
    fn run(&self, progress: &Progress, cancel: &Cancel) -> Result<()> {
        // What a sink may not return: nobody reads stdout any more.
        let mut failure = None;
        let observer = |event: &Event| {
            progress.event(event);
            if let Event::Step { image, preview: Some(picture), .. } = event {
                self.show(*image, picture);
            }
        };
        let mut sink = |image: Generated| {
            let saved = progress.aside(|| self.save(&image));
            saved.map_err(|error| {
                failure = Some(error);
                Error::Cancelled
            })
        };
        let done = self.pipeline.generate(self.plan, &observer, cancel, &mut sink);
        self.preview.take();
        match failure {
            Some(error) => Err(error),
            None => Ok(done?),
        }
    }

    fn save(&self, image: &Generated) -> Result<()> {
        self.preview.take();
        let name = self.names.get(image.index).map(PathBuf::as_path);
        let model = self.pipeline.model_name();
        self.output.save(image, name, self.plan, model, self.made_with, self.talk)?;
        let time = image.timings;
        tracing::info!(
            seed = image.seed,
            load = ?time.load, compose = ?time.compose, encode = ?time.encode, sample = ?time.sample, decode = ?time.decode,
            "saved"
        );
        Ok(())
    }

    /// Writes a preview beside the picture; a preview that fails is no reason to stop.
    fn show(&self, image: usize, picture: &Picture) {
        let Some(name) = self.names.get(image) else { return };
        let path = name.with_extension("preview.png");
        let bytes = png::encode(picture, &png::Texts::default());
        let mut mine = self.preview.borrow_mut();
        let again = mine.as_ref().is_some_and(|preview| preview.path() == path);
        match bytes.and_then(|bytes| png::save(&bytes, &path, again)) {
            Ok(()) if again => {}
            Ok(()) => *mine = Some(TemporaryFile::new(path)),
            Err(error) => self.talk.say(&format!("warning: no preview: {error}")),
        }
    }
}

/// Prints what would run.
fn dry_run(
    pipeline: &Pipeline,
    plan: &Plan,
    names: &[PathBuf],
    named: Option<&Named>,
    json: bool,
) -> Result<()> {
    let outputs: Vec<String> = names.iter().map(|n| n.to_string_lossy().into_owned()).collect();
    let device = match pipeline.device().location() {
        DeviceLocation::Cpu => "cpu".to_owned(),
        DeviceLocation::Cuda { gpu_id } => format!("cuda:{gpu_id}"),
        DeviceLocation::Metal { gpu_id } => format!("metal:{gpu_id}"),
    };
    let model = pipeline.model_name();
    let budget = pipeline.budget(plan);
    if json {
        let memory = budget.map(|budget| {
            let (encode, sample, decode) = (budget.encode, budget.sample, budget.decode);
            serde_json::json!({
                "encode": encode, "sample": sample, "decode": decode, "peak": budget.peak(),
            })
        });
        let mut object = serde_json::json!({
            "schema": SCHEMA, "event": "plan", "model": model, "device": device,
            "outputs": outputs, "plan": plan, "summary": pipeline.summary(),
            "memory": memory,
        });
        if let Some(named) = named {
            object["from_picture"] = serde_json::to_value(named)?;
        }
        return result_json(&object.to_string());
    }
    let pixels = (plan.width * plan.height * 3) as u64;
    let head = format!(
        "# {} of {} ({} raw each){}, nothing was run\n",
        if plan.count == 1 { "1 picture".to_owned() } else { format!("{} pictures", plan.count) },
        plan.size()?,
        bytes(pixels),
        budget.map(|b| format!(", at least {} of memory", bytes(b.peak()))).unwrap_or_default()
    );
    let mut table = toml::Table::new();
    table.insert("model".into(), model.into());
    table.insert("device".into(), device.into());
    table.insert("outputs".into(), outputs.into());
    // TOML has no whole numbers above 2⁶³.
    let seed =
        i64::try_from(plan.seed).map_or_else(|_| plan.seed.to_string().into(), toml::Value::from);
    let mut inner = toml::Table::try_from(Plan { seed: 0, ..plan.clone() })?;
    inner.insert("seed".into(), seed);
    table.insert("plan".into(), inner.into());
    if let Some(named) = named {
        table.insert("from_picture".into(), toml::Value::try_from(named)?);
    }
    result_line(block(&(head + &table.to_string())).trim_end())
}

/// Used by tests and `inspect --as-command`: how a picture was made, as flags of `generate`.
pub(super) fn as_command(recipe: &Recipe) -> String {
    let (request, made_with) = (&recipe.request, recipe.made_with());
    let mut words = vec!["colora".to_owned(), "generate".to_owned()];
    let mut flag = |name: &str, value: Option<String>| {
        words.extend(value.map(|value| format!("--{name}={}", quote(&value))));
    };
    flag("model", made_with.model);
    flag("vae", made_with.vae);
    flag("quantize", made_with.quantize);
    flag("dtype", made_with.dtype);
    flag("negative", Some(request.negative_prompt.clone()).filter(|n| !n.is_empty()));
    let size = request.width.zip(request.height).map(|(w, h)| format!("{w}x{h}"));
    flag("size", size);
    flag("steps", request.steps.map(|n| n.to_string()));
    flag("guidance", request.guidance_scale.map(|x| x.to_string()));
    flag("guidance-interval", request.guidance_interval.map(|w| w.to_string()));
    flag("reuse", Some(request.reuse).filter(|n| *n > 1).map(|n| n.to_string()));
    flag("merge-tokens", Some(request.merge_tokens).filter(|r| *r > 0.0).map(|r| r.to_string()));
    flag("sampler", request.sampler.map(|s| s.to_string()));
    flag("schedule", request.schedule.map(|s| s.to_string()));
    flag("clip-skip", request.clip_skip.filter(|n| *n > 1).map(|n| n.to_string()));
    flag("seed", request.seed.map(|n| n.to_string()));
    for lora in &request.loras {
        flag("lora", Some(lora.to_string()));
    }
    let default = Method::default();
    flag("lora-method", Some(request.lora_method).filter(|m| *m != default).map(|m| m.to_string()));
    flag("apply", Some(request.apply).filter(|a| *a != Apply::Auto).map(|a| a.to_string()));
    match (request.tile, request.width.zip(request.height)) {
        (Some(true), _) => words.push("--tile".to_owned()),
        // Large pictures are tiled unless told otherwise.
        (Some(false), Some((w, h))) if w * h > LARGE => words.push("--no-tile".to_owned()),
        _ => {}
    }
    if request.prompt.starts_with('-') {
        words.push("--".to_owned());
    }
    words.push(quote(&request.prompt));
    words.join(" ")
}

/// `text` as one word of a POSIX shell; with control characters, which no terminal should see, as bash, zsh and
/// ksh write it.
fn quote(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_./:=,+@%".contains(&b);
    if !text.is_empty() && text.bytes().all(plain) {
        text.to_owned()
    } else if text.contains(plain::is_hidden) {
        format!("$'{}'", text.chars().map(escaped).collect::<String>())
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

/// A character between `$'` and `'`.
fn escaped(c: char) -> String {
    match c {
        '\n' => r"\n".to_owned(),
        '\t' => r"\t".to_owned(),
        '\'' | '\\' => format!("\\{c}"),
        c if plain::is_hidden(c) => {
            let mut bytes = [0; 4];
            let bytes = c.encode_utf8(&mut bytes).bytes();
            bytes.fold(String::new(), |text, byte| text + &format!(r"\x{byte:02x}"))
        }
        c => c.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_survive_a_shell() {
        let made_with = MadeWith {
            model: Some("my model".into()),
            vae: Some("v".into()),
            quantize: Some("q8_0".into()),
            dtype: Some("bf16".into()),
        };
        let request = Request {
            prompt: "it's a $fox".into(),
            seed: Some(3),
            width: Some(8),
            height: Some(16),
            ..Request::default()
        };
        let made_with = Some(made_with);
        let recipe = Recipe { made_with, request, ..Recipe::default() };
        assert_eq!(
            as_command(&recipe),
            r"colora generate --model='my model' --vae=v --quantize=q8_0 --dtype=bf16 --size=8x16 --seed=3 'it'\''s a $fox'"
        );
        let dash = Request { prompt: "-x".into(), ..Request::default() };
        let dash = Recipe { request: dash, ..Recipe::default() };
        assert_eq!(as_command(&dash), "colora generate -- -x");
        assert_eq!(quote(""), "''");
        assert_eq!(quote("a\x1b[2J'\\\n\u{9b}é"), r"$'a\x1b[2J\'\\\n\xc2\x9bé'");
    }

    #[test]
    fn seeds_differ() {
        assert!((0..4).map(|_| random_seed()).collect::<std::collections::HashSet<_>>().len() > 2);
    }
}
