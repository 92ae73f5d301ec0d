//! Remask's executor on wgpu: row-sparse transformer passes in WGSL, natively over Vulkan, Metal and
//! DX12 and in browsers over WebGPU, with the same shaders.
//!
//! [`WgpuBackend`] implements [`remask_core::Backend`]. A pass is recorded once per shape
//! ([`recording`]) and re-encoded every step; intermediate results share planned buffers ([`plan`]);
//! parameters live in one uniform arena ([`uniforms`]); only candidates are read back.

pub mod activations;
#[cfg(not(target_arch = "wasm32"))]
pub mod cache;
mod compile;
pub mod executor;
pub mod gpu;
pub mod kernels;
pub mod order;
pub mod pass;
pub mod plan;
pub mod profile;
pub mod recording;
#[cfg(not(target_arch = "wasm32"))]
pub mod spirv;
pub mod stores;
pub mod tuning;
pub mod uniforms;
pub mod weights;
pub mod wgsl;

#[cfg(not(target_arch = "wasm32"))]
pub use cache::{CACHE_VARIABLE, cache_folder};
pub use compile::Kernel;
pub use executor::WgpuBackend;
pub use gpu::{Gpu, LimitChoice};
pub use profile::{ADAPTER_VARIABLE, AdapterProfile, adapters, choose_adapter};
