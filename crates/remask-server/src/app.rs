//! What all requests share.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use remask::{EngineState, Handle, ServedModel};
use tokio::sync::watch;

use crate::config::ServerConfig;
use crate::error::ApiError;
use crate::keys::{Keys, read_keys};
use crate::metrics::Metrics;
use crate::rate::RateLimit;

/// How far the server is on its way out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// It answers.
    Open,
    /// It was told to stop; requests are still taken, but nobody should send any.
    Leaving,
    /// No request is taken any more, those under way go on.
    Draining,
    /// Those under way end.
    Ending,
}

/// The server.
pub struct App {
    /// The engine.
    pub engine: Handle,
    /// Its settings.
    pub config: ServerConfig,
    /// Its metrics.
    pub metrics: Arc<Metrics>,
    /// Keys of guarded routes.
    pub keys: Keys,
    /// How often a client may ask.
    pub rate: RateLimit,
    /// When it began, for the world and for durations.
    pub created: u64,
    /// As above.
    pub started: Instant,
    /// How far it is on its way out.
    pub phase: watch::Sender<Phase>,
    /// Requests that can be cancelled, by their names.
    requests: Mutex<HashMap<String, Vec<Arc<watch::Sender<bool>>>>>,
    /// Counters of `/v1/engine/stats`.
    pub counts: Counts,
    known: AtomicUsize,
}

/// What `/v1/engine/stats` counts.
#[derive(Debug, Default)]
pub struct Counts {
    /// HTTP requests.
    pub http: AtomicU64,
    /// HTTP requests that are being answered.
    pub active: AtomicU64,
    /// Requests answered whole.
    pub processed: AtomicU64,
    /// Requests that were not.
    pub failed: AtomicU64,
    /// Of these: those that took too long.
    pub timed_out: AtomicU64,
    /// Tokens of answers.
    pub tokens: AtomicU64,
    /// Passes that answers took.
    pub passes: AtomicU64,
    /// Microseconds from arrival to the end, of requests answered whole.
    pub micros: AtomicU64,
    /// Candidates that were committed, and that were not.
    pub accepted: AtomicU64,
    /// As above.
    pub rejected: AtomicU64,
}

impl App {
    /// A server before its first request.
    ///
    /// # Errors
    /// Where the file of keys cannot be read.
    pub fn new(engine: Handle, config: ServerConfig, metrics: Arc<Metrics>) -> io::Result<Self> {
        Ok(Self {
            keys: Keys::new(&all_keys(&config)?),
            rate: RateLimit::new(config.rate_limit, config.rate_window),
            engine,
            config,
            metrics,
            created: now(),
            started: Instant::now(),
            phase: watch::Sender::new(Phase::Open),
            requests: Mutex::default(),
            counts: Counts::default(),
            known: AtomicUsize::new(0),
        })
    }

    /// Reads the file of keys again, where there is one. Where that fails the keys from before hold.
    pub fn reload_keys(&self) {
        let Some(file) = &self.config.api_key_file else { return };
        match all_keys(&self.config) {
            Ok(keys) => {
                self.keys.replace(&keys);
                tracing::info!(file = %file.display(), keys = keys.len(), "keys were read again");
            }
            Err(problem) => tracing::error!("keys cannot be read again, those from before hold: {problem}"),
        }
    }

    /// How far the server is on its way out.
    #[must_use]
    pub fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// Whether requests should be sent here.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.phase() == Phase::Open && self.engine.state() == EngineState::Ready
    }

    /// The models; their metrics exist as soon as they do.
    #[must_use]
    pub fn models(&self) -> Vec<Arc<ServedModel>> {
        let models = self.engine.models();
        if self.known.swap(models.len(), Ordering::Relaxed) != models.len() {
            models.iter().for_each(|model| self.metrics.know(model));
        }
        models
    }

    /// What the outside calls a model.
    #[must_use]
    pub fn public_name(&self, model: &ServedModel, is_default: bool) -> String {
        self.config.served_names.first().filter(|_| is_default).cloned().unwrap_or_else(|| model.name.clone())
    }

    /// The model of a request, and what it is called there; the default where none is named.
    pub fn model(&self, name: Option<&str>) -> Result<(Arc<ServedModel>, String), ApiError> {
        let models = self.models();
        let Some(default) = models.first() else {
            return Err(self.engine.not_ready().unwrap_or(remask::EngineError::Loading).into());
        };
        let own = |name: &str| models.iter().find(|model| model.name == name);
        match name {
            None => Ok((default.clone(), self.public_name(default, true))),
            Some(name) => {
                let alias = name == "default" || self.config.served_names.iter().any(|served| served == name);
                let found = own(name).or(alias.then_some(default)).ok_or_else(|| ApiError::model(name))?;
                Ok((found.clone(), name.to_owned()))
            }
        }
    }

    fn requests(&self) -> MutexGuard<'_, HashMap<String, Vec<Arc<watch::Sender<bool>>>>> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a request known by its names until what is returned is dropped.
    pub fn enlist(self: &Arc<Self>, names: Vec<String>) -> Cancellable {
        let cancelled = Arc::new(watch::Sender::new(false));
        let mut requests = self.requests();
        for name in &names {
            requests.entry(name.clone()).or_default().push(cancelled.clone());
        }
        drop(requests);
        Cancellable { app: self.clone(), names, cancelled }
    }

    /// Cancels the requests of this name; whether there were any.
    pub fn cancel(&self, name: &str) -> bool {
        let requests = self.requests();
        let found = requests.get(name);
        for cancelled in found.into_iter().flatten() {
            cancelled.send_replace(true);
        }
        found.is_some()
    }

    /// Requests under way.
    #[must_use]
    pub fn requests_under_way(&self) -> usize {
        self.requests().len()
    }

    /// Seconds after which there will be room, by what requests took lately.
    #[must_use]
    pub fn retry_after(&self) -> u64 {
        let (running, waiting) = self.engine.counts();
        let done = self.counts.processed.load(Ordering::Relaxed).max(1);
        let each = Duration::from_micros(self.counts.micros.load(Ordering::Relaxed) / done);
        let rounds = waiting.div_ceil(running.max(1)) as f64;
        (each.as_secs_f64() * rounds).ceil().clamp(1.0, 60.0) as u64
    }
}

/// A request that can be cancelled from outside, and is when the server ends.
pub struct Cancellable {
    app: Arc<App>,
    names: Vec<String>,
    cancelled: Arc<watch::Sender<bool>>,
}

impl Cancellable {
    /// Waits until it is cancelled; why.
    pub async fn cancelled(&self) -> ApiError {
        let mut asked = self.cancelled.subscribe();
        let mut phase = self.app.phase.subscribe();
        // Neither sender can be gone: both are held here.
        tokio::select! {
            () = async { drop(asked.wait_for(|cancelled| *cancelled).await) } => ApiError::cancelled(),
            () = async { drop(phase.wait_for(|phase| *phase == Phase::Ending).await) } => ApiError::stopping(),
        }
    }
}

impl Drop for Cancellable {
    fn drop(&mut self) {
        let mut requests = self.app.requests();
        for name in &self.names {
            if let Some(all) = requests.get_mut(name) {
                all.retain(|other| !Arc::ptr_eq(other, &self.cancelled));
                if all.is_empty() {
                    requests.remove(name);
                }
            }
        }
    }
}

/// Keys of the configuration and of its file.
fn all_keys(config: &ServerConfig) -> io::Result<Vec<String>> {
    let mut keys = config.api_keys.clone();
    if let Some(file) = &config.api_key_file {
        keys.extend(read_keys(file)?);
    }
    Ok(keys)
}

/// Seconds since 1970.
#[must_use]
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// A name that nobody else has.
#[must_use]
pub fn fresh_name() -> String {
    format!("{:016x}{:016x}", remask::random(), remask::random())
}
