//! Remask's executor on wgpu: row-sparse transformer passes in WGSL, natively over Vulkan, Metal and
//! DX12 and in browsers over WebGPU, with the same shaders.
//!
//! [`WgpuBackend`] implements [`remask_core::Backend`]. What a pass consists of is chosen first, as plain data
//! ([`plan`]), then recorded once per shape ([`recording`]) and re-encoded every step; intermediate results share
//! planned buffers ([`lifetimes`]); parameters live in one uniform arena ([`uniforms`]); only answers are read back.

pub mod activations;
pub mod arena;
#[cfg(not(target_arch = "wasm32"))]
pub mod cache;
mod compile;
pub mod executor;
pub mod gpu;
pub mod kernels;
pub mod lifetimes;
pub mod order;
pub mod plan;
pub mod profile;
pub mod record;
pub mod recording;
#[cfg(not(target_arch = "wasm32"))]
pub mod spirv;
pub mod stores;
pub mod suppressed;
pub mod tuning;
pub mod turns;
pub mod uniforms;
pub mod weights;
pub mod wgsl;

#[cfg(not(target_arch = "wasm32"))]
pub use cache::{CACHE_VARIABLE, cache_folder};
pub use compile::Kernel;
pub use executor::WgpuBackend;
pub use gpu::{Gpu, LimitChoice, SharedGpu};
pub use profile::{ADAPTER_VARIABLE, AdapterProfile, adapters, choose_adapter};
