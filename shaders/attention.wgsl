// Attention of a tile of rows over a range of slots, one pass over the keys with a running maximum and
// sum (as FlashAttention, arXiv 2205.14135): the score matrix never exists.
//
// tiles [pass tiles], binding 0           rows [pass rows], binding 1
// qkv   [pass rows, q_stride] f32, binding 2 (rotated queries first)
// keys, values [slots, kv_stride] f32, bindings 3 and 4    out [pass rows, heads * HEAD_DIM], binding 5
// A tile is up to TILE_ROWS consecutive rows of one store and the union of their key ranges; each row
// masks that down to its own range. Eight lanes share a row: each scores TILE_KEYS / 8 keys and keeps
// every eighth element of the output. Query head h reads K/V head h / group. Workgroup (tile, head).

struct Params {
    q_stride: u32,
    kv_stride: u32,
    group: u32,          // query heads that share one K/V head
    scale: f32,
}

#include "pass"

struct Tile {
    first: u32,          // index of the first row
    count: u32,
    key_start: u32,
    key_end: u32,
}

@group(0) @binding(0) var<storage, read> tiles: array<Tile>;
@group(0) @binding(1) var<storage, read> rows: array<Row>;
@group(0) @binding(2) var<storage, read> qkv: array<f32>;
@group(0) @binding(3) var<storage, read> keys: array<f32>;
@group(0) @binding(4) var<storage, read> values: array<f32>;
@group(0) @binding(5) var<storage, read_write> out: array<f32>;

const LANES: u32 = 8u;
const THREADS: u32 = TILE_ROWS * LANES;
const PITCH: u32 = HEAD_DIM + 1u;
const OWN: u32 = (HEAD_DIM + LANES - 1u) / LANES;
const NEVER: f32 = -1e30;

var<workgroup> tile_q: array<f32, TILE_ROWS * PITCH>;
// Keys of the tile, then its values.
var<workgroup> tile_kv: array<f32, TILE_KEYS * PITCH>;
var<workgroup> scores: array<f32, TILE_ROWS * TILE_KEYS>;

@compute @workgroup_size(THREADS)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let tile = tiles[group.x];
    let head = group.y;
    let kv_head = head / params.group;
    let local_row = thread / LANES;
    let lane = thread % LANES;
    let live = local_row < tile.count;
    let row = tile.first + min(local_row, tile.count - 1u);
    let key_start = rows[row].key_start;
    let key_end = rows[row].key_end;

    for (var i = thread; i < TILE_ROWS * HEAD_DIM; i += THREADS) {
        let r = i / HEAD_DIM;
        let source = tile.first + min(r, tile.count - 1u);
        tile_q[r * PITCH + i % HEAD_DIM] = qkv[source * params.q_stride + head * HEAD_DIM + i % HEAD_DIM] * params.scale;
    }

    var best = NEVER;
    var sum = 0.0;
    var output: array<f32, OWN>;
    for (var base = tile.key_start; base < tile.key_end; base += TILE_KEYS) {
        for (var i = thread; i < TILE_KEYS * HEAD_DIM; i += THREADS) {
            let slot = min(base + i / HEAD_DIM, tile.key_end - 1u);
            tile_kv[(i / HEAD_DIM) * PITCH + i % HEAD_DIM] = keys[slot * params.kv_stride + kv_head * HEAD_DIM + i % HEAD_DIM];
        }
        workgroupBarrier();
        for (var j = lane; j < TILE_KEYS; j += LANES) {
            var s = 0.0;
            for (var d = 0u; d < HEAD_DIM; d++) {
                s += tile_q[local_row * PITCH + d] * tile_kv[j * PITCH + d];
            }
            let slot = base + j;
            scores[local_row * TILE_KEYS + j] = select(NEVER, s, slot >= key_start && slot < key_end);
        }
        workgroupBarrier();
        for (var i = thread; i < TILE_KEYS * HEAD_DIM; i += THREADS) {
            let slot = min(base + i / HEAD_DIM, tile.key_end - 1u);
            tile_kv[(i / HEAD_DIM) * PITCH + i % HEAD_DIM] = values[slot * params.kv_stride + kv_head * HEAD_DIM + i % HEAD_DIM];
        }
        var peak = best;
        for (var j = 0u; j < TILE_KEYS; j++) {
            peak = max(peak, scores[local_row * TILE_KEYS + j]);
        }
        let shrink = exp(best - peak);
        best = peak;
        sum *= shrink;
        for (var o = 0u; o < OWN; o++) {
            output[o] *= shrink;
        }
        workgroupBarrier();
        for (var j = 0u; j < TILE_KEYS; j++) {
            let s = scores[local_row * TILE_KEYS + j];
            let p = select(0.0, exp(s - best), s > NEVER);
            sum += p;
            for (var o = 0u; o < OWN; o++) {
                let d = lane + LANES * o;
                output[o] += p * tile_kv[j * PITCH + min(d, HEAD_DIM - 1u)];
            }
        }
        workgroupBarrier();
    }
    if live {
        for (var o = 0u; o < OWN; o++) {
            let d = lane + LANES * o;
            if d < HEAD_DIM {
                out[(row * groups.y + head) * HEAD_DIM + d] = output[o] / sum;
            }
        }
    }
}
