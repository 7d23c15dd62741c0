//! What is done with an input: the library's entry points, up to a picture.

use crate::child::{Answer, MARK};
use crate::kinds::{base, golden};
use colora::config::Settings;
use colora::family::ModelParts;
use colora::lora::{
    AdapterFile, Apply, Dictionary, Lora, LoraStack, Overlay, ReadOptions, StackEntry, Strength,
};
use colora::picture::png;
use colora::store::{Card, Stack};
use colora::weights::{Placement, WeightSource};
use colora::{Cancel, Error, Event, Generated, Picture, Pipeline, Request};
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::BufRead;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, Mutex};

/// What was understood: warnings, and a hash of everything.
type Understood = Result<(usize, u64), Error>;

/// Where the last panic was.
static PANIC: Mutex<String> = Mutex::new(String::new());

/// Weights and names of a small base.
type Base = (Arc<dyn WeightSource>, Dictionary);

/// Answers orders until there are none: `KIND<TAB>PATH`.
#[test]
#[ignore = "the other tests' helper"]
fn a_worker() {
    if std::env::var_os("COLORA_MUTATION_WORKER").is_none() {
        return;
    }
    std::panic::set_hook(Box::new(|info| *PANIC.lock().unwrap() = info.to_string()));
    let mut bases = HashMap::new();
    for line in std::io::stdin().lock().lines() {
        let line = line.unwrap();
        let (kind, path) = line.split_once('\t').unwrap();
        // What the good ones before it needed is not this one's.
        let _ = std::fs::write("/proc/self/clear_refs", "5");
        let tried =
            catch_unwind(AssertUnwindSafe(|| understand(kind, Path::new(path), &mut bases)));
        let mut answer = match tried {
            Ok(Ok((notes, report))) => Answer { notes, report, ..Answer::default() },
            Ok(Err(error)) => {
                let code = error.fault().exit_code().into();
                Answer { code, message: chain(&error), ..Answer::default() }
            }
            Err(_) => {
                Answer { code: 101, message: PANIC.lock().unwrap().clone(), ..Answer::default() }
            }
        };
        answer.peak = peak();
        println!("{MARK}{}", serde_json::to_string(&answer).unwrap());
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |error| error.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}; {cause}"))
}

fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

fn understand(kind: &str, path: &Path, bases: &mut HashMap<String, Base>) -> Understood {
    match kind.split_once(' ') {
        Some(("lora", base)) => lora(path, based(base, bases)),
        _ => match kind {
            "model" => model(path),
            "picture" => picture(path),
            "pixels" => Picture::open(path).map(|picture| (0, hash(&picture.bytes()))),
            "card" => Card::of(path).map(|card| (0, hash(&format!("{card:?}")))),
            "stack" => Stack::read(path).map(|stack| (0, hash(&format!("{stack:?}")))),
            "settings" => {
                let settings = Settings::load(path.parent().unwrap(), &|_| None)?;
                Ok((0, hash(&format!("{:?}", settings.config))))
            }
            other => panic!("no kind {other}"),
        },
    }
}

fn hash(what: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    what.hash(&mut hasher);
    hasher.finish()
}

fn based<'a>(name: &str, bases: &'a mut HashMap<String, Base>) -> &'a Base {
    bases.entry(name.to_owned()).or_insert_with(|| {
        let parts = ModelParts::open(&golden(base(name)), Placement::default(), None).unwrap();
        let dictionary = Dictionary::new(&*parts.source, parts.family.to_string());
        (parts.source, dictionary)
    })
}

/// As `colora lora check`, and what it does to every weight.
fn lora(path: &Path, (source, dictionary): &Base) -> Understood {
    let lora = Lora::resolve(AdapterFile::open(path)?, dictionary, ReadOptions::default())?;
    lora.describe(&**source)?;
    let lora = Arc::new(lora);
    let entry = StackEntry { lora: lora.clone(), strength: Strength::default() };
    let stack = LoraStack::new(vec![entry]);
    let overlay = Overlay::compose(source.clone(), dictionary, &stack, Apply::Merge, |_| true)?;
    let report = lora.report();
    let notes = report.warnings.len() + report.unmatched.len() + overlay.warnings().len();
    let mut hasher = DefaultHasher::new();
    for site in overlay.changed_sites() {
        let shape = overlay.shape(site).unwrap_or_default();
        site.as_str().hash(&mut hasher);
        bits(&overlay.get_f32(site, &shape)?).hash(&mut hasher);
    }
    for word in lora.inversions() {
        word.token.hash(&mut hasher);
        for component in word.components() {
            let vectors = word.vectors(component)?.map(|(values, count)| (bits(&values), count));
            vectors.hash(&mut hasher);
        }
    }
    Ok((notes, hasher.finish()))
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// As `colora model inspect`, then every weight, and a picture of one step.
fn model(path: &Path) -> Understood {
    let parts = ModelParts::open(path, Placement::default(), None)?;
    let mut hasher = DefaultHasher::new();
    let ModelParts { unet, text, vae, scheduler, defaults, .. } = &parts;
    format!("{unet:?} {text:?} {vae:?} {scheduler:?} {defaults:?}").hash(&mut hasher);
    (parts.force_zeros_for_empty_prompt, parts.requires_aesthetics_score).hash(&mut hasher);
    for site in parts.source.sites() {
        let shape = parts.source.shape(&site).unwrap_or_default();
        site.as_str().hash(&mut hasher);
        bits(&parts.source.get_f32(&site, &shape)?).hash(&mut hasher);
    }
    drop(parts);
    let request = Request {
        prompt: "a red fox, 7 apples and the sky".into(),
        width: Some(64),
        height: Some(64),
        steps: Some(1),
        seed: Some(1),
        ..Request::default()
    };
    let pipeline = Pipeline::options().device("cpu".parse()?).open(path)?;
    let plan = pipeline.plan(&request, 0)?;
    let mut sink = |image: Generated| {
        image.picture.bytes().hash(&mut hasher);
        Ok(())
    };
    pipeline.generate(&plan, &|_: &Event| {}, &Cancel::new(), &mut sink)?;
    Ok((0, hasher.finish()))
}

/// Texts and pixels.
fn picture(path: &Path) -> Understood {
    let texts = png::read_texts(path);
    let parameters = texts.as_ref().ok().and_then(|texts| texts.parameters.as_deref());
    let parsed = parameters.map(colora::picture::Parameters::parse);
    let pixels = Picture::open(path)?;
    Ok((0, hash(&format!("{:?} {parsed:?} {:?}", texts?, pixels.bytes()))))
}
