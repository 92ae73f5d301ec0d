//! One case table a kernel.

pub mod attention;
pub mod embed;
pub mod gemm;
pub mod gemv;
pub mod head_select;
pub mod rms_norm;
pub mod rotary;
pub mod swiglu;

use crate::harness::Harness;

/// A kernel's case table: its name, and a function that runs every case on a device and panics with
/// the case's name where one is wrong.
pub type Table = (&'static str, fn(&mut Harness));

/// Every kernel's table, by shader file.
pub const TABLES: &[Table] = &[
    ("attention", attention::run),
    ("embed", embed::run),
    ("gemm", gemm::run),
    ("gemv", gemv::run),
    ("head_select", head_select::run),
    ("rms_norm", rms_norm::run),
    ("rotary", rotary::run),
    ("swiglu", swiglu::run),
];
