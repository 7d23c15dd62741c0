//! `colora generate`: from flags to a job, and from its events to lines.

use super::flags::Flags;
use super::from_picture::Ask;
use super::origin::with_origin;
use super::output::{self, Form};
use super::progress::Progress;
use super::style::Talk;
use super::{dry_run, from_picture, hints, interrupt, setup, threads, warnings};
use crate::app::expand::{self, Expand};
use crate::app::{
    self, Event, Job, Layers, Origin, Part, Pool, SaveOptions, Setup, resolver, words,
};
use crate::error::Error;
use crate::input;
use crate::lora::ReadOptions;
use crate::pipeline::{Cancel, Memory, Pipeline, Request, random_seed};
use crate::plain;
use crate::prompt::PromptSyntax;
use anyhow::Result;
use std::cell::RefCell;
use std::ops::ControlFlow;
use std::path::Path;

/// Longest prompt that is read from stdin, in bytes.
const MAX_PROMPT: u64 = 1 << 20;

/// Runs `colora generate`.
pub(super) fn run(flags: &Flags, talk: Talk) -> Result<()> {
    let setup = setup()?;
    threads::limit(flags.threads.or(setup.settings.config.threads), talk)?;
    let picture = flags.from.as_deref();
    let record =
        picture.map(|path| from_picture::record(path, Ask::of(flags), &setup, talk)).transpose()?;
    let mut layers = Layers::of(&setup.settings)?;
    if let Some((record, path)) = record.as_ref().zip(picture) {
        layers.picture(record, path)?;
    }
    flags.lay_over(&mut layers, prompt(flags)?);
    let named = record.map(|record| record.named);
    let done = layers.job().map_err(anyhow::Error::from).and_then(|mut job| {
        let text = |key: &str| match layers.origin(key) {
            // What is strange in the picture's own was named already.
            Some(Origin::Picture(_)) | None => "",
            Some(_) => layers.text(key).unwrap_or_default(),
        };
        let of_picture = |key: &str| matches!(layers.origin(key), Some(Origin::Picture(_)));
        if of_picture("prompt_syntax") && !of_picture("prompt") {
            // A picture without syntax says nothing of another prompt's.
            let syntax = &mut job.request.prompt_syntax;
            *syntax = syntax.filter(|syntax| *syntax != PromptSyntax::Plain);
        }
        let syntax = job.request.prompt_syntax.unwrap_or_default();
        if let Some(name) = &flags.stack {
            let chosen = flags.request.sets("lora_method");
            resolver::stack(&setup.store, name, chosen, &mut job.request)?;
        }
        words::add_styles(&mut job, &flags.styles, &setup.store)?;
        if !text("prompt").is_empty() {
            words::add_triggers(&mut job, &setup.store)?;
        }
        let jobs = match flags.expand {
            Expand::Off => vec![job],
            _ => expand::for_each_picture(&job, &setup.store, random_seed())?,
        };
        let of_user = |key: &str| !text(key).is_empty();
        if let Some(job) = jobs.first() {
            let Request { prompt, negative_prompt, .. } = &job.request;
            let prompt = if of_user("prompt") { prompt } else { "" };
            let negative = if of_user("negative_prompt") { negative_prompt } else { "" };
            warnings::of_syntax(prompt, negative, syntax, &setup.store, talk);
            if of_user("prompt") {
                warnings::of_loras(&words::uncalled(job, &setup.store), talk);
            }
        }
        draw(flags, &setup, &jobs, named.as_ref(), talk)
    });
    done.map_err(|error| of_picture(with_origin(error, &layers), flags, &layers))
}

/// The prompt of the flags; `-` reads stdin.
fn prompt(flags: &Flags) -> Result<Option<String>, Error> {
    let Some("-") = flags.prompt.as_deref() else { return Ok(flags.prompt.clone()) };
    let stdin = Path::new("stdin");
    let text = input::from(std::io::stdin().lock(), MAX_PROMPT, "a prompt", stdin)?;
    let text = input::decode(text, stdin)?;
    Ok(Some(text.trim_end_matches(['\n', '\r']).to_owned()))
}

/// Runs the jobs, or prints what would run; `named`: what is used because a picture names it.
fn draw(
    flags: &Flags,
    setup: &Setup,
    jobs: &[Job],
    named: Option<&app::NamedByPicture>,
    talk: Talk,
) -> Result<()> {
    let save = output::save_options(flags, &setup.settings.config);
    let part = |index| Some(Part { index, count: jobs.len() }).filter(|part| part.count > 1);
    let save = |index| SaveOptions { part: part(index), ..save.clone() };
    // Mistakes that need no model are found before one is opened.
    for (index, job) in jobs.iter().enumerate() {
        let save = save(index);
        if flags.dry_run {
            job.request.plan(&crate::family::Defaults::of_unknown_model(), 0)?;
            save.target(job.request.count)?;
        } else {
            output::check(flags, &save, &job.request)?;
            app::check(job, &save)?;
        }
    }
    if flags.batch_size == Some(0) {
        return Err(Error::bad_request("batch_size", 0, "at least 1 is needed").into());
    }
    if let Some(set) = flags.cpu {
        set.limit()?;
    }
    let cancel = Cancel::new();
    interrupt::install(&cancel)?;
    let reading = ReadOptions { strict: flags.strict, allow_nan: flags.allow_nan_modules };
    // One request is all that this process serves.
    let memory = if flags.low_memory { Memory::Low } else { Memory::OneShot };
    let options = Pipeline::options().reading(reading).memory(memory);
    let options = options.batch(flags.batch_size.unwrap_or(1));
    let pool = Pool::cancelled_by(setup.store.clone(), &cancel).opened_with(options);
    let progress = Progress::new(flags.progress, talk, flags.json);
    let speaker =
        Speaker { progress: &progress, form: Form::of(flags), talk, failure: RefCell::default() };
    let observer = |event: &Event<'_>| speaker.hear(event);
    for (index, job) in jobs.iter().enumerate() {
        let save = save(index);
        let prepared = app::prepare(&pool, job, &save, &observer, &cancel)?;
        if flags.dry_run {
            dry_run::print(&prepared, named, flags.json)?;
            continue;
        }
        let done = prepared.run(&observer, &cancel);
        progress.finish();
        match speaker.failure.take() {
            Some(error) => return Err(error),
            None => done.map(drop)?,
        }
    }
    Ok(())
}

/// Turns events into lines on stdout and stderr.
struct Speaker<'a> {
    progress: &'a Progress,
    form: Form,
    talk: Talk,
    /// Why a picture could not be reported: nobody reads stdout any more.
    failure: RefCell<Option<anyhow::Error>>,
}

impl Speaker<'_> {
    fn hear(&self, event: &Event<'_>) -> ControlFlow<()> {
        match event {
            Event::Transfer(transfer) => self.progress.transfer(transfer),
            Event::Pipeline(event) => crate::pipeline::Observer::event(self.progress, event),
            Event::Hashing { file, done, total } => {
                from_picture::hashing(file, *done, *total, self.talk);
            }
            Event::FolderCreated(folder) => {
                self.talk.say(&format!("created the folder {}", folder.display()));
            }
            Event::NoPreview(error) => {
                self.talk.say(&format!("warning: no preview: {}", hints::of_error(error)));
            }
            Event::Saved(saved) => {
                let printed = self.progress.aside(|| {
                    if let Some((wished, path)) = saved.taken.zip(saved.path) {
                        let (wished, path) = (wished.display(), path.display());
                        self.talk
                            .say(&format!("{wished} was taken meanwhile: the picture is {path}"));
                    }
                    self.form.print(saved)
                });
                if let Err(error) = printed {
                    *self.failure.borrow_mut() = Some(error);
                    return ControlFlow::Break(());
                }
            }
        }
        ControlFlow::Continue(())
    }
}

/// Adds to a model or LoRA that is not found that a picture named it, not the user.
fn of_picture(error: anyhow::Error, flags: &Flags, layers: &Layers) -> anyhow::Error {
    let Some(picture) = flags.from.as_deref().map(plain::path) else { return error };
    let Some(Error::NotFound { what, name, .. }) = error.downcast_ref::<Error>() else {
        return error;
    };
    let typed = flags.prompt.as_ref().is_some_and(|prompt| prompt.contains(name));
    if what.ends_with("model") && !matches!(layers.origin("model"), Some(Origin::Caller)) {
        let why = format!("{picture} names a model that is not found; -m takes another");
        return error.context(why);
    }
    if what.ends_with("LoRA") && !typed && !flags.request.sets("loras") {
        let why = format!("{picture} names a LoRA that is not found; -l takes others instead");
        return error.context(why);
    }
    error
}
