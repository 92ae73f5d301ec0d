// Linear layer on matrix units: out[split] = x * weights^T over the split's share of the inner
// dimension; whoever reads out sums the splits. f16 in, f32 accumulation; int8 and int4 weights become
// f16 on their way into workgroup memory.
//
// weights [part_rows, cols], binding 0           x [rows, cols] f16, binding 1
// out     [splits, split_stride / out_stride rows, out_stride] f32, binding 2
// x and out have room for whole tiles of rows; what lies past the pass's rows is computed and means
// nothing. part_rows is a multiple of TILE_N and each split of the inner dimension one of TILE_K.
// Workgroup (n tile, m tile, split).
//
// A workgroup of WARPS_M x WARPS_N subgroups of 32 computes TILE_M x TILE_N, TILE_K columns a stage;
// while a stage is multiplied the next one's loads are under way. Rows in workgroup memory are padded by
// 16 bytes, so that the eight rows that a matrix load reads at a time lie in different banks.

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

#include "pass"

// Eight f16 that lie next to each other.
struct Half8 {
    low: vec4<f16>,
    high: vec4<f16>,
}

#if WEIGHT == f16
@group(0) @binding(0) var<storage, read> weights: array<Half8>;
#else
// Blocks of 32 quants, two elements each for int8 and one for int4, then their f16 scales.
@group(0) @binding(0) var<storage, read> weights: array<vec4<u32>>;
#endif
@group(0) @binding(1) var<storage, read> x: array<Half8>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;

const THREADS: u32 = WARPS_M * WARPS_N * 32u;
// Groups of eight in a row of a stage; an invocation takes one, and again every STEP_ROWS rows.
const UNITS: u32 = TILE_K / 8u;
const STEP_ROWS: u32 = THREADS / UNITS;
const PITCH: u32 = TILE_K / 4u + 2u;
#if WEIGHT == f16
#else
// Blocks in a row of a stage, taken like groups; groups of eight weights in an element of `weights`.
const BLOCKS: u32 = TILE_K / 32u;
const BLOCK_ROWS: u32 = THREADS / BLOCKS;
#if WEIGHT == q8
const QUANTS: u32 = 2u;
#else
const QUANTS: u32 = 4u;
#endif
#endif

var<workgroup> tile_x: array<vec4<f16>, TILE_M * PITCH>;
var<workgroup> tile_w: array<vec4<f16>, TILE_N * PITCH>;

fn halves(bits: u32) -> vec2<f16> {
    return vec2<f16>(unpack2x16float(bits));
}

// The scale of a block, of the eight that lie in one element.
fn scale_of(eight: vec4<u32>, block: u32) -> f16 {
    let two = halves(eight[(block >> 1u) & 3u]);
    return select(two.x, two.y, (block & 1u) == 1u);
}

// Four int8. A byte b + 128 in the low bits of f16 1024 is 1152 + b.
fn int8(word: u32) -> vec4<f16> {
    let biased = word ^ 0x80808080u;
    let even = halves((biased & 0x00FF00FFu) | 0x64006400u);
    let odd = halves(((biased >> 8u) & 0x00FF00FFu) | 0x64006400u);
    return vec4<f16>(even.x, odd.x, even.y, odd.y) - 1152.0h;
}

// Four int4 from the low nibbles of a word's bytes. A nibble q in the low bits of f16 1024 is 1024 + q,
// and stands for q - 8.
fn int4(word: u32) -> vec4<f16> {
    let even = halves((word & 0x000F000Fu) | 0x64006400u);
    let odd = halves(((word >> 8u) & 0x000F000Fu) | 0x64006400u);
    return vec4<f16>(even.x, odd.x, even.y, odd.y) - 1032.0h;
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let m0 = group.y * TILE_M;
    if m0 >= select(pass_info.rows, pass_info.selected, params.over_selected == 1u) {
        return;
    }
    let n0 = group.x * TILE_N;
    let warp = lane / 32u;
    let warp_m = warp % WARPS_M * (FRAGS_M * 16u);
    let warp_n = warp / WARPS_M * (FRAGS_N * 16u);
    let stages = params.split_cols8 / UNITS;

    let unit_row = lane / UNITS;
    let unit = lane % UNITS;
    let store_x = unit_row * PITCH + unit * 2u;
    let step = STEP_ROWS * params.cols8;
    var at_x = (m0 + unit_row) * params.cols8 + group.z * params.split_cols8 + unit;
#if WEIGHT == f16
    let store_w = store_x;
    var at_w = (params.first_row + n0 + unit_row) * params.cols8 + group.z * params.split_cols8 + unit;
#else
    let block_row = lane / BLOCKS;
    let store_w = block_row * PITCH + lane % BLOCKS * 8u;
    let block_step = BLOCK_ROWS * params.cols8 / 4u;
    var at_w = ((params.first_row + n0 + block_row) * params.cols8 + group.z * params.split_cols8) / 4u + lane % BLOCKS;
    let scales = params.part_rows * params.cols8 / QUANTS;
#endif

#for i in 0..FRAGS_M
#for j in 0..FRAGS_N
    var acc_$i_$j: coop_mat16x16<f32, C>;
#endfor
#endfor
#for i in 0..X_EACH
    var next_x_$i = x[at_x + $iu * step];
#endfor
#for i in 0..W_EACH
#if WEIGHT == f16
    var next_w_$i = weights[at_w + $iu * step];
#else
    var scale_$i = weights[scales + ((at_w + $iu * block_step) >> 3u)];
#if WEIGHT == q8
    var next_w_$i = weights[(at_w + $iu * block_step) * 2u];
    var more_w_$i = weights[(at_w + $iu * block_step) * 2u + 1u];
#else
    var next_w_$i = weights[at_w + $iu * block_step];
#endif
#endif
#endfor

    for (var stage = 0u; stage < stages; stage++) {
        workgroupBarrier();
#for i in 0..X_EACH
        tile_x[store_x + $iu * STEP_ROWS * PITCH] = next_x_$i.low;
        tile_x[store_x + $iu * STEP_ROWS * PITCH + 1u] = next_x_$i.high;
#endfor
#for i in 0..W_EACH
#if WEIGHT == f16
        tile_w[store_w + $iu * STEP_ROWS * PITCH] = next_w_$i.low;
        tile_w[store_w + $iu * STEP_ROWS * PITCH + 1u] = next_w_$i.high;
#endif
#if WEIGHT == q8
        {
            let scale = scale_of(scale_$i, at_w + $iu * block_step);
            let to = store_w + $iu * BLOCK_ROWS * PITCH;
            tile_w[to] = int8(next_w_$i.x) * scale;
            tile_w[to + 1u] = int8(next_w_$i.y) * scale;
            tile_w[to + 2u] = int8(next_w_$i.z) * scale;
            tile_w[to + 3u] = int8(next_w_$i.w) * scale;
            tile_w[to + 4u] = int8(more_w_$i.x) * scale;
            tile_w[to + 5u] = int8(more_w_$i.y) * scale;
            tile_w[to + 6u] = int8(more_w_$i.z) * scale;
            tile_w[to + 7u] = int8(more_w_$i.w) * scale;
        }
#endif
#if WEIGHT == q4
        {
            // The low nibbles are the block's first 16 weights, the high ones the others.
            let scale = scale_of(scale_$i, at_w + $iu * block_step);
            let to = store_w + $iu * BLOCK_ROWS * PITCH;
            tile_w[to] = int4(next_w_$i.x) * scale;
            tile_w[to + 1u] = int4(next_w_$i.y) * scale;
            tile_w[to + 2u] = int4(next_w_$i.z) * scale;
            tile_w[to + 3u] = int4(next_w_$i.w) * scale;
            tile_w[to + 4u] = int4(next_w_$i.x >> 4u) * scale;
            tile_w[to + 5u] = int4(next_w_$i.y >> 4u) * scale;
            tile_w[to + 6u] = int4(next_w_$i.z >> 4u) * scale;
            tile_w[to + 7u] = int4(next_w_$i.w >> 4u) * scale;
        }
#endif
#endfor
        workgroupBarrier();
        // The last stage is loaded once more, which costs less than a branch around the loads.
        let more = stage + 1u < stages;
        at_x += select(0u, UNITS, more);
#for i in 0..X_EACH
        next_x_$i = x[at_x + $iu * step];
#endfor
#if WEIGHT == f16
        at_w += select(0u, UNITS, more);
#else
        at_w += select(0u, BLOCKS, more);
#endif
#for i in 0..W_EACH
#if WEIGHT == f16
        next_w_$i = weights[at_w + $iu * step];
#else
        scale_$i = weights[scales + ((at_w + $iu * block_step) >> 3u)];
#if WEIGHT == q8
        next_w_$i = weights[(at_w + $iu * block_step) * 2u];
        more_w_$i = weights[(at_w + $iu * block_step) * 2u + 1u];
#else
        next_w_$i = weights[at_w + $iu * block_step];
#endif
#endif
#endfor
#for s in 0..STEPS
#for i in 0..FRAGS_M
        let from_x_$s_$i = (warp_m + $iu * 16u) * PITCH + $su * 4u;
        let x_$s_$i = coopLoad<coop_mat16x16<f16, B>>(&tile_x[from_x_$s_$i], PITCH);
#endfor
#for j in 0..FRAGS_N
        let from_w_$s_$j = (warp_n + $ju * 16u) * PITCH + $su * 4u;
        let w_$s_$j = coopLoadT<coop_mat16x16<f16, A>>(&tile_w[from_w_$s_$j], PITCH);
#for i in 0..FRAGS_M
        acc_$i_$j = coopMultiplyAdd(w_$s_$j, x_$s_$i, acc_$i_$j);
#endfor
#endfor
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
