// Linear layer on matrix units: out[split] = x * weights^T over the split's share of the inner
// dimension; whoever reads out sums the splits. f16 in, f32 accumulation; int8 and int4 weights become
// f16 in registers.
//
// weights, binding 0: `part_rows` x 8 `cols8` in the order of fragments (`reorder.wgsl`)
// x   [rows, cols] f16, binding 1
// out [splits, split_stride / out_stride rows, out_stride] f32, binding 2, with RESIDUAL added to; with SWIGLU f16
//     and half as many columns: weights come as 16 rows of the gate, 16 rows of the other factor and so on.
// x and out have room for whole tiles of rows; what lies past the pass's rows is computed and means
// nothing. part_rows is a multiple of TILE_N and each split of the inner dimension one of TILE_K.
// Workgroup (m tile, n tile, split).
//
// A workgroup of WARPS subgroups of 32 computes TILE_M x TILE_N, TILE_K columns a stage; each subgroup has all the
// rows and weights of its own. These go from memory into the registers that multiply them, and are loaded anew as
// soon as they are used. Only x passes through workgroup memory, of which a multiprocessor has so little that
// tiles of weights beside it would leave room for one workgroup. Rows of x are padded by 16 bytes, so that
// the eight rows that a matrix load reads at a time lie in different banks. Workgroups that share weights follow
// each other, so that the weights are read from memory once.

struct Params {
    cols8: u32,        // inner dimension / 8
    part_rows: u32,
    first: u32,        // output column of the part's first row
    out_stride: u32,
    split_cols8: u32,  // inner dimension of a split / 8
    split_stride: u32, // elements of a split's output
    over_selected: u32,
    first_row: u32,    // row of the part that workgroup 0 begins with
}

#include "packed_halves"
#include "fragments"
#if SWIGLU
#include "saturated"
#endif
#include "pass"

@group(0) @binding(0) var<storage, read> weights: array<vec4<u32>>;
// Eight f16 an element.
@group(0) @binding(1) var<storage, read> x: array<vec4<u32>>;
#if SWIGLU
@group(0) @binding(2) var<storage, read_write> out: array<f16>;
#else
@group(0) @binding(2) var<storage, read_write> out: array<f32>;
#endif

const THREADS: u32 = WARPS * 32u;
// A row of x in workgroup memory.
const PITCH: u32 = TILE_K / 4u + 2u;
// Elements of x in a row of a stage; an invocation takes one, and again every X_ROWS rows.
const X_UNITS: u32 = TILE_K / 8u;
const X_ROWS: u32 = THREADS / X_UNITS;
// Elements of weights of a stage, for 16 rows and all invocations of a subgroup.
const W_STAGE: u32 = VECTORS * 32u;

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
#if SWIGLU

// silu(gate) * up, element by element.
fn gated(gate: coop_mat16x16<f32, C>, up: coop_mat16x16<f32, C>) -> coop_mat16x16<f16, C> {
    var factor: coop_mat16x16<f32, C> = gate;
    var factor_elements: array<f32, 8>;
    var other: coop_mat16x16<f32, C> = up;
    var other_elements: array<f32, 8>;
    var matrix: coop_mat16x16<f16, C>;
    var matrix_elements: array<f16, 8>;
#for i in 0..4
    let gate_$i = vec2<f32>(factor_elements[2u * $iu], factor_elements[2u * $iu + 1u]);
    let up_$i = vec2<f32>(other_elements[2u * $iu], other_elements[2u * $iu + 1u]);
    let two_$i = vec2<f16>(saturated(gate_$i / (1.0 + exp(-gate_$i)) * up_$i));
    matrix_elements[2u * $iu] = two_$i.x;
    matrix_elements[2u * $iu + 1u] = two_$i.y;
#endfor
    return matrix;
}
#endif

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let m0 = group.x * TILE_M;
    if m0 >= select(pass_info.rows, pass_info.selected, params.over_selected == 1u) {
        return;
    }
    let n0 = group.y * TILE_N;
    let warp = thread / 32u;
    let lane = thread % 32u;
    let warp_n = warp * (FRAGS_N * 16u);
    let stages = params.split_cols8 / X_UNITS;

    let x_put = thread / X_UNITS * PITCH + thread % X_UNITS * 2u;
    let x_step = X_ROWS * params.cols8;
    var x_at = (m0 + thread / X_UNITS) * params.cols8 + group.z * params.split_cols8 + thread % X_UNITS;
    // Elements of weights of 16 rows.
    let w_rows = params.cols8 / 2u / PER_VECTOR * 32u;
    let n16 = (params.first_row + n0 + warp_n) / 16u;
    let split_stage = group.z * stages;
#if SCALED
    // An element has an invocation's scales for 128 columns.
    let scales = params.part_rows / 16u * w_rows;
#endif
#for j in 0..FRAGS_N
    var w_at_$j = (n16 + $ju) * w_rows + split_stage * W_STAGE + lane;
#for v in 0..VECTORS
    var w_$j_$v = weights[w_at_$j + $vu * 32u];
#endfor
#if SCALED
    let s_from_$j = scales + (n16 + $ju) * (params.cols8 / 2u) + lane / 4u;
    var s_$j = weights[s_from_$j + split_stage * TILE_K / 128u * 8u];
#endif
#endfor
#for i in 0..X_EACH
    var x_$i = x[x_at + $iu * x_step];
#endfor
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
        w_at_$j += select(0u, W_STAGE, more);
#if SCALED
#if TILE_K == 64
        let scales_$j = select(s_$j.xy, s_$j.zw, stage % 2u == 1u);
#else
        let scales_$j = s_$j;
#endif
        s_$j = weights[s_from_$j + (split_stage + select(stage, stage + 1u, more)) * TILE_K / 128u * 8u];
#endif
#endfor
#for v in 0..VECTORS
#for p in 0..PER_VECTOR
        let from_$v_$p = ($vu * PER_VECTOR + $pu) * 4u;
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
#endfor
#endfor
    }

    // The product was taken as weights * x^T, so its columns are rows of out.
    let out_stride = params.out_stride;
    let out_row = group.z * params.split_stride + m0 * out_stride + params.first;
#for i in 0..FRAGS_M
#if SWIGLU
    let to_$i = out_row + $iu * 16u * out_stride + (n0 + warp_n) / 2u;
    let gated_$i = gated(acc_$i_0, acc_$i_1);
    coopStore(gated_$i, &out[to_$i], out_stride);
#else
#for j in 0..FRAGS_N
    let to_$i_$j = out_row + $iu * 16u * out_stride + n0 + warp_n + $ju * 16u;
#if RESIDUAL
    let before_$i_$j = coopLoad<coop_mat16x16<f32, C>>(&out[to_$i_$j], out_stride);
    acc_$i_$j = acc_$i_$j + before_$i_$j;
#endif
    coopStore(acc_$i_$j, &out[to_$i_$j], out_stride);
#endfor
#endif
#endfor
}
