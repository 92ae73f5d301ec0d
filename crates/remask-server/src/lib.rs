//! An OpenAI-compatible server over an [engine](remask::Engine): routes, streams, keys, limits and metrics.
//!
//! Requests of every route become [`GenerationRequest`](remask::core::request::GenerationRequest)s; the engine's one
//! thread a device answers them together. What a client is told comes from the engine's events alone, the same way
//! for a whole answer and for a stream.

mod answer_form;
mod app;
mod ask;
mod config;
mod connection;
mod error;
mod fields;
mod gate;
mod generate;
mod keys;
mod linger;
mod metrics;
mod notify;
mod openapi;
mod rate;
mod routes;
mod serve;
mod shape;
mod signals;
mod tally;

pub use self::app::{App, Phase};
pub use self::config::ServerConfig;
pub use self::metrics::{Metrics, Outcome};
pub use self::serve::{Server, Stop};
pub use self::signals::serve;
