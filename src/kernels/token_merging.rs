//! Fewer tokens: those most like another are merged with it, and get back what it became.

use crate::error::Result;
use crate::kernels::activation::feature_map::FeatureMap;
use crate::kernels::activation::operand::{Operand, Prologue};
use crate::kernels::product::multiply::{Epilogue, Windows, multiply};
use crate::kernels::simd::precision::Precision;
use crate::kernels::simd::vector::maximum;
use crate::kernels::weight::format::{Arrangement, WeightShape};
use crate::kernels::weight::packed::Packed;
use rayon::prelude::*;

/// Which tokens are merged with which: bipartite soft matching, Bolya and Hoffman (2023).
#[derive(Debug)]
pub(crate) struct TokenMerging {
    /// For each token, per sample: the index of the kept token that it was merged into.
    places: Vec<usize>,
    /// Tokens of every sample in the order of their places, those of one place beside each other.
    members: Vec<usize>,
    /// For every sample and place the end of its members.
    ends: Vec<usize>,
    /// Kept tokens of a sample.
    kept: usize,
}

/// How much a token is like the target that it is most like.
#[derive(Debug, Clone, Copy)]
struct Likeness {
    token: usize,
    target: usize,
    cosine: f32,
}

impl TokenMerging {
    /// Matches tokens `[B, H·W, C]` of images of `sides`.
    ///
    /// Targets are the top left tokens of every 2×2; of the others the `ratio` of all tokens that are most
    /// like a target (by the cosine between them) are merged with it. `None` when that is none.
    pub(crate) fn new(
        tokens: &FeatureMap,
        sides: (usize, usize),
        ratio: f64,
        precision: Precision,
    ) -> Result<Option<Self>> {
        let (height, width) = sides;
        let count = tokens.pixels();
        assert_eq!(height * width, count, "tokens of an image");
        let (targets, others): (Vec<usize>, Vec<usize>) =
            (0..count).partition(|token| token / width % 2 == 0 && token % width % 2 == 0);
        let merged = ((count as f64 * ratio) as usize).min(others.len());
        if merged == 0 {
            return Ok(None);
        }
        let kept = count - merged;
        let mut all = Self { places: Vec::new(), members: Vec::new(), ends: Vec::new(), kept };
        for sample in 0..tokens.batch {
            let likest = likest(tokens, sample, (&targets, &others), precision)?;
            all.push(count, &likest[..merged]);
        }
        Ok(Some(all))
    }

    /// A sample more, whose tokens `merged` are merged with their targets.
    fn push(&mut self, count: usize, merged: &[Likeness]) {
        let mut stands: Vec<usize> = (0..count).collect();
        for pair in merged {
            stands[pair.token] = pair.target;
        }
        let mut place = vec![0; count];
        let mut next = 0;
        for token in (0..count).filter(|token| stands[*token] == *token) {
            place[token] = next;
            next += 1;
        }
        debug_assert_eq!(next, self.kept);
        let places: Vec<usize> = stands.iter().map(|token| place[*token]).collect();
        // Counting sort by place; a token that is kept comes among its members in its own order.
        let mut ends = vec![0; self.kept];
        for place in &places {
            ends[*place] += 1;
        }
        let mut starts = Vec::with_capacity(self.kept);
        let mut sum = 0;
        for end in &mut ends {
            starts.push(sum);
            sum += *end;
            *end = sum;
        }
        let mut members = vec![0; count];
        for (token, place) in places.iter().enumerate() {
            members[starts[*place]] = token;
            starts[*place] += 1;
        }
        self.places.extend(places);
        self.members.extend(members);
        self.ends.extend(ends);
    }

    /// The mean of every kept token and those merged with it: `[B, kept, C]`.
    pub(crate) fn merge(&self, tokens: &FeatureMap) -> Result<FeatureMap> {
        let (count, channels) = (tokens.pixels(), tokens.channels);
        FeatureMap::filled((tokens.batch, self.kept, 1, channels), |out| {
            out.par_chunks_mut(channels).enumerate().for_each(|(index, out)| {
                let sample = index / self.kept;
                let start = if index % self.kept == 0 { 0 } else { self.ends[index - 1] };
                let members = &self.members[sample * count..][start..self.ends[index]];
                let token = |token: usize| {
                    &tokens.values()[(sample * count + token) * channels..][..channels]
                };
                out.copy_from_slice(token(members[0]));
                if members.len() == 1 {
                    return;
                }
                for member in &members[1..] {
                    for (out, x) in out.iter_mut().zip(token(*member)) {
                        *out += x;
                    }
                }
                let share = 1.0 / members.len() as f32;
                for out in out.iter_mut() {
                    *out *= share;
                }
            });
        })
    }

    /// Every token's own copy of what stands for it, added to `add` `[B, H·W, C]`.
    pub(crate) fn unmerge(&self, merged: &FeatureMap, add: &FeatureMap) -> Result<FeatureMap> {
        let (count, channels) = (add.pixels(), add.channels);
        assert_eq!((merged.channels, merged.pixels()), (channels, self.kept), "merged tokens");
        FeatureMap::filled((add.batch, add.height, add.width, channels), |out| {
            let rows = out.par_chunks_mut(channels).zip(add.values().par_chunks(channels));
            rows.enumerate().for_each(|(token, (out, add))| {
                let row = token / count * self.kept + self.places[token];
                let x = &merged.values()[row * channels..][..channels];
                for ((out, x), add) in out.iter_mut().zip(x).zip(add) {
                    *out = x + add;
                }
            });
        })
    }
}

/// Tokens that are compared with all targets at once: large pictures have too many for all of them.
const AT_ONCE: usize = 2048;

/// For each of `others` the target that it is most like; the likest first.
fn likest(
    tokens: &FeatureMap,
    sample: usize,
    (targets, others): (&[usize], &[usize]),
    precision: Precision,
) -> Result<Vec<Likeness>> {
    let (count, channels) = (tokens.pixels(), tokens.channels);
    let token = |token: usize| &tokens.values()[(sample * count + token) * channels..][..channels];
    let unit = |chosen: &[usize]| {
        FeatureMap::filled((1, chosen.len(), 1, channels), |out| {
            out.par_chunks_mut(channels).zip(chosen).for_each(|(out, chosen)| {
                let x = token(*chosen);
                let length = x.iter().map(|x| x * x).sum::<f32>().sqrt().max(f32::MIN_POSITIVE);
                for (out, x) in out.iter_mut().zip(x) {
                    *out = x / length;
                }
            });
        })
    };
    let shape = WeightShape { outputs: targets.len(), inputs: channels, kernel: 1 };
    let weight = Packed::of(shape, Arrangement::Plain, precision, unit(targets)?.values())?;
    let mut likest: Vec<Likeness> = Vec::with_capacity(others.len());
    for others in others.chunks(AT_ONCE) {
        let x = Operand::new(&[unit(others)?], Prologue::default(), precision)?;
        let cosines = multiply(&x, &weight, Windows::all(&x), Epilogue::default())?;
        let rows = cosines.values().par_chunks(targets.len()).zip(others);
        likest.par_extend(rows.map(|(cosines, token)| {
            let cosine = maximum(cosines);
            let best = cosines.iter().position(|c| *c >= cosine).unwrap_or(0);
            Likeness { token: *token, target: targets[best], cosine }
        }));
    }
    // Equal ones stay in the order of the image.
    likest.sort_by(|a, b| b.cosine.total_cmp(&a.cosine));
    Ok(likest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(channels: usize, batch: usize, values: &[f32]) -> FeatureMap {
        let pixels = values.len() / channels / batch;
        FeatureMap::filled((batch, pixels, 1, channels), |out| out.copy_from_slice(values)).unwrap()
    }

    #[test]
    fn the_likest_are_merged_and_come_back() {
        // 3×3 with targets at the corners; the middle of the first row is the first corner twice, the
        // middle of the last column nearly the last corner.
        let one = [
            [1.0, 0.0],
            [2.0, 0.0],
            [0.0, 1.0], //
            [1.0, 1.0],
            [1.0, -1.0],
            [-1.0, 0.1],
            [1.0, 2.0],
            [0.3, 0.4],
            [-1.0, 0.0],
        ];
        let other = one.map(|[a, b]| [-b, a]);
        let values: Vec<f32> = [one, other].concat().concat();
        let tokens = map(2, 2, &values);
        for precision in [Precision::F32, Precision::Bf16] {
            assert!(TokenMerging::new(&tokens, (3, 3), 0.1, precision).unwrap().is_none());
            let merging = TokenMerging::new(&tokens, (3, 3), 0.25, precision).unwrap().unwrap();
            let merged = merging.merge(&tokens).unwrap();
            assert_eq!(merged.pixels(), 7);
            let first = [1.5, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0, -1.0, 1.0, 2.0, 0.3, 0.4, -1.0, 0.05];
            assert_eq!(merged.values()[..14], first);
            let back = merging.unmerge(&merged, &tokens).unwrap();
            for (i, (back, x)) in back.values().iter().zip(&values).enumerate() {
                let expected = match i {
                    0 => 2.5,
                    2 => 3.5,
                    _ if i % 18 < 4 || i % 18 == 10 || i % 18 == 11 || i % 18 >= 16 => continue,
                    _ => 2.0 * x,
                };
                assert_eq!(*back, expected, "{i}");
            }
        }
    }

    #[test]
    fn all_but_the_targets_may_go() {
        let values: Vec<f32> = (0..5 * 7 * 3).map(|i| (i as f32 * 1.7).sin()).collect();
        let tokens = map(3, 1, &values);
        let merging = TokenMerging::new(&tokens, (5, 7), 1.0, Precision::F32).unwrap().unwrap();
        let merged = merging.merge(&tokens).unwrap();
        assert_eq!(merged.pixels(), 3 * 4);
        let whole = |x: &FeatureMap, weights: &dyn Fn(usize) -> f32| -> f32 {
            x.values().iter().enumerate().map(|(i, v)| v * weights(i / 3)).sum()
        };
        let mut members = [0; 12];
        merging.places.iter().for_each(|place| members[*place] += 1);
        let (a, b) = (whole(&merged, &|i| members[i] as f32), whole(&tokens, &|_| 1.0));
        assert!((a - b).abs() < 1e-3, "{a} {b}");
    }
}
