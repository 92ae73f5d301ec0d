//! RMSNorm and LayerNorm, with or without adding a part's result first, gathering selected rows and mixing their guides;
//! see `shaders/norm.wgsl`.

use remask_core::architecture::NormKind;

use super::{flags, padded};
use crate::profile::AdapterProfile;
use crate::wgsl::{Define, Extension, KernelSpec};

/// `Params` of the shader.
#[repr(C)]
#[derive(Debug, Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Params {
    /// Added to the mean square, or to the variance.
    pub eps: f32,
    /// Factor on the result.
    pub scale: f32,
    /// Elements of a split / 4.
    pub split_stride4: u32,
    /// Which rows are gathered, as `rows_over` of `shaders/pass.wgsl` numbers them.
    pub over: u32,
    /// Added to the mean square of what is normalised before it is added.
    pub after_eps: f32,
    /// Zeros.
    pub padding: [u32; 3],
}

/// What a norm does beside normalising.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Variant {
    /// By the mean square, or by mean and variance and with a bias.
    pub kind: NormKind,
    /// Over the selected rows, with their guides mixed in.
    pub gather: bool,
    /// Splits of an addend whose sum is added first; 0 where nothing is.
    pub splits: u32,
    /// That sum goes through an RMSNorm of its own before it is added.
    pub after: bool,
    /// The result is f16.
    pub half: bool,
}

impl Variant {
    /// A norm of this kind over all rows, in float32, of what is there.
    #[must_use]
    pub const fn plain(kind: NormKind) -> Self {
        Self { kind, gather: false, splits: 0, after: false, half: false }
    }
}

/// How a workgroup shares a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Lanes {
    /// Columns.
    cols: u32,
    /// Invocations.
    threads: u32,
    /// They add up within subgroups of 32, and not through workgroup memory alone.
    subgroups: bool,
}

impl Lanes {
    /// Invocations of a workgroup that adds up within subgroups, at most.
    pub const MOST: u32 = 512;

    /// For rows of `cols` columns on any device.
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
        Self { cols, threads: (padded(cols) / 4).next_power_of_two().clamp(32, most), subgroups }
    }
}

/// The kernel over all rows, or over the selected ones. Buffers: x, weight, out; then the bias of a LayerNorm, the selected
/// rows where `gather`, the addend where there are `splits`, and the weight of its norm where `after`.
#[must_use]
pub fn spec(lanes: Lanes, variant: Variant) -> KernelSpec {
    let Lanes { cols, threads, subgroups } = lanes;
    let Variant { kind, gather, splits, after, half } = variant;
    let (layer, adds, vectors) = (kind == NormKind::Layer, splits > 0, padded(cols) / 4);
    let on = [
        ("GATHER", gather),
        ("ADD", adds),
        ("WRITES_BACK", adds && !gather),
        ("LAYER", layer),
        ("AFTER", after),
        ("AGAIN", layer || after),
        ("HALF", half),
        ("SUBGROUPS", subgroups),
    ];
    let numbers = [
        ("COLS", cols),
        ("VECTORS", vectors),
        ("THREADS", threads),
        ("EACH", vectors.div_ceil(threads)),
        ("SPLITS", splits),
    ];
    let numbers = numbers.map(|(name, value)| (name, Define::Number(value)));
    let extensions = if subgroups { vec![Extension::Subgroups] } else { Vec::new() };
    KernelSpec { shader: "norm", defines: flags(on).chain(numbers).collect(), extensions }
}

/// One workgroup a row.
#[must_use]
pub fn grid(rows: u32) -> [u32; 3] {
    [rows, 1, 1]
}
