// Attention of a tile of rows over a range of slots on matrix units, twice over the keys: once for each
// row's largest score and sum, once for the shares, so that accumulators need no rescaling, which
// cooperative matrices do not offer.
//
// tiles [pass tiles], binding 0           rows [pass rows], binding 1
// qkv   [.., q_stride] f32, binding 2 (rotated queries first)
// keys, values [slots, kv_stride] f16, bindings 3 and 4
// out [pass rows, heads * HEAD_DIM] f32, or f16 with HALF, binding 5
// A tile is up to TILE_ROWS consecutive rows of one store and the union of their key ranges; each row
// masks that down to its own range. Query head h reads K/V head h / group. Workgroup (tile, head) of four
// subgroups of 32. HEAD_DIM is 64 or 128.

#include "attention_params"
#include "pass"
#include "halves"

// Eight f16 that lie next to each other.
struct Half8 {
    low: vec4<f16>,
    high: vec4<f16>,
}

@group(0) @binding(0) var<storage, read> tiles: array<Tile>;
@group(0) @binding(1) var<storage, read> rows: array<Row>;
@group(0) @binding(2) var<storage, read> qkv: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> keys: array<Half8>;
@group(0) @binding(4) var<storage, read> values: array<Half8>;
@group(0) @binding(5) var<storage, read_write> out: array<Four>;

const THREADS: u32 = 128u;
const PITCH: u32 = HEAD_DIM / 4u + 2u;
const SCORE_PITCH: u32 = TILE_KEYS + 4u;
const SHARE_PITCH: u32 = TILE_KEYS / 4u + 2u;
const OUT_PITCH: u32 = HEAD_DIM + 4u;
// Invocations that share a row's scores.
const LANES: u32 = THREADS / TILE_ROWS;
const NEVER: f32 = -1e30;

var<workgroup> tile_q: array<vec4<f16>, TILE_ROWS * PITCH>;
// Keys of the tile, then its values.
var<workgroup> tile_kv: array<vec4<f16>, TILE_KEYS * PITCH>;
// Scores; at the end 16 rows of the output at a time.
var<workgroup> scores: array<f32, max(TILE_ROWS * SCORE_PITCH, 16u * OUT_PITCH)>;
var<workgroup> shares: array<vec4<f16>, TILE_ROWS * SHARE_PITCH>;
// Largest score and sum of each invocation.
var<workgroup> by_lane: array<vec2<f32>, THREADS>;

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
    let warp = thread / 32u;
    let local_row = thread / LANES;
    let lane = thread % LANES;
    let row = rows[tile.first + min(local_row, tile.count - 1u)];
    // Of the score tile a subgroup takes one column of matrices, of the output HEAD_DIM / 4 columns.
    let score_col = warp % (TILE_KEYS / 16u) * 16u;
    let score_row = warp / (TILE_KEYS / 16u) * (SCORE_FRAGS * 16u);
    let out_col = warp * (HEAD_DIM / 4u);

    for (var i = thread; i < TILE_ROWS * (HEAD_DIM / 4u); i += THREADS) {
        let r = i / (HEAD_DIM / 4u);
        let c = i % (HEAD_DIM / 4u);
        let source = tile.first + min(r, tile.count - 1u);
        tile_q[r * PITCH + c] = vec4<f16>(qkv[(source * params.q_stride + head * HEAD_DIM) / 4u + c] * params.scale);
    }

    var best = NEVER;
    var sum = 0.0;
    for (var base = tile.key_start; base < tile.key_end; base += TILE_KEYS) {
        for (var i = thread; i < TILE_KEYS * (HEAD_DIM / 8u); i += THREADS) {
            let slot = min(base + i / (HEAD_DIM / 8u), tile.key_end - 1u);
            let key = keys[(slot * params.kv_stride + kv_head * HEAD_DIM) / 8u + i % (HEAD_DIM / 8u)];
            let to = i / (HEAD_DIM / 8u) * PITCH + i % (HEAD_DIM / 8u) * 2u;
            tile_kv[to] = key.low;
            tile_kv[to + 1u] = key.high;
        }
        workgroupBarrier();
        {
#for i in 0..SCORE_FRAGS
            var score_$i: coop_mat16x16<f32, C>;
#endfor
#for d in 0..DIM_FRAGS
            let from_k_$d = score_col * PITCH + $du * 4u;
            let k_$d = coopLoad<coop_mat16x16<f16, B>>(&tile_kv[from_k_$d], PITCH);
#for i in 0..SCORE_FRAGS
            let from_q_$d_$i = (score_row + $iu * 16u) * PITCH + $du * 4u;
            let q_$d_$i = coopLoadT<coop_mat16x16<f16, A>>(&tile_q[from_q_$d_$i], PITCH);
            score_$i = coopMultiplyAdd(q_$d_$i, k_$d, score_$i);
#endfor
#endfor
#for i in 0..SCORE_FRAGS
            let to_$i = (score_row + $iu * 16u) * SCORE_PITCH + score_col;
            coopStoreT(score_$i, &scores[to_$i], SCORE_PITCH);
#endfor
        }
        workgroupBarrier();
        var peak = best;
        for (var c = lane; c < TILE_KEYS; c += LANES) {
            let live = base + c >= row.key_start && base + c < row.key_end;
            peak = max(peak, select(NEVER, scores[local_row * SCORE_PITCH + c], live));
        }
        sum *= exp(best - peak);
        best = peak;
        for (var c = lane; c < TILE_KEYS; c += LANES) {
            let live = base + c >= row.key_start && base + c < row.key_end;
            sum += select(0.0, exp(scores[local_row * SCORE_PITCH + c] - peak), live);
        }
    }
    by_lane[thread] = vec2<f32>(best, sum);
    workgroupBarrier();
    var total = 0.0;
    for (var l = 0u; l < LANES; l++) {
        best = max(best, by_lane[local_row * LANES + l].x);
    }
    for (var l = 0u; l < LANES; l++) {
        let part = by_lane[local_row * LANES + l];
        total += part.y * exp(part.x - best);
    }
    let inverse = 1.0 / total;

#for i in 0..ROW_FRAGS
#for j in 0..OUT_FRAGS
    var acc_$i_$j: coop_mat16x16<f32, C>;
#endfor
#endfor
    for (var base = tile.key_start; base < tile.key_end; base += TILE_KEYS) {
        for (var i = thread; i < TILE_KEYS * (HEAD_DIM / 8u); i += THREADS) {
            let slot = min(base + i / (HEAD_DIM / 8u), tile.key_end - 1u);
            let key = keys[(slot * params.kv_stride + kv_head * HEAD_DIM) / 8u + i % (HEAD_DIM / 8u)];
            let to = i / (HEAD_DIM / 8u) * PITCH + i % (HEAD_DIM / 8u) * 2u;
            tile_kv[to] = key.low;
            tile_kv[to + 1u] = key.high;
        }
        workgroupBarrier();
        {
#for i in 0..SCORE_FRAGS
            var score_$i: coop_mat16x16<f32, C>;
#endfor
#for d in 0..DIM_FRAGS
            let from_k_$d = score_col * PITCH + $du * 4u;
            let k_$d = coopLoad<coop_mat16x16<f16, B>>(&tile_kv[from_k_$d], PITCH);
#for i in 0..SCORE_FRAGS
            let from_q_$d_$i = (score_row + $iu * 16u) * PITCH + $du * 4u;
            let q_$d_$i = coopLoadT<coop_mat16x16<f16, A>>(&tile_q[from_q_$d_$i], PITCH);
            score_$i = coopMultiplyAdd(q_$d_$i, k_$d, score_$i);
#endfor
#endfor
#for i in 0..SCORE_FRAGS
            let to_$i = (score_row + $iu * 16u) * SCORE_PITCH + score_col;
            coopStoreT(score_$i, &scores[to_$i], SCORE_PITCH);
#endfor
        }
        workgroupBarrier();
        for (var c = lane; c < TILE_KEYS / 4u; c += LANES) {
            let slot = vec4<u32>(base + 4u * c) + vec4<u32>(0u, 1u, 2u, 3u);
            let live = slot >= vec4<u32>(row.key_start) & slot < vec4<u32>(row.key_end);
            let at = local_row * SCORE_PITCH + 4u * c;
            let score = vec4<f32>(scores[at], scores[at + 1u], scores[at + 2u], scores[at + 3u]);
            shares[local_row * SHARE_PITCH + c] = vec4<f16>(select(vec4<f32>(0.0), exp(score - best) * inverse, live));
        }
        for (var i = thread; i < TILE_KEYS * (HEAD_DIM / 8u); i += THREADS) {
            let slot = min(base + i / (HEAD_DIM / 8u), tile.key_end - 1u);
            let value = values[(slot * params.kv_stride + kv_head * HEAD_DIM) / 8u + i % (HEAD_DIM / 8u)];
            let to = i / (HEAD_DIM / 8u) * PITCH + i % (HEAD_DIM / 8u) * 2u;
            tile_kv[to] = value.low;
            tile_kv[to + 1u] = value.high;
        }
        workgroupBarrier();
#for k in 0..KEY_FRAGS
#for j in 0..OUT_FRAGS
        let from_v_$k_$j = $ku * 16u * PITCH + (out_col + $ju * 16u) / 4u;
        let v_$k_$j = coopLoadT<coop_mat16x16<f16, B>>(&tile_kv[from_v_$k_$j], PITCH);
#endfor
#for i in 0..ROW_FRAGS
        let from_p_$k_$i = $iu * 16u * SHARE_PITCH + $ku * 4u;
        let p_$k_$i = coopLoadT<coop_mat16x16<f16, A>>(&shares[from_p_$k_$i], SHARE_PITCH);
#for j in 0..OUT_FRAGS
        acc_$i_$j = coopMultiplyAdd(p_$k_$i, v_$k_$j, acc_$i_$j);
#endfor
#endfor
#endfor
        workgroupBarrier();
    }

#for i in 0..ROW_FRAGS
#for j in 0..OUT_FRAGS
    let col_$i_$j = out_col + $ju * 16u;
    coopStoreT(acc_$i_$j, &scores[col_$i_$j], OUT_PITCH);
#endfor
    workgroupBarrier();
    for (var i = thread; i < 16u * (HEAD_DIM / 4u); i += THREADS) {
        let r = $iu * 16u + i / (HEAD_DIM / 4u);
        let c = i % (HEAD_DIM / 4u);
        if r < tile.count {
            let at = i / (HEAD_DIM / 4u) * OUT_PITCH + 4u * c;
            let v = vec4<f32>(scores[at], scores[at + 1u], scores[at + 2u], scores[at + 3u]);
            out[((tile.first + r) * groups.y + head) * (HEAD_DIM / 4u) + c] = four(v);
        }
    }
    workgroupBarrier();
#endfor
}
