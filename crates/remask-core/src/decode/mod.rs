//! Decoders: which rows to compute, and which candidates to commit.

mod accept;
pub mod apd;
mod cache;
mod credit;
mod decoding;
mod generate;
pub mod likelihood;
mod mor;
mod options;
mod report;
mod settings;
mod spec;

pub use accept::{Acceptance, Order, Scored};
pub use cache::{Cache, Progress};
pub use credit::Credits;
pub use decoding::{Decoding, Work};
pub use generate::{Request, fill, fill_all, generate};
pub use mor::{MorConfig, MorStats, Strategy};
pub use options::{AdaptiveSteps, DecodeOptions, Revision, Vocabulary};
pub use report::{AcceptanceStats, FinishReason, Generation, StepReport};
pub use settings::{DecodeSettings, MorSetting, Preset};
