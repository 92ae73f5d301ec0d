//! An answer as it comes.

use std::pin::Pin;
use std::task::{Context, Poll};

use futures_channel::mpsc::UnboundedReceiver;
use futures_core::Stream;
use remask_core::request::{Choice, Delta, Fill, Finish, Statistics, StepEvent, Usage};

use crate::error::EngineError;

/// Something that happened to an answer. `index` is the choice.
#[derive(Debug, Clone)]
pub enum Event {
    /// A generation got its place on the device.
    Began {
        /// Which.
        index: usize,
    },
    /// A step, where they were asked for; before what it adds to the text.
    Step {
        /// Whose.
        index: usize,
        /// What it did.
        event: Box<StepEvent>,
    },
    /// Text, final.
    Delta {
        /// Whose.
        index: usize,
        /// What was added.
        delta: Delta,
        /// Tokens of the answer so far.
        tokens: usize,
    },
    /// An answer is complete.
    End {
        /// Which.
        index: usize,
        /// How it ended.
        end: Box<End>,
    },
    /// There is no answer. Nothing follows.
    Failed(EngineError),
}

/// How an answer ended.
#[derive(Debug, Clone)]
pub struct End {
    /// Why.
    pub finish: Finish,
    /// Its tokens.
    pub tokens: usize,
    /// What stands in the gaps of a canvas that was given by parts.
    pub fills: Vec<Fill>,
    /// What it cost.
    pub statistics: Statistics,
}

/// The events of a request, as a [`Stream`] and as an [`Iterator`] that waits. To drop it cancels what has not ended:
/// none of its rows is in a later pass.
#[derive(Debug)]
pub struct Events {
    pub(crate) receiver: UnboundedReceiver<Event>,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Answers that it was asked for.
    pub choices: usize,
    pub(crate) wants_logprobs: bool,
    /// Answers that have ended.
    pub(crate) ended: usize,
    pub(crate) failed: bool,
}

impl Stream for Events {
    type Item = Event;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        if self.is_over() {
            return Poll::Ready(None);
        }
        let event = match Pin::new(&mut self.receiver).poll_next(cx) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Some(event)) => event,
            // The engine's thread is gone.
            Poll::Ready(None) => Event::Failed(EngineError::Stopped),
        };
        match &event {
            Event::End { .. } => self.ended += 1,
            Event::Failed(_) => self.failed = true,
            _ => {}
        }
        Poll::Ready(Some(event))
    }
}

impl Iterator for Events {
    type Item = Event;

    fn next(&mut self) -> Option<Event> {
        pollster::block_on(std::future::poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)))
    }
}

/// A whole answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Its choices.
    pub choices: Vec<Choice>,
    /// Tokens.
    pub usage: Usage,
    /// What it cost.
    pub statistics: Statistics,
}

/// Puts a whole answer together from events.
#[derive(Debug)]
pub struct Collector {
    choices: Vec<Option<Choice>>,
    texts: Vec<Delta>,
    wants_logprobs: bool,
    usage: Usage,
    statistics: Vec<Statistics>,
}

impl Collector {
    /// For what `events` will bring.
    #[must_use]
    pub fn of(events: &Events) -> Self {
        Self {
            choices: vec![None; events.choices],
            texts: vec![Delta::default(); events.choices],
            wants_logprobs: events.wants_logprobs,
            usage: Usage { prompt_tokens: events.prompt_tokens, ..Usage::default() },
            statistics: Vec::new(),
        }
    }

    /// Takes in an event.
    ///
    /// # Errors
    /// The failure that it tells of.
    pub fn take(&mut self, event: Event) -> Result<(), EngineError> {
        match event {
            Event::Began { .. } | Event::Step { .. } => {}
            Event::Delta { index, delta, .. } => {
                if let Some(text) = self.texts.get_mut(index) {
                    text.text += &delta.text;
                    text.logprobs.extend(delta.logprobs);
                }
            }
            Event::End { index, end } => {
                let text = self.texts.get_mut(index).map(std::mem::take).unwrap_or_default();
                let End { finish, tokens, fills, statistics } = *end;
                self.usage.completion_tokens += tokens;
                self.statistics.push(statistics);
                if let Some(choice) = self.choices.get_mut(index) {
                    *choice = Some(Choice {
                        text: text.text,
                        finish_reason: finish,
                        logprobs: self.wants_logprobs.then_some(text.logprobs),
                        fills,
                    });
                }
            }
            Event::Failed(problem) => return Err(problem),
        }
        Ok(())
    }

    /// The whole answer.
    ///
    /// # Errors
    /// [`EngineError::Stopped`] where a choice has not ended.
    pub fn finish(self) -> Result<Answer, EngineError> {
        let choices = self.choices.into_iter().collect::<Option<Vec<_>>>().ok_or(EngineError::Stopped)?;
        let statistics = Statistics::sum(self.statistics, self.usage.completion_tokens);
        let usage = Usage { cached_tokens: statistics.cached_tokens, ..self.usage };
        Ok(Answer { choices, usage, statistics })
    }
}

impl Events {
    /// Whether nothing follows.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.failed || self.ended == self.choices
    }

    /// Waits for the whole answer.
    ///
    /// # Errors
    /// What kept it from being complete.
    pub fn wait(mut self) -> Result<Answer, EngineError> {
        let mut collector = Collector::of(&self);
        for event in &mut self {
            collector.take(event)?;
        }
        collector.finish()
    }
}
