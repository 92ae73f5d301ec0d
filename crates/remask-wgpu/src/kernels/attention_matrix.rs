//! Attention on matrix units; see `shaders/attention_matrix.wgsl`. Parameters, tiles and grid are those
//! of [`super::attention`].

use super::flags;
use crate::wgsl::{Define, Extension, KernelSpec};

/// Whether heads of `head_dim` elements can be computed.
#[must_use]
pub fn fits(head_dim: u32) -> bool {
    matches!(head_dim, 64 | 128)
}

/// How a workgroup divides its tile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Tile {
    /// Subgroups along rows, of 16 each.
    warps_rows: u32,
    /// Subgroups that divide the keys of the same rows.
    warps_keys: u32,
    /// Keys in workgroup memory at a time.
    keys: u32,
    /// Whether the next keys and the next values are both on their way at any time, rather than in turns.
    ahead: bool,
}

impl Tile {
    /// The tile for a pass of `rows` rows: few rows are spread over more workgroups and divide their keys, many
    /// share the reading of keys.
    fn choose(rows: u32) -> Self {
        let (warps_rows, warps_keys, keys) = match rows {
            0..=64 => (1, 4, 64),
            _ => (4, 1, 32),
        };
        Self { warps_rows, warps_keys, keys, ahead: rows <= 64 }
    }
}

/// Rows and keys of a tile in a pass of `rows` rows.
#[must_use]
pub fn tile(rows: u32) -> (u32, u32) {
    let Tile { warps_rows, keys, .. } = Tile::choose(rows);
    (warps_rows * 16, keys)
}

/// The kernel for heads of `head_dim` elements and tiles of a pass of `rows` rows, with a window where `window`, its
/// result in f16 where `half`.
#[must_use]
pub fn spec(head_dim: u32, rows: u32, window: bool, half: bool) -> KernelSpec {
    let Tile { warps_rows, warps_keys, keys, ahead } = Tile::choose(rows);
    let numbers = [
        ("HEAD_DIM", head_dim),
        ("WARPS_ROWS", warps_rows),
        ("WARPS_KEYS", warps_keys),
        ("TILE_KEYS", keys),
        ("KEY_FRAGS", keys / 16 / warps_keys),
        ("DIM_FRAGS", head_dim / 16),
        // Elements of eight keys or values that an invocation loads at a time.
        ("KV_EACH", keys * head_dim / 8 / (warps_rows * warps_keys * 32)),
    ];
    let mut defines: Vec<_> = numbers.map(|(name, value)| (name, Define::Number(value))).to_vec();
    defines.extend(flags([("AHEAD", ahead), ("WINDOW", window), ("HALF", half)]));
    KernelSpec {
        shader: "attention_matrix",
        defines,
        extensions: vec![Extension::F16, Extension::Subgroups, Extension::Matrix],
    }
}
