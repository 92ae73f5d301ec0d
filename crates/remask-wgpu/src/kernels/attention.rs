//! Attention over any rows and key ranges; see `shaders/attention.wgsl`.

use super::{RowRecord, flags};
use crate::wgsl::{Define, KernelSpec};

/// `Params` of the shader.
#[repr(C)]
#[derive(Debug, Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Params {
    /// Columns of qkv.
    pub q_stride: u32,
    /// Columns of the key and value stores.
    pub kv_stride: u32,
    /// Query heads that share one K/V head.
    pub group: u32,
    /// Factor on query-key products.
    pub scale: f32,
    /// Slots that a row sees at most, up to its own; 0 for all of its range.
    pub window: u32,
    /// Columns of a row of the result.
    pub out_stride: u32,
    /// Zeros.
    pub padding: [u32; 2],
}

/// `Tile` of the shader: consecutive rows of one store and the union of what they see.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct TileRecord {
    /// Index of the first row.
    pub first: u32,
    /// Rows.
    pub count: u32,
    /// First absolute slot that any row sees.
    pub key_start: u32,
    /// One past the last absolute slot that any row sees.
    pub key_end: u32,
    /// The lowest absolute slot of a row, for windows.
    pub slot: u32,
    /// Zeros.
    pub padding: [u32; 3],
}

/// Slots whose values are summed one after the other before the sums are added up (`PIECE` of
/// `shaders/attention_sums.wgsl`). Pieces begin at absolute multiples of it: so must stores, so that what lies in a store
/// is summed alike wherever that is.
pub const PIECE: u32 = 16;

/// Workgroup memory that every WebGPU device grants.
const WORKGROUP_BYTES: u32 = 16 * 1024;

/// Bytes that a tile takes: queries, keys or values, shares, and a number a row and lane.
fn workgroup_bytes(head_dim: u32, rows: u32, keys: u32) -> u32 {
    let head_dim = head_dim.next_multiple_of(4);
    ((rows + keys) * (head_dim + 4) + rows * keys + rows * MOST_LANES) * 4
}

/// Lanes that share a row, at most.
const MOST_LANES: u32 = 16;

/// Rows and keys of a tile for heads of `head_dim` elements: the most rows (they share the reading of
/// keys), then the most keys, that fit in the workgroup memory every device has.
#[must_use]
pub fn tile(head_dim: u32) -> (u32, u32) {
    let bytes = |rows, keys| workgroup_bytes(head_dim, rows, keys);
    let rows = [16, 8].into_iter().find(|r| bytes(*r, 8) <= WORKGROUP_BYTES).unwrap_or(4);
    let keys = [64, 32, 16].into_iter().find(|k| bytes(rows, *k) <= WORKGROUP_BYTES).unwrap_or(8);
    (rows, keys)
}

/// The largest head that [`tile`] finds room for.
pub const MAX_HEAD_DIM: u32 = 256;

/// The kernel for heads of `head_dim` elements, an even number. On software adapters an invocation
/// takes four rows of the tile: what it loads from shared memory, the slowest thing they do, is used as
/// often. GPUs would rather have more invocations to hide the loads behind.
#[must_use]
pub fn spec(software: bool, head_dim: u32) -> KernelSpec {
    let (rows, keys) = tile(head_dim);
    let (lanes, rows_each) = match software {
        true => (8, 4),
        false => (MOST_LANES.min(keys), 1),
    };
    let numbers =
        [("HEAD_DIM", head_dim), ("TILE_ROWS", rows), ("TILE_KEYS", keys), ("LANES", lanes), ("ROWS_EACH", rows_each)];
    let mut defines = numbers.map(|(name, value)| (name, Define::Number(value))).to_vec();
    defines.extend(flags([("PAIRS", !head_dim.is_multiple_of(4))]));
    KernelSpec::portable("attention", defines)
}

/// One workgroup a tile and head.
#[must_use]
pub fn grid(tiles: u32, heads: u32) -> [u32; 3] {
    [tiles, heads, 1]
}

/// Cuts rows into tiles of at most `most` rows. `store` names each row's store: rows of different
/// stores never share a tile, since the union of their slots would span everything in between.
#[must_use]
pub fn tiles(rows: &[RowRecord], store: &[u32], most: u32) -> Vec<TileRecord> {
    let mut tiles: Vec<TileRecord> = Vec::with_capacity(rows.len().div_ceil(most as usize));
    let mut last_store = None;
    for (i, (row, store)) in rows.iter().zip(store).enumerate() {
        match tiles.last_mut() {
            Some(tile) if tile.count < most && last_store == Some(store) => {
                tile.count += 1;
                tile.key_start = tile.key_start.min(row.key_start);
                tile.key_end = tile.key_end.max(row.key_end);
                tile.slot = tile.slot.min(row.slot);
            }
            _ => {
                let RowRecord { key_start, key_end, slot, .. } = *row;
                tiles.push(TileRecord { first: i as u32, count: 1, key_start, key_end, slot, padding: [0; 3] });
            }
        }
        last_store = Some(store);
    }
    tiles
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_fit_everywhere() {
        for head_dim in (2..=MAX_HEAD_DIM).step_by(2) {
            let (rows, keys) = tile(head_dim);
            assert!(workgroup_bytes(head_dim, rows, keys) <= WORKGROUP_BYTES, "{head_dim}");
            assert!(rows % 4 == 0 && keys % 8 == 0);
        }
    }

    #[test]
    fn stores_never_share_a_tile() {
        let row = |start, end| RowRecord { key_start: start, key_end: end, slot: end - 1, ..RowRecord::default() };
        let rows = [row(0, 4), row(1, 6), row(100, 104), row(0, 4)];
        let tiles = tiles(&rows, &[0, 0, 1, 0], 16);
        let spans: Vec<_> = tiles.iter().map(|t| (t.first, t.count, t.key_start, t.key_end, t.slot)).collect();
        assert_eq!(spans, [(0, 2, 0, 6, 3), (2, 1, 100, 104, 103), (3, 1, 0, 4, 3)]);
    }
}
