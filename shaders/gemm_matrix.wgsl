// Linear layer on matrix units: out[split] = x * weights^T over the split's share of the inner
// dimension; whoever reads out sums the splits. f16 in, f32 accumulation; int8 and int4 weights become
// f16 on their way into workgroup memory.
//
// weights [part_rows, cols], binding 0           x [rows, cols] f16, binding 1
// out     [splits, split_stride / out_stride rows, out_stride] f32, binding 2
// x and out have room for whole tiles of rows; what lies past the pass's rows is computed and means
// nothing. part_rows is a multiple of TILE_N and each split of the inner dimension one of TILE_K.
// Workgroup (m tile, n tile, split).
//
// A workgroup of WARPS_M x WARPS_N subgroups of 32 computes TILE_M x TILE_N, TILE_K columns a stage. While a
// stage is multiplied the loads of the next DEPTH are under way, in registers. Rows in workgroup memory are
// padded by 16 bytes, so that the eight rows that a matrix load reads at a time lie in different banks.
// Workgroups that share weights follow each other, so that the weights are read from memory once.

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
#include "pass"

// f16, or blocks of 32 quants in one element (int4) or two (int8), then their f16 scales. Whole vectors of 16
// bytes, because only those are sure to be loaded by one instruction.
@group(0) @binding(0) var<storage, read> weights: array<vec4<u32>>;
// Eight f16 an element.
@group(0) @binding(1) var<storage, read> x: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;

const THREADS: u32 = WARPS_M * WARPS_N * 32u;
const PITCH: u32 = TILE_K / 4u + 2u;
// Elements of x in a row of a stage; an invocation takes one, and again every X_ROWS rows.
const X_UNITS: u32 = TILE_K / 8u;
const X_ROWS: u32 = THREADS / X_UNITS;
// The same of the weights, which have IN_ELEMENT of them in an element.
const W_UNITS: u32 = TILE_K / IN_ELEMENT;
const W_ROWS: u32 = THREADS / W_UNITS;

var<workgroup> tile_x: array<vec4<f16>, TILE_M * PITCH>;
var<workgroup> tile_w: array<vec4<f16>, TILE_N * PITCH>;

#if SCALED
// Two scales, one of them that of the block of an element.
fn scales_of(element: u32) -> u32 {
    let block = element / (32u / IN_ELEMENT);
    return weights[params.part_rows * (params.cols8 * 8u / IN_ELEMENT) + (block >> 3u)][(block >> 1u) & 3u];
}

// The scale of the block of an element, of two.
fn scale_of(two: u32, element: u32) -> f16 {
    let block = element / (32u / IN_ELEMENT);
    return two_halves(two >> ((block & 1u) << 4u)).x;
}

#endif
// Four int8. A byte b + 128 in the low bits of f16 1024 is 1152 + b.
fn int8(word: u32) -> vec4<f16> {
    let biased = word ^ 0x80808080u;
    let even = two_halves((biased & 0x00FF00FFu) | 0x64006400u);
    let odd = two_halves(((biased >> 8u) & 0x00FF00FFu) | 0x64006400u);
    return vec4<f16>(even.x, odd.x, even.y, odd.y) - 1152.0h;
}

// Four int4 from the low nibbles of a word's bytes. A nibble q in the low bits of f16 1024 is 1024 + q,
// and stands for q - 8.
fn int4(word: u32) -> vec4<f16> {
    let even = two_halves((word & 0x000F000Fu) | 0x64006400u);
    let odd = two_halves(((word >> 8u) & 0x000F000Fu) | 0x64006400u);
    return vec4<f16>(even.x, odd.x, even.y, odd.y) - 1032.0h;
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let m0 = group.x * TILE_M;
    if m0 >= select(pass_info.rows, pass_info.selected, params.over_selected == 1u) {
        return;
    }
    let n0 = group.y * TILE_N;
    let warp = lane / 32u;
    let warp_m = warp % WARPS_M * (FRAGS_M * 16u);
    let warp_n = warp / WARPS_M * (FRAGS_N * 16u);
    let stages = params.split_cols8 * 8u / TILE_K;

    let x_row = lane / X_UNITS;
    let x_unit = lane % X_UNITS;
    let x_put = x_row * PITCH + x_unit * 2u;
    let x_step = X_ROWS * params.cols8;
    var x_at = (m0 + x_row) * params.cols8 + group.z * params.split_cols8 + x_unit;
    let w_row = lane / W_UNITS;
    let w_unit = lane % W_UNITS;
    let w_put = w_row * PITCH + w_unit * (IN_ELEMENT / 4u);
    let w_cols = params.cols8 * 8u / IN_ELEMENT;
    let w_step = W_ROWS * w_cols;
    var w_at = (params.first_row + n0 + w_row) * w_cols + group.z * (params.split_cols8 * 8u / IN_ELEMENT) + w_unit;

#for i in 0..FRAGS_M
#for j in 0..FRAGS_N
    var acc_$i_$j: coop_mat16x16<f32, C>;
#endfor
#endfor
#for d in 0..DEPTH
#for i in 0..X_EACH
    var x_$d_$i = x[x_at + $iu * x_step];
#endfor
#for i in 0..W_EACH
    var w_$d_$i = weights[w_at + $iu * w_step];
#if SCALED
    var scales_$d_$i = scales_of(w_at + $iu * w_step);
#endif
#endfor
    x_at += X_UNITS;
    w_at += W_UNITS;
#endfor

    for (var stage = 0u; stage < stages; stage += DEPTH) {
#for d in 0..DEPTH
        workgroupBarrier();
#for i in 0..X_EACH
        tile_x[x_put + $iu * X_ROWS * PITCH] = four_halves(x_$d_$i.xy);
        tile_x[x_put + $iu * X_ROWS * PITCH + 1u] = four_halves(x_$d_$i.zw);
#endfor
#for i in 0..W_EACH
        {
            let to = w_put + $iu * W_ROWS * PITCH;
            let w = w_$d_$i;
#if WEIGHT == f16
            tile_w[to] = four_halves(w.xy);
            tile_w[to + 1u] = four_halves(w.zw);
#endif
#if SCALED
            let scale = scale_of(scales_$d_$i, w_at + $iu * w_step - DEPTH * W_UNITS);
#endif
#if WEIGHT == q8
            tile_w[to] = int8(w.x) * scale;
            tile_w[to + 1u] = int8(w.y) * scale;
            tile_w[to + 2u] = int8(w.z) * scale;
            tile_w[to + 3u] = int8(w.w) * scale;
#endif
#if WEIGHT == q4
            // The low nibbles are the block's first 16 weights, the high ones the others.
            tile_w[to] = int4(w.x) * scale;
            tile_w[to + 1u] = int4(w.y) * scale;
            tile_w[to + 2u] = int4(w.z) * scale;
            tile_w[to + 3u] = int4(w.w) * scale;
            tile_w[to + 4u] = int4(w.x >> 4u) * scale;
            tile_w[to + 5u] = int4(w.y >> 4u) * scale;
            tile_w[to + 6u] = int4(w.z >> 4u) * scale;
            tile_w[to + 7u] = int4(w.w >> 4u) * scale;
#endif
        }
#endfor
        workgroupBarrier();
        if stage + $du + DEPTH < stages {
#for i in 0..X_EACH
            x_$d_$i = x[x_at + $iu * x_step];
#endfor
#for i in 0..W_EACH
            w_$d_$i = weights[w_at + $iu * w_step];
#if SCALED
            scales_$d_$i = scales_of(w_at + $iu * w_step);
#endif
#endfor
        }
        x_at += X_UNITS;
        w_at += W_UNITS;
        {
#for s in 0..STEPS
#for i in 0..FRAGS_M
            let from_x_$s_$i = (warp_m + $iu * 16u) * PITCH + $su * 4u;
            let a_$s_$i = coopLoad<coop_mat16x16<f16, B>>(&tile_x[from_x_$s_$i], PITCH);
#endfor
#for j in 0..FRAGS_N
            let from_w_$s_$j = (warp_n + $ju * 16u) * PITCH + $su * 4u;
            let b_$s_$j = coopLoadT<coop_mat16x16<f16, A>>(&tile_w[from_w_$s_$j], PITCH);
#for i in 0..FRAGS_M
            acc_$i_$j = coopMultiplyAdd(b_$s_$j, a_$s_$i, acc_$i_$j);
#endfor
#endfor
#endfor
        }
#endfor
    }

    // The product was taken as weights * x^T, so its columns are rows of out.
    let out_stride = params.out_stride;
#for i in 0..FRAGS_M
#for j in 0..FRAGS_N
    let to_$i_$j = group.z * params.split_stride + (m0 + warp_m + $iu * 16u) * out_stride + params.first + n0 + warp_n + $ju * 16u;
    coopStore(acc_$i_$j, &out[to_$i_$j], out_stride);
#endfor
#endfor
}
