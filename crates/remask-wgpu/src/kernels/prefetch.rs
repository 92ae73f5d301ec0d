//! Reading the weights that come next while memory idles; see `shaders/prefetch.wgsl`.

use remask_core::checkpoint::WeightFormat;

use super::gemm_matrix::MatrixTile;
use crate::wgsl::{Define, KernelSpec};

/// `Params` of the shader.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Params {
    /// Elements of 16 bytes of 16 rows.
    pub stride: u32,
    /// Elements of a split of them.
    pub split_stride: u32,
    /// Elements of a split that were read before.
    pub skip: u32,
    /// Zero.
    pub padding: u32,
}

/// Rows of a pass up to which its products wait for memory.
pub const MOST_ROWS: u32 = 128;

/// Invocations of a workgroup, which read an element each at a time.
const THREADS: u32 = 128;

/// Elements that an invocation may read.
const EACH: [u32; 3] = [1, 2, 4];

/// Bytes that are read in about the time that a small kernel takes, on an H100.
const BYTES: u64 = 12 << 20;

/// One dispatch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prefetch {
    each: u32,
    /// Parameters.
    pub params: Params,
    /// Workgroups.
    pub grid: [u32; 3],
}

impl Prefetch {
    /// The first reads for a product of `rows` x `cols` weights of `format` by `tile`: the beginning of every split.
    /// `None` where splits are too short.
    #[must_use]
    pub fn of(format: WeightFormat, rows: u32, cols: u32, tile: MatrixTile) -> Option<Self> {
        let groups = rows / 16;
        // Quants alone: scales are few.
        let bits = match format {
            WeightFormat::Q4 => 4,
            WeightFormat::Q8 => 8,
            _ => 16,
        };
        let stride = cols * 16 / (128 / bits);
        let split_stride = stride / tile.splits;
        let piece = |each: u32| u64::from(each * THREADS * 16) * u64::from(groups * tile.splits);
        let fits = |each: &u32| each * THREADS <= split_stride && (*each == 1 || piece(*each) <= BYTES);
        let each = EACH.into_iter().rev().find(fits)?;
        let params = Params { stride, split_stride, skip: 0, padding: 0 };
        Some(Self { each, params, grid: [groups, tile.splits, 1] })
    }

    /// The reads that follow these, where as much is left.
    #[must_use]
    pub fn next(self) -> Option<Self> {
        let skip = self.params.skip + self.each * THREADS;
        let rest = self.params.split_stride - skip;
        (rest >= self.each * THREADS).then_some(Self { params: Params { skip, ..self.params }, ..self })
    }

    /// The kernel.
    #[must_use]
    pub fn spec(self) -> KernelSpec {
        spec(self.each)
    }
}

fn spec(each: u32) -> KernelSpec {
    KernelSpec::portable("prefetch", vec![("THREADS", Define::Number(THREADS)), ("EACH", Define::Number(each))])
}

/// Every kernel that there is.
pub fn specs() -> impl Iterator<Item = KernelSpec> {
    EACH.into_iter().map(spec)
}
