//! Mutated files of jobs in every format: nothing panics, and no line is dropped without a word.
//!
//! `COLORA_BATCH_FILES=N` sets how many files of each format are tried, `COLORA_MUTATION_SEED=N` the seed.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use colora::app::Layers;
use colora::batch::{Format, Seeding, Source, list};
use colora::store::Store;
use std::collections::BTreeSet;
use std::path::Path;

/// Files of each format that are tried when nobody says how many.
const USUAL: usize = 2_500;

const TEXT: &str = "# a list\n\na red apple\n--prompt a green apple --steps 4 --negative_prompt fog --cfg_scale 5\n\
    a cat --steps 20\n--lora flat:0.8 --lora gold --tile --prompt it's x --batch_size 2\n--prompt \"a  b\" --label a=b --id x-1\n";
const CSV: &str = "prompt,steps,loras,lora.flat,label.set,seed\n\"a \"\"red\"\", apple\",4,\"gold:1 santa\",0.5,x,1\n\
    b,,,,,\n\"two\nlines\",8,,,,18446744073709551615\n";
const JSONL: &str = "{\"prompt\":\"a fox\",\"steps\":4,\"id\":\"fox\",\"labels\":{\"set\":1}}\n\n\
    {\"prompt\":\"b\",\"loras\":[\"flat:0.8\",{\"name\":\"gold\",\"weight\":0.5}],\"size\":[64,72]}\n\
    {\"schema\":1,\"event\":\"saved\",\"path\":\"x.png\",\"index\":0,\"seed\":3,\"request\":{\"prompt\":\"b\",\"seed\":3}}\n";
const TOML: &str = "[defaults]\nsteps = 2\nloras = [\"flat:0.8\"]\n\n[[job]]\nprompt = \"a red apple\"\nrepeat = 2\n\n\
    [[job]]\nprompt = \"a cat\"\nsteps = 3\nloras = [{ name = \"gold\", weight = 0.5 }]\n\n[matrix]\nseed = [1, 2]\nsteps = [4, 5, 6]\n";

/// A small generator of random numbers (xorshift64*), so that a case can be made again.
struct Chance(u64);

impl Chance {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % limit.max(1)
    }
}

/// Pieces that mean something in one of the formats.
const PIECES: [&str; 34] = [
    "\"",
    "'",
    "\"\"",
    "\\",
    "--",
    "--prompt",
    "--x",
    "=",
    ",",
    ";",
    "\t",
    "\n",
    "\r\n",
    "\r",
    "#",
    "{",
    "}",
    "[",
    "]",
    "[[job]]",
    "[matrix]",
    "null",
    "1e999",
    "-0",
    "nan",
    "\u{0}",
    "\u{feff}",
    "é",
    "🦊",
    ":",
    "lora.",
    "repeat = 99999999",
    "..",
    "id",
];

/// `text` with one to four changes.
fn mutated(text: &str, chance: &mut Chance) -> String {
    let mut letters: Vec<char> = text.chars().collect();
    for _ in 0..=chance.below(4) {
        let at = chance.below(letters.len());
        let end = (at + 1 + chance.below(12)).min(letters.len());
        match chance.below(6) {
            0 => drop(letters.drain(at..end)),
            1 => {
                let piece = PIECES[chance.below(PIECES.len())];
                letters.splice(at..at, piece.chars());
            }
            2 => {
                let copy: Vec<char> = letters[at..end].to_vec();
                letters.splice(at..at, copy);
            }
            3 => letters.truncate(at.max(1)),
            4 => {
                let piece = PIECES[chance.below(PIECES.len())];
                letters.splice(at..end, piece.chars());
            }
            _ => letters[at..end].reverse(),
        }
        if letters.is_empty() {
            letters.push('x');
        }
    }
    letters.into_iter().collect()
}

/// Lines of a text that ask for something.
fn lines_with<'a>(text: &'a str, asks: &'a dyn Fn(&str) -> bool) -> BTreeSet<usize> {
    let lines = text.lines().enumerate();
    lines.filter(|(_, line)| asks(line)).map(|(at, _)| at + 1).collect()
}

/// Lines that came to a job or a mistake.
fn accounted(source: &Source) -> BTreeSet<usize> {
    let drafts = source.drafts.iter().map(|draft| draft.line);
    drafts.chain(source.mistakes.iter().map(|mistake| mistake.line)).collect()
}

/// What a format promises of a file that was read.
fn nothing_is_dropped(format: Format, text: &str, source: &Source) -> Result<(), String> {
    let found = accounted(source);
    match format {
        Format::Text => {
            let asks = |line: &str| !line.trim().is_empty() && !line.trim().starts_with('#');
            let asked = lines_with(text, &asks);
            (asked == found)
                .then_some(())
                .ok_or_else(|| format!("asked {asked:?}, found {found:?}"))
        }
        Format::Jsonl => {
            let asked = lines_with(text, &|line| !line.trim().is_empty());
            (asked == found)
                .then_some(())
                .ok_or_else(|| format!("asked {asked:?}, found {found:?}"))
        }
        // A record can have several lines: every line with a letter belongs to one that begins there or before.
        Format::Csv if source.mistakes.is_empty() => {
            let separators = [',', ';', '\t', '"'];
            let asked = lines_with(text, &|line| {
                line.chars().any(|c| !c.is_whitespace() && !separators.contains(&c))
            });
            let header = asked.first().copied().unwrap_or(0);
            let first = found.first().copied().unwrap_or(usize::MAX);
            let lost: Vec<_> =
                asked.iter().filter(|line| **line > header && **line < first).collect();
            // The header itself can have several lines.
            let excused = text
                .lines()
                .take(first.saturating_sub(1))
                .any(|line| line.matches('"').count() % 2 == 1);
            (lost.is_empty() || excused).then_some(()).ok_or_else(|| format!("lost {lost:?}"))
        }
        Format::Toml if source.mistakes.is_empty() => {
            let table: toml::Table =
                text.parse().map_err(|error| format!("accepted, but {error}"))?;
            let axes = table.get("matrix").and_then(toml::Value::as_table);
            let lists =
                axes.into_iter().flatten().map(|(_, value)| value.as_array().map_or(1, Vec::len));
            let jobs = table
                .get("job")
                .or_else(|| table.get("jobs"))
                .map_or(usize::from(axes.is_some_and(|a| !a.is_empty())), |jobs| {
                    jobs.as_array().map_or(1, Vec::len)
                });
            let expected = jobs * lists.product::<usize>();
            let has_range = axes.into_iter().flatten().any(|(_, value)| value.is_str());
            (has_range || expected == source.drafts.len())
                .then_some(())
                .ok_or_else(|| format!("{expected} jobs expected, {} found", source.drafts.len()))
        }
        _ => Ok(()),
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name)
        .ok()
        .map(|text| text.parse().unwrap_or_else(|_| panic!("{name}: expected a number")))
}

#[test]
fn no_line_is_dropped_without_a_word() {
    let count = number("COLORA_BATCH_FILES").map_or(USUAL, |count| count as usize);
    let seed = number("COLORA_MUTATION_SEED").unwrap_or(1);
    let folder = tempfile::tempdir().unwrap();
    let home = folder.path().to_path_buf();
    let store = Store::new(&[], folder.path(), &move |_| Some(home.clone().into_os_string()));
    let formats =
        [(Format::Text, TEXT), (Format::Csv, CSV), (Format::Jsonl, JSONL), (Format::Toml, TOML)];
    for (format, good) in formats {
        let (mut read, mut refused) = (0, 0);
        for case in 0..count {
            let mut chance = Chance(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ (case as u64 + 1));
            let text = if case == 0 { good.to_owned() } else { mutated(good, &mut chance) };
            let source = Source::parse(Path::new("x"), &text, Some(format), true).unwrap();
            if let Err(why) = nothing_is_dropped(format, &text, &source) {
                panic!(
                    "{format:?}, case {case} of seed {seed}: {why}\n{text:?}\n{:?}",
                    source.mistakes
                );
            }
            // Repeats and matrices of strangers are bounded by a limit, not by the memory.
            let (jobs, mistakes) =
                list(&source.drafts, &Layers::default(), &store, Seeding::default());
            if source.drafts.iter().all(|draft| draft.repeat.is_none()) {
                assert_eq!(
                    jobs.len() + mistakes.len(),
                    source.drafts.len(),
                    "{format:?} {case}: {text:?}"
                );
            }
            if source.mistakes.is_empty() && mistakes.is_empty() { read += 1 } else { refused += 1 }
        }
        println!("{format:?}: {read} files understood, {refused} refused");
        assert!(read > 0 && refused > 0);
    }
}
