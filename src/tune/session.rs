//! From questions to the best stack.

use super::artist::Artist;
use super::log::{Chosen, Line, Log};
use super::scorer::Scorer;
use super::search::{Best, Duel, Duels, Point, Scores, Verdict};
use super::space::Space;
use super::stroke::{Stack, Stroke};
use crate::error::Result;
use crate::pipeline::Cancel;
use std::path::PathBuf;

/// When a search ends.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limits {
    /// Most answers.
    pub most: usize,
    /// The probability at which it is sure of the best point.
    pub sure: f64,
    /// What it is sure of: that no other point would be preferred to the best with a probability above this, or score
    /// higher by more than this part of a standard deviation.
    pub margin: f64,
}

/// A stack to choose.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// Its point in the space.
    pub point: Point,
    /// Its LoRAs.
    pub stack: Stack,
    /// The values of its ranges, for people.
    pub words: String,
    /// Its pictures, one for each job.
    pub pictures: Vec<PathBuf>,
}

/// Two stacks to choose from.
#[derive(Debug, Clone)]
pub struct Question {
    /// Its number, from 1.
    pub number: usize,
    /// How many answers there will be at most.
    pub most: usize,
    /// One stack.
    pub first: Candidate,
    /// The other.
    pub second: Candidate,
    /// The best stack so far, in words, and how sure that is.
    pub best: Option<(String, f64)>,
}

/// A reply to a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reply {
    /// An answer.
    Chosen(Chosen),
    /// The search is to end now.
    Quit,
}

/// Somebody who chooses.
pub trait Judge {
    /// Shows a question. Called once for each, before [`reply`](Self::reply).
    ///
    /// # Errors
    /// What showing it gives.
    fn show(&mut self, question: &Question) -> Result<()>;

    /// Waits for the reply to the question that was shown last.
    ///
    /// # Errors
    /// [`Error::Cancelled`](crate::Error::Cancelled) when `cancel` is set meanwhile.
    fn reply(&mut self, cancel: &Cancel) -> Result<Reply>;

    /// Shows how far the pictures of the next question are.
    fn drawing(&mut self, stroke: Stroke);
}

/// What a search came to.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The best stack, with its pictures.
    pub best: Candidate,
    /// How sure that is.
    pub sure: f64,
    /// How many answers it rests on.
    pub answers: usize,
    /// Whether it ended because it was sure.
    pub ended_sure: bool,
}

/// A search, and what it needs.
#[derive(Debug)]
pub struct Session<'a> {
    /// The LoRAs and their ranges.
    pub space: &'a Space,
    /// Who draws.
    pub artist: &'a Artist,
    /// Where answers are kept.
    pub log: &'a mut Log,
    /// When it ends.
    pub limits: Limits,
    /// What ends it early.
    pub cancel: &'a Cancel,
}

impl Session<'_> {
    /// Asks `judge` until the best stack is found; `before`: the answers that the log holds.
    ///
    /// # Errors
    /// What drawing, showing and writing give; [`Error::Cancelled`](crate::Error::Cancelled).
    pub fn choose(
        &mut self,
        mut search: Duels,
        before: &[Line],
        judge: &mut dyn Judge,
    ) -> Result<Option<Outcome>> {
        for line in before {
            if let Line::Choice { first, second, chosen } = line {
                let duel = Duel { first: first.clone(), second: second.clone() };
                take(&mut search, duel, *chosen);
            }
        }
        loop {
            self.cancel.check()?;
            let answers = search.judged().len();
            let best = match answers {
                0 => None,
                _ => Some(search.best(self.limits.margin)?),
            };
            if self.is_over(best.as_ref(), answers) {
                return self.outcome(best, answers, &mut |stroke| judge.drawing(stroke));
            }
            let duel = search.next()?;
            let question = self.question(&duel, answers, best.as_ref(), judge)?;
            judge.show(&question)?;
            self.draw_ahead(&search, &duel)?;
            match judge.reply(self.cancel)? {
                Reply::Quit => {
                    return self.outcome(best, answers, &mut |stroke| judge.drawing(stroke));
                }
                Reply::Chosen(chosen) => {
                    let (first, second) = (duel.first.clone(), duel.second.clone());
                    self.log.push(&Line::Choice { first, second, chosen })?;
                    take(&mut search, duel, chosen);
                }
            }
        }
    }

    /// Lets `scorer` score stacks until the best one is found; `told` takes each of them, its score and how far the
    /// search is.
    ///
    /// # Errors
    /// What drawing, the program and writing give; [`Error::Cancelled`](crate::Error::Cancelled).
    pub fn score(
        &mut self,
        mut search: Scores,
        before: &[Line],
        scorer: &Scorer,
        told: &mut dyn FnMut(Told<'_>),
    ) -> Result<Option<Outcome>> {
        for line in before {
            if let Line::Score { point, score } = line {
                search.score(point.clone(), *score);
            }
        }
        loop {
            self.cancel.check()?;
            let answers = search.scored().len();
            let best = match answers {
                0 => None,
                _ => Some(search.best(self.limits.margin)?),
            };
            if self.is_over(best.as_ref(), answers) {
                return self.outcome(best, answers, &mut |stroke| told(Told::Stroke(stroke)));
            }
            let point = search.next()?;
            let watch = &mut |stroke| told(Told::Stroke(stroke));
            let candidate = self.candidates(vec![point.clone()], watch)?.swap_remove(0);
            let scores = candidate.pictures.iter().map(|path| scorer.score(path, self.cancel));
            let scores = scores.collect::<Result<Vec<_>>>()?;
            let score = scores.iter().sum::<f64>() / scores.len().max(1) as f64;
            self.log.push(&Line::Score { point: point.clone(), score })?;
            told(Told::Score { number: answers + 1, candidate: &candidate, score });
            search.score(point, score);
        }
    }

    fn is_over(&self, best: Option<&Best>, answers: usize) -> bool {
        let least = self.space.axes().len() + 3;
        let sure = best.is_some_and(|best| best.sure >= self.limits.sure);
        answers >= self.limits.most || (sure && answers >= least)
    }

    /// The best stack, drawn; `None` without any answer.
    fn outcome(
        &self,
        best: Option<Best>,
        answers: usize,
        watch: &mut dyn FnMut(Stroke),
    ) -> Result<Option<Outcome>> {
        let Some(Best { point, sure }) = best else { return Ok(None) };
        let best = self.candidates(vec![point], watch)?.swap_remove(0);
        let ended_sure = sure >= self.limits.sure;
        Ok(Some(Outcome { best, sure, answers, ended_sure }))
    }

    fn question(
        &self,
        duel: &Duel,
        answers: usize,
        best: Option<&Best>,
        judge: &mut dyn Judge,
    ) -> Result<Question> {
        let points = vec![duel.first.clone(), duel.second.clone()];
        let mut both = self.candidates(points, &mut |stroke| judge.drawing(stroke))?;
        let (second, first) = (both.swap_remove(1), both.swap_remove(0));
        let best = best.map(|best| (self.space.words(&best.point), best.sure));
        Ok(Question { number: answers + 1, most: self.limits.most, first, second, best })
    }

    /// The stacks at `points` with their pictures.
    fn candidates(
        &self,
        points: Vec<Point>,
        watch: &mut dyn FnMut(Stroke),
    ) -> Result<Vec<Candidate>> {
        let stacks =
            points.iter().map(|point| self.space.stack(point)).collect::<Result<Vec<_>>>()?;
        let pictures = self.artist.draw(stacks.clone(), self.cancel, watch)?;
        let all = points.into_iter().zip(stacks).zip(pictures);
        Ok(all
            .map(|((point, stack), pictures)| {
                let words = self.space.words(&point);
                Candidate { point, stack, words, pictures }
            })
            .collect())
    }

    /// Has the pairs drawn that come after either answer.
    fn draw_ahead(&self, search: &Duels, duel: &Duel) -> Result<()> {
        let mut stacks = Vec::new();
        for verdict in [Verdict::First, Verdict::Second] {
            let mut then = search.clone();
            then.judge(duel.clone(), verdict);
            let next = then.next()?;
            stacks.extend([self.space.stack(&next.first)?, self.space.stack(&next.second)?]);
        }
        self.artist.ahead(stacks);
        Ok(())
    }
}

/// What happens while a program scores.
#[derive(Debug, Clone, Copy)]
pub enum Told<'a> {
    /// A picture is being drawn.
    Stroke(Stroke),
    /// A stack has its score.
    Score {
        /// Its number, from 1.
        number: usize,
        /// The stack.
        candidate: &'a Candidate,
        /// The mean score of its pictures.
        score: f64,
    },
}

fn take(search: &mut Duels, duel: Duel, chosen: Chosen) {
    match chosen {
        Chosen::First => search.judge(duel, Verdict::First),
        Chosen::Second => search.judge(duel, Verdict::Second),
        Chosen::Equal => search.judge(duel, Verdict::Equal),
        Chosen::Skipped => search.skip(duel),
    }
}
