//! Attention of few rows; see `shaders/attention_row.wgsl`. Parameters are those of [`super::attention`].

use super::flags;
use super::linear::Arithmetic;
use crate::profile::AdapterProfile;
use crate::wgsl::{Define, KernelSpec};

/// Whether a pass of `rows` rows is computed row by row. Tiles read keys once for several rows, which
/// pays where there are enough tiles to keep a GPU busy; matrix units need fewer. Software adapters are
/// always busy, but compute whole tiles of rows however few there are.
#[must_use]
pub fn suits(profile: &AdapterProfile, arithmetic: Arithmetic, rows: u32) -> bool {
    let most = match arithmetic {
        Arithmetic::Full if profile.is_software() => 4,
        Arithmetic::Full => 64,
        Arithmetic::Half => 8,
    };
    rows <= most
}

/// What is in f16, and not in f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Halves {
    /// Keys and values.
    pub store: bool,
    /// The result.
    pub out: bool,
}

/// The kernel for heads of `head_dim` elements, an even number.
#[must_use]
pub fn spec(head_dim: u32, halves: Halves) -> KernelSpec {
    let mut defines = vec![("HEAD_DIM", Define::Number(head_dim))];
    let pairs = !head_dim.is_multiple_of(4);
    defines.extend(flags([("HALF_STORE", halves.store), ("HALF", halves.out), ("PAIRS", pairs)]));
    KernelSpec::portable("attention_row", defines)
}

/// One workgroup a row and head.
#[must_use]
pub fn grid(rows: u32, heads: u32) -> [u32; 3] {
    [rows, heads, 1]
}
