// Attention of a tile of rows over a range of slots, one pass over the keys with a running maximum and
// sum (as FlashAttention, arXiv 2205.14135): the score matrix never exists.
//
// tiles [pass tiles], binding 0; then those of `attention_sums`
// A tile is up to TILE_ROWS consecutive rows of one store and the union of their key ranges; each row
// narrows that down to its own range. LANES lanes share ROWS_EACH rows: each scores every LANES-th key of
// the tile and keeps every LANES-th group of four elements of the output. Query head h reads K/V head
// h / group. Workgroup (tile, head).

#include "attention_params"
#include "pass"

@group(0) @binding(next) var<storage, read> tiles: array<Tile>;

#include "attention_sums"

const ROW_GROUPS: u32 = TILE_ROWS / ROWS_EACH;
const THREADS: u32 = ROW_GROUPS * LANES;
const PITCH: u32 = VECS + 1u;
// Keys that a lane scores, and groups of four elements of the output that it keeps.
const KEYS_EACH: u32 = TILE_KEYS / LANES;
const OWN: u32 = (VECS + LANES - 1u) / LANES;
// Keys of a tile that are of one piece.
const RUN: u32 = min(TILE_KEYS, PIECE);

var<workgroup> tile_q: array<vec4<f32>, TILE_ROWS * PITCH>;
// Keys of the tile, then its values.
var<workgroup> tile_kv: array<vec4<f32>, TILE_KEYS * PITCH>;
// Shares of the tile's keys.
var<workgroup> shares: array<f32, TILE_ROWS * TILE_KEYS>;
// Largest score of each row and lane.
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
    let kv_from = head / params.group * HEAD_DIM;
    let lane = thread % LANES;
    let row_group = thread / LANES;

    for (var i = thread; i < TILE_ROWS * VECS; i += THREADS) {
        let r = i / VECS;
        let source = tile.first + min(r, tile.count - 1u);
        tile_q[r * PITCH + i % VECS] = query4(source * params.q_stride + head * HEAD_DIM, i % VECS);
    }

    var key_start: array<u32, ROWS_EACH>;
    var key_end: array<u32, ROWS_EACH>;
    var reference: array<f32, ROWS_EACH>;
    // Of what lies before the piece at hand, and of the piece.
    var sum = array<f32, ROWS_EACH>();
    var piece_sum = array<f32, ROWS_EACH>();
    var output = array<array<vec4<f32>, OWN>, ROWS_EACH>();
    var piece = array<array<vec4<f32>, OWN>, ROWS_EACH>();
    for (var i = 0u; i < ROWS_EACH; i++) {
        let row = rows[tile.first + min(row_group + ROW_GROUPS * i, tile.count - 1u)];
        key_start[i] = first_key(row.key_start, row.slot);
        key_end[i] = row.key_end;
        reference[i] = NEVER;
    }

    let first = first_key(tile.key_start, tile.slot);
    for (var base = first / PIECE * PIECE; base < tile.key_end; base += TILE_KEYS) {
        for (var i = thread; i < TILE_KEYS * VECS; i += THREADS) {
            let slot = clamp(base + i / VECS, first, tile.key_end - 1u);
            tile_kv[i / VECS * PITCH + i % VECS] = key4(slot * params.kv_stride + kv_from, i % VECS);
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
                    scores[i][j] = with_product(scores[i][j], q, k[j]);
                }
            }
        }
        for (var i = 0u; i < ROWS_EACH; i++) {
            var peak = NEVER;
            for (var j = 0u; j < KEYS_EACH; j++) {
                let slot = base + lane + LANES * j;
                peak = max(peak, select(NEVER, scores[i][j], slot >= key_start[i] && slot < key_end[i]));
            }
            by_lane[(row_group + ROW_GROUPS * i) * LANES + lane] = peak;
        }
        workgroupBarrier();

        for (var i = thread; i < TILE_KEYS * VECS; i += THREADS) {
            let slot = clamp(base + i / VECS, first, tile.key_end - 1u);
            tile_kv[i / VECS * PITCH + i % VECS] = value4(slot * params.kv_stride + kv_from, i % VECS);
        }
        for (var i = 0u; i < ROWS_EACH; i++) {
            let local_row = row_group + ROW_GROUPS * i;
            var peak = NEVER;
            for (var l = 0u; l < LANES; l++) {
                peak = max(peak, by_lane[local_row * LANES + l]);
            }
            let higher = max(reference[i], floor(peak));
            let shrink = power_of_two(reference[i] - higher);
            reference[i] = higher;
            sum[i] *= shrink;
            piece_sum[i] *= shrink;
            for (var o = 0u; o < OWN; o++) {
                output[i][o] *= shrink;
                piece[i][o] *= shrink;
            }
            for (var j = 0u; j < KEYS_EACH; j++) {
                shares[local_row * TILE_KEYS + lane + LANES * j] = share_of(scores[i][j], higher);
            }
        }
        workgroupBarrier();

        for (var run = 0u; run < TILE_KEYS; run += RUN) {
            var all_seen = true;
            for (var i = 0u; i < ROWS_EACH; i++) {
                all_seen = all_seen && key_start[i] <= base + run && key_end[i] >= base + run + RUN;
                if (base + run) % PIECE == 0u {
                    sum[i] += piece_sum[i];
                    piece_sum[i] = 0.0;
                    for (var o = 0u; o < OWN; o++) {
                        output[i][o] += piece[i][o];
                        piece[i][o] = vec4<f32>(0.0);
                    }
                }
            }
            // Keys that only some of the rows see are left out by the others: nothing may be said of what lies there.
            let seen_end = select(run, run + RUN, all_seen);
            for (var j = run; j < seen_end; j++) {
                var v: array<vec4<f32>, OWN>;
                for (var o = 0u; o < OWN; o++) {
                    v[o] = tile_kv[j * PITCH + min(lane + LANES * o, VECS - 1u)];
                }
                for (var i = 0u; i < ROWS_EACH; i++) {
                    let share = shares[(row_group + ROW_GROUPS * i) * TILE_KEYS + j];
                    piece_sum[i] += share;
                    for (var o = 0u; o < OWN; o++) {
                        piece[i][o] = fma(vec4<f32>(share), v[o], piece[i][o]);
                    }
                }
            }
            for (var j = seen_end; j < run + RUN; j++) {
                for (var i = 0u; i < ROWS_EACH; i++) {
                    if base + j >= key_start[i] && base + j < key_end[i] {
                        let share = shares[(row_group + ROW_GROUPS * i) * TILE_KEYS + j];
                        piece_sum[i] += share;
                        for (var o = 0u; o < OWN; o++) {
                            let v = tile_kv[j * PITCH + min(lane + LANES * o, VECS - 1u)];
                            piece[i][o] = fma(vec4<f32>(share), v, piece[i][o]);
                        }
                    }
                }
            }
        }
        workgroupBarrier();
    }

    for (var i = 0u; i < ROWS_EACH; i++) {
        let local_row = row_group + ROW_GROUPS * i;
        let row = tile.first + local_row;
        if local_row < tile.count {
            let total = sum[i] + piece_sum[i];
            for (var o = 0u; o < OWN; o++) {
                let d = lane + LANES * o;
                if d < VECS {
                    put4(row * params.out_stride + head * HEAD_DIM, d, (output[i][o] + piece[i][o]) / total);
                }
            }
            if head + 1u == groups.y {
                put_end(row, groups.y, lane, LANES);
            }
        }
    }
}
