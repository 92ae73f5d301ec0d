//! Attention on matrix units; see `shaders/attention_matrix.wgsl`. Parameters, tiles and grid are those
//! of [`super::attention`].

use crate::wgsl::{Define, Extension, KernelSpec};

/// Invocations of a workgroup.
const THREADS: u32 = 128;

/// Whether heads of `head_dim` elements can be computed.
#[must_use]
pub fn fits(head_dim: u32) -> bool {
    matches!(head_dim, 64 | 128)
}

/// Rows and keys of a tile in a pass of `rows` rows: few rows are spread over more workgroups, many share
/// the reading of keys.
#[must_use]
pub fn tile(rows: u32) -> (u32, u32) {
    match rows {
        0..=64 => (16, 64),
        65..=256 => (32, 64),
        _ => (64, 32),
    }
}

/// The kernel for heads of `head_dim` elements and tiles of a pass of `rows` rows, its result in f16
/// where `half`.
#[must_use]
pub fn spec(head_dim: u32, rows: u32, half: bool) -> KernelSpec {
    let (tile_rows, tile_keys) = tile(rows);
    let (row_frags, key_frags) = (tile_rows / 16, tile_keys / 16);
    let numbers = [
        ("HEAD_DIM", head_dim),
        ("TILE_ROWS", tile_rows),
        ("TILE_KEYS", tile_keys),
        ("ROW_FRAGS", row_frags),
        ("KEY_FRAGS", key_frags),
        ("DIM_FRAGS", head_dim / 16),
        // Four subgroups share the tile of scores, and the columns of the output.
        ("SCORE_FRAGS", row_frags * key_frags / 4),
        ("OUT_FRAGS", head_dim / 64),
        // Elements of eight keys or values, and vectors of four shares, that an invocation takes.
        ("KV_EACH", tile_keys * head_dim / 8 / THREADS),
        ("SHARES", tile_keys * tile_rows / 4 / THREADS),
    ];
    let mut defines: Vec<_> = numbers.map(|(name, value)| (name, Define::Number(value))).to_vec();
    if half {
        defines.push(("HALF", Define::Flag));
    }
    KernelSpec {
        shader: "attention_matrix",
        defines,
        extensions: vec![Extension::F16, Extension::Subgroups, Extension::Matrix],
    }
}
