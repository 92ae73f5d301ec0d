//! A case table for every kernel.

pub mod attention;
pub mod embed;
pub mod gemm;
pub mod gemm_matrix;
pub mod gemv;
pub mod head_select;
#[cfg(not(target_arch = "wasm32"))]
pub mod reorder;
pub mod rms_norm;
pub mod rotary;
pub mod select_strips;
pub mod swiglu;

use crate::harness::Harness;

/// A kernel's case table: its name, and a function that runs every case on a device and panics with
/// the case's name where one is wrong.
pub type Table = (&'static str, fn(&mut Harness));

/// Every kernel's table, by shader file.
pub const TABLES: &[Table] = &[
    ("attention", attention::run),
    ("attention_row", attention::run_row),
    ("embed", embed::run),
    ("gemm", gemm::run),
    ("gemv", gemv::run),
    ("head_select", head_select::run),
    // No browser has matrix units.
    #[cfg(not(target_arch = "wasm32"))]
    ("reorder", reorder::run),
    ("rms_norm", rms_norm::run),
    ("rotary", rotary::run),
    ("select_strips", select_strips::run),
    ("swiglu", swiglu::run),
];

/// Tables of kernels on matrix units, and of what other kernels do beside them: in f16, and within subgroups.
/// They run on adapters that have such units.
pub const MATRIX_TABLES: &[Table] = &[
    ("attention_matrix", attention::run_matrix),
    ("fragment_probe", gemm_matrix::probe),
    ("gemm_matrix", gemm_matrix::run),
    ("rms_norm", rms_norm::run),
    ("rotary", rotary::run_half),
];
