// Linear layer on matrix units: x * weights^T, f16 in, f32 accumulation; quantised weights become f16 in registers, the
// nearest to what they are in float32 (int8 and int4 at once, as numbers of at most 19 bits do). SPLITS workgroups may share the inner dimension of a tile: their sums lie one behind the other for whoever
// reads them, or with MEET each writes its sums down, and the last one to arrive adds them up, in the order of the
// splits, and ends the product.
//
// weights: `part_rows` x 8 `cols8` in the order of fragments (`reorder.wgsl`)
// x [rows, cols] f16
// out, and what else there is by the product's END (`matrix_ends.wgsl`):
//     sums      out [SPLITS, extra / out_stride rows, out_stride] f32
//     add       out [rows, out_stride] f32 is added to
//     gated     out [rows, out_stride] f16 is activated(gate) * up, half as many columns as weights, which come as 16 rows
//               of the gate, 16 rows of the other factor and so on
//     plain     out [rows, out_stride] f16 is what the activation makes of the product
//     residual  as add, and the next layer is told of it: gain [out_stride] f32 is the weight of its norm, normed
//               [rows, out_stride] f16 and squares are what it reads as x and squares, a part for every tile of columns
//     rotary    out [rows, out_stride] f32 gets rotated queries, keys and values [slots, extra heads of HEAD_DIM] f16
//               the row's keys, rotated, and values; rows [pass rows], table [turns, HEAD_DIM / 2] (cos, sin).
//               TILE_N is HEAD_DIM: a subgroup has 16 rows of weights of a head's first half and the same of its second.
//               With HEAD_NORM head_norms [2, HEAD_DIM] f32 are the weights of an RMSNorm of each head of queries, and of
//               each of keys, before they turn
// squares [rows, NORMED] f32, where NORMED is not 0: x is the residual stream, times the weight of the norm and SHRINK,
//     and here are partial sums of the squares of its rows. A norm divides a row by one number, so products
//     can be divided by it as well.
// bias [weights' rows, of a gate all before all of the other factor] f32, with BIAS: is added to the product first
// sums, counters, with MEET: room for the sums of all splits, and for every tile how many of its splits have
//     arrived, which between dispatches is none.
// x and out have room for whole tiles of rows; what lies past the pass's rows is computed and means
// nothing. part_rows is a multiple of TILE_N and each split of the inner dimension one of TILE_K.
// Workgroup (m tile, n tile, split).
//
// A workgroup of WARPS x DEPTH subgroups of 32 computes TILE_M x TILE_N, TILE_K columns a stage; each subgroup has all
// the rows and weights of its own. WARPS divide the rows of weights, DEPTH the columns of a stage: what the latter have
// summed up is put together in workgroup memory. Weights go from memory into the registers that multiply them, and are
// loaded anew as soon as they are used. Only x passes through workgroup memory, of which a multiprocessor has so
// little that tiles of weights beside it would leave room for one workgroup. Rows of x are padded by 16 bytes, so
// that the eight rows that a matrix load reads at a time lie in different banks. Workgroups that share weights
// follow each other, so that the weights are read from memory once.

struct Params {
    cols8: u32,        // inner dimension / 8
    part_rows: u32,
    first: u32,        // output column of the part's first row
    out_stride: u32,
    eps: f32,          // of the norm of x, and of heads
    extra: u32,        // elements of a split's output, or key/value heads
    over: u32,         // which rows x has: `rows_over`
    first_row: u32,    // row of the part that workgroup 0 begins with
}

#include "packed_halves"
#include "fragments"
#include "saturated"
#include "pass"

@group(0) @binding(next) var<storage, read> weights: array<vec4<u32>>;
// Eight f16 an element.
@group(0) @binding(next) var<storage, read> x: array<vec4<u32>>;
#if ACTIVATES
@group(0) @binding(next) var<storage, read_write> out: array<f16>;
#else
@group(0) @binding(next) var<storage, read_write> out: array<f32>;
#endif
#if END == residual
@group(0) @binding(next) var<storage, read> gain: array<f32>;
@group(0) @binding(next) var<storage, read_write> normed: array<f16>;
@group(0) @binding(next) var<storage, read_write> squares: array<f32>;
#endif
#if END == rotary
@group(0) @binding(next) var<storage, read> rows: array<Row>;
@group(0) @binding(next) var<storage, read> table: array<vec2<f32>>;
@group(0) @binding(next) var<storage, read_write> keys: array<f16>;
@group(0) @binding(next) var<storage, read_write> values: array<f16>;
#if HEAD_NORM
@group(0) @binding(next) var<storage, read> head_norms: array<f32>;
#endif
#endif
#if NORMED == 0
#else
@group(0) @binding(next) var<storage, read> squares: array<f32>;
#endif
#if BIAS
@group(0) @binding(next) var<storage, read> bias: array<f32>;
#endif
#if MEET
@group(0) @binding(next) var<storage, read_write> sums: array<vec4<f32>>;
@group(0) @binding(next) var<storage, read_write> counters: array<atomic<u32>>;
#endif

const THREADS: u32 = WARPS * DEPTH * 32u;
// Columns of a stage that a subgroup multiplies.
const WARP_K: u32 = TILE_K / DEPTH;
// A row of x in workgroup memory.
const PITCH: u32 = TILE_K / 4u + 2u;
// Elements of x in a row of a stage; an invocation takes one, and again every X_ROWS rows.
const X_UNITS: u32 = TILE_K / 8u;
const X_ROWS: u32 = THREADS / X_UNITS;
// Elements of weights of a subgroup's columns of a stage, for 16 rows and all its invocations.
const W_STAGE: u32 = VECTORS * 32u;

// Keeps residual streams that were not normalised within f16: what is beyond is cut off, and 1/16 of what counts
// beside a row's mean is far from the least f16.
const SHRINK: f32 = 0.0625;
// Elements that a subgroup puts down for a split.
const SUMS: u32 = FRAGS_M * FRAGS_N * 64u;

var<workgroup> tile_x: array<vec4<f16>, TILE_M * PITCH>;

#if WEIGHT == f16
fn f16_fragment(held: vec4<u32>) -> coop_mat16x16<f16, A> {
    return factor_of(two_halves(held.x), two_halves(held.y), two_halves(held.z), two_halves(held.w));
}
#endif
#if WEIGHT == q8
// Eight int8 + 128, in two words, with the scales of the invocation's two rows. A byte b in the low bits of
// f16 1024 is 1024 + b.
fn int8_fragment(low: u32, high: u32, scales: u32) -> coop_mat16x16<f16, A> {
    let scale = two_halves(scales);
    let two_0 = (two_halves((low & 0x00FF00FFu) | 0x64006400u) - 1152.0h) * scale.x;
    let two_1 = (two_halves(((low >> 8u) & 0x00FF00FFu) | 0x64006400u) - 1152.0h) * scale.x;
    let two_2 = (two_halves((high & 0x00FF00FFu) | 0x64006400u) - 1152.0h) * scale.y;
    let two_3 = (two_halves(((high >> 8u) & 0x00FF00FFu) | 0x64006400u) - 1152.0h) * scale.y;
    return factor_of(two_0, two_1, two_2, two_3);
}
#endif
#if WEIGHT == q4
// Eight int4 + 8 in a word, with the scales of the invocation's two rows. A nibble q in the low bits of f16
// 1024 is 1024 + q.
fn int4_fragment(word: u32, scales: u32) -> coop_mat16x16<f16, A> {
    let scale = two_halves(scales);
    let two_0 = (two_halves((word & 0x000F000Fu) | 0x64006400u) - 1032.0h) * scale.x;
    let two_1 = (two_halves(((word >> 4u) & 0x000F000Fu) | 0x64006400u) - 1032.0h) * scale.x;
    let two_2 = (two_halves(((word >> 8u) & 0x000F000Fu) | 0x64006400u) - 1032.0h) * scale.y;
    let two_3 = (two_halves(((word >> 12u) & 0x000F000Fu) | 0x64006400u) - 1032.0h) * scale.y;
    return factor_of(two_0, two_1, two_2, two_3);
}
#endif
#if PACKED
// A word of the weights' buffer.
fn word_at(index: u32) -> u32 {
    return weights[index / 4u][index % 4u];
}

fn two_words(index: u32) -> vec2<u32> {
    return vec2<u32>(word_at(index), word_at(index + 1u));
}

// What the numbers of 16 columns are multiplied with and what is added, for the invocation's rows g and g + 8: (a, b)
// and (a, b). `scales` are the bits that 32 columns have, of both rows; `more` what else there is.
fn scaling_of(scales: u32, more: vec4<u32>, second: u32) -> vec4<f32> {
#if SCALING == half
    let a = unpack2x16float(scales);
    return vec4<f32>(a.x, -16.0 * a.x, a.y, -16.0 * a.y);
#endif
#if SCALING == pair
    let a = unpack2x16float(scales);
    let b = unpack2x16float(more.x);
    return vec4<f32>(a.x, b.x, a.y, b.y);
#endif
#if SCALING == bytes
    let bytes = vec4<f32>((vec4<u32>(scales) >> vec4<u32>(0u, 8u, 16u, 24u)) & vec4<u32>(255u));
    return bitcast<vec4<f32>>(more) * bytes * vec4<f32>(1.0, -1.0, 1.0, -1.0);
#endif
#if SCALING == signed
    let bytes = vec2<f32>((vec2<i32>(vec2<u32>(scales) << vec2<u32>(24u - second * 8u, 8u - second * 8u))) >> vec2<u32>(24u));
    let a = bitcast<vec2<f32>>(more.xy) * bytes;
    return vec4<f32>(a.x, -32.0 * a.x, a.y, -32.0 * a.y);
#endif
}

// The two elements `pair` (of four) of a step, with the bits above their nibbles in `high` from bit pair * HIGH on: `q a + b`
// in float32, which is the weight itself, and then the nearest f16.
fn two_packed(word: u32, high: u32, pair: u32, a: f32, b: f32) -> vec2<f16> {
    var q = (word >> (pair * 4u)) & 0x000F000Fu;
#if HIGH == 1
    q |= ((high >> pair) & 0x00010001u) << 4u;
#endif
#if HIGH == 2
    q |= ((high >> (pair * 2u)) & 0x00030003u) << 4u;
#endif
    return vec2<f16>(vec2<f32>(two_halves(q | 0x64006400u) - 1024.0h) * a + b);
}

fn packed_fragment(word: u32, high: u32, scaling: vec4<f32>) -> coop_mat16x16<f16, A> {
    let two_0 = two_packed(word, high, 0u, scaling.x, scaling.y);
    let two_1 = two_packed(word, high, 1u, scaling.x, scaling.y);
    let two_2 = two_packed(word, high, 2u, scaling.z, scaling.w);
    let two_3 = two_packed(word, high, 3u, scaling.z, scaling.w);
    return factor_of(two_0, two_1, two_2, two_3);
}
#endif
#include "matrix_ends"

@compute @workgroup_size(THREADS)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let m0 = group.x * TILE_M;
    // `rows_over`, whose result naga does not take for the same in all invocations.
    let rows_here = select(select(pass_info.rows, pass_info.selected, params.over == 1u), pass_info.logits, params.over == 2u);
    if m0 >= rows_here {
        return;
    }
    let n0 = group.y * TILE_N;
    let warp = thread / 32u % WARPS;
#if DEPTH == 1
    const level = 0u;
#else
    let level = thread / 32u / WARPS;
#endif
    let lane = thread % 32u;
    let warp_n = warp * (FRAGS_N * 16u);
    // Tiles of 16 rows of weights.
    let n16 = (params.first_row + n0) / 16u;
#for j in 0..FRAGS_N
#if END == rotary
    let n16_$j = n16 + $ju * WARPS + warp;
#else
    let n16_$j = n16 + warp * FRAGS_N + $ju;
#endif
#endfor
    let stages = params.cols8 / SPLITS / X_UNITS;
    let split_stage = group.z * stages;

    let x_put = thread / X_UNITS * PITCH + thread % X_UNITS * 2u;
    let x_step = X_ROWS * params.cols8;
    var x_at = (m0 + thread / X_UNITS) * params.cols8 + split_stage * X_UNITS + thread % X_UNITS;
    // Elements of weights of 16 rows.
    let w_rows = params.cols8 / 2u / PER_VECTOR * 32u;
#if SCALED
    // An element has an invocation's scales for 128 columns.
    let scales = params.part_rows / 16u * w_rows * (4u + HIGH) / 4u;
#endif
#if PACKED
    // First words of the bits above nibbles, and of what lies behind the scales.
    let high_from = params.part_rows / 16u * w_rows * 4u;
    let more_from = (scales + params.part_rows / 16u * (params.cols8 / 2u)) * 4u;
#endif
#for j in 0..FRAGS_N
    var w_at_$j = n16_$j * w_rows + (split_stage * DEPTH + level) * W_STAGE + lane;
#for v in 0..VECTORS
    var w_$j_$v = weights[w_at_$j + $vu * 32u];
#for h in 0..HIGH
    var h_$j_$v_$h = word_at(high_from + (w_at_$j + $vu * 32u) * HIGH + $hu);
#endfor
#endfor
#if SCALING == pair
    let m_from_$j = more_from / 4u + n16_$j * (params.cols8 / 2u) + level * WARP_K / 128u * 8u + lane / 4u;
    var m_$j = weights[m_from_$j + split_stage * TILE_K / 128u * 8u];
#endif
#if FLOATS == 2
    let m_from_$j = more_from / 4u + n16_$j * (params.cols8 / 32u * 8u) + lane / 4u;
    var m_$j = weights[m_from_$j + (split_stage * TILE_K + level * WARP_K) / 256u * 8u];
#endif
#if FLOATS == 1
    let m_from_$j = more_from + n16_$j * (params.cols8 / 32u * 16u) + lane / 4u * 2u;
    var m_$j = two_words(m_from_$j + (split_stage * TILE_K + level * WARP_K) / 256u * 16u);
#endif
#if SCALED
    let s_from_$j = scales + n16_$j * (params.cols8 / 2u) + level * WARP_K / 128u * 8u + lane / 4u;
    var s_$j = weights[s_from_$j + split_stage * TILE_K / 128u * 8u];
#endif
#endfor
#for i in 0..X_EACH
    var x_$i = x[x_at + $iu * x_step];
#endfor
#if NORMED == 0
#else
    factor_rows(m0, thread);
#endif
#for i in 0..FRAGS_M
#for j in 0..FRAGS_N
    var acc_$i_$j: coop_mat16x16<f32, C>;
#endfor
#endfor
    for (var stage = 0u; stage < stages; stage++) {
        let more = stage + 1u < stages;
        workgroupBarrier();
#for i in 0..X_EACH
        tile_x[x_put + $iu * X_ROWS * PITCH] = four_halves(x_$i.xy);
        tile_x[x_put + $iu * X_ROWS * PITCH + 1u] = four_halves(x_$i.zw);
#endfor
        workgroupBarrier();
        x_at += select(0u, X_UNITS, more);
#for i in 0..X_EACH
        x_$i = x[x_at + $iu * x_step];
#endfor
        // The last stage loads what it has once more, rather than branching around every load.
#for j in 0..FRAGS_N
        w_at_$j += select(0u, DEPTH * W_STAGE, more);
#if SCALED
#if SCALES == 2
#if DEPTH == 1
        let scales_$j = select(s_$j.xy, s_$j.zw, stage % 2u == 1u);
#else
        let scales_$j = select(s_$j.xy, s_$j.zw, level % 2u == 1u);
#endif
#else
        let scales_$j = s_$j;
#endif
        s_$j = weights[s_from_$j + (split_stage + select(stage, stage + 1u, more)) * TILE_K / 128u * 8u];
#endif
#if SCALING == pair
#if SCALES == 2
#if DEPTH == 1
        let more_$j = select(m_$j.xy, m_$j.zw, stage % 2u == 1u);
#else
        let more_$j = select(m_$j.xy, m_$j.zw, level % 2u == 1u);
#endif
#else
        let more_$j = m_$j;
#endif
        m_$j = weights[m_from_$j + (split_stage + select(stage, stage + 1u, more)) * TILE_K / 128u * 8u];
#endif
#if FLOATS == 2
        let more_$j = m_$j;
        m_$j = weights[m_from_$j + ((split_stage + select(stage, stage + 1u, more)) * TILE_K + level * WARP_K) / 256u * 8u];
#endif
#if FLOATS == 1
        let more_$j = m_$j;
        m_$j = two_words(m_from_$j + ((split_stage + select(stage, stage + 1u, more)) * TILE_K + level * WARP_K) / 256u * 16u);
#endif
#endfor
#for v in 0..VECTORS
#for p in 0..PER_VECTOR
        let from_$v_$p = level * (WARP_K / 4u) + ($vu * PER_VECTOR + $pu) * 4u;
#for j in 0..FRAGS_N
#if WEIGHT == f16
        let a_$v_$p_$j = f16_fragment(w_$j_$v);
#endif
#if WEIGHT == q8
        let a_$v_$p_$j = int8_fragment(w_$j_$v[2u * $pu], w_$j_$v[2u * $pu + 1u], scales_$j[$vu]);
#endif
#if WEIGHT == q4
        let a_$v_$p_$j = int4_fragment(w_$j_$v[$pu], scales_$j[($vu * 4u + $pu) / 2u]);
#endif
#if PACKED
#if HIGH == 0
        let above_$v_$p_$j = 0u;
#endif
#if HIGH == 1
        let above_$v_$p_$j = h_$j_$v_0 >> ($pu * 4u);
#endif
#if HIGH == 2
        let above_$v_$p_$j = select(h_$j_$v_0, h_$j_$v_1, $pu > 1u) >> ($pu % 2u * 8u);
#endif
#if SCALING == half
        let more_$v_$p_$j = vec4<u32>(0u);
#endif
#if SCALING == pair
        let more_$v_$p_$j = vec4<u32>(more_$j[($vu * 4u + $pu) / 2u]);
#endif
#if FLOATS == 2
        let more_$v_$p_$j = more_$j;
#endif
#if FLOATS == 1
        let more_$v_$p_$j = more_$j.xyxy;
#endif
        let scaling_$v_$p_$j = scaling_of(scales_$j[($vu * 4u + $pu) / 2u], more_$v_$p_$j, $pu % 2u);
        let a_$v_$p_$j = packed_fragment(w_$j_$v[$pu], above_$v_$p_$j, scaling_$v_$p_$j);
#endif
#endfor
#for i in 0..FRAGS_M
        let from_$v_$p_$i = from_$v_$p + $iu * 16u * PITCH;
        let b_$v_$p_$i = coopLoad<coop_mat16x16<f16, B>>(&tile_x[from_$v_$p_$i], PITCH);
#for j in 0..FRAGS_N
        acc_$i_$j = coopMultiplyAdd(a_$v_$p_$j, b_$v_$p_$i, acc_$i_$j);
#endfor
#endfor
#endfor
#for j in 0..FRAGS_N
        w_$j_$v = weights[w_at_$j + $vu * 32u];
#for h in 0..HIGH
        h_$j_$v_$h = word_at(high_from + (w_at_$j + $vu * 32u) * HIGH + $hu);
#endfor
#endfor
#endfor
    }

    // The product was taken as weights * x^T, so its columns are rows of out. From here on the sums are those of the
    // first of DEPTH. What the end reads is asked for before sums meet, so that it comes meanwhile.
    let out_stride = params.out_stride;
#if END == rotary
    let head = (params.first + n0) / HEAD_DIM;
#for i in 0..FRAGS_M
    let row_$i = m0 + $iu * 16u + lane % 4u * 2u;
    let turn_$i = turn_of(row_$i, head, warp * 16u + lane / 4u);
#endfor
#endif
#if END == residual
    let column = params.first + n0 + warp_n;
#for j in 0..FRAGS_N
    let gain_$j = vec2<f32>(gain[column + $ju * 16u + lane / 4u], gain[column + $ju * 16u + lane / 4u + 8u]);
#endfor
#endif
#if BIAS
#if END == gated
    let biased_column = (params.first + n0 + warp_n) / 2u + lane / 4u;
#endif
#if END == rotary
    let biased_column = params.first + n0 + warp * 16u + lane / 4u;
#endif
#if BIAS_IN_TURN
    let biased_column = params.first + n0 + warp_n + lane / 4u;
#endif
#for j in 0..FRAGS_N
#if END == gated
    let bias_at_$j = biased_column + $ju * out_stride;
#endif
#if END == rotary
    let bias_at_$j = biased_column + $ju * (HEAD_DIM / 2u);
#endif
#if BIAS_IN_TURN
    let bias_at_$j = biased_column + $ju * 16u;
#endif
#if END == sums
    // Of one of the splits.
    let bias_$j = select(vec2<f32>(0.0), vec2<f32>(bias[bias_at_$j], bias[bias_at_$j + 8u]), group.z == 0u);
#else
    let bias_$j = vec2<f32>(bias[bias_at_$j], bias[bias_at_$j + 8u]);
#endif
#endfor
#endif
#if ADDS
    let out_row = m0 * out_stride + params.first + n0 + warp_n;
#for i in 0..FRAGS_M
#for j in 0..FRAGS_N
    let to_$i_$j = out_row + $iu * 16u * out_stride + $ju * 16u;
#if MEETS
    let before_$i_$j = coopLoad<coop_mat16x16<f32, C>>(&out[to_$i_$j], out_stride);
#endif
#endfor
#endfor
#endif
#if DEPTH == 1
#else
    let share = warp * (FRAGS_N * 64u) + lane;
#for i in 0..FRAGS_M
    workgroupBarrier();
    if level > 0u {
#for j in 0..FRAGS_N
        hand_over(acc_$i_$j, (level - 1u) * LEVEL + share + $ju * 64u);
#endfor
    }
    workgroupBarrier();
    if level == 0u {
#for d in 1..DEPTH
#for j in 0..FRAGS_N
        acc_$i_$j = with_another(acc_$i_$j, ($du - 1u) * LEVEL + share + $ju * 64u);
#endfor
#endfor
    }
#endfor
#endif
#if MEET
    let tile = group.y * groups.x + group.x;
    let down = (tile * SPLITS * WARPS + warp) * SUMS + lane;
    if level == 0u {
#for i in 0..FRAGS_M
#for j in 0..FRAGS_N
        put_down(acc_$i_$j, down + group.z * WARPS * SUMS + ($iu * FRAGS_N + $ju) * 64u);
#endfor
#endfor
    }
    storageBarrier();
    if thread == 0u {
        arrived.x = atomicAdd(&counters[tile], 1u);
    }
    if workgroupUniformLoad(&arrived).x != SPLITS - 1u {
        return;
    }
    if thread == 0u {
        atomicStore(&counters[tile], 0u);
    }
    storageBarrier();
#for i in 0..FRAGS_M
#for j in 0..FRAGS_N
    acc_$i_$j = taken_up(down + ($iu * FRAGS_N + $ju) * 64u);
#endfor
#endfor
#for s in 1..SPLITS
#for i in 0..FRAGS_M
#for j in 0..FRAGS_N
    acc_$i_$j = acc_$i_$j + taken_up(down + $su * WARPS * SUMS + ($iu * FRAGS_N + $ju) * 64u);
#endfor
#endfor
#endfor
#endif
    // The first of DEPTH has the sums and ends the product.
    if level == 0u {
#if NORMED == 0
#else
#for i in 0..FRAGS_M
#for j in 0..FRAGS_N
        acc_$i_$j = by_rows(acc_$i_$j, $iu * 16u + lane % 4u * 2u);
#endfor
#endfor
#endif
#if BIAS
#for i in 0..FRAGS_M
#for j in 0..FRAGS_N
        acc_$i_$j = biased(acc_$i_$j, bias_$j);
#endfor
#endfor
#endif
#if END == gated
        let out_row = m0 * out_stride + (params.first + n0 + warp_n) / 2u;
#for i in 0..FRAGS_M
        let to_$i = out_row + $iu * 16u * out_stride;
        let gated_$i = gated(acc_$i_0, acc_$i_1);
        coopStore(gated_$i, &out[to_$i], out_stride);
#endfor
#endif
#if END == plain
        let out_row = m0 * out_stride + params.first + n0 + warp_n;
#for i in 0..FRAGS_M
#for j in 0..FRAGS_N
        let to_$i_$j = out_row + $iu * 16u * out_stride + $ju * 16u;
        let activated_$i_$j = activated_halves(acc_$i_$j);
        coopStore(activated_$i_$j, &out[to_$i_$j], out_stride);
#endfor
#endfor
#endif
#if END == sums
        let out_row = group.z * params.extra + m0 * out_stride + params.first + n0 + warp_n;
#for i in 0..FRAGS_M
#for j in 0..FRAGS_N
        let to_$i_$j = out_row + $iu * 16u * out_stride + $ju * 16u;
        coopStore(acc_$i_$j, &out[to_$i_$j], out_stride);
#endfor
#endfor
#endif
#if ADDS
#for i in 0..FRAGS_M
#for j in 0..FRAGS_N
#if MEETS
#else
        let before_$i_$j = coopLoad<coop_mat16x16<f32, C>>(&out[to_$i_$j], out_stride);
#endif
        acc_$i_$j = acc_$i_$j + before_$i_$j;
        coopStore(acc_$i_$j, &out[to_$i_$j], out_stride);
#endfor
#endfor
#endif
#if END == rotary
#for i in 0..FRAGS_M
#if HEAD_NORM
        let squares_$i = summed_over_rows(squared(acc_$i_0) + squared(acc_$i_1));
        share_squares(squares_$i, lane, warp * TILE_M + $iu * 16u);
#else
        put_turned(acc_$i_0, acc_$i_1, row_$i, turn_$i, head, warp * 16u + lane / 4u);
#endif
#endfor
#endif
#if END == residual
#for i in 0..FRAGS_M
        var squares_$i = vec4<f32>(0.0);
#for j in 0..FRAGS_N
        let normed_$i_$j = weighed(acc_$i_$j, gain_$j);
        coopStore(normed_$i_$j, &normed[to_$i_$j], out_stride);
        squares_$i += squared(acc_$i_$j);
#endfor
        squares_$i = summed_over_rows(squares_$i);
        share_squares(squares_$i, lane, warp * TILE_M + $iu * 16u);
#endfor
#endif
    }
#if END == residual
    workgroupBarrier();
    if thread < TILE_M {
        var sum = shares[thread];
#for w in 1..WARPS
        sum += shares[$wu * TILE_M + thread];
#endfor
        squares[(m0 + thread) * (out_stride / TILE_N) + (params.first + n0) / TILE_N] = sum;
    }
#endif
#if HEAD_NORM
    workgroupBarrier();
    if level == 0u {
#for i in 0..FRAGS_M
        let factors_$i = head_factors($iu * 16u + lane % 4u * 2u, head);
        let gains_$i = head_gains(head, warp * 16u + lane / 4u);
        acc_$i_0 = head_normed(acc_$i_0, factors_$i, gains_$i.xy);
        acc_$i_1 = head_normed(acc_$i_1, factors_$i, gains_$i.zw);
        put_turned(acc_$i_0, acc_$i_1, row_$i, turn_$i, head, warp * 16u + lane / 4u);
#endfor
    }
#endif
}
