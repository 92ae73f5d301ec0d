// Attention of a tile of rows over a range of slots on matrix units, once over the keys. A row's shares are
// taken relative to a score near its largest so far; what was summed before has to be scaled only when a score
// is larger by more than SLACK, which after the first keys is rare (cooperative matrices are scaled by way of
// workgroup memory, since nothing else tells their rows apart). The idea of scaling seldom is FlashAttention-4's.
//
// tiles [pass tiles], binding 0           rows [pass rows], binding 1
// qkv   [.., q_stride] f32, binding 2 (rotated queries first)
// keys, values [slots, kv_stride] f16, bindings 3 and 4, eight to an element
// out [pass rows, heads * HEAD_DIM] f32, or f16 with HALF, binding 5
// A tile is up to TILE_ROWS consecutive rows of one store and the union of their key ranges; each row
// masks that down to its own range. Query head h reads K/V head h / group. Workgroup (tile, head) of four
// subgroups of 32. HEAD_DIM is 64 or 128.

#include "attention_params"
#include "pass"
#include "halves"
#include "packed_halves"

@group(0) @binding(0) var<storage, read> tiles: array<Tile>;
@group(0) @binding(1) var<storage, read> rows: array<Row>;
@group(0) @binding(2) var<storage, read> qkv: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> keys: array<vec4<u32>>;
@group(0) @binding(4) var<storage, read> values: array<vec4<u32>>;
@group(0) @binding(5) var<storage, read_write> out: array<Four>;

const THREADS: u32 = 128u;
// Elements of a head, and of a row in workgroup memory.
const UNITS: u32 = HEAD_DIM / 8u;
const PITCH: u32 = HEAD_DIM / 4u + 2u;
const SCORE_PITCH: u32 = TILE_KEYS + 4u;
const SHARE_PITCH: u32 = TILE_KEYS / 4u + 2u;
const OUT_PITCH: u32 = HEAD_DIM + 4u;
// Invocations that share a row's scores.
const LANES: u32 = THREADS / TILE_ROWS;
const NEVER: f32 = -1e30;
// exp(SLACK) times a few is far from the largest f16.
const SLACK: f32 = 8.0;

var<workgroup> tile_q: array<vec4<f16>, TILE_ROWS * PITCH>;
// Keys of the tile, then its values.
var<workgroup> tile_kv: array<vec4<f16>, TILE_KEYS * PITCH>;
// Scores; between them 16 rows of the output at a time.
var<workgroup> scores: array<f32, max(TILE_ROWS * SCORE_PITCH, 16u * OUT_PITCH)>;
var<workgroup> shares: array<vec4<f16>, TILE_ROWS * SHARE_PITCH>;
// What a row's sums are to be multiplied with.
var<workgroup> factors: array<f32, TILE_ROWS>;
// Whether a row of a subgroup has sums to be scaled.
var<workgroup> grown: array<u32, 4>;

// The largest of the invocations that share a row.
fn largest(of_lane: f32) -> f32 {
    var most = of_lane;
    for (var other = 1u; other < LANES; other <<= 1u) {
        most = max(most, subgroupShuffleXor(most, other));
    }
    return most;
}

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
    let kv_units = params.kv_stride / 8u;
    let kv_head = head / params.group * UNITS;
    let warp = thread / 32u;
    let local_row = thread / LANES;
    let lane = thread % LANES;
    let row = rows[tile.first + min(local_row, tile.count - 1u)];
    // Of the score tile a subgroup takes one column of matrices, of the output HEAD_DIM / 4 columns.
    let score_col = warp % (TILE_KEYS / 16u) * 16u;
    let score_row = warp / (TILE_KEYS / 16u) * (SCORE_FRAGS * 16u);
    let out_col = warp * (HEAD_DIM / 4u);
#for j in 0..OUT_FRAGS
    let col_$j = out_col + $ju * 16u;
#endfor

#for e in 0..KV_EACH
    let slot_$e = (thread + $eu * THREADS) / UNITS;
    let unit_$e = kv_head + (thread + $eu * THREADS) % UNITS;
    let put_$e = slot_$e * PITCH + (thread + $eu * THREADS) % UNITS * 2u;
    var kv_$e = keys[min(tile.key_start + slot_$e, tile.key_end - 1u) * kv_units + unit_$e];
#endfor
    for (var i = thread; i < TILE_ROWS * (HEAD_DIM / 4u); i += THREADS) {
        let r = i / (HEAD_DIM / 4u);
        let c = i % (HEAD_DIM / 4u);
        let source = tile.first + min(r, tile.count - 1u);
        tile_q[r * PITCH + c] = vec4<f16>(qkv[(source * params.q_stride + head * HEAD_DIM) / 4u + c] * params.scale);
    }

    // Score that the row's shares are relative to, and the sum of those that this invocation computed.
    var best = NEVER;
    var sum = 0.0;
#for i in 0..ROW_FRAGS
#for j in 0..OUT_FRAGS
    var acc_$i_$j: coop_mat16x16<f32, C>;
#endfor
#endfor
    for (var base = tile.key_start; base < tile.key_end; base += TILE_KEYS) {
        workgroupBarrier();
#for e in 0..KV_EACH
        tile_kv[put_$e] = four_halves(kv_$e.xy);
        tile_kv[put_$e + 1u] = four_halves(kv_$e.zw);
#endfor
        workgroupBarrier();
#for e in 0..KV_EACH
        kv_$e = values[min(base + slot_$e, tile.key_end - 1u) * kv_units + unit_$e];
#endfor
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
        // The range of the row within these keys.
        let live_from = max(row.key_start, base) - base;
        let live_to = max(row.key_end, base) - base;
        var peak = NEVER;
#for c in 0..SHARES
        let at_$c = lane + $cu * LANES;
        let from_$c = local_row * SCORE_PITCH + 4u * at_$c;
        let column_$c = vec4<u32>(4u * at_$c) + vec4<u32>(0u, 1u, 2u, 3u);
        let live_$c = column_$c >= vec4<u32>(live_from) & column_$c < vec4<u32>(live_to);
        let read_$c = vec4<f32>(scores[from_$c], scores[from_$c + 1u], scores[from_$c + 2u], scores[from_$c + 3u]);
        let score_of_$c = select(vec4<f32>(NEVER), read_$c, live_$c);
        peak = max(peak, max(max(score_of_$c.x, score_of_$c.y), max(score_of_$c.z, score_of_$c.w)));
#endfor
        peak = largest(peak);
        let grows = peak > best + SLACK;
        let factor = exp(best - peak);
        let scales = subgroupAny(grows && best > NEVER);
        if lane == 0u {
            factors[local_row] = select(1.0, factor, grows);
        }
        if thread % 32u == 0u {
            grown[warp] = u32(scales);
        }
        if grows {
            sum *= factor;
            best = peak;
        }
#for c in 0..SHARES
        let share_$c = select(vec4<f32>(0.0), exp(score_of_$c - best), live_$c);
        sum += share_$c.x + share_$c.y + share_$c.z + share_$c.w;
        shares[local_row * SHARE_PITCH + at_$c] = vec4<f16>(share_$c);
#endfor
#for e in 0..KV_EACH
        tile_kv[put_$e] = four_halves(kv_$e.xy);
        tile_kv[put_$e + 1u] = four_halves(kv_$e.zw);
        kv_$e = keys[min(base + TILE_KEYS + slot_$e, tile.key_end - 1u) * kv_units + unit_$e];
#endfor
        let by_warp = workgroupUniformLoad(&grown);
        if (by_warp[0] | by_warp[1] | by_warp[2] | by_warp[3]) != 0u {
#for i in 0..ROW_FRAGS
#for j in 0..OUT_FRAGS
            coopStoreT(acc_$i_$j, &scores[col_$j], OUT_PITCH);
#endfor
            workgroupBarrier();
            for (var i = thread; i < 16u * HEAD_DIM; i += THREADS) {
                scores[i / HEAD_DIM * OUT_PITCH + i % HEAD_DIM] *= factors[$iu * 16u + i / HEAD_DIM];
            }
            workgroupBarrier();
#for j in 0..OUT_FRAGS
            acc_$i_$j = coopLoadT<coop_mat16x16<f32, C>>(&scores[col_$j], OUT_PITCH);
#endfor
            workgroupBarrier();
#endfor
        }
#for k in 0..KEY_FRAGS
#for j in 0..OUT_FRAGS
        let from_v_$k_$j = $ku * 16u * PITCH + col_$j / 4u;
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
    }

    for (var other = 1u; other < LANES; other <<= 1u) {
        sum += subgroupShuffleXor(sum, other);
    }
    workgroupBarrier();
    if lane == 0u {
        factors[local_row] = 1.0 / sum;
    }
#for i in 0..ROW_FRAGS
#for j in 0..OUT_FRAGS
    coopStoreT(acc_$i_$j, &scores[col_$j], OUT_PITCH);
#endfor
    workgroupBarrier();
    for (var i = thread; i < 16u * (HEAD_DIM / 4u); i += THREADS) {
        let r = $iu * 16u + i / (HEAD_DIM / 4u);
        let c = i % (HEAD_DIM / 4u);
        if r < tile.count {
            let at = i / (HEAD_DIM / 4u) * OUT_PITCH + 4u * c;
            let v = vec4<f32>(scores[at], scores[at + 1u], scores[at + 2u], scores[at + 3u]);
            out[((tile.first + r) * groups.y + head) * (HEAD_DIM / 4u) + c] = four(v * factors[r]);
        }
    }
    workgroupBarrier();
#endfor
}
