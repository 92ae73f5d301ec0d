//! Training: LLaDA's masked diffusion objective from a folder of texts and questions with answers.
//!
//! [`corpus`] reads the folder, [`vocabulary`] trains a tokenizer on it, [`batch`] chooses what a step
//! sees and what is masked, [`run`] is the loop, [`checkpoint`] and [`average`] keep its results.
//! Every random choice depends on seed and step alone, so a run that goes on from a checkpoint sees
//! what it would have seen.

pub mod average;
pub mod batch;
pub mod checkpoint;
pub mod corpus;
pub mod curve;
pub mod run;
pub mod vocabulary;
pub mod weights;

pub use crate::linear::Precision;
pub use corpus::Corpus;

pub use run::{Report, Settings, Start, Trainer};
