//! The errors of this crate: every one names the file and key, or the operation and both shapes,
//! and says what to do about it. What comes from outside (names, paths, texts of files) is written escaped: see
//! [`shown`].

use std::path::PathBuf;

use crate::backend::BackendError;
use crate::text::shown;

/// Result with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Anything that can go wrong between a model folder and a finished text.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be opened, read, mapped or written.
    #[error("cannot {action} {}: {}", shown(path.display()), shown(source))]
    Io {
        /// What was attempted: "open", "read", "map", "write".
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// A config.json that is unreadable, or a key of it that is missing, mistyped or contradictory.
    #[error("{}: {}: {}", shown(file), shown(key), shown(problem))]
    Config {
        /// The file the key stands in.
        file: String,
        /// The key, or "(file)" when the whole file is meant.
        key: String,
        /// What is wrong and what was expected.
        problem: String,
    },
    /// `architectures[0]` names a family that no registry row covers.
    #[error("{}: architecture {} is not supported; this build knows {known}", shown(file), shown(found))]
    UnknownArchitecture {
        /// The config file.
        file: String,
        /// The name it gave.
        found: String,
        /// The names that would have worked, comma separated.
        known: String,
    },
    /// The model uses something this build cannot compute; computing without it would be wrong.
    #[error("{} is not supported: {}", shown(what), shown(why))]
    Unsupported {
        /// The setting, e.g. `alibi = true`.
        what: String,
        /// The reason and, where there is one, the way round.
        why: String,
    },
    /// A checkpoint file whose container is broken.
    #[error("{}: {}", shown(file), shown(problem))]
    Checkpoint {
        /// The checkpoint file.
        file: String,
        /// What is wrong, with the numbers.
        problem: String,
    },
    /// One tensor of a checkpoint is missing or not what the config promises.
    #[error("{}: tensor {}: {}", shown(file), shown(tensor), shown(problem))]
    Tensor {
        /// The checkpoint file.
        file: String,
        /// Full tensor name.
        tensor: String,
        /// What is wrong, with both shapes where shapes differ.
        problem: String,
    },
    /// A tokenizer or chat template that cannot be used, or that disagrees with the model.
    #[error("{}: {}", shown(file), shown(problem))]
    Tokenizer {
        /// The tokenizer or template file.
        file: String,
        /// What is wrong.
        problem: String,
    },
    /// A request that cannot be run as asked.
    #[error("{}", shown(_0))]
    Request(String),
    /// A golden folder that cannot be read or does not fit its model.
    #[error("{}: {}", shown(file), shown(problem))]
    Golden {
        /// The golden file.
        file: String,
        /// What is wrong.
        problem: String,
    },
    /// The backend failed.
    #[error(transparent)]
    Backend(#[from] BackendError),
}

impl Error {
    /// An [`Error::Io`] for `path`, to be used with `map_err`.
    pub fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }

    /// An [`Error::Config`] about `key`.
    pub fn config(file: &str, key: &str, problem: impl Into<String>) -> Self {
        Self::Config { file: file.to_owned(), key: key.to_owned(), problem: problem.into() }
    }

    /// An [`Error::Tensor`] about `tensor`.
    pub fn tensor(file: &str, tensor: &str, problem: impl Into<String>) -> Self {
        Self::Tensor { file: file.to_owned(), tensor: tensor.to_owned(), problem: problem.into() }
    }
}
