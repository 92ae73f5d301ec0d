//! What can go wrong between a question and its answer.

use remask_core::Error;
use remask_core::request::RequestError;

/// Why there is no answer.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The model or the device could not be opened.
    #[error("{0}")]
    Open(String),
    /// The models are being loaded.
    #[error("the model is still being loaded")]
    Loading,
    /// The device failed and has not come back.
    #[error("the device failed: {0}")]
    Device(String),
    /// The engine was shut down.
    #[error("the engine was shut down")]
    Stopped,
    /// No model of this name is loaded.
    #[error("the model `{0}` does not exist")]
    UnknownModel(String),
    /// As many requests wait as may.
    #[error("{waiting} requests are waiting already; try again later")]
    QueueFull {
        /// Generations that wait.
        waiting: usize,
    },
    /// A request for more generations than can ever run or wait together.
    #[error("{asked} answers at once; at most {most} can run or wait together")]
    TooMany {
        /// Generations of the request.
        asked: usize,
        /// Most that can be.
        most: usize,
    },
    /// The request is not one that this model can serve.
    #[error(transparent)]
    Request(std::sync::Arc<RequestError>),
    /// The generation failed, alone.
    #[error("{0}")]
    Failed(String),
}

impl EngineError {
    /// Why a generation ended without an answer: by its request's fault, or alone by its own.
    pub(crate) fn from_generation(problem: Error) -> Self {
        match problem {
            Error::Request(_) => RequestError::from(problem).into(),
            other => Self::Failed(other.to_string()),
        }
    }
}

impl From<RequestError> for EngineError {
    fn from(problem: RequestError) -> Self {
        Self::Request(problem.into())
    }
}
