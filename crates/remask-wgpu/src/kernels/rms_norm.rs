//! RMSNorm, with or without gathering selected rows and mixing their guides; see `shaders/rms_norm.wgsl`.

use super::flags;
use crate::profile::AdapterProfile;
use crate::wgsl::{Define, Extension, KernelSpec};

/// `Params` of the shader.
#[repr(C)]
#[derive(Debug, Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Params {
    /// Added to the mean square.
    pub eps: f32,
    /// Factor on the result.
    pub scale: f32,
    /// Elements of a split / 4.
    pub split_stride4: u32,
    /// Which rows are gathered, as `rows_over` of `shaders/pass.wgsl` numbers them.
    pub over: u32,
}

/// What a norm does beside normalising.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Variant {
    /// Over the selected rows, with their guides mixed in.
    pub gather: bool,
    /// Splits of an addend whose sum is added first; 0 where nothing is.
    pub splits: u32,
    /// The result is f16.
    pub half: bool,
}

/// How a workgroup shares a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Lanes {
    /// Columns / 4.
    vectors: u32,
    /// Invocations.
    threads: u32,
    /// They add up within subgroups of 32, and not through workgroup memory alone.
    subgroups: bool,
}

impl Lanes {
    /// Invocations of a workgroup that adds up within subgroups, at most.
    pub const MOST: u32 = 512;

    /// For rows of `cols` columns, a multiple of four, on any device.
    #[must_use]
    pub fn portable(cols: u32) -> Self {
        Self::new(cols, 256, false)
    }

    /// For rows of `cols` columns on a device with subgroups of 32 and workgroups of [`Lanes::MOST`].
    #[must_use]
    pub fn subgroups(cols: u32) -> Self {
        Self::new(cols, Self::MOST, true)
    }

    /// For rows of `cols` columns on this device.
    #[must_use]
    pub fn choose(profile: &AdapterProfile, cols: u32) -> Self {
        let subgroups = profile.subgroups == Some((32, 32)) && profile.limits.invocations >= Self::MOST;
        if subgroups && !profile.is_software() { Self::subgroups(cols) } else { Self::portable(cols) }
    }

    fn new(cols: u32, most: u32, subgroups: bool) -> Self {
        let vectors = cols / 4;
        Self { vectors, threads: vectors.next_power_of_two().clamp(32, most), subgroups }
    }
}

/// The kernel over all rows, or over the selected ones. Buffers: x, weight, out, then the selected rows
/// where `gather`, then the addend where there are `splits`.
#[must_use]
pub fn spec(lanes: Lanes, variant: Variant) -> KernelSpec {
    let Lanes { vectors, threads, subgroups } = lanes;
    let on =
        [("GATHER", variant.gather), ("ADD", variant.splits > 0), ("HALF", variant.half), ("SUBGROUPS", subgroups)];
    let numbers =
        [("VECTORS", vectors), ("THREADS", threads), ("EACH", vectors.div_ceil(threads)), ("SPLITS", variant.splits)];
    let numbers = numbers.map(|(name, value)| (name, Define::Number(value)));
    let extensions = if subgroups { vec![Extension::Subgroups] } else { Vec::new() };
    KernelSpec { shader: "rms_norm", defines: flags(on).chain(numbers).collect(), extensions }
}

/// One workgroup a row.
#[must_use]
pub fn grid(rows: u32) -> [u32; 3] {
    [rows, 1, 1]
}
