//! How requests reach an engine, from any thread.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::sync::mpsc::Sender;
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use futures_channel::mpsc::{UnboundedSender, unbounded};
use remask_core::request::{GenerationRequest, Job, Prepared};

use crate::error::EngineError;
use crate::events::{Event, Events};
use crate::state::{EngineState, Place, Queue, ServedModel, Shared};

/// What an engine's thread is told.
pub(crate) enum Command {
    Submit(Submission),
    Stop,
}

/// Generations that begin together.
pub(crate) struct Submission {
    pub(crate) model: usize,
    pub(crate) jobs: Vec<Job>,
    pub(crate) places: Vec<Place>,
    pub(crate) events: UnboundedSender<Event>,
    pub(crate) steps: bool,
    pub(crate) since: Instant,
}

/// Sends requests to an engine. Cheap to clone, for any thread.
#[derive(Clone)]
pub struct Handle {
    pub(crate) shared: Arc<Shared>,
    pub(crate) commands: Sender<Command>,
}

impl Handle {
    /// Whether the engine can answer.
    #[must_use]
    pub fn state(&self) -> EngineState {
        self.shared.state()
    }

    /// The models, the default first; empty while they are being loaded.
    #[must_use]
    pub fn models(&self) -> Vec<Arc<ServedModel>> {
        self.shared.models.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The model of this name.
    ///
    /// # Errors
    /// [`EngineError::UnknownModel`], or why there is none at all.
    pub fn model(&self, name: &str) -> Result<Arc<ServedModel>, EngineError> {
        let models = self.models();
        let unknown = || EngineError::UnknownModel(name.to_owned());
        models.iter().find(|model| model.name == name).cloned().ok_or_else(|| self.not_ready().unwrap_or_else(unknown))
    }

    /// The default model.
    ///
    /// # Errors
    /// Why there is none.
    pub fn default_model(&self) -> Result<Arc<ServedModel>, EngineError> {
        self.models().first().cloned().ok_or_else(|| self.not_ready().unwrap_or(EngineError::Loading))
    }

    /// Why the engine does not answer, where it does not.
    #[must_use]
    pub fn not_ready(&self) -> Option<EngineError> {
        match self.state() {
            EngineState::Ready => None,
            EngineState::Loading { .. } => Some(EngineError::Loading),
            EngineState::Failed(problem) => Some(EngineError::Device(problem)),
            EngineState::Stopped(_) => Some(EngineError::Stopped),
        }
    }

    /// Generations that run, and that wait.
    #[must_use]
    pub fn counts(&self) -> (usize, usize) {
        self.shared.counts()
    }

    /// How many may run and wait.
    #[must_use]
    pub fn queue(&self) -> Queue {
        self.shared.queue
    }

    /// Checks a request and makes canvases of it, on the calling thread. A request that samples without a seed gets a
    /// random one.
    ///
    /// # Errors
    /// [`EngineError::Request`].
    pub fn prepare(&self, model: &ServedModel, request: &GenerationRequest) -> Result<Prepared, EngineError> {
        Ok(request.prepare(&model.model, &model.terms, random())?)
    }

    /// Hands prepared generations to the engine. They begin together. `prompt_tokens` is what usage will say; with
    /// `steps` every pass is told of.
    ///
    /// # Errors
    /// Why they cannot even wait.
    pub fn submit(
        &self,
        model: &Arc<ServedModel>,
        jobs: Vec<Job>,
        prompt_tokens: usize,
        steps: bool,
    ) -> Result<Events, EngineError> {
        if let Some(problem) = self.not_ready() {
            return Err(problem);
        }
        let places = self.shared.enter(model, jobs.len())?;
        let (sender, receiver) = unbounded();
        let choices = jobs.len();
        let wants_logprobs = jobs.first().is_some_and(|job| job.request.options.sampling.logprobs.is_some());
        let submission = Submission { model: model.index, jobs, places, events: sender, steps, since: Instant::now() };
        self.commands.send(Command::Submit(submission)).map_err(|_| EngineError::Stopped)?;
        Ok(Events { receiver, prompt_tokens, choices, wants_logprobs, ended: 0, failed: false })
    }

    /// Prepares and submits a request.
    ///
    /// # Errors
    /// As both.
    pub fn ask(&self, model: &Arc<ServedModel>, request: &GenerationRequest) -> Result<Events, EngineError> {
        let Prepared { jobs, prompt_tokens, .. } = self.prepare(model, request)?;
        self.submit(model, jobs, prompt_tokens, false)
    }
}

/// A number that nobody can foresee; the standard library's hashers are keyed with such.
#[must_use]
pub fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}
