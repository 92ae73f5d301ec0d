//! Remask for browsers: `remask-core` and `remask-wgpu` behind wasm-bindgen, for the npm package
//! `@remask/web`. It runs in a dedicated Worker; `web/package` holds the TypeScript around it.
//!
//! Nothing is computed or decided here that the native program computes otherwise: this crate turns a
//! request into [`DecodeOptions`](remask_core::DecodeOptions), a step into typed arrays and an error
//! into an object with a `kind`.

pub mod request;

#[cfg(target_arch = "wasm32")]
mod engine;
#[cfg(target_arch = "wasm32")]
mod fault;
#[cfg(target_arch = "wasm32")]
mod files;
#[cfg(target_arch = "wasm32")]
mod step;
