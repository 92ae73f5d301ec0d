// Attention of a tile of rows over a range of slots, one pass over the keys with a running maximum and
// sum (as FlashAttention, arXiv 2205.14135): the score matrix never exists.
//
// tiles [pass tiles], binding 0           rows [pass rows], binding 1
// qkv   [pass rows, q_stride] f32, binding 2 (rotated queries first)
// keys, values [slots, kv_stride] f32, bindings 3 and 4    out [pass rows, heads * HEAD_DIM], binding 5
// A tile is up to TILE_ROWS consecutive rows of one store and the union of their key ranges; each row
// masks that down to its own range. LANES lanes share ROWS_EACH rows: each scores every LANES-th key of
// the tile and keeps every LANES-th group of four elements of the output. Query head h reads K/V head
// h / group. Workgroup (tile, head).

#include "attention_params"
#include "pass"

@group(0) @binding(0) var<storage, read> tiles: array<Tile>;
@group(0) @binding(1) var<storage, read> rows: array<Row>;
@group(0) @binding(2) var<storage, read> qkv: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> keys: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read> values: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read_write> out: array<vec4<f32>>;

const VECS: u32 = HEAD_DIM / 4u;
const ROW_GROUPS: u32 = TILE_ROWS / ROWS_EACH;
const THREADS: u32 = ROW_GROUPS * LANES;
const PITCH: u32 = VECS + 1u;
// Keys that a lane scores, and groups of four elements of the output that it keeps.
const KEYS_EACH: u32 = TILE_KEYS / LANES;
const OWN: u32 = (VECS + LANES - 1u) / LANES;
const NEVER: f32 = -1e30;

var<workgroup> tile_q: array<vec4<f32>, TILE_ROWS * PITCH>;
// Keys of the tile, then its values.
var<workgroup> tile_kv: array<vec4<f32>, TILE_KEYS * PITCH>;
// exp(score - running maximum).
var<workgroup> shares: array<f32, TILE_ROWS * TILE_KEYS>;
// Largest score, and at the end the sum of shares, of each row and lane.
var<workgroup> by_lane: array<f32, TILE_ROWS * LANES>;

@compute @workgroup_size(THREADS)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    if group.x >= pass_info.tiles {
        return;
    }
    let tile = tiles[group.x];
    let head = group.y;
    let kv_head = head / params.group;
    let lane = thread % LANES;
    let row_group = thread / LANES;

    let stride = params.kv_stride / 4u;
    for (var i = thread; i < TILE_ROWS * VECS; i += THREADS) {
        let r = i / VECS;
        let source = tile.first + min(r, tile.count - 1u);
        tile_q[r * PITCH + i % VECS] = qkv[source * (params.q_stride / 4u) + head * VECS + i % VECS] * params.scale;
    }

    var key_start: array<u32, ROWS_EACH>;
    var key_end: array<u32, ROWS_EACH>;
    var best: array<f32, ROWS_EACH>;
    var sum: array<f32, ROWS_EACH>;
    var output: array<array<vec4<f32>, OWN>, ROWS_EACH>;
    for (var i = 0u; i < ROWS_EACH; i++) {
        let row = rows[tile.first + min(row_group + ROW_GROUPS * i, tile.count - 1u)];
        key_start[i] = row.key_start;
        key_end[i] = row.key_end;
        best[i] = NEVER;
    }

    for (var base = tile.key_start; base < tile.key_end; base += TILE_KEYS) {
        for (var i = thread; i < TILE_KEYS * VECS; i += THREADS) {
            let slot = min(base + i / VECS, tile.key_end - 1u);
            tile_kv[i / VECS * PITCH + i % VECS] = keys[slot * stride + kv_head * VECS + i % VECS];
        }
        workgroupBarrier();

        // The zeros are written out: a browser's compiler (Tint, for SwiftShader) does not write them again
        // every time round for a declaration without a value.
        var scores = array<array<f32, KEYS_EACH>, ROWS_EACH>();
        for (var d = 0u; d < VECS; d++) {
            var k: array<vec4<f32>, KEYS_EACH>;
            for (var j = 0u; j < KEYS_EACH; j++) {
                k[j] = tile_kv[(lane + LANES * j) * PITCH + d];
            }
            for (var i = 0u; i < ROWS_EACH; i++) {
                let q = tile_q[(row_group + ROW_GROUPS * i) * PITCH + d];
                for (var j = 0u; j < KEYS_EACH; j++) {
                    scores[i][j] += dot(q, k[j]);
                }
            }
        }
        for (var i = 0u; i < ROWS_EACH; i++) {
            var peak = NEVER;
            for (var j = 0u; j < KEYS_EACH; j++) {
                let slot = base + lane + LANES * j;
                scores[i][j] = select(NEVER, scores[i][j], slot >= key_start[i] && slot < key_end[i]);
                peak = max(peak, scores[i][j]);
            }
            by_lane[(row_group + ROW_GROUPS * i) * LANES + lane] = peak;
        }
        workgroupBarrier();

        for (var i = thread; i < TILE_KEYS * VECS; i += THREADS) {
            let slot = min(base + i / VECS, tile.key_end - 1u);
            tile_kv[i / VECS * PITCH + i % VECS] = values[slot * stride + kv_head * VECS + i % VECS];
        }
        for (var i = 0u; i < ROWS_EACH; i++) {
            let local_row = row_group + ROW_GROUPS * i;
            var peak = best[i];
            for (var l = 0u; l < LANES; l++) {
                peak = max(peak, by_lane[local_row * LANES + l]);
            }
            let shrink = exp(best[i] - peak);
            best[i] = peak;
            sum[i] *= shrink;
            for (var o = 0u; o < OWN; o++) {
                output[i][o] *= shrink;
            }
            for (var j = 0u; j < KEYS_EACH; j++) {
                let share = select(0.0, exp(scores[i][j] - peak), scores[i][j] > NEVER);
                sum[i] += share;
                shares[local_row * TILE_KEYS + lane + LANES * j] = share;
            }
        }
        workgroupBarrier();

        for (var j = 0u; j < TILE_KEYS; j++) {
            var v: array<vec4<f32>, OWN>;
            for (var o = 0u; o < OWN; o++) {
                v[o] = tile_kv[j * PITCH + min(lane + LANES * o, VECS - 1u)];
            }
            for (var i = 0u; i < ROWS_EACH; i++) {
                let share = shares[(row_group + ROW_GROUPS * i) * TILE_KEYS + j];
                for (var o = 0u; o < OWN; o++) {
                    output[i][o] += share * v[o];
                }
            }
        }
        workgroupBarrier();
    }

    for (var i = 0u; i < ROWS_EACH; i++) {
        by_lane[(row_group + ROW_GROUPS * i) * LANES + lane] = sum[i];
    }
    workgroupBarrier();
    for (var i = 0u; i < ROWS_EACH; i++) {
        let local_row = row_group + ROW_GROUPS * i;
        if local_row < tile.count {
            var total = 0.0;
            for (var l = 0u; l < LANES; l++) {
                total += by_lane[local_row * LANES + l];
            }
            for (var o = 0u; o < OWN; o++) {
                let d = lane + LANES * o;
                if d < VECS {
                    out[((tile.first + local_row) * groups.y + head) * VECS + d] = output[i][o] / total;
                }
            }
        }
    }
}
