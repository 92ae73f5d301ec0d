//! Weights from rows to the order of fragments and back; see `shaders/reorder.wgsl`.

use remask_core::checkpoint::WeightFormat;

use super::gemm_matrix::steps_in_vector;
use super::{flags, fragment_defines};
use crate::order::Order;
use crate::wgsl::{Define, KernelSpec};

/// `Params` of the shader.
#[repr(C)]
#[derive(Debug, Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Params {
    /// Rows of the weights.
    pub rows: u32,
    /// Columns.
    pub cols: u32,
    /// Workgroups along the grid's first dimension.
    pub groups_x: u32,
    /// Zero.
    pub padding: u32,
}

/// The kernel for f16 or quantised weights between rows and `order`, in the direction that `to_rows` says.
#[must_use]
pub fn spec(format: WeightFormat, order: Order, to_rows: bool) -> KernelSpec {
    let mut defines = fragment_defines(format);
    let steps = steps_in_vector(format);
    defines.extend(flags([("SCALED", steps > 1), ("PAIRED", order == Order::Paired), ("TO_ROWS", to_rows)]));
    // Weights in a word: four words have an invocation's eight of every step.
    defines.push(("EACH", Define::Number(2 * steps)));
    KernelSpec::portable("reorder", defines)
}

/// Parameters and workgroups for `rows` x `cols` weights.
#[must_use]
pub fn plan(format: WeightFormat, rows: u32, cols: u32) -> (Params, [u32; 3]) {
    let words = (format.bytes(rows as usize, cols as usize) / 4) as u64;
    let groups = words.div_ceil(256);
    let groups_x = groups.min(32_768) as u32;
    let grid = [groups_x, groups.div_ceil(u64::from(groups_x)) as u32, 1];
    (Params { rows, cols, groups_x, padding: 0 }, grid)
}
