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
#endif
#if WEIGHT == q8
@group(0) @binding(0) var<storage, read> weights: array<vec2<u32>>;
#endif
#if WEIGHT == q4
@group(0) @binding(0) var<storage, read> weights: array<u32>;
#endif
@group(0) @binding(1) var<storage, read> x: array<Half8>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;

const THREADS: u32 = WARPS_M * WARPS_N * 32u;
// Groups of eight in a row of a stage; an invocation takes one, and again every STEP_ROWS rows.
const UNITS: u32 = TILE_K / 8u;
const STEP_ROWS: u32 = THREADS / UNITS;
const PITCH: u32 = TILE_K / 4u + 2u;

var<workgroup> tile_x: array<vec4<f16>, TILE_M * PITCH>;
var<workgroup> tile_w: array<vec4<f16>, TILE_N * PITCH>;

fn halves(bits: u32) -> vec2<f16> {
    return vec2<f16>(unpack2x16float(bits));
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
#if WEIGHT == q4
    // The low nibbles of a word are weights 4c .. 4c + 3 of its block of 32, the high ones 16 + 4c ..
    let store_w = unit_row * PITCH + unit / 4u * 8u + unit % 4u;
#else
    let store_w = store_x;
#endif
    let step = STEP_ROWS * params.cols8;
    var at_x = (m0 + unit_row) * params.cols8 + group.z * params.split_cols8 + unit;
    var at_w = (params.first_row + n0 + unit_row) * params.cols8 + group.z * params.split_cols8 + unit;
    // Scales lie behind the quants, two a word.
    let scales = params.part_rows * params.cols8;

#for i in 0..FRAGS_M
#for j in 0..FRAGS_N
    var acc_$i_$j: coop_mat16x16<f32, C>;
#endfor
#endfor
#for i in 0..X_EACH
    var next_x_$i = x[at_x + $iu * step];
#endfor
#for i in 0..W_EACH
    var next_w_$i = weights[at_w + $iu * step];
#if WEIGHT == q8
    var scale_$i = weights[scales + ((at_w + $iu * step) >> 4u)];
#endif
#if WEIGHT == q4
    var scale_$i = weights[scales + ((at_w + $iu * step) >> 3u)];
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
            let index = at_w + $iu * step;
            let words = select(scale_$i.x, scale_$i.y, (index & 8u) != 0u);
            let scale = select(halves(words).x, halves(words).y, (index & 4u) != 0u);
            // A byte b + 128 in the low bits of f16 1024 is 1152 + b.
            let biased = next_w_$i ^ vec2<u32>(0x80808080u);
            let even = vec4<f16>(halves((biased.x & 0x00FF00FFu) | 0x64006400u), halves((biased.y & 0x00FF00FFu) | 0x64006400u)) - 1152.0h;
            let odd = vec4<f16>(halves(((biased.x >> 8u) & 0x00FF00FFu) | 0x64006400u), halves(((biased.y >> 8u) & 0x00FF00FFu) | 0x64006400u)) - 1152.0h;
            tile_w[store_w + $iu * STEP_ROWS * PITCH] = vec4<f16>(even.x, odd.x, even.y, odd.y) * scale;
            tile_w[store_w + $iu * STEP_ROWS * PITCH + 1u] = vec4<f16>(even.z, odd.z, even.w, odd.w) * scale;
        }
#endif
#if WEIGHT == q4
        {
            let scale = select(halves(scale_$i).x, halves(scale_$i).y, ((at_w + $iu * step) & 4u) != 0u);
            // A nibble q in the low bits of f16 1024 is 1024 + q, and stands for q - 8.
            let even = vec4<f16>(halves((next_w_$i & 0x000F000Fu) | 0x64006400u), halves(((next_w_$i >> 4u) & 0x000F000Fu) | 0x64006400u)) - 1032.0h;
            let odd = vec4<f16>(halves(((next_w_$i >> 8u) & 0x000F000Fu) | 0x64006400u), halves(((next_w_$i >> 12u) & 0x000F000Fu) | 0x64006400u)) - 1032.0h;
            tile_w[store_w + $iu * STEP_ROWS * PITCH] = vec4<f16>(even.x, odd.x, even.y, odd.y) * scale;
            tile_w[store_w + $iu * STEP_ROWS * PITCH + 4u] = vec4<f16>(even.z, odd.z, even.w, odd.w) * scale;
        }
#endif
#endfor
        workgroupBarrier();
        // The last stage is loaded once more, which costs less than a branch around the loads.
        let ahead = select(0u, UNITS, stage + 1u < stages);
        at_x += ahead;
        at_w += ahead;
#for i in 0..X_EACH
        next_x_$i = x[at_x + $iu * step];
#endfor
#for i in 0..W_EACH
        next_w_$i = weights[at_w + $iu * step];
#if WEIGHT == q8
        scale_$i = weights[scales + ((at_w + $iu * step) >> 4u)];
#endif
#if WEIGHT == q4
        scale_$i = weights[scales + ((at_w + $iu * step) >> 3u)];
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
