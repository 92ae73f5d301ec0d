//! One generation under way: what is told of it, and to whom.

use std::ops::ControlFlow;
use std::time::Instant;

use futures_channel::mpsc::UnboundedSender;
use remask_core::request::{Job, Statistics, StepEvent, Transcript};
use remask_core::{Generation, Model, StepReport};

use crate::error::EngineError;
use crate::events::{End, Event};
use crate::state::Place;

pub(crate) struct Seat<'m> {
    model: &'m Model,
    index: usize,
    job: Job,
    transcript: Transcript<'m>,
    events: UnboundedSender<Event>,
    steps: bool,
    place: Place,
    since: Instant,
    began: Option<Instant>,
    /// Tokens that were committed together with another one.
    parallel: u64,
    /// What went wrong while a step was taken in.
    problem: Option<EngineError>,
}

impl<'m> Seat<'m> {
    pub(crate) fn new(
        model: &'m Model,
        index: usize,
        job: Job,
        events: UnboundedSender<Event>,
        steps: bool,
        place: Place,
        since: Instant,
    ) -> Self {
        let transcript = Transcript::new(&job, model.tokenizer.as_ref());
        Self { model, index, job, transcript, events, steps, place, since, began: None, parallel: 0, problem: None }
    }

    /// Whether nobody waits for it any more.
    pub(crate) fn is_left(&self) -> bool {
        self.events.is_closed()
    }

    /// It has its place on the device; not for the first time, perhaps.
    pub(crate) fn begin(&mut self) {
        if self.began.is_none() {
            self.began = Some(Instant::now());
            self.place.run();
            self.tell(Event::Began { index: self.index });
        }
    }

    /// Tells of a step. The generation ends where the answer does.
    pub(crate) fn step(&mut self, report: &StepReport<'_>) -> ControlFlow<()> {
        if report.committed.len() > 1 {
            self.parallel += report.committed.len() as u64;
        }
        if self.steps {
            let event = StepEvent::of(report, &self.job.span, self.model.tokenizer.as_ref());
            self.tell(Event::Step { index: self.index, event: Box::new(event) });
        }
        match self.transcript.step(report) {
            Ok(delta) if !delta.is_empty() => {
                let tokens = self.transcript.tokens();
                self.tell(Event::Delta { index: self.index, delta, tokens });
            }
            Ok(_) => {}
            Err(problem) => self.problem = Some(EngineError::Failed(problem.to_string())),
        }
        if self.transcript.finished().is_some() || self.problem.is_some() || self.is_left() {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    }

    /// Tells of the end.
    pub(crate) fn end(mut self, outcome: Result<Generation, remask_core::Error>) {
        let finished = outcome.map_err(EngineError::from_generation).and_then(|done| {
            if let Some(problem) = self.problem.take() {
                return Err(problem);
            }
            self.finish(&done).map_err(|problem| EngineError::Failed(problem.to_string()))
        });
        // Who reads the end may look at the counts at once.
        let Self { index, events, place, .. } = self;
        drop(place);
        let event = match finished {
            Ok(end) => Event::End { index, end: Box::new(end) },
            Err(problem) => Event::Failed(problem),
        };
        // Nobody may be there.
        let _ = events.unbounded_send(event);
    }

    /// Ends it without an answer.
    pub(crate) fn fail(self, problem: EngineError) {
        let Self { events, place, .. } = self;
        drop(place);
        let _ = events.unbounded_send(Event::Failed(problem));
    }

    fn finish(&mut self, done: &Generation) -> Result<End, remask_core::Error> {
        let delta = self.transcript.end(done)?;
        let tokens = self.transcript.tokens();
        if !delta.is_empty() {
            self.tell(Event::Delta { index: self.index, delta, tokens });
        }
        let seconds = |from: Instant, to: Instant| to.saturating_duration_since(from).as_secs_f64();
        let now = Instant::now();
        let began = self.began.unwrap_or(now);
        let statistics = Statistics::of(done, tokens, self.parallel);
        Ok(End {
            finish: self.transcript.finished().unwrap_or(remask_core::request::Finish::Length),
            tokens,
            fills: self.job.fills(self.model, &done.canvas)?,
            statistics: Statistics {
                queue_seconds: seconds(self.since, began),
                compute_seconds: seconds(began, now),
                // Usage counts a prompt once.
                cached_tokens: if self.job.choice == 0 { statistics.cached_tokens } else { 0 },
                ..statistics
            },
        })
    }

    fn tell(&self, event: Event) {
        // Nobody may be there; it is found out before the next pass.
        let _ = self.events.unbounded_send(event);
    }
}
