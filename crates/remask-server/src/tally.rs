//! A request that generates: counted and logged once, however it ends.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use remask::core::request::{Statistics, Usage};

use crate::app::App;
use crate::error::ApiError;
use crate::metrics::Outcome;

/// From a request's arrival to its end.
pub struct Tally {
    app: Arc<App>,
    route: &'static str,
    request_id: String,
    client: Option<IpAddr>,
    model: String,
    log_stats: bool,
    arrived: Instant,
    first: Option<Duration>,
    done: bool,
}

impl Tally {
    /// Begins to count, for the default model until its own is known.
    pub fn new(app: &Arc<App>, route: &'static str, request_id: &str, client: Option<IpAddr>) -> Self {
        let model = app.models().first().map(|model| model.name.clone()).unwrap_or_default();
        let (app, request_id, log_stats) = (app.clone(), request_id.to_owned(), app.config.log_stats);
        Self { app, route, request_id, client, model, log_stats, arrived: Instant::now(), first: None, done: false }
    }

    /// It is for this model.
    pub fn model(&mut self, name: &str) {
        name.clone_into(&mut self.model);
    }

    /// What recompute depth does for it is logged, whatever the server's settings say.
    pub fn log_stats(&mut self) {
        self.log_stats = true;
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
            request_id = %self.request_id, route = self.route, model = %self.model, status = 200, outcome = "success",
            client = self.client.map(tracing::field::display), prompt_tokens = usage.prompt_tokens, completion_tokens = usage.completion_tokens,
            passes = statistics.forward_passes, rows = statistics.rows_computed,
            queue_seconds = statistics.queue_seconds, compute_seconds = statistics.compute_seconds,
            seconds = took.as_secs_f64(), "answered"
        );
        if let Some(mor) = statistics.mor.as_ref().filter(|_| self.log_stats) {
            tracing::info!(
                request_id = %self.request_id, model = %self.model, easy = mor.easy, medium = mor.medium,
                hard = mor.hard, avg_recursions = mor.avg_recursions,
                rows_of_full_compute = statistics.rows_of_full_compute, rows = statistics.rows_computed,
                compute_saved_percent = statistics.compute_saved_percent, "recompute depth"
            );
        }
    }

    /// It was not.
    pub fn fail(&mut self, error: &ApiError) {
        self.end(error.outcome(), error.status.as_u16());
    }

    fn end(&mut self, outcome: Outcome, status: u16) {
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
            request_id = %self.request_id, route = self.route, model = %self.model, status,
            outcome = outcome.name(), client = self.client.map(tracing::field::display),
            seconds = took.as_secs_f64(), "not answered"
        );
    }
}

impl Drop for Tally {
    fn drop(&mut self) {
        // As nginx writes it; nobody is there to be told.
        self.end(Outcome::Aborted, 499);
    }
}
