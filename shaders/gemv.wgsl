// Linear layer for a few rows: out[:, first ..] = x * weights^T, or += with RESIDUAL. Reads each weight
// once, in 16-byte loads where the format allows. f32 in, any weight format, f32 accumulation. NORM and
// SWIGLU as in gemm.
//
// weights [part_rows, cols], binding 0   x [m, cols] f32, binding 1   out [m, out_stride] f32, binding 2
// m, at most ROWS, is how many of the pass's rows params.over says.
// cols % 8 == 0. Workgroup (tile of TILE_N columns).

#include "linear_params"
#include "pass"
#include "weights"
#include "gemv_tile"

@group(0) @binding(2) var<storage, read_write> out: array<f32>;

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let m = rows_over(params.over);
    let n0 = group.x * TILE_N;
    var product = few_rows_product(m, n0, lane);
#if SWIGLU
    let columns = params.part_rows / 2u;
    product *= few_rows_product(m, n0 + columns, lane) / (1.0 + exp(-product));
#else
    let columns = params.part_rows;
#endif
    let row = lane / TILE_N;
    let col = n0 + lane % TILE_N;
    if row < m && lane < TILE_N * ROWS && col < columns {
        let at = row * params.out_stride + params.first + col;
#if RESIDUAL
        out[at] += product;
#else
        out[at] = product;
#endif
    }
}
