//! Decoders: which rows to compute, and which candidates to commit.

mod accept;
mod cache;
mod generate;
mod mor;

pub use accept::{Acceptance, Order, Scored, accept};
pub use cache::{Cache, Progress};
pub use generate::{DecodeOptions, FinishReason, Generation, StepReport, Vocabulary, fill, generate};
pub use mor::{MorConfig, MorStats, Strategy};
