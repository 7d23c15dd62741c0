//! From the texts of a request to their features.

use super::chunks::Chunk;
use super::weighting::{Weighted, apply, is_one};
use super::{Conditioning, Micro, TextTowers, Tower};
use crate::cancel::Cancel;
use crate::error::{Error, Result};
use crate::models::AddedCondition;
use crate::prompt::{Emphasis, PromptSyntax, Segment, SyntaxError, pointed};
use crate::size::ImageSize;
use candle_core::Tensor;

/// Chunks of a prompt: 9,600 tokens are more than any network makes something of.
const MOST_CHUNKS: usize = 128;
/// Windows that are encoded at once.
const AT_ONCE: usize = 16;
/// Contexts are repeated to a common length up to so many times the longer one.
const MOST_REPEATED: usize = 4;

/// What is encoded for one request.
#[derive(Debug, Clone, Copy)]
pub struct Texts<'a> {
    /// The prompt.
    pub prompt: &'a str,
    /// The negative prompt, when guidance is on.
    pub negative: Option<&'a str>,
    /// How both are written. They hold no edits any more.
    pub syntax: PromptSyntax,
    /// 1 = the last layer that the family uses; acts on the prompt alone.
    pub clip_skip: usize,
    /// Picture size, for SDXL.
    pub size: ImageSize,
}

/// The texts of a request whose prompts change from step to step.
#[derive(Debug, Clone, Copy)]
pub struct Schedules<'a> {
    /// For each part of the prompt its texts, one after the other; one may come again.
    pub prompts: &'a [Vec<Text<'a>>],
    /// How much each part counts.
    pub weights: &'a [f64],
    /// The texts of the negative prompt, when guidance is on.
    pub negatives: Option<&'a [Text<'a>]>,
    /// Which of them belong together: what is returned.
    pub wordings: &'a [Wording],
    /// How they are written. They hold no edits any more.
    pub syntax: PromptSyntax,
    /// What A1111's weights do.
    pub emphasis: Emphasis,
    /// Whether an empty negative prompt is encoded where the model has zeros for one that is left out.
    pub encode_empty: bool,
    /// 1 = the last layer that the family uses; acts on the prompt alone.
    pub clip_skip: usize,
    /// Picture size, for SDXL.
    pub size: ImageSize,
    /// What SDXL is told of sizes beside it.
    pub micro: Micro,
}

/// A text, which towers may read differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Text<'a> {
    /// What the first tower reads, and the others where there is no `second`.
    pub first: &'a str,
    /// What the second tower reads instead.
    pub second: Option<&'a str>,
}

impl<'a> From<&'a str> for Text<'a> {
    fn from(first: &'a str) -> Self {
        Self { first, second: None }
    }
}

/// Texts that are drawn together: for each part of the prompt a place among its texts, and one among those of the negative
/// prompt.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Wording {
    /// For each part of the prompt.
    pub prompts: Vec<usize>,
    /// Of the negative prompt.
    pub negative: usize,
}

/// Features of one text.
#[derive(Debug, Clone)]
struct Encoded {
    /// `[1, T, D]`.
    context: Tensor,
    /// `[1, P]`.
    pooled: Tensor,
}

/// How texts are read.
#[derive(Debug, Clone, Copy)]
struct Reading {
    syntax: PromptSyntax,
    emphasis: Emphasis,
}

impl Reading {
    /// The pieces of a text with their weights.
    fn segments(self, text: &str) -> std::result::Result<Vec<Segment>, SyntaxError> {
        if self.syntax != PromptSyntax::A1111 {
            return self.syntax.segments(text);
        }
        match self.emphasis {
            Emphasis::None => Ok(vec![Segment::new(text, 1.0)]),
            Emphasis::Ignore => {
                let mut segments = self.syntax.segments(text)?;
                segments.iter_mut().filter(|s| !s.is_break).for_each(|s| s.weight = 1.0);
                Ok(segments)
            }
            _ => self.syntax.segments(text),
        }
    }
}

/// One text of a schedule.
struct Encodable {
    /// Its chunks in each tower.
    chunks: Vec<Vec<Chunk>>,
    /// How often it comes.
    count: usize,
}

/// The different texts of a schedule, and for each of its entries which one it is.
struct Group {
    wordings: Vec<Encodable>,
    entries: Vec<usize>,
    /// Chunks of the longest.
    chunks: usize,
}

impl Encoded {
    /// These features again and again, `length` tokens long. Attention takes a mean over the context, which repeating
    /// leaves alone.
    fn repeated_to(self, length: usize) -> Result<Self> {
        let times = length / self.context.dim(1)?.max(1);
        Ok(Self { context: self.context.repeat((1, times, 1))?, ..self })
    }

    /// These features, and behind them those of the `empty` text up to `length` tokens.
    fn filled_to(self, length: usize, empty: &Self) -> Result<Self> {
        let missing = (length - self.context.dim(1)?) / empty.context.dim(1)?.max(1);
        if missing == 0 {
            return Ok(self);
        }
        let filled = empty.context.repeat((1, missing, 1))?;
        Ok(Self { context: Tensor::cat(&[&self.context, &filled], 1)?, ..self })
    }

    fn zeros_like(&self) -> Result<Self> {
        Ok(Self { context: self.context.zeros_like()?, pooled: self.pooled.zeros_like()? })
    }
}

impl TextTowers {
    /// Encodes prompt and negative prompt into one batch.
    ///
    /// # Errors
    /// [`Error::BadRequest`] when `clip_skip` exceeds the tower's depth, for syntax without a meaning, and for prompts of
    /// more than 128 chunks.
    pub fn encode(&self, texts: &Texts<'_>) -> Result<Conditioning> {
        let Texts { prompt, negative, syntax, clip_skip, size } = *texts;
        let negative = negative.map(|text| [Text::from(text)]);
        let schedules = Schedules {
            prompts: &[vec![prompt.into()]],
            weights: &[1.0],
            negatives: negative.as_ref().map(|text| &text[..]),
            wordings: &[Wording { prompts: vec![0], negative: 0 }],
            syntax,
            emphasis: Emphasis::Original,
            encode_empty: false,
            clip_skip,
            size,
            micro: Micro::default(),
        };
        let found = self.encode_until(&schedules, &Cancel::new())?.pop();
        found.ok_or_else(|| Error::Internal("a text without features".into()))
    }

    /// Encodes the texts of schedules, each of `wordings` into a batch of negative prompt and prompts. Until `cancel` is set:
    /// it is looked at between layers.
    ///
    /// # Errors
    /// [`Error::Cancelled`], and as [`encode`](Self::encode).
    pub fn encode_until(
        &self,
        texts: &Schedules<'_>,
        cancel: &Cancel,
    ) -> Result<Vec<Conditioning>> {
        self.check_windows()?;
        let reading = Reading { syntax: texts.syntax, emphasis: texts.emphasis };
        let part = |texts: &Vec<Text<'_>>| self.group("prompt", texts, reading);
        let parts: Vec<Group> = texts.prompts.iter().map(part).collect::<Result<_>>()?;
        let encode =
            |groups: &[&Group], clip_skip| self.encode_groups(groups, reading, clip_skip, cancel);
        let mut groups: Vec<&Group> = parts.iter().collect();
        // diffusers reads negative prompts at the last layer whatever the prompt's skip is.
        let (positives, negatives) = match texts.negatives {
            None => (encode(&groups, texts.clip_skip)?, None),
            Some([Text { first: "", second: None }])
                if self.rules.zero_empty_negative && !texts.encode_empty =>
            {
                (encode(&groups, texts.clip_skip)?, None)
            }
            Some(negatives) => {
                let negative = self.group("negative_prompt", negatives, reading)?;
                let (negatives, positives) = if texts.clip_skip <= 1 {
                    groups.insert(0, &negative);
                    let mut all = encode(&groups, 1)?;
                    (all.remove(0), all)
                } else {
                    let positives = encode(&groups, texts.clip_skip)?;
                    (encode(&[&negative], 1)?.remove(0), positives)
                };
                (positives, Some((negative, negatives)))
            }
        };
        let together = |wording: &Wording| {
            let of_part = |((group, found), place): ((&Group, &Vec<Encoded>), &usize)| {
                found[group.entries[*place]].clone()
            };
            let places = parts.iter().zip(&positives).zip(&wording.prompts);
            let positives: Vec<Encoded> = places.map(of_part).collect();
            let negative = match (&negatives, texts.negatives) {
                (Some((group, found)), _) => Some(found[group.entries[wording.negative]].clone()),
                (None, Some(_)) => positives.first().map(Encoded::zeros_like).transpose()?,
                (None, None) => None,
            };
            self.joined(positives, negative, texts, reading, cancel)
        };
        texts.wordings.iter().map(together).collect()
    }

    /// Negative prompt and all parts of the prompt as one batch, for which their contexts become equally long.
    fn joined(
        &self,
        positives: Vec<Encoded>,
        negative: Option<Encoded>,
        texts: &Schedules<'_>,
        reading: Reading,
        cancel: &Cancel,
    ) -> Result<Conditioning> {
        let rows = (negative.is_some(), positives.len());
        let all: Vec<Encoded> = negative.into_iter().chain(positives).collect();
        let all = self.equally_long(all, reading, cancel)?;
        let contexts: Vec<&Tensor> = all.iter().map(|part| &part.context).collect();
        let context = Tensor::cat(&contexts, 0)?;
        let added = if self.rules.added {
            let pooled: Vec<&Tensor> = all.iter().map(|part| &part.pooled).collect();
            let micro = self.told(&texts.micro, texts.size, rows, context.device())?;
            Some(AddedCondition { pooled: Tensor::cat(&pooled, 0)?, micro })
        } else {
            None
        };
        Ok(Conditioning { context, weights: texts.weights.to_vec(), added })
    }

    /// All with contexts of one length. A1111 evaluates unequal ones one after the other; repeated contexts give the
    /// same, in one evaluation. What would become too long is filled with chunks of the empty text.
    fn equally_long(
        &self,
        all: Vec<Encoded>,
        reading: Reading,
        cancel: &Cancel,
    ) -> Result<Vec<Encoded>> {
        let lengths = all.iter().map(|one| Ok(one.context.dim(1)?)).collect::<Result<Vec<_>>>()?;
        let longest = lengths.iter().copied().max().unwrap_or_default();
        if lengths.iter().all(|length| *length == longest) {
            return Ok(all);
        }
        let multiple = |a: usize, b: usize| (a / greatest_divisor(a, b)).saturating_mul(b);
        let common = lengths.iter().copied().fold(1, multiple);
        if common <= longest * MOST_REPEATED {
            return all.into_iter().map(|one| one.repeated_to(common)).collect();
        }
        let group = self.group("prompt", &["".into()], reading)?;
        let mut empty = self.encode_groups(&[&group], reading, 1, cancel)?;
        let empty = empty.pop().and_then(|mut group| group.pop());
        let empty = empty.ok_or_else(|| Error::Internal("an empty text".into()))?;
        all.into_iter().map(|one| one.filled_to(longest, &empty)).collect()
    }

    /// The different texts of a schedule in chunks.
    fn group(&self, field: &'static str, texts: &[Text<'_>], reading: Reading) -> Result<Group> {
        let mut different: Vec<Text<'_>> = Vec::new();
        let mut entries = Vec::with_capacity(texts.len());
        for text in texts {
            let known = different.iter().position(|known| known == text);
            entries.push(known.unwrap_or(different.len()));
            if known.is_none() {
                different.push(*text);
            }
        }
        let mut wordings = Vec::with_capacity(different.len());
        for (index, text) in different.iter().enumerate() {
            let count = entries.iter().filter(|entry| **entry == index).count();
            wordings.push(Encodable { chunks: self.chunks(field, *text, reading)?, count });
        }
        let lengths = wordings.iter().flat_map(|wording| &wording.chunks).map(Vec::len);
        let chunks = lengths.max().unwrap_or(1);
        if chunks > MOST_CHUNKS {
            let why =
                format!("it has {chunks} chunks of 75 tokens; at most {MOST_CHUNKS} are drawn");
            return Err(Error::bad_request(field, "a long text", why));
        }
        Ok(Group { wordings, entries, chunks })
    }

    /// The chunks of a text in each tower.
    fn chunks(
        &self,
        field: &'static str,
        text: Text<'_>,
        reading: Reading,
    ) -> Result<Vec<Vec<Chunk>>> {
        let read = |text: &str| {
            let segments = reading.segments(text);
            segments.map_err(|error| pointed(field, text, &error.span, error.why))
        };
        let first = read(text.first)?;
        let second = text.second.map(read).transpose()?;
        let of_tower = |(place, tower): (usize, &Tower)| {
            let segments = if place == 0 { &first } else { second.as_ref().unwrap_or(&first) };
            tower.reader().chunks(segments, reading.syntax)
        };
        Ok(self.towers.iter().enumerate().map(of_tower).collect())
    }

    /// For each of `groups` the features of its different texts, in their order: side by side from every tower, pooled
    /// from the first chunk in the last tower. Weights act within each group.
    fn encode_groups(
        &self,
        groups: &[&Group],
        reading: Reading,
        clip_skip: usize,
        cancel: &Cancel,
    ) -> Result<Vec<Vec<Encoded>>> {
        let skip = self.rules.base_skip + clip_skip.saturating_sub(1);
        let mut contexts: Vec<Vec<Tensor>> = Vec::new();
        let mut pooled = Vec::new();
        for (index, tower) in self.towers.iter().enumerate() {
            let run = Run { tower, index, skip, normalise: self.rules.normalise, reading, cancel };
            let (found, of_first) = run.encode(groups)?;
            contexts.resize(found.len(), Vec::new());
            contexts.iter_mut().zip(found).for_each(|(all, one)| all.push(one));
            pooled = of_first;
        }
        if pooled.is_empty() {
            return Err(Error::Internal("a model without text tower".into()));
        }
        let encoded = |(contexts, pooled): (Vec<Tensor>, Tensor)| {
            Ok(Encoded { context: Tensor::cat(&contexts, 2)?, pooled })
        };
        let mut all = contexts.into_iter().zip(pooled).map(encoded);
        let count = |group: &&Group| group.wordings.len();
        groups.iter().map(count).map(|count| all.by_ref().take(count).collect()).collect()
    }
}

/// One tower and how it is read.
struct Run<'a> {
    tower: &'a Tower,
    /// Its place among the towers.
    index: usize,
    skip: usize,
    normalise: bool,
    reading: Reading,
    cancel: &'a Cancel,
}

impl Run<'_> {
    /// The features of every text of `groups`, `[1, T, D]`, and the pooled ones of their first chunks.
    fn encode(&self, groups: &[&Group]) -> Result<(Vec<Tensor>, Vec<Tensor>)> {
        let mut windows = Vec::new();
        for group in groups {
            for wording in &group.wordings {
                windows.extend(
                    (0..group.chunks).map(|chunk| self.window(wording.chunk(self.index, chunk))),
                );
            }
        }
        let (hidden, pooled) = self.forward(&windows)?;
        let (mut contexts, mut all_pooled, mut from) = (Vec::new(), Vec::new(), 0);
        for group in groups {
            let count = group.chunks;
            let mut hidden = hidden.narrow(0, from, count * group.wordings.len())?;
            if let Some(weighted) = self.weighted(group, &hidden)? {
                hidden = weighted;
            }
            for wording in 0..group.wordings.len() {
                let own = hidden.narrow(0, wording * count, count)?;
                let (chunks, length, width) = own.dims3()?;
                contexts.push(own.reshape((1, chunks * length, width))?);
                all_pooled.push(pooled.narrow(0, from + wording * count, 1)?);
            }
            from += count * group.wordings.len();
        }
        Ok((contexts, all_pooled))
    }

    /// The ids of a chunk with start, end and padding.
    fn window(&self, chunk: Option<&Chunk>) -> Vec<u32> {
        let ids = chunk.map_or(&[][..], |chunk| &chunk.ids);
        self.tower.tokenizer.pad_to(ids, self.tower.window())
    }

    /// `[N, T, D]` and `[N, P]` of the windows.
    fn forward(&self, windows: &[Vec<u32>]) -> Result<(Tensor, Tensor)> {
        self.tower.check(windows)?;
        let (mut hidden, mut pooled) = (Vec::new(), Vec::new());
        for windows in windows.chunks(AT_ONCE) {
            let output = self.tower.network.forward_until(
                windows,
                self.skip,
                self.normalise,
                self.cancel,
            )?;
            hidden.push(output.hidden);
            pooled.push(output.pooled);
        }
        Ok((Tensor::cat(&hidden, 0)?, Tensor::cat(&pooled, 0)?))
    }

    /// `hidden` of all chunks of a group with their weights; nothing where all of them are 1.
    fn weighted(&self, group: &Group, hidden: &Tensor) -> Result<Option<Tensor>> {
        let chunks =
            |chunk| group.wordings.iter().map(move |wording| wording.chunk(self.index, chunk));
        let acts = |chunk: Option<&Chunk>| {
            chunk.is_some_and(|chunk| !chunk.weights.iter().all(|weight| is_one(*weight)))
        };
        if !(0..group.chunks).flat_map(chunks).any(acts) {
            return Ok(None);
        }
        let empty = match self.reading.syntax {
            PromptSyntax::Comfy => {
                let (hidden, _) = self.forward(&[self.window(None)])?;
                Some(Weighted::new(&hidden.get(0)?, &Chunk::default(), 1)?)
            }
            _ => None,
        };
        let mut rows: Vec<Option<Tensor>> = vec![None; group.chunks * group.wordings.len()];
        for chunk in 0..group.chunks {
            let place = |wording: usize| wording * group.chunks + chunk;
            let mut texts = Vec::with_capacity(group.wordings.len());
            for (wording, own) in group.wordings.iter().enumerate() {
                let hidden = hidden.get(place(wording))?;
                let nothing = Chunk::default();
                let own_chunk = own.chunk(self.index, chunk).unwrap_or(&nothing);
                texts.push(Weighted::new(&hidden, own_chunk, own.count)?);
            }
            let Reading { syntax, emphasis } = self.reading;
            let empty = empty.as_ref().map(Weighted::features);
            apply(&mut texts, syntax, emphasis, empty);
            for (wording, text) in texts.into_iter().enumerate() {
                rows[place(wording)] = Some(text.into_tensor(&hidden.get(place(wording))?)?);
            }
        }
        let rows: Vec<Tensor> = rows.into_iter().flatten().collect();
        Ok(Some(Tensor::stack(&rows, 0)?))
    }
}

impl Encodable {
    /// Chunk number `chunk` in a tower; shorter texts have nothing there.
    fn chunk(&self, tower: usize, chunk: usize) -> Option<&Chunk> {
        self.chunks.get(tower)?.get(chunk)
    }
}

fn greatest_divisor(a: usize, b: usize) -> usize {
    if b == 0 { a.max(1) } else { greatest_divisor(b, a % b) }
}
