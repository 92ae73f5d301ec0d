//! Remask as a library: open a model, ask it, stream its answer.
//!
//! An [`Engine`] owns a thread; the thread owns the device and the models on it, and requests share its passes.
//! [`Handle`]s send requests from any thread, and what comes back is an [`Events`]: an iterator that waits, and a
//! stream for those who have an async runtime. The engine itself knows none.
//!
//! ```
//! use remask::Engine;
//!
//! fn main() -> Result<(), remask::EngineError> {
//!     let engine = Engine::open("../../models/tales-33m")?;
//!     let answer = engine.chat("Tell me about a dog.")?;
//!     println!("{answer}");
//! #   assert!(!answer.is_empty());
//!     Ok(())
//! }
//! ```

mod device;
mod engine;
mod error;
mod events;
mod guidance;
mod handle;
mod open;
mod seat;
mod state;

pub use remask_core as core;

pub use self::device::{Device, open_gpu, open_hardware};
pub use self::engine::{Engine, PassRecord};
pub use self::error::EngineError;
pub use self::events::{Answer, Collector, End, Event, Events};
pub use self::handle::{Handle, random};
pub use self::open::{EngineBuilder, OpenBackend, Source};
pub use self::state::{EngineState, Queue, ServedModel};
