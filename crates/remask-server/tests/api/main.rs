//! The server on loopback, over the engine on a scripted device.

// Helpers outside of a #[test] fail the test by a panic, as the tests themselves do.
#![allow(clippy::unwrap_used, clippy::panic)]

mod client;
mod errors;
mod figures;
mod limits;
mod operations;
mod pages;
mod requests;
#[path = "../../../remask/tests/common/scripted.rs"]
mod scripted;
mod streams;
