//! Remask without a device: what a diffusion language model *is* (configs, checkpoints, tokenizers)
//! and how one decodes with it (canvases, schedules, acceptance rules), behind one [`Backend`] trait.
//!
//! Nothing here knows a GPU or an async runtime, and everything compiles to wasm32. A decoder is a
//! loop over [`Pass`]es: it names the rows to compute and gets a [`Candidate`] for each row it asked
//! about; logits stay where they were made.

pub mod architecture;
pub mod backend;
pub mod canvas;
pub mod chat;
pub mod checkpoint;
pub mod decode;
pub mod error;
pub mod families;
pub mod foreign;
pub mod gguf;
pub mod golden;
#[cfg(not(target_arch = "wasm32"))]
mod hub;
pub mod infill;
pub mod json;
mod lease;
pub mod model;
pub mod quantize;
pub mod random;
pub mod request;
pub mod schedule;
pub mod scheduler;
pub mod tensors;
pub mod text;
pub mod tokenizer;
pub mod trial;

pub use architecture::Architecture;
pub use backend::{
    Answer, Backend, BackendError, BackendFuture, Candidate, Guide, Keys, Pass, Row, Select, StoreId, TokenSet, Want,
};
pub use canvas::{Canvas, Cell};
pub use checkpoint::{Checkpoint, DType};
pub use decode::{
    Acceptance, AdaptiveSteps, Cache, DecodeOptions, DecodeSettings, FinishReason, Generation, MorConfig, MorStats,
    Order, Preset, Request, Revision, StepReport, Vocabulary, fill, fill_all, generate,
};
pub use error::{Error, Result};
pub use model::Model;
pub use scheduler::{Limits, Scheduler, Stepped, Ticket};
pub use tokenizer::TextTokenizer;
pub use trial::Trial;
