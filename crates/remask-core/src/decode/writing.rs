//! Autoregressive generation: the prompt's rows in pieces, then a row a token. On the canvas every step decides
//! the first hole; the hole at p is predicted by the row at p - 1, and keys and values are exact.

use std::sync::Arc;

use super::accept::Scored;
use super::generating::{Costs, Generating, Prefix, Work};
use super::grammar::{Grammar, Within};
use super::options::{DecodeOptions, Vocabulary};
use super::report::{FinishReason, Generation, StepReport};
use super::sampling::{Occurrences, choose, logprobs_of};
use crate::architecture::Architecture;
use crate::backend::{Answer, BackendError, Row, Select, StoreId, Want};
use crate::canvas::{Canvas, Cell};
use crate::error::Result;
use crate::random::{Key, Purpose, step_key};

/// Rows of the prompt that one pass computes at most: long prompts let others' steps through between pieces.
pub const PIECE: usize = 512;
/// Logits that one pass hands over at most for a prompt whose tokens' log-probabilities are wanted.
const SCORED_LOGITS: usize = 8 << 20;

/// An autoregressive generation under way.
pub struct Writing {
    architecture: Arc<Architecture>,
    vocabulary: Arc<Vocabulary>,
    options: DecodeOptions,
    store: Option<StoreId>,
    /// Positions whose keys and values are in the store.
    stored: usize,
    /// Position of the token that is written next.
    next: usize,
    occurrences: Occurrences,
    /// The grammar that the answer is kept within, and where in it the answer stands.
    within: Option<Within>,
    over: bool,
    /// Positions of the prompt whose logits the pass under way was asked for.
    scored: Vec<usize>,
    /// Positions of the pass under way, or of the last one.
    computed: Vec<usize>,
    committed: Vec<Scored>,
    /// Of the pass under way.
    costs: Costs,
    output: Generation,
}

impl Writing {
    /// Begins to write into the holes of `canvas`, which lie at its end, with options that were checked for it.
    /// What was decided before counts, so that a generation that was cut off goes on as it would have.
    #[must_use]
    pub fn new(
        architecture: Arc<Architecture>,
        vocabulary: Arc<Vocabulary>,
        options: DecodeOptions,
        canvas: Canvas,
    ) -> Self {
        let given = canvas.cells().iter().take_while(|c| **c == Cell::Given).count();
        let next = canvas.cells().iter().position(|c| *c == Cell::Hole).unwrap_or(canvas.len());
        let mut occurrences = Occurrences::of_prompt(&canvas.tokens()[..given]);
        canvas.tokens()[given..next].iter().for_each(|token| occurrences.add(*token));
        let ends = options.ends(&vocabulary);
        // The first token of a text has no probability.
        let over = next == canvas.len() && !(options.score_prompt && next > 1);
        Self {
            architecture,
            vocabulary,
            options,
            store: None,
            stored: 0,
            next,
            occurrences,
            within: None,
            over,
            scored: Vec::new(),
            computed: Vec::new(),
            committed: Vec::new(),
            costs: Costs::default(),
            output: Generation::new(canvas, given, ends),
        }
    }

    /// Keeps what is written within a grammar. What was decided before must be of it.
    ///
    /// # Errors
    /// [`Error::Request`](crate::Error::Request) where that is not so, or no token of the model can go on with it.
    pub fn keep_within(&mut self, grammar: &dyn Grammar) -> Result<()> {
        let written = &self.output.canvas.tokens()[self.output.prompt_tokens..self.next];
        self.within = Within::new(grammar, written, &self.vocabulary.suppressed, &self.output.ends)?;
        if self.within.is_none() {
            self.complete();
        }
        Ok(())
    }

    /// Nothing may follow.
    fn complete(&mut self) {
        self.over = true;
        self.output.finish = FinishReason::Complete;
    }

    /// The noise of a token depends on its place alone: how the passes before it were cut does not matter.
    fn key(&self) -> Key {
        step_key(self.options.sampling.seed, self.next as u32, Purpose::Sample)
    }
}

impl Generating for Writing {
    fn stores(&self) -> Vec<u32> {
        vec![self.output.canvas.len() as u32]
    }

    fn begin(&mut self, stores: Vec<StoreId>) {
        self.store = stores.first().copied();
        self.stored = 0;
    }

    fn prefix(&self) -> Option<Prefix<'_>> {
        // To score a prompt its rows must be computed.
        (!self.options.score_prompt)
            .then(|| Prefix { tokens: &self.output.canvas.tokens()[..self.next], stored: self.stored })
    }

    fn take_over(&mut self, count: usize) {
        self.stored = count;
        self.output.reused_tokens = count.min(self.output.prompt_tokens);
    }

    fn next_pass(&mut self, most: usize) -> Option<Work> {
        let store = self.store.filter(|_| !self.over)?;
        let canvas = &self.output.canvas;
        let scores = self.options.score_prompt;
        let piece = if scores { SCORED_LOGITS / self.architecture.embedding_rows.max(1) } else { PIECE };
        // Behind the last token there may be nothing to write.
        let last = if self.next < canvas.len() { self.next } else { self.next.saturating_sub(1) };
        let end = last.min(self.stored + most.clamp(1, piece.clamp(1, PIECE)));
        self.computed = (self.stored..end).collect();
        let row = |p: &usize| Row::of_canvas(&self.architecture, store, *p, canvas.tokens()[*p], canvas.len());
        let rows: Vec<_> = self.computed.iter().map(row).collect();
        let mut work = Work { rows, full_rows: last, ..Work::default() };
        let predicts = |p: &usize| scores && p + 1 < self.output.prompt_tokens;
        self.scored = self.computed.iter().filter(|p| predicts(p)).map(|p| p + 1).collect();
        work.select.extend(self.scored.iter().map(|position| Select::logits(position - 1 - self.stored, *position)));
        if end == self.next {
            let want = if self.options.sampling.needs_logits() {
                Want::Logits
            } else {
                let barred = self.within.as_ref().map_or(&self.vocabulary.suppressed, Within::barred);
                work.suppressed.push(barred.clone());
                Want::Candidate { temperature: self.options.sampling.temperature, key: self.key(), suppressed: 0 }
            };
            let row = self.computed.len() as u32 - 1;
            work.select.push(Select { row, position: self.next as u32, guide: None, want });
        }
        self.costs = Costs::of(&work);
        Some(work)
    }

    fn absorb(&mut self, answers: Vec<Answer>) -> Result<StepReport<'_>> {
        let step = self.output.forward_passes;
        self.output.forward_passes += 1;
        self.costs.add_to(&mut self.output);
        self.stored += self.computed.len();
        self.committed.clear();
        let at = self.next;
        let mut answers = answers.into_iter();
        for (position, answer) in self.scored.iter().zip(answers.by_ref()) {
            let (token, count) = (self.output.canvas.tokens()[*position], self.options.sampling.logprobs.unwrap_or(0));
            let logprobs = answer.logits().and_then(|l| logprobs_of(l, token, count, &self.vocabulary.suppressed));
            let logprobs = logprobs.ok_or(BackendError::NotFinite { position: *position as u32 })?;
            self.output.logprobs.insert(*position, logprobs);
        }
        for answer in answers {
            let candidate = match answer {
                Answer::Candidate(candidate) => candidate,
                Answer::Logits(logits) => {
                    let suppressed = &self.vocabulary.suppressed;
                    let sampling = &self.options.sampling;
                    let barred = self.within.as_ref().map(|within| within.barred().as_ref());
                    let (key, seen) = (self.key(), &self.occurrences);
                    let chosen = choose(logits, sampling, key, at as u32, suppressed, barred, seen);
                    let chosen = chosen.ok_or(BackendError::NotFinite { position: at as u32 })?;
                    self.output.logprobs.extend(chosen.logprobs.map(|logprobs| (at, logprobs)));
                    chosen.candidate
                }
            };
            self.output.canvas.decide(at, candidate.token, step, candidate.probability);
            self.output.depth[at] += 1;
            self.output.acceptance.tokens_accepted += 1;
            self.committed.push(Scored { position: at, candidate, score: candidate.probability });
            self.occurrences.add(candidate.token);
            self.next += 1;
            if self.output.ends.contains(&candidate.token) {
                self.over = true;
                self.output.finish = FinishReason::Stop;
            } else if let Some(within) = &mut self.within {
                let (suppressed, ends) = (&self.vocabulary.suppressed, &self.output.ends);
                if !within.push(candidate.token, suppressed, ends)? {
                    self.complete();
                }
            }
            self.over |= self.next == self.output.canvas.len();
        }
        self.over |= self.next == self.output.canvas.len() && self.stored + 1 >= self.next;
        // A prompt whose tokens are scored is known as far as it is.
        let known = if self.options.score_prompt { self.stored + 1 } else { self.next };
        Ok(StepReport {
            step,
            canvas: &self.output.canvas,
            block: at..self.next.max(at + 1).min(self.output.canvas.len()),
            committed: &self.committed,
            candidates: &self.committed,
            revised: &[],
            remasked: &[],
            padded: &[],
            settled: self.next.min(known),
            computed: &self.computed,
            so_far: &self.output,
        })
    }

    fn is_over(&self) -> bool {
        self.over
    }

    fn abort(&mut self) {
        self.over = true;
        self.output.finish = FinishReason::Aborted;
    }

    fn finish(self: Box<Self>) -> Generation {
        self.output
    }
}
