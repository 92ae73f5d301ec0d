//! What an engine is opened with.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::channel;

use remask_core::scheduler::Limits;
use remask_core::{Backend, BackendError, Error, Model};

use crate::device::Device;
use crate::engine::{self, Engine, PassRecord};
use crate::error::EngineError;
use crate::handle::Handle;
use crate::state::{Queue, Shared};

/// Opens a backend and moves a model to it, on the engine's thread; called again where the device was lost. It is told
/// whom to tell the bytes that were moved so far.
pub type OpenBackend =
    Box<dyn FnMut(&Model, &mut dyn FnMut(u64)) -> Result<Box<dyn Backend>, BackendError> + Send + 'static>;

/// A model to be opened.
pub struct Source {
    /// What requests call it.
    pub name: String,
    /// Opens it, on the engine's thread.
    pub open: Box<dyn FnOnce() -> Result<Model, Error> + Send + 'static>,
    /// Moves it to a device.
    pub backend: OpenBackend,
}

impl Source {
    /// A model folder or file, on the device that `backend` opens, called by the last part of its path.
    pub fn path(path: impl Into<PathBuf>, backend: OpenBackend) -> Self {
        let path: PathBuf = path.into();
        let name = path.file_name().map_or_else(|| path.display().to_string(), |name| name.display().to_string());
        Self { name, open: Box::new(move || Model::open(&path)), backend }
    }
}

/// How an engine is opened.
pub struct EngineBuilder {
    pub(crate) sources: Vec<Source>,
    pub(crate) queue: Queue,
    pub(crate) rows: usize,
    pub(crate) newcomer_rows: usize,
    pub(crate) kv_bytes: Option<u64>,
    pub(crate) context: Option<usize>,
    pub(crate) default_max_tokens: usize,
    pub(crate) clamp: bool,
    pub(crate) share_prefixes: bool,
    pub(crate) observe: Box<dyn FnMut(&PassRecord) + Send + 'static>,
}

impl Default for EngineBuilder {
    fn default() -> Self {
        Self {
            sources: Vec::new(),
            queue: Queue::default(),
            rows: 2048,
            newcomer_rows: 512,
            kv_bytes: None,
            context: None,
            default_max_tokens: 1024,
            clamp: false,
            share_prefixes: true,
            observe: Box::new(|_| {}),
        }
    }
}

impl EngineBuilder {
    /// Adds a model; the first is the default.
    #[must_use]
    pub fn model(mut self, source: Source) -> Self {
        self.sources.push(source);
        self
    }

    /// How many may run and wait.
    #[must_use]
    pub fn queue(mut self, queue: Queue) -> Self {
        self.queue = queue;
        self
    }

    /// Rows of a pass at most, 2048 where nothing is said, and of these those of newcomers, 512.
    #[must_use]
    pub fn rows(mut self, rows: usize, newcomer_rows: usize) -> Self {
        (self.rows, self.newcomer_rows) = (rows.max(1), newcomer_rows.max(1));
        self
    }

    /// Bytes of keys and values that a model's requests may hold together; 4 GiB or eight full contexts, whichever
    /// is more, where nothing is said.
    #[must_use]
    pub fn kv_bytes(mut self, bytes: u64) -> Self {
        self.kv_bytes = Some(bytes);
        self
    }

    /// Positions of a canvas at most, where that is less than a model's own.
    #[must_use]
    pub fn context(mut self, positions: usize) -> Self {
        self.context = Some(positions);
        self
    }

    /// Tokens that are written where a request says nothing (1024), and whether fewer are written where there is no
    /// room for those it asks for (no).
    #[must_use]
    pub fn max_tokens(mut self, default: usize, clamp: bool) -> Self {
        (self.default_max_tokens, self.clamp) = (default.max(1), clamp);
        self
    }

    /// Whether requests to models that write from left to right take over keys and values of texts that begin alike
    /// (yes). What they hold stays on the device after their end, within [`EngineBuilder::kv_bytes`].
    #[must_use]
    pub fn share_prefixes(mut self, on: bool) -> Self {
        self.share_prefixes = on;
        self
    }

    /// Is told of every pass, on the engine's thread.
    #[must_use]
    pub fn observe(mut self, observe: impl FnMut(&PassRecord) + Send + 'static) -> Self {
        self.observe = Box::new(observe);
        self
    }

    /// Starts the engine's thread and returns at once; [`Handle::state`] says how far it is.
    ///
    /// # Errors
    /// [`EngineError::Open`] where there is no model to load, two have one name, or no thread can be started.
    pub fn start(self) -> Result<Engine, EngineError> {
        if self.sources.is_empty() {
            return Err(EngineError::Open("no model was named".to_owned()));
        }
        for (index, source) in self.sources.iter().enumerate() {
            if self.sources.iter().take(index).any(|other| other.name == source.name) {
                return Err(EngineError::Open(format!("two models are called {}; name one otherwise", source.name)));
            }
        }
        let shared = Arc::new(Shared::new(self.queue));
        let (commands, receiver) = channel();
        let handle = Handle { shared: shared.clone(), commands };
        let thread = std::thread::Builder::new().name("remask-engine".to_owned());
        let thread = thread.spawn(move || engine::run(self, &shared, &receiver));
        let thread = thread.map_err(|e| EngineError::Open(format!("cannot start the engine's thread: {e}")))?;
        Ok(Engine::new(handle, thread))
    }

    /// Starts the engine and waits until it answers.
    ///
    /// # Errors
    /// [`EngineError::Open`] with what cannot be opened.
    pub fn open(self) -> Result<Engine, EngineError> {
        let engine = self.start()?;
        engine.wait_until_ready()?;
        Ok(engine)
    }

    /// What a model's scheduler stays within.
    pub(crate) fn limits(&self, model: &Model) -> Limits {
        let (a, slot) = (&model.architecture, slot_bytes(model));
        let context = self.context.unwrap_or(usize::MAX).min(a.max_positions);
        let slots = |bytes: u64| usize::try_from(bytes / slot.max(1)).unwrap_or(usize::MAX);
        let slots = self.kv_bytes.map_or_else(|| slots(4 << 30).max(context.saturating_mul(8)), slots);
        let generations = self.queue.concurrent.unwrap_or(usize::MAX);
        let kept_slots = if self.share_prefixes { slots } else { 0 };
        Limits { generations, slots, rows: self.rows, newcomer_rows: self.newcomer_rows, kept_slots }
    }
}

/// Bytes of a slot's keys and values as float32, which is what every backend can have.
pub(crate) fn slot_bytes(model: &Model) -> u64 {
    2 * 4 * model.architecture.kv_elements() as u64
}

impl Engine {
    /// An engine to be configured.
    #[must_use]
    pub fn builder() -> EngineBuilder {
        EngineBuilder::default()
    }

    /// Opens a model folder or file on the best device that there is.
    ///
    /// # Errors
    /// [`EngineError::Open`] with what cannot be opened.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, EngineError> {
        Self::open_on(path, Device::default().opener(None))
    }

    /// As [`Engine::open`], on the device that `backend` opens.
    ///
    /// # Errors
    /// As [`Engine::open`].
    pub fn open_on(path: impl AsRef<Path>, backend: OpenBackend) -> Result<Self, EngineError> {
        Self::builder().model(Source::path(path.as_ref(), backend)).open()
    }
}
