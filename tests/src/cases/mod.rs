//! A case table for every kernel.

pub mod activation;
pub mod attention;
pub mod batch_invariance;
pub mod embed;
pub mod gemm;
pub mod gemm_matrix;
pub mod gemv;
pub mod head_select;
pub mod norm;
#[cfg(not(target_arch = "wasm32"))]
pub mod reorder;
pub mod rotary;
pub mod select_strips;

use crate::harness::Harness;

/// A kernel's case table: its name, and a function that runs every case on a device and panics with
/// the case's name where one is wrong.
pub type Table = (&'static str, fn(&mut Harness));

/// Every kernel's table, by shader file, and one of what they have in common.
pub const TABLES: &[Table] = &[
    ("activation", activation::run),
    ("attention", attention::run),
    ("attention_row", attention::run_row),
    ("batch_invariance", batch_invariance::run),
    ("embed", embed::run),
    ("gemm", gemm::run),
    ("gemv", gemv::run),
    ("head_select", head_select::run),
    // No browser has matrix units.
    #[cfg(not(target_arch = "wasm32"))]
    ("reorder", reorder::run),
    ("norm", norm::run),
    ("rotary", rotary::run),
    ("select_strips", select_strips::run),
];

/// Tables of kernels on matrix units, and of what other kernels do beside them: in f16, and within subgroups.
/// They run on adapters that have such units.
pub const MATRIX_TABLES: &[Table] = &[
    ("attention_matrix", attention::run_matrix),
    ("fragment_probe", gemm_matrix::probe),
    ("gemm_matrix", gemm_matrix::run),
    ("norm", norm::run),
    ("rotary", rotary::run_half),
];
