// Attention of a tile of rows over a range of slots on matrix units, once over the keys. Scores, shares and sums
// stay in the registers that matrix units read and write (FlashAttention-2): a matrix of scores has the order
// of the matrix of shares that multiplies the values, and four neighbouring invocations hold a row. A row's
// shares are taken relative to a score near its largest so far; what was summed before is scaled only when a
// score is larger by more than SLACK, which after the first keys is rare (FlashAttention-4's idea).
//
// tiles [pass tiles], binding 0           rows [pass rows], binding 1
// qkv   [.., q_stride] f32, binding 2 (rotated queries first), two to an element
// keys, values [slots, kv_stride] f16, bindings 3 and 4, eight to an element
// out [pass rows, heads * HEAD_DIM] f32, or f16 with HALF, binding 5, two to an element
// A tile is up to TILE_ROWS consecutive rows of one store and the union of their key ranges; each row
// masks that down to its own range. Query head h reads K/V head h / group. Workgroup (tile, head) of
// WARPS_ROWS x WARPS_KEYS subgroups of 32: each takes 16 rows, and KEY_FRAGS * 16 of the TILE_KEYS keys that are
// in workgroup memory at a time. Where rows are few their keys are divided, and what the subgroups found is
// merged at the end. HEAD_DIM is 64 or 128. With WINDOW rows see no more than params.window says.

#include "attention_params"
#include "pass"
#include "halves"
#include "packed_halves"
#include "fragments"

@group(0) @binding(0) var<storage, read> tiles: array<Tile>;
@group(0) @binding(1) var<storage, read> rows: array<Row>;
@group(0) @binding(2) var<storage, read> qkv: array<vec2<f32>>;
@group(0) @binding(3) var<storage, read> keys: array<vec4<u32>>;
@group(0) @binding(4) var<storage, read> values: array<vec4<u32>>;
@group(0) @binding(5) var<storage, read_write> out: array<Two>;

const WARPS: u32 = WARPS_ROWS * WARPS_KEYS;
const THREADS: u32 = WARPS * 32u;
const TILE_ROWS: u32 = WARPS_ROWS * 16u;
// Keys of a subgroup.
const WARP_KEYS: u32 = KEY_FRAGS * 16u;
// Elements of a head, and of a row in workgroup memory, padded so that the eight rows that a matrix load
// reads at a time lie in different banks.
const UNITS: u32 = HEAD_DIM / 8u;
const PITCH: u32 = HEAD_DIM / 4u + 2u;
// Slots that all invocations load at a time.
const SLOTS: u32 = THREADS / UNITS;
// Where values begin, behind the keys.
const VALUES: u32 = TILE_KEYS * PITCH;
const LOG2_E: f32 = 1.44269504;
// The score of a key that a row does not see, and what a row's largest score begins with: far above the one, so
// that such keys have no share, and far below every other.
const NEVER: f32 = -1e30;
const LOWEST: f32 = -1e29;
// exp2(SLACK) times a few is far from the largest f16.
const SLACK: f32 = 11.5;

var<workgroup> tile_kv: array<vec4<f16>, 2u * TILE_KEYS * PITCH>;
#if WARPS_KEYS == 1
#else
// Of each subgroup's rows the score that shares are relative to, and the sum of shares.
var<workgroup> found: array<vec2<f32>, WARPS * 16u>;
// A matrix of each subgroup's output, two elements at a time, and the one before it, which is still being read.
var<workgroup> parts: array<vec2<f32>, 2u * WARPS * 128u>;
#endif

// Of an invocation's eight elements of a matrix the first four are of its lower row, the others of the upper
// one, eight rows on; 2, 3, 6 and 7 are of the upper eight columns (see `fragments.wgsl`).

// Scaled queries; `low` and `high` are where the two rows' begin in qkv.
fn queries(low: u32, high: u32) -> coop_mat16x16<f16, A> {
    return factor_of(
        vec2<f16>(qkv[low] * params.scale),
        vec2<f16>(qkv[low + 4u] * params.scale),
        vec2<f16>(qkv[high] * params.scale),
        vec2<f16>(qkv[high + 4u] * params.scale),
    );
}

// Scores of the keys from `key` on, less those of keys that are not the rows' own.
fn masked(scores: coop_mat16x16<f32, C>, key: u32, start: vec2<u32>, end: vec2<u32>) -> coop_mat16x16<f32, C> {
    var matrix: coop_mat16x16<f32, C> = scores;
    var matrix_elements: array<f32, 8>;
#for i in 0..8
    let key_$i = key + $iu % 2u + $iu / 2u % 2u * 8u;
    let live_$i = key_$i >= start[$iu / 4u] && key_$i < end[$iu / 4u];
    matrix_elements[$iu] = select(NEVER, matrix_elements[$iu], live_$i);
#endfor
    return matrix;
}

// The largest score of each row.
fn largest(scores: coop_mat16x16<f32, C>) -> vec2<f32> {
    var matrix: coop_mat16x16<f32, C> = scores;
    var matrix_elements: array<f32, 8>;
    let low = max(max(matrix_elements[0], matrix_elements[1]), max(matrix_elements[2], matrix_elements[3]));
    let high = max(max(matrix_elements[4], matrix_elements[5]), max(matrix_elements[6], matrix_elements[7]));
    return vec2<f32>(low, high);
}

// Shares of scores, relative to each row's `best`, which is in units of log2.
fn relative(scores: coop_mat16x16<f32, C>, best: vec2<f32>) -> coop_mat16x16<f32, C> {
    var matrix: coop_mat16x16<f32, C> = scores;
    var matrix_elements: array<f32, 8>;
#for i in 0..8
    matrix_elements[$iu] = exp2(fma(matrix_elements[$iu], LOG2_E, -best[$iu / 4u]));
#endfor
    return matrix;
}

// The sum of each row.
fn summed(shares: coop_mat16x16<f32, C>) -> vec2<f32> {
    var matrix: coop_mat16x16<f32, C> = shares;
    var matrix_elements: array<f32, 8>;
    let low = matrix_elements[0] + matrix_elements[1] + matrix_elements[2] + matrix_elements[3];
    let high = matrix_elements[4] + matrix_elements[5] + matrix_elements[6] + matrix_elements[7];
    return vec2<f32>(low, high);
}

// Shares as they multiply values.
fn halved(shares: coop_mat16x16<f32, C>) -> coop_mat16x16<f16, A> {
    var matrix: coop_mat16x16<f32, C> = shares;
    var matrix_elements: array<f32, 8>;
#for i in 0..4
    let two_$i = vec2<f16>(vec2<f32>(matrix_elements[2u * $iu], matrix_elements[2u * $iu + 1u]));
#endfor
    return factor_of(two_0, two_1, two_2, two_3);
}

// Each row times its factor.
fn scaled(sums: coop_mat16x16<f32, C>, factor: vec2<f32>) -> coop_mat16x16<f32, C> {
    var matrix: coop_mat16x16<f32, C> = sums;
    var matrix_elements: array<f32, 8>;
#for i in 0..8
    matrix_elements[$iu] *= factor[$iu / 4u];
#endfor
    return matrix;
}
#if WARPS_KEYS == 1

// Writes output where the rows are the tile's.
fn write(sums: coop_mat16x16<f32, C>, at: vec2<u32>, live: vec2<bool>) {
    var matrix: coop_mat16x16<f32, C> = sums;
    var matrix_elements: array<f32, 8>;
    if live.x {
        out[at.x] = two(vec2<f32>(matrix_elements[0], matrix_elements[1]));
        out[at.x + 4u] = two(vec2<f32>(matrix_elements[2], matrix_elements[3]));
    }
    if live.y {
        out[at.y] = two(vec2<f32>(matrix_elements[4], matrix_elements[5]));
        out[at.y + 4u] = two(vec2<f32>(matrix_elements[6], matrix_elements[7]));
    }
}
#else

// Puts output where others of the workgroup add to it.
fn share(sums: coop_mat16x16<f32, C>, to: u32) {
    var matrix: coop_mat16x16<f32, C> = sums;
    var matrix_elements: array<f32, 8>;
#for i in 0..4
    parts[to + $iu * 32u] = vec2<f32>(matrix_elements[2u * $iu], matrix_elements[2u * $iu + 1u]);
#endfor
}
#endif

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
    let warp = thread / 32u;
    let lane = thread % 32u;
    // The invocation's two rows within the tile, and the first of its columns.
    let warp_row = warp % WARPS_ROWS * 16u;
    let local = vec2<u32>(warp_row + lane / 4u) + vec2<u32>(0u, 8u);
    let column = lane % 4u * 2u;
    // The subgroup's keys within those in workgroup memory.
    let warp_key = warp / WARPS_ROWS * WARP_KEYS;

    let kv_units = params.kv_stride / 8u;
    let unit = head / params.group * UNITS + thread % UNITS;
    let slot = thread / UNITS;
    let put = slot * PITCH + thread % UNITS * 2u;
    let last = tile.key_end - 1u;
#if WINDOW
    let first_seen = first_key(tile.key_start, tile.slot);
#else
    let first_seen = tile.key_start;
#endif
    // Keys come together with the same others whatever rows share a tile. Stores begin at multiples of TILE_KEYS too.
    let first_slot = first_seen / TILE_KEYS * TILE_KEYS;
#for e in 0..KV_EACH
    var k_$e = keys[min(first_slot + slot + $eu * SLOTS, last) * kv_units + unit];
#if AHEAD
    var v_$e = values[min(first_slot + slot + $eu * SLOTS, last) * kv_units + unit];
#else
    var v_$e: vec4<u32>;
#endif
#endfor

    let source = vec2<u32>(tile.first) + min(local, vec2<u32>(tile.count - 1u));
    let row_low = rows[source.x];
    let row_high = rows[source.y];
#if WINDOW
    let start = vec2<u32>(first_key(row_low.key_start, row_low.slot), first_key(row_high.key_start, row_high.slot));
#else
    let start = vec2<u32>(row_low.key_start, row_high.key_start);
#endif
    let end = vec2<u32>(row_low.key_end, row_high.key_end);
    let from_q = (source * params.q_stride + head * HEAD_DIM + column) / 2u;
#for d in 0..DIM_FRAGS
    let q_$d = queries(from_q.x + $du * 8u, from_q.y + $du * 8u);
#endfor

    // Of both rows the score that shares are relative to, in units of log2, and the sum of the shares that this
    // invocation holds.
    var best = vec2<f32>(LOWEST);
    var sum = vec2<f32>(0.0);
#for d in 0..DIM_FRAGS
    var acc_$d: coop_mat16x16<f32, C>;
#endfor
    for (var base = first_slot; base < tile.key_end; base += TILE_KEYS) {
#for e in 0..KV_EACH
        tile_kv[put + $eu * SLOTS * PITCH] = four_halves(k_$e.xy);
        tile_kv[put + $eu * SLOTS * PITCH + 1u] = four_halves(k_$e.zw);
#endfor
        // What comes next is on its way while matrices are multiplied.
#for e in 0..KV_EACH
#if AHEAD
        k_$e = keys[min(base + TILE_KEYS + slot + $eu * SLOTS, last) * kv_units + unit];
#else
        v_$e = values[min(base + slot + $eu * SLOTS, last) * kv_units + unit];
#endif
#endfor
        workgroupBarrier();
#for k in 0..KEY_FRAGS
        var score_$k: coop_mat16x16<f32, C>;
#endfor
#for d in 0..DIM_FRAGS
#for k in 0..KEY_FRAGS
        let from_k_$d_$k = (warp_key + $ku * 16u) * PITCH + $du * 4u;
        let key_$d_$k = coopLoad<coop_mat16x16<f16, B>>(&tile_kv[from_k_$d_$k], PITCH);
        score_$k = coopMultiplyAdd(q_$d, key_$d_$k, score_$k);
#endfor
#endfor
        let first = base + warp_key;
        if subgroupAny(any(start > vec2<u32>(first)) || any(end < vec2<u32>(first + WARP_KEYS))) {
#for k in 0..KEY_FRAGS
            score_$k = masked(score_$k, first + $ku * 16u + column, start, end);
#endfor
        }
        var peak = largest(score_0);
#for k in 1..KEY_FRAGS
        peak = max(peak, largest(score_$k));
#endfor
        peak = max(peak, subgroupShuffleXor(peak, 1u));
        peak = max(peak, subgroupShuffleXor(peak, 2u)) * LOG2_E;
        let grows = peak > best + SLACK;
        if subgroupAny(any(grows)) {
            let factor = select(vec2<f32>(1.0), exp2(best - peak), grows);
            best = select(best, peak, grows);
            sum *= factor;
#for d in 0..DIM_FRAGS
            acc_$d = scaled(acc_$d, factor);
#endfor
        }
#for k in 0..KEY_FRAGS
        score_$k = relative(score_$k, best);
        sum += summed(score_$k);
        let share_$k = halved(score_$k);
#endfor
#for e in 0..KV_EACH
        tile_kv[VALUES + put + $eu * SLOTS * PITCH] = four_halves(v_$e.xy);
        tile_kv[VALUES + put + $eu * SLOTS * PITCH + 1u] = four_halves(v_$e.zw);
#endfor
#for e in 0..KV_EACH
#if AHEAD
        v_$e = values[min(base + TILE_KEYS + slot + $eu * SLOTS, last) * kv_units + unit];
#else
        k_$e = keys[min(base + TILE_KEYS + slot + $eu * SLOTS, last) * kv_units + unit];
#endif
#endfor
        workgroupBarrier();
#for k in 0..KEY_FRAGS
#for d in 0..DIM_FRAGS
        let from_v_$k_$d = VALUES + (warp_key + $ku * 16u) * PITCH + $du * 4u;
        let value_$k_$d = coopLoadT<coop_mat16x16<f16, B>>(&tile_kv[from_v_$k_$d], PITCH);
        acc_$d = coopMultiplyAdd(share_$k, value_$k_$d, acc_$d);
#endfor
#endfor
    }

    sum += subgroupShuffleXor(sum, 1u);
    sum += subgroupShuffleXor(sum, 2u);
#if WARPS_KEYS == 1
    let to = ((vec2<u32>(tile.first) + local) * groups.y + head) * (HEAD_DIM / 2u) + column / 2u;
    let live = local < vec2<u32>(tile.count);
#for d in 0..DIM_FRAGS
    write(scaled(acc_$d, 1.0 / sum), to + $du * 8u, live);
#endfor
#else
    if lane % 4u == 0u {
        found[warp * 16u + lane / 4u] = vec2<f32>(best.x, sum.x);
        found[warp * 16u + lane / 4u + 8u] = vec2<f32>(best.y, sum.y);
    }
    workgroupBarrier();
    // Of the subgroups that have the same rows.
    var top = best;
    var total = vec2<f32>(0.0);
    for (var other = warp % WARPS_ROWS; other < WARPS; other += WARPS_ROWS) {
        let low = found[other * 16u + lane / 4u];
        let high = found[other * 16u + lane / 4u + 8u];
        let higher = max(top, vec2<f32>(low.x, high.x));
        total = total * exp2(top - higher) + vec2<f32>(low.y, high.y) * exp2(vec2<f32>(low.x, high.x) - higher);
        top = higher;
    }
    let factor = exp2(best - top) / total;
#for d in 0..DIM_FRAGS
    let part_$d = $du % 2u * (WARPS * 128u);
    share(scaled(acc_$d, factor), part_$d + warp * 128u + lane);
    workgroupBarrier();
    // The subgroups of the same rows divide the matrix's pairs of elements.
    for (var i = warp / WARPS_ROWS * 32u + lane; i < 128u; i += WARPS_KEYS * 32u) {
        var pair = vec2<f32>(0.0);
        for (var other = warp % WARPS_ROWS; other < WARPS; other += WARPS_ROWS) {
            pair += parts[part_$d + other * 128u + i];
        }
        let row = warp_row + i % 32u / 4u + i / 64u * 8u;
        if row < tile.count {
            let at = ((tile.first + row) * groups.y + head) * (HEAD_DIM / 2u) + $du * 8u + i % 4u + i / 32u % 2u * 4u;
            out[at] = two(pair);
        }
    }
#endfor
#endif
}
