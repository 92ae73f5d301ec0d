//! What an engine and its handles know of each other.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use remask_core::Model;
use remask_core::backend::BackendInfo;
use remask_core::request::Terms;

use crate::error::EngineError;

/// Whether an engine can answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EngineState {
    /// Models are being opened and moved to the device.
    Loading {
        /// The model at hand.
        model: String,
        /// Bytes that were moved.
        loaded: u64,
        /// Bytes that there are; 0 while that is not known.
        total: u64,
    },
    /// It answers.
    Ready,
    /// The device failed; it is opened again from time to time.
    Failed(String),
    /// It was shut down, or could not begin.
    Stopped(String),
}

/// A model that is loaded.
pub struct ServedModel {
    /// What requests call it.
    pub name: String,
    /// Its files.
    pub model: Arc<Model>,
    /// What its requests have in common.
    pub terms: Terms,
    /// Where it runs.
    pub info: BackendInfo,
    /// What loading it brought up, a sentence each.
    pub notes: Vec<String>,
    /// Its place in the engine.
    pub(crate) index: usize,
    /// Slots for keys and values that its requests may take together.
    pub slots: usize,
    /// Bytes of a slot's keys and values, as float32.
    pub slot_bytes: u64,
    pub(crate) slots_used: AtomicUsize,
    pub(crate) slots_most: AtomicUsize,
    pub(crate) under_way: Mutex<UnderWay>,
    pub(crate) totals: Totals,
}

impl ServedModel {
    /// Slots that requests under way hold.
    #[must_use]
    pub fn slots_used(&self) -> usize {
        self.slots_used.load(Ordering::Relaxed)
    }

    /// The most slots that were held at once since the start.
    #[must_use]
    pub fn most_slots_used(&self) -> usize {
        self.slots_most.load(Ordering::Relaxed)
    }

    /// So many slots are held from now on.
    pub(crate) fn hold(&self, slots: usize) {
        self.slots_used.store(slots, Ordering::Relaxed);
        self.slots_most.fetch_max(slots, Ordering::Relaxed);
    }

    /// Its generations that run, and that wait.
    #[must_use]
    pub fn counts(&self) -> (usize, usize) {
        let UnderWay { running, waiting } = *lock(&self.under_way);
        (running, waiting)
    }

    /// Passes, rows computed, and rows that full compute would have computed, since the start.
    #[must_use]
    pub fn totals(&self) -> (u64, u64, u64) {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        (read(&self.totals.passes), read(&self.totals.rows), read(&self.totals.full_rows))
    }
}

/// What a model's passes came to.
#[derive(Debug, Default)]
pub(crate) struct Totals {
    pub(crate) passes: AtomicU64,
    pub(crate) rows: AtomicU64,
    pub(crate) full_rows: AtomicU64,
}

/// How many may be under way.
#[derive(Debug, Clone, Copy)]
pub struct Queue {
    /// Generations that run at once; `None` for as many as there is room for.
    pub concurrent: Option<usize>,
    /// Generations that wait for room.
    pub waiting: usize,
}

impl Default for Queue {
    fn default() -> Self {
        Self { concurrent: None, waiting: 256 }
    }
}

pub(crate) struct Shared {
    pub(crate) state: RwLock<EngineState>,
    pub(crate) models: RwLock<Vec<Arc<ServedModel>>>,
    pub(crate) queue: Queue,
    under_way: Mutex<UnderWay>,
}

/// How many generations are under way.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct UnderWay {
    running: usize,
    waiting: usize,
}

fn lock(under_way: &Mutex<UnderWay>) -> MutexGuard<'_, UnderWay> {
    under_way.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub(crate) fn new(queue: Queue) -> Self {
        let state = EngineState::Loading { model: String::new(), loaded: 0, total: 0 };
        Self { state: state.into(), models: RwLock::default(), queue, under_way: Mutex::default() }
    }

    pub(crate) fn set(&self, state: EngineState) {
        *self.state.write().unwrap_or_else(PoisonError::into_inner) = state;
    }

    pub(crate) fn state(&self) -> EngineState {
        self.state.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Generations that run, and that wait.
    pub(crate) fn counts(&self) -> (usize, usize) {
        let under_way = lock(&self.under_way);
        (under_way.running, under_way.waiting)
    }

    /// Takes places for `count` generations that wait.
    pub(crate) fn enter(self: &Arc<Self>, model: &Arc<ServedModel>, count: usize) -> Result<Vec<Place>, EngineError> {
        let mut under_way = lock(&self.under_way);
        let UnderWay { running, waiting } = *under_way;
        let full = match self.queue.concurrent {
            Some(concurrent) => {
                let most = concurrent.saturating_add(self.queue.waiting);
                if count > most {
                    return Err(EngineError::TooMany { asked: count, most });
                }
                running + waiting + count > most
            }
            // Whoever comes first finds out whether there is room.
            None => waiting > 0 && waiting + count > self.queue.waiting,
        };
        if full {
            return Err(EngineError::QueueFull { waiting });
        }
        under_way.waiting += count;
        lock(&model.under_way).waiting += count;
        Ok((0..count).map(|_| Place { shared: self.clone(), model: model.clone(), running: false }).collect())
    }
}

/// A generation's place among those that wait or run, until it is dropped.
pub(crate) struct Place {
    shared: Arc<Shared>,
    model: Arc<ServedModel>,
    running: bool,
}

impl Place {
    /// From those that wait to those that run.
    pub(crate) fn run(&mut self) {
        if !std::mem::replace(&mut self.running, true) {
            for counts in [&self.shared.under_way, &self.model.under_way] {
                let mut counts = lock(counts);
                counts.waiting -= 1;
                counts.running += 1;
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        for counts in [&self.shared.under_way, &self.model.under_way] {
            let mut counts = lock(counts);
            if self.running {
                counts.running -= 1;
            } else {
                counts.waiting -= 1;
            }
        }
    }
}
