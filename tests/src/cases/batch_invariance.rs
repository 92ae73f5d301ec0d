//! The bits of a row do not depend on the other rows of its pass, nor on their number: what one of the portable kernels
//! gives, every other one gives that a pass of other rows may be computed with.

use remask_core::architecture::Activation;
use remask_wgpu::kernels::WEIGHT_FORMATS;
use remask_wgpu::kernels::gemm::{End, Fused, Tile};
use remask_wgpu::kernels::gemv::Few;
use remask_wgpu::kernels::linear::Portable;

use super::gemm::{Case, Inputs, device_matrix, run_rows};
use super::{attention, head_select};
use crate::harness::Harness;

/// Rows of the pass that all others are compared with.
const MOST: usize = 70;

/// Widths that are shorter than the order of sums has parts, that end inside of them, that zeros fill up.
const WIDTHS: &[usize] = &[20, 32, 50, 96, 544, 1344];

/// Everything.
pub fn run(h: &mut Harness) {
    let plain = Fused::PRODUCT;
    let ends = [
        plain,
        Fused { bias: true, end: End::Add, ..plain },
        Fused { norm: true, bias: true, end: End::Gated(Activation::GeluTanh) },
        Fused { norm: true, end: End::Plain(Activation::Silu), ..plain },
    ];
    for format in WEIGHT_FORMATS {
        // Formats that come from GGUF alone differ in how a weight is read and in nothing else.
        let widths = match (format.can_be_made(), format.fits(32)) {
            (true, _) => WIDTHS,
            (false, true) => &[544],
            (false, false) => &[768],
        };
        for &cols in widths.iter().filter(|cols| format.fits(**cols)) {
            // Every end where weights are as they are, and one of the formats that are decoded.
            let ends =
                if matches!(format, remask_core::checkpoint::WeightFormat::F32) { &ends[..] } else { &ends[..1] };
            for &fused in ends {
                let case = Case { rows: MOST, cols, out: 74, scale: 1.0, fused, over_selected: false };
                products(h, &case, format);
            }
        }
    }
    head_select::same_bits(h);
    attention::same_bits(h);
}

/// Every kernel that 1 to [`MOST`] rows can be computed with, over some of those counts.
fn products(h: &mut Harness, case: &Case, format: remask_core::checkpoint::WeightFormat) {
    let inputs = Inputs::new(case, format);
    let matrix = device_matrix(h, &inputs.w);
    let both = (&inputs, &matrix);
    // Software adapters and others are never given each other's kernels.
    for software in [false, true] {
        let tiled = |rows, out| Portable::Tiled(Tile::choose(software, rows, out));
        let all = run_rows(h, case, both, tiled(MOST as u32, 74), MOST);
        let mut kernels = Vec::new();
        for rows in [1, 2, 3, 4, 7, 8, 9, 16, 17, 33, 64, 65, 70] {
            kernels.extend([74, 100_000].map(|out| (rows, tiled(rows, out))));
            if rows <= Few::MOST_ROWS && !software {
                let shapes = [(74, 512), (8192, 1024), (100_000, 4096)];
                kernels.extend(shapes.map(|(out, cols)| (rows, Portable::Few(Few::choose(format, rows, out, cols)))));
            }
        }
        kernels.dedup();
        for (rows, kernel) in kernels {
            let found = run_rows(h, case, both, kernel, rows as usize);
            let differs = found.iter().zip(&all).position(|(a, b)| a.to_bits() != b.to_bits());
            assert_eq!(differs, None, "{case:?} {format}: {rows} rows by {kernel:?} have other bits");
        }
    }
}
