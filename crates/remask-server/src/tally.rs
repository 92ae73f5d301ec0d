//! A request that generates: counted and logged once, however it ends.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use remask::core::request::{Statistics, Usage};

use crate::app::App;
use crate::metrics::Outcome;

/// From a request's arrival to its end.
pub struct Tally {
    app: Arc<App>,
    route: &'static str,
    request_id: String,
    model: String,
    arrived: Instant,
    first: Option<Duration>,
    done: bool,
}

impl Tally {
    /// Begins to count, for the default model until its own is known.
    pub fn new(app: &Arc<App>, route: &'static str, request_id: &str) -> Self {
        let model = app.models().first().map(|model| model.name.clone()).unwrap_or_default();
        let (app, request_id) = (app.clone(), request_id.to_owned());
        Self { app, route, request_id, model, arrived: Instant::now(), first: None, done: false }
    }

    /// It is for this model.
    pub fn model(&mut self, name: &str) {
        name.clone_into(&mut self.model);
    }

    /// When its time is over.
    #[must_use]
    pub fn deadline(&self) -> Instant {
        self.arrived + self.app.config.request_timeout
    }

    /// Its first text is there.
    pub fn text(&mut self) {
        let arrived = self.arrived;
        self.first.get_or_insert_with(|| arrived.elapsed());
    }

    /// It was answered whole.
    pub fn succeed(&mut self, usage: &Usage, statistics: &Statistics) {
        if std::mem::replace(&mut self.done, true) {
            return;
        }
        let took = self.arrived.elapsed();
        self.app.metrics.answered(&self.model, self.first.unwrap_or(took), took, usage, statistics);
        let counts = &self.app.counts;
        let add = |count: &std::sync::atomic::AtomicU64, more: u64| count.fetch_add(more, Ordering::Relaxed);
        add(&counts.processed, 1);
        add(&counts.tokens, usage.completion_tokens as u64);
        add(&counts.passes, statistics.forward_passes);
        add(&counts.micros, took.as_micros() as u64);
        add(&counts.accepted, statistics.acceptance.tokens_accepted);
        add(&counts.rejected, statistics.acceptance.tokens_rejected);
        tracing::info!(
            request_id = %self.request_id, route = self.route, model = %self.model, outcome = "success",
            prompt_tokens = usage.prompt_tokens, completion_tokens = usage.completion_tokens,
            passes = statistics.forward_passes, rows = statistics.rows_computed,
            queue_seconds = statistics.queue_seconds, compute_seconds = statistics.compute_seconds,
            seconds = took.as_secs_f64(), "answered"
        );
    }

    /// It was not.
    pub fn fail(&mut self, outcome: Outcome) {
        if std::mem::replace(&mut self.done, true) {
            return;
        }
        let took = self.arrived.elapsed();
        self.app.metrics.failed(&self.model, outcome, took);
        self.app.counts.failed.fetch_add(1, Ordering::Relaxed);
        if outcome == Outcome::Timeout {
            self.app.counts.timed_out.fetch_add(1, Ordering::Relaxed);
        }
        tracing::info!(
            request_id = %self.request_id, route = self.route, model = %self.model, outcome = outcome.name(),
            seconds = took.as_secs_f64(), "not answered"
        );
    }
}

impl Drop for Tally {
    fn drop(&mut self) {
        self.fail(Outcome::Aborted);
    }
}
