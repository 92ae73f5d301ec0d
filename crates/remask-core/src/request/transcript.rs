//! From decided ids to text that can be shown: the same pieces however the canvas is filled.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;

use super::answer::{Finish, TokenLog, TokenText};
use super::prepare::Job;
use super::stop::StopStrings;
use crate::canvas::{Canvas, Cell};
use crate::decode::sampling::Logprobs;
use crate::decode::{FinishReason, Generation, StepReport};
use crate::error::Result;
use crate::tokenizer::{TextStream, TextTokenizer};

/// What was added to an answer.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Delta {
    /// Text.
    pub text: String,
    /// Tokens whose text begins in what was given so far, where log-probabilities were asked for.
    pub logprobs: Vec<TokenLog>,
}

impl Delta {
    /// Whether nothing was added.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.text.is_empty() && self.logprobs.is_empty()
    }
}

/// An answer as it grows. Only what is decided for good, with everything before it, goes in; what comes out is final,
/// and all of it together is the answer: text up to an end id or a stop string.
pub struct Transcript<'a> {
    tokenizer: Option<&'a TextTokenizer>,
    stream: Option<TextStream<'a>>,
    stops: StopStrings,
    /// Positions that the text is made of.
    span: Range<usize>,
    /// The first that has not gone in.
    next: usize,
    /// Ids that end the answer, or the gap that they stand in where text was given behind it.
    ends: Arc<[u32]>,
    /// Gaps of a canvas that was given by parts.
    gaps: Vec<Range<usize>>,
    wants_logprobs: bool,
    /// Positions before this one are the prompt's, which is said again.
    echoes: usize,
    /// Tokens that are not given yet, each with the byte of the text that its own begins at.
    pending: VecDeque<(usize, TokenLog)>,
    /// Bytes and characters of the text that came out of the ids.
    decoded: (usize, usize),
    /// Bytes that were given.
    given: usize,
    /// Tokens of the answer so far.
    tokens: usize,
    finish: Option<Finish>,
}

impl<'a> Transcript<'a> {
    /// The answer of a job, before its first step.
    #[must_use]
    pub fn new(job: &Job, tokenizer: Option<&'a TextTokenizer>) -> Self {
        Self {
            tokenizer,
            stream: tokenizer.map(|t| t.stream(true)),
            stops: StopStrings::new(job.stop.iter().cloned()),
            span: job.span.clone(),
            next: job.span.start,
            ends: job.ends.clone(),
            gaps: job.gaps.iter().map(|(_, positions)| positions.clone()).collect(),
            wants_logprobs: job.request.options.sampling.logprobs.is_some(),
            echoes: job.request.canvas.cells().iter().take_while(|c| job.echo && **c == Cell::Given).count(),
            pending: VecDeque::new(),
            decoded: (0, 0),
            given: 0,
            tokens: 0,
            finish: None,
        }
    }

    /// Tokens of the answer so far, its end id included; of a canvas given by parts, holes.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Why the answer ended, where it has.
    #[must_use]
    pub fn finished(&self) -> Option<Finish> {
        self.finish
    }

    /// Takes in what a step settled. Once [`finished`](Transcript::finished) says why, the generation need not go on.
    ///
    /// # Errors
    /// [`Error::Tokenizer`](crate::Error::Tokenizer) where the tokenizer fails.
    pub fn step(&mut self, report: &StepReport<'_>) -> Result<Delta> {
        self.advance(report.canvas, report.settled, &report.so_far.logprobs)
    }

    /// Takes in the rest of a generation that is over.
    ///
    /// # Errors
    /// As [`Transcript::step`].
    pub fn end(&mut self, done: &Generation) -> Result<Delta> {
        let length = done.canvas.len();
        let open = (self.next.min(length)..length).find(|p| done.canvas.is_hole(*p)).unwrap_or(length);
        let mut delta = self.advance(&done.canvas, open, &done.logprobs)?;
        if self.finish.is_none() {
            let rest = self.stream.take().map(TextStream::finish).transpose()?.unwrap_or_default();
            delta.text += &self.show(&rest);
            let complete = done.finish == FinishReason::Complete;
            self.close(&mut delta, if complete { Finish::Stop } else { Finish::Length });
        }
        Ok(delta)
    }

    fn advance(&mut self, canvas: &Canvas, settled: usize, logprobs: &BTreeMap<usize, Logprobs>) -> Result<Delta> {
        let mut delta = Delta::default();
        while self.finish.is_none() && self.next < settled.min(self.span.end) {
            let position = self.next;
            self.next += 1;
            let Some(id) = canvas.tokens().get(position).copied() else { break };
            let decided = canvas.cells().get(position).is_some_and(|cell| *cell != Cell::Given);
            self.tokens += usize::from(decided);
            if decided && self.ends.contains(&id) {
                if let Some(gap) = self.gaps.iter().find(|gap| gap.contains(&position) && gap.end < self.span.end) {
                    self.tokens += gap.end - self.next;
                    self.next = gap.end;
                    continue;
                }
                let rest = self.stream.take().map(TextStream::finish).transpose()?.unwrap_or_default();
                delta.text += &self.show(&rest);
                if !self.gaps.is_empty() {
                    self.tokens += self.span.end - self.next;
                }
                self.close(&mut delta, Finish::Stop);
                break;
            }
            let known = logprobs.get(&position);
            let echoed = position < self.echoes;
            if self.wants_logprobs && (known.is_some() || echoed) {
                let log = self.log(id, known);
                self.pending.push_back((self.decoded.0, log));
            }
            let text = match &mut self.stream {
                Some(stream) => stream.push(&[id])?,
                // Without a tokenizer the text is the ids.
                None if self.decoded.0 == 0 => id.to_string(),
                None => format!(",{id}"),
            };
            if echoed {
                // No stop string is looked for in the prompt.
                self.decoded = (self.decoded.0 + text.len(), self.decoded.1 + text.chars().count());
                self.given += text.len();
                delta.text += &text;
                continue;
            }
            delta.text += &self.show(&text);
            if self.stops.stopped() {
                self.close(&mut delta, Finish::Stop);
            }
        }
        self.hand_over(&mut delta);
        Ok(delta)
    }

    /// Text that came out of the ids, less what is held.
    fn show(&mut self, text: &str) -> String {
        self.decoded.0 += text.len();
        self.decoded.1 += text.chars().count();
        let shown = self.stops.push(text);
        self.given += shown.len();
        shown
    }

    fn close(&mut self, delta: &mut Delta, finish: Finish) {
        let stopped = self.stops.stopped();
        let rest = self.stops.finish();
        self.given += rest.len();
        delta.text += &rest;
        let stopped_now = self.stops.stopped();
        self.finish = Some(if stopped_now { Finish::Stop } else { finish });
        if stopped || stopped_now {
            // What the stop string cut has no tokens.
            let given = self.given;
            self.pending.retain(|(start, _)| *start < given);
        }
        delta.logprobs.extend(self.pending.drain(..).map(|(_, log)| log));
    }

    /// Gives the tokens whose text has begun.
    fn hand_over(&mut self, delta: &mut Delta) {
        while let Some((_, log)) = self.pending.pop_front_if(|(start, _)| *start < self.given) {
            delta.logprobs.push(log);
        }
    }

    fn log(&self, id: u32, logprobs: Option<&Logprobs>) -> TokenLog {
        let token = |id: u32| TokenText::of(id, self.tokenizer);
        TokenLog {
            token: token(id),
            offset: self.decoded.1,
            logprob: logprobs.map(|logprobs| logprobs.logprob),
            top: logprobs.iter().flat_map(|logprobs| &logprobs.top).map(|(id, log)| (token(*id), *log)).collect(),
        }
    }
}
