//! Decoders: which rows to compute, and which candidates to commit.

mod accept;
pub mod apd;
mod cache;
mod credit;
mod decoding;
mod defaults;
mod generate;
mod generating;
mod grammar;
pub mod likelihood;
mod mor;
mod options;
mod report;
pub mod sampling;
mod settings;
mod spec;
mod writing;

pub use accept::{Acceptance, Order, Scored};
pub use cache::{Cache, Progress};
pub use credit::Credits;
pub use decoding::Decoding;
pub use defaults::Defaults;
pub use generate::{Request, fill, fill_all, generate, no_grammar};
pub use generating::{Generating, Prefix, Work};
pub use grammar::{AnswerForm, Grammar, GrammarState, Grammars, Next};
pub use mor::{MorConfig, MorStats, Strategy};
pub use options::{AdaptiveSteps, DecodeOptions, Revision, Vocabulary};
pub use report::{AcceptanceStats, FinishReason, Generation, StepReport};
pub use sampling::{Logprobs, Sampling};
pub use settings::{DecodeSettings, MorSetting, Preset};
pub use writing::Writing;
