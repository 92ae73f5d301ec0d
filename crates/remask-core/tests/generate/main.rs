//! The decoding loop against a backend that computes nothing: it checks what it is asked for and
//! answers from a seeded hash. What is true for any answers is true for any model.

// Helpers outside of a #[test] fail the test by a panic, as the tests themselves do.
#![allow(clippy::unwrap_used, clippy::panic)]

mod cases;
mod fake;
mod properties;
mod sharing;
