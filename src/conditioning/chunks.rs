//! Tokens of a prompt in chunks: a text encoder takes 75 at once, so a longer prompt is encoded in parts.

use super::Tokenizer;
use super::inversions::Reader;
use crate::prompt::{PromptSyntax, Segment};

/// A chunk ends behind a comma rather than within a phrase when no more than so many tokens have to move.
const BACKTRACK: usize = 20;
/// ComfyUI divides pieces of so many tokens wherever a chunk is full, and keeps shorter ones together.
const LARGE: usize = 8;

/// What a text encoder takes at once, without start, end and padding.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct Chunk {
    /// The tokens.
    pub ids: Vec<u32>,
    /// The weight of each.
    pub weights: Vec<f32>,
}

/// Tokens that follow each other with one weight.
#[derive(Debug, Clone, PartialEq)]
struct Piece {
    ids: Vec<u32>,
    weight: f32,
    /// Whether the tokens stay together: the vectors of a new word.
    whole: bool,
}

impl Chunk {
    fn add(&mut self, ids: &[u32], weight: f32) {
        self.ids.extend(ids);
        self.weights.extend(std::iter::repeat_n(weight, ids.len()));
    }

    fn split_off(&mut self, at: usize) -> Self {
        Self { ids: self.ids.split_off(at), weights: self.weights.split_off(at) }
    }
}

impl Tokenizer {
    /// The chunks of a text that was read as `segments`, with the ids of this vocabulary; at least one.
    pub fn chunks(&self, segments: &[Segment], syntax: PromptSyntax) -> Vec<Chunk> {
        let window = self.max_length();
        Reader { tokenizer: self, words: &[], window }.chunks(segments, syntax)
    }
}

impl Reader<'_> {
    /// The chunks of a text that was read as `segments`; at least one.
    pub(super) fn chunks(&self, segments: &[Segment], syntax: PromptSyntax) -> Vec<Chunk> {
        let room = self.window.saturating_sub(2).max(1);
        match syntax {
            PromptSyntax::A1111 => self.divided_at_commas(segments, room),
            PromptSyntax::Comfy => self.divided_where_full(segments, room),
            _ => {
                let mut chunk = Chunk::default();
                for piece in segments.iter().flat_map(|s| self.pieces(s, syntax)) {
                    chunk.add(&piece.ids, piece.weight);
                }
                chunk.split_off(chunk.ids.len().min(room));
                vec![chunk]
            }
        }
    }

    fn pieces(&self, segment: &Segment, syntax: PromptSyntax) -> Vec<Piece> {
        let weight = segment.weight as f32;
        let piece = |(ids, whole)| Piece { ids, weight, whole };
        self.groups(&segment.text, syntax).into_iter().map(piece).collect()
    }

    /// A1111's rule.
    fn divided_at_commas(&self, segments: &[Segment], room: usize) -> Vec<Chunk> {
        let comma = Some(self.tokenizer.encode(",")).filter(|ids| ids.len() == 1);
        let mut chunks = Chunks::default();
        for segment in segments {
            // A break within brackets is one too, although A1111 itself takes it for a word there.
            if segment.is_break || segment.is_exact_break() {
                chunks.close();
                continue;
            }
            for piece in self.pieces(segment, PromptSyntax::A1111) {
                if piece.whole && piece.ids.len() <= room {
                    if chunks.open.ids.len() + piece.ids.len() > room {
                        chunks.close();
                    }
                    chunks.open.add(&piece.ids, piece.weight);
                    continue;
                }
                for id in piece.ids {
                    let is_comma = comma.as_ref().is_some_and(|comma| comma[0] == id);
                    chunks.token(id, piece.weight, is_comma, room);
                }
            }
        }
        chunks.finish()
    }

    /// ComfyUI's rule.
    fn divided_where_full(&self, segments: &[Segment], room: usize) -> Vec<Chunk> {
        let mut chunks = Chunks::default();
        for piece in segments.iter().flat_map(|s| self.pieces(s, PromptSyntax::Comfy)) {
            let mut rest = &piece.ids[..];
            let large = rest.len() >= LARGE || rest.len() > room;
            while chunks.open.ids.len() + rest.len() > room {
                let fits = if large { room - chunks.open.ids.len() } else { 0 };
                chunks.open.add(&rest[..fits], piece.weight);
                rest = &rest[fits..];
                chunks.close();
            }
            chunks.open.add(rest, piece.weight);
        }
        chunks.finish()
    }
}

/// Chunks that are full, and the one that is being filled.
#[derive(Default)]
struct Chunks {
    full: Vec<Chunk>,
    open: Chunk,
    /// The place of the last comma in the open chunk.
    comma: Option<usize>,
}

impl Chunks {
    fn close(&mut self) {
        self.full.push(std::mem::take(&mut self.open));
        self.comma = None;
    }

    fn token(&mut self, id: u32, weight: f32, is_comma: bool, room: usize) {
        let length = self.open.ids.len();
        if is_comma {
            self.comma = Some(length);
        } else if let Some(comma) = self.comma
            && length == room
            && length - comma <= BACKTRACK
        {
            let rest = self.open.split_off(comma + 1);
            self.close();
            self.open = rest;
        }
        if self.open.ids.len() == room {
            self.close();
        }
        self.open.add(&[id], weight);
    }

    fn finish(mut self) -> Vec<Chunk> {
        if !self.open.ids.is_empty() || self.full.is_empty() {
            self.close();
        }
        self.full
    }
}
