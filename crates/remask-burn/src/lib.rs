//! Remask's models as Burn modules.
//!
//! [`CpuBackend`] implements [`remask_core::Backend`] for machines without a usable GPU; [`BurnBackend`]
//! does for Burn's other devices. Both run the modules of [`transformer`], which training runs too. On
//! the CPU, matrices keep the format they are stored in ([`panels`]).

pub mod activation;
pub mod attention;
pub mod dense;
pub mod executor;
mod kernel;
pub mod linear;
pub mod load;
pub mod packed;
pub mod panels;
mod random;
mod rows;
pub mod select;
mod stored;
pub mod stores;
pub mod tensor_slots;
#[cfg(feature = "train")]
pub mod train;
pub mod transformer;
mod widen;

pub use burn::tensor::Device;
pub use executor::{BurnBackend, CpuBackend};
