//! Linear layers of a few rows.

use remask_core::architecture::Activation;
use remask_wgpu::kernels::gemm::{End, Fused};
use remask_wgpu::kernels::gemv::Few;
use remask_wgpu::kernels::linear::Portable;

use super::STEP;
use super::gemm::{Case, block_formats, check};
use crate::harness::Harness;

const fn case(rows: usize, cols: usize, out: usize) -> Case {
    Case { rows, cols, out, scale: 1.0, fused: Fused::PRODUCT, over_selected: false }
}

const fn fused(norm: bool, bias: bool, end: End) -> Fused {
    Fused { norm, bias, end }
}

const SILU: End = End::Gated(Activation::Silu);

/// One row and full tiles of rows, columns that end inside a tile, widths that end inside an unrolled
/// load or are shorter than one, or that zeros fill up.
pub const CASES: &[Case] = &[
    case(1, 32, 1),
    case(1, 512, 65),
    case(2, 64, 8),
    case(3, 1344, 70),
    case(4, 544, 33),
    case(5, 96, 130),
    case(7, 4096, 17),
    case(8, 1024, 64),
    case(2, 20, 33),
    case(6, 50, 200),
    Case { scale: 1e4, ..case(6, 256, 40) },
    Case { fused: fused(false, false, End::Add), ..case(3, 96, 75) },
    Case { fused: fused(false, true, End::Add), ..case(7, 60, 75) },
    Case { fused: fused(false, true, End::Plain(Activation::Gelu)), ..case(2, 96, 75) },
    Case { fused: fused(true, false, End::Write), ..case(1, 32, 1) },
    Case { fused: fused(true, false, End::Write), ..case(5, 544, 130) },
    Case { fused: fused(true, true, End::Write), ..case(5, 50, 130) },
    Case { fused: fused(true, false, SILU), ..case(8, 96, 2) },
    Case { fused: fused(true, false, SILU), scale: 1e4, ..case(3, 1024, 150) },
    Case { fused: fused(true, true, End::Gated(Activation::GeluTanh)), ..case(3, 1024, 150) },
    Case { over_selected: true, ..case(8, 64, 66) },
];

/// Cases of formats that come from GGUF alone, which differ from the others in how a weight is read and in nothing
/// else. Blocks are of 32 or of 256.
const BLOCK_CASES: &[Case] = &[
    case(1, 256, 1),
    case(2, 96, 8),
    case(3, 768, 70),
    case(5, 1280, 33),
    Case { fused: fused(false, true, End::Add), ..case(3, 256, 75) },
    Case { fused: fused(true, false, End::Write), ..case(5, 544, 130) },
    Case { fused: fused(true, false, End::Write), ..case(5, 768, 130) },
    Case { fused: fused(true, false, SILU), ..case(8, 256, 2) },
];

/// Runs every case in the formats that it is for, as few and as many columns choose.
pub fn run(h: &mut Harness) {
    for case in BLOCK_CASES.iter().step_by(STEP) {
        for format in block_formats(case.cols) {
            for (out, cols) in [(case.out as u32, case.cols as u32), (100_000, 4096)] {
                check(h, case, format, Portable::Few(Few::choose(format, case.rows as u32, out, cols)));
            }
        }
    }
    for case in CASES.iter().step_by(STEP) {
        for format in case.formats() {
            for (out, cols) in [(case.out as u32, case.cols as u32), (8192, 1024), (100_000, 4096)] {
                check(h, case, format, Portable::Few(Few::choose(format, case.rows as u32, out, cols)));
            }
        }
    }
}
