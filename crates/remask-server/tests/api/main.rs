//! The server on loopback, over the engine on a scripted device.

// Helpers outside of a #[test] fail the test by a panic, as the tests themselves do.
#![allow(clippy::unwrap_used, clippy::panic)]

mod client;
mod errors;
mod figures;
mod forms;
mod limits;
mod operations;
mod pages;
mod requests;
mod scoring;
#[path = "../../../remask/tests/common/scripted.rs"]
mod scripted;
mod streams;
